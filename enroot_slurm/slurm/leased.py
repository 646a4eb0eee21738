"""An image for a job: found or imported, and leased, so that nobody collects it before the job has ended."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.slurm import policy

if TYPE_CHECKING:
    from enroot_slurm.importing.to_cache import CachedImage
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config
    from enroot_slurm.slurm.request import Request

__all__ = ["keep", "leased_image"]

_FIRST_PAUSE, _LAST_PAUSE = 1.0, 10.0  # seconds between two attempts


def leased_image(
    request: Request,
    job: str,
    node: str,
    config: Config,
    *,
    progress: Progress | None = None,
    patience: float = 0,
) -> CachedImage:
    """The image that *request* names, leased by *job* (``JOBID.RESTART``) on *node*.

    While the site is in trouble it is tried again, for *patience* seconds.  Raises: the errors of
    `enroot_slurm.errors`.
    """
    from enroot_slurm.importing.to_cache import get_image  # noqa: PLC0415 - who forks workers has no use for it

    end = time.monotonic() + patience
    pause = _FIRST_PAUSE
    while True:
        try:
            image = get_image(request.uri, arch=request.arch or None, config=config, progress=progress, job=job)
            if keep(image, job, node, config):
                return image
        except EnrootSlurmError as error:
            if policy.rule_of(error).prolog != policy.WAIT or time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause = min(2 * pause, _LAST_PAUSE)


def keep(image: CachedImage, job: str, node: str, config: Config) -> bool:
    """Lease *image* if it is in the cache that this process writes; False if it has just been collected.

    One in a cache that this user can't write is kept by others, or by its age.
    """
    from enroot_slurm.cache.leases import Leases  # noqa: PLC0415

    if image.path.is_relative_to(config.cache_path):
        try:
            Leases(config.cache_path).lease(image.path, job, node)
        except FileNotFoundError:
            return False
        except OSError:  # a full disk, say: then its age keeps it
            return True
    return True
