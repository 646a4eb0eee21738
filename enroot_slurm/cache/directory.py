"""A cache directory as one process uses it: who else may read it, and how names are made that nobody else makes."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.layout import maker_of
from enroot_slurm.errors import StorageError, shortage

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["CacheDirectory", "SharedCache", "sync_directory", "unwritable", "write_all"]


class CacheDirectory(NamedTuple):
    """The cache directory *root*."""

    root: Path
    public: bool = False
    """Whether it is for everybody to read: then only what anybody may have is written to it."""
    job: str = ""
    """The Slurm job that this process works for, as ``JOBID.RESTART``, or empty."""

    @property
    def mode(self) -> int:
        """The permissions of files that are replaced but never changed."""
        return 0o444 if self.public else 0o600

    def directory(self, *names: str) -> Path:
        """The directory ``ROOT/NAME/...``, made if it is missing.  Raises: OSError."""
        path = self.root
        _make(path, 0o755 if self.public else 0o700, parents=True)
        for name in names:
            path /= name
            _make(path, 0o755 if self.public else 0o700)
        return path

    def closed_directory(self, name: str) -> Path:
        """The directory ``ROOT/NAME`` that is nobody else's business.  Raises: OSError."""
        path = self.directory() / name
        _make(path, 0o700)
        return path

    def unique(self) -> str:
        """A word that no other process has, on any node: ``HOST.JOB.PID.RANDOM``."""
        return f"{os.uname().nodename}.{self.job or '-'}.{os.getpid()}.{os.urandom(4).hex()}"

    @contextlib.contextmanager
    def temporary(self, path: Path, name: str) -> Iterator[Path]:
        """A file name beside *path*, with *name* in it, that no other process has; what is there at the end is removed.

        So is, now, what processes that were killed on this host have left for *name*.
        """
        with contextlib.suppress(OSError):
            for left in path.parent.glob(f".{name}.*.tmp"):
                maker = maker_of(left.name, os.uname().nodename)
                if maker is not None and not os.path.lexists(f"/proc/{maker}"):
                    left.unlink()
        temporary = path.with_name(f".{name}.{self.unique()}.tmp")
        try:
            yield temporary
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink()

    def write(self, path: Path, content: bytes, *, replace: bool = True) -> bool:
        """Let *path* be a file with *content*, complete at any time; False if there is one and not to *replace* it.

        Its directory has to be there.  Raises: OSError.
        """
        temporary = path.with_name(f".{path.name[:64]}.{self.unique()}.tmp")
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        fd = os.open(temporary, flags, 0o600)
        try:
            try:
                write_all(fd, content)
                os.fchmod(fd, self.mode)
                os.fsync(fd)
            finally:
                os.close(fd)
            if replace:
                temporary.replace(path)
            elif not _name(temporary, path):
                return False
        finally:
            with contextlib.suppress(FileNotFoundError):
                temporary.unlink()
        return True


def _name(temporary: Path, path: Path) -> bool:
    """Give the file *temporary* the name *path* as well, unless there is such a file; whether it has it."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        # NFS may do what it is asked, lose its answer, and be asked again.
        with contextlib.suppress(FileNotFoundError):
            return os.path.samestat(path.lstat(), temporary.lstat())
        return False
    except OSError as error:
        if error.errno not in {errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK}:
            raise
        # A file system without hard links: between the look and the rename another file could appear.
        if os.path.lexists(path):
            return False
        temporary.replace(path)
    return True


class SharedCache:
    """A cache directory that others write, and this process only reads."""

    def __init__(self, root: Path, owners: set[int]) -> None:
        self.root = root
        self.owners = owners
        """Who can have written it."""
        self.unusable: set[Path] = set()
        """Files that this process has found to be damaged, and can't remove."""


def unwritable(path: Path, error: OSError) -> StorageError:
    """The error for a directory that can't be written."""
    if short := shortage(error):
        return StorageError(
            f"{short} in the cache {path}",
            hint="Free space there ('enroot-slurm cache gc' may do it), or set ENROOT_CACHE_PATH.",
        )
    return StorageError(
        f"can't write to {error.filename2 or error.filename or path}: {error.strerror}",
        hint="Set ENROOT_CACHE_PATH to a directory of yours, or correct the permissions.",
    )


def write_all(fd: int, data: bytes) -> None:
    """Write all of *data*.  Raises: OSError."""
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]


def sync_directory(path: Path) -> None:
    """Let names in *path* survive a crash.  Raises: OSError."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _make(path: Path, mode: int, *, parents: bool = False) -> None:
    """Make the directory *path* with exactly *mode*, whatever the umask is; one that is there stays as it is."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        if not path.is_dir():
            raise
        return
    except FileNotFoundError:
        if not parents:
            raise
        path.parent.mkdir(parents=True, exist_ok=True)
        path.mkdir(mode=0o700, exist_ok=True)
    if mode != 0o700:
        path.chmod(mode)
