"""The files of an archive or a layout by their names, wherever their bytes are."""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
from typing import TYPE_CHECKING, NamedTuple, Protocol

from enroot_slurm.errors import IntegrityError, StorageError, UnsupportedImage, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.tar.reader import FILE, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["DirectoryMembers", "Entry", "Members", "TarMembers", "read"]

_READ = 1 << 20
_MAX_SHOWN = 20


class Members(Protocol):
    """The files; names are relative and clean."""

    @property
    def title(self) -> str:
        """What holds them, for people."""

    def names(self) -> list[str]:
        """All that are known; a directory is not searched."""

    def size(self, name: str) -> int | None:
        """The bytes of the file *name*; None: there is none.  Raises: IntegrityError, for what is no plain file."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Its content.  Raises: IntegrityError, StorageError."""

    def digest(self, name: str) -> Digest | None:
        """The SHA-256 of its content, if that was computed while it was read."""

    def take(self, name: str, digest: Digest) -> Path | None:
        """The temporary file of its content, if there is one with *digest*; it is the caller's from now on."""

    def close(self) -> None:
        """Nothing is read any more."""


class Entry(NamedTuple):
    """A member of a tar archive."""

    kind: int
    size: int
    link: str = ""
    offset: int = 0
    """Of its content in the file."""
    content: bytes | None = None
    """Of a stream's small member."""
    spool: Path | None = None
    """Where that of a large one is."""
    sha256: str = ""
    """In hexadecimal digits, of what came in a stream."""
    fault: str = ""
    """Why it can't be used, such as "it is there twice"; or empty."""


class TarMembers:
    """Those of a tar archive: *entries* are in the file *fd*, or were read from a stream."""

    def __init__(self, title: str, entries: dict[str, Entry], fd: int | None = None) -> None:
        self._title = title
        self._entries = entries
        self._fd = fd

    @property
    def title(self) -> str:
        """The archive for people."""
        return self._title

    def names(self) -> list[str]:
        """Of all members, directories too."""
        return list(self._entries)

    def size(self, name: str) -> int | None:
        """As `Members` says."""
        entry = self._entry(name)
        return None if entry is None else entry.size

    def digest(self, name: str) -> Digest | None:
        """As `Members` says."""
        entry = self._entry(name)
        return Digest("sha256", entry.sha256) if entry is not None and entry.sha256 else None

    def take(self, name: str, digest: Digest) -> Path | None:
        """As `Members` says."""
        entry = self._entries.get(self._target(name))
        if entry is None or entry.spool is None or entry.fault or digest != Digest("sha256", entry.sha256):
            return None
        self._entries[self._target(name)] = entry._replace(spool=None, fault="it was read already")
        return entry.spool

    def chunks(self, name: str) -> Iterator[bytes]:
        """As `Members` says."""
        entry = self._entry(name)
        if entry is None:
            raise IntegrityError(f"{self._title} has no {printable(name)}")
        if entry.content is not None:
            yield entry.content
        elif entry.spool is not None:
            with entry.spool.open("rb", buffering=0) as file:
                while chunk := file.read(_READ):
                    yield chunk
        else:
            assert self._fd is not None
            yield from _region(self._title, self._fd, entry.offset, entry.size)

    def close(self) -> None:
        """Remove what was kept, and close the file."""
        for entry in self._entries.values():
            if entry.spool is not None:
                with contextlib.suppress(OSError):
                    entry.spool.unlink()
        self._entries = {}
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def _target(self, name: str) -> str:
        """*name*, or where it leads if it is a symlink: old Docker wrote equal layers so.  Raises: IntegrityError."""
        entry = self._entries.get(name)
        if entry is None or entry.kind != SYMLINK:
            return name
        target = posixpath.normpath(posixpath.join(posixpath.dirname(name), entry.link))
        if entry.link.startswith("/") or target.startswith("../") or target not in self._entries:
            raise IntegrityError(
                f"{printable(name)} in {self._title} is a symlink to {printable(entry.link)}, which is not in it"
            )
        return target

    def _entry(self, name: str) -> Entry | None:
        entry = self._entries.get(self._target(name))
        if entry is None:
            return None
        if entry.fault or entry.kind != FILE:
            raise IntegrityError(
                f"{printable(name)} in {self._title} can't be used: {entry.fault or 'it is no regular file'}"
            )
        return entry


class DirectoryMembers:
    """Those below a directory of this machine."""

    def __init__(self, root: Path) -> None:
        self._root = root

    @property
    def title(self) -> str:
        """The directory for people."""
        return printable(str(self._root))

    def names(self) -> list[str]:
        """What is directly in it.  Raises: StorageError."""
        try:
            return sorted(path.name for path in self._root.iterdir())[: 10 * _MAX_SHOWN]
        except OSError as error:
            raise _unreadable(self._root, error) from None

    def size(self, name: str) -> int | None:
        """As `Members` says."""
        try:
            status = (self._root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise _unreadable(self._root / name, error) from None
        if not stat.S_ISREG(status.st_mode):
            raise IntegrityError(f"{printable(str(self._root / name))} is no regular file")
        return status.st_size

    def digest(self, name: str) -> None:  # noqa: ARG002 - as `Members` has it
        """Nothing was read yet."""
        return

    def take(self, name: str, digest: Digest) -> None:  # noqa: ARG002
        """Nothing is temporary."""
        return

    def chunks(self, name: str) -> Iterator[bytes]:
        """As `Members` says."""
        path = self._root / name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
        except OSError as error:
            raise _unreadable(path, error) from None
        try:
            status = os.fstat(fd)
            if not stat.S_ISREG(status.st_mode):
                raise IntegrityError(f"{printable(str(path))} is no regular file")
            yield from _region(printable(str(path)), fd, 0, status.st_size)
        finally:
            os.close(fd)

    def close(self) -> None:
        """Nothing is open."""


def read(members: Members, name: str, limit: int) -> bytes:
    """The content of the small file *name*.  Raises: IntegrityError, when it is missing or has more than *limit*."""
    size = members.size(name)
    if size is None:
        raise IntegrityError(f"{members.title} has no {printable(name)}")
    if size > limit:
        raise UnsupportedImage(f"{printable(name)} in {members.title} has {size} bytes; {limit} are the most")
    return b"".join(members.chunks(name))


def _region(title: str, fd: int, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end:
        try:
            chunk = os.pread(fd, min(_READ, end - offset), offset)
        except OSError as error:
            raise StorageError(f"can't read {title}: {error.strerror}") from None
        if not chunk:
            raise IntegrityError(f"{title} is cut short")
        yield chunk
        offset += len(chunk)


def _unreadable(path: Path, error: OSError) -> StorageError:
    return StorageError(f"can't read {printable(str(path))}: {error.strerror}")
