"""The images of the caches by name, for completion in a shell: no network, no lock, and little to load.

    python3 -I -m enroot_slurm.commands.names [PREFIX]

prints a URI on each line, the newest image's first. What a cache says is for a shell: only plain words leave here.

A person waits for it at a key. So `enroot_slurm.cache.images`, which checks all of a sidecar, and json are not loaded
for the one field that is needed here.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["main", "names"]

_MAX_SIDECARS = 500
"""Of each cache, the newest: more than anybody chooses from, and read in the time that nobody notices."""
_MAX_SORTED = 2000
"""Of more, any: looking at the time of each would take too long."""
_MAX_SIDECAR = 64 << 10
_URI = re.compile(rb'[{,]\s*"uri"\s*:\s*"(docker://[A-Za-z0-9][A-Za-z0-9._:/@+#-]*)"')
"""The field of a sidecar, if it is plain. It is no part of another field: there, quotation marks have backslashes."""


def names(roots: list[Path]) -> Iterator[str]:
    """The URIs of the images in the caches *roots*, each once, as they are written in a shell: no ``#``."""
    seen = set()
    for root in roots:
        for path in _sidecars(root):
            with suppress(OSError):
                found = _URI.search(_read(path))
                name = found[1].decode().replace("#", "/") if found else ""
                if name and name not in seen:
                    seen.add(name)
                    yield name


def main(*words: str) -> int:
    """Print the names that begin as *words* says; a completion has nobody to tell of errors."""
    with suppress(EnrootSlurmError, OSError):
        config = Config.load()
        roots = [Path(config.shared_cache)] if config.shared_cache else []
        begin = words[0] if words else ""
        for name in names([*roots, config.cache_path]):
            if name.startswith(begin):
                print(name)
    return 0


def _sidecars(root: Path) -> list[str]:
    """The paths of the newest sidecars; looked for in the directories of the images alone."""
    found: list[os.DirEntry[str]] = []
    for recipe in _entries(root / "images"):
        for platform in _entries(recipe.path):
            for entry in _entries(platform.path):
                found += [entry] if entry.name.endswith(".json") else []
    if len(found) <= _MAX_SORTED:
        found.sort(key=lambda entry: -_time(entry))
    return [entry.path for entry in found[:_MAX_SIDECARS]]


def _time(entry: os.DirEntry[str]) -> int:
    with suppress(OSError):
        return entry.stat(follow_symlinks=False).st_mtime_ns
    return 0


def _entries(path: str | Path) -> list[os.DirEntry[str]]:
    with suppress(OSError), os.scandir(path) as entries:
        return [entry for entry in entries if not entry.name.startswith(".")]
    return []


def _read(path: str) -> bytes:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        return os.read(descriptor, _MAX_SIDECAR)
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
