"""Which manifest of an index is the one for a platform (OCI image-spec, image-index.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, PlatformNotFound, UnsupportedImage, printable
from enroot_slurm.oci.manifest import DOCKER_LIST, OCI_INDEX, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Index
    from enroot_slurm.oci.platform import Platform

    Read = Callable[[Digest], Manifest | Index]
    """The document of a digest, verified; what it raises goes to the caller of `select`."""
    PlatformOf = Callable[[Manifest], Platform | None]
    """The platform that a manifest's config states; None: it states none."""

__all__ = ["select"]

_INDEXES = {DOCKER_LIST, OCI_INDEX}
_MAX_DEPTH = 4  # indexes inside of indexes
_MAX_INDEXES = 32
_MAX_CONFIGS = 32


def select(
    document: Manifest | Index, platform: Platform, read: Read, name: str, *, platform_of: PlatformOf
) -> Manifest:
    """The manifest for *platform* in *document*, which people know as *name*; *read* has the documents it refers to.

    What an index says of its entries decides.  Entries without a platform are looked at, by *platform_of*, when none
    fits that has one.

    Raises: PlatformNotFound, with the platforms that there are; IntegrityError; UnsupportedImage.
    """
    if isinstance(document, Manifest):
        return document
    choice = _Choice(platform, read, platform_of, {document.digest})
    found = choice.pick(document)
    if found is None:
        offered = list(dict.fromkeys(choice.offered))
        names = ", ".join(str(p) for p in offered if p.runnable)
        others = ", ".join(printable(str(p), 40) for p in offered[:20])
        hint = f"It is there for: {names}. Choose one with --arch." if names else ""
        raise PlatformNotFound(
            f"{name} is not there for {platform}",
            hint=hint or (f"It is there for {others} only." if others else "Its index names no image at all."),
        )
    return found


class _Choice:
    """One choice: the platforms that were seen, and the indexes that need no second look."""

    def __init__(self, platform: Platform, read: Read, platform_of: PlatformOf, seen: set[Digest]) -> None:
        self.offered: list[Platform] = []
        self._platform = platform
        self._read = read
        self._platform_of = platform_of
        self._seen = seen
        self._configs = 0

    def pick(self, index: Index, depth: int = 0) -> Manifest | None:
        """The manifest in *index*, or else in one nested in it, that fits best."""
        manifests = [(p, d.digest) for p, d in index.entries if d.media_type not in _INDEXES]
        stated = [(p, digest) for p, digest in manifests if p is not None]
        self.offered += [p for p, _ in stated]
        best = self._platform.best([p for p, _ in stated])
        if best is not None:
            return self._manifest(stated[best][1])
        unstated = [digest for p, digest in manifests if p is None]
        if len(index.entries) == 1 and unstated:
            return self._manifest(unstated[0])  # whoever imports it looks at its config
        return self._nested(index, depth) or self._by_config(unstated)

    def _nested(self, index: Index, depth: int) -> Manifest | None:
        for stated, nested in index.entries:
            if nested.media_type not in _INDEXES or nested.digest in self._seen:
                continue
            if stated is not None and self._platform.rank(stated) is None:
                self.offered.append(stated)
                continue
            if depth == _MAX_DEPTH or len(self._seen) == _MAX_INDEXES:
                raise UnsupportedImage(
                    f"the image has more than {_MAX_INDEXES} indexes, or more than {_MAX_DEPTH} inside of each other"
                )
            self._seen.add(nested.digest)
            document = self._read(nested.digest)
            found = document if isinstance(document, Manifest) else self.pick(document, depth + 1)
            if found is not None:
                return found
        return None

    def _by_config(self, digests: Sequence[Digest]) -> Manifest | None:
        """The best of the manifests *digests*; one whose config states no platform is the last choice."""
        known: list[tuple[Platform, Manifest]] = []
        unknown: list[Manifest] = []
        for digest in dict.fromkeys(digests):
            self._configs += 1
            if self._configs > _MAX_CONFIGS:
                raise UnsupportedImage(f"the image's index has more than {_MAX_CONFIGS} entries without a platform")
            manifest = self._manifest(digest)
            platform = self._platform_of(manifest)
            if platform is None:
                unknown.append(manifest)
            else:
                known.append((platform, manifest))
        self.offered += [platform for platform, _ in known]
        best = self._platform.best([platform for platform, _ in known])
        if best is not None:
            return known[best][1]
        return unknown[0] if unknown else None

    def _manifest(self, digest: Digest) -> Manifest:
        document = self._read(digest)
        if not isinstance(document, Manifest):
            raise IntegrityError(f"{digest} is an index, but the index above calls it a manifest")
        return document
