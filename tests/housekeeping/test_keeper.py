"""What the owner of a cache can remove: not what active jobs use."""

from __future__ import annotations

import pytest
from support.cache import FilledCache

from enroot_slurm.cache.leases import Leases
from enroot_slurm.errors import StorageError
from enroot_slurm.housekeeping.keeper import CacheKeeper
from enroot_slurm.settings.config import Config


@pytest.fixture
def cache(tmp_path):
    return FilledCache(tmp_path / "cache")


@pytest.fixture
def keeper(cache):
    return CacheKeeper(cache.root, Config.load(environ={"HOME": "/"}, site_file=None, user_file=None, enroot_conf=None))


def remove(keeper, jobs, *, force=False):
    """What is removed when *jobs* are active; the number of questions that Slurm was asked."""
    asked = []

    def ask():
        asked.append(1)
        return jobs

    images = keeper.inventory().images
    return len(keeper.remove(images, force=force, dry_run=False, jobs=ask)), len(asked)


@pytest.mark.parametrize("jobs", [frozenset({7}), "squeue failed"])
def test_an_active_job_keeps_its_image(cache, keeper, jobs):
    """So does one of which it can't be said."""
    Leases(cache.root).lease(cache.image("one"), "7.0", "n1", "0")
    with pytest.raises(StorageError, match="is used by job 7.0"):
        remove(keeper, jobs)
    assert len(keeper.inventory().images) == 1
    assert remove(keeper, jobs, force=True) == (1, 0)


def test_a_job_that_has_ended_keeps_nothing(cache, keeper):
    """Though its lease is still there, as after an epilog that could not run."""
    Leases(cache.root).lease(cache.image("one"), "7.0", "n1")
    assert remove(keeper, frozenset({8})) == (1, 1)


def test_without_leases_nobody_is_asked(cache, keeper):
    cache.image("one")
    assert remove(keeper, "squeue failed") == (1, 0)
