"""Slots limit how many imports one node runs at once for a cache: each import holds the lock of one slot.

    ROOT/locks/slot-HOST-N.lock

Lock order: image, slot, layer, blob.  This avoids deadlock.  The kernel frees the slot of a process that dies.  Slots,
like all locks, only save work: a process that has waited long enough goes on without one.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from enroot_slurm.cache.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.cache.locks import Locks

__all__ = ["Slots"]


class Slots:
    """The *count* slots of this node, of which *locks* are; 0: as many as are wanted.

    timeout  the longest wait for a slot, in seconds
    waits    is called when no slot is free
    """

    def __init__(self, locks: Locks, count: int, *, timeout: float, waits: Callable[[], None]) -> None:
        host = re.sub(r"[^A-Za-z0-9.-]", "_", os.uname().nodename)
        self._slots = [locks.lock(f"slot-{host}-{number}") for number in range(count)]
        self._timeout = timeout
        self._waits = waits

    @contextlib.contextmanager
    def one(self) -> Iterator[bool]:
        """Hold one of the slots, once there is one or the time is over; whether that meant waiting."""
        with contextlib.ExitStack() as stack:
            yield bool(self._slots) and self._wait(stack)

    def _wait(self, stack: contextlib.ExitStack) -> bool:
        turn = Turn(*self._slots, timeout=self._timeout)
        while True:
            try:
                with contextlib.ExitStack() as attempt:
                    if attempt.enter_context(turn.attempt()):
                        stack.push(attempt.pop_all())
                        return turn.waited
            except OSError:
                return turn.waited  # who has to write there will say so
            if not turn.waited:
                self._waits()
            turn.pause()
