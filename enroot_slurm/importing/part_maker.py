"""The making of images of layers, in several threads, beside other processes that make the same ones.

Which layers have links into lower layers turns out on the way.  They, and all below the topmost of them, are given up:
they are to be made as one.  Layers above it go on.
"""

from __future__ import annotations

import threading
from functools import partial
from typing import TYPE_CHECKING

from enroot_slurm.cache.directory import unwritable
from enroot_slurm.importing.layer_merge import as_needed, merge_layers
from enroot_slurm.importing.parts import ready_stack
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.rootfs.merge import LinkAcrossLayers, Merge
from enroot_slurm.system.checksum import Checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enroot_slurm.cache.layers import LayerStore
    from enroot_slurm.importing.layer_streams import Layer, LayerStreams
    from enroot_slurm.importing.parts import Part
    from enroot_slurm.importing.workload import Workload
    from enroot_slurm.settings.config import Config
    from enroot_slurm.squashfs.writing.workshop import Workshop
    from enroot_slurm.system.publish import Draft

__all__ = ["PartMaker"]

_NO_RC = RcLayer((), ())


class PartMaker:
    """Makes parts of an image of *layers*, whose lowest *height* ones are known to be a stack.

    Safe for several threads.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        height: int,
        *,
        store: LayerStore,
        workshop: Workshop,
        streams: LayerStreams,
        workload: Workload,
        config: Config,
    ) -> None:
        self._layers = layers
        self.height = height
        """How many of the lowest layers have to be a stack, as far as is known now."""
        self._lock = threading.Lock()
        self._tops = {layer.diff_id: number for number, layer in enumerate(layers, 1)}
        self._store = store
        self._workshop = workshop
        self._streams = streams
        self._workload = workload
        self._config = config

    def attempt(self, part: Part) -> bool:
        """Make the image of *part*, unless it is or becomes a part of a stack; False if another process makes it now.

        Raises: LinkAcrossLayers, for a link to what no lower layer has; what else a conversion raises.
        """
        try:
            done = self._is_stacked(part) or self._make(part)
        except _InStackError:
            return True
        except LinkAcrossLayers:
            if part.is_stack or self._top(part) == 1:  # there is no lower layer
                raise
            self._stack(self._top(part))
            return True
        except OSError as error:
            raise unwritable(self._config.cache_path, error) from None
        if done and not (self._config.keep_blobs or part.is_stack or self._is_stacked(part)):
            self._streams.drop(part.layers[0])
        return done

    def _make(self, part: Part) -> bool:
        """The same.  Raises: _InStackError, if it is to be in a stack; OSError."""
        with part.lock.attempt() as held:
            if part.image.ready:
                for layer in part.layers:
                    self._workload.made(layer.descriptor.digest, 0)
            elif held:
                with part.image.draft() as file:
                    sums: list[Checksum] = []
                    as_needed(lambda planned: sums.append(self._write(part, file, planned=planned)))
                    part.image.publish(file, sums[-1].hexdigest())
            else:
                if not part.is_stack:  # the other process may have made it a part of a stack meanwhile
                    self._stack(ready_stack(self._layers, self._store, self._top(part)))
                return self._is_stacked(part)
        return True

    def _write(self, part: Part, file: Draft, *, planned: bool) -> Checksum:
        checksum = Checksum()
        begin = partial(Merge, rc=_NO_RC, now=0, limit=self._config.max_unpacked, markers=not part.is_stack)
        with self._workshop.layer(file, checksum) as (writer, stack):

            def read(layer: Layer) -> Iterator[bytes]:
                return _while_alone(self._streams.archive(layer, stack), lambda: self._is_stacked(part))

            reads = [(layer, partial(read, layer)) for layer in reversed(part.layers)]
            merge_layers(writer, begin, reads, self._workload, planned=planned)
        return checksum

    def _stack(self, height: int) -> None:
        with self._lock:
            self.height = max(self.height, height)

    def _is_stacked(self, part: Part) -> bool:
        """Whether *part* is one layer that has to be in a stack."""
        return not part.is_stack and self._top(part) <= self.height

    def _top(self, part: Part) -> int:
        """The number of its layer, from 1 on: of the topmost one, if it is in the image several times."""
        return self._tops[part.layers[-1].diff_id]


class _InStackError(Exception):
    """It turned out that a layer has to be in a stack, while it was made alone."""


def _while_alone(archive: Iterator[bytes], is_stacked: Callable[[], bool]) -> Iterator[bytes]:
    for chunk in archive:
        if is_stacked():
            raise _InStackError
        yield chunk
