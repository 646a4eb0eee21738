"""Stage-in: slurmctld imports what ``#ENROOT`` lines ask for while the job is pending (``burst_buffer/lua``).

etc/slurm/burst_buffer.lua runs this beside slurmctld, as its user; each command prints ``ok`` last, or says why not:

    check SCRIPT             whether the #ENROOT lines are right, and the images' names allowed; at submit time
    setup JOB UID GID        whose job it is
    import JOB SCRIPT        get the images, as the cache user or the job's user
    release JOB              the job has ended, or was cancelled: end its leases, and what still works for it
    status                   what is being staged in, for ``scontrol show bbstat``

    RUN_PATH/stage-in/JOB.json     uid, gid, phase; written by this alone (0600)
    RUN_PATH/stage-in/JOB.paths    lines NAME=VALUE for the job's environment: burst_buffer.lua hands them on
    SHARED_CACHE/jobs/JOB.0/requests.json    what is there for all, so that prologs lease and note it on the nodes

If slurmctld runs as root, nothing is parsed or imported as root.  A child becomes the cache user.  For images that the
cache user cannot get, another one becomes the job's user.  If slurmctld runs as another user, that must be the
cache user, and images that need the job's user are left to the nodes (docs/slurm.md).  Slurm kills this process when
the job is cancelled or slurmctld stops; the child then gets a SIGTERM, and cleans up.  Slurm may also kill the release
before it starts; the next job's setup then cleans up.
"""

from __future__ import annotations

import json
import os
import re
import stat
import sys
import time
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enroot_slurm.cache.directory import CacheDirectory, unwritable
from enroot_slurm.errors import (
    AccessDenied,
    ConfigError,
    EnrootSlurmError,
    StorageError,
    UsageError,
    error_fields,
    error_of,
    printable,
)
from enroot_slurm.importing.permission import permit
from enroot_slurm.oci.local import is_local, parse_name
from enroot_slurm.settings.config import Config
from enroot_slurm.slurm import policy
from enroot_slurm.slurm.leased import leased_image
from enroot_slurm.slurm.log import INFO, WARNING, log
from enroot_slurm.slurm.program import one_line, run_program
from enroot_slurm.slurm.request import Request, image_requests
from enroot_slurm.slurm.status import Reporter, statuses
from enroot_slurm.slurm.step import StepImage, variables
from enroot_slurm.system import privilege
from enroot_slurm.system.events import Events
from enroot_slurm.system.privilege import Identity
from enroot_slurm.system.publish import write_file

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["NODE", "check", "import_images", "main", "release", "setup", "status"]

NODE = "stage-in"
"""In whose name images are leased until the job ends."""
_DEADLINE = 24 * 3600.0  # seconds; StageInTimeout of burst_buffer.conf ends it before
_ASK_AGAIN = 24 * 3600.0  # seconds after which Slurm is asked whether it still knows a job
_OTHER_DOOR = (
    "Stage-in works as slurmctld's user here, which can't use your login: name the image by --container-image, "
    "--enroot-image or --comment=enroot:REF, whichever this cluster has, in place of the #ENROOT line."
)
_MAX_SCRIPT = 8 << 20
_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)


def check(script: Path) -> None:
    """Refuse a script whose ``#ENROOT`` lines are wrong, or ask for images that the site does not allow.

    Raises: UsageError, with the line and a marker under what is wrong; ImageRefused; ConfigError; StorageError.
    """
    text = _read(script)
    if "#ENROOT" not in text:
        return
    work = partial(_check, text, Config.load(trusted=True))
    if os.geteuid():
        work()
    else:
        privilege.run(work, _nobody(), deadline=30)


def setup(job: int, uid: int, gid: int, config: Config) -> None:
    """Note whose *job* it is, and release jobs that Slurm has forgotten.  Raises: StorageError, OSError."""
    _note(config, job, {"uid": uid, "gid": gid, "phase": "waiting"})
    try:
        _release_forgotten(config)
    except (EnrootSlurmError, OSError) as error:  # another job's trouble
        log("stage-in-forgotten", WARNING, job=job, error=error)


def import_images(job: int, script: Path, config: Config) -> list[StepImage]:
    """Get the images that the *script* of *job* asks for, and note where they are.

    Raises: the errors of `enroot_slurm.errors`, the first that is met.
    """
    text, owner = _read(script), _owner(config, job)
    _note(config, job, {**owner, "phase": "importing"})
    shared = bool(config.shared_cache)
    events = Events.open(config.run_path)
    work = partial(_work, text, f"{job}.0", config, events, str(owner["uid"]))
    images, left = _as_cache_user(config, partial(work, shared=True), events.keep) if shared else ([], None)
    if not shared or left:
        if os.geteuid():
            raise (
                error_of({**left, "hint": _OTHER_DOOR})
                if left
                else ConfigError(
                    "stage-in has no cache to import into",
                    hint="Set shared_cache and cache_user, or let slurmctld be root's.",
                )
            )
        user = Identity.of(owner["uid"], owner["gid"])
        images, left = privilege.run(partial(work, shared=False), user, deadline=_DEADLINE, keep=events.keep)
        if left:
            raise error_of(left)
    found = [StepImage(*image) for image in images]
    lines = "".join(f"{name}={value}\n" for name, value in variables(found))
    write_file(_file(config, job, "paths"), lines.encode())
    _note(config, job, {**owner, "phase": "ready"})
    return found


def release(job: int, config: Config) -> None:
    """End the leases of *job*; again, or without an import, makes no difference.  Raises: OSError."""
    end = partial(_release, f"{job}.0", config)
    try:
        owner = _owner(config, job)
    except StorageError:
        return  # it has never begun, or was released
    try:
        if config.shared_cache:
            _as_cache_user(config, partial(end, shared=True))
        if not os.geteuid():
            privilege.run(partial(end, shared=False), Identity.of(owner["uid"], owner["gid"]), deadline=60)
    finally:  # Slurm does not try again
        for suffix in ("paths", "json"):
            _file(config, job, suffix).unlink(missing_ok=True)


def status(config: Config) -> str:
    """A line for each job that has something staged in, and for each image that is imported for it."""
    lines: list[str] = []
    roots = [Path(config.shared_cache)] if config.shared_cache else []
    for file in sorted(_directory(config).glob("*.json")):
        with suppress(OSError, ValueError, LookupError, TypeError):
            fields = json.loads(file.read_bytes())
            text = f"job {file.stem} of user {fields['uid']}: {fields['phase']}"
            # Where slurmctld's user can't read the cache, the phase has to do.
            found = statuses(roots, f"{file.stem}.0") if fields["phase"] == "importing" else []
            lines += [f"{text} {printable(each.uri)}: {each.text}\n" for each in found] or [f"{text}\n"]
    return "".join(lines)


def main(*words: str) -> int:
    """The command line above."""
    os.umask(0o022)
    command, arguments = words[0] if words else "", words[1:]
    if command == "check" and len(arguments) == 1:
        check(Path(arguments[0]))
        return _ok()
    config = Config.load(trusted=True)
    if command == "status" and not arguments:
        sys.stdout.write(status(config))
        return _ok()
    if (command, len(words)) not in {("setup", 4), ("import", 3), ("release", 2)}:
        raise UsageError("expected: check SCRIPT, setup JOB UID GID, import JOB SCRIPT, release JOB, or status")
    job = _number(arguments[0])
    try:
        if command == "setup":
            setup(job, _number(arguments[1]), _number(arguments[2]), config)
        elif command == "import":
            import_images(job, Path(arguments[1]), config)
        else:
            release(job, config)
    except EnrootSlurmError as error:
        log(f"stage-in-{command}", WARNING, job=job, error=error, hint=error.hint)
        raise
    log(f"stage-in-{command}", INFO, job=job, outcome="done")
    return _ok()


def _ok() -> int:
    print("ok", flush=True)  # noqa: T201 - for burst_buffer.lua
    return 0


# In a child that is no longer root.


def _work(
    text: str, job: str, config: Config, events: Events, user: str, *, shared: bool
) -> tuple[list[StepImage], dict[str, str] | None]:
    """The images, or those that this user can have and the error of the first that the job's user may get."""
    config = _config(config, shared=shared)
    requests = image_requests(text)
    place = CacheDirectory(config.cache_path, public=shared, job=job)
    images, have, left = [], [], None
    for request in requests:
        if shared and is_local(request.uri):
            left = left or error_fields(AccessDenied(f"{request.uri} is for the job's user to read"))
            continue
        try:
            with Reporter(place, NODE, NODE, request.uri) as progress:
                patience = config.site_failure_wait
                image = leased_image(
                    request,
                    job,
                    NODE,
                    config,
                    patience=patience,
                    progress=progress,
                    user=user if shared else "",
                    door="stagein",
                    events=events,
                )
        except EnrootSlurmError as error:
            if not shared or policy.rule_of(error).prolog != policy.NEXT:
                raise
            left = left or error_fields(error)
        else:
            images.append(StepImage(request.name, str(image.path), str(image.digest)))
            have.append(request)
    if shared and have:
        _tell_prologs(have, job, config)
    return images, left


def _tell_prologs(requests: list[Request], job: str, config: Config) -> None:
    place = CacheDirectory(config.cache_path, public=True, job=job)
    content = json.dumps({"requests": [request._asdict() for request in requests]})
    try:
        place.write(place.directory("jobs", job) / "requests.json", content.encode())
    except OSError as error:
        raise unwritable(place.root, error) from None


def _release(job: str, config: Config, *, shared: bool) -> int:
    from enroot_slurm.cache.leases import Leases  # noqa: PLC0415

    try:
        return Leases(_config(config, shared=shared).cache_path).release(job, NODE)
    except FileNotFoundError:
        return 0  # this user has no cache


def _config(config: Config, *, shared: bool) -> Config:
    if shared:
        return config._replace(cache_path=Path(config.shared_cache))
    # Again, for ~ and ${USER} are others now.
    return Config.load(trusted=True, overrides={"credential_commands": config.hook_credential_commands})


def _check(text: str, config: Config) -> None:
    for request in _requests(text):
        permit(parse_name(request.uri), config)


def _requests(text: str) -> list[Request]:
    """The requests.  Raises: UsageError, whose hint is a line of its message: sbatch prints that alone."""
    try:
        return image_requests(text)
    except UsageError as error:
        raise type(error)(f"{error.message}\n  {error.hint}" if error.hint else error.message) from None


# As slurmctld's user.


def _release_forgotten(config: Config) -> None:
    from enroot_slurm.slurm.squeue import active_jobs  # noqa: PLC0415 - mostly there is nothing to ask

    now = time.time()
    files = [file for file in _directory(config).glob("[0-9]*.json") if now - file.stat().st_mtime > _ASK_AGAIN]
    known = active_jobs(of_all=True) if files else frozenset()
    if isinstance(known, str):
        raise StorageError(f"it is not known which jobs have gone: {known}")
    for file in files:
        if (job := _number(file.stem)) in known:
            os.utime(file)
        else:
            release(job, config)
            log("stage-in-forgotten", INFO, job=job, outcome="released")


def _as_cache_user(config: Config, work: Callable[[], Any], keep: tuple[int, ...] = ()) -> Any:
    identity = None  # who is not root works in a child as well: Slurm kills this process, which has no time to clean up
    if os.geteuid() == 0:
        if not config.cache_user:
            raise ConfigError("stage-in needs the setting cache_user", hint="Set it to the owner of the shared cache.")
        identity = Identity.of(config.cache_user)
    return privilege.run(work, identity, deadline=_DEADLINE, keep=keep)


def _nobody() -> Identity:
    try:
        return Identity.of("nobody")
    except ConfigError:
        return Identity("nobody", 65534, 65534, (), "/")


def _read(script: Path) -> str:
    """The text of a batch script, which is not looked into here."""
    try:
        descriptor = os.open(script, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as file:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise StorageError(f"{script} is not a regular file")
            return file.read(_MAX_SCRIPT).decode("utf-8", "surrogateescape")
    except OSError as error:
        raise StorageError(f"{script} can't be read: {error.strerror}") from None


def _directory(config: Config) -> Path:
    """The directory of this module's files, made if it is missing.  Raises: StorageError."""
    path = config.run_path / "stage-in"
    try:
        config.run_path.mkdir(mode=0o755, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
        found = path.lstat()
    except OSError as error:
        raise StorageError(f"{path} can't be made: {error.strerror}", hint=_hint(path)) from None
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid() or found.st_mode & 0o077:
        raise StorageError(f"others than slurmctld's user can use {path}", hint=_hint(path))
    return path


def _hint(path: Path) -> str:
    return f"Run on slurmctld's machine, with its user: install -d -m 700 -o USER {path}"


def _file(config: Config, job: int, suffix: str) -> Path:
    return _directory(config) / f"{job}.{suffix}"


def _owner(config: Config, job: int) -> dict[str, Any]:
    """The note of `setup`.  Raises: StorageError."""
    try:
        fields = json.loads(_file(config, job, "json").read_bytes())
        return {"uid": int(fields["uid"]), "gid": int(fields["gid"])}
    except (OSError, ValueError, LookupError, TypeError):
        raise StorageError(
            f"it is not noted whose job {job} is", hint="Was /run emptied meanwhile? Requeue the job."
        ) from None


def _note(config: Config, job: int, fields: dict[str, Any]) -> None:
    write_file(_file(config, job, "json"), json.dumps(fields).encode() + b"\n")


def _number(text: str) -> int:
    if not _NUMBER.fullmatch(text):
        raise UsageError(f"not a number: {printable(text, 40)}")
    return int(text)


def _tell(error: EnrootSlurmError) -> None:
    """To stdout, where burst_buffer.lua reads it; a reason that ``squeue`` shows has to be one line."""
    checking = sys.argv[1:2] == ["check"]
    print(error.message if checking else one_line(error), flush=True)  # noqa: T201


if __name__ == "__main__":
    raise SystemExit(run_program(main, sys.argv[1:], _tell))
