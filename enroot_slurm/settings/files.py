"""Files of settings: read whole, if they are files, small enough and, where it matters, nobody else's to write."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

from enroot_slurm.settings.schema import Problem

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_content"]

_MAX_FILE = 1 << 20


def read_content(file: Path, problems: list[Problem], *, required: bool, trusted: bool = False) -> bytes | None:
    """What is in *file*; None where there is nothing to read, which is a problem if it is *required*."""
    try:
        # O_NONBLOCK: a FIFO must not hang the process.
        descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError as error:
        if required or not isinstance(error, (FileNotFoundError, NotADirectoryError)):
            problems.append(Problem(str(file), f"can't be read: {error.strerror}"))
        return None
    try:
        status = os.fstat(descriptor)
        reason, hint = "", ""
        if not stat.S_ISREG(status.st_mode):
            reason = "not a regular file"
        elif trusted and (status.st_uid not in {0, os.geteuid()} or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)):
            reason = "others than root can write it, so hooks do not trust it"
            hint = f"Run: chown root {file} && chmod go-w {file}"
        elif status.st_size > _MAX_FILE:
            reason = f"larger than {_MAX_FILE} bytes"
        else:
            with os.fdopen(descriptor, "rb", closefd=False) as stream:
                return stream.read(_MAX_FILE)
    except OSError as error:  # a network file system may fail as late as here
        reason, hint = f"can't be read: {error.strerror}", ""
    finally:
        os.close(descriptor)
    problems.append(Problem(str(file), reason, hint))
    return None
