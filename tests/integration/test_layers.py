"""Images of single layers: made once, joined into every image that has the layer, and replaced when damaged."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from support.images import Image, Layer
from support.tree import diff_trees


def noise(size: int, seed: int) -> bytes:
    return hashlib.shake_128(seed.to_bytes(4, "big")).digest(size)


def layers(count: int = 3) -> list[Layer]:
    return [
        Layer()
        .dir(f"d{i}")
        .file(f"d{i}/data", noise(300_000 + i, i))
        .file(f"d{i}/small", b"x" * i)
        .file("shared", b"%d" % i)
        for i in range(count)
    ]


@pytest.fixture
def cache(import_environment) -> Path:
    return Path(import_environment["ENROOT_CACHE_PATH"])


def content(result) -> str:
    return hashlib.sha256(result.path.read_bytes()).hexdigest()


def test_the_same_image_again_needs_no_blob(push, import_to_tree, registry, repository, cache):
    """With all layer images in the cache no blob is asked for, even if none is cached, and the bytes are the same."""
    uri = push(Image(layers()))
    first = import_to_tree(uri)
    assert (first.result.layers_fetched, first.result.layers_reused) == (3, 0)
    for blob in (cache / "blobs/sha256").iterdir():
        blob.unlink()
    registry.reset()
    again = import_to_tree(uri)
    assert registry.count("GET", f"/{repository}/blobs") == 1  # the image config
    assert (again.result.layers_fetched, again.result.layers_reused) == (0, 3)
    assert content(again.result) == content(first.result)


def test_a_new_top_layer_costs_only_itself(push, import_to_tree, registry, repository):
    """An image that has one more layer is imported with the blob of that layer alone."""
    import_to_tree(push(Image(layers(3))))
    uri = push(Image(layers(4)))
    registry.reset()
    found = import_to_tree(uri)
    assert registry.count("GET", f"/{repository}/blobs") == 2  # the config and the layer
    assert found.result.layers_reused == 3
    assert found.tree[b"d3/data"].size == 300_003
    assert found.tree[b"shared"].size == 1


def test_the_bytes_do_not_depend_on_the_machine(push, import_to_tree, tmp_path):
    """Other caches, other numbers of processors, another order of work: the same image."""
    uri = push(Image(layers(5)))
    digests = set()
    for processors in ("1", "2", "4"):
        environment = {"ENROOT_CACHE_PATH": str(tmp_path / f"cache{processors}"), "ENROOT_MAX_PROCESSORS": processors}
        digests.add(content(import_to_tree(uri, environment=environment).result))
    assert len(digests) == 1


@pytest.mark.parametrize("damage", ["cut", "removed sidecar", "touched", "fifo"])
def test_a_layer_image_that_is_not_the_published_one_is_made_again(push, import_to_tree, cache, damage):
    """A layer image whose size, time or kind changed is not used."""
    uri = push(Image(layers()))
    first = import_to_tree(uri)
    (victim,) = sorted((cache / "layers").glob("*/*.sqsh"))[:1]
    if damage == "cut":
        os.truncate(victim, 4096)
    elif damage == "removed sidecar":
        victim.with_suffix(".json").unlink()
    elif damage == "touched":
        os.utime(victim, (1, 1))
    else:
        victim.unlink()
        os.mkfifo(victim)
    again = import_to_tree(uri)
    assert content(again.result) == content(first.result)
    assert victim.is_file()
    assert victim.stat().st_size > 4096 or damage != "cut"


def test_a_layer_image_that_can_not_be_read_is_replaced(push, import_to_tree, cache):
    """Damage that its size and time do not show is a warning, and the image is converted from the layers instead."""
    uri = push(Image(layers()))
    first = import_to_tree(uri)
    for victim in (cache / "layers").glob("*/*.sqsh"):
        status = victim.stat()
        with victim.open("r+b") as file:
            file.write(b"noise")
        os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    again = import_to_tree(uri)
    assert not diff_trees(first.tree, again.tree, ignore_mtime_of=[b"", b".", b"etc"])
    assert not list((cache / "layers").glob("*/*.sqsh"))
    assert content(import_to_tree(uri).result) == content(first.result)


def test_an_image_that_can_not_be_joined_costs_no_other_its_layers(push, import_to_tree, cache):
    """What is wrong with an image's config, or one of its layers, is no reason to forget layers that are right."""
    import_to_tree(push(Image(layers())))
    before = sorted((cache / "layers").glob("*/*.sqsh"))
    uri = push(Image(layers(), config={"WorkingDir": "/d1/.wh.data"}))
    import_to_tree(uri)
    assert sorted((cache / "layers").glob("*/*.sqsh")) == before
    victim = before[1]
    status = victim.stat()
    with victim.open("r+b") as file:
        file.seek(1000)
        file.write(b"noise")
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    import_to_tree(uri)
    assert sorted((cache / "layers").glob("*/*.sqsh")) == [before[0], before[2]]


def test_it_can_be_turned_off(push, import_to_tree, cache):
    """Without the layer cache nothing is kept but blobs, and the tree is the same."""
    uri = push(Image(layers()))
    streamed = import_to_tree(uri, environment={"ENROOT_SLURM_LAYER_CACHE": "no"})
    assert not (cache / "layers").exists()
    joined = import_to_tree(uri)
    assert (cache / "layers").exists()
    assert not diff_trees(streamed.tree, joined.tree, ignore_mtime_of=[b"", b".", b"etc"])


def test_blobs_may_go_when_layers_have_images(push, import_to_tree, registry, repository, cache):
    """With ``keep_blobs: no`` only the config's blob stays; other options, or a damaged layer, cost a download."""
    environment = {"ENROOT_SLURM_KEEP_BLOBS": "no"}
    uri = push(Image(layers()))
    first = import_to_tree(uri, environment=environment)
    assert len(list((cache / "blobs/sha256").iterdir())) == 1
    assert len(list(cache.glob("layers/*/*.sqsh"))) == 3
    registry.reset()
    again = import_to_tree(uri, environment=environment)
    assert registry.count("GET", f"/{repository}/blobs") == 0
    assert content(again.result) == content(first.result)
    # The images of layers are of no use for other options.
    other = {**environment, "ENROOT_SQUASH_OPTIONS": "-comp gzip"}
    assert import_to_tree(uri, environment=other).result.layers_fetched == 3
    assert registry.count("GET", f"/{repository}/blobs") == 3
    next(cache.glob("layers/*/*.json")).unlink()
    registry.reset()
    for options in (environment, other):
        import_to_tree(uri, environment=options)
    assert registry.count("GET", f"/{repository}/blobs") == 1
    assert len(list((cache / "blobs/sha256").iterdir())) == 1


def test_blobs_that_were_kept_go_as_well(push, import_to_tree, cache):
    """A blob of an earlier import goes when its layer gets an image."""
    uri = push(Image(layers()))
    import_to_tree(uri, environment={"ENROOT_SLURM_LAYER_CACHE": "no"})
    assert len(list((cache / "blobs/sha256").iterdir())) == 4
    import_to_tree(uri, environment={"ENROOT_SLURM_KEEP_BLOBS": "no"})
    assert len(list((cache / "blobs/sha256").iterdir())) == 1
