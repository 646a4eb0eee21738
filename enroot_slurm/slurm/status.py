"""The progress of an import for a job: a file that the importing process writes, and the text that is made of it.

    CACHE/jobs/JOBID.RESTART/import-HASH.json    JSON: node, step, uri, phase, received and expected (bytes),
                                                 done and total (bytes of work), rate (of it, bytes per second)

CACHE is the cache that the process writes, so the site's is for everybody to read.  HASH stands for the node and the
step, or what takes a step's place: ``prolog``, ``stage-in``.  What takes less than a second is not worth a file.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple, Self

from enroot_slurm.errors import printable
from enroot_slurm.oci.local import LocalImage, parse_name
from enroot_slurm.progress import Pace, Progress, size_text, work_text

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["PROLOG", "Reporter", "Status", "job_file", "statuses"]

PROLOG = "prolog"
"""The word for a step in the status of a prolog's worker."""
_INTERVAL = 1.0  # seconds between two writes of the file
_LINES = 30.0  # seconds between two lines for people
_MAX_STATUS = 8192


class Status(NamedTuple):
    """The work of a process for a job; all texts are foreign if they are read from a file."""

    node: str
    step: str
    uri: str
    phase: str = ""
    received: int = 0
    """Bytes."""
    expected: int = 0
    """Bytes; 0: not known yet."""
    rate: int = 0
    """Bytes per second of what *done* counts; 0: not known."""
    done: int = 0
    """Bytes of the work: see `Progress.advanced`."""
    total: int = 0
    """Bytes that *done* will be; 0: not known."""

    def is_of(self, uri: str) -> bool:
        """Whether it is about *uri*; with or without its login, which a file that others can read does not have."""
        return self.uri in {uri, _without_login(uri)}

    @property
    def text(self) -> str:
        """For people: the phase, percent, rate, time left, and how much is downloaded."""
        parts = [printable(self.phase, 300) or "starting", work_text(self.done, self.total, self.rate)]
        if 0 <= self.received < self.expected:
            parts.append(f"downloaded {size_text(self.received)} of {size_text(self.expected)}")
        return ", ".join(filter(None, parts))

    @classmethod
    def read(cls, path: Path) -> Status | None:
        """The content of the file *path*; None if it has another form."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                fields = json.loads(os.read(descriptor, _MAX_STATUS))
            finally:
                os.close(descriptor)
            status = cls(**{name: fields[name] for name in cls._fields if name in fields})
        except (OSError, ValueError, TypeError, RecursionError):
            return None
        known = all(type(value) is type(like) for value, like in zip(status, _LIKE, strict=True))
        return status if known else None


_LIKE = Status("", "", "")


def _without_login(uri: str) -> str:
    name = parse_name(uri)
    return str(name if isinstance(name, LocalImage) else name._replace(user=""))


def job_file(root: Path, job: str, node: str, step: str, word: str = "import") -> Path:
    """The file *word* of a step in the cache *root*."""
    name = hashlib.sha256(f"{node}\n{step}".encode()).hexdigest()[:32]
    return root / "jobs" / job / f"{word}-{name}.json"


def statuses(roots: Iterable[Path], job: str) -> list[Status]:
    """The work that goes on for *job* (``JOBID.RESTART``), with the caches *roots*; the prolog's part first."""
    files = [file for root in roots for file in root.glob(f"jobs/{job}/import-*.json")]
    found = [status for status in map(Status.read, files) if status is not None]
    return sorted(found, key=lambda status: (status.step != PROLOG, status))


class Reporter(Progress):
    """Writes the file above, and tells people; a context manager for one image.

    place  the cache that this process writes, with its job
    tell   is called with a line when it has begun, and every half minute; None: nobody is told
    warn   is called with what a person should know; None: nobody is told
    look   what another process does, while this one waits for it
    """

    def __init__(
        self,
        place: CacheDirectory,
        node: str,
        step: str,
        uri: str,
        *,
        tell: Callable[[str], None] | None = None,
        warn: Callable[[str], None] | None = None,
        look: Callable[[], Status | None] = lambda: None,
    ) -> None:
        self._place = place
        self._path = job_file(place.root, place.job, node, step)
        self._status = Status(node, step, _without_login(uri) if place.public else uri)
        self._tell = tell
        self._warn = warn
        self._look = look
        self._pace = Pace()
        self._thread: threading.Thread | None = None
        self._stop: threading.Event | None = None

    def phase(self, name: str) -> None:
        """Tell of the phase *name*."""
        self._status = self._status._replace(phase=name)
        self._start()

    def waiting(self, text: str) -> None:
        """Tell for whom it waits."""
        self.phase(text)

    def expect(self, size: int) -> None:
        """Tell how much there is."""
        self._status = self._status._replace(expected=size, received=0)

    def received(self, count: int) -> None:
        """Tell how much is there."""
        self._status = self._status._replace(received=self._status.received + count)

    def advanced(self, done: int, total: int) -> None:
        """Tell how much is done."""
        self._status = self._status._replace(done=done, total=total)

    def warn(self, text: str) -> None:
        """Tell of it at once."""
        if self._warn:
            self._warn(f"warning: {text}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._thread and self._stop:
            self._stop.set()
            self._thread.join()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)

    def _start(self) -> None:
        if self._thread is None:
            import threading  # noqa: PLC0415 - a hit has nothing to tell

            self._stop = threading.Event()
            self._thread = threading.Thread(target=self._run, name="import-status", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        assert self._stop
        told = 0.0
        while not self._stop.wait(_INTERVAL):
            status = self._status
            status = status._replace(rate=self._pace.rate(time.monotonic(), status.done))
            with contextlib.suppress(OSError):
                self._place.directory("jobs", self._place.job)
                self._place.write(self._path, json.dumps(status._asdict()).encode() + b"\n")
            if self._tell and time.monotonic() - told >= _LINES:
                told = time.monotonic()
                other = self._look()
                self._tell(f"{status.uri}: {status.text}" + (f": {other.text}" if other else ""))
