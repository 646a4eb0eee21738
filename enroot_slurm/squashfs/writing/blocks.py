"""Blocks of data on their way into an image: compressed by several threads, written in the order they came."""

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
_AHEAD = 1024  # blocks and calls, or
_AHEAD_BYTES = 16 << 20  # bytes that wait for a compressed block before them


class _Waiting(NamedTuple):
    job: Future[bytes] | None
    pieces: list[memoryview]
    size: int
    done: Callable[[int, int], object]


class Blocks:
    """The blocks of the image file *fd*, from *at* on; *compress* makes one smaller, in the threads of *pool*.

    Where a block goes depends on those before it alone, never on which thread is faster.  *checksum*, if there is one,
    is told all that is written.
    """

    def __init__(
        self, fd: int, at: int, compress: Callable[[bytes], bytes], pool: Executor, checksum: Checksum | None = None
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
        self._bytes = 0  # in blocks that wait
        self._gathered: list[bytes | memoryview] = []
        self._size = 0  # of these
        self._write_back = WriteBack(fd, at)

    def add(self, pieces: list[memoryview], size: int, done: Callable[[int, int], object], *, plain: bool) -> None:
        """Add a block of *size* bytes; *done* is told its place and what stands for its size in an inode.

        A *plain* one is stored as it is.
        """
        if plain:
            if not self._waiting:
                done(self.at, size | UNCOMPRESSED)
                self._write(pieces, size)
                return
            job = None
        else:
            job = self._pool.submit(self._compressed, pieces)
        self._waiting.append(_Waiting(job, pieces, size, done))
        self._bytes += size
        self._settle(_AHEAD, _AHEAD_BYTES)

    def then(self, call: Callable[[], object]) -> None:
        """Call *call* when all blocks so far have their places."""
        if self._waiting:
            self._waiting.append(_Waiting(None, [], 0, lambda *_: call()))
            self._settle(_AHEAD, _AHEAD_BYTES)
        else:
            call()

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
        self._settle(0, 0)
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

    def _settle(self, most: int, most_bytes: int) -> None:
        waiting = self._waiting
        while waiting:
            job, pieces, size, done = waiting[0]
            if job is not None and not job.done() and len(waiting) <= most and self._bytes <= most_bytes:
                return
            waiting.popleft()
            self._bytes -= size
            word = size | UNCOMPRESSED
            if job is not None:
                smaller = job.result()
                if len(smaller) < size:
                    pieces, size = [memoryview(smaller)], len(smaller)
                    word = size
            done(self.at, word)
            if size:
                self._write(pieces, size)

    def _write(self, pieces: list[memoryview], size: int) -> None:
        self._gathered += pieces
        self._size += size
        self.at += size
        if self._size >= _GATHER or len(self._gathered) >= _IOV_MAX:
            self.flush()

    def _compressed(self, pieces: list[memoryview]) -> bytes:
        return self._compress(b"".join(pieces))
