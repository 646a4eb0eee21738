"""Progress for people: a status line on a terminal, log lines elsewhere."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

from enroot_slurm.progress import Progress, duration_text, size_text

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Display"]

_TERMINAL_INTERVAL = 0.2  # seconds between two status lines
_LOG_INTERVAL = 10.0
_COLUMNS = 80  # of a terminal that does not say
_RATE_WINDOW = 10.0  # seconds over which the rate is measured


class Display(Progress):
    """Tells people, on *stream*: one line that is rewritten on a terminal, else a line for each phase and every 10 s.

    Used as a context manager, so that the status line is gone when something else is printed.  *stream* is stderr if
    not given, *interval* the seconds between two lines.  A stream that fails is no reason to fail.
    """

    def __init__(
        self, stream: TextIO | None = None, prefix: str = "enroot-slurm: ", *, interval: float | None = None
    ) -> None:
        self._stream = stream = stream or sys.stderr
        self._prefix = prefix
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        self._interval = interval or (_TERMINAL_INTERVAL if self._terminal else _LOG_INTERVAL)
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._name = ""
        self._waiting = False
        self._expected = self._received = self._converted = 0
        self._samples: list[tuple[float, int]] = []

    def phase(self, name: str) -> None:
        """Show that the phase *name* begins."""
        with self._lock:
            self._name, self._waiting = name, False
        self._show()

    def waiting(self, text: str) -> None:
        """Show for whom the import waits; in a log no more often than anything else."""
        with self._lock:
            new = not self._waiting
            self._name, self._waiting = text, True
        if new or self._terminal:
            self._show()

    def expect(self, size: int) -> None:
        """Show progress against *size* bytes."""
        with self._lock:
            self._expected, self._received = size, 0
            self._samples = [(time.monotonic(), 0)]

    def received(self, count: int) -> None:
        """Count downloaded bytes."""
        with self._lock:
            self._received += count

    def converted(self, total: int) -> None:
        """Note how far the conversion is."""
        self._converted = total

    def warn(self, text: str) -> None:
        """Print *text* on a line of its own."""
        with self._lock:
            self._clear()
            self._write(f"{self._prefix}warning: {text}\n")

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ticker.join()
        with self._lock:
            self._clear()

    def _tick(self) -> None:
        while not self._stop.wait(self._interval):
            self._show()

    def _show(self) -> None:
        with self._lock:
            text = self._prefix + self._status()
            if self._terminal:
                self._write(f"\r{text[: self._columns() - 1]}\x1b[K")
            else:
                self._write(f"{text}\n")

    def _clear(self) -> None:
        if self._terminal:
            self._write("\r\x1b[K")

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()

    def _columns(self) -> int:
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        return _COLUMNS

    def _status(self) -> str:
        parts = [self._name]
        if self._received < self._expected:
            parts.append(f"downloaded {size_text(self._received)} of {size_text(self._expected)}{self._pace()}")
        elif self._expected:
            parts.append(f"downloaded {size_text(self._expected)}")
        if self._converted:
            parts.append(f"squashfs has read {size_text(self._converted)}")
        return ", ".join(parts)

    def _pace(self) -> str:
        """The rate of the last seconds, and the time left at that rate."""
        now = time.monotonic()
        self._samples.append((now, self._received))
        while len(self._samples) > 2 and now - self._samples[0][0] > _RATE_WINDOW:
            del self._samples[0]
        since, before = self._samples[0]
        rate = (self._received - before) / (now - since) if now - since > 0.5 else 0
        if not rate:
            return ""
        left = (self._expected - self._received) / rate
        return f", {size_text(int(rate))}/s, {duration_text(left)} left"
