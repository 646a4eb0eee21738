"""The layers of an image as tar archives: fetched, decoded and verified while they are read."""

from __future__ import annotations

import hashlib
import threading
from typing import TYPE_CHECKING, NamedTuple, Self

from enroot_slurm.cache.fetch import Fetch
from enroot_slurm.errors import IntegrityError
from enroot_slurm.rootfs.merge import too_large
from enroot_slurm.rootfs.read_ahead import prefetch
from enroot_slurm.system.arenas import trim_arenas
from enroot_slurm.tar.compression import decompress

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType

    from enroot_slurm.cache.blobs import BlobStore
    from enroot_slurm.cache.fetch import ReadBlob
    from enroot_slurm.importing.workload import Workload
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Descriptor
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config

__all__ = ["Layer", "LayerStreams"]

_TRIM = 32 << 20  # bytes that are read between two trims of the memory


class Layer(NamedTuple):
    """A layer of an image: where its blob is, and the digest of what is in it."""

    descriptor: Descriptor
    diff_id: Digest


class LayerStreams:
    """The archives of *layers*, as a context manager; the first one is wanted first.

    What is not in the cache is fetched in the background.  Threads may read different layers at once.
    """

    def __init__(
        self,
        layers: Sequence[Layer],
        store: BlobStore,
        download: ReadBlob,
        config: Config,
        progress: Progress,
        workload: Workload,
    ) -> None:
        self._gzip_program = config.gzip_program
        self._limit = config.max_unpacked
        self._sizes: dict[Digest, int] = {}
        self._progress = progress
        self._workload = workload
        self._lock = threading.Lock()
        self._read = self._trimmed = 0
        # The same layer may be in an image twice; it is one blob.
        self._blobs = {layer.descriptor.digest: store.blob(layer.descriptor) for layer in layers}
        self._missing = [blob for blob in self._blobs.values() if not blob.reused]
        progress.expect(sum(blob.descriptor.size for blob in self._missing))
        self._fetch = Fetch(
            self._missing,
            download,
            connections=config.max_connections,
            lock_timeout=config.lock_timeout,
            received=progress.received,
        )

    @property
    def fetched(self) -> set[Digest]:
        """The digests of the blobs that this process has downloaded."""
        return {blob.descriptor.digest for blob in self._missing if not blob.reused}

    def archive(self, layer: Layer, stack: contextlib.ExitStack) -> Iterator[bytes]:
        """The tar archive of *layer*, from its start; *stack* closes it, whatever happens.

        Decoding and hashing begin at once, each in a thread, and stay a few pieces ahead.  Who reads to the end has
        read what the layer's diff_id says.  Raises: IntegrityError (UnsupportedImage for too many bytes),
        ConversionError, and what the download raises.
        """
        digest = layer.descriptor.digest
        received = self._workload.reading(digest, self._blobs[digest].chunks())
        decoded = prefetch(decompress(received, self._gzip_program, self._progress.warn))
        chunks = prefetch(_verified(decoded, layer.diff_id))
        stack.callback(chunks.close)
        return self._counted(layer, chunks)

    def _counted(self, layer: Layer, chunks: Iterable[bytes]) -> Iterator[bytes]:
        size = 0
        for chunk in chunks:
            size += len(chunk)
            with self._lock:
                self._read += len(chunk)
                self._progress.converted(self._read)
                # A layer may be read twice, but counts once.
                self._sizes[layer.diff_id] = max(size, self._sizes.get(layer.diff_id, 0))
                too_much = sum(self._sizes.values()) > self._limit
                trim = self._read - self._trimmed >= _TRIM
                if trim:
                    self._trimmed = self._read
            if too_much:
                raise too_large(self._limit)
            if trim:
                trim_arenas()
            yield chunk

    def drop(self, layer: Layer) -> None:
        """Don't keep the blob of *layer*, which has been read."""
        self._blobs[layer.descriptor.digest].drop()

    def finish(self) -> None:
        """Wait until all blobs are in the cache.  Raises: the first error of any of them."""
        self._fetch.wait()

    def blame(self) -> None:
        """Find the blob that a damaged archive comes from.  Raises: the error to tell instead, if there is one."""
        self._fetch.wait()
        for blob in self._blobs.values():
            blob.verify()

    def fail(self, error: BaseException) -> None:
        """End all reading with *error*."""
        self._fetch.fail(error)

    def __enter__(self) -> Self:
        self._fetch.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._fetch.__exit__(kind, error, trace)


def _verified(chunks: Iterator[bytes], diff_id: Digest) -> Iterator[bytes]:
    """Yield *chunks*; raise IntegrityError at their end when they are not what *diff_id* says."""
    hasher = hashlib.new(diff_id.algorithm)
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk
    if hasher.hexdigest() != diff_id.hex:
        raise IntegrityError(
            f"a layer is not what the image config says: {diff_id.algorithm}:{hasher.hexdigest()}, not {diff_id}",
            hint="The image was built or changed by a faulty tool; other tools refuse it too.",
        )
