"""The time when an image was used last: the time of its sidecar, which nothing else needs.

A hit must cost next to nothing, and file systems without access times (noatime) are common.  So processes that may
write the cache set that time, at most once an hour.  For all others (users of the site's cache, readers of layers and
blobs) only the access time counts, if the file system keeps it.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["INTERVAL", "used"]

INTERVAL = 3600.0
"""Seconds: how much later than it says an image may have been used."""


def used(image: Path) -> None:
    """Note that the cached *image* is used now.  One stat, mostly; never an error."""
    sidecar = image.with_suffix(".json")
    with contextlib.suppress(OSError):
        if abs(time.time() - os.lstat(sidecar).st_mtime) >= INTERVAL:
            os.utime(sidecar, follow_symlinks=False)
