"""The connections of an import, which its blobs share: how many there may be, and for which blob."""

from __future__ import annotations

import contextlib
import threading
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.registry.connections import Connections
    from enroot_slurm.registry.origin import Origin
    from enroot_slurm.registry.transport import Transport

__all__ = ["Streams"]

_AHEAD = 16 << 20  # bytes that an import's blobs keep in memory, before those that come first have arrived
_SMALLEST = 2 << 20  # bytes of a part: the way to a registry and back must be short against its time


class Streams:
    """The connections that fetch an import's blobs: one for each blob, and more for large ones while some are free.

    Safe for several threads.  All that changes is told to whoever waits for *changed*.
    """

    def __init__(self, transport: Transport, known: Connections) -> None:
        self.changed = threading.Condition()
        self._known = known
        self._fast = transport.range_fast
        self._waited = transport.range_waited
        self.per_blob = transport.parallel_ranges
        self.part = min(transport.range_size, max(_SMALLEST, _AHEAD // max(1, self.per_blob)))
        """Bytes of a part."""
        self.window = transport.range_window
        """Seconds after which a stream is looked at again."""
        self._from = transport.range_from
        self._free = transport.max_connections
        self._wanted = 0  # by blobs that have none
        self._ahead = max(_AHEAD // self.part, self.per_blob)
        self._halved = 0.0  # when, by time.monotonic

    def suits(self, size: int, registry: Origin) -> bool:
        """Whether a blob of *size* bytes at *registry* is to be had by several streams."""
        large = size >= max(self._from, 2 * self.part)
        return large and self.per_blob > 1 and self._known.sends_parts(registry)

    def is_slow(self, size: int, seconds: float, waited: float) -> bool:
        """Whether the network is slow for which *size* bytes take *seconds*, *waited* of them without a byte to read.

        A busy node is slow, too, but not faster with more streams.
        """
        return size < self._fast * seconds and waited >= self._waited * seconds

    @property
    def more_to_have(self) -> bool:
        """Whether a blob would get one more connection now."""
        return self.per_blob > 1 and self._is_free

    @property
    def _is_free(self) -> bool:
        """Whether there is a connection for which no blob waits."""
        return self._free > self._wanted

    def none_sent(self, registry: Origin) -> None:
        """Remember that *registry* sends whole blobs only."""
        self._known.sends_no_parts(registry)

    @contextlib.contextmanager
    def own(self) -> Iterator[None]:
        """The connection of a blob; further ones of other blobs have to end for it."""
        with self.changed:
            self._wanted += 1
            try:
                self.changed.wait_for(lambda: self._free > 0)
            finally:
                self._wanted -= 1
            self._free -= 1
        try:
            yield
        finally:
            self.give_back()

    def another(self) -> bool:
        """Whether a blob gets one more connection now, which it has to give back."""
        with self.changed:
            if not self._is_free:
                return False
            self._free -= 1
            return True

    def give_back(self) -> None:
        """A connection is not used any more."""
        with self.changed:
            self._free += 1
            self.changed.notify_all()

    def goes_on(self, of_blob: int) -> bool:
        """Whether a further connection of a blob that has *of_blob* of them may be kept."""
        return self._wanted == 0 and of_blob <= self.per_blob

    def halve(self, since: float) -> None:
        """A request that was made at *since* was one too many.  What was under way then has been answered for."""
        with self.changed:
            if since > self._halved:
                self._halved = time.monotonic()
                self.per_blob = max(1, self.per_blob // 2)

    def room(self, change: int) -> bool:
        """Take (-1) or give back (1) the memory for a part; False when there is none."""
        with self.changed:
            if self._ahead + change < 0:
                return False
            self._ahead += change
            self.changed.notify_all()
            return True
