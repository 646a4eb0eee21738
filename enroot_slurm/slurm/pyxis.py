"""pyxis' importer: ``pyxis-importer get URI`` prints the path of an image, ``pyxis-importer release`` ends its use.

pyxis runs it as the job's user, with the job's environment less what could mislead enroot (``ENROOT_CACHE_PATH`` and
the like, ``LD_*``, ``SLURM_PROCID``), without SLURM_STEP_ID in a batch script, and with stdin on /dev/null.  Of stdout
it reads the first line.  stderr is a file that it shows only if the importer fails, so progress goes to a file
(`status`), and what the step has leased to another one:

    CACHE/jobs/JOBID.RESTART/taken-HASH.json    what this step has leased, and how often it was released

``release`` is called once the container has been made, again when the step ends, and alone when the step was killed
before.  After the first call a container may still be mounted from the file (squashfuse); so the second one ends what
``get`` has leased for the step.  Where there is none, the epilog does.  What the prolog has leased lasts until then.

Source: pyxis 0.24, importer.c, importers/README.md and pyxis_slurmstepd.c (enroot_set_env, enroot_container_create).
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple, Self

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.leases import lease_key
from enroot_slurm.errors import UsageError, printable
from enroot_slurm.oci.local import is_local
from enroot_slurm.oci.reference import Reference
from enroot_slurm.settings.config import Config
from enroot_slurm.slurm.job import Job
from enroot_slurm.slurm.job_record import Record
from enroot_slurm.slurm.program import complete_environment, run_program, say
from enroot_slurm.slurm.request import Request, parse_words
from enroot_slurm.slurm.status import job_file
from enroot_slurm.slurm.step import image_of, reporter

__all__ = ["get", "main", "release"]

_DOCKER = "docker://"
_STEP = re.compile(r"[A-Za-z0-9_]{1,32}", re.ASCII)


def get(uri: str, job: Job, config: Config, step: str) -> str:
    """The path of the image that *uri* names, for the step *step* of *job*.

    Raises: the errors of `enroot_slurm.errors`.
    """
    request = _request(uri)
    with reporter(request, job, config, step) as status:
        record = Record.find(config.run_path, job.id, job.restart)
        path = image_of(request, job, config, record, step=step, progress=status).path
    _Taken.of(job, config, step).note(Path(path))
    return path


def release(job: Job, config: Config, step: str) -> None:
    """End what is kept for the step *step* alone, the second time; or without a `get`, do nothing."""
    with contextlib.suppress(OSError):
        job_file(config.cache_path, job.key, job.node, step).unlink(missing_ok=True)
    _Taken.of(job, config, step).release()


def main(*words: str) -> int:
    """``get URI`` or ``release``."""
    complete_environment()
    job, step = Job.from_environ(os.environ), os.environ.get("SLURM_STEP_ID") or "batch"
    if not _STEP.fullmatch(step):
        raise UsageError(f"SLURM_STEP_ID is not a step: {printable(step, 40)}")
    if len(words) == 2 and words[0] == "get":
        print(get(words[1], job, Config.load(), step), flush=True)  # noqa: T201 - pyxis reads it
    elif words == ("release",):
        release(job, Config.load(), step)
    else:
        raise UsageError("expected: get URI, or release", hint="pyxis runs this program (importer=, plugstack.conf).")
    return 0


def _request(uri: str) -> Request:
    inner = uri.removeprefix(_DOCKER)
    if "://" in inner and not is_local(uri):
        # pyxis puts docker:// before all that is not its own: this is what the user wrote, and says what is wrong.
        Reference.parse(inner)
        raise UsageError(f"{_DOCKER} is there twice", hint=f"Write {inner}")
    requests = parse_words(uri)
    if len(requests) != 1 or requests[0].arch or requests[0].name:
        raise UsageError("expected one image", hint="Its architecture is the node's.")
    return requests[0]


class _Taken(NamedTuple):
    """The leases of a step; a file that only this user's processes write and read."""

    file: Path
    place: CacheDirectory
    leases: tuple[tuple[Path, Path], ...]
    """The caches, and where in each a lease of the step is, without the image's key."""

    @classmethod
    def of(cls, job: Job, config: Config, step: str) -> Self:
        own, site = config.cache_path, Path(config.shared_cache)
        leases = [(own, own / "jobs" / job.key / f"{job.node}~{step}")]
        if config.shared_cache:
            leases.append((site, site / "visitors" / f"{job.key}~{job.node}~{step}"))
        return cls(job_file(own, job.key, job.node, step, "taken"), CacheDirectory(own, job=job.key), tuple(leases))

    def note(self, image: Path) -> None:
        """Remember the lease of *image*, if this step has one."""
        for root, path in self.leases:
            if image.is_relative_to(root):
                lease = f"{path}.{lease_key(image.relative_to(root).as_posix())}.lease"
                if os.path.lexists(lease):
                    self._write({"lease": lease, "released": 0})

    def release(self) -> None:
        """Once more."""
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            fields = json.loads(self.file.read_bytes())
            if not fields["released"]:
                self._write({**fields, "released": 1})
            elif fields["lease"].startswith(tuple(f"{path}." for _, path in self.leases)):
                Path(fields["lease"]).unlink(missing_ok=True)
                self.file.unlink()

    def _write(self, fields: dict[str, object]) -> None:
        with contextlib.suppress(OSError):
            self.place.directory("jobs", self.place.job)
            self.place.write(self.file, json.dumps(fields).encode() + b"\n")


if __name__ == "__main__":
    raise SystemExit(run_program(main, sys.argv[1:], say))
