"""An image of an archive as a `Source`: it is opened when something is asked of it for the first time."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.archives import docker
from enroot_slurm.archives.layout import Layout, blob_name
from enroot_slurm.archives.members import read
from enroot_slurm.errors import IntegrityError, NotFound, UnsupportedImage
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import MAX_CONFIG, stated_platform
from enroot_slurm.oci.manifest import MAX_DOCUMENT, Index, Manifest, parse_document
from enroot_slurm.oci.reference import Reference
from enroot_slurm.oci.selection import select
from enroot_slurm.oci.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from enroot_slurm.archives.choice import Choice
    from enroot_slurm.archives.members import Members
    from enroot_slurm.oci.image_config import ImageConfig
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.oci.manifest import Descriptor
    from enroot_slurm.oci.platform import Platform

__all__ = ["ArchivedImage", "KnownImage"]


class KnownImage(Exception):
    """A daemon's image need not be sent: it is known what manifest it has."""

    def __init__(self, digest: Digest) -> None:
        super().__init__()
        self.digest = digest


class _Opened(NamedTuple):
    members: Members
    choice: Choice


class ArchivedImage(Source):
    """The image that *local* names.  Several threads may read blobs.

    open_members  opens what holds it; it may raise `KnownImage`, but when it is called again it opens
    found         is told the digest of the manifest that the name leads to
    keeps_open    others read it as well: it is not closed here
    """

    anonymous = False
    """A file of a user's is nobody else's."""

    def __init__(
        self,
        local: LocalImage,
        open_members: Callable[[], Members],
        *,
        found: Callable[[Digest], object] = lambda _: None,
        keeps_open: bool = False,
    ) -> None:
        self._local = local
        self._open_members = open_members
        self._found = found
        self._closed = keeps_open
        self._open: _Opened | None = None

    @property
    def _opened(self) -> _Opened:
        if self._open is None:
            try:
                self._open = self._chosen()
            except KnownImage:  # more than its digest is wanted
                self._open = self._chosen()
        return self._open

    def _chosen(self) -> _Opened:
        members = self._open_members()
        try:
            choice = Layout(members).choose(self._local) if self._is_layout else docker.choose(members, self._local)
        except BaseException:
            members.close()
            raise
        return _Opened(members, choice)

    @property
    def _is_layout(self) -> bool:
        return self._local.transport in {"oci", "oci-archive"}

    @property
    def provenance(self) -> str:
        """The URI that stands in the image: by its own name as from a registry, else by its digest."""
        choice = self._opened.choice
        return choice.name.provenance if choice.name else f"{self._local.transport}:{choice.root.digest}"

    @property
    def filename(self) -> str:
        """The default output; empty where nothing names the image."""
        if self._local.is_daemon or self._opened.choice.name is None:
            return self._local.filename
        name = self._opened.choice.name
        return Reference.default_filename(str(name)) if name.digest is None else self._local.filename

    def head(self) -> Digest:
        """The digest of what the name leads to."""
        if self._open is None:
            try:
                self._open = self._chosen()
            except KnownImage as known:
                return known.digest
        root = self._opened.choice.root
        if isinstance(root, Manifest):
            self._found(root.digest)
        return root.digest

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
        """As `Source` says.  Raises: NotFound, PlatformNotFound, IntegrityError, UsageError, StorageError."""

        def load(wanted: Digest) -> Manifest | Index:
            content = self.document(str(wanted))
            if content is None:
                raise NotFound(
                    f"{self._opened.members.title} has no manifest {wanted}",
                    hint="It was changed, or holds some of the image's platforms only.",
                )
            document = parse_document(content, "")._replace(digest=wanted)
            keep(content)
            return document

        def platform_of(manifest: Manifest) -> Platform | None:
            return stated_platform(manifest, known_config, lambda it: self.small_blob(it.digest, it.size), keep)

        def read_known(wanted: Digest) -> Manifest | Index:
            return known(wanted) or load(wanted)

        if digest is None:
            named(self.head())
        first = read_known(digest) if digest else load(self.head())
        manifest = select(first, platform, read_known, str(self._local), platform_of=platform_of)
        self._found(manifest.digest)
        return manifest

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob, hashed.  Raises: NotFound, IntegrityError, StorageError."""
        members, name = self._opened.members, self._place(descriptor.digest)
        size = members.size(name)
        if size is None:
            hint = "It may be incomplete: copy or save the image again."
            if descriptor.urls:
                hint = "It is one that may not be distributed: save the image with it."
            raise NotFound(f"{members.title} has no blob {descriptor.digest}", hint=hint)
        if size != descriptor.size:
            raise IntegrityError(
                f"blob {descriptor.digest} in {members.title} has {size} bytes, and not {descriptor.size}"
            )
        hasher = descriptor.digest.hasher()
        for chunk in members.chunks(name):
            hasher.update(chunk)
            yield chunk
        if hasher.hexdigest() != descriptor.digest.hex:
            raise IntegrityError(
                f"{members.title} is damaged: blob {descriptor.digest} is "
                f"{descriptor.digest.algorithm}:{hasher.hexdigest()}",
                hint="Copy or save the image again.",
            )

    def document(self, target: str) -> bytes | None:
        """As `Source` says; there are no tags."""
        if ":" not in target:
            return None
        digest = Digest.parse(target)
        opened = self._opened
        content = opened.choice.documents.get(digest)
        if content is None and opened.members.size(blob_name(digest)) is not None:
            content = read(opened.members, blob_name(digest), MAX_DOCUMENT)
            if Digest.of(content, digest.algorithm) != digest:
                raise IntegrityError(f"{opened.members.title} is damaged: {digest} has another content")
        return content

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """As `Source` says."""
        members, name = self._opened.members, self._place(digest)
        if members.size(name) != size:
            raise IntegrityError(f"{members.title} has no blob {digest} of {size} bytes")
        if size > MAX_CONFIG:
            raise UnsupportedImage(f"the blob {digest} has {size} bytes; {MAX_CONFIG} are the most")
        content = read(members, name, MAX_CONFIG)
        if Digest.of(content, digest.algorithm) != digest:
            raise IntegrityError(f"{members.title} is damaged: blob {digest} has another content")
        return content

    def referrers(self, digest: Digest) -> Iterable[bytes]:  # noqa: ARG002 - as `Source` has it
        """Nothing: signatures are in registries."""
        return ()

    def take(self, digest: Digest) -> Path | None:
        """The temporary file with the blob *digest*, verified, if a stream has left one; it is the caller's then."""
        return self._opened.members.take(self._place(digest), digest)

    def close(self) -> None:
        """Remove what is temporary."""
        if self._open is not None and not self._closed:
            self._closed = True
            self._open.members.close()

    def _place(self, digest: Digest) -> str:
        return self._opened.choice.places.get(digest, blob_name(digest))
