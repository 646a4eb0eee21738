"""Files that decide what may run: policies, keys, programs."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["check_owner", "reader"]

_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def reader(limit: int) -> Callable[[str], bytes]:
    """A function that reads a file of at most *limit* bytes, which nobody but root and this user may be able to write.

    It raises: ConfigError.
    """

    def read(path: str) -> bytes:
        try:
            # O_NONBLOCK: a FIFO must not hang the process.
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
            with os.fdopen(fd, "rb") as file:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    raise ConfigError(f"{path} is not a regular file")
                check_owner(path, status)
                content = file.read(limit + 1)
        except OSError as error:
            raise ConfigError(
                f"{path} can't be read: {error.strerror}",
                hint="It decides which images may be used. No image is used while it can't be read.",
            ) from None
        if len(content) > limit:
            raise ConfigError(f"{path} is larger than {limit} bytes")
        return content

    return read


def check_owner(path: str, status: os.stat_result) -> None:
    """Raises: ConfigError, when others than root and this user can write *path*."""
    if status.st_uid not in {0, os.geteuid()} or status.st_mode & _OTHERS_WRITE:
        raise ConfigError(
            f"others than root can write {path}, so what it says does not count",
            hint=f"Run: chown root {path} && chmod go-w {path}",
        )
