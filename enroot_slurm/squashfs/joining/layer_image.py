"""Layer images: squashfs images that are to be linked, read without trust.

A layer image is what mksquashfs makes of one layer with ``-all-root -noI -noId -noX -no-xattrs``; compressed tables
are read too.  Whatever a damaged image says, reading it ends, and takes memory in proportion to its file.
"""

from __future__ import annotations

import itertools
import os
import struct
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Self

from enroot_slurm.errors import IntegrityError, printable
from enroot_slurm.squashfs.format import inodes
from enroot_slurm.squashfs.format.codec import METADATA_SIZE, decompress
from enroot_slurm.squashfs.format.directories import read_listing
from enroot_slurm.squashfs.format.metadata import Metadata, unpack
from enroot_slurm.squashfs.format.superblock import ABSENT, FRAGMENT, SUPERBLOCK_SIZE, CannotJoin, Flag, Superblock

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LayerImage", "Recipe"]

_MAX_TABLE = 1 << 30
"""Bytes of a table on disk: some ten million inodes."""
_MAX_LOOKUP = 256 << 20
"""Bytes of a lookup table: some 16 million fragments."""
_MAX_OPTIONS = 64


class Recipe(NamedTuple):
    """The properties that images must share, because their blocks are copied as they are."""

    compression: int
    """The number of the compressor."""
    block_log: int
    options: bytes
    """The metadata block behind the superblock."""


class LayerImage:
    """An open image; close its `fd` in the end.

    Methods raise CannotJoin.
    """

    def __init__(
        self,
        fd: int,
        recipe: Recipe,
        *,
        tables: tuple[Metadata, Metadata],
        root: int,
        data: range,
        fragments: bytes = b"",
        flags: int = 0,
    ) -> None:
        self.fd = fd
        self.recipe = recipe
        self.flags = flags
        self.data = data
        """Where the blocks of files and fragments are."""
        self.fragments = len(fragments) // FRAGMENT.size
        """How many there are."""
        self.root = root
        """The position of the root directory's inode."""
        self.inodes, self.inode_blocks = tables[0]
        self.directories = tables[1].data
        self._listings = tables[1]
        self._fragments = fragments
        self._block_size = 1 << recipe.block_log
        self._unlisted = len(self.directories)

    @classmethod
    def open(cls, path: Path) -> Self:
        """The image at *path*."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CannotJoin(f"can't open the layer image {path}: {error.strerror}") from None
        try:
            return cls._read(fd)
        except (CannotJoin, IntegrityError, OSError) as error:
            os.close(fd)
            raise CannotJoin(f"the layer image {printable(path.name)}: {error}") from None
        except BaseException:
            os.close(fd)
            raise

    @classmethod
    def _read(cls, fd: int) -> Self:
        with open(fd, "rb", closefd=False) as file:
            block = Superblock.read(file)
        if block.xattr_table != ABSENT:
            raise CannotJoin("it has extended attributes")
        read = partial(_pread, fd, block.bytes_used)
        decode = partial(decompress, block.compressor)
        options = b""
        if block.flags & Flag.OPTIONS:
            (size,) = struct.unpack("<H", read(SUPERBLOCK_SIZE, 2))
            if not 0x8000 < size < 0x8000 + _MAX_OPTIONS:
                raise CannotJoin("the options of its compressor are damaged")
            options = read(SUPERBLOCK_SIZE, 2 + (size & 0x7FFF))
        fragment_blocks = _pointers(read, block.fragment_table, 16 * block.fragments)
        id_blocks = _pointers(read, block.id_table, 4 * block.ids)
        export_blocks = () if not block.exportable else _pointers(read, block.export_table, 8 * block.inodes)
        first = SUPERBLOCK_SIZE + len(options)
        stop = min(*fragment_blocks[:1], *export_blocks[:1], *id_blocks[:1], block.bytes_used)
        if not first <= block.inode_table < block.directory_table <= stop:
            raise CannotJoin("its tables are not in their order")
        if any(_lookup(read, id_blocks, 4 * block.ids, decode)):
            raise CannotJoin("it has files of other owners than root")
        tables = (
            unpack(read(block.inode_table, block.directory_table - block.inode_table), decode),
            unpack(read(block.directory_table, stop - block.directory_table), decode),
        )
        return cls(
            fd,
            Recipe(block.compression, block.block_log, options),
            tables=tables,
            root=tables[0].position(block.root_inode),
            data=range(first, block.inode_table),
            fragments=_lookup(read, fragment_blocks, 16 * block.fragments, decode),
            flags=block.flags,
        )

    def fragment(self, number: int) -> tuple[int, int]:
        """Where a fragment block starts, and its size with bit 24 set if it is not compressed."""
        start, size, _ = FRAGMENT.unpack_from(self._fragments, number * FRAGMENT.size)
        if not 0 < size & 0xFFFFFF <= 1 << self.recipe.block_log or size >> 25:
            raise CannotJoin("a layer image has a fragment of an impossible size")
        return start, size

    def directory(self, position: int) -> inodes.Directory:
        """The directory whose inode is at *position*."""
        try:
            return inodes.read_directory(self.inodes, position)
        except struct.error:
            raise _outside() from None

    def file(self, position: int) -> inodes.File:
        """The regular file whose inode is at *position*."""
        try:
            return inodes.read_file(self.inodes, position, self.recipe.block_log)
        except struct.error:
            raise _outside() from None

    def small_file(self, position: int) -> tuple[int, int, int, int, int] | None:
        """As `file`, but only what `read_small_file` gives, and None where it does."""
        try:
            return inodes.read_small_file(self.inodes, position, self._block_size)
        except struct.error:
            raise _outside() from None

    def special(self, position: int, kind: int) -> inodes.Special:
        """The inode of this *kind*, neither file nor directory, at *position*."""
        try:
            return inodes.read_special(self.inodes, position, kind)
        except struct.error:
            raise _outside() from None

    def listing(self, position: int) -> list[tuple[bytes, int, int, int]]:
        """Entries of the directory whose inode is at *position*, as `read_listing` gives them; ask once for each."""
        directory = self.directory(position)
        size = directory.size - 3
        if size <= 0:
            return []
        # No two directories share a listing.  Whoever reads more than there is goes in circles.
        self._unlisted -= size
        if self._unlisted < 0:
            raise CannotJoin("a layer image has a directory twice")
        start = self._listings.position(directory.block << 16 | directory.offset)
        return read_listing(self._listings, start, size, self.inode_blocks)


def _pread(fd: int, end: int, at: int, size: int) -> bytes:
    if size > _MAX_TABLE or at + size > end:
        raise CannotJoin("a table is not in it")
    data = os.pread(fd, size, at)
    if len(data) != size:
        raise CannotJoin("it is cut short")
    return data


def _pointers(read: partial[bytes], at: int, size: int) -> tuple[int, ...]:
    """Where the blocks are of a lookup table of *size* bytes."""
    if size > _MAX_LOOKUP:
        raise CannotJoin("a lookup table is too large")
    count = -(-size // METADATA_SIZE)
    blocks: tuple[int, ...] = struct.unpack(f"<{count}Q", read(at, 8 * count)) if count else ()
    if any(block >= other for block, other in itertools.pairwise(blocks)):
        raise CannotJoin("a lookup table is not in order")  # or one block, many times over
    return blocks


def _lookup(read: partial[bytes], blocks: tuple[int, ...], size: int, decode: partial[bytes]) -> bytes:
    """A lookup table of *size* bytes (doc/format.adoc, "Storing Lookup Tables")."""
    parts = []
    for at in blocks:
        (header,) = struct.unpack("<H", read(at, 2))
        parts.append(unpack(read(at, 2 + (header & 0x7FFF)), decode).data)
    data = b"".join(parts)
    if len(data) != size:
        raise CannotJoin("a lookup table is damaged")
    return data


def _outside() -> CannotJoin:
    return CannotJoin("an inode is outside of its table")
