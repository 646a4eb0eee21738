"""Failures that processes take from each other."""

from __future__ import annotations

import json
import os
import time

import pytest

from enroot_slurm import errors
from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.failures import Failures


@pytest.fixture
def failures(tmp_path):
    return Failures(CacheDirectory(tmp_path / "cache"), "key")


@pytest.mark.parametrize("kind", ["NotFound", "PlatformNotFound", "AccessDenied", "IntegrityError", "RateLimited"])
def test_shared(failures, kind):
    """What everyone would meet is remembered with its class, message and hint, and says that it is not new."""
    failures.note(getattr(errors, kind)("no such image", hint="Try another."))
    error = failures.last(60).error()
    assert type(error) is getattr(errors, kind)
    assert str(error) == "no such image"
    assert error.hint.startswith("Try another. ")
    assert "was told so 0 s ago" in error.hint


@pytest.mark.parametrize("kind", ["StorageError", "ConversionError", "ConfigError"])
def test_not_shared(failures, kind):
    """What may be this node's or this user's trouble is not."""
    failures.note(getattr(errors, kind)("something"))
    assert failures.last() is None


def test_a_subclass_of_ours(failures):
    """An error whose class is not in the tree is remembered as its parent."""

    class Special(errors.IntegrityError):
        pass

    failures.note(Special("x"))
    assert type(failures.last().error()) is errors.IntegrityError


def test_age(failures):
    """It is forgotten after the time to live; without one, it is what came last."""
    failures.note(errors.NotFound("x"))
    assert failures.last(60) is not None
    time.sleep(0.02)
    assert failures.last(0.01) is None
    assert failures.last() is not None


def test_nothing_private_in_a_public_place(tmp_path):
    """In a cache for everybody, a refusal leaves no trace, and nobody else reads what does."""
    place = CacheDirectory(tmp_path / "cache", public=True)
    failures = Failures(place, "key")
    failures.note(errors.AccessDenied("secret/name"))
    assert not place.root.exists()
    failures.note(errors.NotFound("name"))
    assert (place.root / "failures").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize(
    "change", [{"kind": "SystemExit"}, {"kind": "EnrootSlurmError"}, {"kind": 5}, {"time": "x"}, {}]
)
def test_records_of_another_form(failures, change, tmp_path):
    """A record that is not understood is none."""
    failures.note(errors.NotFound("x"))
    path = tmp_path / "cache/failures/key.json"
    fields = {**json.loads(path.read_bytes()), **change}
    if not change:
        del fields["host"]
    path.write_text(json.dumps(fields))
    assert failures.last(60) is None


def test_control_characters(failures):
    """What a file says is not printed as it is."""
    failures.note(errors.NotFound("\x1b[31mred", hint="\n"))
    error = failures.last().error()
    assert "\x1b" not in str(error)
    assert "\n" not in error.hint


def test_what_depends_on_credentials(tmp_path):
    """A refusal counts as long as the credentials are those that it was met with; damage does, whatever they are."""
    place = CacheDirectory(tmp_path / "cache")
    for kind, counts in {
        "AccessDenied": False,
        "NotFound": False,
        "RateLimited": False,
        "IntegrityError": True,
    }.items():
        Failures(place, kind, lambda: "first").note(getattr(errors, kind)("x"))
        assert Failures(place, kind, lambda: "first").last(60) is not None
        assert (Failures(place, kind, lambda: "second").last(60) is not None) is counts


def test_a_registry_that_does_not_answer(failures):
    """Others learn of it, for some seconds; the process that has met it tries again when it wants to."""
    failures.note(errors.NetworkError("no answer"))
    assert failures.last(60) is None
    edit(failures, pid=os.getpid() + 1)
    assert type(failures.last(60).error()) is errors.NetworkError
    assert failures.last(0) is None
    edit(failures, time=time.time() - 6)
    assert failures.last(60) is None


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": 7},
        {"kind": "Interrupted"},
        {"message": None},
        {"hint": ["x"]},
        {"host": {}},
        {"pid": True},
        {"time": "now"},
        {"time": float("nan")},
        {"time": True},
        {"credentials": 0},
    ],
)
def test_a_record_that_somebody_has_written(failures, changes):
    """What is not of its form is no failure, and no traceback."""
    failures.note(errors.NotFound("x"))
    edit(failures, **changes)
    assert failures.last(60) is None


def edit(failures, **changes):
    fields = {**json.loads(failures._path.read_text()), **changes}
    failures._path.write_text(json.dumps(fields))
