"""The images that an image is joined from: one of each layer, or of the lowest layers together and of each above them.

A layer with a hard link to a file of a lower one has no image of its own.  All layers from the lowest to the topmost
such one, the stack, are one image.  It is among the layers' images, by the ChainID of its topmost layer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.oci.image_config import chain_ids

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enroot_slurm.cache.layers import CachedLayer, LayerStore
    from enroot_slurm.cache.locks import Lock
    from enroot_slurm.importing.layer_streams import Layer

__all__ = ["Part", "parts_of", "ready_stack"]


class Part(NamedTuple):
    """An image of *layers*, the lowest first."""

    layers: tuple[Layer, ...]
    image: CachedLayer
    ready: bool
    """Whether the image was there when it was looked for."""

    @property
    def is_stack(self) -> bool:
        """Whether nothing is below it, so that its whiteouts have done their work."""
        return len(self.layers) > 1

    @property
    def size(self) -> int:
        """Bytes of the layers' blobs."""
        return sum(layer.descriptor.size for layer in self.layers)

    @property
    def name(self) -> str:
        """The part for people."""
        return self.image.name

    @property
    def lock(self) -> Lock:
        """The lock that is held by whoever makes it."""
        return self.image.lock


def parts_of(layers: Sequence[Layer], store: LayerStore, height: int = 0) -> list[Part]:
    """The parts of *layers*, the lowest first; at least the *height* lowest layers are a stack, if that is not 0.

    Which layers need a stack is not known before they are read.  But a stack that is there was needed.
    """
    parts = [_part((layer,), store.layer(layer.diff_id, layer.descriptor.size)) for layer in layers]
    if height or not all(part.ready for part in parts):
        height = max(height, ready_stack(layers, store, height + 1))
    if not height:
        return parts
    stack = tuple(layers[:height])
    size = sum(layer.descriptor.size for layer in stack)
    return [_part(stack, store.stack(chain_ids(layer.diff_id for layer in stack)[-1], size)), *parts[height:]]


def ready_stack(layers: Sequence[Layer], store: LayerStore, least: int) -> int:
    """Of how many of *layers* the highest stack is that has an image, if they are *least* or more; 0: there is none."""
    chain = chain_ids(layer.diff_id for layer in layers)
    for height in range(len(layers), max(least, 2) - 1, -1):
        if store.stack(chain[height - 1]).ready:
            return height
    return 0


def _part(layers: tuple[Layer, ...], image: CachedLayer) -> Part:
    return Part(layers, image, image.ready)
