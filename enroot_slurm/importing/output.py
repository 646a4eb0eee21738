"""The file that an import makes: complete or not there."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from typing import TYPE_CHECKING

from enroot_slurm.errors import OutputExists, StorageError, shortage
from enroot_slurm.progress import size_text
from enroot_slurm.system.file_copy import FileCopy, clone

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["Output", "can_share_blocks", "room"]

_MAKE_ROOM = "Free space there, or choose another place with --output."


class Output:
    """The file *path*, which may be replaced only with *force*.

    Raises: OutputExists; StorageError, when nothing can be written there.  Both before any work is done.
    """

    def __init__(self, path: Path, *, force: bool) -> None:
        self.path = path.absolute()
        self._force = force
        parent = self.path.parent
        # os.path's questions, unlike Path's, have an answer where the way to the file is barred.
        if os.path.isdir(self.path):  # noqa: PTH112
            raise StorageError(f"{self.path} is a directory", hint="Name a file: --output DIRECTORY/NAME.sqsh")
        if os.path.lexists(self.path):
            if not force:
                raise self._exists()
            if os.path.exists(self.path) and not os.path.isfile(self.path):  # noqa: PTH110, PTH113
                raise StorageError(f"{self.path} is not a regular file", hint="Name another one with --output.")
        if not os.path.isdir(parent):  # noqa: PTH112
            raise StorageError(f"there is no directory {parent}", hint="Make it first: mkdir -p")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StorageError(f"can't write to the directory {parent}", hint="Choose one with --output.")

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """A name beside the file that is unique over nodes and processes; what is left there at the end is removed."""
        unique = f"{os.uname().nodename}.{os.getpid()}.{secrets.token_hex(4)}"
        # The name may be as long as names can be, so only a part of it stands in the temporary one.
        temporary = self.path.with_name(f".{self.path.name[:64]}.{unique}.tmp")
        try:
            yield temporary
        finally:
            try:
                _remove(temporary)
            except KeyboardInterrupt:  # a signal just now
                _remove(temporary)
                raise

    def copy(self, source: Path, temporary: Path) -> bool:
        """Make *temporary* a copy of *source*, with shared blocks where the file system can; False if it can't be read.

        Raises: StorageError.
        """
        try:
            original = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            with temporary.open("xb") as file:
                if clone(original, file.fileno()):
                    return True
                size = os.fstat(original).st_size
                self._check_room(size)
                return sum(FileCopy(original, file.fileno()).copy(0, 0, size)) == size
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            os.close(original)

    def publish(self, temporary: Path) -> int:
        """Give the complete file at *temporary* its name; the size in bytes.

        Raises: OutputExists, when the name was taken meanwhile; StorageError.
        """
        try:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
                size = os.fstat(file.fileno()).st_size
            if self._force:
                temporary.replace(self.path)
            else:
                self._link(temporary)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        except FileExistsError:
            raise self._exists() from None
        except OSError as error:
            raise self._unwritable(error) from None
        return size

    def _check_room(self, size: int) -> None:
        left = room(self.path.parent)
        if left is not None and left < size:
            raise StorageError(
                f"there is not enough space: {self.path.parent} has {size_text(left)} left, "
                f"and the image has {size_text(size)}",
                hint=_MAKE_ROOM,
            )

    def _link(self, temporary: Path) -> None:
        """Name the file without ever replacing another."""
        try:
            os.link(temporary, self.path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK):
                raise
            # A file system without hard links: between the look and the rename another file could appear.
            if os.path.lexists(self.path):
                raise FileExistsError from None
            temporary.replace(self.path)

    def _unwritable(self, error: OSError) -> StorageError:
        hint = _MAKE_ROOM if shortage(error) else ""
        return StorageError(f"can't write {self.path}: {error.strerror}", hint=hint)

    def _exists(self) -> OutputExists:
        return OutputExists(f"file already exists: {self.path}", hint="Replace it with --force, or choose --output.")


def can_share_blocks(source: Path, target: Path) -> bool:
    """Whether a file in the directory *source* can be cloned into the directory *target* (ioctl_ficlone(2))."""
    names = [d / f".clone.{os.uname().nodename}.{os.getpid()}.{secrets.token_hex(4)}.tmp" for d in (source, target)]
    try:
        if source.stat().st_dev != target.stat().st_dev:
            return False
        # Reading is needed too: what can't be read is not cloned.
        with names[0].open("x+b") as original, names[1].open("xb") as other:
            original.write(b"x")
            original.flush()
            return clone(original.fileno(), other.fileno())
    except OSError:
        return False
    finally:
        for name in names:
            _remove(name)


def room(path: Path) -> int | None:
    """The bytes that this process may still write in the directory *path*, but for its user's quota; None: unknown."""
    try:
        file_system = os.statvfs(path)
    except OSError:
        return None
    if not file_system.f_blocks:  # it does not say
        return None
    blocks = file_system.f_bavail if os.geteuid() else file_system.f_bfree
    return blocks * file_system.f_frsize


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.unlink()
