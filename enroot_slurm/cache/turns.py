"""Waiting for locks: waiting processes try again after growing pauses, and none of them waits for ever.

A process that has waited too long goes on without the lock: it only saves work.  A holder without a heartbeat is passed
over, and so is one whose slow download keeps others from an image that they could have.  Then one of the waiting
processes does the work, and the others wait for that one.  For anybody can name a good image and serve it slowly.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from enroot_slurm.cache.status import Holder

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.cache.locks import Lock

__all__ = ["Patience", "Turn"]

_LOOK = 1.0  # seconds between two looks at who works
_WINDOW = 60.0  # seconds over which a download's speed counts
_MODEST = 1 << 20  # bytes a second that a download has almost anywhere
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.05, 1.0, 1.5  # seconds, and a factor


class Patience:
    """How long one waits for who holds *lock*: up to *timeout* seconds, and only as long as it gets on with its work.

    With each holder that was passed over, one is twice as patient with the next: all may have a slow network.
    """

    def __init__(self, lock: Lock, timeout: float) -> None:
        self._lock = lock
        self._began = self._changed = time.monotonic()
        self._end = self._began + timeout
        self._looked = 0.0
        self._holder: Holder | None = None
        self._since = self._marked = self._began
        self._mark = 0
        self._slow = False

    @property
    def timeout(self) -> float:
        """The seconds that are left."""
        return self._end - time.monotonic()

    @property
    def ended(self) -> bool:
        """Whether to go on without the holder.  Tells who is waited for."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            holder = Holder.read(self._lock.holder)
            if holder is not None and holder != self._holder:
                self._measure(holder, now)
                self._holder, self._changed = holder, now
            self._lock.locks.tell(self._holder)
        return now > self._end or self._slow or now - self._changed > self._lock.locks.holder_timeout

    def _measure(self, holder: Holder, now: float) -> None:
        """Find out whether a download is slower than one may expect."""
        last = self._holder
        another = last is None or (last.host, last.pid, last.since) != (holder.host, holder.pid, holder.since)
        if another:
            self._since = now
        if another or not holder.left:
            self._marked, self._mark = now, holder.received
            return
        factor = 2**self._lock.overtaken
        seconds = now - self._marked
        if seconds >= factor * _WINDOW:
            self._slow = holder.received - self._mark < self._lock.locks.min_rate * seconds
            self._marked, self._mark = now, holder.received
        # A download of one's own would be done by now.
        size = self._lock.size or holder.received + holder.left
        self._slow = self._slow or now - self._since > factor * (_WINDOW + size / _MODEST)


class Turn:
    """One's turn with any of *locks*, each of which is waited for up to *timeout* seconds.

    longest  seconds between two attempts at most
    """

    def __init__(self, *locks: Lock, timeout: float, longest: float = _LONGEST_PAUSE) -> None:
        self._locks = locks
        self._timeout = timeout
        self._longest = longest
        self._pause = _FIRST_PAUSE
        self._patience: list[Patience] = []

    @property
    def waited(self) -> bool:
        """Whether there was a pause."""
        return bool(self._patience)

    @contextlib.contextmanager
    def attempt(self) -> Iterator[bool]:
        """Hold one of the locks; the value is False when others hold all of them.  Raises: OSError."""
        with contextlib.ExitStack() as stack:
            yield any(stack.enter_context(lock.attempt()) for lock in self._locks)

    def pause(self, wait: Callable[[float], object] = time.sleep) -> None:
        """After an attempt in vain: tell who is waited for, and *wait* some seconds.

        Where a holder is not to be waited for any more, the next attempt is made at once.
        """
        self._patience = self._patience or [Patience(lock, self._timeout) for lock in self._locks]
        given_up = [number for number, patience in enumerate(self._patience) if patience.ended]
        for number in given_up:
            lock, left = self._locks[number], self._patience[number].timeout
            if left <= 0:
                lock.force()
            else:
                lock.overtake()
                self._patience[number] = Patience(lock, left)
        if not given_up:
            wait(self._pause)
            self._pause = min(_GROWTH * self._pause, self._longest)
