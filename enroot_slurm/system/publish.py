"""Files that are complete or not there: written under a name of their own beside the final one, synced, then named.

A file is opened once.  In a directory that others can write, a second look at its name could find their link; so all
goes through the descriptor, up to the final name, where the system can do that (linkat(2), /proc/self/fd).
"""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Draft", "beside", "draft", "unique", "write_all", "write_file"]

_SHOWN = 64  # bytes of a file's name that its temporary one repeats: names may be as long as names can be
_NO_LINKS = frozenset((errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS))
_NO_SYNC = frozenset((errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS))


class Draft(NamedTuple):
    """A file that has no final name yet; made by `draft`."""

    path: Path
    """Its temporary name, for messages, and for what belongs beside it."""
    fd: int
    """Open for reading and writing."""

    def clear(self) -> None:
        """Begin again.  Raises: OSError."""
        os.ftruncate(self.fd, 0)
        os.lseek(self.fd, 0, os.SEEK_SET)

    def publish(self, path: Path, *, replace: bool, lasting: bool = True) -> bool:
        """Give the file the name *path* as well; False if there is such a file, and not to *replace* it.

        A *lasting* name survives a crash.  When the file has it, nothing fails any more.  Raises: OSError.
        """
        self._sync()
        if not (self._rename(path) if replace else self._link(path)):
            return False
        if lasting:
            _sync_directory(path.parent)
        return True

    def is_at(self, path: Path) -> bool:
        """Whether *path* is a name of this file."""
        try:
            return os.path.samestat(path.lstat(), os.fstat(self.fd))
        except OSError:
            return False

    def _sync(self) -> None:
        try:
            os.fsync(self.fd)
        except OSError as error:
            if error.errno not in _NO_SYNC:
                raise

    def _link(self, path: Path) -> bool:
        """Name the file without ever replacing another."""
        try:
            try:
                # With a descriptor for a directory, which an absolute path has no use for, Python calls linkat.
                os.link(f"/proc/self/fd/{self.fd}", path, src_dir_fd=self.fd, follow_symlinks=True)
            except FileNotFoundError:  # no /proc
                os.link(self.path, path, src_dir_fd=self.fd, follow_symlinks=False)
        except FileExistsError:
            return self.is_at(path)  # NFS may do what it is asked, lose its answer, and be asked again
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            # A file system without hard links: between the look and the rename another file could appear.
            return not os.path.lexists(path) and self._rename(path)
        return True

    def _rename(self, path: Path) -> bool:
        """Name the file, in place of another if there is one."""
        if not self.is_at(self.path):
            if self.is_at(path):  # as above
                return True
            raise OSError(errno.ESTALE, "another process has put something else in its place", str(self.path))
        self.path.replace(path)
        return True


def unique(*words: str) -> str:
    """A word that no other process has, on any node: ``HOST.WORD...PID.RANDOM``."""
    return ".".join((os.uname().nodename, *words, str(os.getpid()), os.urandom(4).hex()))


def beside(path: Path, *words: str) -> Path:
    """A name beside *path* that no other process has."""
    shown = os.fsencode(path.name)[:_SHOWN].decode("utf-8", "ignore")
    return path.with_name(f".{shown}.{unique(*words)}.tmp")


@contextlib.contextmanager
def draft(temporary: Path, *, mode: int = 0o600) -> Iterator[Draft]:
    """A new file at *temporary*, whose name is removed at the end.  Raises: OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        fd = os.open(temporary, flags, mode)
        try:
            yield Draft(temporary, fd)
        finally:
            os.close(fd)
    finally:
        try:
            _remove(temporary)
        except KeyboardInterrupt:  # a signal just now
            _remove(temporary)
            raise


def write_file(path: Path, content: bytes, *words: str, mode: int = 0o600, replace: bool = True) -> bool:
    """Let *path* be a file with *content* and *mode*, complete at any time; False if there is one, not to be replaced.

    *words* get into the temporary name.  Raises: OSError.
    """
    with draft(beside(path, *words)) as file:
        write_all(file.fd, content)
        os.fchmod(file.fd, mode)
        return file.publish(path, replace=replace, lasting=False)


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*.  Raises: OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def _sync_directory(path: Path) -> None:
    # The name is there: some file systems can't sync directories (FUSE), and some directories can't be read.
    with contextlib.suppress(OSError):
        directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
