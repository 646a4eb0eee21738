"""The content of a cache: images, layers, blobs and the rest, with sizes, times, pins and leases.

Only names, times and sidecars are read.  Nothing is locked, so the cache may change meanwhile: a file has to be looked
at again before it is removed.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.images import Sidecar
from enroot_slurm.cache.layout import kind_of
from enroot_slurm.cache.leases import leases_of
from enroot_slurm.cache.pins import pin_of
from enroot_slurm.cache.tree import Tree
from enroot_slurm.cache.trust import MAX_SIDECAR

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from enroot_slurm.cache.leases import Lease
    from enroot_slurm.cache.tree import CacheFile

__all__ = ["KINDS", "Inventory", "Item", "inventory"]

KINDS = ("blob", "layer", "image", "manifest")
"""The kinds that are kept as long as there is space, in the order of their removal."""
_PAIR = 2  # a file and its sidecar


class Item(NamedTuple):
    """Something that is kept: one file, or several that belong together."""

    kind: str
    """One of `KINDS`."""
    path: str
    """Of the file that counts, relative to the cache."""
    files: tuple[CacheFile, ...]
    """That file, if it is there, and what says something about it."""
    size: int
    """Bytes of all its files."""
    used: float
    """Seconds since 1970: when it was used or made last, as far as that is known."""
    complete: bool = True
    """Whether nothing is missing; of an image: and it is the one that was published."""
    sidecar: Sidecar | None = None
    """The description of a complete image."""
    pinned: bool = False
    leases: tuple[Lease, ...] = ()

    @property
    def digest(self) -> str:
        """``ALGORITHM:HEX``: a manifest's digest for images, a layer's diff_id, or the file's own."""
        directory, _, name = self.path.rpartition("/")
        if self.kind in {"blob", "manifest"}:
            return f"{directory.rpartition('/')[2]}:{name}"
        return name.removesuffix(".sqsh").replace("-", ":", 1)

    @property
    def kept(self) -> bool:
        """Whether it must not be collected."""
        return self.pinned or bool(self.leases)


class Inventory(NamedTuple):
    """All that is in the cache *root*."""

    root: Path
    time: float
    """Seconds since 1970: when it was taken."""
    items: tuple[Item, ...]
    temporaries: tuple[CacheFile, ...]
    """Files that are being written, or were when their process was killed."""
    jobs: Mapping[str, list[CacheFile]]
    """Files of jobs (``JOBID.RESTART``): leases and records."""
    leases: tuple[Lease, ...]
    notes: tuple[CacheFile, ...]
    """Failures, where tags led to, and what processes tell of their work."""
    locks: tuple[CacheFile, ...]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        others = (*self.temporaries, *(e for entries in self.jobs.values() for e in entries), *self.notes, *self.locks)
        return sum(item.size for item in self.items) + sum(entry.size for entry in others)

    def of(self, kind: str) -> list[Item]:
        """The items of this kind."""
        return [item for item in self.items if item.kind == kind]

    @property
    def images(self) -> list[Item]:
        """The images that can be used, the one that was used last first."""
        return sorted((item for item in self.of("image") if item.complete), key=lambda item: (-item.used, item.path))


def inventory(root: Path) -> Inventory:
    """The content of the cache *root*, without files that this process may not read.  Raises: OSError."""
    now = time.time()
    with Tree(root) as tree:
        found: dict[str, list[CacheFile]] = {}
        for entry in tree.entries():
            found.setdefault(kind_of(entry.path) or "", []).append(entry)
        jobs: dict[str, list[CacheFile]] = {}
        for entry in (*found.get("lease", ()), *found.get("record", ()), *found.get("visit", ())):
            jobs.setdefault(entry.path.split("/")[1].partition("~")[0], []).append(entry)
        images = {
            f"{entry.path.rpartition('.')[0]}.sqsh"
            for entry in (*found.get("image", ()), *found.get("image sidecar", ()))
        }
        leases = tuple(leases_of((*found.get("lease", ()), *found.get("visit", ())), images))
        items = [
            *(_single("blob", entry) for entry in found.get("blob", ())),
            *_layers(found),
            *_images(tree, found, leases),
            *(_single("manifest", entry) for entry in found.get("manifest", ())),
        ]
    return Inventory(
        root,
        now,
        tuple(items),
        tuple(found.get("temporary", ())),
        jobs,
        leases,
        tuple(
            entry for kind in ("failure", "tag", "verdict", "host", "holder", "rate") for entry in found.get(kind, ())
        ),
        tuple(found.get("lock", ())),
    )


def _single(kind: str, entry: CacheFile) -> Item:
    return Item(kind, entry.path, (entry,), entry.size, max(entry.mtime, entry.atime))


def _pairs(
    main: Iterable[CacheFile], sidecars: Iterable[CacheFile]
) -> Iterator[tuple[str, tuple[CacheFile, ...], float]]:
    """The path of each file, the file and its sidecar as far as they are there, and when they were used."""
    files: dict[str, list[CacheFile]] = {}
    for entry in main:
        files.setdefault(entry.path, []).append(entry)
    for entry in sidecars:
        files.setdefault(f"{entry.path.removesuffix('.json')}.sqsh", []).append(entry)
    for path, pair in files.items():
        used = max(entry.mtime for entry in pair)
        # Reading a sidecar is no use, or a list of images would be one.
        yield path, tuple(pair), max([used, *(entry.atime for entry in pair if entry.path == path)])


def _layers(found: Mapping[str, list[CacheFile]]) -> Iterator[Item]:
    for path, files, used in _pairs(found.get("layer", ()), found.get("layer sidecar", ())):
        yield Item("layer", path, files, sum(file.size for file in files), used, complete=len(files) == _PAIR)


def _images(tree: Tree, found: Mapping[str, list[CacheFile]], leases: Iterable[Lease]) -> Iterator[Item]:
    held: dict[str, list[Lease]] = {}
    for lease in leases:
        held.setdefault(lease.image, []).append(lease)
    pins = {entry.path for entry in found.get("pin", ())}
    for path, files, used in _pairs(found.get("image", ()), found.get("image sidecar", ())):
        sidecar = _sidecar(tree, *files) if len(files) == _PAIR else None
        its_leases = tuple(held.get(path, ()))
        yield Item(
            "image",
            path,
            files,
            sum(file.size for file in files),
            max([used, *(lease.since for lease in its_leases)]),
            complete=sidecar is not None,
            sidecar=sidecar,
            pinned=pin_of(path) in pins,
            leases=its_leases,
        )


def _sidecar(tree: Tree, image: CacheFile, sidecar: CacheFile) -> Sidecar | None:
    """The description of the *image*, if it is that one."""
    with contextlib.suppress(OSError, ValueError, TypeError):
        known = Sidecar.parse(tree.read(sidecar, MAX_SIDECAR))
        if (image.size, image.identity[-1]) == (known.size, known.mtime_ns):
            return known
    return None
