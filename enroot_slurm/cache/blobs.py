"""Blobs by digest: fetched once on all processes, hashed while they stream in, published by rename.

    ROOT/blobs/sha256/HEX             as received
    ROOT/locks/blob-sha256-HEX.lock   held by the process that fetches the blob
    ROOT/tmp/                         incomplete downloads

Blobs of another cache, which is only read, count as well.

A `Blob` can be read while it still grows, so that layers are converted while they download.  A reader that comes to the
end has read exactly the bytes of the digest; otherwise it gets an error instead of the end.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
import time
from typing import TYPE_CHECKING

from enroot_slurm.cache.directory import unwritable
from enroot_slurm.cache.layers import LayerStore
from enroot_slurm.errors import IntegrityError
from enroot_slurm.system.publish import write_all

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory, SharedCache
    from enroot_slurm.cache.locks import Lock, Locks
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Descriptor

__all__ = ["Blob", "BlobStore", "CachedBlobDamaged", "blob_path"]

_READ = 1 << 18
_ABANDONED = 86400.0  # seconds without a write after which nobody writes a file any more


class CachedBlobDamaged(IntegrityError):
    """A blob in the cache is not what its name says; it is removed, and has to be fetched again."""


class BlobStore:
    """The blobs of the cache *place*, and of the cache directory *shared*, which others write, if one is given."""

    def __init__(self, place: CacheDirectory, locks: Locks, *, shared: SharedCache | None = None) -> None:
        self._place = place
        self._locks = locks
        self._shared = shared

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob that *descriptor* points to, whether or not it is here."""
        digest = descriptor.digest
        lock = self._locks.lock(f"blob-{digest.algorithm}-{digest.hex}", descriptor.size)
        return Blob(descriptor, self._place, lock, self._shared)

    def adopt(self, descriptor: Descriptor, path: Path) -> None:
        """Let the temporary file *path*, whose digest was verified, be the blob.  Raises: StorageError."""
        blob = self.blob(descriptor)
        try:
            if blob.reused or path.lstat().st_size != descriptor.size:
                path.unlink()
            else:
                path.chmod(self._place.mode)
                path.rename(self._place.directory("blobs", descriptor.digest.algorithm) / descriptor.digest.hex)
        except OSError as error:
            raise unwritable(self._place.root, error) from None

    def layers(self, recipe: str) -> LayerStore:
        """The images of single layers in the same caches; *recipe* is a text that holds all that shapes their bytes."""
        return LayerStore(self._place, recipe, self._locks, shared=self._shared)

    def prepare(self) -> None:
        """Make the directories, and remove what killed processes have left.  Raises: StorageError."""
        try:
            self._place.directory("blobs")
            self._place.closed_directory("tmp")
        except OSError as error:
            raise unwritable(self._place.root, error) from None
        for file in (self._place.root / "tmp").glob("*.*.*.*"):
            with contextlib.suppress(OSError):
                if time.time() - file.lstat().st_mtime > _ABANDONED:
                    file.unlink()


class Blob:
    """One blob of a cache, on its way or already there."""

    def __init__(
        self, descriptor: Descriptor, place: CacheDirectory, lock: Lock, shared: SharedCache | None = None
    ) -> None:
        self.descriptor = descriptor
        self.path = blob_path(place.root, descriptor.digest)
        """Where it is, or will be."""
        self.lock = lock
        self._place = place
        self._shared = shared
        self._temp: Path | None = None
        self._changed = threading.Condition()
        self._received = 0
        self._complete = False
        self._error: BaseException | None = None
        self._unwanted = False
        self.reused = self._is_cached()
        """Whether the blob was in the cache, or came there through another process."""

    @property
    def name(self) -> str:
        """The blob for people."""
        return f"blob {self.descriptor.digest}"

    def fetch(self, download: Callable[[Descriptor], Iterator[bytes]]) -> bool:
        """Bring the blob into the cache, with the bytes of *download* if need be; False if another process does so now.

        An error goes to whoever reads the blob, and is raised.
        """
        try:
            if self.reused:
                return True
            with self.lock.attempt() as held:
                if not held:
                    return False
                if self._is_cached():  # by another process, while we looked for the lock
                    self.reused = True
                else:
                    self._download(download)
            self._update(complete=True)
        except BaseException as error:
            if isinstance(error, OSError):
                error = unwritable(self.path.parent, error)
            self._update(error=error)
            raise error from None
        return True

    def fail(self, error: BaseException) -> None:
        """Tell the readers that the blob won't come."""
        self._update(error=error)

    def chunks(self) -> Iterator[bytes]:
        """Yield the content from the start, waiting for what has not arrived.

        Raises: CachedBlobDamaged; whatever `fetch` raised.
        """
        with self._opened() as fd:
            if not self.reused:
                yield from self._follow(fd)
                return
            hasher = self.descriptor.digest.hasher()
            size = 0
            while chunk := os.read(fd, _READ):
                hasher.update(chunk)
                size += len(chunk)
                yield chunk
            if size != self.descriptor.size or hasher.hexdigest() != self.descriptor.digest.hex:
                self.discard()
                raise CachedBlobDamaged(f"the cached blob {self.descriptor.digest} was damaged: {self.path}")

    def drop(self) -> None:
        """Don't keep the blob in the own cache: it has been read to its end, and nobody here needs it again."""
        with self._changed:
            self._unwanted = True  # it may still be without its name
            if self._temp is None and self.path == blob_path(self._place.root, self.descriptor.digest):
                with contextlib.suppress(OSError):
                    self.path.unlink()

    def verify(self) -> None:
        """Read a blob that was in the cache.  Raises: CachedBlobDamaged, when it is not what its digest says."""
        if self.reused and not self._unwanted:
            for _ in self.chunks():
                pass

    def discard(self) -> None:
        """Remove the blob from the cache, or let this process not use the other cache's one any more."""
        if self._shared is not None and self.path != blob_path(self._place.root, self.descriptor.digest):
            self._shared.unusable.add(self.path)
            return
        with contextlib.suppress(FileNotFoundError):
            self.path.unlink()

    def clean_up(self) -> None:
        """Remove what is left of an unfinished download."""
        if (temp := self._temp) is not None:
            with contextlib.suppress(OSError):
                temp.unlink()

    def _follow(self, fd: int) -> Iterator[bytes]:
        at = 0
        while True:
            with self._changed:
                while self._received <= at and not self._complete and self._error is None:
                    self._changed.wait()
                if self._error is not None:
                    raise self._error
                if self._complete and at == self._received:
                    return
                available = self._received - at
            chunk = os.read(fd, min(_READ, available))
            if not chunk:
                raise IntegrityError(f"the file of blob {self.descriptor.digest} was cut while it was read")
            at += len(chunk)
            yield chunk

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        with self._changed:
            while not (self.reused or self._complete or self._temp or self._error):
                self._changed.wait()
            if self._error is not None:
                raise self._error
            try:
                flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
                fd = os.open(self._temp or self.path, flags)
            except OSError as error:
                if self._shared is not None:
                    self._shared.unusable.add(self.path)
                raise CachedBlobDamaged(f"the cached blob {self.path} can't be read: {error.strerror}") from None
        try:
            yield fd
        finally:
            os.close(fd)

    def _download(self, download: Callable[[Descriptor], Iterator[bytes]]) -> None:
        digest, size = self.descriptor.digest, self.descriptor.size
        hasher = digest.hasher()
        temp = self._place.root / "tmp" / f"{digest.hex[:16]}.{self._place.unique()}"
        with self._changed:
            if self._error is not None:  # nobody wants the blob any more, and nobody would remove the file
                raise self._error
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._temp = temp
            self._changed.notify_all()
        try:
            with os.fdopen(fd, "wb", buffering=0):
                for chunk in download(self.descriptor):
                    hasher.update(chunk)
                    write_all(fd, chunk)
                    self._update(received=len(chunk))
                if self._received != size or hasher.hexdigest() != digest.hex:
                    raise IntegrityError(
                        f"blob {digest} has another content in the registry: {self._received} bytes, "
                        f"{digest.algorithm}:{hasher.hexdigest()}",
                        hint="The registry, or a proxy on the way, is at fault. Nothing was kept.",
                    )
                self._update(complete=True)  # readers need not wait for the disk
                os.fchmod(fd, self._place.mode)  # not synced: whoever reads it compares its digest
            self._place.directory("blobs", digest.algorithm)
            with self._changed:
                # Somebody may have been faster: locks do nothing, or we were left behind.
                if self._unwanted or self._has_size(self.path):
                    temp.unlink()
                else:
                    temp.rename(self.path)
                self._temp = None
        finally:
            self.clean_up()

    def _is_cached(self) -> bool:
        """Whether a file of the right size is there.

        One of another size stays until the right one replaces it: the manifest, a stranger's, may be what is wrong.
        """
        if self._shared is not None:
            shared = blob_path(self._shared.root, self.descriptor.digest)
            # Nothing else is asked of it: what it holds is hashed when it is read.
            if shared not in self._shared.unusable and self._has_size(shared):
                self.path = shared
                return True
        return self._has_size(self.path)

    def _has_size(self, path: Path) -> bool:
        """Whether *path* is a regular file of the blob's size."""
        try:
            status = path.lstat()
        except OSError:
            return False
        return stat.S_ISREG(status.st_mode) and status.st_size == self.descriptor.size

    def _update(self, *, received: int = 0, complete: bool = False, error: BaseException | None = None) -> None:
        with self._changed:
            self._received += received
            self._complete = self._complete or complete
            self._error = self._error or error
            self._changed.notify_all()


def blob_path(root: Path, digest: Digest) -> Path:
    """Where the cache *root* has the blob *digest*."""
    return root / "blobs" / digest.algorithm / digest.hex
