"""Directory listings (linux/fs/squashfs/squashfs_fs.h; squashfs-tools-ng, doc/format.adoc, "Directory Table").

A listing is a sequence of runs.  A run has a header, with the block that its inodes are in and a number that their
numbers are relative to, and up to 256 names.  Names are in the order of their bytes.
"""

from __future__ import annotations

import operator
import struct
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.squashfs.format.codec import METADATA_SIZE
from enroot_slurm.squashfs.format.metadata import block_at
from enroot_slurm.squashfs.format.superblock import CannotJoin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from enroot_slurm.squashfs.format.metadata import Metadata

__all__ = ["Listing", "name_at", "possible", "read_listing", "write_listing"]

_RUN = struct.Struct("<III")  # names, less one; block of the inodes; number of the first
_NAME = struct.Struct("<HhHH")  # offset of the inode in its block, relative number, kind, length less one; the name
_INDEX = struct.Struct("<III")  # offset in the listing; block of the directory table; length less one; the name
_MAX_NAMES = 256
_MAX_LENGTH = 256
_MAX_LISTING = 1 << 31  # of 32 bits
_RESERVED = frozenset((b"", b".", b".."))


class Listing(NamedTuple):
    """The result of `write_listing`."""

    position: int
    size: int
    skips: list[bytes]
    """An entry for each run that starts 8 KiB after the last one that has an entry, so that lookups can skip."""


def possible(names: Sequence[bytes]) -> bool:
    """Whether a directory can have these *names*: proper ones, each once, in the order of their bytes.

    What is written is held to it as is what is read, so that no image is made that programs call corrupted.
    """
    together = b"/".join(names)
    return (
        b"\0" not in together
        and together.count(b"/") == max(len(names) - 1, 0)
        and _RESERVED.isdisjoint(names)
        and all(map(operator.lt, names, islice(names, 1, None)))
        and max(map(len, names), default=0) <= _MAX_LENGTH
    )


def read_listing(
    table: Metadata, position: int, size: int, inode_blocks: dict[int, int]
) -> list[tuple[bytes, int, int, int]]:
    """The names at *position*: (name, its inode's position, kind, where `name_at` finds it).

    Raises: CannotJoin, unless the names are proper ones, in order.
    """
    data = table.data
    stop = position + size
    if stop > len(data):
        raise CannotJoin("a directory is longer than its table")
    found: list[tuple[bytes, int, int, int]] = []
    add, unpack = found.append, _NAME.unpack_from
    names: list[bytes] = []
    try:
        while position < stop:
            count, block, _ = _RUN.unpack_from(data, position)
            if count >= _MAX_NAMES:
                raise CannotJoin("a directory has a run of too many names")
            base = inode_blocks[block]
            position += _RUN.size
            for _ in range(count + 1):
                offset, _, kind, length = unpack(data, position)
                name = data[position + 8 : position + 9 + length]
                names.append(name)
                add((name, base + offset, kind, position))
                position += 9 + length
    except (struct.error, KeyError):
        raise CannotJoin("a directory is damaged") from None
    if position != stop:
        raise CannotJoin("a directory has a name that is longer than it")
    if not possible(names):
        raise CannotJoin("a directory has an impossible name, or is not sorted")
    return found


def name_at(data: bytes, position: int) -> bytes:
    """The name that `read_listing` found at *position*."""
    return data[position + 8 : position + 9 + (data[position + 6] | data[position + 7] << 8)]


def write_listing(table: bytearray, names: Iterable[tuple[bytes, int, int, int]]) -> Listing:
    """Append *names* to *table*: (name, its inode's position, the inode's number, kind), in order."""
    index: list[bytes] = []
    start = indexed = len(table)
    run = block = first = count = -1
    pack = _NAME.pack
    for name, position, number, kind in names:
        length = len(name)
        full = len(table) + 8 + length - indexed > METADATA_SIZE
        if position // METADATA_SIZE != block or count == _MAX_NAMES or full or not -0x8000 <= number - first <= 0x7FFF:
            if count > 0:
                _RUN.pack_into(table, run, count - 1, block_at(block * METADATA_SIZE), first)
            run, block, first, count = len(table), position // METADATA_SIZE, number, 0
            if full:
                index.append(_INDEX.pack(run - start, block_at(run), length - 1) + name)
                indexed = run
            table += bytes(_RUN.size)
        table += pack(position % METADATA_SIZE, number - first, kind, length - 1)
        table += name
        count += 1
    if count > 0:
        _RUN.pack_into(table, run, count - 1, block_at(block * METADATA_SIZE), first)
    if len(table) - start > _MAX_LISTING or len(index) > 0xFFFF:
        raise CannotJoin("a directory has too many names")
    return Listing(start, len(table) - start, index)
