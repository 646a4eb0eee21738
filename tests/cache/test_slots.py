"""The imports of one node: so many at once, and none of its users keeps the others from all of them."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.slots import Slots


class _HasToWaitError(Exception):
    pass


def refuse():
    raise _HasToWaitError


@pytest.fixture
def slots(tmp_path):
    """A function: the slots of a node as an import for *user* sees them, where waiting is an error."""
    place = CacheDirectory(tmp_path / "cache", public=True)
    return lambda user, count=2: Slots(Locks(place), count, user=user, timeout=60, waits=refuse)


@pytest.mark.parametrize("count", [2, 3])
def test_nobody_has_the_last_one(slots, count):
    """One user's imports leave a slot to others; another one's fit in."""
    with ExitStack() as stack:
        for _ in range(count - 1):
            assert not stack.enter_context(slots("1000", count).one())
        with pytest.raises(_HasToWaitError):
            stack.enter_context(slots("1000", count).one())
        with slots("1001", count).one() as waited:
            assert not waited
            with pytest.raises(_HasToWaitError):
                stack.enter_context(slots("1002", count).one())
        with slots("1002", count).one() as waited:
            assert not waited
    with slots("1000", count).one() as waited:
        assert not waited


def test_without_users_or_limits(slots):
    """A cache of one user's own has no shares, and where there is one slot only, or no limit, there is none to keep."""
    with slots("").one(), slots("").one(), pytest.raises(_HasToWaitError), slots("").one():
        pass
    with slots("1000", 1).one(), pytest.raises(_HasToWaitError), slots("1001", 1).one():
        pass
    with ExitStack() as stack:
        for _ in range(9):
            assert not stack.enter_context(slots("1000", 0).one())
