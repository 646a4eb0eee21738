"""One user's requests in a cache that one user fills for all: so many a minute."""

from __future__ import annotations

import os

import pytest

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.rate import Rate
from enroot_slurm.errors import RateLimited


@pytest.fixture
def wait(tmp_path):
    """A function: a request of *user*, of whom *count* a minute are let through; a wait is an error."""
    place = CacheDirectory(tmp_path / "cache", public=True)

    def wait(user, count=3):
        Rate(place, Locks(place), count, user=user, timeout=0, waits=lambda: None).wait()

    return wait


def age(tmp_path, seconds):
    """Let *seconds* pass for all that was noted."""
    for file in (tmp_path / "cache/rates").iterdir():
        then = file.stat().st_mtime - seconds
        os.utime(file, (then, then))


def test_further_ones_wait(wait, tmp_path):
    """A minute's requests may come at once; then there is one for each third of a minute. Others are not concerned."""
    for _ in range(3):
        wait("mallory")
    with pytest.raises(RateLimited, match="more than 3 images a minute") as caught:
        wait("mallory")
    assert "user_rate" in caught.value.hint
    wait("alice")
    age(tmp_path, 21)
    wait("mallory")
    with pytest.raises(RateLimited):
        wait("mallory")
    age(tmp_path, 3600)
    for _ in range(3):
        wait("mallory")
    with pytest.raises(RateLimited):
        wait("mallory")


def test_it_waits_no_longer_than_it_has_to(tmp_path):
    """The wait is told once, and it ends when the next request may be sent."""
    place = CacheDirectory(tmp_path / "cache", public=True)
    told = []
    rate = Rate(place, Locks(place), 1, user="u", timeout=60, waits=lambda: told.append("waits"))
    rate.wait()
    assert told == []
    age(tmp_path, 59.9)
    rate.wait()
    assert told == ["waits"]


@pytest.mark.parametrize(("user", "count"), [("", 1), ("alice", 0)])
def test_without_a_user_or_a_limit(wait, tmp_path, user, count):
    """Nothing is counted, and nothing written."""
    for _ in range(9):
        wait(user, count)
    assert not (tmp_path / "cache").exists()


def test_a_clock_that_was_put_back(wait, tmp_path):
    """A time far in the future counts for nothing."""
    for _ in range(3):
        wait("alice")
    age(tmp_path, -7200)
    wait("alice")


def test_a_cache_that_cannot_be_written(tmp_path):
    """It is no reason to fail."""
    (tmp_path / "cache").write_text("")
    place = CacheDirectory(tmp_path / "cache", public=True)
    for _ in range(9):
        Rate(place, Locks(place), 1, user="u", timeout=0, waits=lambda: None).wait()
