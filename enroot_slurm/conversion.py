"""Layers on their way from the registry, or the cache, to one squashfs image.

Downloading, decoding and hashing, merging and squashing overlap: a layer is converted while it arrives.  Nothing is
published that is not verified to its last byte: blobs against their digests, layers against their diff_ids.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from typing import TYPE_CHECKING

from enroot_slurm.cache.blobs import CachedBlobDamaged
from enroot_slurm.cache.fetch import Fetch
from enroot_slurm.errors import IntegrityError, StorageError
from enroot_slurm.rootfs.compression import decompress
from enroot_slurm.rootfs.merge import Merge
from enroot_slurm.rootfs.prefetch import prefetch
from enroot_slurm.rootfs.stack import NeedsPlan
from enroot_slurm.squashfs.mksquashfs import Mksquashfs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from enroot_slurm.cache.blobs import Blob, BlobStore
    from enroot_slurm.cache.fetch import Download
    from enroot_slurm.config import Config
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Descriptor
    from enroot_slurm.progress import Progress
    from enroot_slurm.rootfs.entrypoint import RcLayer

__all__ = ["Conversion"]

_MAX_REPAIRS = 3  # times that damaged blobs in the cache are fetched again


class Conversion:
    """The conversion of *layers*: descriptors with their diff_ids, the lowest first."""

    def __init__(
        self,
        layers: tuple[tuple[Descriptor, Digest], ...],
        rc: RcLayer,
        *,
        config: Config,
        store: BlobStore,
        download: Download,
        progress: Progress,
    ) -> None:
        self._layers = layers
        self._rc = rc
        self._config = config
        self._store = store
        self._download = download
        self._progress = progress
        self.fetched: set[Digest] = set()
        """The layers that were downloaded."""

    def run(self, image: Path) -> None:
        """Write *image*.

        Raises: IntegrityError, NetworkError, StorageError, ConversionError and what else the download raises.
        """
        for _ in range(_MAX_REPAIRS):
            try:
                self._run(image)
            except CachedBlobDamaged as error:
                self._progress.warn(f"{error}; it is fetched again")
            else:
                return
        raise StorageError(
            "blobs in the cache are damaged again and again",
            hint=f"Check the file system of {self._config.cache_path}, or set ENROOT_CACHE_PATH to another one.",
        )

    def _run(self, image: Path) -> None:
        # The same layer may be in an image twice; it is one blob.  The top layer is wanted first.
        blobs = {descriptor.digest: self._store.blob(descriptor) for descriptor, _ in reversed(self._layers)}
        missing = [blob for blob in blobs.values() if not blob.reused]
        self._progress.expect(sum(blob.descriptor.size for blob in missing))
        fetch = Fetch(
            missing,
            self._download,
            connections=self._config.max_connections,
            lock_timeout=self._config.lock_timeout,
            received=self._progress.received,
        )
        try:
            with fetch:
                try:
                    self._write(image, blobs)
                except IntegrityError:
                    # A wrong blob makes for damaged archives: if one is, that is the error to tell.
                    fetch.wait()
                    for blob in blobs.values():
                        blob.verify()
                    raise
                fetch.wait()
        finally:
            self.fetched.update(blob.descriptor.digest for blob in missing if not blob.reused)

    def _write(self, image: Path, blobs: Mapping[Digest, Blob]) -> None:
        try:
            self._squash(image, blobs, planned=False)
        except NeedsPlan:
            self._squash(image, blobs, planned=True)

    def _squash(self, image: Path, blobs: Mapping[Digest, Blob], *, planned: bool) -> None:
        options = self._config.squash_options
        epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
        with contextlib.ExitStack() as stack:
            mksquashfs = stack.enter_context(
                Mksquashfs(
                    image,
                    options,
                    processors=self._config.max_processors,
                    memory=self._config.squash_memory,
                    time=int(epoch) if options.time is None and epoch.isdecimal() else None,
                )
            )
            merge = Merge(mksquashfs.stdin, self._rc, int(time.time()))
            try:
                for descriptor, diff_id in reversed(self._layers):
                    merge.add_layer(self._reader(blobs[descriptor.digest], diff_id, merge, stack), planned=planned)
                merge.finish()
            except BrokenPipeError:
                raise mksquashfs.failure() from None
            mksquashfs.finish(merge.inodes)

    def _reader(
        self, blob: Blob, diff_id: Digest, merge: Merge, stack: contextlib.ExitStack
    ) -> Callable[[], Iterator[bytes]]:
        """What opens the tar archive of a layer; *stack* closes it, whatever happens."""

        def read() -> Iterator[bytes]:
            archive = prefetch(_verified(decompress(blob.chunks(), self._config.gzip_program), diff_id))
            stack.callback(archive.close)  # type: ignore[attr-defined]
            for chunk in archive:
                self._progress.converted(merge.written)
                yield chunk

        return read


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
