"""Images of archives and daemons, with what the settings and the cache give them."""

from __future__ import annotations

import os
import secrets
from typing import TYPE_CHECKING

from enroot_slurm.archives.image import ArchivedImage, KnownImage
from enroot_slurm.archives.opening import Needs, open_members
from enroot_slurm.cache.directory import unwritable
from enroot_slurm.cache.job_tags import key_of, read_tag, write_tag
from enroot_slurm.errors import PlatformNotFound, StorageError, UnsupportedImage
from enroot_slurm.progress import size_text
from enroot_slurm.system.file_copy import room

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.archives.members import Members
    from enroot_slurm.importing.lookup import Lookup
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.oci.platform import Platform
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config

__all__ = ["Opener", "open_archive"]


class Opener:
    """Opens *local*; what a stream brings is kept in the own cache until it is known what it is."""

    def __init__(self, local: LocalImage, lookup: Lookup, config: Config, progress: Progress) -> None:
        self._local = local
        self._lookup = lookup
        self._config = config
        self._progress = progress
        self._key = ""
        """Where it is noted which manifest a daemon's image of its ID has."""

    def __call__(self) -> Members:
        """What `open_members` gives, and raises; KnownImage, once, for a daemon's image that is in the cache."""
        config, progress = self._config, self._progress
        limits = (self._new_file, config.max_download, config.gzip_program)
        return open_members(self._local, Needs(*limits, progress.warn, progress.received, self._admit))

    def note(self, digest: Digest) -> Digest:
        """*digest*, which the manifest of a daemon's image has."""
        if self._key:
            write_tag(self._lookup.own, self._key, digest)
        return digest

    def _new_file(self) -> Path:
        place = self._lookup.own
        try:
            directory = place.closed_directory("tmp")
        except OSError as error:
            raise unwritable(place.root, error) from None
        return directory / f"{secrets.token_hex(8)}.{place.unique()}"

    def _admit(self, size: int, platform: Platform | None, identity: str) -> None:
        local, lookup, place, limit = self._local, self._lookup, self._lookup.own, self._config.max_download
        if platform is not None and not lookup.asked and lookup.platform.rank(platform) is None:
            raise PlatformNotFound(
                f"{local} is for {platform}, not for {lookup.platform}",
                hint=f"Import it nevertheless with --arch {platform.architecture}.",
            )
        if identity and not self._key:  # who opens it again wants more than its digest
            self._key = key_of(f"{local.transport} {identity}", str(lookup.platform))
            last = read_tag(place.root, self._key, {os.geteuid()})
            if last is not None and lookup.image(last.digest) is not None:
                raise KnownImage(last.digest)
        if size > limit:
            raise UnsupportedImage(
                f"{local} has {size_text(size)}; {size_text(limit)} are the most",
                hint="The setting max_download is the limit.",
            )
        left = room(place.directory())
        if left is not None and left < size:
            raise StorageError(
                f"there is not enough space: {place.root} has {size_text(left)} left, {local} has {size_text(size)}",
                hint="Make room ('enroot-slurm cache gc'), or set ENROOT_CACHE_PATH to a larger file system.",
            )
        self._progress.phase(f"reading {local}")
        self._progress.expect(size)


def open_archive(local: LocalImage, lookup: Lookup, config: Config, progress: Progress) -> ArchivedImage:
    """The image that *local* names."""
    opener = Opener(local, lookup, config, progress)
    return ArchivedImage(local, opener, found=opener.note)
