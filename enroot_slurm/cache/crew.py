"""Threads that share work with other processes: a thread that can't lock one task takes the next and comes back."""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Generic, Protocol, Self, TypeVar

from enroot_slurm.cache.turns import Turn

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from enroot_slurm.cache.locks import Lock

__all__ = ["Crew", "Task"]

_LONGEST_PAUSE = 0.2  # seconds: while a thread waits for one task, it does no other


class Task(Protocol):
    """Something that one process at a time may do."""

    @property
    def name(self) -> str:
        """For people, such as ``blob sha256:...``."""

    @property
    def lock(self) -> Lock:
        """The lock that is held by whoever does it."""


_Task = TypeVar("_Task", bound=Task)


class Crew(Generic[_Task]):
    """Up to *size* threads that do *tasks*, in this order, as a context manager.

    attempt       does a task; False, when another process does it now: then it is tried again later
    failed        is told the first error, and one that ends the context, so that nobody goes on waiting
    lock_timeout  seconds for which another process may do the same task; after them it is done without its lock
    parting       seconds to wait for threads that are told to stop
    """

    def __init__(
        self,
        tasks: Sequence[_Task],
        attempt: Callable[[_Task], bool],
        *,
        size: int,
        lock_timeout: float,
        failed: Callable[[BaseException], None],
        parting: float,
    ) -> None:
        self._attempt = attempt
        self._failed = failed
        self._lock_timeout = lock_timeout
        self._parting = parting
        self._queue = collections.deque(tasks)
        self._turns: dict[str, Turn] = {}
        self._error: BaseException | None = None
        self.cancelled = threading.Event()
        """Set when no more is to be done: a task in progress should end early."""
        # Not Thread.join: when a signal interrupts it, it takes the thread for ended (CPython 3.11 and 3.12).
        self._changed = threading.Condition()
        self._unfinished = len(tasks)
        self._busy = 0
        count = min(size, len(tasks))
        self._threads = [threading.Thread(target=self._work, name=f"crew-{i}", daemon=True) for i in range(count)]

    def wait(self) -> None:
        """Wait until all tasks are done.  Raises: the first error of any of them."""
        with self._changed:
            while self._unfinished and self._error is None:
                self._changed.wait()
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
        with self._changed:
            self.cancelled.set()
        if error is not None:
            self._failed(error)
        with self._changed:
            self._changed.wait_for(lambda: not self._busy, self._parting)

    def _work(self) -> None:
        while True:
            with self._changed:
                if self.cancelled.is_set() or not self._queue:
                    return
                task = self._queue.popleft()
                self._busy += 1
            done = False
            try:
                done = self._attempt(task)
                if not done:
                    self._postpone(task)
            except BaseException as error:  # noqa: BLE001  raised by wait()
                self._error = self._error or error
                self.cancelled.set()
                self._failed(error)
            finally:
                with self._changed:
                    self._busy -= 1
                    self._unfinished -= done
                    self._changed.notify_all()

    def _postpone(self, task: _Task) -> None:
        turn = self._turns.get(task.name)
        if turn is None:
            turn = self._turns[task.name] = Turn(task.lock, timeout=self._lock_timeout, longest=_LONGEST_PAUSE)
        turn.pause(self.cancelled.wait)
        self._queue.append(task)
