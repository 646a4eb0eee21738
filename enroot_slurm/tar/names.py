"""Names of members: cleaned to paths below the root, which some file system can hold."""

from __future__ import annotations

from enroot_slurm.errors import IntegrityError, printable

__all__ = ["MAX_DEPTH", "MAX_NAME", "MAX_PATH", "clean", "too_deep", "too_long"]

MAX_PATH, MAX_NAME = 4096, 255  # PATH_MAX and NAME_MAX (limits.h)
MAX_DEPTH = 512
"""Directories in each other."""


def clean(name: bytes) -> bytes:
    """*name* as a path below the root: without leading, doubled and final slashes, ``.`` and ``..``.

    ``..`` stops at the root.  Raises: IntegrityError, when no file system can hold the name.
    """
    if name[:1] not in b"./" and b"//" not in name and b"/." not in name and len(name) <= MAX_NAME:
        return name.removesuffix(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    path = b"/".join(parts)
    if len(path) > MAX_PATH or any(len(p) > MAX_NAME for p in parts):
        raise too_long(name)
    if len(parts) > MAX_DEPTH:
        raise too_deep(name)
    return path


def too_long(name: bytes) -> IntegrityError:
    """The error for a path, or a part of it, that no file system can hold."""
    return IntegrityError(f"a name in a layer is longer than a file system allows: {printable(name)}")


def too_deep(name: bytes) -> IntegrityError:
    """The error for a path with too many directories."""
    return IntegrityError(f"a name in a layer is more than {MAX_DEPTH} directories deep: {printable(name)}")
