"""Layers with hard links into lower ones: these layers together are one image in the cache, and are read once."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import Running, enroot_slurm, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack
from support.tools import require_tools
from support.tree import diff_trees

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.locks import Locks
from enroot_slurm.errors import IntegrityError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import chain_ids

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SIZE = 300_000
STREAMED = {"ENROOT_SLURM_LAYER_CACHE": "no"}


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


@pytest.fixture
def cache(import_environment: dict[str, str]) -> Path:
    return Path(import_environment["ENROOT_CACHE_PATH"])


@pytest.fixture
def run(import_environment: dict[str, str]) -> Callable[..., str]:
    """A function that runs the command, checks its status, and gives what it prints."""

    def run(*arguments: object, status: int = 0) -> str:
        done = enroot_slurm(*arguments, environment=import_environment)
        assert done.returncode == status, done.stderr
        return done.stdout

    return run


def base(size: int = SIZE) -> list[Layer]:
    """Two layers, of which the upper one has links into the lower one."""
    lower = Layer().dirs("d", "e").file("d/data", noise(size, 1)).file("e/gone", b"gone").file("f", b"f" * 5000)
    upper = Layer().dir("d", 0o700).hardlink("d/link", "d/data").hardlink("g", "f").whiteout("e/gone")
    return [lower, upper]


def top(seed: int) -> Layer:
    return Layer().dir("t").file(f"t/{seed}", noise(SIZE, 10 + seed)).file("f", b"%d" % seed)


def stack_of(cache: Path, layers: Sequence[Layer]) -> Path:
    """Where the image of *layers* together is."""
    chain = chain_ids(Digest.parse(blob.diff_id) for blob in Image(layers).blobs())[-1]
    (directory,) = (cache / "layers").iterdir()
    return directory / f"{chain.algorithm}-{chain.hex}.sqsh"


def identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_ino, status.st_mtime_ns


def content(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def flip(path: Path) -> None:
    """Change a byte of *path*, so that neither its size nor its time tells."""
    status = path.stat()
    path.chmod(0o600)
    with path.open("r+b") as file:
        byte = os.pread(file.fileno(), 1, status.st_size // 3)[0]
        os.pwrite(file.fileno(), bytes([byte ^ 1]), status.st_size // 3)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def assert_as_streamed(imported, streamed) -> None:
    assert not diff_trees(imported.tree, streamed.tree, ignore_mtime_of=[b"", b".", b"etc"])


def assert_nothing_unfinished(cache: Path) -> None:
    assert [*cache.glob("layers/*/.*"), *cache.glob("images/*/*/.*"), *cache.glob("tmp/*")] == []


# What is kept.


def test_a_base_with_such_links_is_read_once(push, import_to_tree, registry, repository, cache):
    """A second image with the same base costs its own layer: the base's blobs are gone, and nobody asks for them."""
    import_to_tree(push(Image([*base(), top(1)])))
    stack = stack_of(cache, base())
    before = identity(stack)
    for blob in (cache / "blobs/sha256").iterdir():
        blob.unlink()
    uri = push(Image([*base(), top(2)]))
    registry.reset()
    found = import_to_tree(uri)
    assert registry.count("GET", f"/{repository}/blobs") == 2  # the config, and the top layer
    assert (found.result.layers_fetched, found.result.layers_reused) == (1, 2)
    assert identity(stack) == before
    assert found.tree[b"d/link"].link == found.tree[b"d/data"].link == b"d/data"
    assert_as_streamed(found, import_to_tree(uri, environment=STREAMED))
    assert_nothing_unfinished(cache)


def test_the_bytes_do_not_depend_on_what_was_there(push, import_to_tree, tmp_path):
    """Empty caches and full ones, one thread and several: the same image."""
    first, second = push(Image([*base(), top(1)])), push(Image([*base(), top(2)]))
    found = {content(import_to_tree(first).result.path), content(import_to_tree(first).result.path)}
    for processors in ("1", "4"):
        environment = {"ENROOT_CACHE_PATH": str(tmp_path / f"cache{processors}"), "ENROOT_MAX_PROCESSORS": processors}
        import_to_tree(second, environment=environment)
        found.add(content(import_to_tree(first, environment=environment).result.path))
    assert len(found) == 1


def _through_the_middle() -> list[Layer]:
    lower = Layer().dir("d").file("d/a", b"a").file("d/b", b"b").hardlink("d/b2", "d/b")
    middle = Layer().whiteout("d/b2").file("n", b"n")
    return [lower, middle, Layer().hardlink("x", "d/a").hardlink("y", "d/b").hardlink("z", "y"), Layer().file("u")]


def _targets_hidden_above() -> list[Layer]:
    upper = Layer().whiteout("f").file("g", b"new").dir("d").opaque("d").file("d/only", b"only")
    return [*base(), Layer().hardlink("h", "f").hardlink("i", "d/link"), upper]


def _two_such_layers() -> list[Layer]:
    return [*base(), top(1), Layer().hardlink("far", "f").hardlink("t/near", "t/1"), top(2)]


def _the_same_layer_twice() -> list[Layer]:
    return [*base(), Layer().file("f", b"other"), base()[1], base()[0], top(1)]


def _names_twice() -> list[Layer]:
    lower = Layer().file("a", b"first").file("a", b"second")
    return [lower, Layer().hardlink("b", "a").hardlink("b", "a"), Layer().dir("c").file("c", b"file")]


STACKS = {
    "alone": base,
    "through the middle": _through_the_middle,
    "targets hidden above": _targets_hidden_above,
    "two such layers": _two_such_layers,
    "the same layer twice": _the_same_layer_twice,
    "names twice": _names_twice,
}


@pytest.mark.parametrize("name", STACKS)
def test_trees_are_as_streamed(push, import_to_tree, cache, name):
    """Whatever is above and between: the tree is that of all layers together, with an empty cache and a full one."""
    layers = STACKS[name]()
    uri, other = push(Image(layers)), push(Image([*layers, top(9)]))
    streamed = [import_to_tree(each, environment=STREAMED) for each in (uri, other)]
    for each, expected in zip((uri, other), streamed, strict=True):
        assert_as_streamed(import_to_tree(each), expected)
    assert [*cache.glob("layers/*/*.json")]
    assert_nothing_unfinished(cache)


@pytest.mark.parametrize("options", ["-mkfs-time 7 -all-time 9", ""])
def test_times_that_are_asked_for(push, import_to_tree, cache, monkeypatch, options):
    """All files have the time of an option, or of SOURCE_DATE_EPOCH; both kinds of images are made of one stack."""
    uri = push(Image([*base(), top(1)]))
    import_to_tree(uri)
    before = identity(stack_of(cache, base()))
    if not options:
        monkeypatch.setenv("SOURCE_DATE_EPOCH", "9")
    environment = {"ENROOT_SQUASH_OPTIONS": f"-comp zstd -Xcompression-level 1 -b 131072 {options}"}
    found = import_to_tree(uri, environment=environment)
    assert {entry.mtime for path, entry in found.tree.items() if path} == {9}
    assert_as_streamed(found, import_to_tree(uri, environment={**environment, **STREAMED}))
    assert identity(stack_of(cache, base())) == before


def test_blobs_may_go(push, import_to_tree, registry, repository, cache):
    """With ``keep_blobs: no`` the blobs go with the images that are made of them, or that were there already."""
    environment = {"ENROOT_SLURM_KEEP_BLOBS": "no"}
    import_to_tree(push(Image([base()[0], top(3)])), environment=environment)
    import_to_tree(push(Image([*base(), top(1)])), environment=environment)
    assert len(list((cache / "blobs/sha256").iterdir())) == 2  # the configs
    assert stack_of(cache, base()).exists()
    registry.reset()
    import_to_tree(push(Image([*base(), top(1)])), environment=environment)
    assert registry.count("GET", f"/{repository}/blobs") == 0


# Links that lead nowhere, and what is no stack.


def test_a_link_to_nothing_is_an_error(push, import_to_tree, cache):
    """The message names the link; no image of the layers with it stays, nor anything unfinished."""
    layers = [base()[0], Layer().hardlink("d/link", "d/data"), Layer().hardlink("broken", "nowhere"), top(1)]
    for _ in range(2):
        with pytest.raises(IntegrityError, match="broken is a hard link to nowhere, which no layer has"):
            import_to_tree(push(Image(layers)))
        assert not stack_of(cache, layers[:3]).exists()
        assert_nothing_unfinished(cache)


def test_a_link_to_nothing_that_is_hidden_is_none(push, import_to_tree):
    """It is in nobody's way, as before: such layers are streamed together."""
    layers = [base()[0], Layer().hardlink("broken", "nowhere"), Layer().whiteout("broken")]
    uri = push(Image(layers))
    assert_as_streamed(import_to_tree(uri), import_to_tree(uri, environment=STREAMED))


def test_a_stack_is_no_layer(push, import_to_tree, cache):
    """An image config that says a stack's ChainID for a layer does not get the stack: the layer is something else."""
    import_to_tree(push(Image([*base(), top(1)])))
    stack = stack_of(cache, base())
    known = json.loads(stack.with_suffix(".json").read_bytes())
    assert known["layer"] == f"stack {stack.stem.replace('-', ':')}"
    before = identity(stack)
    liar = Layer().file("x", b"x")
    uri = push(Image([liar], diff_ids=[known["layer"].removeprefix("stack ")]))
    with pytest.raises(IntegrityError, match="not what the image config says"):
        import_to_tree(uri)
    assert identity(stack) == before


# Several processes.


def test_two_at_once(import_environment, cache, tmp_path):
    """Two images with one base, imported at once: each blob comes once, and there is one image of the stack."""
    with FaultRegistry() as registry, ExitStack() as ending:
        images = [Image([pack(layer, "gzip") for layer in (*base(), top(n))]) for n in range(2)]
        uris = [serve(registry, image, tag=str(n)) for n, image in enumerate(images)]
        running = [
            ending.enter_context(
                Running(
                    "import",
                    "-o",
                    tmp_path / f"{n}.sqsh",
                    uris[n],
                    environment=import_environment,
                    log=tmp_path / str(n),
                )
            )
            for n in range(2)
        ]
        assert [each.wait() for each in running] == [0, 0], [each.said for each in running]
        assert [registry.count(blob.digest) for blob in images[0].blobs()] == [1, 1, 1]
    assert stack_of(cache, base()).exists()
    assert_nothing_unfinished(cache)


def test_the_stack_of_another_process_is_taken(import_environment, cache, tmp_path):
    """A process whose top layer comes slowly finds the stack that another one makes meanwhile."""
    release = threading.Event()
    with FaultRegistry() as registry, ExitStack() as ending:
        ending.callback(release.set)
        images = [Image([pack(layer, "gzip") for layer in (*base(), top(n))]) for n in range(2)]
        registry.fault(images[0].blobs()[-1].digest, stall=release, after=SIZE // 2)
        uris = [serve(registry, image, tag=str(n)) for n, image in enumerate(images)]
        first = ending.enter_context(Running("get", uris[0], environment=import_environment, log=tmp_path / "first"))
        wait_for(lambda: registry.count(images[0].blobs()[-1].digest))
        second = enroot_slurm("get", uris[1], environment=import_environment)
        assert second.returncode == 0, second.stderr
        before = identity(stack_of(cache, base()))
        release.set()
        assert first.wait() == 0, first.said
    assert identity(stack_of(cache, base())) == before


def test_who_waits_for_a_layer_may_get_a_stack(push, run, import_environment, cache, tmp_path):
    """Somebody holds the lock of a layer for ever; who would wait as long finds the stack of a hasty one."""
    run("get", push(Image([top(3)])))  # which makes the directory
    (recipe,) = (path.name for path in (cache / "layers").iterdir())
    hexadecimal = Image(base()).blobs()[1].diff_id.removeprefix("sha256:")
    patient = {**import_environment, "ENROOT_SLURM_LOCK_TIMEOUT": "3600", "ENROOT_SLURM_WORKER_TIMEOUT": "3600"}
    uris = [push(Image([*base(), top(n)])) for n in range(2)]
    with Locks(CacheDirectory(cache)).lock(f"layer-{recipe}-{hexadecimal}").attempt() as held:
        assert held
        with Running("get", uris[0], environment=patient, log=tmp_path / "log") as running:
            first = f"layers/*/*{Image([top(0)]).blobs()[0].diff_id.removeprefix('sha256:')}.sqsh"
            wait_for(lambda: list(cache.glob(first)))
            hasty = enroot_slurm("get", uris[1], environment={**import_environment, "ENROOT_SLURM_LOCK_TIMEOUT": "1"})
            assert hasty.returncode == 0, hasty.stderr
            before = identity(stack_of(cache, base()))
            assert running.wait() == 0, running.said
    assert identity(stack_of(cache, base())) == before


def test_killed_while_the_stack_is_made(push, import_environment, import_to_tree, cache, tmp_path):
    """Nothing but a temporary file is left; the next import removes it, and gives the right image."""
    options = {"ENROOT_SQUASH_OPTIONS": "-comp xz"}
    environment = {**import_environment, **options}
    layers = [*base(12_000_000), top(1)]
    uri = push(Image(layers))
    with Running("get", uri, environment=environment, log=tmp_path / "log") as running:
        wait_for(lambda: list(cache.glob("layers/*")))
        stack = stack_of(cache, layers[:2])
        unfinished = f".{stack.stem.partition('-')[2][:12]}.*.tmp"
        wait_for(lambda: list(stack.parent.glob(unfinished)) or running.process.poll() is not None)
        running.process.kill()
        assert running.wait() < 0
    assert not stack.exists()
    assert list(stack.parent.glob(unfinished))
    again = enroot_slurm("get", uri, environment=environment)
    assert again.returncode == 0, again.stderr
    assert stack.exists()
    assert_nothing_unfinished(cache)
    assert_as_streamed(
        import_to_tree(uri, environment=options), import_to_tree(uri, environment={**options, **STREAMED})
    )


# Keeping house.


def test_verify_finds_what_was_joined_from_a_damaged_stack(push, run, cache):
    """The images of a damaged stack go with it, others stay; then all are made anew."""
    uris = [push(Image([*base(), top(n)])) for n in range(2)]
    plain = push(Image([top(1), top(2)]))
    for uri in (*uris, plain):
        run("get", uri)
    stack = stack_of(cache, base())
    assert json.loads(run("cache", "verify", "--json"))["damaged"] == []
    flip(stack)
    damaged = json.loads(run("cache", "verify", "--json", status=6))["damaged"]
    assert sorted(each["kind"] for each in damaged) == ["image", "image", "layer"]
    assert all(str(stack.relative_to(cache)) in f"{each['path']} {each['what']}" for each in damaged)
    run("cache", "verify", "--repair")
    assert not stack.exists()
    assert len(list(cache.glob("images/*/*/*.sqsh"))) == 1
    run("get", uris[0])
    assert stack.exists()
    assert json.loads(run("cache", "verify", "--json"))["damaged"] == []


def test_a_damaged_stack_is_made_again(push, import_to_tree, cache):
    """Damage that the joining meets is a warning, and costs a new conversion."""
    uri = push(Image([*base(), top(1)]))
    first = import_to_tree(uri)
    stack = stack_of(cache, base())
    status = stack.stat()
    stack.chmod(0o600)
    with stack.open("r+b") as file:
        file.write(b"noise")
    os.utime(stack, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert_as_streamed(import_to_tree(uri), first)
    assert not stack.exists()
    assert content(import_to_tree(uri).result.path) == content(first.result.path)


def test_the_collector_takes_a_stack_for_a_layer(push, run, cache):
    """It is listed, counted and collected as the images of layers are, and made again when it is needed."""
    first, second = (push(Image([*base(), top(n)])) for n in range(2))
    run("get", first)
    stack = stack_of(cache, base())
    listed = json.loads(run("cache", "list", "--all", "--json"))
    assert str(stack.relative_to(cache)) in {each["path"] for each in listed if each["kind"] == "layer"}
    for path in cache.rglob("*"):
        os.utime(path, (1_000_000_000, 1_000_000_000))
    before = re.sub(r"\s+", " ", run("cache", "gc", "--max-age", "7d"))
    assert not stack.exists(), before
    run("get", second)
    assert stack.exists()
