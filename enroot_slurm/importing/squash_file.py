"""Squashfs files in the place of images: looked at before a job has to find out."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from enroot_slurm.errors import IntegrityError, NotFound, StorageError, UnsupportedImage, printable
from enroot_slurm.squashfs.format.superblock import Superblock

__all__ = ["check_squashfs", "is_path"]


def is_path(text: str) -> bool:
    """Whether *text* is the path of a file, to us and to pyxis."""
    return text.startswith(("/", "./", "../"))


def check_squashfs(text: str) -> Path:
    """The absolute path of the squashfs file *text*, whose first bytes and size are right.

    Raises: NotFound; StorageError, when this user can't read it; UnsupportedImage, for another kind of file.
    """
    path = Path.cwd() / text
    shown = printable(str(path))
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"there is no file {shown}") from None
    except PermissionError:
        raise StorageError(
            f"{shown} can't be read by this user",
            hint="pyxis would call it an invalid image. Its owner can allow it: chmod go+r",
        ) from None
    except OSError as error:
        raise StorageError(f"can't read {shown}: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise UnsupportedImage(f"{shown} is no regular file")
    with os.fdopen(fd, "rb") as file:
        hint = f"If it holds an image, name it as docker-archive:{shown} or oci-archive:{shown}."
        try:
            Superblock.read(file)
        except IntegrityError as error:
            raise UnsupportedImage(f"{shown} can't be used: {error}", hint=hint) from None
    return path
