"""Blobs by digest: fetched once on all processes, hashed while they stream in, published by rename.

    ROOT/blobs/sha256/HEX             as received
    ROOT/locks/blob-sha256-HEX.lock   who fetches
    ROOT/tmp/                         what is not complete yet

A `Blob` can be read while it still grows, so that layers are converted while they download.  Who reads it to the end
has read exactly the bytes of the digest, or got an error instead of the end.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import stat
import threading
import time
from typing import TYPE_CHECKING

from enroot_slurm.cache import locks
from enroot_slurm.errors import IntegrityError, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from enroot_slurm.oci.manifest import Descriptor

__all__ = ["Blob", "BlobStore", "CachedBlobDamaged"]

_READ = 1 << 18
_ABANDONED = 86400.0  # seconds without a write after which nobody writes a file any more


class CachedBlobDamaged(IntegrityError):
    """A blob in the cache is not what its name says; it is removed, and has to be fetched again."""


class BlobStore:
    """The blobs below *root*, a cache directory."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def blob(self, descriptor: Descriptor) -> Blob:
        """The blob that *descriptor* points to, whether or not it is here."""
        digest = descriptor.digest
        path = self._root / "blobs" / digest.algorithm / digest.hex
        lock = self._root / "locks" / f"blob-{digest.algorithm}-{digest.hex}.lock"
        return Blob(descriptor, path, lock, self._root / "tmp")

    def prepare(self) -> None:
        """Make the directories, and remove what killed processes have left.  Raises: StorageError."""
        try:
            for name in ("blobs", "locks", "tmp"):
                (self._root / name).mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise unwritable(self._root, error) from None
        for file in (self._root / "tmp").glob("*.*.*.*"):
            with contextlib.suppress(OSError):
                if time.time() - file.lstat().st_mtime > _ABANDONED:
                    file.unlink()


class Blob:
    """One blob of a cache, on its way or already there."""

    def __init__(self, descriptor: Descriptor, path: Path, lock: Path, temp: Path) -> None:
        self.descriptor = descriptor
        self.path = path
        self.lock = lock
        self._temp_directory = temp
        self._temp: Path | None = None
        self._changed = threading.Condition()
        self._received = 0
        self._complete = False
        self._error: BaseException | None = None
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
            with locks.attempt(self.lock) as held:
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

    def verify(self) -> None:
        """Read a blob that was in the cache.  Raises: CachedBlobDamaged, when it is not what its digest says."""
        if self.reused:
            for _ in self.chunks():
                pass

    def discard(self) -> None:
        """Remove the blob from the cache."""
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
                raise CachedBlobDamaged(f"the cached blob {self.path} can't be read: {error.strerror}") from None
        try:
            yield fd
        finally:
            os.close(fd)

    def _download(self, download: Callable[[Descriptor], Iterator[bytes]]) -> None:
        digest, size = self.descriptor.digest, self.descriptor.size
        hasher = digest.hasher()
        # Unique over all nodes that share the directory: process ids are not.
        temp = self._temp_directory / f"{digest.hex[:16]}.{os.uname().nodename}.{os.getpid()}.{secrets.token_hex(4)}"
        with self._changed:
            if self._error is not None:  # nobody wants the blob any more, and nobody would remove the file
                raise self._error
            fd = os.open(temp, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._temp = temp
            self._changed.notify_all()
        try:
            with os.fdopen(fd, "wb", buffering=0) as file:
                for chunk in download(self.descriptor):
                    hasher.update(chunk)
                    _write(fd, chunk)
                    self._update(received=len(chunk))
                if self._received != size or hasher.hexdigest() != digest.hex:
                    raise IntegrityError(
                        f"blob {digest} has another content in the registry: {self._received} bytes, "
                        f"{digest.algorithm}:{hasher.hexdigest()}",
                        hint="The registry, or a proxy on the way, is at fault. Nothing was kept.",
                    )
                self._update(complete=True)  # readers need not wait for the disk
                os.fsync(file.fileno())
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            with self._changed:
                temp.rename(self.path)
                self._temp = None
            _fsync_directory(self.path.parent)
        finally:
            self.clean_up()

    def _is_cached(self) -> bool:
        """Whether a file of the right size is there; any other is removed."""
        try:
            status = self.path.lstat()
        except OSError:
            return False
        if stat.S_ISREG(status.st_mode) and status.st_size == self.descriptor.size:
            return True
        with contextlib.suppress(OSError):
            self.path.unlink()
        return False

    def _update(self, *, received: int = 0, complete: bool = False, error: BaseException | None = None) -> None:
        with self._changed:
            self._received += received
            self._complete = self._complete or complete
            self._error = self._error or error
            self._changed.notify_all()


def unwritable(path: Path, error: OSError) -> StorageError:
    """The error for a directory that can't be written."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(f"no space left in the cache {path}", hint="Free space there, or set ENROOT_CACHE_PATH.")
    return StorageError(
        f"can't write to {error.filename2 or error.filename or path}: {error.strerror}",
        hint="Set ENROOT_CACHE_PATH to a directory of yours, or correct the permissions.",
    )


def _write(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _fsync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
