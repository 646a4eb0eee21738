"""Locks, who holds them, and how long one waits."""

from __future__ import annotations

import fcntl
import json
import os
import stat
import subprocess
import sys
import threading
import time

import pytest

from enroot_slurm.cache import status
from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.status import Holder, Work
from enroot_slurm.cache.turns import Patience, Turn


@pytest.fixture
def place(tmp_path):
    return CacheDirectory(tmp_path / "cache", job="12.0")


@pytest.fixture
def quick(monkeypatch):
    """A sign of life every 20 ms, and as often a look at it."""
    monkeypatch.setattr(status, "_BEAT", 0.02)
    monkeypatch.setattr("enroot_slurm.cache.turns._LOOK", 0.02)


def wait_until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_at_a_time(place):
    """Who has the lock keeps others out, in the same process too; the file stays, and is nobody else's business."""
    lock, other = (Locks(place).lock("x") for _ in range(2))
    with lock.attempt() as first, other.attempt() as second:
        assert (first, second) == (True, False)
    with other.attempt() as third:
        assert third
    assert lock.path.exists()
    assert stat.S_IMODE(lock.path.parent.stat().st_mode) == 0o700


def test_without_locks(place):
    """When they are turned off, everyone has every lock, and no file is made."""
    lock, other = (Locks(place, enabled=False).lock("x") for _ in range(2))
    with lock.attempt() as first, other.attempt() as second:
        assert first
        assert second
    assert not place.root.exists()


@pytest.mark.parametrize("number", ["ENOSYS", "ENOLCK", "EOPNOTSUPP"])
def test_file_systems_without_locks(place, number, monkeypatch):
    """Where flock is not supported everyone has the lock; another error is an error."""
    import errno

    def refuse(*_):
        raise OSError(getattr(errno, number), number)

    monkeypatch.setattr(fcntl, "flock", refuse)  # the kernel's word, below filelock
    with Locks(place).lock("x").attempt() as held:
        assert held
    monkeypatch.setattr(errno, "EIO", errno.EIO)
    number = "EIO"
    with pytest.raises(OSError, match="EIO"), Locks(place).lock("x").attempt():
        pass


def test_a_link_in_place_of_a_lock(place, tmp_path):
    """A symbolic link is not followed."""
    locks = Locks(place)
    locks.prepare()
    locks.lock("x").path.symlink_to(tmp_path / "target")
    with pytest.raises(OSError, match="symbolic links"), locks.lock("x").attempt():
        pass
    assert not (tmp_path / "target").exists()


def test_signs_of_life(place, quick):
    """While a lock is held, a file beside it says who works on what, and how far that is; then it is gone."""
    work = Work("12.0")
    lock = Locks(place, work=work).lock("x")
    with lock.attempt():
        work.phase, work.received = "downloading", 5
        wait_until(lambda: (found := Holder.read(lock.holder)) and found.phase == "downloading")
        first = Holder.read(lock.holder)
        wait_until(lambda: Holder.read(lock.holder).beat > first.beat)
        assert (first.host, first.pid, first.job, first.received) == (os.uname().nodename, os.getpid(), "12.0", 5)
        assert abs(first.since - time.time()) < 60
        assert lock.holder.stat().st_mode & 0o077 == 0
        work.phase = "a shorter one"
        wait_until(lambda: Holder.read(lock.holder).phase == "a shorter one")
    assert not lock.holder.exists()
    wait_until(lambda: "status" not in {thread.name for thread in threading.enumerate()})
    with lock.attempt():  # and again, with a new thread
        wait_until(lock.holder.exists)
    assert not lock.holder.exists()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"host": "x"}', b"\xff" * 100, b"{}" * 10_000])
def test_what_is_no_sign_of_life(tmp_path, content):
    """A file that can't be understood says nothing; nor does a FIFO hang anybody."""
    (tmp_path / "x").write_bytes(content)
    assert Holder.read(tmp_path / "x") is None
    fields = dict.fromkeys(Holder._fields, "text")
    (tmp_path / "x").write_text(json.dumps(fields))
    assert Holder.read(tmp_path / "x") is None
    os.mkfifo(tmp_path / "fifo")
    assert Holder.read(tmp_path / "fifo") is None
    assert Holder.read(tmp_path / "missing") is None


def test_patience(place, quick):
    """It ends after the timeout, or when there is no new sign of life; as long as there are, it is told of them."""
    told = []
    waiting = Locks(place, holder_timeout=0.4, tell=told.append).lock("x")
    with Locks(place, work=Work()).lock("x").attempt():
        patience, began = Patience(waiting, timeout=60), time.monotonic()
        while time.monotonic() - began < 1:
            assert not patience.ended
            time.sleep(0.01)
        assert Patience(waiting, timeout=-1).ended
    while not patience.ended:
        time.sleep(0.01)
    assert len({holder.beat for holder in told if holder}) > 5
    assert Patience(waiting, timeout=60).ended is False


class Download:
    """Somebody's download under the lock ``x``, as others see it; each `tick` is 30 s by the clock that it sets."""

    def __init__(self, place, monkeypatch, *, left, size=0, overtaken=0):
        self.now = 1000.0
        monkeypatch.setattr("enroot_slurm.cache.turns.time.monotonic", lambda: self.now)
        locks = Locks(place, min_rate=4096)
        locks.prepare()
        self.lock = locks.lock("x", size)
        for _ in range(overtaken):
            self.lock.overtake()
        self.record = self.lock.holder
        self.patience = Patience(self.lock, timeout=100_000)
        self.left, self.received, self.beat = left, 0, 0

    def tick(self, count, *, pid=1):
        """*count* bytes have come in 30 s; whether it is waited for no longer."""
        self.now += 30
        self.received, self.left, self.beat = self.received + count, max(0, self.left - count), self.beat + 1
        holder = Holder("host", "user", "", pid, "importing", self.received, 0, self.beat, self.left)
        self.record.write_text(json.dumps(holder._asdict()))
        return self.patience.ended


def test_a_slow_download_is_passed_over(place, monkeypatch):
    """Slower than min_rate for a minute; at the second try for two."""
    download = Download(place, monkeypatch, left=1 << 40)
    assert [download.tick(4096 * 31) for _ in range(20)] == [False] * 20
    assert [download.tick(1000) for _ in range(4)].index(True) <= 2
    download = Download(place, monkeypatch, left=1 << 40, overtaken=1)
    assert [download.tick(1000) for _ in range(6)] == [False] * 4 + [True] * 2


def test_a_download_that_takes_longer_than_ones_own(place, monkeypatch):
    """A minute, and a second for each MiB that one would have to download oneself, or that the holder downloads."""
    rate = 10_000 * 30
    download = Download(place, monkeypatch, left=60 << 20)
    assert [download.tick(rate) for _ in range(6)] == [False] * 5 + [True]
    download = Download(place, monkeypatch, left=1 << 40, size=60 << 20)
    assert [download.tick(rate) for _ in range(6)] == [False] * 5 + [True]
    download = Download(place, monkeypatch, left=1 << 40)
    assert not any(download.tick(rate) for _ in range(100))


def test_work_that_is_no_download_is_waited_for(place, monkeypatch):
    """Whatever it takes: what has been downloaded is converted.  And with another holder the time begins anew."""
    download = Download(place, monkeypatch, left=1000)
    assert [download.tick(1000) for _ in range(100)] == [False] * 100
    download = Download(place, monkeypatch, left=60 << 20)
    assert not any(download.tick(10_000 * 30, pid=pid // 5) for pid in range(50))


def test_a_record_of_an_earlier_version(place, tmp_path):
    """It does not say what is left to be downloaded, and is a sign of life all the same."""
    fields = Holder("host", "user", "", 1, "importing", 5, 0, 1)._asdict()
    del fields["left"]
    (tmp_path / "x").write_text(json.dumps(fields))
    assert Holder.read(tmp_path / "x") == Holder("host", "user", "", 1, "importing", 5, 0, 1, 0)


def test_one_of_those_who_pass_over_does_the_work(place, quick):
    """The others wait for that one, and so on; all are mistaken about nobody who works."""
    locks = Locks(place, work=Work())
    with locks.lock("x").attempt():
        turns = [Turn(Locks(place, holder_timeout=-1).lock("x"), timeout=60) for _ in range(3)]
        for turn in turns:
            with turn.attempt() as held:
                assert not held
            turn.pause(lambda _: pytest.fail("there is nobody to be waited for"))
        with turns[0].attempt() as first, turns[1].attempt() as second, turns[2].attempt() as third:
            assert (first, second, third) == (True, False, False)
        with turns[1].attempt() as second:
            assert second
    assert sorted(each.name for each in (place.root / "locks").glob("*.lock")) == ["x.2.lock", "x.lock"]


def test_force(place):
    """Who has waited long enough goes on without the lock."""
    lock = Locks(place).lock("x")
    with Locks(place).lock("x").attempt():
        with lock.attempt() as held:
            assert not held
        lock.force()
        with lock.attempt() as held:
            assert held


def test_any_of_several_locks(place):
    """The first that is free; nobody is waited for, and no sign of life is looked at."""
    told = []
    locks = Locks(place, tell=told.append)
    turn = Turn(*(locks.lock(name) for name in "abc"), timeout=60)
    with Locks(place).lock("a").attempt(), turn.attempt() as held:
        assert held
        with Locks(place).lock("b").attempt() as second:
            assert not second
        with Locks(place).lock("c").attempt() as third:
            assert third
    assert not turn.waited
    assert told == []


def test_pauses_grow_up_to_the_longest(place):
    """And it is told who is waited for."""
    told, pauses = [], []
    turn = Turn(Locks(place, tell=told.append).lock("x"), timeout=60, longest=0.2)
    with Locks(place, work=Work()).lock("x").attempt():
        for _ in range(6):
            with turn.attempt() as held:
                assert not held
            turn.pause(pauses.append)
    assert pauses == sorted(pauses)
    assert (pauses[0], pauses[-1]) == (0.05, 0.2)
    assert turn.waited
    assert told


def test_who_has_waited_too_long(place):
    """The next attempt has no pause before it, and does without the lock; the other lock is still waited for."""
    pauses = []
    turn = Turn(Locks(place).lock("x"), timeout=-1)
    with Locks(place).lock("x").attempt():
        with turn.attempt() as held:
            assert not held
        turn.pause(pauses.append)
        with turn.attempt() as held:
            assert held
    assert pauses == []


def test_a_file_without_content_is_removed_as_well(tmp_path) -> None:
    """A full disk may take the name of a file and none of its content."""
    work = """
import resource, sys, time
from pathlib import Path
from enroot_slurm.cache.status import Work
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
path = Path(sys.argv[1])
with Work().shown(path):
    while not path.exists():
        time.sleep(0.01)
print(path.exists())
"""
    done = subprocess.run(
        [sys.executable, "-c", work, tmp_path / "x.holder"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "False\n"
