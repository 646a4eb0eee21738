"""One user's rate of requests, where one user imports for all: so many a minute on each node, further ones wait.

ROOT/rates/HOST~USER    its modification time is the time until which the user's requests are used up

That is the generic cell rate algorithm (ITU-T I.371, annex A.1): one time says all.  A user may send the requests of a
whole minute at once.
"""

from __future__ import annotations

import contextlib
import os
import re
import time
from typing import TYPE_CHECKING

from enroot_slurm.cache.turns import Turn
from enroot_slurm.errors import RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.cache.locks import Locks

__all__ = ["Rate"]

_MINUTE = 60.0
_LOCK = 5.0  # seconds: the lock only makes the count exact


class Rate:
    """The requests of *user* in the cache *place*: *count* a minute; 0, or an empty *user*: as many as are wanted.

    timeout  the longest wait, in seconds
    waits    is called before a wait
    """

    def __init__(
        self,
        place: CacheDirectory,
        locks: Locks,
        count: int,
        *,
        user: str,
        timeout: float,
        waits: Callable[[], None],
    ) -> None:
        host, name = (re.sub(r"[^A-Za-z0-9.-]", "_", text) for text in (os.uname().nodename, user))
        self._place = place
        self._file = f"{host}~{name}"
        self._lock = locks.lock(f"rate-{host}-{name}")
        self._count = count if user else 0
        self._timeout = timeout
        self._waits = waits

    def wait(self) -> None:
        """Wait until one more request may be sent, and count it.

        A cache that can't be written is no reason to fail.  Raises: RateLimited, when the wait would be too long.
        """
        if not self._count:
            return
        end = time.monotonic() + self._timeout
        told = False
        while (pause := self._take()) > 0:
            if time.monotonic() + pause > end:
                raise RateLimited(
                    f"the jobs of this user ask registries for more than {self._count} images a minute",
                    hint="Start fewer jobs at once, or name images by digest. The site's setting is user_rate.",
                )
            if not told:
                self._waits()
                told = True
            time.sleep(pause)

    def _take(self) -> float:
        """Count a request if it may be sent now; else the seconds after which to ask again."""
        turn = Turn(self._lock, timeout=_LOCK)
        with contextlib.suppress(OSError):
            while True:
                with turn.attempt() as held:
                    if held:
                        return self._count_one()
                turn.pause()
        return 0

    def _count_one(self) -> float:
        path = self._place.closed_directory("rates") / self._file
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            now = time.time()
            step = _MINUTE / self._count
            known = os.fstat(fd)
            used_up = known.st_mtime if known.st_size else now  # a new file says nothing
            if used_up - now > 2 * _MINUTE:  # the clock was put back
                used_up = now
            used_up = max(used_up, now) + step
            if used_up - now > _MINUTE + 1e-3:
                return used_up - now - _MINUTE
            os.pwrite(fd, b"\n", 0)
            os.utime(fd, (now, used_up))
        finally:
            os.close(fd)
        return 0
