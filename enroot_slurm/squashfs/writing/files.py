"""The contents of regular files on their way into an image: cut into blocks, tails packed, doubles stored once."""

from __future__ import annotations

import zlib
from array import array
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConversionError
from enroot_slurm.squashfs.format.inodes import NOTHING
from enroot_slurm.squashfs.format.superblock import FRAGMENT, UNCOMPRESSED

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.squashfs.options import SquashOptions
    from enroot_slurm.squashfs.writing.blocks import Blocks

__all__ = ["Files", "Stored"]

_ZEROS = bytes(1 << 20)
_MOST_DOUBLES = 1 << 17  # contents that are remembered: more would need too much memory
_MOST_CANDIDATES = 8  # files that one is compared with
_HEAD = 4096  # bytes that tell most files of one size apart
_SIZE = UNCOMPRESSED - 1
_SIZE_BITS = 20  # a block has a MiB at most, and a tail is less


class Stored(NamedTuple):
    """Where the content of a file is, as an inode has it."""

    start: int
    sparse: int
    """Bytes of blocks that are all zeros, and not stored."""
    fragment: int
    offset: int
    blocks: array[int]


class Files:
    """The contents of files, one after the other, into *blocks*.

    Each begins with `begin`, and is told to its *done* when it has its place; that may be later, in the same order.
    """

    def __init__(self, blocks: Blocks, options: SquashOptions) -> None:
        words = options.arguments
        self._blocks = blocks
        self._block_size = options.block_size
        self._plain = "-noD" in words
        self._plain_fragments = "-noF" in words
        self._packs = "-no-fragments" not in words
        self._packs_tails = self._packs and "-no-tailends" not in words
        self._seeks_doubles = "-no-duplicates" not in words
        self.table = bytearray()
        """The fragment table, when all is written."""
        self._fragment: list[bytes] = []  # tails for the next fragment
        self._fragment_size = self._fragments = 0
        self._tails: dict[int, int] = {}  # by their hash: fragment << 20 | offset
        self._doubles: dict[tuple[int, int, int, int], list[Stored]] = {}
        self._done: Callable[[Stored], None] = lambda _: None
        self._left = self._room = 0
        self._pieces: list[memoryview] = []
        self.ended = False
        """Set from another thread: whoever goes on gets ConversionError."""

    def begin(self, size: int, done: Callable[[Stored], None]) -> None:
        """Begin a file; *size* bytes are to come, by `slice` and `zeros`."""
        assert not self._left
        self._size = self._left = size
        self._room = min(size, self._block_size)
        self._done = done
        self._file = _Blocks(array("I"))
        if not size:
            self._end(None)

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        """The content goes on with ``chunk[start:stop]``."""
        view = memoryview(chunk)
        while start < stop:
            step = min(stop - start, self._room)
            self._pieces.append(view[start : start + step])
            start += step
            self._room -= step
            if not self._room:
                self._cut()

    def zeros(self, count: int) -> None:
        """The content goes on with *count* zeros."""
        while count:
            if count >= self._block_size == self._room <= self._left:
                whole = min(count, self._left) // self._block_size
                self._file.add_zeros(self._blocks, whole, whole * self._block_size)
                count -= whole * self._block_size
                self._advance(whole * self._block_size)
                continue
            step = min(count, self._room, len(_ZEROS))
            self.slice(_ZEROS, 0, step)
            count -= step

    def finish(self) -> int:
        """Write what is held back; where the data ends."""
        self._close_fragment()
        return self._blocks.finish()

    def _cut(self) -> None:
        """A block is complete, or the last part of a file."""
        if self.ended:
            raise ConversionError("the image is not wanted any more")
        pieces, self._pieces = self._pieces, []
        size = min(self._left, self._block_size)
        if size < self._block_size and (self._packs_tails or (self._packs and self._size < self._block_size)):
            self._left = 0
            self._end(b"".join(pieces))
            return
        if pieces[0][0] == 0 and all(map(_is_zero, pieces)):
            self._file.add_zeros(self._blocks, 1, size)
        else:
            if not self._file.begun:
                self._file.begun = True
                self._file.head = zlib.crc32(pieces[0][:_HEAD] if len(pieces[0]) >= _HEAD else b"".join(pieces)[:_HEAD])
            self._blocks.add(pieces, size, self._file.add, plain=self._plain)
        self._advance(size)

    def _advance(self, size: int) -> None:
        self._left -= size
        self._room = min(self._left, self._block_size)
        if not self._left:
            self._end(None)

    def _end(self, tail: bytes | None) -> None:
        file, done, size = self._file, self._done, self._size
        fragment, offset, digest = NOTHING, 0, 0
        if tail is not None:
            digest = _digest(tail) if self._seeks_doubles else 0
            fragment, offset = self._pack(tail, digest)
        if not size or (tail is not None and size < self._block_size):  # there are no blocks to wait for
            self._blocks.then(partial(done, Stored(0, 0, fragment, offset, file.blocks)))
            return

        def end() -> None:
            stored = Stored(file.start, file.sparse, fragment, offset, file.blocks)
            if file.begun and self._seeks_doubles:
                stored = self._once(stored, (size, file.head, digest, len(file.blocks)))
            done(stored)

        self._blocks.then(end)

    def _pack(self, tail: bytes, digest: int) -> tuple[int, int]:
        """The fragment and the place in it of *tail*."""
        if self._seeks_doubles and (found := self._tails.get(digest)) is not None:
            return found >> 20, found & 0xFFFFF
        if self._fragment_size + len(tail) > self._block_size:
            self._close_fragment()
        offset = self._fragment_size
        self._fragment.append(tail)
        self._fragment_size += len(tail)
        if self._seeks_doubles and len(self._tails) < _MOST_DOUBLES:
            self._tails[digest] = self._fragments << 20 | offset
        return self._fragments, offset

    def _close_fragment(self) -> None:
        tails, self._fragment = self._fragment, []
        size, self._fragment_size = self._fragment_size, 0
        if size:
            self._fragments += 1
            pieces = [memoryview(tail) for tail in tails]
            self._blocks.add(pieces, size, self._add_fragment, plain=self._plain_fragments)

    def _add_fragment(self, start: int, size: int) -> None:
        self.table += FRAGMENT.pack(start, size, 0)

    def _once(self, stored: Stored, key: tuple[int, int, int, int]) -> Stored:
        """*stored*, or where the same content has been stored before; then its blocks are taken back."""
        candidates = self._doubles.setdefault(key, [])
        length = sum(size & _SIZE for size in stored.blocks)
        for before in candidates:
            if before.blocks == stored.blocks and self._blocks.equal(before.start, stored.start, length):
                if stored.start + length == self._blocks.at:
                    self._blocks.rewind(stored.start)
                return before
        if len(candidates) < _MOST_CANDIDATES:
            candidates.append(stored)
        return stored


def _is_zero(piece: memoryview) -> bool:
    """Whether *piece* has but zeros; comparing is ten times as fast as stripping."""
    return piece.obj is _ZEROS or piece.tobytes() == bytes(len(piece))


def _digest(content: bytes) -> int:
    """64 bits of keyed SipHash, and the size: what hashlib computes waits for the interpreter's lock to come back.

    A content is taken for one of the remembered ones of its size by a chance of 1 in 10**14.
    """
    return hash(content) << _SIZE_BITS | len(content)


class _Blocks:
    """The blocks of one file."""

    def __init__(self, blocks: array[int]) -> None:
        self.blocks = blocks
        self.start = self.sparse = self.head = 0
        self.begun = False
        """Whether a block is stored."""
        self._placed = False

    def add(self, start: int, size: int) -> None:
        """A block has its place."""
        if not self._placed:
            self._placed = True
            self.start = start
        self.blocks.append(size)

    def add_zeros(self, blocks: Blocks, count: int, size: int) -> None:
        """*count* blocks of zeros follow."""

        def add() -> None:
            self.blocks.extend([0] * count)
            self.sparse += size

        blocks.then(add)
