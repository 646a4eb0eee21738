"""Work on a cache as the user to whom it belongs, when root has asked for it.

Root itself neither removes nor imports anything in another user's cache: files of others could lead it astray, and new
files would belong to root.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, TextIO

from enroot_slurm.cache.directory import unreadable
from enroot_slurm.errors import EnrootSlurmError, WorkerFailed
from enroot_slurm.system.privilege import CRASHED, Identity, fork

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

__all__ = ["as_owner", "owner_identity"]


def owner_identity(root: Path, user: str) -> Identity | None:
    """Whom root has to become for the cache *root*: *user*, or its owner; None: this is that one, or not root at all.

    Raises: ConfigError, when there is no such user; StorageError, when the cache can't be reached.
    """
    owner = (user or _owner(root)) if os.geteuid() == 0 else 0
    return Identity.of(owner) if owner else None


def as_owner(identity: Identity | None, work: Callable[[], int], keep: tuple[int, ...] = ()) -> int:
    """The status of *work*, done as *identity* with this process' output and descriptors *keep*; None: simply done.

    Raises: WorkerFailed.
    """
    if identity is None:
        return work()
    streams = [os.dup(stream.fileno()) for stream in (sys.stdout, sys.stderr)]
    try:
        child = fork(partial(_work, work, streams), identity, keep=(*streams, *keep))
    finally:
        for fd in streams:
            os.close(fd)
    try:
        status = child.wait()
    except BaseException:
        child.end()
        raise
    assert status is not None
    if status < 0 or status == CRASHED:
        raise WorkerFailed(
            f"the process that worked as {identity.name} ended with status {status}",
            hint="The system's log may say more. The program must be installed where that user can read it.",
        )
    return status


def _owner(root: Path) -> int:
    try:
        return root.stat().st_uid
    except FileNotFoundError:
        return 0  # it is to be made, and root's
    except OSError as error:
        raise unreadable(root, error) from None


def _work(work: Callable[[], int], streams: list[int]) -> int:
    """Do *work* with the parent's output; an error is told there."""
    for number, fd in enumerate(streams, 1):
        os.dup2(fd, number)
    try:
        status = work()
    except EnrootSlurmError as error:
        hint = f"\n  {error.hint}" if error.hint else ""
        _say(sys.stderr, f"enroot-slurm: {error}{hint}\n")
        status = error.exit_code
    _say(sys.stdout, "")
    return status


def _say(stream: TextIO, text: str) -> None:
    with suppress(OSError):  # nobody reads it any more
        stream.write(text)
        stream.flush()
