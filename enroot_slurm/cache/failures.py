"""Recent failures, so that an array of jobs with a typo asks the registry a few times, not a thousand times.

    ROOT/failures/HASH.json     the error that one reference for one platform met last

Only failures that every process would meet are kept: an image that does not exist, is refused or damaged; not a full
disk.  A registry that does not answer is remembered for seconds, so that nodes do not wait for it one after the other.
A failure that may depend on credentials counts until the file with them changes.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.trust import Untrusted, read_trusted
from enroot_slurm.errors import (
    AccessDenied,
    EnrootSlurmError,
    IntegrityError,
    NetworkError,
    NotFound,
    RateLimited,
    error_fields,
    error_of,
    printable,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["Failures", "KnownFailure"]

_SHARED = (NotFound, AccessDenied, IntegrityError, NetworkError)
_DEPENDS = (NotFound, AccessDenied, RateLimited)  # on credentials
_BRIEF = 5.0  # seconds for which a registry that does not answer is not asked again
_FORMS = {"kind": str, "message": str, "hint": str, "host": str, "pid": int, "credentials": str}
_MAX_RECORD = 64 << 10


class KnownFailure(NamedTuple):
    """An error that some process has met."""

    kind: str
    """The class, one of `enroot_slurm.errors`."""
    message: str
    hint: str
    host: str
    pid: int
    credentials: str
    """The state of the credentials, as `Failures` was told."""
    time: float
    """Seconds since 1970."""

    def error(self) -> EnrootSlurmError:
        """The error, and when it was met."""
        age = int(max(0.0, min(time.time() - self.time, 1e9)))
        told = f"{self.hint} " if self.hint else ""
        met = f"{printable(self.host, 64)} was told so {age} s ago; it is asked again later (setting failure_ttl)."
        return error_of({"kind": self.kind, "message": self.message, "hint": printable(told, 2000) + met})


class Failures:
    """The last failure of what *key* stands for, in the cache *place*; *credentials* gives a word for their state."""

    def __init__(self, place: CacheDirectory, key: str, credentials: Callable[[], str] = str) -> None:
        self._place = place
        self._credentials = credentials
        self._path: Path = place.root / "failures" / f"{key}.json"

    def last(self, ttl: float | None = None) -> KnownFailure | None:
        """The last failure, if it is not older than *ttl* seconds."""
        with contextlib.suppress(OSError, Untrusted, ValueError, TypeError, LookupError, RecursionError):
            fields = json.loads(read_trusted(self._path, {os.geteuid()}, _MAX_RECORD))
            failure = KnownFailure(*(fields[name] for name in KnownFailure._fields))
            forms = all(type(fields[name]) is form for name, form in _FORMS.items())
            if forms and type(failure.time) in {int, float} and self._counts(failure, ttl):
                return failure
        return None

    def _counts(self, failure: KnownFailure, ttl: float | None) -> bool:
        error = failure.error()
        if isinstance(error, _DEPENDS) and failure.credentials != self._credentials():
            return False
        if isinstance(error, NetworkError) and not isinstance(error, RateLimited):
            if (failure.host, failure.pid) == (os.uname().nodename, os.getpid()):
                return False  # whoever tries again means it
            ttl = _BRIEF if ttl is None else min(ttl, _BRIEF)
        age = abs(time.time() - failure.time)
        return isinstance(error, _SHARED) and (ttl is None or age <= ttl)

    def note(self, error: BaseException) -> None:
        """Remember *error* if it is one that others would meet as well."""
        if not isinstance(error, _SHARED) or (isinstance(error, AccessDenied) and self._place.public):
            return  # what is private leaves no trace in a cache for everybody
        failure = KnownFailure(
            **error_fields(error),
            host=os.uname().nodename,
            pid=os.getpid(),
            credentials=self._credentials(),
            time=time.time(),
        )
        with contextlib.suppress(OSError):
            self._place.closed_directory("failures")
            self._place.write(self._path, json.dumps(failure._asdict()).encode())
