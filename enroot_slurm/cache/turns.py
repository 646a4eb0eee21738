"""Waiting for locks: waiting processes try again after growing pauses, and none of them waits for ever.

A process that has waited too long, or sees no heartbeat of the lock's holder, goes on without the lock: it only saves
work.
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
_FIRST_PAUSE, _LONGEST_PAUSE, _GROWTH = 0.05, 1.0, 1.5  # seconds, and a factor


class Patience:
    """How long one waits for who holds *lock*: up to *timeout* seconds, and only as long as it shows signs of life."""

    def __init__(self, lock: Lock, timeout: float) -> None:
        self._lock = lock
        self._began = self._changed = time.monotonic()
        self._timeout = timeout
        self._looked = 0.0
        self._holder: Holder | None = None

    @property
    def ended(self) -> bool:
        """Whether to go on without the lock.  Tells who is waited for."""
        now = time.monotonic()
        if now - self._looked >= _LOOK:
            self._looked = now
            holder = Holder.read(self._lock.holder)
            if holder is not None and holder != self._holder:
                self._holder, self._changed = holder, now
            self._lock.locks.tell(self._holder)
        return now - self._began > self._timeout or now - self._changed > self._lock.locks.holder_timeout


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

        Where nobody is to be waited for any more, the next attempt goes on without the lock, at once.
        """
        self._patience = self._patience or [Patience(lock, self._timeout) for lock in self._locks]
        given_up = [lock for lock, patience in zip(self._locks, self._patience, strict=True) if patience.ended]
        for lock in given_up:
            lock.force()
        if not given_up:
            wait(self._pause)
            self._pause = min(_GROWTH * self._pause, self._longest)
