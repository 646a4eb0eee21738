"""One image and its registry: its manifest, other processes that ask for it, and its failures.

A hit by tag needs no more than this; `enroot_slurm.importing.image_builder` makes images.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Self, TypeVar

from enroot_slurm.cache.directory import unwritable
from enroot_slurm.cache.failures import Failures
from enroot_slurm.cache.hosts import HostNotes
from enroot_slurm.cache.job_tags import key_of, write_resolved, write_tag
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.manifests import write_document
from enroot_slurm.cache.rate import Rate
from enroot_slurm.cache.status import Work
from enroot_slurm.cache.turns import Turn
from enroot_slurm.errors import (
    AccessDenied,
    EnrootSlurmError,
    IntegrityError,
    NetworkError,
    NotFound,
    PlatformNotFound,
    UnsupportedImage,
    printable,
)
from enroot_slurm.importing.logins import credentials_of, state_of_logins
from enroot_slurm.importing.nobody import Nobody
from enroot_slurm.importing.tables import tables_of, warn_once
from enroot_slurm.oci.local import LocalImage
from enroot_slurm.progress import Progress, Relay, duration_text
from enroot_slurm.registry.client import Repository, Transport
from enroot_slurm.registry.endpoints import endpoints_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from enroot_slurm.archives.image import ArchivedImage
    from enroot_slurm.cache.blobs import BlobStore
    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.cache.status import Holder
    from enroot_slurm.importing.admission import Admission
    from enroot_slurm.importing.lookup import Lookup
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Manifest
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.oci.source import Source
    from enroot_slurm.registry.connections import Connections
    from enroot_slurm.registry.credentials import Credentials
    from enroot_slurm.registry.endpoints import Endpoint
    from enroot_slurm.settings.config import Config
    from enroot_slurm.trust.verdict import Verdict

__all__ = ["Resolution", "notes_of", "open_repository"]

_T = TypeVar("_T")

_REFRESH = 86400.0  # seconds after which it is noted again what a tag leads to


class Resolution:
    """The registry of the image that *lookup* is for, as a context manager, and turns with other processes."""

    def __init__(
        self,
        lookup: Lookup,
        config: Config,
        progress: Progress,
        connections: Connections | None = None,
        user: str = "",
        *,
        archive: ArchivedImage | None = None,
    ) -> None:
        self.lookup = lookup
        self.user = user
        """For whom the image is, where it may be for any user; else empty."""
        self.config = config
        self.progress = progress = _Shown(progress, Work(lookup.own.job))
        self.locks = Locks(
            lookup.own,
            enabled=config.locks,
            holder_timeout=config.worker_timeout,
            min_rate=config.min_rate,
            work=progress.work,
            tell=progress.tell,
        )
        self._archive = archive
        """Where the image is, if not in its registry."""
        self.repository: Source
        key = lookup.key
        if archive is not None:
            self.repository = archive
        elif isinstance(lookup.reference, LocalImage):
            from enroot_slurm.importing.archived import open_archive  # noqa: PLC0415 - most images are in registries

            self.repository = self._archive = open_archive(lookup.reference, lookup, config, progress)
            key = key_of(f"{lookup.reference} {lookup.reference.state}", str(lookup.platform))
        elif config.offline:
            self.repository = Nobody(lookup.shown)
        else:
            self.repository = open_repository(
                lookup.reference,
                config,
                progress.warn,
                tell=progress.detail,
                public=lookup.own.public,
                connections=connections,
                place=lookup.own,
                counted=progress.asked,
            )
        self._failures = Failures(lookup.own, key, partial(state_of_logins, config, public=lookup.own.public))
        self._rate = Rate(
            lookup.own,
            self.locks,
            config.user_rate,
            user=user,
            timeout=config.lock_timeout,
            waits=lambda: progress.phase("waiting: this user's jobs ask for many images (user_rate)"),
        )
        self._named: Digest | None = None
        """The document that the reference leads to, before a platform is picked, once it is known."""
        for text in (*config.doubts, *([lookup.warning] if lookup.warning else [])):
            progress.warn(text)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.repository.close()

    @property
    def provenance(self) -> str:
        """The URI that stands in the image."""
        if isinstance(self.lookup.reference, LocalImage):
            assert self._archive is not None
            return self._archive.provenance
        return self.lookup.reference.provenance

    @property
    def filename(self) -> str:
        """The default output of an image that is in no registry; empty where nothing names it."""
        return self._archive.filename if self._archive else ""

    def hand_over(self, manifest: Manifest, store: BlobStore) -> None:
        """Let *store* have the blobs of *manifest* that a stream has left in temporary files.  Raises: StorageError."""
        if self._archive is None:
            return
        for descriptor in (manifest.config, *manifest.layers):
            if (path := self._archive.take(descriptor.digest)) is not None:
                store.adopt(descriptor, path)

    def resolve(self) -> Digest:
        """The digest of the manifest that the reference names now, or named when its job asked first.

        Raises: NotFound, PlatformNotFound, AccessDenied, NetworkError, IntegrityError; ImageRefused, ConfigError.
        """
        self.progress.expect(0)  # it may have been told of another image before
        self.progress.converted(0)
        self.progress.advanced(0, 0)
        self.progress.phase(f"resolving {self.lookup.reference}")
        lookup, admission = self.lookup, self.lookup.admission()

        def admitted(digest: Digest) -> Digest:
            if admission is not None and not admission.is_known(digest):
                self.verify(admission, digest)
            return digest

        if not lookup.own.job:
            return self.remembering(lambda: admitted(self._ask_or_recall()))
        if (failure := self._failures.last(self.config.failure_ttl)) is not None:
            raise failure.error()
        if lookup.exact:
            return self.remembering(lambda: admitted(self._ask()))
        with self.turn(f"reference-{lookup.own.job}-{lookup.key}", lookup.resolved) as resolved:
            digest = resolved
            if digest is None:
                mine = self.remembering(lambda: admitted(self._ask_or_recall()))
                digest = write_resolved(lookup.own, lookup.key, lookup.shown, mine)
            # Another process may have been asked for less.
            return self.remembering(lambda: admitted(digest))

    def verify(self, admission: Admission, digest: Digest) -> Verdict:
        """The verdict on the image of the manifest *digest*, to which the reference leads, whatever is known of it.

        Raises: ImageRefused, ConfigError, AccessDenied, NetworkError.
        """
        self.progress.phase(f"verifying {self.lookup.reference}")
        return admission.verify(digest, self.named(), lambda index: self.manifest(index).digest, self.repository)

    def named(self) -> Digest | None:
        """The digest of the manifest or index that the reference names; None where the registry does not tell."""
        return self.lookup.exact or self._named or self.repository.head()

    def _ask_or_recall(self) -> Digest:
        """The registry's answer; when there is none, its last one, if the site wants that."""
        lookup = self.lookup
        if isinstance(lookup.reference, LocalImage):
            return self._ask()
        last = lookup.last_resolved()
        try:
            digest = self._ask()
        except NetworkError as error:
            if last is None or lookup.exact or lookup.image(last.digest) is None:
                raise
            age = f"{duration_text(max(0.0, time.time() - last.time))} ago"
            self._named = last.digest  # who wants it next must not ask either, nor be told of another image
            if self.config.offline:
                return last.digest
            if self.config.stale_tags or last.carried:
                why = "setting stale_tags" if self.config.stale_tags else "from cache import"
                self.progress.warn(f"{error.message}; using what {lookup.shown} was {age} ({why})")
                return last.digest
            pinned = f"docker://{lookup.reference.registry}#{lookup.reference.repository}@{last.digest}"
            hint = f"The cache has what it was {age}: name it as {pinned}, or set stale_tags: yes."
            raise type(error)(error.message, hint=f"{error.hint} {hint}".strip()) from None
        if not lookup.exact and (
            last is None or last.digest != digest or time.time() - last.time > _REFRESH or self.config.tag_ttl
        ):
            write_tag(lookup.own, lookup.key, digest, carried=self._archive is not None)
        return digest

    def remembering(self, call: Callable[[], _T]) -> _T:
        """Return the result of *call*; its error is remembered for others."""
        try:
            return call()
        except EnrootSlurmError as error:
            self._failures.note(error)
            raise

    @contextlib.contextmanager
    def turn(self, name: str, look: Callable[[], _T | None]) -> Iterator[_T | None]:
        """The finding of *look*; or None, while this process holds the lock *name*, or has waited for it long enough.

        When another process, for which this one has waited, has failed, that failure is this one's too.
        """
        turn = Turn(self.locks.lock(name), timeout=self.config.lock_timeout)
        before = self._failures.last()
        while True:
            try:
                with turn.attempt() as held:
                    found = look()
                    if held or found is not None:
                        failure = self._failures.last() if turn.waited and found is None else before
                        if failure is not None and failure != before:
                            raise failure.error()
                        yield found
                        return
            except OSError as error:
                raise unwritable(self.lookup.own.root, error) from None
            turn.pause()

    def _ask(self) -> Digest:
        self._rate.wait()
        digest = self._named = self.lookup.exact or self.repository.head()
        if digest is not None:
            if self.lookup.image(digest) is not None:
                return digest
            try:
                return self.manifest(digest).digest
            except (PlatformNotFound, UnsupportedImage):
                raise
            except (NotFound, AccessDenied, IntegrityError):
                if self.lookup.exact or self.lookup.local:
                    raise
                # HEAD has claimed what GET does not have: it is the tag that was asked for.
        return self.manifest(None).digest

    def manifest(self, digest: Digest | None) -> Manifest:
        """The manifest for the platform that *digest* is or leads to; without it, what the reference leads to now.

        Raises: NotFound, PlatformNotFound, AccessDenied, NetworkError, IntegrityError.
        """
        lookup = self.lookup

        def named(found: Digest) -> None:
            self._named = found

        return self.repository.resolve(
            lookup.platform,
            digest,
            known=lookup.document,
            known_config=lookup.image_config,
            keep=partial(write_document, lookup.own),
            named=named,
        )


def open_repository(
    reference: Reference,
    config: Config,
    warn: Callable[[str], None],
    *,
    tell: Callable[[str], None] = lambda _: None,
    public: bool,
    credentials: Credentials | None = None,
    connections: Connections | None = None,
    place: CacheDirectory | None = None,
    endpoints: Sequence[Endpoint] = (),
    counted: Callable[[str, str, int], None] = lambda *_: None,
) -> Repository:
    """The repository of *reference* and its mirrors (or *endpoints* alone), with *credentials*, or those that count.

    If all is to be *public*, those are the site's, and so are the mirrors.  *credentials* are for the primary alone.
    The processes of the cache *place* share what they learn of registries.
    """
    if not endpoints:
        tables, doubts = tables_of(config, public=public)
        for doubt in doubts:
            warn_once(doubt, warn)
        endpoints = endpoints_of(reference, tables)
    primary = endpoints[-1].reference
    credentials = credentials or credentials_of(primary.repository, config, warn, public=public)
    transport = Transport(
        connect_timeout=config.connect_timeout,
        transfer_timeout=config.transfer_timeout,
        import_timeout=config.import_timeout,
        min_rate=config.min_rate,
        retries=config.transfer_retries,
        max_connections=config.max_connections,
        parallel_ranges=config.parallel_ranges,
        allow_http=config.allow_http,
        insecure_registries=frozenset(config.insecure_registries),
        trusted_hosts=config.trusted_hosts,
        ca_file=config.ca_file,
        certs_dirs=tuple(Path(d) for d in config.certs_dirs),
    )
    return Repository(
        reference,
        credentials,
        transport,
        warn=warn,
        tell=tell,
        connections=connections,
        endpoints=endpoints,
        logins=partial(credentials_of, config=config, warn=warn, public=public, defaults=False),
        notes=None if place is None else notes_of(place, reference, config, public=public),
        counted=counted,
    )


def notes_of(place: CacheDirectory, reference: Reference, config: Config, *, public: bool) -> HostNotes:
    """What the processes of the cache *place* know of registries, for the login that *reference* is asked for with."""
    return HostNotes(place, lambda: f"{reference.user} {state_of_logins(config, public=public)}")


class _Shown(Relay):
    """Passes all on, and keeps what other processes are to know of this one."""

    def __init__(self, progress: Progress, work: Work) -> None:
        super().__init__(progress)
        self.work = work

    def phase(self, name: str) -> None:
        self.work.phase = name
        super().phase(name)

    def expect(self, size: int) -> None:
        self.work.expected = self.work.received + size
        super().expect(size)

    def received(self, count: int) -> None:
        self.work.received += count
        super().received(count)

    def advanced(self, done: int, total: int) -> None:
        self.work.done, self.work.total = done, total
        super().advanced(done, total)

    def tell(self, holder: Holder | None) -> None:
        """Say for whom this process waits, and how far that one is unless this one works as well."""
        self.waiting(_holder_text(holder))
        if holder is not None and not self.work.total:
            super().advanced(max(0, holder.done), max(0, holder.total))


def _holder_text(holder: Holder | None) -> str:
    if holder is None:
        return "waiting for another process"
    job = f"job {printable(holder.job, 32)}, " if holder.job else ""
    who = f"{printable(holder.host, 64)} ({printable(holder.user, 32)}, {job}pid {holder.pid})"
    age = max(0, int(time.time()) - holder.since)
    return f"waiting for {who}: {printable(holder.phase, 80)}, since {age} s"
