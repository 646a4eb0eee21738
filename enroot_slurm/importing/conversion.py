"""Layers to one squashfs image: streamed into it, or each to an image of its own, and these joined.

Downloading, decoding and hashing, merging and squashing overlap: a layer is converted while it arrives.  Nothing is
published that is not verified to its last byte: blobs against their digests, layers against their diff_ids.
"""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING

from enroot_slurm.cache.blobs import CachedBlobDamaged
from enroot_slurm.cache.crew import Crew
from enroot_slurm.cache.directory import unwritable
from enroot_slurm.errors import IntegrityError, StorageError
from enroot_slurm.importing.layer_merge import as_needed, merge_layers
from enroot_slurm.importing.layer_streams import LayerStreams
from enroot_slurm.importing.part_maker import PartMaker
from enroot_slurm.importing.parts import parts_of
from enroot_slurm.importing.workload import Workload
from enroot_slurm.progress import count_text
from enroot_slurm.rootfs.merge import LinkAcrossLayers, Merge
from enroot_slurm.squashfs.format.superblock import CannotJoin, unwritten
from enroot_slurm.squashfs.joining.join import join_layers
from enroot_slurm.squashfs.writing.workshop import Workshop
from enroot_slurm.system.arenas import limit_arenas

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from enroot_slurm.cache.blobs import BlobStore
    from enroot_slurm.cache.fetch import ReadBlob
    from enroot_slurm.cache.layers import LayerStore
    from enroot_slurm.importing.layer_streams import Layer
    from enroot_slurm.importing.parts import Part
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.progress import Progress
    from enroot_slurm.rootfs.entrypoint import RcLayer
    from enroot_slurm.settings.config import Config
    from enroot_slurm.system.checksum import Checksum
    from enroot_slurm.system.publish import Draft

__all__ = ["Conversion"]

_MAX_REPAIRS = 3  # times that damaged blobs in the cache are fetched again
_PARTING = 10.0  # seconds for conversions that are told to stop


class Conversion:
    """The conversion of *layers*, the lowest first, below the files of *rc*.

    *created* is the time, in seconds, of *rc*'s files, and of all that no layer gives a time.  *epoch*, if
    there is one, is the time of the image and of all in it.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        rc: RcLayer,
        created: int,
        *,
        epoch: int | None,
        config: Config,
        store: BlobStore,
        download: ReadBlob,
        progress: Progress,
    ) -> None:
        self._layers = layers
        self._rc = rc
        self._created = created
        self._config = config
        self._store = store
        self._download = download
        self._progress = progress
        self._epoch = epoch
        self._stacked = 0  # how many of the lowest layers have to be converted together, as far as is known
        self.fetched: set[Digest] = set()
        """The layers that were downloaded."""

    def run(self, image: Draft, checksum: Checksum | None = None) -> None:
        """Write *image*; *checksum* becomes the file's.

        Raises: IntegrityError, NetworkError, StorageError, ConversionError and what else the download raises.
        """
        limit_arenas()
        for _ in range(_MAX_REPAIRS):
            try:
                self._run(image, checksum)
            except CachedBlobDamaged as error:
                self._progress.warn(f"{error}; it is fetched again")
            else:
                return
        raise StorageError(
            "blobs in the cache are damaged again and again",
            hint=f"Check the file system of {self._config.cache_path}, or set ENROOT_CACHE_PATH to another one.",
        )

    def _run(self, image: Draft, checksum: Checksum | None) -> None:
        if self._config.layer_cache and self._layers:
            try:
                self._link(image, checksum)
            except LinkAcrossLayers:
                pass  # the link leads nowhere; it may be in nobody's way, where an upper layer hides it
            except CannotJoin as error:
                self._progress.warn(f"{error}; the layers are converted together instead")
            else:
                return
        self._stream(image, checksum)

    def _stream(self, image: Draft, checksum: Checksum | None) -> None:
        """Write all layers into *image* at once."""
        workload = Workload(self._progress, _sizes(self._layers))
        with self._workshop() as workshop, self._sources(self._layers[::-1], workload) as streams:

            def write(*, planned: bool) -> None:
                with workshop.image(image, checksum) as (writer, stack):
                    reads = [(layer, partial(streams.archive, layer, stack)) for layer in reversed(self._layers)]
                    begin = partial(Merge, rc=self._rc, now=self._created, limit=self._config.max_unpacked, implied=0)
                    merge_layers(writer, begin, reads, workload, planned=planned)

            try:
                as_needed(write)
            except OSError as error:
                raise unwritten(image.path, error) from None
            self._tell(workshop.hint)

    def _link(self, image: Draft, checksum: Checksum | None) -> None:
        """Join *image* from images of its layers; those that are not there are made.

        Raises: CannotJoin; LinkAcrossLayers, for a link to what no lower layer has.
        """
        options = self._config.squash_options
        store = self._store.layers(options.for_layers.recipe)
        parts = parts_of(self._layers, store, self._stacked)
        workload = Workload(self._progress, {}, sum(layer.descriptor.size for layer in self._layers))
        if not all(part.ready for part in parts):
            parts = self._made(store, parts, workload)
        self._progress.phase(f"joining {count_text(len(self._layers), 'layer')}")
        try:
            join_layers(
                image,
                [part.image.path for part in reversed(parts)],
                self._rc.directories,
                self._rc.files,
                now=self._created,
                time=options.files_time(self._epoch),
                image_time=options.image_time(self._epoch),
                copied=workload.copied,
                checksum=checksum,
            )
            workload.finish()
        except CannotJoin:
            # One of them is to blame, or the image: then others' layers stay.
            for part in parts:
                if not part.image.is_sound:
                    part.image.discard()
            raise

    def _made(self, store: LayerStore, parts: list[Part], workload: Workload) -> list[Part]:
        """Make what is missing of *parts*; the parts, which are others if a layer turns out to need those below it."""
        try:
            store.prepare()
        except OSError as error:
            raise unwritable(self._config.cache_path, error) from None
        with self._workshop() as workshop:
            while True:
                stacked = self._stacked
                self._make(workshop, store, workload, [part for part in parts if not part.ready])
                if self._stacked == stacked:
                    break
                parts = parts_of(self._layers, store, self._stacked)
            self._tell(workshop.hint)
        if not self._config.keep_blobs:
            for layer in self._layers:
                self._store.blob(layer.descriptor).drop()
        return parts

    def _make(self, workshop: Workshop, store: LayerStore, workload: Workload, missing: list[Part]) -> None:
        """Make the images of *missing* parts, but of layers that turn out to be in a stack: these say how high it is.

        Raises: LinkAcrossLayers, for one that leads out of a stack.
        """
        tasks = sorted({part.image.digest: part for part in missing}.values(), key=lambda part: -part.size)
        layers = [layer for part in tasks for layer in reversed(part.layers)]
        workload.add(_sizes(layers))
        with self._sources(layers, workload) as streams:
            maker = PartMaker(
                self._layers,
                self._stacked,
                store=store,
                workshop=workshop,
                streams=streams,
                workload=workload,
                config=self._config,
            )

            def failed(error: BaseException) -> None:
                streams.fail(error)
                workshop.kill()

            size, timeout = self._config.max_processors, self._config.lock_timeout
            with Crew(tasks, maker.attempt, size=size, lock_timeout=timeout, failed=failed, parting=_PARTING) as crew:
                crew.wait()
        self._stacked = maker.height

    @contextlib.contextmanager
    def _sources(self, layers: Sequence[Layer], workload: Workload) -> Iterator[LayerStreams]:
        """The streams of *layers*, all of which are in the cache at the end."""
        streams = LayerStreams(layers, self._store, self._download, self._config, self._progress, workload)
        try:
            with streams:
                try:
                    yield streams
                except LinkAcrossLayers:
                    raise
                except IntegrityError:
                    streams.blame()  # a wrong blob makes for damaged archives
                    raise
                streams.finish()
        finally:
            self.fetched |= streams.fetched

    def _tell(self, hint: str) -> None:
        if hint:
            self._progress.hint(hint)

    def _workshop(self) -> Workshop:
        config = self._config
        return Workshop(config.squash_options, config.max_processors, now=self._created, epoch=self._epoch)


def _sizes(layers: Iterable[Layer]) -> dict[Digest, int]:
    """The sizes of the blobs of *layers*, in bytes."""
    return {layer.descriptor.digest: layer.descriptor.size for layer in layers}
