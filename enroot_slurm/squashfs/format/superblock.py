"""The squashfs 4.0 superblock (linux/fs/squashfs/squashfs_fs.h; squashfs-tools-ng, doc/format.adoc, "The Superblock").

And `CannotJoin`, which all modules raise that read layer images.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from enroot_slurm.errors import ConversionError, IntegrityError, StorageError, limit_hint, shortage

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "ABSENT",
    "FRAGMENT",
    "MAGIC",
    "SUPERBLOCK_SIZE",
    "UNCOMPRESSED",
    "CannotJoin",
    "Flag",
    "Superblock",
    "unwritten",
]

_LAYOUT = struct.Struct("<5I6H8Q")
SUPERBLOCK_SIZE = _LAYOUT.size
FRAGMENT = struct.Struct("<QII")
"""An entry of the fragment table: start, size (with `UNCOMPRESSED` if it is), unused."""
UNCOMPRESSED = 1 << 24
"""Set in the size of a block of data, or a fragment, that is stored as it is."""
MAGIC = 0x73717368
ABSENT = 0xFFFFFFFFFFFFFFFF
"""The position of a table that an image does not have."""
_COMPRESSORS = {1: "gzip", 2: "lzma", 3: "lzo", 4: "xz", 5: "lz4", 6: "zstd"}


class CannotJoin(ConversionError):
    """A layer image is damaged, or has something that the linker does not understand; streaming is the way then."""


class Flag(enum.IntFlag):
    """Bits of `Superblock.flags`; all but `OPTIONS` only tell how the image was made."""

    PLAIN_INODES = 0x1
    PLAIN_DATA = 0x2
    PLAIN_FRAGMENTS = 0x8
    NO_FRAGMENTS = 0x10
    ALWAYS_FRAGMENTS = 0x20
    DEDUPLICATED = 0x40
    EXPORTABLE = 0x80
    PLAIN_XATTRS = 0x100
    NO_XATTRS = 0x200
    OPTIONS = 0x400
    PLAIN_IDS = 0x800


class Superblock(NamedTuple):
    """The first 96 bytes of an image."""

    magic: int
    inodes: int
    mtime: int
    block_size: int
    fragments: int
    compression: int
    block_log: int
    flags: int
    ids: int
    major: int
    minor: int
    root_inode: int
    bytes_used: int
    id_table: int
    xattr_table: int
    inode_table: int
    directory_table: int
    fragment_table: int
    export_table: int

    @classmethod
    def read(cls, image: BinaryIO) -> Superblock:
        """The superblock of *image*, which is read from its start, checked against the file's size.

        Raises: IntegrityError, when this is no complete squashfs 4.0 image.
        """
        image.seek(0)
        raw = image.read(_LAYOUT.size)
        return cls.parse(raw, image.seek(0, 2))

    @classmethod
    def parse(cls, raw: bytes, size: int) -> Superblock:
        """The superblock in *raw*, the first bytes of an image that has *size* bytes.

        Raises: IntegrityError, as `read` does.
        """
        if len(raw) < _LAYOUT.size:
            raise IntegrityError(f"not a squashfs image: it has {size} bytes")
        block = cls(*_LAYOUT.unpack_from(raw))
        tables = (block.id_table, block.inode_table, block.directory_table)
        if (block.magic, block.major, block.minor) != (MAGIC, 4, 0):
            raise IntegrityError("not a squashfs 4.0 image")
        if block.block_size != 1 << block.block_log or not 12 <= block.block_log <= 20:
            raise IntegrityError("the squashfs image is damaged: its block size is impossible")
        if block.bytes_used > size or any(t >= block.bytes_used for t in tables) or block.compressor == "unknown":
            raise IntegrityError(f"the squashfs image is incomplete: {size} bytes of {block.bytes_used}")
        return block

    def __bytes__(self) -> bytes:
        return _LAYOUT.pack(*self)

    @property
    def compressor(self) -> str:
        """The compressor's name, as mksquashfs spells it."""
        return _COMPRESSORS.get(self.compression, "unknown")

    @property
    def exportable(self) -> bool:
        """Whether the image has the table that NFS servers need."""
        return self.export_table != ABSENT


def unwritten(image: Path, error: OSError) -> StorageError:
    """The error for an *image* that could not be written."""
    if short := shortage(error):
        return StorageError(
            f"{short} to write the image: {image.parent}",
            hint="Free space there (in a cache, 'enroot-slurm cache gc' may do it), or choose another place: "
            "--output for a file, ENROOT_CACHE_PATH for the cache.",
        )
    return StorageError(f"can't write the image {image}: {error.strerror}", hint=limit_hint(error))
