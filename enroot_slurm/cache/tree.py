"""The files of a cache, listed and removed without ever following a symbolic link.

Every directory is opened relative to the one above it, and a file is removed only from the very directory where it was
seen, and only if it is still that file.  So whatever is put into a cache meanwhile, nothing outside of it is touched.
"""

from __future__ import annotations

import contextlib
import os
import stat
from typing import TYPE_CHECKING, NamedTuple, Self

from enroot_slurm.cache.layout import is_directory, kind_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from types import TracebackType

__all__ = ["CacheFile", "Tree"]

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY


class CacheFile(NamedTuple):
    """A regular file of a cache as it was when it was listed."""

    path: str
    """Relative to the cache."""
    size: int
    mtime: float
    """Seconds since 1970."""
    atime: float
    identity: tuple[int, ...]
    """Another file of that name, or a changed one, has another."""

    @property
    def name(self) -> str:
        """The last part of the path."""
        return self.path.rpartition("/")[2]


class Tree:
    """The cache *root*, as a context manager; one that is not there is empty.  Raises: OSError.

    The directory that was used last stays open.  If it is removed meanwhile, it is empty until another one is used.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._fd = -1
        self._last = ("", -1)  # the directory below it that was used last, and its descriptor

    def __enter__(self) -> Self:
        # The way to the cache is the administrator's, and may have links; what is in it may not.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            self._fd = os.open(self.root, _DIRECTORY)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._keep("", -1)
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def entries(self, below: str = "", start: tuple[str, ...] = ("",)) -> Iterator[CacheFile]:
        """The files of the cache, or of its directory *below*, that are ours by name and can be listed.

        Only names with one of *start* in front are looked at, each of which may cost a call of a server.
        """
        with contextlib.suppress(OSError), self._opened(below) as fd:
            yield from _entries(fd, below, start)

    def names(self, below: str) -> list[str]:
        """The names in the directory *below*, whatever they are; none if it can't be listed."""
        with contextlib.suppress(OSError), self._opened(below) as fd:
            return os.listdir(fd)  # noqa: PTH208 - a descriptor has no path
        return []

    def read(self, entry: CacheFile, limit: int) -> bytes:
        """The content of the file, if it is still the one that was listed.

        Raises: ValueError, when it is more than *limit* bytes; OSError.
        """
        with self._opened(_parent(entry.path)) as directory:
            fd = os.open(entry.name, _FILE, dir_fd=directory)
            try:
                content = os.read(fd, limit + 1)
            finally:
                os.close(fd)
        if len(content) > limit:
            raise ValueError(f"{entry.path} is larger than {limit} bytes")
        return content

    def open(self, entry: CacheFile) -> int:
        """A descriptor to read the file, without noting that it was read where that is possible.  Raises: OSError."""
        with self._opened(_parent(entry.path)) as directory:
            try:
                return os.open(entry.name, _FILE | os.O_NOATIME, dir_fd=directory)
            except PermissionError:  # it is not ours
                return os.open(entry.name, _FILE, dir_fd=directory)

    def look(self, path: str) -> CacheFile | None:
        """The regular file *path* as it is now, if there is one."""
        with contextlib.suppress(OSError), self._opened(_parent(path)) as directory:
            return _entry(path, os.lstat(path.rpartition("/")[2], dir_fd=directory))
        return None

    def remove(self, entry: CacheFile) -> bool:
        """Remove the file; False if it has gone, or is not the one that was listed.  Raises: OSError."""
        with contextlib.suppress(FileNotFoundError), self._opened(_parent(entry.path)) as directory:
            now = _entry(entry.path, os.lstat(entry.name, dir_fd=directory))
            if now is not None and now.identity == entry.identity:
                os.unlink(entry.name, dir_fd=directory)
                return True
        return False

    def unlink(self, path: str) -> bool:
        """Remove the name *path*, whatever file it is now; False if there is none.  Raises: OSError."""
        with contextlib.suppress(FileNotFoundError, IsADirectoryError), self._opened(_parent(path)) as directory:
            os.unlink(path.rpartition("/")[2], dir_fd=directory)
            return True
        return False

    def rename(self, path: str, name: str) -> None:
        """Give the file *path* the *name* in its directory.  Raises: OSError."""
        with self._opened(_parent(path)) as directory:
            os.rename(path.rpartition("/")[2], name, src_dir_fd=directory, dst_dir_fd=directory)

    def remove_directory(self, path: str) -> None:
        """Remove the directory *path* if nothing is in it."""
        with contextlib.suppress(OSError), self._opened(_parent(path)) as directory:
            os.rmdir(path.rpartition("/")[2], dir_fd=directory)

    @contextlib.contextmanager
    def _opened(self, path: str) -> Iterator[int]:
        """A descriptor of the directory *path*.  Raises: OSError."""
        if self._fd < 0:
            raise FileNotFoundError(self.root)
        last, kept = self._last
        is_kept = path == last and kept >= 0
        fd = os.dup(kept if is_kept else self._fd)
        try:
            if not is_kept:
                for name in filter(None, path.split("/")):
                    below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                    os.close(fd)
                    fd = below
                self._keep(path, os.dup(fd))
            yield fd
        finally:
            os.close(fd)

    def _keep(self, path: str, fd: int) -> None:
        if self._last[1] >= 0:
            os.close(self._last[1])
        self._last = (path, fd)


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _entries(fd: int, path: str, start: tuple[str, ...] = ("",)) -> Iterator[CacheFile]:
    prefix = f"{path}/" if path else ""
    with os.scandir(fd) as found:
        names = [each.name for each in found if each.name.startswith(start)]
    for name in sorted(names):
        with contextlib.suppress(OSError):
            # Names that no text can show are none of ours.
            full = prefix + name
            if is_directory(full):
                below = os.open(name, _DIRECTORY | os.O_NOFOLLOW, dir_fd=fd)
                try:
                    yield from _entries(below, full)
                finally:
                    os.close(below)
            elif kind_of(full):
                entry = _entry(full, os.lstat(name, dir_fd=fd))
                if entry is not None:
                    yield entry


def _entry(path: str, status: os.stat_result) -> CacheFile | None:
    """The file *path* with its *status*, if it is a regular one."""
    if not stat.S_ISREG(status.st_mode):
        return None
    identity = (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns)
    return CacheFile(path, status.st_size, status.st_mtime, status.st_atime, identity)
