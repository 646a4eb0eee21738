"""How often registries were asked, and how they answered: sums for whoever watches them.

Requests are counted where they are sent, also those to the token service and the blob store of a registry: all of them
for the registry, since only that one is known by name.
"""

from __future__ import annotations

import threading
from collections import Counter

__all__ = ["ANSWERS", "PASSED", "Tally"]

_ALONE = frozenset({401, 403, 404, 429})
ANSWERS = ("2xx", "3xx", *sorted(map(str, _ALONE)), "4xx", "5xx", "error")
"""Statuses that tell something by themselves, classes of all others, and that there was no answer."""
PASSED = "passed"
"""A mirror was of no use, and the next endpoint was asked."""


class Tally:
    """Sums by host and by one of `ANSWERS` or `PASSED`.  Safe for several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._sums: Counter[tuple[str, str]] = Counter()

    def answered(self, host: str, status: int) -> None:
        """Count an answer of *status* to a request for the registry *host*; 0: none came."""
        answer = str(status) if status in _ALONE else f"{status // 100}xx"
        self._add(host, answer if answer in ANSWERS else "error")

    def passed(self, host: str) -> None:
        """Count that the mirror *host* was of no use."""
        self._add(host, PASSED)

    def take(self) -> dict[tuple[str, str], int]:
        """The sums since the last call."""
        with self._lock:
            sums, self._sums = dict(self._sums), Counter()
        return sums

    def _add(self, host: str, what: str) -> None:
        with self._lock:
            self._sums[host, what] += 1
