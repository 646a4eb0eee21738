"""What compressing costs an import, and which other options would cost it less: tried on some of its own blocks."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.squashfs.options import SquashOptions
from enroot_slurm.squashfs.writing.compressors import compressor_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["FASTER", "Compressing", "Trial", "options_with", "try_out"]

FASTER = (
    "-comp zstd -Xcompression-level 3",
    "-comp zstd -Xcompression-level 1",
    "-comp lzo -Xalgorithm lzo1x_1_15",
    "-comp lz4",
)
"""Options that are worth a try."""
_SAMPLE = 2 << 20  # bytes of blocks that are kept to try others on
_MOST = 0.5  # share of the processors' time from which on compressing is most of the work
_SHORTEST = 5.0  # seconds of an import that nobody wants to be faster
_WORTH = 2.0  # times as fast: less is not worth a word


class Trial(NamedTuple):
    """What compressing some blocks gives."""

    seconds: float
    """Of processor time."""
    size: int
    """Bytes."""


class Compressing:
    """Counts what compressing with *options* takes in *threads*, since it was made.

    An import that takes fewer seconds than *shortest* is no matter.
    """

    def __init__(self, options: SquashOptions, threads: int, *, shortest: float = _SHORTEST) -> None:
        self._shortest = shortest
        self._options = options
        self._threads = threads
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._seconds = 0.0
        self._count = 0
        self._stride = 1
        self._sample: list[bytes] = []

    def counted(self, compress: Callable[[bytes], bytes]) -> Callable[[bytes], bytes]:
        """*compress*, whose calls count."""

        def call(data: bytes) -> bytes:
            # By the clock, as the whole is: on a busy node both take longer.
            began = time.monotonic()
            result = compress(data)
            seconds = time.monotonic() - began
            with self._lock:
                self._seconds += seconds
                self._count += 1
                if self._count % self._stride == 0:
                    self._keep(data)
            return result

        return call

    def hint(self) -> str:
        """Which options would be faster, and by how much; or nothing, if there is little to be gained."""
        elapsed = (time.monotonic() - self._began) * self._threads
        share = self._seconds / elapsed if elapsed else 0.0
        if share < _MOST or elapsed < self._shortest * self._threads or not self._sample:
            return ""
        now = try_out(self._options, self._sample)
        found = []
        for words in FASTER:
            other = options_with(self._options, words)
            try:
                trial = try_out(other, self._sample)
            except EnrootSlurmError:  # its library is missing
                continue
            if trial.seconds * _WORTH <= now.seconds:
                found.append((trial.size, trial, words))
        if not found:
            return ""
        _, best, words = min(found)
        larger = 100 * (best.size - now.size) / now.size
        how = f"{larger:.0f} % larger" if larger >= 0.5 else "no larger"
        return (
            f"{100 * min(share, 1):.0f} % of the processors' time went into compressing. On blocks of this image, "
            f"'{words}' is {now.seconds / max(best.seconds, 1e-6):.0f} times as fast, and what it compresses {how} "
            "(setting squash_options)"
        )

    def _keep(self, data: bytes) -> None:
        """Add a block to the sample, which is spread over all that have come."""
        self._sample.append(data)
        if sum(map(len, self._sample)) > _SAMPLE:
            del self._sample[::2]
            self._stride *= 2


def options_with(options: SquashOptions, words: str) -> SquashOptions:
    """*options* with the compressor of *words* in place of theirs."""
    kept: list[str] = []
    skip = False
    for word in options.arguments:
        if skip:
            skip = False
        elif word == "-comp" or (word.startswith("-X") and word != "-Xhc"):
            skip = True
        elif word != "-Xhc":
            kept.append(word)
    return SquashOptions.parse(" ".join([*kept, words]))


def try_out(options: SquashOptions, blocks: Sequence[bytes]) -> Trial:
    """Compress *blocks* with *options*, in this thread.  Raises: ConversionError, when a library is missing."""
    compress = compressor_of(options).compress
    compress(blocks[0])
    began = time.thread_time()
    size = sum(min(len(block), len(compress(block))) for block in blocks)
    return Trial(time.thread_time() - began, size)
