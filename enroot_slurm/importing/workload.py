"""How far an import is: bytes of blobs that have been decoded, and then of layers that have been copied together."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

from enroot_slurm.progress import size_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.progress import Progress

__all__ = ["Workload"]

_COPYING = 8
"""How many times as fast as decoding and squashing a layer is copying its image.

Which data is copied is not known before all layers are decoded.  It is taken for as much as their blobs.
"""


class Workload:
    """The work on *blobs*, whose sizes in bytes are given, and on joining layers of *joined* bytes; told to *progress*.

    Safe for several threads.
    """

    def __init__(self, progress: Progress, blobs: Mapping[Digest, int], joined: int = 0) -> None:
        self._progress = progress
        self._blobs = dict(blobs)
        self._joined = joined // _COPYING
        self._total = sum(blobs.values()) + self._joined
        self._read = dict.fromkeys(blobs, 0)
        self._decoded = 0
        self._lock = threading.Lock()
        progress.advanced(0, self._total)

    def add(self, blobs: Mapping[Digest, int]) -> None:
        """*blobs* are to be decoded as well; those that are known are to be decoded again."""
        with self._lock:
            for digest, size in blobs.items():
                self._total += self._read.get(digest, size)
            self._blobs.update(blobs)
            self._read.update(dict.fromkeys(blobs, 0))
            self._progress.advanced(self._decoded, self._total)

    def reading(self, digest: Digest, chunks: Iterator[bytes]) -> Iterator[bytes]:
        """Yield *chunks* of the blob *digest*; what is read a second time does not count."""
        at = 0
        for chunk in chunks:
            at += len(chunk)
            self._reach(digest, at)
            yield chunk

    def made(self, digest: Digest, began: float) -> None:
        """The layer of the blob *digest* is done, here since *began* (time.monotonic), or by another process (0)."""
        self._reach(digest, self._blobs[digest])
        how = f"done in {time.monotonic() - began:.1f} s" if began else "done by another process"
        self._progress.detail(f"layer {digest.short}: {size_text(self._blobs[digest])}, {how}")

    def copied(self, done: int, total: int) -> None:
        """*done* of *total* bytes of the layers' images are copied."""
        share = self._joined * min(done, total) // max(1, total)  # between pieces of data are gaps
        self._progress.advanced(self._decoded + share, self._total)

    def finish(self) -> None:
        """All is done, by this process or another one."""
        self._progress.advanced(self._total, self._total)

    def _reach(self, digest: Digest, at: int) -> None:
        with self._lock:
            more = min(at, self._blobs[digest]) - self._read[digest]
            if more > 0:
                self._read[digest] += more
                self._decoded += more
                self._progress.advanced(self._decoded, self._total)
