"""The record of a job's images on a node: from the prolog to its steps.

    /run/enroot-slurm/JOB.RESTART.json     JSON, a line each: which doors were used (by root), what is asked for, then
                                           each result as it comes

Root makes the file, and gives the descriptor to the worker.  The worker holds a lock on it (flock) until all is done.
A step that finds it locked waits; a step that finds it free and without its image knows that the worker has died.
Lines are only appended.  The file belongs to the job's user, so no other user learns which images a job runs.  Root
never reads it.  The directory is root's, so nobody can put another file in its place.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import EnrootSlurmError, StorageError, WorkerFailed, error_fields, error_of
from enroot_slurm.slurm.leased import STEPS
from enroot_slurm.slurm.policy import rule_of
from enroot_slurm.slurm.request import Request
from enroot_slurm.system.publish import beside, draft

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from enroot_slurm.settings.config import Config
    from enroot_slurm.slurm.job import Job

__all__ = ["Failure", "Record", "Result", "Writer", "prepare_directory", "record", "record_path"]

_MAX_RECORD = 1 << 20
_POLL = 0.05  # seconds


class Failure(NamedTuple):
    """An error, as texts."""

    kind: str
    """The class, one of `enroot_slurm.errors`."""
    fault: str
    """``user``, ``site`` or ``node``: see `enroot_slurm.slurm.policy`."""
    message: str
    hint: str
    exit_code: int

    @classmethod
    def of(cls, error: EnrootSlurmError) -> Failure:
        """The failure that *error* is."""
        fields = error_fields(error)
        return cls(fields["kind"], rule_of(error).fault, fields["message"], fields["hint"], error.exit_code)

    def error(self) -> EnrootSlurmError:
        """The error again."""
        return error_of({"kind": self.kind, "message": self.message, "hint": self.hint})


class Result(NamedTuple):
    """The result of a request: a file, or a failure."""

    uri: str
    arch: str = ""
    name: str = ""
    path: str = ""
    digest: str = ""
    size: int = 0
    failure: Failure | None = None


class Record(NamedTuple):
    """The present content of a record; made by `find`."""

    path: Path
    importing: bool
    """Whether somebody is at work."""
    requests: list[Request]
    results: list[Result]
    sources: frozenset[str] = frozenset()
    """Where the job asked: variables of the prolog's environment (`request.asked_in`), or ``stage-in``."""
    pyxis: frozenset[str] = frozenset()
    """Of the requests, the URIs or the wrong texts that came by pyxis' option alone: its importer waits for them."""

    @classmethod
    def find(cls, directory: Path, job_id: int, restart: int | None = None) -> Record | None:
        """The record of a job, or None; without *restart* that of its last start on this node.

        Raises: StorageError, when it can't be read, or is not what root made.
        """
        if restart is None:
            found = [path.name.split(".")[1] for path in directory.glob(f"{job_id}.*.json")]
            restart = max((int(r) for r in found if r.isdecimal()), default=0)
        return cls._read(directory / f"{job_id}.{restart}.json")

    def result(self, request: Request) -> Result | None:
        """The result of *request*, if there is one; names do not count."""
        return next((r for r in self.results if (r.uri, r.arch) == (request.uri, request.arch)), None)

    def asks_for(self, request: Request) -> bool:
        """Whether the job asked for *request*, as far as it is known yet."""
        return any((r.uri, r.arch) == (request.uri, request.arch) for r in self.requests)

    def wait(self, request: Request, seconds: float) -> Result | None:
        """The result of *request* as soon as it is there; None if nobody works on it.

        Raises: WorkerFailed, when it is still worked on after *seconds*; StorageError.
        """
        record: Record | None = self
        end = time.monotonic() + seconds
        while record is not None:
            result = record.result(request)
            # Before the worker has said what it works on, it may be this.
            if result or not record.importing or (record.requests and not record.asks_for(request)):
                return result
            if time.monotonic() >= end:
                raise WorkerFailed(
                    f"{request.uri} is still being imported after {seconds:g} s",
                    hint="The import goes on: try again later.",
                )
            time.sleep(_POLL)
            record = Record._read(self.path)
        return None

    @classmethod
    def _read(cls, path: Path) -> Record | None:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise StorageError(f"{path} can't be read: {error.strerror}") from error
        with os.fdopen(descriptor, "rb") as file:
            # Locked first, read then: what is read from a free file is all there will be.
            importing = not _try_lock(file.fileno(), fcntl.LOCK_SH)
            lines = file.read(_MAX_RECORD).split(b"\n")
        record = cls(path, importing, [], [])
        for line in lines[:-1]:
            # The job's user may have written into it: what is not of its form is left out.
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                record = record._with(json.loads(line))
        return record

    def _with(self, fields: object) -> Record:
        """This record with one more line.  Raises: ValueError, TypeError, LookupError."""
        if not isinstance(fields, dict):
            raise TypeError("not of its form")
        if "sources" in fields:
            return self._replace(sources=_texts(fields["sources"]))
        if "requests" in fields:
            requests = [Request(**_checked(each, Request._fields)) for each in fields["requests"]]
            return self._replace(requests=requests, pyxis=_texts(fields.get("pyxis", [])))
        return self._replace(results=[*self.results, _result(fields)])


def record(job: Job, *, config: Config | None = None) -> Record | None:
    """This node's record of the images of *job*, for its user and for root; None if no prolog has worked for it.

    `Record.results` has a `Result` for each image that is there (its ``path`` and ``digest``) or not (its ``failure``,
    whose ``error()`` can be raised); ``importing`` says whether more will come.

    Raises: ConfigError; StorageError, when it can't be read.
    """
    if config is None:
        from enroot_slurm.settings.config import Config  # noqa: PLC0415 - steps have theirs already

        config = Config.load(trusted=os.geteuid() == 0)
    return Record.find(config.run_path, job.id, job.restart)


class Writer(NamedTuple):
    """The open record of a job, with its lock."""

    descriptor: int

    @classmethod
    def create(cls, directory: Path, job: Job) -> Writer | None:
        """Make and lock the record of *job*; None if there is one: another prolog of this start was here.

        Raises: OSError.
        """
        path = record_path(directory, job)
        with draft(beside(path), mode=0o400) as file:
            _try_lock(file.fd, fcntl.LOCK_EX)  # it is the open file's, so that a second descriptor keeps it
            os.fchown(file.fd, job.uid, job.gid)
            return cls(os.dup(file.fd)) if file.publish(path, replace=False, lasting=False) else None

    def begin(self, sources: list[str]) -> None:
        """Say where the job asked."""
        self._append({"sources": sources})

    def ask(self, requests: Sequence[Request], pyxis: Sequence[str] = ()) -> None:
        """Say what is asked for, and which URIs or wrong texts of these came by pyxis' option alone."""
        self._append({"requests": [request._asdict() for request in requests], "pyxis": list(pyxis)})

    def add(self, result: Result) -> None:
        """Append *result*."""
        fields: dict[str, Any] = {key: value for key, value in result._asdict().items() if value}
        if result.failure:
            fields["failure"] = result.failure._asdict()
        self._append(fields)

    def digests(self) -> list[str]:
        """The digests of the images that are there, as the record has them."""
        found = []
        for line in os.pread(self.descriptor, _MAX_RECORD, 0).split(b"\n"):
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                found.append(_result(json.loads(line)).digest)
        return [digest for digest in found if digest]

    def has(self, request: Request) -> bool:
        """Whether *request* has a result, by this process or the one before it."""
        wanted = (request.uri, request.arch)
        for line in os.pread(self.descriptor, _MAX_RECORD, 0).split(b"\n"):
            with suppress(ValueError, TypeError, LookupError, RecursionError):
                result = _result(json.loads(line))
                if (result.uri, result.arch) == wanted:
                    return True
        return False

    def _append(self, fields: dict[str, Any]) -> None:
        os.lseek(self.descriptor, 0, os.SEEK_END)
        os.write(self.descriptor, json.dumps(fields).encode() + b"\n")


def _result(fields: object) -> Result:
    """The result that a line has.  Raises: ValueError, TypeError, LookupError."""
    if not isinstance(fields, dict):
        raise TypeError("not of its form")
    fields = dict(fields)
    failure, size = fields.pop("failure", None), fields.pop("size", 0)
    texts: dict[str, Any] = _checked(fields, ("uri", "arch", "name", "path", "digest"))
    if type(size) is not int or size < 0 or not texts["uri"]:
        raise ValueError("no result")
    if failure is None:
        if not texts.get("path", "").startswith("/") or "\0" in texts["path"]:
            raise ValueError("no path")
        return Result(**texts, size=size)
    if not isinstance(failure, dict) or type(code := failure.get("exit_code")) is not int:
        raise TypeError("no failure")
    words = _checked({name: text for name, text in failure.items() if name != "exit_code"}, Failure._fields)
    return Result(**texts, size=size, failure=Failure(**words, exit_code=code))


def _checked(fields: object, names: tuple[str, ...]) -> dict[str, str]:
    """*fields*, if they are texts and have such *names*.  Raises: ValueError, TypeError."""
    if not isinstance(fields, dict) or not all(name in names and type(value) is str for name, value in fields.items()):
        raise ValueError("not of its form")
    return dict(fields)


def _texts(values: object) -> frozenset[str]:
    if not isinstance(values, list) or not all(type(value) is str for value in values):
        raise ValueError("not a list of texts")
    return frozenset(values)


def record_path(directory: Path, job: Job) -> Path:
    """Where the record of *job* is."""
    return directory / f"{job.key}.json"


def prepare_directory(directory: Path) -> None:
    """Make the directory of records if it is missing.  Raises: StorageError, when it is not root's alone; OSError."""
    with suppress(FileExistsError):
        os.mkdir(directory, 0o755)  # noqa: PTH102 - its parent must be there: /run
    status = os.lstat(directory)
    if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
        raise StorageError(
            f"{directory} is not a directory that only root can write", hint=f"Remove it, or set run_path: {directory}"
        )
    _make_open(directory / STEPS)


def _make_open(directory: Path) -> None:
    """Make a directory where everybody can leave files that only their owner and root can remove."""
    with suppress(OSError):  # without it, a collection finds out what else a mark would tell
        directory.mkdir(0o700)
        directory.chmod(0o1733)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
