"""Manifests and indexes by digest, so that a tag whose digest is known leads to an image without another request.

ROOT/manifests/sha256/HEX     as received
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from enroot_slurm.cache.trust import Untrusted, read_trusted
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import MAX_DOCUMENT

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["read_document", "write_document"]


def read_document(root: Path, digest: Digest) -> bytes | None:
    """The document of *digest* below *root*, verified by its name; None if it is not there, or not what it was."""
    # Whoever wrote it: the digest is all that counts.
    with contextlib.suppress(OSError, Untrusted):
        path = _path(root, digest)
        content = read_trusted(path, {path.lstat().st_uid}, MAX_DOCUMENT)
        if Digest.of(content, digest.algorithm) == digest:
            return content
    return None


def write_document(place: CacheDirectory, content: bytes) -> None:
    """Keep *content*.  A cache that can't be written is no reason to fail: then it is asked for again."""
    digest = Digest.of(content)
    with contextlib.suppress(OSError):
        place.directory("manifests", digest.algorithm)
        place.write(_path(place.root, digest), content)


def _path(root: Path, digest: Digest) -> Path:
    return root / "manifests" / digest.algorithm / digest.hex
