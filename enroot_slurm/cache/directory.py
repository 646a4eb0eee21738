"""A cache directory as one process uses it: the modes of its files, and temporary names that no other process makes."""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.layout import maker_of
from enroot_slurm.errors import StorageError, limit_hint, printable, shortage
from enroot_slurm.system.publish import draft, unique, write_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enroot_slurm.system.publish import Draft

__all__ = ["CacheDirectory", "SharedCache", "unreadable", "unwritable"]


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
        path = self.root.joinpath(*names)
        mode = 0o755 if self.public else 0o700
        try:
            _make(path, mode)
        except FileNotFoundError:  # mostly the directories above are there, and need no look
            if names:
                self.directory(*names[:-1])
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
            _make(path, mode)
        return path

    def closed_directory(self, name: str) -> Path:
        """The directory ``ROOT/NAME`` that is nobody else's business.  Raises: OSError."""
        path = self.directory() / name
        _make(path, 0o700)
        return path

    def unique(self) -> str:
        """A word that no other process has, on any node: ``HOST.JOB.PID.RANDOM``."""
        return unique(self.job or "-")

    @contextlib.contextmanager
    def draft(self, path: Path, name: str) -> Iterator[Draft]:
        """A file that is to become *path*, under a temporary name with *name* in it, which is removed at the end.

        So is, now, what processes that were killed on this host have left for *name*.  Raises: OSError.
        """
        with contextlib.suppress(OSError):
            for left in path.parent.glob(f".{name}.*.tmp"):
                maker = maker_of(left.name, os.uname().nodename)
                if maker is not None and not os.path.lexists(f"/proc/{maker}"):
                    left.unlink()
        with draft(path.with_name(f".{name}.{self.unique()}.tmp")) as file:
            yield file

    def write(self, path: Path, content: bytes, *, replace: bool = True) -> bool:
        """Let *path* be a file with *content*, complete at any time; False if there is one and not to *replace* it.

        Its directory has to be there.  Raises: OSError.
        """
        return write_file(path, content, self.job or "-", mode=self.mode, replace=replace)


class SharedCache:
    """A cache directory that others write, and this process only reads."""

    def __init__(self, root: Path, owners: set[int]) -> None:
        self.root = root
        self.owners = owners
        """The users that can have written it."""
        self.unusable: set[Path] = set()
        """Files that this process has found to be damaged, and can't remove."""


def unreadable(root: Path, error: OSError) -> StorageError:
    """The error for the cache *root* that can't be read."""
    return StorageError(
        f"can't read the cache {root}: {error.strerror}",
        hint="Set ENROOT_CACHE_PATH to a directory that you can read.",
    )


def unwritable(path: Path, error: OSError) -> StorageError:
    """The error for a directory that can't be written."""
    if short := shortage(error):
        return StorageError(
            f"{short} in the cache {path}",
            hint="Free space there ('enroot-slurm cache gc' may do it), or set ENROOT_CACHE_PATH.",
        )
    return StorageError(
        f"can't write to {error.filename2 or error.filename or path}: {error.strerror}",
        hint=limit_hint(error) or "Set ENROOT_CACHE_PATH to a directory of yours, or correct the permissions.",
    )


def _make(path: Path, mode: int) -> None:
    """Make the directory *path* with exactly *mode*, whatever the umask is; one that is there stays as it is."""
    try:
        path.mkdir(mode=0o700)
    except FileExistsError:
        try:
            if not stat.S_ISDIR(path.stat().st_mode):
                raise
        except FileNotFoundError:
            # If it has been removed meanwhile, the next call for something in it says so.
            if path.is_symlink():
                reason = f"it is a link to {printable(str(path.readlink()))}, which is not there"
                raise OSError(errno.ENOENT, reason, str(path)) from None
        return
    if mode != 0o700:
        path.chmod(mode)
