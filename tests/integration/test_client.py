"""Many images with one client: what the registry is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer

from enroot_slurm import Client, Config, EnrootSlurmError, get_image, import_image, resolve_digest

if TYPE_CHECKING:
    from collections.abc import Iterator

LOGIN = {"ann": "secret"}


@pytest.fixture(params=["basic", "bearer"])
def registry(request) -> Iterator[FaultRegistry]:
    with FaultRegistry(auth=request.param, users=LOGIN) as registry:
        yield registry


@pytest.fixture
def config(registry, import_environment) -> Config:
    directory = Path(import_environment["HOME"], ".config/enroot")
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / ".credentials"
    file.write_text(f"machine {registry.host} login ann password secret\n")
    file.chmod(0o600)
    return Config.load(environ=import_environment, site_file=None, user_file=None, enroot_conf=None)


def image(number: int) -> Image:
    return Image([Layer().file("f", b"%d" % number)])


def test_tags_of_a_repository_log_in_once(registry, config, tmp_path) -> None:
    """Of 20 images, the first one's first request is refused, and no other; one connection serves them all."""
    with Client(config) as client:
        for number in range(20):
            uri = serve(registry, image(number), tag=f"t{number}")
            if number % 2:
                import_image(uri, output=tmp_path / f"{number}.sqsh", client=client)
            else:
                get_image(uri, client=client)
    assert registry.count("", status=401) + registry.count("", status=401, method="HEAD") == 1
    assert registry.count("/token") == (registry.auth == "bearer")
    assert registry.connections <= 4  # one, and those that fetch an image's blobs at once


def test_another_repository_begins_with_a_token(registry, config) -> None:
    """How the registry wants logins is known by then; a token is asked for each repository, and used for no other."""
    with Client(config) as client:
        for number in range(5):
            resolve_digest(serve(registry, image(number), repository=f"team/r{number}"), client=client)
    assert registry.count("", status=401) + registry.count("", status=401, method="HEAD") == 1
    if registry.auth == "bearer":
        scopes = [request.query["scope"] for request in registry.matching("/token")]
        assert scopes == [[f"repository:team/r{number}:pull"] for number in range(5)]


def test_a_token_that_is_rejected_later_is_renewed(registry, config) -> None:
    """What was accepted once is no reason to give up when it is not accepted any more."""
    uri = serve(registry, image(1))
    with Client(config) as client:
        first = resolve_digest(uri, client=client)
        registry.tokens.clear()
        assert resolve_digest(uri, client=client) == first
    assert registry.count("/token") == (2 if registry.auth == "bearer" else 0)


def test_without_a_client_nothing_is_kept(registry, config) -> None:
    """Two calls know nothing of each other; what a closed client knew is forgotten."""
    uri = serve(registry, image(1))
    client = Client(config)
    resolve_digest(uri, client=client)
    client.close()
    resolve_digest(uri, client=client)
    resolve_digest(uri, config=config)
    client.close()
    assert registry.count("", status=401) + registry.count("", status=401, method="HEAD") == 3


def test_an_error_of_one_image_is_none_of_the_next(registry, config) -> None:
    """A client goes on after a failure."""
    with Client(config) as client:
        with pytest.raises(EnrootSlurmError):
            resolve_digest(f"docker://{registry.host}#app:missing", client=client)
        assert resolve_digest(serve(registry, image(1)), client=client)
