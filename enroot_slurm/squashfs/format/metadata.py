"""Metadata: streams of records, cut into blocks of 8 KiB (squashfs-tools-ng, doc/format.adoc, "Packing Metadata").

A record is referred to by the place of its block on disk, relative to its table, and its offset in the block.  Here
a table is one piece of bytes, and a record has a *position* in it.  What is written is not compressed, so that the
reference of a position is known before anything is.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.squashfs.format.codec import METADATA_SIZE
from enroot_slurm.squashfs.format.superblock import CannotJoin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Metadata", "block_at", "lookup_table", "packed", "packed_size", "reference", "unpack"]

_HEADER = struct.Struct("<H")
_PLAIN = 0x8000
_PLAIN_BLOCK = _HEADER.size + METADATA_SIZE
_BLOCKS_AT_ONCE = 128
_MAX_TABLE = 1 << 30


class Metadata(NamedTuple):
    """A table that was read."""

    data: bytes
    """All records."""
    starts: dict[int, int]
    """By the place of a block on disk, relative to the table: the position of its first byte in *data*."""

    @classmethod
    def plain(cls, data: bytes) -> Metadata:
        """A table as `packed` would write it."""
        return cls(data, {block_at(i): i for i in range(0, max(len(data), 1), METADATA_SIZE)})

    def position(self, reference: int) -> int:
        """Where the record of a 64-bit *reference* is.  Raises: CannotJoin."""
        start = self.starts.get(reference >> 16)
        if start is None:
            raise CannotJoin("a reference to metadata leads nowhere")
        return start + (reference & 0xFFFF)


def unpack(raw: bytes, decompress: Callable[[bytes], bytes]) -> Metadata:
    """The table whose blocks are *raw*, without gaps.  Raises: CannotJoin."""
    parts: list[bytes | memoryview] = []
    starts: dict[int, int] = {}
    view = memoryview(raw)
    at = position = 0
    while at < len(raw):
        header = _HEADER.unpack_from(raw, at)[0] if at + 2 <= len(raw) else 0
        size = header & ~_PLAIN
        stop = at + 2 + size
        if not 0 < size <= METADATA_SIZE or stop > len(raw):
            raise CannotJoin("a block of metadata is damaged")
        if position > _MAX_TABLE:
            raise CannotJoin("a table is too large")
        content = view[at + 2 : stop]
        part = content if header & _PLAIN else decompress(bytes(content))
        starts[at] = position
        parts.append(part)
        position += len(part)
        at = stop
    return Metadata(b"".join(parts), starts)


def block_at(position: int) -> int:
    """Where the block of *position* is on disk, relative to its table, in what `packed` writes."""
    return position // METADATA_SIZE * _PLAIN_BLOCK


def reference(position: int) -> int:
    """The 64-bit reference of *position* in what `packed` writes."""
    return block_at(position) << 16 | position % METADATA_SIZE


def packed_size(length: int) -> int:
    """How many bytes `packed` makes of *length*."""
    return length + -(-length // METADATA_SIZE) * _HEADER.size


def packed(data: bytes | bytearray) -> Iterator[bytes]:
    """Yield *data* in uncompressed blocks, about a megabyte at a time."""
    starts = range(0, len(data), METADATA_SIZE)
    for first in range(0, len(starts), _BLOCKS_AT_ONCE):
        blocks = (data[i : i + METADATA_SIZE] for i in starts[first : first + _BLOCKS_AT_ONCE])
        yield b"".join(part for block in blocks for part in (_HEADER.pack(_PLAIN | len(block)), block))


def lookup_table(data: bytes, at: int) -> tuple[bytes, int]:
    """The array *data* as it is to be written *at* a place, and the place to tell the superblock.

    This is that of the list of its blocks, which comes last (doc/format.adoc, "Storing Lookup Tables").
    """
    blocks = [at + block_at(i) for i in range(0, len(data), METADATA_SIZE)]
    return b"".join(packed(data)) + struct.pack(f"<{len(blocks)}Q", *blocks), at + packed_size(len(data))
