"""Fixtures of the tests on a real Slurm cluster: users of this machine, and clusters that end with the module."""

from __future__ import annotations

import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest
from support.images import Image, Layer
from support.installation import Installation
from support.site import Site
from support.slurm import Cluster, User

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.registry import Registry


@pytest.fixture(scope="session")
def make_user() -> Iterator[Callable[..., User]]:
    """A function that adds a user to this machine, until the session ends: make_user("alice")."""
    made: list[User] = []

    def make(word: str = "user") -> User:
        made.append(User.make(word))
        return made[-1]

    yield make
    for user in made:
        user.remove()


@pytest.fixture(scope="session")
def installation() -> Iterator[Installation]:
    """The program where all users can run it, with Slurm's hooks, as ``etc/install-slurm.sh`` makes it."""
    made = Installation.make()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def alice(make_user: Callable[..., User]) -> User:
    """A user who submits jobs."""
    return make_user("alice")


@pytest.fixture(scope="session")
def bob(make_user: Callable[..., User]) -> User:
    """Another user."""
    return make_user("bob")


@pytest.fixture(scope="module")
def start_cluster() -> Iterator[Callable[..., Cluster]]:
    """A function that starts a cluster, with `Cluster`'s arguments, until the module's tests are over.

    A module that uses it says ``pytestmark = pytest.mark.xdist_group("slurm-NAME")``, so that one process runs all of
    its tests, on one cluster.
    """
    with ExitStack() as stack:

        def start(**options: Any) -> Cluster:
            return stack.enter_context(Cluster(**options))

        yield start


@pytest.fixture(scope="module")
def make_site(
    installation: Installation,
    make_user: Callable[..., User],
    registry: Registry,
    start_cluster: Callable[..., Cluster],
) -> Iterator[Callable[..., Site]]:
    """A function that makes a site, to be started: ``make_site(kind=Site, user=None, **settings)``.

    Its cache belongs to *user*, by default a new one.
    """
    made: list[Site] = []

    def make(*registries: str, kind: type[Site] = Site, user: User | None = None, **settings: Any) -> Site:
        made.append(kind(installation, user or make_user("cache"), registry.host, *registries, **settings))
        return made[-1]

    yield make
    for site in made:
        site.remove()


@pytest.fixture
def image() -> Image:
    """A small image of one layer, unlike any other."""
    return Image([Layer().file("a", os.urandom(40_000))])
