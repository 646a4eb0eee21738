"""Blocks of data on their way into an image: compressed by several threads, written in the order they came.

A thread is given several blocks at once: what wakes it up, and waits for it, costs as much as a small block.
"""

from __future__ import annotations

import collections
import os
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.squashfs.format.superblock import UNCOMPRESSED
from enroot_slurm.system.file_copy import WriteBack

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor, Future

    from enroot_slurm.system.checksum import Checksum

__all__ = ["Blocks"]

_GATHER = 1 << 20  # bytes that are gathered before the kernel is called
_IOV_MAX = 1000
_BATCH = 512 << 10  # bytes that a thread compresses at once
_AHEAD = 4 << 20, 16 << 20  # bytes that wait for a compressed block before them: by the threads, from and up to
_CALLS = 4096  # calls that wait for it


class _Batch:
    """Blocks that one thread compresses, one after the other."""

    def __init__(self) -> None:
        self.blocks: list[list[memoryview]] = []
        self.size = 0
        self.job: Future[list[bytes]] | None = None
        """None: more may come."""


class _Waiting(NamedTuple):
    batch: _Batch | None
    number: int  # in its batch
    pieces: list[memoryview]
    size: int
    done: Callable[[int, int], object]
    calls: list[Callable[[], object]]  # when it has its place


class Blocks:
    """The blocks of the image file *fd*, from *at* on; *compress* makes one smaller, in *pool*, which has *threads*.

    Where a block goes depends on those before it alone, never on which thread is faster.  *checksum*, if there is one,
    is told all that is written.
    """

    def __init__(
        self,
        fd: int,
        at: int,
        compress: Callable[[bytes], bytes],
        pool: Executor,
        threads: int,
        checksum: Checksum | None = None,
    ) -> None:
        self.at = at
        """Where the next block goes, when no block waits."""
        self._fd = fd
        self._compress = compress
        self._pool = pool
        self._checksum = checksum
        if checksum is not None:
            checksum.clear()
            checksum.add(bytes(at))
        self._waiting: collections.deque[_Waiting] = collections.deque()
        self._batch: _Batch | None = None  # to which blocks may be added
        self._bytes = self._calls = 0  # in blocks that wait, and behind them
        self._ahead = min(max(_AHEAD[0], 2 * threads * _BATCH), _AHEAD[1])
        self._gathered: list[bytes | memoryview] = []
        self._size = 0  # of these
        self._write_back = WriteBack(fd, at)

    def add(self, pieces: list[memoryview], size: int, done: Callable[[int, int], object], *, plain: bool) -> None:
        """Add a block of *size* bytes; *done* is told its place and what stands for its size in an inode.

        A *plain* one is stored as it is.
        """
        batch, number = None, 0
        if plain:
            if not self._waiting:
                done(self.at, size | UNCOMPRESSED)
                self._write(pieces, size)
                return
        else:
            batch = self._batch = self._batch or _Batch()
            number = len(batch.blocks)
            batch.blocks.append(pieces)
            batch.size += size
        self._waiting.append(_Waiting(batch, number, pieces, size, done, []))
        self._bytes += size
        # When much waits, threads are busy, or plain blocks come only: no more should wait for this batch.
        if self._batch and (self._batch.size >= _BATCH or self._bytes > self._ahead // 2):
            self._submit(self._batch)
        self._settle(self._ahead)

    def then(self, call: Callable[[], object]) -> None:
        """Call *call* when all blocks so far have their places."""
        if not self._waiting:
            call()
            return
        self._waiting[-1].calls.append(call)
        self._calls += 1
        if self._calls > _CALLS:
            self._settle(0)

    def flush(self) -> None:
        """Write all that is held back; the blocks that wait for a thread stay."""
        pending, self._gathered = self._gathered, []
        if self._checksum is not None:
            for piece in pending:
                self._checksum.add(piece)
        at, self._size = self.at - self._size, 0
        while pending:
            count = os.pwritev(self._fd, pending[:_IOV_MAX], at)
            at += count
            first = 0
            while first < len(pending) and count >= len(pending[first]):
                count -= len(pending[first])
                first += 1
            del pending[:first]
            if count:
                pending[0] = memoryview(pending[0])[count:]
        self._write_back.reached(at)

    def finish(self) -> int:
        """Write everything; where the last block ends."""
        self._settle(0)
        self.flush()
        return self.at

    def equal(self, first: int, second: int, size: int) -> bool:
        """Whether the *size* bytes at two places that have their blocks are the same."""
        self.flush()
        while size:
            step = min(size, _GATHER)
            if os.pread(self._fd, step, first) != os.pread(self._fd, step, second):
                return False
            first, second, size = first + step, second + step, size - step
        return True

    def rewind(self, at: int) -> None:
        """Take back all from *at* on, if no block has come since."""
        self.flush()
        self.at = at
        if self._checksum is not None:
            self._checksum.rewind(self._fd, at)

    def _settle(self, most: int) -> None:
        """Give blocks their places: those that are compressed, and all but the last *most* bytes."""
        waiting = self._waiting
        while waiting:
            batch, number, pieces, size, done, calls = waiting[0]
            word = size | UNCOMPRESSED
            if batch is not None:
                if self._bytes <= most and (batch.job is None or not batch.job.done()):
                    return
                smaller = (batch.job or self._submit(batch)).result()[number]
                if len(smaller) < size:
                    pieces, word = [memoryview(smaller)], len(smaller)
            waiting.popleft()
            self._bytes -= size
            done(self.at, word)
            self._write(pieces, word & ~UNCOMPRESSED)
            self._calls -= len(calls)
            for call in calls:
                call()

    def _submit(self, batch: _Batch) -> Future[list[bytes]]:
        batch.job = self._pool.submit(self._compressed, batch.blocks)
        self._batch = None
        return batch.job

    def _write(self, pieces: list[memoryview], size: int) -> None:
        self._gathered += pieces
        self._size += size
        self.at += size
        if self._size >= _GATHER or len(self._gathered) >= _IOV_MAX:
            self.flush()

    def _compressed(self, blocks: list[list[memoryview]]) -> list[bytes]:
        return [self._compress(b"".join(pieces)) for pieces in blocks]
