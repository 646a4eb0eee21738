"""Images of archives and daemons, with what the settings and the cache give them."""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING

from enroot_slurm.archives.image import ArchivedImage
from enroot_slurm.archives.opening import Needs, open_members
from enroot_slurm.cache.directory import unwritable
from enroot_slurm.errors import PlatformNotFound, StorageError, UnsupportedImage
from enroot_slurm.progress import size_text
from enroot_slurm.system.file_copy import room

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from enroot_slurm.archives.members import Members
    from enroot_slurm.importing.lookup import Lookup
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.oci.platform import Platform
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config

__all__ = ["open_archive", "opener"]


def open_archive(local: LocalImage, lookup: Lookup, config: Config, progress: Progress) -> ArchivedImage:
    """The image that *local* names."""
    return ArchivedImage(local, opener(local, lookup, config, progress))


def opener(local: LocalImage, lookup: Lookup, config: Config, progress: Progress) -> Callable[[], Members]:
    """What opens *local*; what a stream brings is kept in the own cache until it is known what it is."""
    place = lookup.own

    def new_file() -> Path:
        try:
            directory = place.closed_directory("tmp")
        except OSError as error:
            raise unwritable(place.root, error) from None
        return directory / f"{secrets.token_hex(8)}.{place.unique()}"

    def admit(size: int, platform: Platform | None) -> None:
        if platform is not None and not lookup.asked and lookup.platform.rank(platform) is None:
            raise PlatformNotFound(
                f"{local} is for {platform}, not for {lookup.platform}",
                hint=f"Import it nevertheless with --arch {platform.architecture}.",
            )
        if size > config.max_download:
            raise UnsupportedImage(
                f"{local} has {size_text(size)}; {size_text(config.max_download)} are the most",
                hint="The setting max_download is the limit.",
            )
        left = room(place.directory())
        if left is not None and left < size:
            raise StorageError(
                f"there is not enough space: {place.root} has {size_text(left)} left, {local} has {size_text(size)}",
                hint="Make room ('enroot-slurm cache gc'), or set ENROOT_CACHE_PATH to a larger file system.",
            )
        progress.phase(f"reading {local}")
        progress.expect(size)

    needs = Needs(new_file, config.max_download, config.gzip_program, progress.warn, progress.received, admit)

    return partial(open_members, local, needs)
