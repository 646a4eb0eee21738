"""The record of a job, as those see it who write it, wait for it, or come too late."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given
from hypothesis import strategies as st

import enroot_slurm.errors
from enroot_slurm.errors import NetworkError, NotFound, StorageError, WorkerFailed
from enroot_slurm.slurm import Job, Record, Request
from enroot_slurm.slurm.job_record import Failure, Result, Writer, prepare_directory, record_path
from enroot_slurm.slurm.policy import RULES, rule_of

JOB = Job(12, 0, os.getuid(), os.getgid(), "alice", "n1")
IMAGE = Request("docker://r.example#a:1")
OTHER = Request("docker://r.example#b:1", "arm64", "b")


WORDS = st.sampled_from(["uri", "arch", "name", "path", "digest", "size", "failure", "requests", "pyxis", "sources"])


def find(directory: Path) -> Record:
    record = Record.find(directory, JOB.id)
    assert record
    return record


def test_a_record_from_beginning_to_end(tmp_path) -> None:
    """Somebody works as long as the lock is held; results come one by one; what nobody asked for is not waited for."""
    assert Record.find(tmp_path, JOB.id) is None
    writer = Writer.create(tmp_path, JOB)
    assert writer
    assert Writer.create(tmp_path, JOB) is None
    assert record_path(tmp_path, JOB).stat().st_mode & 0o777 == 0o400
    assert find(tmp_path).importing
    with pytest.raises(WorkerFailed, match="still being imported after 0.1 s"):
        find(tmp_path).wait(IMAGE, 0.1)
    writer.ask([IMAGE, OTHER])
    assert find(tmp_path).wait(Request("docker://r.example#c:1"), 10) is None
    writer.add(Result(*IMAGE, path="/c/a.sqsh", digest="sha256:0", size=7))
    assert find(tmp_path).wait(IMAGE, 10) == Result(*IMAGE, "/c/a.sqsh", "sha256:0", 7)
    assert find(tmp_path).importing
    failure = Failure.of(NotFound("no such image", hint="Look."))
    threading.Timer(0.1, lambda: writer.add(Result(*OTHER, failure=failure))).start()
    result = find(tmp_path).wait(OTHER, 10)
    assert result
    assert result.failure == Failure("NotFound", "user", "no such image", "Look.", 3)
    assert isinstance(result.failure.error(), NotFound)
    assert writer.has(IMAGE)
    os.close(writer.descriptor)
    assert not find(tmp_path).importing


def test_a_worker_that_dies(tmp_path) -> None:
    """Its lock goes with it: who waits comes back without a result."""
    writer = Writer.create(tmp_path, JOB)
    assert writer
    writer.ask([IMAGE])
    threading.Timer(0.1, os.close, [writer.descriptor]).start()
    assert find(tmp_path).wait(IMAGE, 30) is None  # else it would raise


def test_the_last_start_counts(tmp_path) -> None:
    """A requeued job has a record for each start."""
    for restart in (0, 2, 10):
        writer = Writer.create(tmp_path, JOB._replace(restart=restart))
        assert writer
        os.close(writer.descriptor)
    assert find(tmp_path).path.name == "12.10.json"
    record = Record.find(tmp_path, 12, 2)
    assert record
    assert record.path.name == "12.2.json"


def test_who_asked(tmp_path) -> None:
    """By which doors the job asked, and what came by pyxis' option alone."""
    writer = Writer.create(tmp_path, JOB)
    assert writer
    writer.begin(["A", "B"])
    assert (find(tmp_path).sources, find(tmp_path).pyxis) == ({"A", "B"}, frozenset())
    writer.ask([IMAGE, OTHER], [OTHER.uri])
    assert (find(tmp_path).sources, find(tmp_path).pyxis) == ({"A", "B"}, {OTHER.uri})
    os.close(writer.descriptor)


def test_what_is_no_record(tmp_path) -> None:
    """Lines that make no sense are left out; a link is not followed."""
    file = tmp_path / "12.0.json"
    file.write_text(
        'nonsense\n{"uri": 1, "x": 2}\n[]\n{"requests": 5}\n{"uri": "docker://r.example#a:1", "path": "/x"}\n{"uri"'
    )
    assert find(tmp_path).results == [Result(IMAGE.uri, path="/x")]
    file.unlink()
    file.symlink_to("/etc/passwd")
    with pytest.raises(StorageError):
        find(tmp_path)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | WORDS, inner, max_size=4),
    max_leaves=8,
)
LINES = st.one_of(
    st.binary(max_size=40),
    VALUES.map(lambda value: json.dumps(value).encode()),
    st.dictionaries(WORDS, VALUES, max_size=6).map(lambda value: json.dumps(value).encode()),
    st.just(b"[" * 100_000),
    st.just(b'{"uri": "x", "path": "/x", "size": ' + b"9" * 5000 + b"}"),
)


@given(st.lists(LINES, max_size=6))
def test_what_a_user_writes_into_the_own_record(lines) -> None:
    """Whatever it is, the reader and the worker go on; what they find is of its form."""
    with TemporaryDirectory() as name:
        directory = Path(name)
        writer = Writer.create(directory, JOB)
        assert writer
        writer.ask([IMAGE])
        os.write(writer.descriptor, b"\n".join(lines) + b"\n")
        writer.add(Result(*OTHER, path="/x"))
        record = find(directory)
        assert record.results[-1] == Result(*OTHER, path="/x")
        for result in record.results:
            assert all(isinstance(text, str) for text in (result.uri, result.path, result.digest))
            assert result.path.startswith("/") or isinstance(result.failure.error(), Exception)
        assert writer.has(OTHER)
        writer.has(IMAGE)
        os.close(writer.descriptor)


def test_the_directory_is_root_s_alone(tmp_path) -> None:
    """A directory that others can write is refused."""
    prepare_directory(tmp_path / "run")
    prepare_directory(tmp_path / "run")
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(StorageError, match="only root can write"):
        prepare_directory(tmp_path / "run")
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(StorageError):
        prepare_directory(tmp_path / "link")


def test_each_error_has_a_rule() -> None:
    """Every class of the tree finds the rule of itself or of the nearest class above it."""
    kinds = [k for k in vars(enroot_slurm.errors).values() if isinstance(k, type) and issubclass(k, Exception)]
    for kind in kinds:
        assert issubclass(kind, rule_of(kind).error)
    assert rule_of(enroot_slurm.errors.PlatformNotFound).fault == "user"
    assert rule_of(enroot_slurm.errors.RateLimited).error is NetworkError


def test_the_manual_has_the_same_table() -> None:
    """docs/slurm.md prints the rules."""
    text = Path(__file__).parents[2].joinpath("docs/slurm.md").read_text()
    rows = [
        tuple(cell.strip(" `") for cell in line.strip("|").split("|"))
        for line in text.splitlines()
        if line.startswith("| `")
    ]
    documented = [row[:1] + row[2:] for row in rows if len(row) == 6]
    assert documented == [(r.error.__name__, r.fault, r.prolog, r.step, r.stage_in) for r in RULES]
