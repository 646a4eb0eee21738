"""How a step gets its images: it reads the prolog's record, waits for the prolog, or gets the image itself.

    python3 -I -m enroot_slurm.slurm.step [--now | --check | --tell] [TEXT]

as the job's user prints, for the images in *TEXT* (the grammar of `request`), or without it for all that the job asked
for, lines NAME=VALUE for the environment of the tasks:

    ENROOT_SLURM_IMAGE=/path          ENROOT_SLURM_IMAGE_DIGEST=sha256:...           the first image
    ENROOT_SLURM_IMAGE_NAME=/path     ENROOT_SLURM_IMAGE_NAME_DIGEST=sha256:...      an image with name=NAME

Our SPANK plug-in runs it; all other lines are for people.  With ``--now`` it neither waits nor asks anybody: status 75
says that it would have to, and 76 that pyxis' importer will.  ``--check`` only looks whether *TEXT* is right, where
a job is submitted; ``--tell`` says how far the import is, until its stdin is closed.  `policy` says what becomes of
errors.
"""

from __future__ import annotations

import contextlib
import os
import select
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import EnrootSlurmError, NotFound, UsageError, WorkerFailed
from enroot_slurm.importing.permission import permit
from enroot_slurm.oci.local import parse_name
from enroot_slurm.settings.config import Config
from enroot_slurm.slurm import policy
from enroot_slurm.slurm.job import Job
from enroot_slurm.slurm.job_record import Record
from enroot_slurm.slurm.program import complete_environment, run_program, say
from enroot_slurm.slurm.request import PYXIS, Request, parse_words
from enroot_slurm.slurm.status import PROLOG, Reporter, statuses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.importing.lock_file import LockFile
    from enroot_slurm.importing.to_cache import CachedImage
    from enroot_slurm.progress import Progress
    from enroot_slurm.slurm.job_record import Result
    from enroot_slurm.slurm.status import Status

__all__ = ["LATER", "PYXIS_WAITS", "NotYet", "StepImage", "get_in_job", "image_of", "main", "variables"]

LATER = 75
"""Status of ``--now`` when there is no image yet; EX_TEMPFAIL of sysexits.h."""
PYXIS_WAITS = 76
"""Status of ``--now`` when only what pyxis' importer waits for is missing."""
_POLL = 0.05  # seconds
_FIRST, _NEXT = 1.0, 30.0  # seconds between lines for people


class StepImage(NamedTuple):
    """An image that a step has."""

    name: str
    """The job's own name for the image; empty: it has none."""
    path: str
    digest: str
    """Of the manifest; empty for a file that the job names itself."""


class NotYet(Exception):
    """The image is not there yet."""


def image_of(
    request: Request,
    job: Job,
    config: Config,
    record: Record | None,
    *,
    step: str = "",
    now: bool = False,
    progress: Progress | None = None,
) -> StepImage:
    """The image that *request* names: by the job's *record*, if there is one, else found or imported by this user.

    What is not in the record is leased by the job, or by its *step* alone.

    Raises: NotYet, if it is not there and *now* is true; what the prolog has noted, or what the own import raises.
    """
    permit(parse_name(request.uri), config)  # the user's own lists, which the prolog has not asked
    result = _noted(request, config, record, now=now, progress=progress) if record else None
    if result and result.failure:
        error = result.failure.error()
        if policy.rule_of(error).step == policy.FAIL:
            raise error
    elif result and os.access(result.path, os.R_OK):
        return StepImage(request.name, result.path, result.digest)
    return _own_image(request, job, config, step, now=now, progress=progress)


def get_in_job(
    uri: str, arch: str | None, config: Config, progress: Progress | None = None, *, lock: LockFile | None = None
) -> CachedImage:
    """`get_image` for a command, which may be part of a job: then it waits for what the job's prolog has begun.

    Raises: the errors of `enroot_slurm.errors`.
    """
    from enroot_slurm.importing.to_cache import get_image  # noqa: PLC0415 - mostly the record says it

    if not os.environ.get("SLURM_JOB_ID"):
        return get_image(uri, arch=arch, config=config, progress=progress, lock=lock)
    job = Job.from_environ(os.environ)
    record = Record.find(config.run_path, job.id, job.restart)
    if record:
        _noted(Request(str(parse_name(uri)), arch or ""), config, record, progress=progress)
    return get_image(uri, arch=arch, config=config, progress=progress, job=job.key, lock=lock)


def variables(images: list[StepImage]) -> Iterator[tuple[str, str]]:
    """The environment's variables for *images*."""
    for number, image in enumerate(images):
        names = ["ENROOT_SLURM_IMAGE"] if number == 0 else []
        names += [f"ENROOT_SLURM_IMAGE_{image.name.upper()}"] if image.name else []
        for name in names:
            yield name, image.path
            if image.digest:
                yield f"{name}_DIGEST", image.digest


def main(*words: str) -> int:
    """The command line above."""
    option = words[0] if words and words[0] in {"--now", "--check", "--tell"} else ""
    now, text = option == "--now", " ".join(words[bool(option) :])
    is_file = text.startswith(("/", "./", "../"))
    if option == "--check":
        requests = [] if is_file else parse_words(text)
        if not is_file and not requests:
            raise UsageError("an image is missing", hint="Write docker://REGISTRY/IMAGE:TAG")
        if requests:
            complete_environment()
            config = Config.load()
            for request in requests:
                permit(parse_name(request.uri), config)
        return 0
    complete_environment()
    job, config = Job.from_environ(os.environ), Config.load()
    if option == "--tell":
        return _tell_all(job, config)
    try:
        record = Record.find(config.run_path, job.id, job.restart)
        if is_file:
            images = [_file(text)]
        else:
            requests = parse_words(text) if text.strip() else _requests_of(record, job, config, now=now)
            images = _images(requests, job, config, record, now=now)
    except NotYet:
        return LATER
    for name, value in variables(images):
        print(f"{name}={value}", flush=True)  # noqa: T201 - what this is for
    waits = record and record.importing and (record.pyxis or record.sources == {PYXIS})
    return PYXIS_WAITS if now and waits else 0


def _tell_all(job: Job, config: Config) -> int:
    """Tell on stderr how far the imports for *job* are, until stdin is closed."""
    poll, pause = select.poll(), _FIRST
    poll.register(0, select.POLLIN)
    while not poll.poll(pause * 1000):
        found = [each for each in statuses(_caches(config), job.key) if each.step == PROLOG]
        for status in {
            each.uri: each for each in sorted(found, key=lambda each: (each.total > 0, each.expected > 0))
        }.values():
            _tell(f"{status.uri}: {status.text}")
        pause = _NEXT
    return 0


def _caches(config: Config) -> list[Path]:
    return [*([Path(config.shared_cache)] if config.shared_cache else []), config.cache_path]


def _tell(text: str) -> None:
    with contextlib.suppress(OSError):
        print(f"enroot-slurm: {text}", file=sys.stderr, flush=True)  # noqa: T201 - for people


def reporter(
    request: Request, job: Job, config: Config, step: str, *, tell: Callable[[str], None] | None = None
) -> Reporter:
    """The reporter of the import of *request* for *step*, or of the import for which it waits."""
    from enroot_slurm.cache.directory import CacheDirectory  # noqa: PLC0415 - mostly there is nothing to tell

    def look() -> Status | None:
        found = [each for each in statuses(_caches(config), job.key) if each.step == PROLOG and each.is_of(request.uri)]
        # Who knows how much there is, for this node's own prolog may wait for another one's.
        return max(found, key=lambda each: (each.total + each.expected > 0, each.node == job.node), default=None)

    place = CacheDirectory(config.cache_path, job=job.key)
    return Reporter(place, job.node, step, request.uri, tell=tell, warn=_tell, look=look)


def _noted(
    request: Request, config: Config, record: Record, *, now: bool = False, progress: Progress | None = None
) -> Result | None:
    """The prolog's result for *request*, which may have to be waited for; None if the prolog does not work on it.

    Raises: NotYet, if *now* is true and it may still come; WorkerFailed, StorageError.
    """
    result = record.result(request)
    if result is None:
        may_come = record.importing and (record.asks_for(request) or not record.requests)
        if now and may_come:
            raise NotYet
        if may_come and progress:
            progress.phase("waiting for the prolog")
        result = None if now else record.wait(request, config.lock_timeout)
    return result


def _images(requests: list[Request], job: Job, config: Config, record: Record | None, *, now: bool) -> list[StepImage]:
    images = []
    # One node tells for all: they wait for the same.
    tell = None if now or os.environ.get("SLURM_NODEID", "0") != "0" else _tell
    for request in requests:
        try:
            with reporter(request, job, config, os.environ.get("SLURM_STEP_ID") or "batch", tell=tell) as progress:
                images.append(image_of(request, job, config, record, now=now, progress=progress))
        except EnrootSlurmError as error:
            if policy.rule_of(error).fault == "user" or config.on_site_failure == "fail":
                raise
            say(error)
            print(f"enroot-slurm: going on without {request.uri}", file=sys.stderr)  # noqa: T201
    return images


def _requests_of(record: Record | None, job: Job, config: Config, *, now: bool) -> list[Request]:
    """The requests of the job.  Raises: the error that the prolog has noted about an invalid request."""
    end = time.monotonic() + config.lock_timeout
    while record and record.importing and not record.requests and record.sources != {PYXIS}:
        if now:
            raise NotYet
        if time.monotonic() > end:
            raise WorkerFailed(f"the prolog is still at work after {config.lock_timeout:g} s")
        time.sleep(_POLL)
        record = Record.find(config.run_path, job.id, job.restart)
    if record is None:
        return []
    for result in record.results:
        if result.failure and result.uri not in record.pyxis and not record.asks_for(Request(result.uri, result.arch)):
            raise result.failure.error()
    # What came by pyxis' option is its importer's to wait for and to fail for: when our plug-in's turn comes, the task
    # may be inside of the container already.
    return [each for each in record.requests if each.uri not in record.pyxis or _is_there(record, each)]


def _is_there(record: Record, request: Request) -> bool:
    result = record.result(request)
    return result is not None and not result.failure and os.access(result.path, os.R_OK)


def _own_image(
    request: Request, job: Job, config: Config, step: str, *, now: bool, progress: Progress | None = None
) -> StepImage:
    from enroot_slurm.importing.to_cache import find_image  # noqa: PLC0415 - mostly the record says it
    from enroot_slurm.slurm.leased import keep, leased_image, mark  # noqa: PLC0415

    mark(job, config)  # before there is anything that would have to be given back
    image = find_image(request.uri, arch=request.arch or None, config=config, job=job.key)
    if image is None or not keep(image, job.key, job.node, config, step):
        if now:
            raise NotYet
        image = leased_image(request, job.key, job.node, config, step=step, progress=progress)
    return StepImage(request.name, str(image.path), str(image.digest))


def _file(text: str) -> StepImage:
    """A squashfs file, in place of an image."""
    path = Path.cwd() / text
    if not path.is_file():
        raise NotFound(f"there is no file {path}", hint="An image in a registry is docker://REGISTRY/IMAGE:TAG.")
    return StepImage("", str(path), "")


if __name__ == "__main__":
    if len(sys.argv) > 3:
        say(UsageError("expected [--now | --check | --tell] [TEXT]"))
        raise SystemExit(2)
    raise SystemExit(run_program(main, sys.argv[1:], say))
