"""Fetching the blobs of one image: several at once, the biggest first, sharing the work with other processes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from enroot_slurm.cache.crew import Crew
from enroot_slurm.errors import EnrootSlurmError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from types import TracebackType

    from enroot_slurm.cache.blobs import Blob
    from enroot_slurm.oci.manifest import Descriptor

    ReadBlob = Callable[[Descriptor], Iterator[bytes]]

__all__ = ["Fetch"]

_PARTING = 0.5  # seconds for threads that are told to stop: one that hangs in the network is left alone


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
        download: ReadBlob,
        *,
        connections: int,
        lock_timeout: float,
        received: Callable[[int], None],
    ) -> None:
        self._blobs = blobs
        self._download = download
        self._received = received
        self._crew = Crew(
            [*blobs[:1], *sorted(blobs[1:], key=lambda b: -b.descriptor.size)],
            self._attempt,
            size=connections,
            lock_timeout=lock_timeout,
            failed=self.fail,
            parting=_PARTING,
        )

    def wait(self) -> None:
        """Wait until all blobs are in the cache.  Raises: the first error of any of them."""
        self._crew.wait()

    def fail(self, error: BaseException) -> None:
        """Tell whoever reads a blob that it won't come."""
        for blob in self._blobs:
            blob.fail(error)

    def __enter__(self) -> Self:
        try:
            self._crew.__enter__()
        except BaseException:
            self._clean_up()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._crew.__exit__(kind, error, trace)
        finally:
            self._clean_up()

    def _clean_up(self) -> None:
        for blob in self._blobs:
            blob.clean_up()

    def _attempt(self, blob: Blob) -> bool:
        done = blob.fetch(self._stream)
        if done and blob.reused:  # another process has fetched it
            self._received(blob.descriptor.size)
        return done

    def _stream(self, descriptor: Descriptor) -> Iterator[bytes]:
        for chunk in self._download(descriptor):
            if self._crew.cancelled.is_set():
                raise _Cancelled("cancelled")
            self._received(len(chunk))
            yield chunk
