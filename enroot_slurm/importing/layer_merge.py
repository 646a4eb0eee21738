"""Layers merged into one image while they are read; decoding does not pause between them."""

from __future__ import annotations

import time
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from enroot_slurm.rootfs.stack import NeedsPlan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enroot_slurm.importing.layer_streams import Layer
    from enroot_slurm.importing.workload import Workload
    from enroot_slurm.rootfs.merge import Merge
    from enroot_slurm.squashfs.writing.writer import ImageWriter

    Read = Callable[[], Iterator[bytes]]

__all__ = ["as_needed", "merge_layers"]


def merge_layers(
    writer: ImageWriter,
    begin: Callable[[ImageWriter], Merge],
    reads: Sequence[tuple[Layer, Read]],
    workload: Workload,
    *,
    planned: bool,
) -> None:
    """Write the image of the layers in *reads*, the top one first; *begin* gives a new merge.

    Raises: what `Merge` and *reads* raise; NeedsPlan, unless *planned*.
    """
    merge = begin(writer)
    for (layer, _), read in zip(reads, _one_ahead([read for _, read in reads]), strict=True):
        began = time.monotonic()
        merge.add_layer(read, planned=planned)
        workload.made(layer.descriptor.digest, began)
    merge.finish()
    inodes = merge.inodes
    del merge  # its names take as much memory as the tables that follow
    writer.finish(inodes)


def as_needed(write: Callable[..., None]) -> None:
    """Call *write* without planning, and with it where that is needed."""
    try:
        write(planned=False)
    except NeedsPlan:
        write(planned=True)


def _one_ahead(reads: Sequence[Read]) -> Iterator[Read]:
    """Yield *reads*, each when the next one has begun, so that decoding does not pause between layers."""
    archive = reads[0]() if reads else iter(())
    for read, following in zip_longest(reads, reads[1:]):
        begun, archive = [archive], following() if following else iter(())
        yield partial(_begun_or_new, begun, read)


def _begun_or_new(begun: list[Iterator[bytes]], read: Read) -> Iterator[bytes]:
    return begun.pop() if begun else read()
