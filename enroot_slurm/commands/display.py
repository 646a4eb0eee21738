"""Progress for people: a bar on a terminal, log lines elsewhere; and for programs, lines of JSON."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
import time
from typing import TYPE_CHECKING, Self, TextIO

from enroot_slurm.progress import Pace, Progress, size_text, work_text

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Display", "JsonLines"]

_TERMINAL_INTERVAL = 0.2  # seconds between two looks of the bar
_LOG_INTERVAL = 10.0
_JSON_INTERVAL = 1.0
_COLUMNS = 80  # of a terminal that does not say
_NARROW = 60  # columns that a bar needs


class _Told(Progress):
    """Keeps what it hears, and shows it on *stream* every *interval* seconds, as a context manager.

    A stream that fails is no reason to fail.
    """

    def __init__(self, stream: TextIO, interval: float) -> None:
        self._stream = stream
        self._interval = interval
        self._lock = threading.RLock()
        self._stop = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="progress", daemon=True)
        self._name = ""
        self._waiting = False
        self._expected = self._received = self._done = self._total = 0
        self._pace = Pace()

    def phase(self, name: str) -> None:
        """Note that the phase *name* begins."""
        with self._lock:
            self._name, self._waiting = name, False

    def waiting(self, text: str) -> None:
        """Note for whom the import waits."""
        with self._lock:
            self._name, self._waiting = text, True

    def expect(self, size: int) -> None:
        """Note how much will be downloaded."""
        with self._lock:
            self._expected, self._received = size, 0

    def received(self, count: int) -> None:
        """Count downloaded bytes."""
        with self._lock:
            self._received += count

    def advanced(self, done: int, total: int) -> None:
        """Note how far all is."""
        self._done, self._total = done, total

    def __enter__(self) -> Self:
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._ticker.join()

    def _tick(self) -> None:
        while not self._stop.wait(self._interval):
            self._show()

    def _show(self) -> None:
        raise NotImplementedError

    def _rate(self) -> int:
        return self._pace.rate(time.monotonic(), self._done)

    def _write(self, text: str) -> None:
        with contextlib.suppress(OSError):
            self._stream.write(text)
            self._stream.flush()


class Display(_Told):
    """Tells people, on *stream*: one bar that is drawn anew on a terminal, else a line for each phase and every 10 s.

    The bar is gone at the end, when something else is printed.  *stream* is stderr if not given, *interval* the
    seconds between two lines.  With *details*, there is a line for each layer.
    """

    def __init__(
        self,
        stream: TextIO | None = None,
        prefix: str = "enroot-slurm: ",
        *,
        interval: float | None = None,
        details: bool = False,
    ) -> None:
        stream = stream or sys.stderr
        self._terminal = stream.isatty() and os.environ.get("TERM") != "dumb"
        super().__init__(stream, interval or (_TERMINAL_INTERVAL if self._terminal else _LOG_INTERVAL))
        self._prefix = prefix
        self._details = details

    def phase(self, name: str) -> None:
        """Show that the phase *name* begins."""
        super().phase(name)
        self._show()

    def waiting(self, text: str) -> None:
        """Show for whom the import waits; in a log no more often than anything else."""
        new = not self._waiting
        super().waiting(text)
        if new or self._terminal:
            self._show()

    def warn(self, text: str) -> None:
        """Print *text* on a line of its own."""
        self._print(f"warning: {text}")

    def hint(self, text: str) -> None:
        """Print *text* on a line of its own."""
        self._print(f"hint: {text}")

    def detail(self, text: str) -> None:
        """Print *text* on a line of its own, if details are wanted."""
        if self._details:
            self._print(text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        with self._lock:
            self._clear()

    def _print(self, text: str) -> None:
        with self._lock:
            self._clear()
            self._write(f"{self._prefix}{text}\n")

    def _show(self) -> None:
        with self._lock:
            if self._terminal:
                self._write(f"\r{self._bar(self._columns() - 1)}\x1b[K")
            else:
                work = work_text(self._done, self._total, self._rate())
                self._write(self._prefix + ", ".join(filter(None, (self._name, work, self._download()))) + "\n")

    def _bar(self, columns: int) -> str:
        work = work_text(self._done, self._total, self._rate())
        if not work or columns < _NARROW:
            return (self._prefix + ", ".join(filter(None, (self._name, work, self._download()))))[:columns]
        from tqdm.std import tqdm  # noqa: PLC0415 - on a terminal only

        percent, _, pace = work.partition(", ")
        end = " " + ", ".join(filter(None, (pace, self._download())))
        # The phase may have any length: the bar keeps some room.
        start = (self._prefix + self._name)[: max(0, columns - len(end) - len(percent) - 14)]
        braces = {ord("{"): "{{", ord("}"): "}}"}
        drawn = f"{start.translate(braces)} {percent.rjust(5)}|{{bar}}|{end.translate(braces)}"
        plain = (self._stream.encoding or "").lower().replace("-", "") != "utf8"
        done = min(self._done, self._total)
        return str(tqdm.format_meter(done, self._total, 0, ncols=columns, ascii=plain, bar_format=drawn))[:columns]

    def _clear(self) -> None:
        if self._terminal:
            self._write("\r\x1b[K")

    def _columns(self) -> int:
        with contextlib.suppress(OSError):
            return os.get_terminal_size(self._stream.fileno()).columns or _COLUMNS
        return _COLUMNS

    def _download(self) -> str:
        if self._received >= self._expected:
            return ""
        return f"downloaded {size_text(self._received)} of {size_text(self._expected)}"


class JsonLines(_Told):
    """Tells programs, on stderr or *stream*: each second and at the end, an object on a line of its own.

        {"phase": "importing 3f2a", "waiting": false, "done": 31000000, "total": 84000000, "percent": 36.9,
         "rate": 5200000, "left": 10.2, "received": 52000000, "expected": 84000000}

    Sizes are bytes, the rate bytes per second, the time left seconds; null is unknown.  Words for people come at once:
    ``{"warning": TEXT}``, ``{"hint": TEXT}`` and, with *details*, ``{"detail": TEXT}``.
    """

    def __init__(
        self, stream: TextIO | None = None, *, interval: float = _JSON_INTERVAL, details: bool = False
    ) -> None:
        super().__init__(stream or sys.stderr, interval)
        self._details = details

    def warn(self, text: str) -> None:
        """Write it at once."""
        self._line(warning=text)

    def hint(self, text: str) -> None:
        """Write it at once."""
        self._line(hint=text)

    def detail(self, text: str) -> None:
        """Write it at once, if details are wanted."""
        if self._details:
            self._line(detail=text)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._show()

    def _show(self) -> None:
        with self._lock:
            done, total, rate = self._done, self._total, self._rate()
            self._line(
                phase=self._name,
                waiting=self._waiting,
                done=done,
                total=total or None,
                percent=round(100 * done / total, 1) if total else None,
                rate=rate or None,
                left=round((total - done) / rate, 1) if total and rate else None,
                received=self._received if self._expected else None,
                expected=self._expected or None,
            )

    def _line(self, **fields: object) -> None:
        with self._lock:
            self._write(json.dumps(fields) + "\n")
