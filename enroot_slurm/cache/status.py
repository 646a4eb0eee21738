"""The status of a lock's holder, for processes that wait: a file beside the lock, written anew every second.

    ROOT/locks/NAME.holder    JSON: host, user, job, pid, phase, received and left (bytes),
                              since (seconds since 1970), beat, done and total (bytes of work)

Its content is for people.  Programs check whether it changes, and how fast the downloads are.  A process that is
stopped, or hangs in a file system, still has its lock but writes no more.
"""

from __future__ import annotations

import contextlib
import json
import os
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Holder", "Work"]

_BEAT = 1.0  # seconds
_MAX_RECORD = 4096


class Holder(NamedTuple):
    """A process and what it does; foreign text, to be shown through `errors.printable` only."""

    host: str
    user: str
    job: str
    pid: int
    phase: str
    received: int
    """Bytes that were downloaded."""
    since: int
    """Seconds since 1970, by the clock of *host*."""
    beat: int
    """A number that grows as long as the process runs."""
    left: int = 0
    """Bytes that are still to be downloaded, as far as it is known."""
    done: int = 0
    """Bytes of the work: see `Progress.advanced`."""
    total: int = 0
    """Bytes that *done* will be; 0: not known."""

    @classmethod
    def read(cls, path: Path) -> Holder | None:
        """The content of the file *path*; None if it has another form."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                content = os.read(fd, _MAX_RECORD)
            finally:
                os.close(fd)
            fields = json.loads(content)
            holder = cls(**{name: fields[name] for name in cls._fields if name in fields})
        except (OSError, ValueError, TypeError, LookupError):
            return None
        known = all(isinstance(value, type(like)) for value, like in zip(holder, _LIKE, strict=True))
        return holder if known else None


_LIKE = Holder("", "", "", 0, "", 0, 0, 0)


class Work:
    """The work of this process, shown in files for as long as it holds their locks.  Safe for several threads."""

    def __init__(self, job: str = "") -> None:
        self.phase = ""
        self.received = 0
        self.expected = 0
        """The value that *received* will have when all has been downloaded."""
        self.done = self.total = 0
        """As in `Holder`."""
        self._job = job
        self._user = ""
        self._shown: dict[Path, int] = {}
        self._changed = threading.Condition()
        self._beat = 0
        self._thread: threading.Thread | None = None

    @contextlib.contextmanager
    def shown(self, path: Path) -> Iterator[None]:
        """Let the file *path* tell of this work.  What takes less than a second is not worth a file."""
        with self._changed:
            self._shown[path] = int(time.time())
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="status", daemon=True)
                self._thread.start()
        try:
            yield
        finally:
            with self._changed:  # else the thread might make the file again
                written = self._shown.pop(path) < 0
                if not self._shown:
                    self._changed.notify_all()
            if written:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _run(self) -> None:
        with self._changed:
            while self._shown:
                self._changed.wait(_BEAT)
                self._beat += 1
                for path, since in self._shown.items():
                    # There is a file to be removed, also if a full disk takes its name and not its content.
                    self._shown[path] = -abs(since)
                    with contextlib.suppress(OSError):
                        self._write(path, abs(since))
            self._thread = None

    def _write(self, path: Path, since: int) -> None:
        if not self._user:
            self._user = _user_name()
        received = self.received
        left = max(0, self.expected - received)
        node, pid = os.uname().nodename, os.getpid()
        made = (self.done, self.total)
        holder = Holder(node, self._user, self._job, pid, self.phase, received, since, self._beat, left, *made)
        content = json.dumps(holder._asdict()).encode()
        # In place: then nobody has to look for a new file of that name.  Padded, so that one write replaces all.
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, content[:_MAX_RECORD].ljust(512), 0)
            os.ftruncate(fd, max(512, len(content)))
        finally:
            os.close(fd)


def _user_name() -> str:
    import pwd  # noqa: PLC0415 - it may ask a server

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())
