"""Space: what can't fit is refused before it is fetched, what fits is not, and a disk that fills up leaves nothing."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import Running, enroot_slurm, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack
from support.tools import require_root, require_tools
from support.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE = 1_000_000


@pytest.fixture(autouse=True)
def tools() -> None:
    require_root("mounts small file systems")
    require_tools("mksquashfs", "unsquashfs")


@pytest.fixture
def faulty() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


class Disk:
    """A tmpfs of *kilobytes*."""

    def __init__(self, path: Path, kilobytes: int) -> None:
        self.path = path
        path.mkdir(mode=0o755)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0755,size={kilobytes}k", "none", path], check=True)

    def resize(self, kilobytes: int) -> None:
        subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", self.path], check=True)

    @property
    def used(self) -> int:
        """Kilobytes."""
        return int(subprocess.run(["du", "-sk", self.path], check=True, capture_output=True).stdout.split()[0])


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str, int], Disk]]:
    """A function that makes a file system of a name and a size in kilobytes."""
    made: list[Disk] = []

    def make(name: str, kilobytes: int) -> Disk:
        made.append(Disk(tmp_path / name, kilobytes))
        return made[-1]

    yield make
    for each in made:
        subprocess.run(["umount", "-l", each.path], check=False)


def image(*seeds: int, size: int = MEGABYTE) -> Image:
    """A layer for each of the *seeds*, none of which can be compressed."""
    return Image([pack(Layer().file(f"f{seed}", noise(size, seed)), "gzip") for seed in seeds])


def layers_asked_for(registry: FaultRegistry, made: Image) -> int:
    return sum(registry.count(blob.digest) for blob in made.blobs())


def left_over(*directories: Path) -> list[Path]:
    patterns = ("**/*.tmp", "**/tmp/*", "**/*.holder")
    return [path for directory in directories for pattern in patterns for path in directory.glob(pattern)]


# Before anything is fetched.


def test_what_can_not_fit_is_refused_at_once(disk, faulty, import_environment) -> None:
    """The error says how much is needed and left, where, and what to do; no layer was asked for."""
    small = disk("small", 3000)
    made = image(1, 2)
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(small.path / "cache")}
    result = enroot_slurm("get", serve(faulty, made), environment=environment)
    assert result.returncode == 7, result.stderr
    assert f"not enough space: {small.path}/cache has 2.9 MiB left" in result.stderr
    assert "needs 1.9 MiB to download and about 3.8 MiB of squashfs images" in result.stderr
    assert "enroot-slurm cache gc --max-age 7d" in result.stderr
    assert layers_asked_for(faulty, made) == 0
    assert left_over(small.path) == []


def test_min_free_stays_free(disk, faulty, import_environment, tmp_path) -> None:
    """So much is left on the file system of the cache, whether it is a size or a share; the output is the user's."""
    large = disk("large", 30_000)
    uri = serve(faulty, image(1, 2))
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(large.path / "cache")}
    for min_free, shown in (("27MiB", "27 MiB"), ("95%", "28 MiB")):
        result = enroot_slurm("get", uri, environment={**environment, "ENROOT_SLURM_MIN_FREE": min_free})
        assert result.returncode == 7, result.stderr
        assert f"of which {shown} have to stay free (min_free)" in result.stderr
    result = enroot_slurm("get", uri, environment={**environment, "ENROOT_SLURM_MIN_FREE": "50%"})
    assert (result.returncode, "space" in result.stderr) == (0, False), result.stderr
    # What needs nothing of the cache's file system, is done whatever that has left.
    arguments = ("import", "-f", "-o", tmp_path / "x.sqsh", serve(faulty, image(1, 2), tag="other"))
    result = enroot_slurm(*arguments, environment={**environment, "ENROOT_SLURM_MIN_FREE": "100%"})
    assert (result.returncode, "space" in result.stderr) == (0, False), result.stderr


def test_a_small_place_for_the_output(disk, faulty, import_environment) -> None:
    """The output's file system is looked at too: for an image that is made there, and for one that is copied there."""
    small = disk("small", 700)
    made = image(1, 2)
    uri = serve(faulty, made)
    arguments = ("import", "-o", small.path / "x.sqsh", uri)
    for options in ([], ["--no-layer-cache"]):
        result = enroot_slurm(*arguments, *options, environment=import_environment)
        assert result.returncode == 7, result.stderr
        assert f"not enough space: {small.path} has " in result.stderr
        assert "--output" in result.stderr
        assert layers_asked_for(faulty, made) == 0
    assert enroot_slurm("get", uri, environment=import_environment).returncode == 0
    result = enroot_slurm(*arguments, environment=import_environment)
    assert result.returncode == 7, result.stderr
    assert "and the image has 1.9 MiB" in result.stderr
    assert list(small.path.iterdir()) == []


# What fits is not refused.


def test_what_is_in_the_cache_needs_no_space(disk, faulty, import_environment) -> None:
    """Blobs and layers that are there are not counted: there has to be space for what is missing."""
    place = disk("place", 40_000)
    uri = serve(faulty, image(1, 2, 3))
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(place.path / "cache")}
    assert enroot_slurm("get", uri, environment=environment).returncode == 0
    assert enroot_slurm("cache", "rm", uri, environment=environment).returncode == 0
    place.resize(place.used + 3200)
    result = enroot_slurm("get", uri, environment=environment)
    assert result.returncode == 0, result.stderr
    assert "space" not in result.stderr


def test_a_stack_in_the_cache_needs_no_space(disk, faulty, import_environment, tmp_path) -> None:
    """Layers whose image is a stack are there as well: an image needs what is above it."""
    place = disk("place", 60_000)
    base = [Layer().file("f", noise(3 * MEGABYTE, 1)), Layer().hardlink("link", "f")]
    images = [Image([*base, Layer().file("top", noise(MEGABYTE, 2 + n))], compression="gzip") for n in range(2)]
    uris = [serve(faulty, each, tag=str(n)) for n, each in enumerate(images)]
    environment = {
        **import_environment,
        "ENROOT_CACHE_PATH": str(place.path / "cache"),
        "ENROOT_SLURM_KEEP_BLOBS": "no",
    }
    arguments = ("import", "-f", "-o", tmp_path / "x.sqsh")
    assert enroot_slurm(*arguments, uris[0], environment=environment).returncode == 0
    (stack,) = (path for path in place.path.glob("cache/layers/*/*.json") if "stack" in path.read_text())
    for path in place.path.glob("cache/layers/*/*"):
        if path.stem != stack.stem:
            path.unlink()
    place.resize(place.used + 2600)
    known = stack.read_bytes()
    stack.unlink()
    result = enroot_slurm(*arguments, uris[1], environment=environment)
    assert (result.returncode, "not enough space" in result.stderr) == (7, True), result.stderr
    stack.write_bytes(known)
    stack.chmod(0o600)
    result = enroot_slurm(*arguments, uris[1], environment=environment)
    assert (result.returncode, "space" in result.stderr) == (0, False), result.stderr


def test_estimates_are_learnt(disk, faulty, import_environment) -> None:
    """With uncompressed data an image is taken for twice as large as its blobs, until one that was made says more."""
    place = disk("place", 32_000)
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(place.path / "cache")}
    environment |= {"ENROOT_SQUASH_OPTIONS": "-comp zstd -noD", "ENROOT_SLURM_MIN_FREE": "16MiB"}
    first, second = serve(faulty, image(1, 2)), serve(faulty, image(3, 4), tag="2")
    place.resize(25_500)  # 9 MB beside what stays free, for 2 + 2 + 2 that may be 2 + 4 + 4
    result = enroot_slurm("get", first, environment=environment)
    assert result.returncode == 0, result.stderr
    assert "the space may not suffice" in result.stderr
    assert "about 7.6 MiB" in result.stderr
    place.resize(25_500 + place.used)
    result = enroot_slurm("get", second, environment=environment)
    assert result.returncode == 0, result.stderr
    assert "space" not in result.stderr


def test_what_another_process_downloads(disk, faulty, import_environment, tmp_path) -> None:
    """What is on its way already, in another process, is not counted again."""
    place = disk("place", 6500)
    made, release = image(1, 2, size=3 * MEGABYTE), threading.Event()
    uri = serve(faulty, made)
    faulty.fault(made.blobs()[0].digest, stall=release, after=MEGABYTE)
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(place.path / "cache")}

    def running(name: str) -> Running:
        arguments = ("import", "--no-layer-cache", "-o", tmp_path / f"{name}.sqsh", uri)
        return Running(*arguments, environment=environment, log=tmp_path / name)

    with running("first") as first:
        wait_for(lambda: list(place.path.glob("cache/blobs/sha256/*")) and len(faulty.matching(made.blobs()[1].digest)))
        wait_for(lambda: [p for p in place.path.glob("cache/tmp/*") if p.stat().st_size >= MEGABYTE // 2])
        with running("second") as second:
            second.wait_until_says("importing")
            release.set()
            assert (first.wait(), second.wait()) == (0, 0), (first.said, second.said)
    assert layers_asked_for(faulty, made) == 2


def test_shared_blocks_take_no_space(faulty, import_environment, tmp_path) -> None:
    """On XFS an image shares the blocks of its layers: there has to be space for these alone."""
    if not shutil.which("mkfs.xfs"):
        pytest.skip("needs mkfs.xfs")
    file, mount = tmp_path / "disk", tmp_path / "xfs"
    mount.mkdir()
    with file.open("wb") as stream:
        stream.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", file], check=True)
    subprocess.run(["mount", "-o", "loop", file, mount], check=True)
    try:
        file_system = os.statvfs(mount)
        floor = file_system.f_bavail * file_system.f_frsize - 48 * MEGABYTE
        uri = serve(faulty, Image([pack(Layer().file("big", noise(20 * MEGABYTE)), "gzip")]))
        environment = {**import_environment, "ENROOT_CACHE_PATH": str(mount / "cache")}
        environment["ENROOT_SLURM_MIN_FREE"] = str(floor)
        result = enroot_slurm("get", uri, environment=environment)
        assert result.returncode == 0, result.stderr
        assert "space" not in result.stderr
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


# When it fills up all the same.

FULL = {
    # where it happens: kilobytes of the cache and of the output's file system, and options
    "layers": (3400, 9000, []),
    "joining": (9000, 1400, []),
    "squashing all at once": (9000, 1400, ["--no-layer-cache"]),
    "downloading": (9000, 9000, ["--no-layer-cache"]),
}


@pytest.mark.parametrize("when", FULL)
def test_a_disk_that_fills_up(when, disk, faulty, import_environment, tmp_path) -> None:
    """It is said where; nothing half is left over; with more space the next one needs no layer twice."""
    for_cache, for_output, options = FULL[when]
    cache, output = disk("for_cache", for_cache), disk("for_output", for_output)
    made, release = image(1, 2), threading.Event()
    uri = serve(faulty, made)
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(cache.path / "cache")}
    arguments = ("import", *options, "-o", output.path / "x.sqsh", uri)
    if when == "downloading":
        faulty.fault(made.blobs()[0].digest, times=1, stall=release, after=MEGABYTE // 2)
    with Running(*arguments, environment=environment, log=tmp_path / "log") as running:
        if when == "downloading":
            wait_for(lambda: len(list(cache.path.glob("cache/blobs/sha256/*"))) == 2)
            cache.resize(1800)  # there are one layer and half of the other
            release.set()
        assert running.wait() == 7, running.said
    assert "no space left" in running.said.lower()
    assert str(output.path if cache.path.name not in running.said else cache.path) in running.said
    assert left_over(cache.path, output.path) == []
    assert list(output.path.iterdir()) == []
    before = layers_asked_for(faulty, made)
    cache.resize(20_000)
    output.resize(20_000)
    result = enroot_slurm(*arguments, environment=environment)
    assert result.returncode == 0, result.stderr
    assert layers_asked_for(faulty, made) == (before if when != "downloading" else before + 1)
    assert {b"f1", b"f2"} <= read_tree(output.path / "x.sqsh").keys()


def test_a_quota_that_is_used_up(faulty, import_environment, tmp_path) -> None:
    """It is told apart from a full disk, where df(1) shows none.  (The error is injected: quotas need their kernel.)"""
    require_tools("strace")
    inject = ["strace", "-f", "-qq", "-o", tmp_path / "log", "-e", "inject=pwrite64:error=EDQUOT"]
    uri = serve(faulty, image(1))
    for options, where in ([], "cache"), (["--no-layer-cache"], tmp_path):
        command = [sys.executable, "-m", "enroot_slurm", "import", *options, "-o", tmp_path / "x.sqsh", uri]
        done = subprocess.run([*inject, *command], env=import_environment, capture_output=True, text=True, check=False)
        assert done.returncode == 7, done.stderr
        assert "no quota left" in done.stderr
        assert str(where) in done.stderr
    assert left_over(Path(import_environment["ENROOT_CACHE_PATH"]), tmp_path) == []
