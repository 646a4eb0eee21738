"""The signals that end a process raise KeyboardInterrupt in it, with their number, so that everything is cleaned up.

Python runs a handler between two steps of the main thread.  A signal that comes just before a system call that waits
(for a lock, a child, a socket) has been taken when the wait begins, and nothing would end that; so a timer
interrupts waits every second (signal(7): EINTR).  A child that is forked has no timer, whoever calls exec stops it.
"""

from __future__ import annotations

import contextlib
import math
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

__all__ = ["SIGNALS", "interruptible", "raise_interrupts", "stop_timer"]

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_TICK = 1.0  # seconds


def raise_interrupts(signals: Iterable[int] = SIGNALS, *, again: float = math.inf) -> None:
    """Let *signals* raise KeyboardInterrupt in the main thread, from now on.

    For *again* seconds more of them change nothing: people press Ctrl-C twice, and Slurm signals again.
    """
    begin = -math.inf

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal begin
        now = time.monotonic()
        if now >= begin:
            begin = now + again
            raise KeyboardInterrupt(number)

    for number in signals:
        signal.signal(number, interrupt)
    signal.signal(signal.SIGALRM, lambda *_: None)
    signal.setitimer(signal.ITIMER_REAL, _TICK, _TICK)


@contextlib.contextmanager
def interruptible(*, again: float) -> Iterator[None]:
    """`raise_interrupts` for the time of a context; but a signal that is ignored stays so (nohup)."""
    previous = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGALRM)}
    try:
        raise_interrupts([number for number in SIGNALS if previous[number] != signal.SIG_IGN], again=again)
        yield
    finally:
        stop_timer()
        for number, handler in previous.items():
            signal.signal(number, handler)


def stop_timer() -> None:
    """Stop the timer, which a program that takes this one's place would die of."""
    signal.setitimer(signal.ITIMER_REAL, 0)
