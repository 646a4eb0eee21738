"""The inode table and the directory table of an image that is being made."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.squashfs.codec import METADATA_SIZE
from enroot_slurm.squashfs.directories import write_listing
from enroot_slurm.squashfs.inodes import Directory
from enroot_slurm.squashfs.metadata import block_at

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enroot_slurm.squashfs.inodes import File, Special

__all__ = ["Tables"]

_PIECE = 128 * METADATA_SIZE


class Tables:
    """What is added comes from the leaves to the root: a directory after all that is in it.

    *write* takes the inode table, in pieces of whole blocks, so that it need not fit into memory.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._written = 0
        self._inodes = bytearray()
        self.directories = bytearray()
        """The directory table."""

    def add(self, inode: File | Special, number: int) -> int:
        """Add an inode; its position in the table."""
        return self._add(inode.pack(number))

    def finish(self) -> None:
        """Write the rest of the inode table."""
        self._write(bytes(self._inodes))

    def _add(self, inode: bytes) -> int:
        position = self._written + len(self._inodes)
        self._inodes += inode
        if len(self._inodes) >= _PIECE + METADATA_SIZE:
            self._write(bytes(self._inodes[:_PIECE]))
            del self._inodes[:_PIECE]
            self._written += _PIECE
        return position

    def add_directory(
        self,
        names: Iterable[tuple[bytes, int, int, int]],
        number: int,
        *,
        parent: int,
        links: int,
        mode: int,
        mtime: int,
    ) -> int:
        """Add a directory with its sorted *names*, which are `write_listing`'s; the position of its inode."""
        start, size, index = write_listing(self.directories, names)
        # An empty directory has no listing: readers need not look at the end of the table for it.
        block, offset = (block_at(start), start % METADATA_SIZE) if size else (0, 0)
        return self._add(Directory(mode, mtime, block, offset, size + 3).pack(number, links, parent, index))
