"""The repository of an image: a reference becomes a manifest, a descriptor becomes bytes.

It may be at several endpoints: mirrors are asked first, in order, and the primary last.  Whatever a mirror answers that
is of no use, the next one is asked; only the primary is asked again.  Each blob may come from another endpoint, because
caches lose single blobs, and bytes are compared with their digest wherever they are from.

Source: OCI distribution-spec 1.1, "Pull"; docs/registries.md.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar

from enroot_slurm.errors import (
    AccessDenied,
    EnrootSlurmError,
    IntegrityError,
    NetworkError,
    NotFound,
    RateLimited,
)
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import MAX_CONFIG, ImageConfig, stated_platform
from enroot_slurm.oci.manifest import Descriptor, parse_document
from enroot_slurm.oci.selection import select
from enroot_slurm.registry import referrers
from enroot_slurm.registry.connections import Connections
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.download import Download
from enroot_slurm.registry.endpoints import Endpoint
from enroot_slurm.registry.limits import Memory
from enroot_slurm.registry.ranges import Requests, read_parts
from enroot_slurm.registry.relay import BlobRelay, with_mirrors
from enroot_slurm.registry.retry import Passing, Retries, TooMany
from enroot_slurm.registry.server import Server, verify
from enroot_slurm.registry.streams import Streams
from enroot_slurm.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enroot_slurm.oci.manifest import Index, Manifest
    from enroot_slurm.oci.platform import Platform
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.registry.access import Access
    from enroot_slurm.registry.limits import Notes

__all__ = ["Repository", "Transport"]

_T = TypeVar("_T")
_USELESS = (NotFound, AccessDenied, NetworkError, IntegrityError)
"""Errors of an endpoint after which the next one is asked."""
_DOWN = frozenset({"", *(f"status {number}" for number in (429, 502, 503, 504))})
"""The statuses of a mirror, if there was an answer, because of which it is asked last from then on."""


class Repository:
    """One repository, for pulling.  Several threads may use it; close it, or use it in a ``with``.

    endpoints  where it is, the primary last; by default at the reference's own registry
    logins     the logins for a repository at a mirror; *credentials* are the primary's
    notes      where processes tell each other of limits and of mirrors that are down
    tell       is given why a mirror was passed over, for who wants details
    counted    is given, at the end, how often a host gave an answer: see `enroot_slurm.registry.tally`
    """

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials,
        transport: Transport,
        *,
        warn: Callable[[str], None],
        connections: Connections | None = None,
        endpoints: Sequence[Endpoint] = (),
        logins: Callable[[str], Credentials] = lambda _: Credentials(),
        notes: Notes | None = None,
        tell: Callable[[str], None] = lambda _: None,
        counted: Callable[[str, str, int], None] = lambda *_: None,
    ) -> None:
        self._reference = reference
        self._transport = transport
        self._warn = warn
        self._tell = tell
        self._counted = counted
        self._own = connections is None
        self._connections = connections or Connections()
        limit = transport.import_timeout
        self._deadline = time.monotonic() + limit if limit else float("inf")
        self._retries = self._new_retries()
        notes = notes or Memory()
        self._servers = [
            Server(
                each,
                logins(each.reference.repository) if each.is_mirror else credentials,
                transport,
                warn=warn,
                connections=self._connections,
                deadline=self._deadline,
                notes=notes,
            )
            for each in endpoints or (Endpoint(reference),)
        ]
        self._primary = self._servers[-1]
        self._last: list[Server] = []
        """Mirrors that are asked only if the primary does not help either."""
        self._served: dict[Server, None] = {}
        self._streams = Streams(transport, self._connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, but for those that are shared, and tell what was asked."""
        for (host, answer), count in self._connections.tally.take().items():
            self._counted(host, answer, count)
        if self._own:
            self._connections.close()

    @property
    def anonymous(self) -> bool:
        """True while every answer came without credentials: then the image is anyone's to see."""
        return all(server.anonymous for server in self._servers)

    @property
    def served_by(self) -> str:
        """The names of the repositories that gave something, if one of them is not the one that the user wrote."""
        names = [server.name for server in self._served]
        return ", ".join(names) if names not in ([], [Endpoint(self._reference).name]) else ""

    def leave_mirrors(self) -> bool:
        """Ask none of the mirrors any more that gave something; whether there was one."""
        gave = [server for server in self._served if server.is_mirror]
        self._servers = [server for server in self._servers if server not in gave]
        return bool(gave)

    def resolve(
        self,
        platform: Platform,
        digest: Digest | None = None,
        *,
        known: Callable[[Digest], Manifest | Index | None] = lambda _: None,
        known_config: Callable[[Digest], ImageConfig | None] = lambda _: None,
        keep: Callable[[bytes], None] = lambda _: None,
        named: Callable[[Digest], None] = lambda _: None,
    ) -> Manifest:
        """The manifest for *platform* that *digest* names, or is in the index that it names.

        digest        by default what the reference names
        known         documents that need not be asked for
        known_config  likewise image configs, which are asked for where an index does not state platforms
        keep          is given each document that was received and verified
        named         is given the digest that a tag has led to

        Raises: NotFound, PlatformNotFound, AccessDenied, NetworkError, IntegrityError.
        """

        def read(wanted: Digest) -> Manifest | Index:
            found = known(wanted)
            if found is None:
                content, content_type = self._document(str(wanted), wanted)
                found = parse_document(content, content_type)
                keep(content)
            return found

        def platform_of(manifest: Manifest) -> Platform | None:
            return stated_platform(manifest, known_config, self._config, keep)

        def selected(first: Manifest | Index) -> Manifest:
            return select(first, platform, read, f"{reference.familiar_name}:{reference.tag}", platform_of=platform_of)

        def of_tag(server: Server) -> Manifest:
            content, content_type = server.document(server.endpoint.reference.target, None)
            first = parse_document(content, content_type)
            self._served[server] = None
            keep(content)
            named(Digest.of(content))
            return selected(first)

        reference, digest = self._reference, digest or self._reference.digest
        return selected(read(digest)) if digest else self._asked(of_tag, tag=True)

    def head(self) -> Digest | None:
        """The digest of what the reference's tag names now, by a HEAD request; None where the registry tells none.

        It is what the registry claims, so it may only serve to find what was verified before.  It only saves work:
        where HEAD fails in any way, `resolve` asks again by GET, whose answer says why.

        Raises: RateLimited, when the registry asks to wait longer than we may; NetworkError, when it can't be reached.
        """
        for server in self._order(tag=True):
            try:
                if (digest := server.head() if server.is_mirror else self._claimed()) is not None:
                    return digest
            except _USELESS as error:
                if not server.is_mirror:
                    raise
                self._note(server, error)
        return None

    def _claimed(self) -> Digest | None:
        while True:
            try:
                return self._primary.head()
            except Passing as error:
                if not error.before and not isinstance(error, TooMany):
                    return None
                self._retries.wait(error)
            except RateLimited:
                raise
            except (AccessDenied, IntegrityError, NetworkError):
                return None

    def check(self) -> Access:
        """Ask the primary for nothing but whether we are let in: to the repository or, if it is empty, to the registry.

        Raises: NotFound, AccessDenied, NetworkError.
        """
        return self._retried(Server.access, self._primary)

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of the blob that *descriptor* names: exactly as many as it says, in pieces of up to 1 MiB.

        They are not hashed: that is the business of whoever writes them.  Where one endpoint fails, the next one goes
        on.

        Raises: NotFound, AccessDenied, NetworkError, IntegrityError, at any piece.
        """
        relay = BlobRelay(self._order(), self._new_retries(), self._note)
        transfer = Download(descriptor, self._transport.transfer_timeout, relay)
        asked: set[Server] = set()
        with self._streams.own():
            while not transfer.complete:
                server = relay.server
                requests = server.requests(descriptor, self._new_retries)
                in_parts = server not in asked
                asked.add(server)
                try:
                    for piece in self._pieces(transfer, requests, in_parts=in_parts):
                        self._served[server] = None
                        yield piece
                except _USELESS as error:
                    relay.advance(error)

    def _pieces(self, transfer: Download, requests: Requests, *, in_parts: bool) -> Iterator[bytes]:
        """The pieces of one attempt, which comes after that of having them *in_parts*."""
        if in_parts:
            yield from read_parts(transfer, requests, self._streams)
        if not transfer.complete:
            yield from transfer.attempt(requests.content)

    def each_document(self, target: str) -> Iterator[bytes]:
        """The manifests or indexes *target*, a tag or a digest, which it is verified by: the mirrors' first.

        A tag may be something else, or nothing, at each endpoint.  A mirror that does not answer is passed over.

        Raises: AccessDenied, NetworkError, IntegrityError, when the primary's turn comes.
        """
        digest = Digest.parse(target) if ":" in target else None
        given: set[bytes] = set()
        for server in self._order(tag=digest is None):
            try:
                content = self._tried(lambda server: server.document(target, digest)[0], server)
            except NotFound:
                continue
            except _USELESS as error:
                if not server.is_mirror:
                    raise
                self._note(server, error)
                continue
            if content not in given:
                given.add(content)
                yield content

    def document(self, target: str) -> bytes | None:
        """The first one of `each_document`; None: there is none.  Raises: likewise."""
        return next(self.each_document(target), None)

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """The blob *digest* of *size* bytes, verified.  Raises: as `blob`."""
        content = b"".join(self.blob(Descriptor("", digest, size)))
        verify(content, digest)
        return content

    def referrers(self, digest: Digest) -> Iterator[bytes]:
        """Manifests that refer to *digest*: an index's `referrers.pages`, the mirrors' first, then the primary's.

        Raises: AccessDenied, NetworkError, when the primary's turn comes.
        """
        for server in self._order():
            read = partial(self._page, server)
            try:
                yield from referrers.pages(digest, read, partial(self._index, server), server.base)
            except _USELESS as error:
                if not server.is_mirror:
                    raise
                self._note(server, error)

    def _page(self, server: Server, path: str) -> tuple[str, bytes] | None:
        return self._tried(lambda server: server.page(path), server)

    def _index(self, server: Server, tag: str) -> bytes | None:
        try:
            return self._tried(lambda server: server.document(tag, None)[0], server) if server.endpoint.tags else None
        except NotFound:
            return None

    def _config(self, descriptor: Descriptor) -> bytes:
        """The image config that *descriptor* names, verified."""
        if descriptor.size > MAX_CONFIG:
            raise IntegrityError(f"the image config has {descriptor.size} bytes; {MAX_CONFIG} are the most")
        return self.small_blob(descriptor.digest, descriptor.size)

    def _document(self, target: str, digest: Digest) -> tuple[bytes, str]:
        """The manifest or index *digest*, and its Content-Type."""

        def ask(server: Server) -> tuple[bytes, str]:
            answer = server.document(target, digest)
            self._served[server] = None
            return answer

        return self._asked(ask)

    def _order(self, *, tag: bool = False) -> list[Server]:
        """Who is asked: mirrors, the primary, and last the mirrors that were of no use before."""
        asked = [each for each in self._servers if (each.endpoint.tags if tag else each.endpoint.digests)]
        return sorted(asked, key=lambda each: each.is_mirror and (each in self._last or each.limits.is_down))

    def _asked(self, call: Callable[[Server], _T], *, tag: bool = False) -> _T:
        """What *call* gets of the first endpoint that has it."""
        failures: list[tuple[Server, EnrootSlurmError]] = []
        for server in self._order(tag=tag):
            try:
                return self._tried(call, server)
            except _USELESS as error:
                failures.append((server, error))
                self._note(server, error)
                if server.is_mirror and server not in self._last:
                    self._last.append(server)  # it has no such image: it is not asked for its blobs either
        raise with_mirrors(failures)

    def _tried(self, call: Callable[[Server], _T], server: Server) -> _T:
        """What *call* gets of *server*: a mirror is asked once, for there are others."""
        return call(server) if server.is_mirror else self._retried(call, server)

    def _retried(self, call: Callable[[Server], _T], server: Server) -> _T:
        while True:
            try:
                return call(server)
            except Passing as error:
                self._retries.wait(error)

    def _note(self, server: Server, error: EnrootSlurmError) -> None:
        """Tell and count that the mirror *server* is passed over; remember, if *error* says so, to ask it last."""
        if server.is_mirror:
            self._tell(f"the mirror {server.name} is passed over: {error.message}")
            self._connections.tally.passed(server.endpoint.reference.registry)
        status = next(iter(getattr(error, "__notes__", ())), "")
        if server.is_mirror and isinstance(error, NetworkError | IntegrityError) and status in _DOWN:
            server.limits.note_down()

    def _new_retries(self, *, mirror: bool = False) -> Retries:
        return Retries(0 if mirror else self._transport.retries, self._transport.backoff, self._warn, self._deadline)
