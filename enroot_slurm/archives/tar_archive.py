"""Tar archives that hold images: headers are read once, contents are found again, or kept while a stream goes by.

A file that can be sought in is read from header to header.  A stream (a pipe, a compressed file) is read in one pass:
what may be a blob goes into a temporary file of the cache and is hashed on its way, what is small stays in memory.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from typing import TYPE_CHECKING

from enroot_slurm.archives.members import Entry, TarMembers
from enroot_slurm.errors import IntegrityError, StorageError, UnsupportedImage, shortage
from enroot_slurm.system.publish import write_all
from enroot_slurm.tar.reader import DIRECTORY, FILE, SYMLINK, Member, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

__all__ = ["not_an_image", "read_stream", "reworded", "scan_file"]

_SCAN = 1 << 16
_MAX_MEMBERS = 1 << 16
_SMALL = 1 << 18  # bytes of a stream's member that stays in memory
_MAX_MEMORY = 32 << 20  # of all of them
_MAX_BESIDE = 1 << 27  # bytes of headers, padding and what follows the archive, beside the blobs
_BLOB = re.compile(r"blobs/[a-z0-9]+/[0-9a-f]+|[^/]+(?:/[^/]+)?", re.ASCII)
_ROOTFS = {"bin", "etc", "usr", "var", "proc", "lib", "sbin", "home", "root", "tmp", ".dockerenv"}


def scan_file(fd: int, title: str) -> TarMembers:
    """The members of the tar archive in the file *fd*, which is theirs from now on.

    Raises: IntegrityError, UnsupportedImage for a root file system, StorageError.
    """
    size, at = os.fstat(fd).st_size, 0

    def chunks() -> Iterator[bytes]:
        nonlocal at
        while chunk := _pread(fd, at, title):
            at += len(chunk)
            yield chunk

    def leap(count: int) -> None:
        nonlocal at
        at += count
        if at > size:
            raise IntegrityError(f"{title} is cut short")

    found = _Found(title)
    reader = Reader(chunks(), leap=leap)
    try:
        with reworded(title):
            for member in reader:
                found.add(member, Entry(member.kind, member.size, _text(member.link), reader.offset))
    except BaseException:
        os.close(fd)
        raise
    return TarMembers(title, found.entries, fd)


def read_stream(
    chunks: Iterable[bytes], title: str, new_file: Callable[[], Path], limit: int, received: Callable[[int], None]
) -> TarMembers:
    """The members of the tar archive *chunks*, read to its end.

    new_file  gives the path of a temporary file that is not there yet
    limit     of bytes of blobs
    received  is told the number of bytes of each piece

    Raises: IntegrityError, UnsupportedImage, also for too many bytes; StorageError.
    """
    found = _Found(title)
    spool = _Spool(new_file, limit, title, received)
    reader = Reader(_counted(chunks, title, limit))
    try:
        with reworded(title):
            for member in reader:
                entry = Entry(member.kind, member.size, _text(member.link))
                if member.kind == FILE and member.pieces is None and _BLOB.fullmatch(_text(member.path)):
                    entry = spool.keep(reader, member, entry)
                elif member.kind == FILE:
                    entry = entry._replace(fault="it is no file of an image")
                found.add(member, entry)
    except BaseException:
        TarMembers(title, found.entries).close()
        spool.discard()
        raise
    return TarMembers(title, found.entries)


@contextlib.contextmanager
def reworded(title: str) -> Iterator[None]:
    """Let errors about what is read speak of the file *title*, which is no layer."""
    try:
        yield
    except IntegrityError as error:
        text = error.message.replace("a layer's ", f"{title}: its ").replace("a layer ", f"{title} ")
        text = text.replace("in a layer", f"in {title}")
        hint = error.hint
        if "is compressed with" in text:
            hint = (
                "Unpack it first, for example: xz -dc FILE | enroot-slurm import -o NAME.sqsh docker-archive:/dev/stdin"
            )
        raise type(error)(text if title in text else f"{title}: {text}", hint=hint) from None


class _Found:
    """The members that were seen."""

    def __init__(self, title: str) -> None:
        self.entries: dict[str, Entry] = {}
        self._title = title
        self._roots: set[str] = set()

    def add(self, member: Member, entry: Entry) -> None:
        """One more.  Raises: UnsupportedImage."""
        name = _text(member.path)
        if len(self.entries) >= _MAX_MEMBERS:
            raise UnsupportedImage(f"{self._title} has more than {_MAX_MEMBERS} members")
        self._roots.add(name.partition("/")[0])
        if len(self._roots & _ROOTFS) > 1:
            raise not_an_image(self._title, "a root file system, as 'docker export' writes it")
        if member.pieces is not None:
            entry = entry._replace(fault="it is a sparse file")
        before = self.entries.get(name)
        if before is not None and not before.kind == entry.kind == DIRECTORY:
            # Readers differ in which one counts.
            self.entries[name] = before._replace(fault="it is there twice")
            if entry.spool is not None:
                entry.spool.unlink()
            return
        if member.kind not in (FILE, SYMLINK, DIRECTORY) and not entry.fault:
            entry = entry._replace(fault="it is a link or a device")
        self.entries[name] = entry


def not_an_image(title: str, what: str) -> UnsupportedImage:
    """The error for the file *title*, which is *what*."""
    return UnsupportedImage(
        f"{title} holds {what}, and no image",
        hint="It has no layers and no configuration. Save the image instead: docker save IMAGE, or podman save IMAGE.",
    )


def _counted(chunks: Iterable[bytes], title: str, limit: int) -> Iterator[bytes]:
    # What is passed over counts as well: a few kilobytes may unpack to zeros for hours, and a device never ends.
    left = limit + _MAX_BESIDE
    for chunk in chunks:
        left -= len(chunk)
        if left < 0:
            raise _too_large(title, limit)
        yield chunk


def _too_large(title: str, limit: int) -> UnsupportedImage:
    return UnsupportedImage(
        f"{title} has more than {limit} bytes of blobs", hint="The setting max_download is the limit."
    )


class _Spool:
    """Keeps the contents of a stream's members."""

    def __init__(self, new_file: Callable[[], Path], limit: int, title: str, received: Callable[[int], None]) -> None:
        self._new_file = new_file
        self._left = limit
        self._limit = limit
        self._memory = _MAX_MEMORY
        self._title = title
        self._received = received
        self._path: Path | None = None
        self._fd = -1
        self._parts: list[bytes] = []
        self._hasher = hashlib.sha256()

    def keep(self, reader: Reader, member: Member, entry: Entry) -> Entry:
        """*entry* with the content of *member*, at which *reader* is.  Raises: StorageError, UnsupportedImage."""
        self._left -= member.size
        if self._left < 0:
            raise _too_large(self._title, self._limit)
        self._hasher = hashlib.sha256()
        if member.size <= min(_SMALL, self._memory):
            self._memory -= member.size
            self._parts = []
            reader.copy(self)
            return entry._replace(content=b"".join(self._parts), sha256=self._hasher.hexdigest())
        path = self._new_file()
        try:
            self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            self._path = path
            reader.copy(self)
        except OSError as error:
            short = shortage(error) or error.strerror
            raise StorageError(
                f"can't keep what {self._title} has in {path.parent}: {short}",
                hint="Free space there ('enroot-slurm cache gc' may do it), or set ENROOT_CACHE_PATH.",
            ) from None
        finally:
            if self._fd >= 0:
                os.close(self._fd)
                self._fd = -1
        self._path = None
        return entry._replace(spool=path, sha256=self._hasher.hexdigest())

    def discard(self) -> None:
        """Remove a file that is not complete."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink()

    # As a sink of the reader.

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        """The content goes on."""
        piece = chunk[start:stop]
        self._hasher.update(piece)
        self._received(len(piece))
        if self._fd >= 0:
            write_all(self._fd, piece)
        else:
            self._parts.append(piece)

    def zeros(self, count: int) -> None:
        """Sparse files are not kept."""


def _pread(fd: int, at: int, title: str) -> bytes:
    try:
        return os.pread(fd, _SCAN, at)
    except OSError as error:
        raise StorageError(f"can't read {title}: {error.strerror}") from None


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
