"""When to ask again, and how long to wait before it."""

from __future__ import annotations

import random
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from enroot_slurm.errors import NetworkError, RateLimited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["RETRIED", "Passing", "Retries", "TooMany", "retry_after"]

RETRIED = {408, 425, 429, 500, 502, 503, 504}
"""Statuses that may be gone at the next attempt."""
_LONGEST_BACKOFF = 30.0
_LONGEST_WAIT = 120.0
"""Seconds that a registry may make us wait; whoever asks for more is told to come back later."""


class Passing(NetworkError):
    """A failure that may be gone at the next attempt, after at least *delay* seconds."""

    def __init__(self, message: str, *, hint: str = "", delay: float = 0.0) -> None:
        super().__init__(message, hint=hint)
        self.delay = delay


class TooMany(Passing, RateLimited):
    """The registry asks to slow down."""


class Retries:
    """The attempts of one request: at most *limit* more, spread out by exponential backoff with full jitter.

    *tell* is told of each, so that nobody waits in silence.

    Full jitter (any time from none to the whole) keeps the nodes of a job from coming back together; see
    https://aws.amazon.com/blogs/architecture/exponential-backoff-and-jitter/.
    """

    def __init__(self, limit: int, backoff: float, tell: Callable[[str], None]) -> None:
        self._limit = limit
        self._backoff = backoff
        self._tell = tell
        self._used = 0

    def progress(self) -> None:
        """Count from anew: the last attempt was not in vain."""
        self._used = 0

    def wait(self, error: Passing) -> None:
        """Wait for the next attempt after *error*.

        Raises: *error*, when there were enough; RateLimited, when that would take too long.
        """
        if error.delay > _LONGEST_WAIT:
            when = datetime.fromtimestamp(time.time() + error.delay, UTC)
            raise RateLimited(f"{error}; it asks to come back at {when:%Y-%m-%d %H:%M:%S} UTC", hint=error.hint)
        if self._used >= self._limit:
            raise error
        longest = min(_LONGEST_BACKOFF, self._backoff * 2**self._used)
        delay = error.delay + random.uniform(0, longest)  # noqa: S311  (jitter, not a secret)
        self._used += 1
        self._tell(f"{error}; trying again in {delay:.1f} s ({self._used} of {self._limit})")
        time.sleep(delay)


def retry_after(headers: Mapping[str, str]) -> float:
    """The seconds that the header Retry-After (RFC 9110, 10.2.3) asks for; 0 when it is not there or not understood."""
    text = headers.get("Retry-After", "").strip()
    if text.isascii() and text.isdecimal():
        return float(text[:9])
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return 0.0
    return max(0.0, (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp() - time.time())
