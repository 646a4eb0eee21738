"""Which images an image is joined from: those of its layers, or the highest stack that is there."""

from __future__ import annotations

import hashlib
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

from enroot_slurm.cache.directory import CacheDirectory, SharedCache
from enroot_slurm.cache.layers import CachedLayer, LayerStore
from enroot_slurm.cache.locks import Locks
from enroot_slurm.importing.layer_streams import Layer
from enroot_slurm.importing.parts import Part, parts_of, ready_stack
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import chain_ids
from enroot_slurm.oci.manifest import Descriptor

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = [
    Layer(Descriptor("", Digest.of(b"blob%d" % number), 10 + number), Digest.of(b"%d" % number)) for number in range(5)
]


@pytest.fixture
def store(tmp_path: Path) -> LayerStore:
    place = CacheDirectory(tmp_path)
    store = LayerStore(place, "recipe", Locks(place))
    store.prepare()
    return store


def put(image: CachedLayer) -> None:
    with ExitStack() as stack:
        image.publish(stack.enter_context(image.draft()), "0")
    assert image.ready


def put_stack(store: LayerStore, height: int) -> None:
    put(store.stack(chain_ids(layer.diff_id for layer in LAYERS)[height - 1]))


def heights(parts: list[Part]) -> list[int]:
    return [len(part.layers) for part in parts]


def test_chain_ids() -> None:
    """The lowest one is the diff_id; each further one hashes the one below it and the diff_id, with a space between."""
    ids = [Digest("sha256", "a" * 64), Digest("sha512", "b" * 128), Digest("sha256", "c" * 64)]
    second = hashlib.sha256(f"{ids[0]} {ids[1]}".encode()).hexdigest()
    third = hashlib.sha256(f"sha256:{second} {ids[2]}".encode()).hexdigest()
    assert list(map(str, chain_ids(ids))) == [str(ids[0]), f"sha256:{second}", f"sha256:{third}"]
    assert chain_ids([]) == []


def test_the_highest_stack_counts(store: LayerStore) -> None:
    """Without a stack each layer is a part; of several stacks the highest one is, with the layers above it."""
    assert heights(parts_of(LAYERS, store)) == [1] * 5
    for number, expected in ((2, [2, 1, 1, 1]), (4, [4, 1]), (3, [4, 1])):
        put_stack(store, number)
        assert heights(parts_of(LAYERS, store)) == expected
        assert ready_stack(LAYERS, store, 1) == expected[0]
    assert ready_stack(LAYERS, store, 5) == 0
    (stack, top) = parts_of(LAYERS, store)
    assert (stack.is_stack, stack.size, stack.layers) == (True, 10 + 11 + 12 + 13, tuple(LAYERS[:4]))
    assert (top.is_stack, top.size, top.layers) == (False, 14, (LAYERS[4],))
    assert [part.ready for part in (stack, top)] == [True, False]


def test_a_stack_that_is_needed_may_be_missing(store: LayerStore) -> None:
    """It is a part that has to be made, unless a higher one is there."""
    put_stack(store, 2)
    assert heights(parts_of(LAYERS, store, 3)) == [3, 1, 1]
    assert not parts_of(LAYERS, store, 3)[0].ready
    put_stack(store, 5)
    assert heights(parts_of(LAYERS, store, 3)) == [5]


def test_layers_that_all_have_images_need_no_stack(store: LayerStore) -> None:
    """Then nobody looks for one, so that a usual image costs nothing more."""
    put_stack(store, 2)
    for layer in LAYERS:
        put(store.layer(layer.diff_id))
    assert heights(parts_of(LAYERS, store)) == [1] * 5


def test_neither_passes_for_the_other(store: LayerStore) -> None:
    """A layer whose diff_id is said to be a stack's ChainID is not there, and the other way round."""
    chain = chain_ids(layer.diff_id for layer in LAYERS)[1]
    put_stack(store, 2)
    assert not store.layer(chain).ready
    put(store.layer(LAYERS[0].diff_id))
    assert not store.stack(LAYERS[0].diff_id).ready
    assert store.stack(chain).name == f"stack {chain}"
    assert store.layer(chain).name == f"layer {chain}"


def test_a_stack_of_the_site(store: LayerStore, tmp_path: Path) -> None:
    """One in a cache that this process only reads counts as well, until it is found to be damaged."""
    put_stack(store, 2)
    site = SharedCache(tmp_path, {0, os.geteuid()})
    place = CacheDirectory(tmp_path / "own")
    own = LayerStore(place, "recipe", Locks(place), shared=site)
    stack = parts_of(LAYERS, own)[0]
    assert (stack.is_stack, stack.ready, stack.image.shared) == (True, True, site)
    stack.image.discard()
    assert heights(parts_of(LAYERS, own)) == [1] * 5
    assert not (tmp_path / "own").exists()
    assert parts_of(LAYERS, store)[0].ready


def test_of_one_layer_there_is_no_stack(store: LayerStore) -> None:
    """The lowest layer alone is a layer."""
    assert heights(parts_of(LAYERS[:1], store)) == [1]
    assert parts_of([], store) == []
