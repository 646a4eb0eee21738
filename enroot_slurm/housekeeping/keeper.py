"""Keeping a cache small and sound: what is in it, what goes, what stays, and who may say so."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.cache import pins
from enroot_slurm.cache.directory import CacheDirectory, unreadable, unwritable
from enroot_slurm.cache.layout import locks_of
from enroot_slurm.cache.leases import open_to_visitors
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.tree import Tree
from enroot_slurm.cache.trust import check_untamperable
from enroot_slurm.errors import ConfigError, NotFound, StorageError, UsageError, printable
from enroot_slurm.housekeeping.collector import IDLE, Collector, CollectorLimits, Report
from enroot_slurm.housekeeping.inventory import inventory
from enroot_slurm.housekeeping.verifier import Verifier
from enroot_slurm.oci.reference import Reference
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from enroot_slurm.housekeeping.inventory import Inventory, Item
    from enroot_slurm.housekeeping.verifier import Damage

__all__ = ["IDLE", "CacheKeeper", "collect", "find_images", "limits_of"]

_DEFAULT_LOW = 0.9  # of the high watermark
_MIN_DIGITS = 4


def collect(
    root: Path,
    *,
    config: Config | None = None,
    dry_run: bool = False,
    idle: float = IDLE,
    jobs: Callable[[], frozenset[int] | str] | None = None,
) -> Report:
    """Collect the garbage of the cache *root*, which has to be this process' user's.

    config   the settings ``cache_high``, ``cache_low``, ``cache_max_age`` and ``locks`` count
    dry_run  say what would go; nothing is written
    idle     seconds for which everything stays after its last use
    jobs     which jobs are active, or why that is not known; by default squeue is asked, once and only if need be

    Raises: ConfigError; StorageError, when the cache is somebody else's, can be changed by others, or can't be written.
    """
    config = config or Config.load()
    limits = limits_of(config)._replace(idle=idle)
    keeper = CacheKeeper(root, config)
    if not root.exists():
        return Report((), 0, 0, 0, (), dry_run)
    keeper.check_owner()

    collector = Collector(keeper.place, keeper.locks, jobs=jobs or keeper.active_jobs, dry_run=dry_run)
    try:
        if dry_run:
            return collector.run(limits)
        with keeper.locks.lock("gc").attempt() as held:
            if keeper.place.public:
                open_to_visitors(keeper.place)
            if not held:
                return Report((), 0, 0, 0, ("another process collects just now",), dry_run)
            return collector.run(limits)
    except OSError as error:
        raise unwritable(root, error) from None


def limits_of(config: Config) -> CollectorLimits:
    """The limits that the settings name.  Raises: ConfigError, when they contradict each other."""
    high, low = config.cache_high, config.cache_low
    if high and low and ((high > 1) != (low > 1) or low > high):
        raise ConfigError(
            "cache_low has to be below cache_high, and like it a size or a share of the file system",
            hint=f"cache_low is from {config.origins['cache_low']}, cache_high from {config.origins['cache_high']}.",
        )
    return CollectorLimits(high, low or high * _DEFAULT_LOW, config.cache_max_age)


class CacheKeeper:
    """The operations of the owner of the cache *root*."""

    def __init__(self, root: Path, config: Config) -> None:
        shared = bool(config.shared_cache) and Path(config.shared_cache) == root
        self.place = CacheDirectory(root, public=shared)
        self.locks = Locks(self.place, enabled=config.locks, holder_timeout=config.worker_timeout)

    def check_owner(self) -> None:
        """Refuse a cache of somebody else, or one that others can change.  Raises: StorageError."""
        root, user = self.place.root, os.geteuid()
        try:
            owner = root.stat().st_uid
            if owner != user:
                raise StorageError(
                    f"the cache {root} belongs to {_name_of(owner)}, who alone may change it",
                    hint="Run this as that user, or as root.",
                )
            check_untamperable(root, owner, strict=self.place.public)
        except OSError as error:
            raise unwritable(root, error) from None

    def active_jobs(self) -> frozenset[int] | str:
        """The numbers of the jobs that may use the cache, or why that is not known."""
        from enroot_slurm.slurm.squeue import active_jobs  # noqa: PLC0415 - mostly there is nothing to ask

        return active_jobs(of_all=self.place.public)

    def inventory(self) -> Inventory:
        """The content of the cache.  Raises: StorageError."""
        root = self.place.root
        try:
            with suppress(FileNotFoundError):
                os.scandir(root).close()  # a file in its place is no empty cache
            return inventory(root)
        except OSError as error:
            raise unreadable(root, error) from None

    def pin(self, images: Iterable[Item], user: str) -> list[Item]:
        """Pin *images*; those that were not pinned.  Raises: StorageError."""
        return self._changed(images, lambda image: pins.pin(self.place, image.path, user))

    def unpin(self, images: Iterable[Item]) -> list[Item]:
        """Unpin *images*; those that were pinned.  Raises: StorageError."""
        return self._changed(images, lambda image: pins.unpin(self.place, image.path))

    def verify(self, items: Iterable[Item], *, repair: bool, read: Callable[[int], None]) -> list[Damage]:
        """The damaged ones of *items*; with *repair* they are removed.  Raises: StorageError."""
        if repair:
            self.check_owner()
        try:
            return Verifier(self.place, self.locks, repair=repair, read=read).run(items)
        except OSError as error:
            raise unwritable(self.place.root, error) from None

    def remove(
        self,
        images: Iterable[Item],
        *,
        force: bool,
        dry_run: bool,
        jobs: Callable[[], frozenset[int] | str] | None = None,
    ) -> list[Item]:
        """Remove *images*, leased and pinned ones only with *force*; those that were removed.

        A lease counts as long as its job is active (*jobs*, as for `collect`), or that is not known.

        Raises: StorageError, when one must not be removed (then none is), or somebody works on it.
        """
        images = list(images)
        active: frozenset[int] | str = ""
        if not force and any(image.leases for image in images):
            active = (jobs or self.active_jobs)()
        for image in images:
            if force:
                break
            leases = [e for e in image.leases if isinstance(active, str) or int(e.job.partition(".")[0]) in active]
            if image.pinned or leases:
                why = "is pinned" if image.pinned else f"is used by job {leases[0].job}"
                name = printable(image.sidecar.uri) if image.sidecar else image.path
                raise StorageError(f"{name} {why}", hint="Remove it nevertheless with --force.")
        return images if dry_run else self._changed(images, self._remove)

    def _remove(self, image: Item) -> bool:
        with self.locks.lock(locks_of(image.path)[0]).attempt() as held:
            if not held:
                raise StorageError(f"another process works on {image.path}", hint="Try again later.")
            with Tree(self.place.root) as tree:
                for name in (*(file.path for file in image.files), pins.pin_of(image.path)):
                    if (entry := tree.look(name)) is not None:
                        tree.remove(entry)
        return True

    def _changed(self, images: Iterable[Item], change: Callable[[Item], bool]) -> list[Item]:
        self.check_owner()
        try:
            return [image for image in images if change(image)]
        except OSError as error:
            raise unwritable(self.place.root, error) from None


def _name_of(uid: int) -> str:
    import pwd  # noqa: PLC0415 - it may ask a server

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def find_images(found: Inventory, word: str) -> list[Item]:
    """The images that *word* means: a path, a digest or how one begins, or a URI.

    Raises: UsageError, when the beginning of a digest fits several images; NotFound.
    """
    images = found.images
    hits = [image for image in images if os.fspath(found.root / image.path) == os.path.abspath(word)]  # noqa: PTH100
    digits = word.removeprefix("sha256:").removeprefix("sha512:")
    if not hits and len(digits) >= _MIN_DIGITS and all(c in "0123456789abcdef" for c in digits):
        hits = [image for image in images if image.digest.partition(":")[2].startswith(digits)]
        if len({image.digest for image in hits}) > 1:
            few = ", ".join(image.digest[:23] for image in hits[:5])
            raise UsageError(f"{word} fits {len(hits)} images: {few}", hint="Give more digits.")
    if not hits:
        try:
            reference = Reference.parse(word if "://" in word else f"docker://{word}")
        except UsageError:
            reference = None
        if reference is not None:
            digest = str(reference.digest) if reference.digest else ""
            hits = [
                i
                for i in images
                if i.sidecar and (i.digest == digest if digest else i.sidecar.uri == reference.provenance)
            ]
    if not hits:
        raise NotFound(
            f"no image in {found.root} is {printable(word, 200)}",
            hint="Give a URI, a digest, its first digits or a path, as 'enroot-slurm cache list' shows them.",
        )
    return hits
