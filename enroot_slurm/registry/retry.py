"""When to ask again, and how long to wait before it."""

from __future__ import annotations

import random
import re
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from enroot_slurm.errors import NetworkError, RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["LONGEST_WAIT", "RETRIED", "Passing", "Retries", "TooMany", "come_back", "go_duration", "retry_after"]

RETRIED = frozenset({408, 425, 429, 499, 500, 502, 503, 504, 509, *range(520, 531), 598, 599})
"""Statuses that may be gone at the next attempt; beyond the RFC's those of nginx, Cloudflare and other proxies."""
_LONGEST_BACKOFF = 30.0
LONGEST_WAIT = 120.0
"""Seconds that a registry may make us wait; whoever asks for more is told to come back later."""
_LONGEST = 366 * 86400.0
"""Seconds that any statement is taken for: nobody means more."""
_GO_UNITS = {"ns": 1e-9, "us": 1e-6, "\u00b5s": 1e-6, "\u03bcs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_GO_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ns|us|\u00b5s|\u03bcs|ms|s|m|h)")
_GO_STATED = re.compile(
    r"retry-after:? {0,9}((?:[0-9]{1,12}(?:\.[0-9]{1,12})?(?:ns|us|\u00b5s|\u03bcs|ms|s|m|h)){1,8})(?![0-9a-z])",
    re.IGNORECASE,
)


class Passing(NetworkError):
    """A failure that may be gone at the next attempt, after at least *delay* seconds.

    *before*: the request itself was not sent, since there was no connection or no login for it.
    """

    def __init__(self, message: str, *, hint: str = "", delay: float = 0.0, before: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.delay = delay
        self.before = before


class TooMany(Passing, RateLimited):
    """The registry asks to slow down."""


class Retries:
    """The attempts at one wish: at most *limit* more, spread out by exponential backoff with full jitter.

    One is made for each wish of the user (to know a manifest, to have a blob), and whatever the wish takes, a login or
    an index, shares it.  Nothing below it asks again by itself.

    *tell* is told of each, so that nobody waits in silence.  No wait ends after *deadline*, by time.monotonic.

    Full jitter (any time from none to the whole) keeps the nodes of a job from coming back together; see
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    def __init__(self, limit: int, backoff: float, tell: Callable[[str], None], deadline: float = float("inf")) -> None:
        self._limit = limit
        self._backoff = backoff
        self._tell = tell
        self._deadline = deadline
        self._used = 0

    def progress(self) -> None:
        """Count from anew: the last attempt was not in vain."""
        self._used = 0

    def wait(self, error: Passing) -> None:
        """Wait for the next attempt after *error*.

        Raises: *error*, when there were enough; RateLimited, when that would take too long.
        """
        if error.delay > LONGEST_WAIT:
            raise RateLimited(f"{error}; it asks to come back at {come_back(error.delay)}", hint=error.hint)
        if self._used >= self._limit:
            raise error
        longest = min(_LONGEST_BACKOFF, self._backoff * 2**self._used)
        delay = error.delay + random.uniform(0, longest)  # noqa: S311  (jitter, not a secret)
        if time.monotonic() + delay > self._deadline:
            raise error
        self._used += 1
        self._tell(f"{error}; trying again in {delay:.1f} s ({self._used} of {self._limit})")
        time.sleep(delay)


def come_back(delay: float) -> str:
    """The time in *delay* seconds, for people."""
    return f"{datetime.fromtimestamp(time.time() + min(delay, _LONGEST), UTC):%Y-%m-%d %H:%M:%S} UTC"


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the header Retry-After (RFC 9110, 10.2.3) asks for; 0 when it is not there or not understood.

    It may be a number of seconds, a date, or (as Docker Hub's X-Retry-After) a time since 1970.  A date is compared
    with the answer's own, if it has one: this node's clock may be wrong.
    """
    text = (headers.get("Retry-After") or headers.get("X-Retry-After") or "").strip()
    now = time.time()
    if re.fullmatch(r"[0-9]{1,400}", text, re.ASCII):
        seconds = float(text[:16]) if len(text) <= 16 else _LONGEST
        if abs(seconds - now) < _LONGEST:
            seconds -= now
        return min(max(0.0, seconds), _LONGEST)
    date = _date(text)
    if date is None:
        return 0.0
    own = _date(headers.get("Date", ""))
    return min(max(0.0, date - (now if own is None else own)), _LONGEST)


def _date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
        return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, OverflowError, IndexError):
        return None  # also years that no calendar has: 31 Dec 9999 in a time zone behind


def go_duration(text: str) -> float:
    """The seconds of the first ``retry-after: DURATION`` in *text*, as Go writes durations (``1m30.5s``); or 0.

    GHCR says so in the message of its 429, and nowhere else.
    """
    match = _GO_STATED.search(text[:4096])
    if not match:
        return 0.0
    return min(_LONGEST, sum(float(number) * _GO_UNITS[unit] for number, unit in _GO_PART.findall(match[1].lower())))
