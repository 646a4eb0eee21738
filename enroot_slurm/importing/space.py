"""Checks that the files of an import will fit, before its layers are fetched.

The size of downloads is known to the byte.  The size of squashfs images is an estimate, learnt from the images in the
cache.  So an import is refused only if even half of the estimate is too much; otherwise there is a warning.  Before a
refusal a second look is taken: at file systems that share blocks, and at files that other processes write already.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.images import Sidecar
from enroot_slurm.cache.trust import MAX_SIDECAR, Untrusted, read_trusted
from enroot_slurm.errors import IntegrityError, StorageError
from enroot_slurm.importing.parts import parts_of
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import Manifest
from enroot_slurm.progress import size_text
from enroot_slurm.system.file_copy import can_share_blocks, room

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from enroot_slurm.cache.blobs import Blob, BlobStore
    from enroot_slurm.cache.layers import CachedLayer
    from enroot_slurm.cache.locks import Lock
    from enroot_slurm.importing.layer_streams import Layer
    from enroot_slurm.importing.lookup import Lookup
    from enroot_slurm.settings.config import Config

__all__ = ["check_space"]

_PLENTY = 20
"""On a file system that has so many times the size of the blobs left, nothing is estimated."""
_PLAIN, _SQUASHED = 2.0, 1.0  # bytes of an image for each byte of its blobs, as long as there is none to learn from
_SURE = 0.5  # of an estimate: less won't do
_MOST_SURE = 1.0  # bytes for each byte of a blob of which that is believed at most: some images hardly shrink
_SAMPLES = 20  # images to learn from: the latest
_LEAST_SAMPLE = 1 << 20  # bytes of an image that is large enough to tell something


class _Need(NamedTuple):
    """The sizes of the files that are going to be written."""

    download: int = 0
    """Bytes of blobs."""
    squashed: float = 0
    """Bytes of squashfs images, about."""
    sure: float = 0
    """Bytes of them at least."""

    def plus(self, other: _Need) -> _Need:
        """Both."""
        return _Need(self.download + other.download, self.squashed + other.squashed, self.sure + other.sure)

    def __str__(self) -> str:
        parts = [f"{size_text(self.download)} to download"] if self.download else []
        if self.squashed:
            parts.append(f"about {size_text(int(self.squashed))} of squashfs images")
        return " and ".join(parts)


def check_space(
    layers: Sequence[Layer],
    output: Path,
    *,
    lookup: Lookup,
    store: BlobStore,
    config: Config,
    warn: Callable[[str], None],
) -> None:
    """Refuse the conversion of *layers* to a file in *output*, beside what it leaves in the own cache, if it can't fit.

    Raises: StorageError.
    """
    cache = lookup.own.root
    rooms = {path: left for path in (cache, output) if (left := room(path)) is not None}
    size = sum({layer.descriptor.digest: layer.descriptor.size for layer in layers}.values())
    floor = _floor(config.min_free, cache) if cache in rooms else 0
    if all(left - floor > _PLENTY * size for left in rooms.values()):
        return
    estimate = _Estimate(layers, lookup, store, config)
    one = len(rooms) > 1 and cache.stat().st_dev == output.stat().st_dev
    told: list[str] = []
    for careful in (False, True):
        needs = {cache: estimate.cache(careful=careful), output: estimate.image(output, careful=careful)}
        if one:
            needs = {cache: needs[cache].plus(needs[output])}
        told = []
        for path, need in needs.items():
            left = rooms.get(path)
            if left is None or need == _Need():
                continue
            stays = floor if path == cache or one else 0
            kept = f", of which {size_text(stays)} have to stay free (min_free)" if stays else ""
            text = f"{path} has {size_text(left)} left{kept}, and the import needs {need}"
            if careful and need.download + need.sure > left - stays:
                raise StorageError(f"there is not enough space: {text}", hint=_hint(lookup, to_cache=path == cache))
            if need.download + need.squashed > left - stays:
                told.append(text)
        if not told:
            return
    for text in told:
        warn(f"the space may not suffice: {text}")


class _Estimate:
    """The sizes of the files that a conversion is going to write."""

    def __init__(self, layers: Sequence[Layer], lookup: Lookup, store: BlobStore, config: Config) -> None:
        self._lookup = lookup
        self._linked = config.layer_cache
        self._ratio = _learnt(lookup) or (_PLAIN if "-noD" in config.squash_options.arguments else _SQUASHED)
        blobs = {layer.diff_id: store.blob(layer.descriptor) for layer in layers}
        self._parts: dict[Digest, tuple[CachedLayer | None, list[Blob]]] = {key: (None, [blobs[key]]) for key in blobs}
        if config.layer_cache:
            images = store.layers(config.squash_options.for_layers.recipe)
            self._parts = {
                part.image.digest: (part.image, [blobs[layer.diff_id] for layer in part.layers])
                for part in parts_of(layers, images)
            }

    def cache(self, *, careful: bool) -> _Need:
        """Bytes that the cache is to get: blobs that it lacks, and images of layers."""
        need, blobs = _Need(), {}
        for image, its in self._parts.values():
            if image is not None and image.ready:
                continue
            blobs.update({blob.descriptor.digest: blob for blob in its})
            if image is not None and not (careful and _is_taken(image.lock)):
                need = need.plus(self._squashed(its))
        missing = [blob for blob in blobs.values() if not blob.reused and not (careful and _is_taken(blob.lock))]
        return need.plus(_Need(download=sum(blob.descriptor.size for blob in missing)))

    def image(self, output: Path, *, careful: bool) -> _Need:
        """Bytes that the image itself takes in the directory *output*."""
        need = _Need()
        if careful and self._linked and can_share_blocks(self._lookup.own.root, output):
            return need
        for part, blobs in self._parts.values():
            size = _size_of(part.path) if part is not None and part.ready else None
            # Of an image of a layer, some may be hidden by others.
            need = need.plus(self._squashed(blobs) if size is None else _Need(0, size, _SURE * size))
        return need

    def _squashed(self, blobs: Iterable[Blob]) -> _Need:
        size = sum(blob.descriptor.size for blob in blobs)
        return _Need(0, self._ratio * size, min(_SURE * self._ratio, _MOST_SURE) * size)


def _learnt(lookup: Lookup) -> float | None:
    """How many bytes images have for each byte of their blobs; None if there are none."""
    squashed = blobs = 0
    for path, owners in _samples(lookup):
        with contextlib.suppress(OSError, ValueError, Untrusted, IntegrityError):
            sidecar = Sidecar.parse(read_trusted(path, owners, MAX_SIDECAR))
            manifest = lookup.document(Digest.parse(sidecar.digest))
            if isinstance(manifest, Manifest):
                size = sum({layer.digest: layer.size for layer in manifest.layers}.values())
                if size >= _LEAST_SAMPLE:
                    squashed, blobs = squashed + sidecar.size, blobs + size
    return squashed / blobs if blobs else None


def _samples(lookup: Lookup) -> Iterator[tuple[Path, set[int]]]:
    """The sidecars of the latest images like the one that is made, and who can have written them."""
    for root, owners in lookup.caches:
        directory = root / "images" / lookup.recipe / lookup.platform.directory
        found = []
        with contextlib.suppress(OSError):
            found = [(path.lstat().st_mtime_ns, path) for path in directory.glob("sha*.json")]
        yield from ((path, owners) for _, path in sorted(found)[-_SAMPLES:])


def _floor(min_free: float, path: Path) -> int:
    """Bytes that have to stay free in *path*; *min_free* is a share of its file system if not above 1."""
    if not min_free or min_free > 1:
        return int(min_free)
    file_system = os.statvfs(path)
    return int(min_free * file_system.f_blocks * file_system.f_frsize)


def _size_of(path: Path) -> int | None:
    try:
        return path.lstat().st_size
    except OSError:
        return None


def _is_taken(lock: Lock) -> bool:
    """Whether another process works there: what it has written is not free any more, and not to be written again."""
    try:
        with lock.attempt() as held:
            return not held
    except OSError:
        return False


def _hint(lookup: Lookup, *, to_cache: bool) -> str:
    if not to_cache:
        return "Free space there, or choose another place with --output."
    which = " --shared" if lookup.own.public else ""
    return (
        f"Make room: 'enroot-slurm cache gc{which} --max-age 7d' removes what nobody has used for a week, "
        "and cache_high lets that happen by itself; or set ENROOT_CACHE_PATH to a larger file system."
    )
