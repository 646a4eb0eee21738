"""The signals that end a process raise KeyboardInterrupt, with their number as its argument, so that all is cleaned up.

A signal handled just before a blocking call (for a lock, a child, a socket) would leave that call waiting for ever.  So
a timer of 1 s sends SIGURG, which interrupts blocking calls (signal(7): EINTR).  SIGURG harms no process: it is ignored
by default.  Forked children have no timer, and exec deletes it (timer_create(2)).
"""

from __future__ import annotations

import contextlib
import ctypes
import math
import signal
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from types import FrameType

__all__ = ["SIGNALS", "interruptible", "raise_interrupts"]

SIGNALS = (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)
_TICK = 1  # seconds


def raise_interrupts(signals: Iterable[int] = SIGNALS, *, again: float = math.inf) -> None:
    """Let *signals* raise KeyboardInterrupt in the main thread, from now on.

    For *again* seconds more of them change nothing: people press Ctrl-C twice, and Slurm signals again.
    """
    _handle(signals, again)
    _Ticks().start()


@contextlib.contextmanager
def interruptible(*, again: float) -> Iterator[None]:
    """`raise_interrupts` for the time of a context; but a signal that is ignored stays so (nohup)."""
    previous = {number: signal.getsignal(number) for number in (*SIGNALS, signal.SIGURG)}
    ticks = _Ticks()
    try:
        _handle([number for number in SIGNALS if previous[number] != signal.SIG_IGN], again)
        ticks.start()
        yield
    finally:
        ticks.stop()
        for number, handler in previous.items():
            signal.signal(number, handler)


def _handle(signals: Iterable[int], again: float) -> None:
    begin = -math.inf

    def interrupt(number: int, _frame: FrameType | None) -> None:
        nonlocal begin
        now = time.monotonic()
        if now >= begin:
            begin = now + again
            raise KeyboardInterrupt(number)

    for number in signals:
        signal.signal(number, interrupt)
    signal.signal(signal.SIGURG, lambda *_: None)


class _Event(ctypes.Structure):
    """struct sigevent (sigevent(7)), whose size is 64 bytes at most."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal", ctypes.c_int),
        ("notify", ctypes.c_int),  # 0 is SIGEV_SIGNAL
        ("rest", ctypes.c_char * 48),
    )


class _Ticks:
    """A timer of the kernel that sends SIGURG every second.

    The kernel may refuse the timer (a limit of pending signals).  Then a signal that comes just before a blocking call
    is handled only after that call.
    """

    def __init__(self) -> None:
        self._library = ctypes.CDLL(None)
        if not hasattr(self._library, "timer_create"):  # glibc before 2.34
            self._library = ctypes.CDLL("librt.so.1")
        self._timer: ctypes.c_void_p | None = None

    def start(self) -> None:
        """Begin."""
        timer, event = ctypes.c_void_p(), _Event(signal=signal.SIGURG)
        if self._library.timer_create(time.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(timer)):
            return
        self._timer = timer
        # struct itimerspec: the interval and the first tick, in seconds and nanoseconds each.
        self._library.timer_settime(timer, 0, (ctypes.c_long * 4)(_TICK, 0, _TICK, 0), None)

    def stop(self) -> None:
        """End."""
        if self._timer is not None:
            self._library.timer_delete(self._timer)
            self._timer = None
