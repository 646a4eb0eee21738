"""Importing the images of a list, one after the other, whatever becomes of each."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.importing.client import Client
from enroot_slurm.importing.lock_file import LockFile
from enroot_slurm.importing.squash_file import check_squashfs, is_path
from enroot_slurm.importing.to_cache import get_image
from enroot_slurm.slurm.account import accounted
from enroot_slurm.slurm.log import log
from enroot_slurm.system.events import Events

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from enroot_slurm.housekeeping.image_list import ListedImage
    from enroot_slurm.importing.to_cache import CachedImage
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config

__all__ = ["Outcome", "prefetch"]


class Outcome(NamedTuple):
    """The result for an image."""

    wanted: ListedImage
    image: CachedImage | None
    error: EnrootSlurmError | None
    file: Path | None = None
    """A squashfs file that was named in the place of an image."""

    @property
    def status(self) -> int:
        """The exit status for this image alone."""
        return self.error.exit_code if self.error is not None else 0

    @property
    def fields(self) -> dict[str, object]:
        """For JSON."""
        fields: dict[str, object] = {"uri": self.wanted.uri, "arch": self.wanted.arch, "status": self.status}
        if self.error is not None:
            return {**fields, "error": self.error.message, "hint": self.error.hint}
        if self.image is None:
            return {**fields, "path": str(self.file)}
        image = self.image
        return {
            **fields,
            "path": str(image.path),
            "digest": str(image.digest),
            "size": image.size,
            "reused": image.reused,
        }


def prefetch(
    wanted: Iterable[ListedImage],
    *,
    config: Config,
    progress: Progress,
    events: Events | None = None,
    lock: Path | None = None,
    shared: bool = False,
) -> list[Outcome]:
    """The result for each *wanted* image: in the cache now, or the error.

    lock    a lock file
    shared  whether what is in no registry may go into the site's cache
    """
    locked = LockFile(lock) if lock else None
    outcomes = []
    events = events or Events.open(config.run_path)
    with Client(config) as client:
        for each in wanted:
            if is_path(each.uri):
                outcomes.append(_checked(each, progress))
                continue
            work = partial(_get, each, client, lock=locked, shared=shared)
            try:
                image = accounted(work, each.uri, "prefetch", events, progress=progress)
                outcomes.append(Outcome(each, image, None))
            except EnrootSlurmError as error:
                progress.warn(f"{each.where}: {error}")
                outcomes.append(Outcome(each, None, error))
    failed = sum(outcome.error is not None for outcome in outcomes)
    events.add("prefetch", failed=failed)
    log("prefetch", images=len(outcomes), failed=failed)
    return outcomes


def _checked(wanted: ListedImage, progress: Progress) -> Outcome:
    """The result for a squashfs file: there is nothing to import."""
    try:
        return Outcome(wanted, None, None, check_squashfs(wanted.uri))
    except EnrootSlurmError as error:
        progress.warn(f"{wanted.where}: {error}")
        return Outcome(wanted, None, error)


def _get(
    wanted: ListedImage,
    client: Client,
    progress: Progress,
    *,
    lock: LockFile | None,
    shared: bool,
) -> CachedImage:
    return get_image(wanted.uri, arch=wanted.arch, progress=progress, client=client, lock=lock, shared=shared)
