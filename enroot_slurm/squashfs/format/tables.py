"""The tables of an image that is being made, and its superblock."""

from __future__ import annotations

import os
import sys
from array import array
from typing import TYPE_CHECKING

from enroot_slurm.squashfs.format.codec import METADATA_SIZE
from enroot_slurm.squashfs.format.directories import write_listing
from enroot_slurm.squashfs.format.inodes import Directory
from enroot_slurm.squashfs.format.metadata import block_at, lookup_table, packed, reference
from enroot_slurm.squashfs.format.superblock import ABSENT, FRAGMENT, MAGIC, Flag, Superblock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Tables", "write", "write_tables"]

_PIECE = 128 * METADATA_SIZE
_PADDING = 4096  # images are whole device blocks (doc/format.adoc, "Overview")
_OWNERS = bytes(4)  # root alone


class Tables:
    """Add from the leaves to the root: a directory after all that is in it.

    *write* takes the inode table, in pieces of whole blocks, so that it need not fit into memory.
    """

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write
        self._written = 0
        self._inodes = bytearray()
        self.directories = bytearray()
        """The directory table."""

    def finish(self) -> None:
        """Write the rest of the inode table."""
        self._write(bytes(self._inodes))

    def add(self, inode: bytes) -> int:
        """Add an inode that is packed; its position in the table."""
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
        return self.add(Directory(mode, mtime, block, offset, size + 3).pack(number, links, parent, index))


def write_tables(
    fd: int,
    inodes: range,
    *,
    directories: bytes | bytearray,
    fragments: bytes | bytearray,
    positions: array[int],
    root: int,
    recipe: tuple[int, int, bytes],
    flags: Flag,
    mtime: int,
    pad: bool = True,
) -> tuple[Superblock, int]:
    """Write all that follows the inode table, in the order that the kernel insists on.

    inodes     where the inode table is in the image
    positions  of the inodes, by their numbers less one; *root* is that of the root directory
    recipe     the compressor's number, the logarithm of the block size, and the block of compressor options

    The superblock, which is still to be written, and where the image ends.
    """
    at = write(fd, inodes.stop, packed(directories))
    exports = b""
    if flags & Flag.EXPORTABLE:
        references = array("Q", map(reference, positions))
        if sys.byteorder == "big":
            references.byteswap()
        exports = references.tobytes()
    places = []
    for table in (bytes(fragments), exports, _OWNERS):
        blocks, place = lookup_table(table, at)
        places.append(place)
        at = write(fd, at, [blocks])
    end = write(fd, at, [bytes(-at % _PADDING)]) if pad else at
    compression, block_log, options = recipe
    return Superblock(
        magic=MAGIC,
        inodes=len(positions),
        mtime=mtime,
        block_size=1 << block_log,
        fragments=len(fragments) // FRAGMENT.size,
        compression=compression,
        block_log=block_log,
        flags=int(flags | Flag.PLAIN_INODES | Flag.PLAIN_IDS | Flag.NO_XATTRS | (Flag.OPTIONS if options else 0)),
        ids=len(_OWNERS) // 4,
        major=4,
        minor=0,
        root_inode=reference(root),
        bytes_used=at,
        id_table=places[2],
        xattr_table=ABSENT,
        inode_table=inodes.start,
        directory_table=inodes.stop,
        fragment_table=places[0],
        export_table=places[1] if exports else ABSENT,
    ), end


def write(fd: int, at: int, parts: Iterable[bytes]) -> int:
    """Write *parts* one after the other; where they end."""
    for part in parts:
        view = memoryview(part)
        while view:
            count = os.pwrite(fd, view, at)
            view, at = view[count:], at + count
    return at
