"""The file that an import makes: complete or not there."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import OutputExists, StorageError, limit_hint, machine_error, printable, shortage
from enroot_slurm.progress import size_text
from enroot_slurm.system.file_copy import FileCopy, clone, room
from enroot_slurm.system.publish import beside, draft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.system.publish import Draft

__all__ = ["Output"]

_MAKE_ROOM = "Free space there, or choose another place with --output."


class Output:
    """The file *path*, which may be replaced only with *force*.

    Raises: OutputExists; StorageError, when nothing can be written there.  Both before any work is done.
    """

    def __init__(self, path: str | os.PathLike[str], *, force: bool) -> None:
        try:
            self.path = Path(path).absolute()
        except FileNotFoundError as error:
            raise machine_error(error) or error from None
        self._force = force
        parent = self.path.parent
        if os.fspath(path).endswith(("/", "/.")) and not os.path.isdir(self.path):  # noqa: PTH112
            raise StorageError(
                f"there is no directory {self.path}",
                hint=f"Make it first, and name a file in it: --output {printable(str(self.path))}/NAME.sqsh",
            )
        if (length := len(os.fsencode(self.path.name))) > (limit := _name_limit(parent)):
            raise StorageError(
                f"the file's name has {length} bytes, and {limit} are the most: {printable(self.path.name, 80)}",
                hint="Choose a shorter one with --output.",
            )
        # os.path's questions, unlike Path's, have an answer where the way to the file is barred.
        if os.path.isdir(self.path):  # noqa: PTH112
            raise StorageError(f"{self.path} is a directory", hint="Name a file: --output DIRECTORY/NAME.sqsh")
        if os.path.lexists(self.path):
            if not force:
                raise self._exists()
            if os.path.exists(self.path) and not os.path.isfile(self.path):  # noqa: PTH110, PTH113
                raise StorageError(f"{self.path} is not a regular file", hint="Name another one with --output.")
        if not os.path.isdir(parent):  # noqa: PTH112
            name = printable(str(parent))
            raise StorageError(f"there is no directory {name}", hint=f"Make it first: mkdir -p {name}")
        if not os.access(parent, os.W_OK | os.X_OK):
            raise StorageError(f"can't write to the directory {parent}", hint="Choose one with --output.")

    @contextlib.contextmanager
    def draft(self) -> Iterator[Draft]:
        """The file without its name, which is removed at the end unless it has got it.  Raises: StorageError."""
        with contextlib.ExitStack() as stack:
            try:
                file = stack.enter_context(draft(beside(self.path), mode=0o644))
            except OSError as error:
                raise self._unwritable(error) from None
            yield file

    def copy(self, source: Path, file: Draft) -> bool:
        """Make *file* a copy of *source*, with shared blocks where the file system can; False if it can't be read.

        Raises: StorageError.
        """
        try:
            original = os.open(source, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            file.clear()
            if clone(original, file.fd):
                return True
            size = os.fstat(original).st_size
            self._check_room(size)
            return sum(FileCopy(original, file.fd).copy(0, 0, size)) == size
        except OSError as error:
            raise self._unwritable(error) from None
        finally:
            os.close(original)

    def publish(self, file: Draft) -> int:
        """Give the complete *file* its name; the size in bytes.

        Raises: OutputExists, when the name was taken meanwhile; StorageError.
        """
        try:
            size = os.fstat(file.fd).st_size
            if not file.publish(self.path, replace=self._force):
                raise self._exists()
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

    def _unwritable(self, error: OSError) -> StorageError:
        hint = _MAKE_ROOM if shortage(error) else limit_hint(error)
        return StorageError(f"can't write {self.path}: {error.strerror}", hint=hint)

    def _exists(self) -> OutputExists:
        return OutputExists(f"file already exists: {self.path}", hint="Replace it with --force, or choose --output.")


def _name_limit(directory: Path) -> int:
    """The most bytes of a file's name in *directory*."""
    try:
        return os.pathconf(directory, "PC_NAME_MAX")
    except OSError:  # it will be said that there is no such directory
        return 255
