"""A registry's limits: told once, they hold for all that share the notes, and one finds out when they are over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.hosts import HostNotes, all_notes
from enroot_slurm.errors import NetworkError, RateLimited
from enroot_slurm.registry import limits
from enroot_slurm.registry.limits import HostLimits, Left, Memory
from enroot_slurm.registry.retry import Passing, TooMany

if TYPE_CHECKING:
    from collections.abc import Callable

HUB = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600", "docker-ratelimit-source": "192.0.2.7"}


@pytest.fixture(params=["memory", "cache"])
def notes(request, tmp_path) -> Memory | HostNotes:
    return Memory() if request.param == "memory" else HostNotes(CacheDirectory(tmp_path))


@pytest.fixture
def clock(monkeypatch) -> list[float]:
    """What was slept; time goes on by that alone, however busy the machine is."""
    waits: list[float] = []
    now, monotonic = limits.time.time(), limits.time.monotonic()
    monkeypatch.setattr(limits.time, "sleep", waits.append)
    monkeypatch.setattr(limits.time, "time", lambda: now + sum(waits))
    monkeypatch.setattr(limits.time, "monotonic", lambda: monotonic + sum(waits))
    return waits


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def make(notes, told) -> Callable[..., HostLimits]:
    """A function that makes the limits of one process."""
    return lambda host="r.site": HostLimits(host, notes, told.append)


def test_nothing_is_held(make, clock) -> None:
    make().wait(patient=True)
    make().answered({})
    assert clock == []


def test_all_wait_and_one_probes(make, clock, told) -> None:
    """Nobody asks before the time is over; then one does, and when it is answered the others do."""
    make().refused(TooMany("r.site: too many requests", delay=20))
    prober, other = make(), make()
    prober.wait(patient=True)
    assert 20 <= sum(clock) < 22
    assert told == [text for text in told if text.startswith("r.site is not asked before ")]
    with pytest.raises(RateLimited, match="too many requests"):
        other.wait(patient=False)  # the other one probes
    prober.answered({})
    other.wait(patient=False)


def test_another_host_goes_on(make, clock) -> None:
    make().refused(TooMany("x", delay=20))
    make("s.site").wait(patient=False)
    assert clock == []


def test_a_probe_that_is_refused_or_lost(make, clock) -> None:
    """The next time holds; and where nobody answered, somebody else probes."""
    make().refused(TooMany("x", delay=5))
    first, second = make(), make()
    first.wait(patient=True)
    first.refused(TooMany("x", delay=50))
    before = sum(clock)
    second.wait(patient=True)
    assert sum(clock) - before >= 49
    second.failed()
    make().wait(patient=False)


def test_a_probe_that_was_killed(make, clock) -> None:
    """After a while it is no reason to wait any more."""
    make().refused(TooMany("x", delay=1))
    make().wait(patient=True)
    before = sum(clock)
    make().wait(patient=True)
    assert 25 < sum(clock) - before < 35


@pytest.mark.parametrize(
    ("error", "seconds"),
    [
        (TooMany("x"), 1),
        (TooMany("x", delay=0.001), 1),
        (TooMany("x", delay=90), 90),
        (RateLimited("x"), 300),
        (Passing("x", delay=600), 600),
        (TooMany("x", delay=300 * 86400), 6 * 3600),
    ],
)
def test_until(make, notes, clock, error, seconds) -> None:
    """What is not said is guessed, and what is said counts."""
    make().refused(error)
    assert 0 <= notes.read("held", "r.site")["until"] - limits.time.time() - seconds + 1 <= 1


def test_guesses_double(make, notes, clock) -> None:
    for expected in (1, 2, 4, 8, 16, 32, 60, 60):
        make().refused(TooMany("x"))
        assert round(notes.read("held", "r.site")["until"] - limits.time.time()) == expected


def test_a_long_wait_is_an_error(make, clock) -> None:
    """In the words of the registry, with the time, and at once."""
    make().refused(RateLimited("r.site: the pull limit is used up", hint="Log in."))
    with pytest.raises(RateLimited, match=r"the pull limit is used up.*it is not asked before 20") as caught:
        make().wait(patient=True)
    assert caught.value.hint == "Log in."
    assert clock == []


def test_deadline(notes, told, clock) -> None:
    """No wait is longer than the import may take."""
    HostLimits("r.site", notes, told.append).refused(TooMany("x", delay=60))
    with pytest.raises(NetworkError):
        HostLimits("r.site", notes, told.append, deadline=limits.time.monotonic() + 30).wait(patient=True)


def test_left(make, notes, told) -> None:
    make().answered(HUB)
    left = Left.of(notes.read("left", "r.site"))
    assert str(left) == "76 of 100 pulls in 6 h left for 192.0.2.7, 0 min ago"
    assert told == []
    for _ in range(3):
        make().answered({**HUB, "ratelimit-remaining": "9;w=21600"})
    assert told == ["r.site: 9 of 100 pulls in 6 h left for 192.0.2.7, 0 min ago"]


@pytest.mark.parametrize("value", ["", "x", "-1", "9" * 40, "5;w=x"])
def test_odd_headers(make, notes, value) -> None:
    """Whatever a registry says."""
    make().answered({"ratelimit-remaining": value, "ratelimit-limit": value, "docker-ratelimit-source": "\x1b[31m"})
    left = Left.of(notes.read("left", "r.site"))
    assert left is None or str(left).isprintable()


@pytest.mark.parametrize(
    "note",
    [
        {},
        {"until": "x", "times": 1},
        {"until": 1e300, "times": 1},
        {"until": float("nan"), "times": 1},
        {"until": None},
        {"until": 5, "times": True},
        [],
    ],
)
def test_damaged_notes(make, notes, clock, note: Any) -> None:
    """A file that is none of ours, or of a clock that is wrong by years, holds nobody."""
    notes.write("held", "r.site", dict(note))
    make().wait(patient=False)


def test_foreign_words(make, notes) -> None:
    """What a note says is not printed as it is."""
    fields = {"until": limits.time.time() + 999, "times": 1, "kind": "X", "message": "\x1b[31m", "hint": "\x07"}
    notes.write("held", "r.site", fields)
    with pytest.raises(RateLimited) as caught:
        make().wait(patient=True)
    assert f"{caught.value}{caught.value.hint}".isprintable()


def test_other_logins_have_other_limits(tmp_path) -> None:
    """Who has logged in since then is not held; what is down is down for all of a node."""
    before, after = (HostNotes(CacheDirectory(tmp_path), lambda word=word: word) for word in ("a", "b"))
    before.write("held", "r.site", {"until": 1})
    before.write("down", "r.site", {})
    assert after.read("held", "r.site") == {}
    assert after.read("down", "r.site")["host"] == "r.site"
    assert [note["host"] for note in all_notes(tmp_path, "held")] == ["r.site"]


def test_down(make, clock) -> None:
    make().note_down()
    assert make().is_down
    clock.append(61)
    assert not make().is_down
