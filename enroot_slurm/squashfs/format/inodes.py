"""Inodes (linux/fs/squashfs/squashfs_fs.h; squashfs-tools-ng, doc/format.adoc, "Inode Table").

Each kind has a basic form and an extended one, whose number is higher by seven.  Extended attributes and owners other
than root are not for layer images; what is written is basic wherever it can be.

The readers raise struct.error where a table ends too early, and CannotJoin.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

from enroot_slurm.squashfs.format.superblock import UNCOMPRESSED, CannotJoin

__all__ = [
    "BLOCK_DEVICE",
    "CHAR_DEVICE",
    "DIRECTORY",
    "FIFO",
    "FILE",
    "NOTHING",
    "SOCKET",
    "SYMLINK",
    "Directory",
    "File",
    "Special",
    "pack_file",
    "read_directory",
    "read_file",
    "read_small_file",
    "read_special",
]

DIRECTORY, FILE, SYMLINK, BLOCK_DEVICE, CHAR_DEVICE, FIFO, SOCKET = range(1, 8)
_EXTENDED = 7
NOTHING = 0xFFFFFFFF
"""The number of the fragment, or of the extended attributes, of an inode that has none."""

_new = tuple.__new__  # what a NamedTuple's own does, without a call between
_COMMON = "<HHHHII"  # kind, mode, user, group, mtime, number
_DIRECTORY = struct.Struct(f"{_COMMON}IIHHI")  # block, links, size, offset, parent
_EXTENDED_DIRECTORY = struct.Struct(f"{_COMMON}IIIIHHI")  # links, size, block, parent, indices, offset, xattrs
_FILE = struct.Struct(f"{_COMMON}IIII")  # start, fragment, offset, size; then the blocks
_SMALL_FILE = struct.Struct("<HHxxxxIxxxxxxxxIII")  # kind, mode, mtime, fragment, offset, size
_EXTENDED_FILE = struct.Struct(f"{_COMMON}QQQIIII")  # start, size, sparse, links, fragment, offset, xattrs; blocks
_SPECIAL = struct.Struct(f"{_COMMON}I")  # links; then what the kind needs
_NUMBER = struct.Struct("<I")
_SIZE = UNCOMPRESSED - 1  # the rest of a block's size
_MAX_TARGET = 4096  # PATH_MAX: longer symlinks can't be read (limits.h)
_MAX_BASIC_LISTING = 0xFFFF


class Directory(NamedTuple):
    """A directory."""

    mode: int
    mtime: int
    block: int
    """Where the block is, in the directory table, that its listing starts in."""
    offset: int
    """Of the listing in that block."""
    size: int
    """Bytes of the listing, and three more."""

    def pack(self, number: int, links: int, parent: int, index: list[bytes]) -> bytes:
        """The inode *number*, in the directory *parent*, with the packed entries of its *index*."""
        if self.size <= _MAX_BASIC_LISTING and not index:
            return _DIRECTORY.pack(
                *(DIRECTORY, self.mode, 0, 0, self.mtime, number, self.block, links, self.size, self.offset, parent)
            )
        return _EXTENDED_DIRECTORY.pack(
            *(DIRECTORY + _EXTENDED, self.mode, 0, 0, self.mtime, number),
            *(links, self.size, self.block, parent, len(index), self.offset, NOTHING),
        ) + b"".join(index)


class File(NamedTuple):
    """A regular file."""

    mode: int
    mtime: int
    links: int
    start: int
    """Where its blocks are in the image."""
    size: int
    sparse: int
    """Bytes that its holes save."""
    fragment: int
    """Which one has its tail, or `NOTHING`."""
    offset: int
    """Of the tail in the fragment."""
    blocks: bytes
    """The 32-bit sizes of its blocks on disk; bit 24 is set for uncompressed ones."""

    @property
    def stored(self) -> int:
        """Bytes of its blocks in the image.  Raises: CannotJoin, for impossible sizes."""
        blocks = self.blocks
        if not blocks:
            return 0
        if len(blocks) == 4:  # most files; ten times as fast as what follows
            (largest,) = _NUMBER.unpack(blocks)
            stored: int = largest & _SIZE
        else:
            sizes = struct.unpack(f"<{len(blocks) // 4}I", blocks)
            largest = max(sizes)
            stored = sum([size & _SIZE for size in sizes])
        if largest > UNCOMPRESSED | _SIZE:
            raise CannotJoin("a file has a block of an impossible size")
        return stored

    def pack(self, number: int) -> bytes:
        """The inode *number*."""
        return pack_file(number, *self)


class Special(NamedTuple):
    """A symlink, device, fifo or socket."""

    kind: int
    mode: int
    mtime: int
    links: int
    content: bytes
    """The rest: length and target of a symlink, the number of a device."""

    def pack(self, number: int) -> bytes:
        """The inode *number*."""
        return _SPECIAL.pack(self.kind, self.mode, 0, 0, self.mtime, number, self.links) + self.content


def pack_file(
    number: int,
    mode: int,
    mtime: int,
    links: int,
    start: int,
    size: int,
    sparse: int,
    fragment: int,
    offset: int,
    blocks: bytes,
) -> bytes:
    """The inode *number* of a `File` with these fields, which need not be made first: it takes as long as all else."""
    if links == 1 and not sparse and start <= 0xFFFFFFFF and size <= 0xFFFFFFFF:
        return _FILE.pack(FILE, mode, 0, 0, mtime, number, start, fragment, offset, size) + blocks
    return (
        _EXTENDED_FILE.pack(
            *(FILE + _EXTENDED, mode, 0, 0, mtime, number),
            *(start, size, sparse, links, fragment, offset, NOTHING),
        )
        + blocks
    )


def read_directory(table: bytes, position: int) -> Directory:
    """The directory at *position*."""
    kind = table[position] if position < len(table) else 0
    if kind == DIRECTORY:
        kind, mode, _, _, mtime, _, block, _, size, offset, _ = _DIRECTORY.unpack_from(table, position)
        xattrs = NOTHING
    else:
        kind, mode, _, _, mtime, _, _, size, block, _, _, offset, xattrs = _EXTENDED_DIRECTORY.unpack_from(
            table, position
        )
    _check(kind, DIRECTORY, xattrs)
    return Directory(mode & 0o7777, mtime, block, offset, size)


def read_file(table: bytes, position: int, block_log: int) -> File:
    """The regular file at *position*, of an image with blocks of 2**block_log bytes."""
    kind, mode, _, _, mtime, _, start, fragment, offset, size = _FILE.unpack_from(table, position)
    if kind == FILE:
        sparse, links = 0, 1
        position += _FILE.size
    else:
        kind, mode, _, _, mtime, _, start, size, sparse, links, fragment, offset, xattrs = _EXTENDED_FILE.unpack_from(
            table, position
        )
        _check(kind, FILE, xattrs)
        position += _EXTENDED_FILE.size
    count = size >> block_log
    tail = size - (count << block_log)
    if fragment == NOTHING:
        count += tail > 0
    elif offset + tail > 1 << block_log:
        raise CannotJoin("the tail of a file is not in its fragment")
    stop = position + 4 * count
    if stop > len(table):
        raise CannotJoin("a file has more blocks than its image")
    return _new(File, (mode & 0o7777, mtime, links, start, size, sparse, fragment, offset, table[position:stop]))


def read_small_file(table: bytes, position: int, block_size: int) -> tuple[int, int, int, int, int] | None:
    """Mode, mtime, fragment, offset and size of the regular file at *position*, if it is basic and has no blocks.

    Most files are such ones, and `read_file` takes longer.
    """
    kind, mode, mtime, fragment, offset, size = _SMALL_FILE.unpack_from(table, position)
    if kind == FILE and (size < block_size >= offset + size if fragment != NOTHING else not size):
        return mode & 0o7777, mtime, fragment, offset, size
    return None


def read_special(table: bytes, position: int, kind: int) -> Special:
    """The inode of this *kind*, neither file nor directory, at *position*."""
    found, mode, _, _, mtime, _, links = _SPECIAL.unpack_from(table, position)
    position += _SPECIAL.size
    stop = position
    if kind == SYMLINK:
        (length,) = _NUMBER.unpack_from(table, position)
        if not 0 < length <= _MAX_TARGET:
            raise CannotJoin(f"a symlink has a target of {length} bytes")
        stop += 4 + length
    elif kind in (BLOCK_DEVICE, CHAR_DEVICE):
        stop += 4
    if stop > len(table):
        raise CannotJoin("an inode is cut short")
    _check(found, kind, _NUMBER.unpack_from(table, stop)[0] if found == kind + _EXTENDED else NOTHING)
    return Special(kind, mode & 0o7777, mtime, links, table[position:stop])


def _check(found: int, kind: int, xattrs: int) -> None:
    if found not in (kind, kind + _EXTENDED):
        raise CannotJoin(f"an inode is of kind {found}, not {kind}")
    if xattrs != NOTHING:
        raise CannotJoin("an inode has extended attributes")
