"""Pins: images that stay until somebody unpins them.

ROOT/images/RECIPE/PLATFORM/ALGORITHM-HEX.pin    JSON: who pinned the image, and when
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["pin", "pin_of", "unpin"]


def pin_of(image: str) -> str:
    """The path of the pin of the *image* with that path."""
    return image.removesuffix(".sqsh") + ".pin"


def pin(place: CacheDirectory, image: str, user: str) -> bool:
    """Pin the *image*, a path below the cache *place*; False if it was pinned.  Raises: OSError."""
    content = json.dumps({"user": user, "time": int(time.time())}).encode() + b"\n"
    return place.write(_path(place, image), content, replace=False)


def unpin(place: CacheDirectory, image: str) -> bool:
    """Let the *image* be collected again; False if it was not pinned.  Raises: OSError."""
    try:
        _path(place, image).unlink()
    except FileNotFoundError:
        return False
    return True


def _path(place: CacheDirectory, image: str) -> Path:
    return place.root / pin_of(image)
