"""The names of an image that is being made: directories, and what is in them.

Kept packed, some twenty bytes for each name: an image may have millions.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from enroot_slurm.squashfs.format.inodes import DIRECTORY

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Names"]

_NAME = struct.Struct("<IBB")  # number, kind, length of the name; the name


class Names:
    """Paths, with a number for each inode; root is directory 0."""

    def __init__(self) -> None:
        self.directories: dict[bytes, int] = {b"": 0}
        """By path."""
        self.subdirectories = [0]
        """By directory: how many directories are in it."""
        self._inside = [bytearray()]
        self._indices: dict[int, tuple[int, dict[bytes, int]]] = {}

    def add(self, path: bytes, number: int, kind: int) -> None:
        """Add the name *path* of the inode *number*, which is no directory; the directories above it are made."""
        parent, _, name = path.rpartition(b"/")
        directory = self.directories.get(parent)
        if directory is None:
            directory = self.directory(parent)
        self._inside[directory] += _NAME.pack(number, kind, len(name)) + name

    def directory(self, path: bytes) -> int:
        """The directory at *path*, made if it is not there yet."""
        missing = []
        while (directory := self.directories.get(path)) is None:
            missing.append(path)
            path = path.rpartition(b"/")[0]
        while missing:
            path, above = missing.pop(), directory
            name = path.rpartition(b"/")[2]
            directory = self.directories[path] = len(self._inside)
            self._inside.append(bytearray())
            self.subdirectories.append(0)
            self.subdirectories[above] += 1
            self._inside[above] += _NAME.pack(directory, DIRECTORY, len(name)) + name
        return directory

    def find(self, path: bytes) -> tuple[int, int]:
        """Number and kind of what is at *path*, and no directory.  Raises: KeyError."""
        parent, _, name = path.rpartition(b"/")
        directory = self.directories[parent]
        inside = self._inside[directory]
        seen, index = self._indices.get(directory, (0, {}))
        if seen < len(inside):
            index.update((found, at) for found, at in _offsets(inside, seen))
            self._indices[directory] = (len(inside), index)
        number, kind, _ = _NAME.unpack_from(inside, index[name])
        if kind == DIRECTORY:
            raise KeyError(path)
        return number, kind

    def forget(self) -> None:
        """Drop what `find` keeps to be fast."""
        self._indices.clear()

    def inside(self, directory: int) -> list[tuple[bytes, int, int]]:
        """The entries of a *directory*, sorted: name, number (of the directory, if it is one), kind."""
        inside = self._inside[directory]
        return sorted((name, *_NAME.unpack_from(inside, at)[:2]) for name, at in _offsets(inside, 0))


def _offsets(inside: bytearray, at: int) -> Iterator[tuple[bytes, int]]:
    while at < len(inside):
        stop = at + _NAME.size + inside[at + _NAME.size - 1]
        yield bytes(inside[at + _NAME.size : stop]), at
        at = stop
