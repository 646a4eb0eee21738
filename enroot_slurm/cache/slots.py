"""Slots limit how many imports one node runs at once for a cache: each import holds the lock of one slot.

    ROOT/locks/slot-HOST-N.lock
    ROOT/locks/slot-HOST-for-USER-N.lock

Lock order: image, slot, layer, blob.  This avoids deadlock.  The kernel frees the slot of a process that dies.  Slots,
like all locks, only save work: a process that has waited long enough goes on without one.

Where one user imports for all, nobody has all slots of a node: each user for whom imports are made has one share fewer
than there are slots, and a share is taken first.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING

from enroot_slurm.cache.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.cache.locks import Lock, Locks

__all__ = ["Slots"]


class Slots:
    """The *count* slots of this node, of which *locks* are; 0: as many as are wanted.

    user     the user for whom the import is, where it may be for any user; else empty
    timeout  the longest wait for a slot, in seconds
    waits    is called when no slot is free
    """

    def __init__(self, locks: Locks, count: int, *, user: str = "", timeout: float, waits: Callable[[], None]) -> None:
        host, name = (re.sub(r"[^A-Za-z0-9.-]", "_", text) for text in (os.uname().nodename, user))
        shares = [locks.lock(f"slot-{host}-for-{name}-{number}") for number in range(count - 1)] if user else []
        slots = [locks.lock(f"slot-{host}-{number}") for number in range(count)]
        self._kinds = [each for each in (shares, slots) if each]
        self._timeout = timeout
        self._waits = waits

    @contextlib.contextmanager
    def one(self) -> Iterator[bool]:
        """Hold one of the slots, once there is one or the time is over; whether that meant waiting."""
        with contextlib.ExitStack() as stack:
            waits = [self._wait(locks, stack) for locks in self._kinds]  # all of them
            yield any(waits)

    def _wait(self, locks: list[Lock], stack: contextlib.ExitStack) -> bool:
        turn = Turn(*locks, timeout=self._timeout)
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
