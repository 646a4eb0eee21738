"""Slurm's prolog and epilog: the page to read.

    slurmd -> prolog (root)               collects the job's requests, starts the workers, waits up to prolog_deadline
                worker (cache_user)       finds or imports into shared_cache, with the site's credentials or none
                worker (the job's user)   does the rest: with the user's credentials, into the user's cache

Root opens no file of a user, parses no text of a user, and opens no connection.  Workers write their results into the
job's record (job_record.py).  Root learns only from a worker's exit status whether the next one is needed.  Workers are
detached; after the deadline a second root process keeps waiting, so that the next can still start.

A prolog that fails drains its node.  So ours never fails, unless ``on_node_failure`` says so.  The step fails instead,
because it can tell the user why.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.trust import read_trusted
from enroot_slurm.errors import ConfigError, EnrootSlurmError, WorkerFailed
from enroot_slurm.oci.local import is_local
from enroot_slurm.oci.reference import masked
from enroot_slurm.settings.config import Config
from enroot_slurm.slurm import policy
from enroot_slurm.slurm.job import Job
from enroot_slurm.slurm.job_record import Failure, Result, Writer, prepare_directory
from enroot_slurm.slurm.leased import STEPS, is_marked
from enroot_slurm.slurm.log import ERROR, WARNING, log
from enroot_slurm.slurm.request import PYXIS, Asked, Request, asked_in, check_count, parse_words
from enroot_slurm.system.events import Events
from enroot_slurm.system.privilege import Identity, fork

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from enroot_slurm.slurm.admin_comment import AdminComment
    from enroot_slurm.system.privilege import Child

__all__ = ["SNAPSHOT", "epilog", "main", "prolog"]

SNAPSHOT = Path("/run/enroot-slurm/config.json")
"""A copy of the site's settings that is read more quickly than YAML."""
_DRAIN = 81  # status for which etc/slurm/prolog.d/50-enroot-slurm fails
_LEFT = 10  # status of a worker who has left something to the next one
_NODE = 11  # status of a worker who has found this node faulty
_RELEASING = 5.0  # seconds to give leases back; where a file system hangs, a collection does it later
_MAX_STAGED = 64 << 10
_GRACE = 5.0  # seconds for a worker to clean up


def main(hook: str) -> int:
    """The hook *hook*, ``prolog`` or ``epilog``, in the environment that slurmd gives it; its exit status."""
    environ = dict(os.environ)
    os.environ.clear()
    try:
        job = Job.from_environ(environ)
        config = Config.load(trusted=True, snapshot=SNAPSHOT)
        return prolog(job, environ=environ, config=config) if hook == "prolog" else epilog(job, config=config)
    except EnrootSlurmError as error:
        log(hook, ERROR, job=environ.get("SLURM_JOB_ID", ""), error=error, hint=error.hint)
    except Exception as error:  # noqa: BLE001 - whatever it is, the node is not to be drained for it
        log(hook, ERROR, job=environ.get("SLURM_JOB_ID", ""), error=f"unexpected {type(error).__name__}: {error}")
    return 0


def prolog(
    job: Job,
    *,
    images: Iterable[str] = (),
    environ: Mapping[str, str] | None = None,
    config: Config | None = None,
) -> int:
    """Get the images that *job* asks for in *environ* (by default the process's); the status to exit with.

    *images* are more of them, in the words of an ``#ENROOT`` line: ``docker://REGISTRY/IMAGE:TAG name=NAME``.

    It returns when they are there, or after ``prolog_deadline`` seconds; then the import goes on.  Only root may call
    it.  `record` has what became of them.  Raises: EnrootSlurmError, OSError: the prolog exits 0 all the same.
    """
    begin = time.monotonic()
    config = config or Config.load(trusted=True, snapshot=SNAPSHOT)
    asked = [Asked("site", text) for text in images]
    asked += asked_in(os.environ if environ is None else environ, comments=config.comment_requests)
    staged = _staged(job, config)
    # Also for steps that ask for what the job did not: they note it there.
    if asked or staged or not os.path.lexists(config.run_path / STEPS):
        prepare_directory(config.run_path)
    if not asked and staged is None:
        return 0
    record = Writer.create(config.run_path, job)
    if record is None:
        log("prolog", WARNING, job=job.key, node=job.node, outcome="there is a record of this job already")
        return 0
    record.begin([*(each.source for each in asked), *(["stage-in"] if staged else [])])
    comment = _admin_comment(job, environ) if config.record_in == "admincomment" else None
    task = _Task(job, asked, staged, config, record, Events.open(config.run_path), comment)
    users = ["cache", "user"] if config.shared_cache else ["user"]
    try:
        status, worker = _drive(task, users, None, config.prolog_deadline)
        if worker and (users or comment):
            rest = partial(_wait_on, task, users, worker)
            _note(task, "root", fork(rest, keep=(*task.keep, worker.pipe), detached=True).pid)
    finally:
        os.close(record.descriptor)  # and with it the lock, if nobody works any more
        task.events.close()
    outcome = "importing" if worker else {0: "done", _NODE: "node-failure"}.get(status or 0, f"status {status}")
    log("prolog", job=job.key, node=job.node, user=job.user, outcome=outcome, seconds=time.monotonic() - begin)
    return _DRAIN if status == _NODE and config.on_node_failure == "drain" else 0


def epilog(job: Job, *, config: Config | None = None) -> int:
    """End what still works for *job* on this node, and give its images free; the status to exit with: 0.

    Raises: EnrootSlurmError, OSError.
    """
    config = config or Config.load(trusted=True, snapshot=SNAPSHOT)
    marked = {job.key: {"cache", "user"} if config.shared_cache else {"user"}} if is_marked(job, config) else {}
    for journal in config.run_path.glob(f"{job.id}.*.worker"):
        restart = journal.name.split(".")[1]
        if not restart.isdecimal() or int(restart) > job.restart:
            continue  # of a later start
        past = job._replace(restart=int(restart))
        users = _end_workers(journal) & {"cache", "user"}
        _give_back(past, config, users | marked.pop(past.key, set()))
        for path in (journal.with_suffix(".json"), journal):
            path.unlink(missing_ok=True)
        log("epilog", job=past.key, node=job.node, user=job.user)
    for users in marked.values():
        _give_back(job, config, users)
    return 0


def _give_back(job: Job, config: Config, users: set[str]) -> None:
    """End what *job* has leased here, as each of *users*."""
    visits = "user" in users  # who may have leased in the site's cache as well
    for user in sorted(users):
        with suppress(EnrootSlurmError):
            work = partial(_release, job, config, shared=user == "cache", visits=visits)
            releasing = fork(work, _identity(user, job, config))
            if releasing.wait(_RELEASING) is None:
                log("epilog", WARNING, job=job.key, error="the cache does not answer; the leases stay", user=user)
                releasing.end()


class _Task(NamedTuple):
    """The task of workers."""

    job: Job
    asked: list[Asked]
    staged: Path | None
    config: Config
    record: Writer
    events: Events
    comment: AdminComment | None = None
    """Where the images' digests are noted besides."""

    @property
    def keep(self) -> tuple[int, ...]:
        """The descriptors that a worker needs."""
        return (self.record.descriptor, *self.events.keep)


def _drive(
    task: _Task, users: list[str], worker: Child | None, seconds: float | None = None
) -> tuple[int | None, Child | None]:
    """Let workers follow each other, *worker* and one as each of *users*, until one leaves nothing to the next.

    The last one's status, or, after *seconds*, None and who is still at work; *users* are then those that may follow.
    """
    end = None if seconds is None else time.monotonic() + seconds
    status: int | None = _LEFT
    while status == _LEFT and (worker or users):
        worker = worker or _start(task, users.pop(0))
        if worker is None:
            continue
        status = worker.wait(None if end is None else max(0.0, end - time.monotonic()))
        if status is None:
            return None, worker
        if status not in {0, _LEFT, _NODE}:
            log("worker", ERROR, job=task.job.key, outcome=f"the worker ended with status {status}")
        worker = None
    if task.comment is not None:
        task.comment.note(task.record)
    return status, None


def _admin_comment(job: Job, environ: Mapping[str, str] | None) -> AdminComment:
    from enroot_slurm.slurm.admin_comment import AdminComment  # noqa: PLC0415 - few sites want it

    return AdminComment(job, os.environ if environ is None else environ)


def _wait_on(task: _Task, users: list[str], worker: Child) -> int:
    """Wait on behalf of the prolog, which has ended at its deadline; an exit status."""
    return _drive(task, users, worker)[0] or 0


def _start(task: _Task, user: str) -> Child | None:
    """A worker as *user*; None if that can't be."""
    try:
        identity = _identity(user, task.job, task.config)
    except EnrootSlurmError as error:
        log("worker", WARNING, job=task.job.key, error=error, hint=error.hint)
        return None
    work = partial(_work, task, shared=user == "cache")
    worker = fork(work, identity, keep=task.keep, detached=True)
    _note(task, user, worker.pid)
    return worker


def _identity(user: str, job: Job, config: Config) -> Identity:
    if user == "user":
        return Identity.of(job.uid, job.gid)
    if not config.cache_user:
        raise ConfigError(
            "the shared cache is not written, for hooks need the setting cache_user for that",
            hint="Set it to the name of the cache's owner.",
        )
    return Identity.of(config.cache_user)


def _work(task: _Task, *, shared: bool) -> int:
    """The work of a worker: each request that has no result yet."""
    from enroot_slurm.cache.directory import CacheDirectory  # noqa: PLC0415 - root has no use for any of these
    from enroot_slurm.slurm.leased import leased_image  # noqa: PLC0415
    from enroot_slurm.slurm.limits import Limits  # noqa: PLC0415
    from enroot_slurm.slurm.status import PROLOG, Reporter  # noqa: PLC0415

    job, record = task.job, task.record
    config = _config_of_worker(task.config, shared=shared)
    limits = Limits(config)
    place, patience = CacheDirectory(config.cache_path, public=shared, job=job.key), config.site_failure_wait
    user = str(job.uid) if shared else ""
    (requests, pyxis), status = _requests(task), 0
    record.ask(requests, pyxis)
    for request in requests:
        if record.has(request):
            continue
        if shared and is_local(request.uri):  # a file of the job's user, whatever others may read
            status = _LEFT
            continue
        try:
            with Reporter(place, job.node, PROLOG, request.uri) as progress:
                image = leased_image(
                    request,
                    job.key,
                    job.node,
                    config,
                    patience=patience,
                    progress=progress,
                    user=user,
                    door="prolog",
                    events=task.events,
                )
            result = Result(*request, path=str(image.path), digest=str(image.digest), size=image.size)
        except Exception as caught:  # noqa: BLE001 - the steps are to know
            error = limits.explain(caught) or _told(caught)
            rule = policy.rule_of(error)
            failure = Failure.of(error)
            if rule.fault == "node" and not _is_faulty(config):
                failure = failure._replace(fault="user")  # an image of our own can be made: this one is to blame
            log("image", WARNING, job=job.key, uri=request.uri, fault=failure.fault, error=error)
            limits.renew()
            if shared and rule.prolog == policy.NEXT:
                status = _LEFT
                continue
            status = status or (_NODE if failure.fault == "node" else 0)
            result = Result(*request, failure=failure)
        record.add(result)
    return status


def _told(error: Exception) -> EnrootSlurmError:
    """*error* for the steps, which may be a mistake of ours."""
    if isinstance(error, EnrootSlurmError):
        return error
    return WorkerFailed(f"unexpected {type(error).__name__} in the prolog's worker: {error}")


def _is_faulty(config: Config) -> bool:
    """Whether this node can't even make an image of our own."""
    from enroot_slurm.importing.probe import converts  # noqa: PLC0415 - seldom needed

    return not converts(config)


def _config_of_worker(config: Config, *, shared: bool) -> Config:
    if shared:
        return config._replace(cache_path=Path(config.shared_cache))
    # Again, for ~ and ${USER} are others now.
    commands = {"credential_commands": config.hook_credential_commands}
    return Config.load(trusted=True, snapshot=SNAPSHOT, overrides=commands)


def _requests(task: _Task) -> tuple[list[Request], list[str]]:
    """All that is asked for, and what of it came by pyxis' option alone.

    What can't be read gets its failure into the record at once.
    """
    found: dict[str, list[Request]] = {"stage-in": [] if task.staged is None else _staged_requests(task.staged)}
    for source, text in task.asked:
        try:
            found.setdefault(source, []).extend(parse_words(text))
        except EnrootSlurmError as error:
            found.setdefault(f"wrong {source}", []).append(_refuse(task, source, text, error))
    pyxis = {each.uri for source in (PYXIS, f"wrong {PYXIS}") for each in found.get(source, ())}
    others = {each.uri for source, requests in found.items() if not source.endswith(PYXIS) for each in requests}
    right = (each for source, requests in found.items() if not source.startswith("wrong ") for each in requests)
    wanted = list(dict.fromkeys(right))
    try:
        check_count(wanted)
    except EnrootSlurmError as error:  # each text has few, and all together too many
        _refuse(task, "job", f"{len(wanted)} images", error)
        return [], []
    return wanted, sorted(pyxis - others)


def _refuse(task: _Task, source: str, text: str, error: EnrootSlurmError) -> Request:
    """Note that *text* is no request, for the steps; what stands for it."""
    shown = masked(text)[:200] or source
    log("request", WARNING, source=source, text=shown, error=error)
    wrong = Request(shown)
    if not task.record.has(wrong):
        task.record.add(Result(*wrong, failure=Failure.of(error)))
    return wrong


def _staged_requests(path: Path) -> list[Request]:
    """The note of stage-in in the file *path*, which belongs to the cache user."""
    with suppress(OSError, ValueError, TypeError, LookupError, RecursionError, EnrootSlurmError):
        fields = json.loads(read_trusted(path, {path.lstat().st_uid}, _MAX_STAGED))["requests"]
        return [each for one in fields for each in parse_words(_words(Request(**one)))]
    return []


def _words(request: Request) -> str:
    """*request* as an ``#ENROOT`` line has it."""
    words = zip(("image", "arch", "name"), request, strict=True)
    return " ".join(f"{key}={value}" for key, value in words if value)


def _release(job: Job, config: Config, *, shared: bool, visits: bool) -> int:
    from enroot_slurm.cache.leases import Leases  # noqa: PLC0415

    root = _config_of_worker(config, shared=shared).cache_path
    Leases(root).release(job.key, job.node, visits=shared and visits)
    return 0


def _staged(job: Job, config: Config) -> Path | None:
    """Stage-in's note about the job: not read here, because the file is the cache user's."""
    if config.shared_cache:
        for restart in dict.fromkeys((job.restart, 0)):
            path = Path(config.shared_cache, "jobs", f"{job.id}.{restart}", "requests.json")
            if os.path.lexists(path):
                return path
    return None


# The journal: which processes work for a job, and as whom.  It is root's own, for the epilog.


def _note(task: _Task, user: str, pid: int) -> None:
    journal = task.config.run_path / f"{task.job.key}.worker"
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
    descriptor = os.open(journal, flags, 0o600)
    os.write(descriptor, f"{user} {pid} {_started(pid)}\n".encode())
    os.close(descriptor)


def _end_workers(journal: Path) -> set[str]:
    """End who is in *journal*, first politely; as whom they worked."""
    noted = [line.split(" ") for line in journal.read_text().splitlines()]
    left = {int(pid): start for _, pid, start in noted if start}
    for number in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + _GRACE
        left = {pid: start for pid, start in left.items() if _started(pid) == start}
        for pid in left:
            with suppress(ProcessLookupError):
                os.killpg(pid, number)  # each has a session of its own, with the programs that it runs
        while left and any(_started(pid) == start for pid, start in left.items()) and time.monotonic() < deadline:
            time.sleep(0.02)
    return {user for user, _, _ in noted}


def _started(pid: int) -> str:
    """When process *pid* began, in the kernel's ticks; empty if it has ended: numbers are used again."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
