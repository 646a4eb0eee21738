"""Which manifest of an index is the one for a platform (OCI image-spec, image-index.md)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, PlatformNotFound, UnsupportedImage, printable
from enroot_slurm.oci.manifest import DOCKER_LIST, OCI_INDEX, Manifest

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Index
    from enroot_slurm.oci.platform import Platform

    Read = Callable[[Digest], Manifest | Index]
    """The document of a digest, verified; what it raises goes to the caller of `select`."""

__all__ = ["select"]

_INDEXES = {DOCKER_LIST, OCI_INDEX}
_MAX_DEPTH = 4  # indexes inside of indexes
_MAX_INDEXES = 32


def select(document: Manifest | Index, platform: Platform, read: Read, name: str) -> Manifest:
    """The manifest for *platform* in *document*, which people know as *name*; *read* has the documents it refers to.

    Raises: PlatformNotFound, with the platforms that there are; IntegrityError; UnsupportedImage.
    """
    if isinstance(document, Manifest):
        return document
    offered: list[Platform] = []
    found = _pick(document, platform, read, offered, {document.digest})
    if found is None:
        names = ", ".join(dict.fromkeys(printable(str(p), 40) for p in offered[:20])) or "none that is known"
        raise PlatformNotFound(
            f"{name} is not there for {platform}", hint=f"It is there for: {names}. Choose one with --arch."
        )
    return found


def _pick(
    index: Index, platform: Platform, read: Read, offered: list[Platform], seen: set[Digest], depth: int = 0
) -> Manifest | None:
    """The manifest in *index*, or else in one nested in it, that fits *platform* best.

    Adds the platforms there are to *offered*; *seen* are the indexes that need no second look.
    """
    manifests = [(p, d) for p, d in index.entries if d.media_type not in _INDEXES]
    stated = [(p, d) for p, d in manifests if p is not None]
    offered += [p for p, _ in stated]
    best = platform.best([p for p, _ in stated])
    chosen = stated[best][1] if best is not None else None
    if chosen is None and len(index.entries) == 1 and manifests and not stated:
        chosen = manifests[0][1]
    if chosen is not None:
        document = read(chosen.digest)
        if not isinstance(document, Manifest):
            raise IntegrityError(f"{chosen.digest} is an index, but the index above calls it a manifest")
        return document
    for stated_platform, nested in index.entries:
        if nested.media_type not in _INDEXES or nested.digest in seen:
            continue
        if stated_platform is not None and platform.rank(stated_platform) is None:
            offered.append(stated_platform)
            continue
        if depth == _MAX_DEPTH or len(seen) == _MAX_INDEXES:
            raise UnsupportedImage(
                f"the image has more than {_MAX_INDEXES} indexes, or more than {_MAX_DEPTH} inside of each other"
            )
        seen.add(nested.digest)
        document = read(nested.digest)
        found = (
            document if isinstance(document, Manifest) else _pick(document, platform, read, offered, seen, depth + 1)
        )
        if found is not None:
            return found
    return None
