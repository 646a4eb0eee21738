"""Fixtures that all tests share: a real registry, images in it, and the product's image as a tree."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import re
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from hypothesis import HealthCheck, settings
from support.layer_vectors import VECTORS
from support.registry import Registry
from support.tools import require_tools
from support.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.images import Image, Index
    from support.tree import Entry


# How long an example takes says something of the machine, and what else it does.
settings.register_profile("untimed", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("untimed")


class Imported(NamedTuple):
    """An import by the product."""

    tree: dict[bytes, Entry]
    result: Any
    """`enroot_slurm.ImportResult`"""


@pytest.fixture(scope="session")
def vectors() -> Path:
    """The directory of the recorded test vectors."""
    if not VECTORS.is_dir():
        pytest.skip("../shared/vectors is not here")
    return VECTORS


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """One real registry for the session: plain HTTP, open to all.  Tests use repositories of their own."""
    with Registry(tmp_path_factory.mktemp("registry")) as running:
        yield running


@pytest.fixture
def make_registry(tmp_path: Path) -> Iterator[Callable[..., Registry]]:
    """A function that starts another real registry, which ends with the test; the arguments are `Registry`'s."""
    running: list[Registry] = []

    def start(**options: Any) -> Registry:
        started = Registry(tmp_path / f"registry{len(running)}", **options).__enter__()
        running.append(started)
        return started

    yield start
    for each in running:
        each.stop()


@pytest.fixture
def repository(request: pytest.FixtureRequest) -> str:
    """A repository name that no other test uses."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:100].strip("-")
    return f"test/{words}-{hashlib.sha256(request.node.nodeid.encode()).hexdigest()[:8]}"


@pytest.fixture
def push(registry: Registry, repository: str) -> Callable[..., str]:
    """A function that pushes an `Image` or `Index` to the session's registry and returns its URI."""
    numbers = itertools.count(1)

    def push(image: Image | Index, tag: str = "") -> str:
        tag = tag or f"t{next(numbers)}"
        registry.push(repository, tag, image)
        return registry.uri(repository, tag)

    return push


@pytest.fixture
def import_environment(tmp_path: Path) -> dict[str, str]:
    """The environment of an import: a home and a cache of the test's own, plain HTTP allowed, no proxy."""
    home = tmp_path / "home"
    home.mkdir()
    return {
        "HOME": str(home),
        "ENROOT_CONFIG_PATH": str(home / ".config/enroot"),
        "ENROOT_CACHE_PATH": str(tmp_path / "cache"),
        "ENROOT_ALLOW_HTTP": "yes",
        # quick, and with a block size that a test's file exceeds
        "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 1 -b 131072",
        "PATH": os.environ["PATH"],
        "TMPDIR": str(tmp_path),
    }


@pytest.fixture
def import_to_tree(tmp_path: Path, import_environment: dict[str, str]) -> Callable[..., Imported]:
    """A function that imports a URI with the product and reads the image back.

    environment  variables to set or, with None, to leave out
    site         the text of a site configuration file
    Other arguments are those of `enroot_slurm.import_image`.
    """
    require_tools("mksquashfs", "unsquashfs")
    from enroot_slurm import Config, import_image

    numbers = itertools.count(1)

    def run(
        uri: str, *, environment: dict[str, str | None] | None = None, site: str = "", **arguments: Any
    ) -> Imported:
        variables = {k: v for k, v in {**import_environment, **(environment or {})}.items() if v is not None}
        number = next(numbers)
        site_file = None
        if site:
            site_file = tmp_path / f"site{number}.yaml"
            site_file.write_text(site)
        config = Config.load(environ=variables, site_file=site_file, user_file=None, enroot_conf=None)
        # output=None is the product's default
        arguments.setdefault("output", tmp_path / f"image{number}.sqsh")
        result = import_image(uri, config=config, **arguments)
        return Imported(read_tree(result.path), result)

    return run


@pytest.fixture
def stored_layers() -> Callable[[Registry, str, str], tuple[list[bytes], dict[str, Any]]]:
    """A function that reads an image back from a registry: its layers as plain tar, and its runtime config."""
    from support.images import MANIFEST, decompress

    def read(registry: Registry, name: str, tag: str) -> tuple[list[bytes], dict[str, Any]]:
        def get(path: str) -> bytes:
            accept = {"Accept": ", ".join(MANIFEST.values())}
            status, _, body = registry.request("GET", f"/v2/{name}/{path}", headers=accept)
            assert status == 200, (path, status, body)
            return body

        manifest = json.loads(get(f"manifests/{tag}"))
        config = json.loads(get(f"blobs/{manifest['config']['digest']}"))
        layers = [decompress(get(f"blobs/{layer['digest']}")) for layer in manifest["layers"]]
        return layers, config.get("config") or {}

    return read
