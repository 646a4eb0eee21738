"""How often a registry may be asked, by all processes that share its notes.

Whoever is told to slow down (429) notes until when.  Nobody asks that registry before that time is over, or, where it
was not said, before a guess that doubles.  Then one process probes, and when it is answered all go on.  A wait that is
too long is an error at once, in the words of the registry; at a mirror any wait is, because there are others to ask.
"""

from __future__ import annotations

import random
import re
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from enroot_slurm.errors import NetworkError, RateLimited, error_fields, error_of, printable
from enroot_slurm.registry.retry import LONGEST_WAIT, Passing, TooMany, come_back

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["HostLimits", "Left", "Memory", "Notes"]

_LEAST, _MOST = 1.0, 60.0  # seconds that are guessed
_LONG = 300.0  # seconds after which somebody probes, where a limit of hours has no end that is told
_HELD = 6 * 3600.0  # seconds after which somebody probes, whatever was told: a clock or a proxy may be wrong
_PROBE = 30.0  # seconds that a probe may take
_PAUSE = 0.5  # seconds between two looks
_PATIENCE = 2 * LONGEST_WAIT
_YEAR = 366 * 86400.0
_REMAINING = re.compile(r"([0-9]{1,9})(?:;w=([0-9]{1,8}))?", re.ASCII)
_LOW = 0.1  # a share
_TOLD_FOR = 3600.0


class Notes(Protocol):
    """Where processes tell each other: `enroot_slurm.cache.hosts.HostNotes`, or `Memory`."""

    def read(self, kind: str, host: str) -> dict[str, Any]:
        """The note of this kind about the host; empty if there is none."""

    def write(self, kind: str, host: str, fields: dict[str, Any]) -> None:
        """Let the note be this."""

    def claim(self, kind: str, host: str, seconds: float) -> bool:
        """Write the note, if there is none that is younger; whether this process has."""

    def forget(self, kind: str, host: str) -> None:
        """Remove the note."""


class Memory:
    """Notes of this process alone."""

    def __init__(self) -> None:
        self._notes: dict[tuple[str, str], dict[str, Any]] = {}

    def read(self, kind: str, host: str) -> dict[str, Any]:
        """See `Notes`."""
        return self._notes.get((kind, host), {})

    def write(self, kind: str, host: str, fields: dict[str, Any]) -> None:
        """See `Notes`."""
        self._notes[kind, host] = {**fields, "time": time.time()}

    def claim(self, kind: str, host: str, seconds: float) -> bool:
        """See `Notes`."""
        last = self.read(kind, host).get("time", 0)
        if time.time() - last < seconds:
            return False
        self.write(kind, host, {})
        return True

    def forget(self, kind: str, host: str) -> None:
        """See `Notes`."""
        self._notes.pop((kind, host), None)


class Left(NamedTuple):
    """What a registry has said of its limit."""

    remaining: int
    limit: int
    """0: it has not said."""
    window: int
    """Seconds; 0: it has not said."""
    time: float
    """When it was said; seconds since 1970."""
    source: str
    """Whose limit it is: an address or an account; or empty."""

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Left | None:
        """What a note holds; None if it is none."""
        remaining, limit, window, at = (fields.get(name) for name in cls._fields[:4])
        if type(remaining) is not int or type(limit) is not int or type(window) is not int:
            return None
        if not isinstance(at, float | int):
            return None
        return cls(remaining, limit, window, float(at), printable(str(fields.get("source") or ""), 60))

    def __str__(self) -> str:
        of = f" of {self.limit}" if self.limit else ""
        window = f" in {self.window / 3600:g} h" if self.window else ""
        minutes = max(0, round((time.time() - self.time) / 60))
        return (
            f"{self.remaining}{of} pulls{window} left{f' for {self.source}' if self.source else ''}, {minutes} min ago"
        )


class HostLimits:
    """The limits of one registry, *host*; *tell* is told of waits, and of a limit that is nearly used up."""

    def __init__(self, host: str, notes: Notes, tell: Callable[[str], None], deadline: float = float("inf")) -> None:
        self.host = host
        self._notes = notes
        self._tell = tell
        self._deadline = deadline
        self._probing = False

    def wait(self, *, patient: bool) -> None:
        """Come back when the registry may be asked; unless *patient*, never wait.

        Raises: RateLimited, also TooMany, when that takes too long.
        """
        note = self._held()
        if not note:
            return
        end, told = time.monotonic() + _PATIENCE, False
        while note:
            left = note["until"] - time.time()
            if left <= 0:
                if self._notes.claim("probe", self.host, _PROBE):
                    self._probing = True
                    return
                left = _PAUSE
            elif left > LONGEST_WAIT or not patient or time.monotonic() + left > min(end, self._deadline):
                raise _error(note, left)
            if not patient or time.monotonic() > min(end, self._deadline):
                raise _error(note, left)
            if not told:
                told = True
                self._tell(f"{self.host} is not asked before {come_back(left)}: it is asked too often")
            time.sleep(min(left, _PAUSE) + random.uniform(0, _PAUSE))  # noqa: S311 - no secret
            note = self._held()

    def refused(self, error: NetworkError) -> None:
        """Note that the registry has answered with *error* that it is asked too often."""
        before = self._held()
        times = min(before.get("times", 0) + 1, 16) if before else 1
        delay = error.delay if isinstance(error, Passing) else 0.0
        if not delay:
            guess = min(_LEAST * 2 ** (times - 1), _MOST)
            delay = guess if isinstance(error, TooMany) else _LONG
        fields = {**error_fields(error), "until": time.time() + min(max(delay, _LEAST), _HELD), "times": times}
        self._notes.write("held", self.host, fields)
        self._end_probe()

    def answered(self, headers: Mapping[str, str]) -> None:
        """Note that the registry has answered, with *headers*."""
        if self._probing:
            self._notes.forget("held", self.host)
            self._end_probe()
        remaining = _REMAINING.match(headers.get("ratelimit-remaining", "").strip())
        if remaining:
            self._note_left(remaining, headers)

    def failed(self) -> None:
        """Note that there was no answer: then somebody else probes."""
        self._end_probe()

    @property
    def held_until(self) -> float:
        """Until when it is not to be asked, in seconds since 1970; 0: it may be asked."""
        return float(self._held().get("until", 0))

    @property
    def is_down(self) -> bool:
        """Whether this mirror has not answered this node within the last minute."""
        noted = self._notes.read("down", self.host).get("time")
        return isinstance(noted, float | int) and abs(time.time() - noted) < _MOST

    def note_down(self) -> None:
        """Note that this mirror does not answer this node."""
        self._notes.write("down", self.host, {})

    def _end_probe(self) -> None:
        if self._probing:
            self._probing = False
            self._notes.forget("probe", self.host)

    def _held(self) -> dict[str, Any]:
        """The note that holds, well-formed; or nothing."""
        note = self._notes.read("held", self.host)
        until, times = note.get("until"), note.get("times")
        good = isinstance(until, float | int) and type(times) is int and until - time.time() < _YEAR
        return note if good else {}

    def _note_left(self, remaining: re.Match[str], headers: Mapping[str, str]) -> None:
        stated = _REMAINING.match(headers.get("ratelimit-limit", "").strip())
        now = time.time()
        left = Left(
            int(remaining[1]),
            int(stated[1]) if stated else 0,
            int((stated and stated[2]) or remaining[2] or 0),
            now,
            printable(headers.get("docker-ratelimit-source", ""), 60),
        )
        warned = self._notes.read("left", self.host).get("warned")
        warned = warned if isinstance(warned, float | int) else 0
        if left.remaining < _LOW * left.limit and abs(now - warned) > _TOLD_FOR:
            warned = now
            self._tell(f"{self.host}: {left}")
        self._notes.write("left", self.host, {**left._asdict(), "warned": warned})


def _error(note: Mapping[str, Any], left: float) -> NetworkError:
    """What is told of *note*, which holds for *left* more seconds."""
    error = error_of(note)
    node = printable(str(note.get("node", "")), 64)
    message = error.message + (f"; {node} was told so" if node else "")
    if left <= 0:
        left = _PAUSE
    return RateLimited(f"{message}; it is not asked before {come_back(left)}", hint=error.hint)
