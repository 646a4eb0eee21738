"""The cache that the commands of ``cache`` work on, and as whom."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from enroot_slurm.housekeeping.keeper import CacheKeeper
    from enroot_slurm.settings.config import Config
    from enroot_slurm.system.events import Events
    from enroot_slurm.system.privilege import Identity

__all__ = ["ChosenCache", "caches_of", "one_cache", "work_as_owner"]


class ChosenCache(NamedTuple):
    """A cache that a command is for."""

    root: Path
    config: Config
    is_shared: bool

    @property
    def keeper(self) -> CacheKeeper:
        """What keeps it in order."""
        from enroot_slurm.housekeeping.keeper import CacheKeeper  # noqa: PLC0415

        return CacheKeeper(self.root, self.config)

    @property
    def owner(self) -> Identity | None:
        """The user that root has to become for its work on the cache."""
        from enroot_slurm.housekeeping.as_owner import owner_identity  # noqa: PLC0415

        return owner_identity(self.root, self.config.cache_user if self.is_shared else "")

    @property
    def name(self) -> str:
        """For people."""
        return "site" if self.is_shared else "own"


def caches_of(options: argparse.Namespace, **overrides: str | None) -> list[ChosenCache]:
    """The caches that *options* name; by default the own one and, if there is one, the site's.

    Raises: UsageError.
    """
    from enroot_slurm.errors import UsageError  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config = Config.load(overrides=overrides)
    shared = Path(config.shared_cache) if config.shared_cache else None
    if options.shared and shared is None:
        raise UsageError("there is no shared cache", hint="Name it with --cache, or set shared_cache.")
    roots = [config.cache_path] if shared is None else [shared, config.cache_path]
    if options.shared:
        roots = roots[:1]
    elif options.cache:
        roots = [options.cache.absolute()]
    elif shared is not None and (os.geteuid() == 0 or _owns(shared)):
        roots = [shared]  # what its owner imports goes there, and root keeps the site's house
    return [ChosenCache(root, config._replace(cache_path=root), root == shared) for root in dict.fromkeys(roots)]


def _owns(root: Path) -> bool:
    try:
        return root.stat().st_uid == os.geteuid()
    except OSError:
        return False


def one_cache(options: argparse.Namespace, **overrides: str | None) -> ChosenCache:
    """The cache that is to be changed: by default the own one."""
    return caches_of(options, **overrides)[-1]


def work_as_owner(cache: ChosenCache, work: Callable[[], int], events: Events | None = None) -> int:
    """The status of *work*, done as the user to whom *cache* belongs if this is root; it may tell *events*."""
    from enroot_slurm.housekeeping.as_owner import as_owner  # noqa: PLC0415

    return as_owner(cache.owner, work, events.keep if events else ())
