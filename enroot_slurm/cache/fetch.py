"""Fetching the blobs of one image: several at once, the biggest first, sharing the work with other processes."""

from __future__ import annotations

import collections
import threading
import time
from typing import TYPE_CHECKING, Self

from enroot_slurm.errors import EnrootSlurmError, LockTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from enroot_slurm.cache.blobs import Blob
    from enroot_slurm.oci.manifest import Descriptor

    Download = Callable[[Descriptor], Iterator[bytes]]

__all__ = ["Fetch"]

_POLL = 0.05  # seconds between two looks at blobs that other processes fetch
_PARTING = 0.5  # seconds to wait for threads that are told to stop


class _Cancelled(EnrootSlurmError):
    """The import has ended; nobody wants the blob any more."""


class Fetch:
    """Fetches *blobs* with up to *connections* calls of *download* at once, as a context manager.

    The first blob, which the conversion waits for, goes first, then the others by size.  A blob that another process
    fetches is looked at again later, for *lock_timeout* seconds at most.  *received* is told the number of bytes of
    each piece, from several threads.
    """

    def __init__(
        self,
        blobs: Sequence[Blob],
        download: Download,
        *,
        connections: int,
        lock_timeout: float,
        received: Callable[[int], None],
    ) -> None:
        self._blobs = blobs
        self._download = download
        self._received = received
        self._lock_timeout = lock_timeout
        self._queue = collections.deque([*blobs[:1], *sorted(blobs[1:], key=lambda b: -b.descriptor.size)])
        self._waiting_since: dict[Blob, float] = {}
        self._error: BaseException | None = None
        self._cancelled = threading.Event()
        count = min(connections, len(blobs))
        self._threads = [threading.Thread(target=self._work, name=f"fetch-{i}", daemon=True) for i in range(count)]

    def wait(self) -> None:
        """Wait until all blobs are in the cache.  Raises: the first error of any of them."""
        for thread in self._threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def __enter__(self) -> Self:
        try:
            for thread in self._threads:
                thread.start()
        except BaseException as error:
            self._end(error)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end(error)

    def _end(self, error: BaseException | None) -> None:
        """Stop the threads.  After an *error* no file and no waiting reader is left, even where a thread hangs."""
        self._cancelled.set()
        deadline = time.monotonic() + _PARTING
        try:
            for thread in self._threads:
                if thread.is_alive():
                    thread.join(max(0.0, deadline - time.monotonic()))
        finally:
            for blob in self._blobs:
                if error is not None:
                    blob.fail(error)
                blob.clean_up()

    def _work(self) -> None:
        while not self._cancelled.is_set():
            try:
                blob = self._queue.popleft()
            except IndexError:
                return
            try:
                if not blob.fetch(self._stream):
                    self._postpone(blob)
                elif blob.reused:  # another process has fetched it
                    self._received(blob.descriptor.size)
            except BaseException as error:  # noqa: BLE001  raised by wait(), and by whoever reads a blob
                self._fail(error)

    def _stream(self, descriptor: Descriptor) -> Iterator[bytes]:
        for chunk in self._download(descriptor):
            if self._cancelled.is_set():
                raise _Cancelled("cancelled")
            self._received(len(chunk))
            yield chunk

    def _postpone(self, blob: Blob) -> None:
        since = self._waiting_since.setdefault(blob, time.monotonic())
        if time.monotonic() - since > self._lock_timeout:
            raise LockTimeout(
                f"another process has been fetching {blob.descriptor.digest} for {self._lock_timeout:.0f} seconds",
                hint=f"It holds the lock {blob.lock}: 'fuser -v' or 'lslocks' on its node names it.",
            )
        self._cancelled.wait(_POLL)
        self._queue.append(blob)

    def _fail(self, error: BaseException) -> None:
        self._error = self._error or error
        self._cancelled.set()
        for blob in self._blobs:
            blob.fail(error)
