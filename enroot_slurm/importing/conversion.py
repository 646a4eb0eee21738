"""Layers to one squashfs image: streamed into it, or each to an image of its own, and these joined.

Downloading, decoding and hashing, merging and squashing overlap: a layer is converted while it arrives.  Nothing is
published that is not verified to its last byte: blobs against their digests, layers against their diff_ids.
"""

from __future__ import annotations

import contextlib
import time
from functools import partial
from itertools import zip_longest
from typing import TYPE_CHECKING

from enroot_slurm.cache.blobs import CachedBlobDamaged
from enroot_slurm.cache.crew import Crew
from enroot_slurm.cache.directory import unwritable
from enroot_slurm.errors import IntegrityError, StorageError
from enroot_slurm.importing.layer_streams import LayerStreams
from enroot_slurm.importing.workload import Workload
from enroot_slurm.progress import count_text
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.rootfs.merge import LinkAcrossLayers, Merge
from enroot_slurm.rootfs.stack import NeedsPlan
from enroot_slurm.squashfs.format.superblock import CannotJoin, unwritten
from enroot_slurm.squashfs.joining.join import join_layers
from enroot_slurm.squashfs.writing.workshop import Workshop
from enroot_slurm.system.checksum import Checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from enroot_slurm.cache.blobs import BlobStore
    from enroot_slurm.cache.fetch import ReadBlob
    from enroot_slurm.cache.layers import CachedLayer
    from enroot_slurm.importing.layer_streams import Layer
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config
    from enroot_slurm.system.publish import Draft

__all__ = ["Conversion"]

_MAX_REPAIRS = 3  # times that damaged blobs in the cache are fetched again
_PARTING = 10.0  # seconds for conversions that are told to stop
_NO_RC = RcLayer((), ())


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
        self.fetched: set[Digest] = set()
        """The layers that were downloaded."""

    def run(self, image: Draft, checksum: Checksum | None = None) -> None:
        """Write *image*; *checksum* becomes the file's.

        Raises: IntegrityError, NetworkError, StorageError, ConversionError and what else the download raises.
        """
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
                pass  # such a layer has no image of its own
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
                    merge = Merge(writer, self._rc, self._created, limit=self._config.max_unpacked, implied=0)
                    reads = [partial(streams.archive, layer, stack) for layer in reversed(self._layers)]
                    for layer, read in zip(reversed(self._layers), _one_ahead(reads), strict=True):
                        began = time.monotonic()
                        merge.add_layer(read, planned=planned)
                        workload.made(layer.descriptor.digest, began)
                    merge.finish()
                    inodes = merge.inodes
                    del merge  # its names take as much memory as the tables that follow
                    writer.finish(inodes)

            try:
                _as_needed(write)
            except OSError as error:
                raise unwritten(image.path, error) from None
            self._tell(workshop.hint)

    def _link(self, image: Draft, checksum: Checksum | None) -> None:
        """Make an image of each layer that has none, and join them to *image*.

        Raises: CannotJoin, LinkAcrossLayers.
        """
        options = self._config.squash_options
        store = self._store.layers(options.for_layers.recipe)
        cached = {layer.diff_id: store.layer(layer.diff_id, layer.descriptor.size) for layer in self._layers}
        missing = {layer.diff_id: layer for layer in self._layers if not cached[layer.diff_id].ready}
        joined = sum(layer.descriptor.size for layer in self._layers)
        workload = Workload(self._progress, _sizes(missing.values()), joined)
        if missing:
            try:
                store.prepare()
            except OSError as error:
                raise unwritable(self._config.cache_path, error) from None
            biggest_first = sorted(missing.values(), key=lambda layer: -layer.descriptor.size)
            with self._workshop() as workshop, self._sources(biggest_first, workload) as streams:
                tasks = [cached[layer.diff_id] for layer in biggest_first]
                self._make(workshop, streams, workload, missing, tasks)
                self._tell(workshop.hint)
        self._progress.phase(f"joining {count_text(len(self._layers), 'layer')}")
        try:
            join_layers(
                image,
                [cached[layer.diff_id].path for layer in reversed(self._layers)],
                self._rc.directories,
                self._rc.files,
                now=self._created,
                time=options.files_time(self._epoch),
                image_time=options.image_time(self._epoch),
                copied=workload.copied,
                checksum=checksum,
            )
            workload.copied(1, 1)
        except CannotJoin:
            # One of them is to blame, or the image: then others' layers stay.
            for each in cached.values():
                if not each.is_sound:
                    each.discard()
            raise

    def _make(
        self,
        workshop: Workshop,
        streams: LayerStreams,
        workload: Workload,
        layers: dict[Digest, Layer],
        missing: list[CachedLayer],
    ) -> None:
        """Make the images of the *missing* layers."""
        size = min(self._config.max_processors, len(missing))

        def attempt(cached: CachedLayer) -> bool:
            try:
                with cached.lock.attempt() as held:
                    digest, began = layers[cached.diff_id].descriptor.digest, time.monotonic()
                    if cached.ready:
                        workload.made(digest, 0)
                        done(cached)
                        return True
                    if not held:
                        return False
                    with cached.draft() as file:
                        sums: list[Checksum] = []
                        _as_needed(lambda planned: sums.append(make(cached, file, planned=planned)))
                        cached.publish(file, sums[-1].hexdigest())
                    workload.made(digest, began)
                    done(cached)
            except OSError as error:
                raise unwritable(self._config.cache_path, error) from None
            return True

        def done(cached: CachedLayer) -> None:
            if not self._config.keep_blobs:
                streams.drop(layers[cached.diff_id])

        def make(cached: CachedLayer, file: Draft, *, planned: bool) -> Checksum:
            checksum = Checksum()
            with workshop.layer(file, checksum) as (writer, stack):
                merge = Merge(writer, _NO_RC, 0, limit=self._config.max_unpacked, markers=True)
                merge.add_layer(partial(streams.archive, layers[cached.diff_id], stack), planned=planned)
                merge.finish()
                inodes = merge.inodes
                del merge  # its names take as much memory as the tables that follow
                writer.finish(inodes)
            return checksum

        def failed(error: BaseException) -> None:
            streams.fail(error)
            workshop.kill()

        timeout = self._config.lock_timeout
        with Crew(missing, attempt, size=size, lock_timeout=timeout, failed=failed, parting=_PARTING) as crew:
            crew.wait()

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


def _one_ahead(reads: Sequence[Callable[[], Iterator[bytes]]]) -> Iterator[Callable[[], Iterator[bytes]]]:
    """Yield *reads*, each when the next one has begun, so that decoding does not pause between layers."""
    archive = reads[0]() if reads else iter(())
    for read, following in zip_longest(reads, reads[1:]):
        begun, archive = [archive], following() if following else iter(())
        yield partial(_begun_or_new, begun, read)


def _begun_or_new(begun: list[Iterator[bytes]], read: Callable[[], Iterator[bytes]]) -> Iterator[bytes]:
    return begun.pop() if begun else read()


def _as_needed(write: Callable[..., None]) -> None:
    """Call *write* without planning, and with it where that is needed."""
    try:
        write(planned=False)
    except NeedsPlan:
        write(planned=True)
