"""Images carried from one cache to another, which has no network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.archives import docker_members, layout_members, made_tar
from support.command import COMMAND, enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Index, Layer
from support.tools import require_root, require_tools
from support.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
IMAGE = Image([Layer().file("one", b"1" * 500_000), Layer().file("two", b"2")], architecture=HERE)


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


@pytest.fixture
def there(import_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """The environment on the other side, where nothing can be reached."""
    return {**import_environment, "ENROOT_CACHE_PATH": str(tmp_path / "there"), "ENROOT_TRANSFER_RETRIES": "0"}


@pytest.fixture
def cut_off(there: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs the command on the other side, without any network."""
    require_tools("unshare")
    require_root("a network namespace")

    def run(*arguments: object, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["unshare", "-n", *COMMAND, *map(str, arguments)],
            env={**there, **more}, capture_output=True, text=True, check=False,
        )  # fmt: skip

    return run


@pytest.mark.parametrize("finished", [[], ["--squashfs"]])
def test_export_and_import(finished, push, import_environment, cut_off, there, tmp_path) -> None:
    """A tag is a hit on the other side, with the same bytes; what is not there is said to be not there."""
    uri = push(IMAGE)
    file = tmp_path / "images.tar"
    done = enroot_slurm("cache", "export", *finished, "-o", file, uri, environment=import_environment)
    assert done.returncode == 0, done.stderr
    ours = enroot_slurm("get", uri, environment=import_environment)
    nothing = cut_off("get", uri)
    assert nothing.returncode == 5
    carried = cut_off("cache", "import", *finished, file)
    assert carried.returncode == 0, carried.stderr
    assert carried.stdout.startswith("imported")
    layers = list(Path(there["ENROOT_CACHE_PATH"]).glob("layers/*/*.sqsh"))
    assert bool(layers) != bool(finished)
    theirs = cut_off("get", uri)
    assert theirs.returncode == 0, theirs.stderr
    assert "using what" in theirs.stderr
    assert "(from cache import)" in theirs.stderr
    assert Path(theirs.stdout.strip()).read_bytes() == Path(ours.stdout.strip()).read_bytes()
    silent = cut_off("get", uri, ENROOT_SLURM_OFFLINE="yes")
    assert (silent.returncode, silent.stdout) == (0, theirs.stdout)
    assert "using what" not in silent.stderr
    assert cut_off("cache", "import", *finished, file).stdout.startswith("present")
    other = cut_off("get", uri.rpartition(":")[0] + ":other", ENROOT_SLURM_OFFLINE="yes")
    assert (other.returncode, "nobody is asked for it (setting offline)" in other.stderr) == (5, True)
    further = cut_off("cache", "export", *finished, "-o", tmp_path / "b.tar", uri, ENROOT_SLURM_OFFLINE="yes")
    assert further.returncode == 0, further.stderr
    assert cut_off("cache", "verify").returncode == 0


@pytest.mark.parametrize("uri", ["docker-archive:a.tar", "docker-archive:/a.tar", "oci-archive:a.tar:app:1", "oci:/a"])
def test_a_file_needs_no_export(uri, import_environment, tmp_path) -> None:
    """It is not looked for in Docker Hub either."""
    done = enroot_slurm("cache", "export", "-o", tmp_path / "b.tar", uri, environment=import_environment)
    assert done.returncode == 2
    assert "is a file already" in done.stderr


def test_finished_images_are_taken_when_it_is_said(push, import_environment, there, tmp_path) -> None:
    """Otherwise the error says why their blobs are not there."""
    file = tmp_path / "images.tar"
    enroot_slurm("cache", "export", "--squashfs", "-o", file, push(IMAGE), environment=import_environment)
    done = enroot_slurm("cache", "import", file, environment=there)
    assert done.returncode == 3
    assert "--squashfs takes them" in done.stderr


def test_offline_asks_nobody(import_environment, tmp_path) -> None:
    """Not even for a tag that is in the cache."""
    with FaultRegistry() as registry:
        uri = serve(registry, IMAGE)
        first = enroot_slurm("get", uri, environment=import_environment)
        asked = len(registry.requests)
        offline = {**import_environment, "ENROOT_SLURM_OFFLINE": "yes"}
        again = enroot_slurm("get", uri, environment=offline)
        digest = enroot_slurm("digest", uri, environment=offline)
        imported = enroot_slurm("import", "-o", tmp_path / "x", uri, environment=offline)
        assert (again.stdout, again.returncode) == (first.stdout, 0), again.stderr
        assert (digest.returncode, imported.returncode) == (0, 0), imported.stderr
        missing = enroot_slurm("get", uri + "2", environment=offline)
        assert missing.returncode == 5
        assert len(registry.requests) == asked


def test_an_index_is_carried_for_one_platform(push, import_environment, cut_off, tmp_path) -> None:
    """Its digest leads to the image, too; skopeo's and our own readers take the file."""
    other = Image([Layer().file("other")], architecture="s390x")
    index = Index([IMAGE, other])
    uri = push(index)
    file = tmp_path / "images.tar"
    done = enroot_slurm("cache", "export", "--json", "-o", file, uri, environment=import_environment)
    assert done.returncode == 0, done.stderr
    assert cut_off("cache", "import", file).returncode == 0
    assert cut_off("get", uri, ENROOT_SLURM_OFFLINE="yes").returncode == 0
    elsewhere = cut_off("get", "-a", "s390x", uri, ENROOT_SLURM_OFFLINE="yes")
    assert elsewhere.returncode == 5
    taken = cut_off("import", "-o", tmp_path / "x", f"oci-archive:{file}")
    assert taken.returncode == 0, taken.stderr
    assert {b"one", b"two"} <= read_tree(tmp_path / "x").keys()


def test_export_gets_what_is_missing(push, import_environment, tmp_path) -> None:
    """Blobs that a collection has removed are fetched again."""
    uri = push(IMAGE)
    enroot_slurm("get", uri, environment=import_environment)
    for blob in Path(import_environment["ENROOT_CACHE_PATH"]).glob("blobs/*/*"):
        blob.unlink()
    file = tmp_path / "images.tar"
    assert enroot_slurm("cache", "export", "-o", file, uri, environment=import_environment).returncode == 0
    again = enroot_slurm("cache", "export", "-o", file, uri, environment=import_environment)
    assert (again.returncode, "file already exists" in again.stderr) == (7, True)
    damaged = next(Path(import_environment["ENROOT_CACHE_PATH"]).glob("blobs/*/*"))
    damaged.write_bytes(bytes(damaged.stat().st_size))
    failed = enroot_slurm("cache", "export", "-f", "-o", file, uri, environment=import_environment)
    assert (failed.returncode, "is damaged" in failed.stderr) == (6, True)


def test_finished_images_are_compared_with_what_they_say(push, import_environment, there, tmp_path) -> None:
    """A byte that flipped on the way, other options, and a file without the option."""
    uri = push(IMAGE)
    file = tmp_path / "images.tar"
    enroot_slurm("cache", "export", "--squashfs", "-o", file, uri, environment=import_environment)
    without = enroot_slurm("cache", "import", file, environment=there)
    assert without.returncode == 3  # only the blobs could be verified, and they are not in it
    options = {**there, "ENROOT_SQUASH_OPTIONS": "-comp gzip"}
    other = enroot_slurm("cache", "import", "--squashfs", file, environment=options)
    assert (other.returncode, "made with other options" in other.stderr) == (2, True)
    content = bytearray(file.read_bytes())
    at = content.index(b"hsqs") + 500
    content[at] ^= 1
    file.write_bytes(content)
    flipped = enroot_slurm("cache", "import", "--squashfs", file, environment=there)
    assert (flipped.returncode, "damaged" in flipped.stderr) == (6, True)
    assert not list(Path(there["ENROOT_CACHE_PATH"]).glob("images/*/*/*"))


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 6),
        (made_tar(docker_members(IMAGE)), 6),
        (made_tar(layout_members([(IMAGE, {})])), 3),
        (made_tar(layout_members([(IMAGE, {"annotations": {"org.opencontainers.image.ref.name": "latest"}})])), 3),
    ],
)
def test_files_that_can_t_be_carried(content, status, there, tmp_path) -> None:
    (tmp_path / "f").write_bytes(content)
    assert enroot_slurm("cache", "import", tmp_path / "f", environment=there).returncode == status


def test_a_layout_of_other_tools_is_carried(there, tmp_path) -> None:
    """What counts is the full name; a broken image does not keep the others out; a pipe will do."""
    annotations = {"annotations": {"org.opencontainers.image.ref.name": "registry.site/app:1"}}
    broken = {"annotations": {"org.opencontainers.image.ref.name": "registry.site/broken:1"}}
    members = dict(layout_members([(IMAGE, annotations), (Image([Layer().file("b")], architecture=HERE), broken)]))
    lost = Image([Layer().file("b")], architecture=HERE).blobs()[0]
    members = {name: content for name, content in members.items() if content != lost.data}
    command = [*COMMAND, "cache", "import", "/dev/stdin"]
    done = subprocess.run(command, input=made_tar(members.items()), env=there, capture_output=True, check=False)
    assert done.returncode == 3, done.stderr
    assert b"registry.site#app:1" in done.stdout
    assert b"registry.site#broken:1" in done.stderr
    offline = {**there, "ENROOT_SLURM_OFFLINE": "yes"}
    assert enroot_slurm("get", "docker://registry.site/app:1", environment=offline).returncode == 0
