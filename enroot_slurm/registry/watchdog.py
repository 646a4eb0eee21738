"""Connections are broken when one call that reads from them takes too long.

A socket's timeout is for each byte.  http.client reads a head, the size of a chunk or a trailer in one call, which a
server that sends a byte now and then keeps from ever ending.
"""

from __future__ import annotations

import socket
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Guard", "Watchdog"]


class Guard:
    """One call that is watched."""

    __slots__ = ("deadline", "fired", "sock")

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self.sock = sock
        self.deadline = deadline
        self.fired = False
        """Whether the connection was broken."""


class Watchdog:
    """One thread for any number of connections; there is none while nothing is read."""

    def __init__(self) -> None:
        self._guards: set[Guard] = set()
        self._changed = threading.Condition()
        self._wakes: float | None = None  # when the thread looks next; None: there is none

    @contextmanager
    def guard(self, sock: socket.socket | None, seconds: float | None) -> Iterator[Guard | None]:
        """Break *sock* when the block takes longer than *seconds*; without them, or without it, do nothing."""
        if sock is None or not seconds:
            yield None
            return
        guard = Guard(sock, time.monotonic() + seconds)
        with self._changed:
            self._guards.add(guard)
            if self._wakes is None:
                self._wakes = guard.deadline
                threading.Thread(target=self._watch, name="watchdog", daemon=True).start()
            elif guard.deadline < self._wakes:
                self._changed.notify()
        try:
            yield guard
        finally:
            with self._changed:
                self._guards.discard(guard)

    def close(self) -> None:
        """Let the thread end."""
        with self._changed:
            self._guards.clear()
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while self._guards:
                now = time.monotonic()
                for guard in [g for g in self._guards if g.deadline <= now]:
                    guard.fired = True
                    self._guards.discard(guard)
                    _break(guard.sock)
                if self._guards:
                    self._wakes = min(g.deadline for g in self._guards)
                    self._changed.wait(max(0.0, self._wakes - now))
            self._wakes = None


def _break(sock: socket.socket) -> None:
    with suppress(OSError, TypeError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # a TLS socket's own would disturb who reads
