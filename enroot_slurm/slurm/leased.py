"""An image for a job: found or imported, and leased, so that nobody collects it before the job has ended."""

from __future__ import annotations

import contextlib
import os
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.slurm import policy
from enroot_slurm.system.events import Events

if TYPE_CHECKING:
    from enroot_slurm.importing.to_cache import CachedImage
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config
    from enroot_slurm.slurm.job import Job
    from enroot_slurm.slurm.request import Request

__all__ = ["STEPS", "is_marked", "keep", "leased_image", "mark"]

STEPS = "steps"
"""The directory of marks, below `run_path`: everybody can write there, as in /tmp."""

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 10.0  # seconds between two attempts


def leased_image(
    request: Request,
    job: str,
    node: str,
    config: Config,
    *,
    step: str = "",
    progress: Progress | None = None,
    patience: float = 0,
    user: str = "",
    door: str = "step",
    events: Events | None = None,
) -> CachedImage:
    """The image that *request* names, leased by *job* (``JOBID.RESTART``), or its *step*, on *node*.

    *user* is as for `get_image`.  While the site is in trouble it is tried again, for *patience* seconds.  *events* (by
    default this node's) get to know what became of it, and that *door* has asked.

    Raises: the errors of `enroot_slurm.errors`.
    """
    from enroot_slurm.slurm.account import accounted  # noqa: PLC0415 - root, who forks workers, has no use for it

    def work(told: Progress) -> CachedImage:
        return _leased(request, job, node, config, step, told, patience, user)

    counted = Events.open(config.run_path) if events is None else events
    try:
        return accounted(work, request.uri, door, counted, progress=progress, job=job)
    finally:
        if events is None:
            counted.close()


def _leased(
    request: Request, job: str, node: str, config: Config, step: str, progress: Progress, patience: float, user: str
) -> CachedImage:
    from enroot_slurm.importing.to_cache import get_image  # noqa: PLC0415 - who forks workers has no use for it

    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            arch = request.arch or None
            image = get_image(request.uri, arch=arch, config=config, progress=progress, job=job, user=user)
            if keep(image, job, node, config, step):
                return image
        except EnrootSlurmError as error:
            if policy.rule_of(error).prolog != policy.WAIT or time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)


def keep(image: CachedImage, job: str, node: str, config: Config, step: str = "") -> bool:
    """Lease *image*, for all of the job or for its *step*; False if it has just been collected.

    In the site's cache, which this user can't write, as a visitor.  Where that can't be, its age keeps it.
    """
    from enroot_slurm.cache.leases import Leases  # noqa: PLC0415

    try:
        if image.path.is_relative_to(config.cache_path):
            public = bool(config.shared_cache) and Path(config.shared_cache) == config.cache_path
            Leases(config.cache_path, public=public).lease(image.path, job, node, step)
        elif config.shared_cache and image.path.is_relative_to(config.shared_cache):
            Leases(Path(config.shared_cache)).visit(image.path, job, node, step)
    except OSError:  # a full disk, say
        return image.path.exists()
    return True


def mark(job: Job, config: Config) -> None:
    """Tell this node's epilog that a step of *job*, for which no prolog may have worked, leases images."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with contextlib.suppress(OSError):  # without an epilog of ours, say: then a collection ends the leases
        os.close(os.open(config.run_path / STEPS / job.key, flags, 0o600))


def is_marked(job: Job, config: Config) -> bool:
    """Whether a step of *job* has called `mark`, which is forgotten now.  For root: nothing is opened."""
    path = config.run_path / STEPS / job.key
    with contextlib.suppress(OSError):
        status = path.lstat()
        path.unlink()
        return status.st_uid == job.uid and stat.S_ISREG(status.st_mode)
    return False
