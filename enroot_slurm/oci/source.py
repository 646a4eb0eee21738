"""Where an image comes from: a repository of a registry, or an archive.  The import does not know which it has."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.image_config import ImageConfig
    from enroot_slurm.oci.manifest import Descriptor, Index, Manifest
    from enroot_slurm.oci.platform import Platform

__all__ = ["Source"]


class Source(Protocol):
    """One image's manifests and blobs.  What it hands out by digest is verified, but for `blob`."""

    @property
    def anonymous(self) -> bool:
        """Whether anybody could have got all this, without credentials."""

    def head(self) -> Digest | None:
        """The digest of what the name leads to now; None where that is not told."""

    def resolve(
        self,
        platform: Platform,
        digest: Digest | None = None,
        *,
        known: Callable[[Digest], Manifest | Index | None] = ...,
        known_config: Callable[[Digest], ImageConfig | None] = ...,
        keep: Callable[[bytes], None] = ...,
        named: Callable[[Digest], None] = ...,
    ) -> Manifest:
        """The manifest for *platform* that *digest*, or the name, is or leads to.

        known         documents that need not be asked for
        known_config  likewise image configs
        keep          is given each document that was received and verified
        named         is given the digest that a tag has led to
        """

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of a blob: as many as the descriptor says."""

    def document(self, target: str) -> bytes | None:
        """The manifest or index by tag or digest, as received; None: there is none."""

    def each_document(self, target: str) -> Iterator[bytes]:
        """`document`, from each place where the image is."""
        content = self.document(target)
        if content is not None:
            yield content

    @property
    def served_by(self) -> str:
        """The names of the repositories that gave something, if the user has not written the only one."""
        return ""

    def leave_mirrors(self) -> bool:
        """Ask none of the mirrors any more that gave something; whether there was one."""
        return False

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """The blob *digest* of *size* bytes."""

    def referrers(self, digest: Digest) -> Iterable[bytes]:
        """The indexes, page by page, of what refers to *digest*; none where nothing does."""

    def close(self) -> None:
        """Nothing is asked for any more."""
