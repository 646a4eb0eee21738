"""Paths in a layer: led through the symlinks of their layer, by names alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, UnsupportedImage, printable
from enroot_slurm.tar.names import MAX_DEPTH, MAX_NAME, MAX_PATH, too_deep, too_long

if TYPE_CHECKING:
    from collections.abc import Container

__all__ = ["MAX_SYMLINKS", "Implied", "Symlinks", "join", "outside"]

MAX_SYMLINKS = 40
"""Symlinks that one name may lead through (path_resolution(7))."""
_MAX_IMPLIED = 64 << 20
_STEPS, _STEPS_EACH = 1 << 20, 128  # components on the way of names: at first, and more for each name


def join(parent: bytes, name: bytes) -> bytes:
    """The path of *name* in the directory *parent*, which is empty for the root."""
    return parent + b"/" + name if parent else name


def outside(path: bytes) -> bool:
    """Whether *path* never gets into an image: the root itself, and what is below /dev, as with enroot."""
    return not path or path.startswith(b"dev/")


class Implied:
    """The directories that members of an image imply by their names, without describing them.

    A name of 1,000 bytes may imply 500 directories, whose paths have 250,000 bytes.  So these are limited.
    """

    def __init__(self) -> None:
        self._left = _MAX_IMPLIED

    def missing(self, path: bytes, directories: Container[bytes]) -> list[bytes]:
        """*path* and those above it that are not in *directories*, which has the root; parents first.

        Raises: UnsupportedImage, when an image has too many of them.
        """
        missing = []
        while path not in directories:
            missing.append(path)
            self._left -= len(path)
            if self._left < 0:
                raise UnsupportedImage(
                    f"members of the image imply directories whose paths have more than {_MAX_IMPLIED >> 20} MiB",
                    hint="Rebuild the image with a tool that puts directories into its layers.",
                )
            path = path.rpartition(b"/")[0]
        missing.reverse()
        return missing


class Symlinks:
    """The symlinks of a layer, which lead its later names elsewhere; *directories* are those of the layer.

    Where a name leads is kept, and steps are counted: whatever the symlinks are, the work is in proportion to the
    number of names.
    """

    def __init__(self, directories: Container[bytes]) -> None:
        self._directories = directories
        self._targets: dict[bytes, bytes] = {}
        self._known: dict[bytes, bytes] = {}
        self._left = _STEPS
        self.steps = 0
        """Components that were looked at."""

    def __contains__(self, path: bytes) -> bool:
        return path in self._targets

    def get(self, path: bytes) -> bytes | None:
        """The target of the symlink at *path*, if there is one."""
        return self._targets.get(path)

    def __setitem__(self, path: bytes, target: bytes) -> None:
        self._targets[path] = target
        self._known.clear()

    def __delitem__(self, path: bytes) -> None:
        del self._targets[path]
        self._known.clear()

    def forget(self) -> None:
        """A directory is gone: names may lead elsewhere now."""
        self._known.clear()

    def lead(self, path: bytes) -> bytes:
        """Where the directory *path* is, which need not be there.

        Raises: IntegrityError, after `MAX_SYMLINKS`, for paths that no file system can hold, and too many steps.
        """
        if not self._targets or path in self._directories:
            return path
        known = self._known.get(path)
        if known is None:
            known = self._walk(path)
            if known in self._directories:
                self._known[path] = known
        return known

    def resolve(self, path: bytes) -> bytes:
        """*path* with symlinks followed in all but its last component."""
        parent, _, name = path.rpartition(b"/")
        return join(self.lead(parent), name)

    def _walk(self, path: bytes) -> bytes:
        here = b""
        followed = 0
        self._left += _STEPS_EACH
        ahead = self._parts(path)
        while ahead:
            name = ahead.pop()
            if name == b"..":
                here = here.rpartition(b"/")[0]
            elif name not in (b"", b"."):
                at = join(here, name)
                if len(at) > MAX_PATH or len(name) > MAX_NAME:
                    raise too_long(at)
                target = self._targets.get(at)
                if target is None:
                    here = at
                    continue
                followed += 1
                if followed > MAX_SYMLINKS:
                    raise IntegrityError(f"too many symlinks on the way to {printable(path)} in a layer")
                if target.startswith(b"/"):
                    here = b""
                ahead += self._parts(target)
        if here.count(b"/") >= MAX_DEPTH:
            raise too_deep(here)
        return here

    def _parts(self, path: bytes) -> list[bytes]:
        """The components of *path*, the last one first."""
        parts = path.split(b"/")
        self.steps += len(parts)
        self._left -= len(parts)
        if self._left < 0:
            raise IntegrityError("the names in a layer lead through too many symlinks")
        parts.reverse()
        return parts
