"""pyxis' importer: ``pyxis-importer get URI`` prints the path of an image, ``pyxis-importer release`` ends its use.

pyxis runs it as the job's user, with the job's environment less what could mislead enroot (``ENROOT_CACHE_PATH`` and
the like, ``LD_*``, ``SLURM_PROCID``), without SLURM_STEP_ID in a batch script, and with stdin on /dev/null.  Of stdout
it reads the first line.  stderr is a file that it shows only if the importer fails, so progress goes to a file:

    CACHE/jobs/JOBID.RESTART/pyxis-HASH.json    node, step, uri, phase, received (bytes), expected (bytes)

``release`` is called once the container has been made, again when the step ends, and alone when the step was killed
before.  A container may still be mounted from the file then (squashfuse), or the next step may want it; so an image is
leased until its *job* ends, and ``release`` only takes the file above away.

Source: pyxis 0.24, importer.c, importers/README.md and pyxis_slurmstepd.c (enroot_set_env, enroot_container_create).
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import threading
from typing import TYPE_CHECKING, Self

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.errors import UsageError
from enroot_slurm.oci.reference import Reference
from enroot_slurm.progress import Progress
from enroot_slurm.settings.config import Config
from enroot_slurm.slurm.job import Job
from enroot_slurm.slurm.job_record import Record
from enroot_slurm.slurm.program import complete_environment, run_program, say
from enroot_slurm.slurm.request import Request, parse_words
from enroot_slurm.slurm.step import image_of

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["get", "main", "release"]

_INTERVAL = 1.0  # seconds between two writes of the status
_DOCKER = "docker://"


def get(uri: str, job: Job, config: Config, step: str) -> str:
    """The path of the image that *uri* names, for the step *step* of *job*.

    Raises: the errors of `enroot_slurm.errors`.
    """
    request = _request(uri)
    with _Status(_status_file(job, config, step), job, config, step, request.uri) as status:
        record = Record.find(config.run_path, job.id, job.restart)
        return image_of(request, job, config, record, progress=status).path


def release(job: Job, config: Config, step: str) -> None:
    """End what is kept for the step *step* alone; again, or without a `get`, makes no difference."""
    with contextlib.suppress(OSError):
        _status_file(job, config, step).unlink(missing_ok=True)


def main(*words: str) -> int:
    """``get URI`` or ``release``."""
    complete_environment()
    job, step = Job.from_environ(os.environ), os.environ.get("SLURM_STEP_ID") or "batch"
    if len(words) == 2 and words[0] == "get":
        print(get(words[1], job, Config.load(), step), flush=True)  # noqa: T201 - pyxis reads it
    elif words == ("release",):
        release(job, Config.load(), step)
    else:
        raise UsageError("expected: get URI, or release", hint="pyxis runs this program (importer=, plugstack.conf).")
    return 0


def _request(uri: str) -> Request:
    inner = uri.removeprefix(_DOCKER)
    if "://" in inner:
        # pyxis puts docker:// before all that is not its own: this is what the user wrote, and says what is wrong.
        Reference.parse(inner)
        raise UsageError(f"{_DOCKER} is there twice", hint=f"Write {inner}")
    requests = parse_words(uri)
    if len(requests) != 1 or requests[0].arch or requests[0].name:
        raise UsageError("expected one image", hint="Its architecture is the node's.")
    return requests[0]


def _status_file(job: Job, config: Config, step: str) -> Path:
    name = hashlib.sha256(f"{job.node}\n{step}".encode()).hexdigest()[:32]
    return config.cache_path / "jobs" / job.key / f"pyxis-{name}.json"


class _Status(Progress):
    """Writes a file, if there is more than a second to tell of; a context manager."""

    def __init__(self, path: Path, job: Job, config: Config, step: str, uri: str) -> None:
        self._path = path
        self._place = CacheDirectory(config.cache_path, job=job.key)
        self._texts = {"node": job.node, "step": step, "uri": uri, "phase": ""}
        self._sizes = {"received": 0, "expected": 0}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)

    def phase(self, name: str) -> None:
        """Tell of the phase *name*."""
        self._texts["phase"] = name

    def waiting(self, text: str) -> None:
        """Tell for whom it waits."""
        self._texts["phase"] = text

    def expect(self, size: int) -> None:
        """Tell how much there is."""
        self._sizes["expected"] = size

    def received(self, count: int) -> None:
        """Tell how much is there."""
        self._sizes["received"] += count

    def warn(self, text: str) -> None:
        """Tell of it where pyxis shows it if the import fails."""
        with contextlib.suppress(OSError):
            print(f"enroot-slurm: warning: {text}", file=sys.stderr, flush=True)  # noqa: T201

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.wait(_INTERVAL):
            with contextlib.suppress(OSError):
                self._place.directory("jobs", self._place.job)
                self._place.write(self._path, json.dumps({**self._texts, **self._sizes}).encode() + b"\n", replace=True)


if __name__ == "__main__":
    raise SystemExit(run_program(main, sys.argv[1:], say))
