"""File locks between processes and nodes.

They only save work: what is right never depends on one (docs/architecture.md, rule 1).  A lock file is made once and
never removed: a removed one can be held by two.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["attempt"]


@contextlib.contextmanager
def attempt(path: Path) -> Iterator[bool]:
    """Try to hold the lock file *path*; the value is False when another process holds it.

    On a file system without locks everyone gets the lock.  Raises: OSError, when the file can't be made.
    """
    from filelock import FileLock, Timeout  # noqa: PLC0415  a hit in the cache needs no lock, and no import

    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path, timeout=0, blocking=False, thread_local=False, fallback_to_soft=False)
    try:
        lock.acquire()
    except Timeout:
        yield False
        return
    except NotImplementedError:
        yield True
        return
    try:
        yield True
    finally:
        lock.release()
