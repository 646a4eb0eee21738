"""Layer images by their content: made once, and joined into every image that has the layer.

    ROOT/layers/RECIPE/sha256-HEX.sqsh    one layer as squashfs; HEX is its diff_id
    ROOT/layers/RECIPE/sha256-HEX.json    its `LayerSidecar`, written before the image gets its name
    ROOT/locks/layer-RECIPE-HEX.lock      held by the process that makes it

A layer is known by its diff_id, not by its blob's digest: the compression of the blob makes no difference here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.trust import MAX_SIDECAR, Untrusted, open_trusted, read_trusted
from enroot_slurm.system.checksum import Checksum

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory, SharedCache
    from enroot_slurm.cache.locks import Lock, Locks
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.system.publish import Draft

__all__ = ["CachedLayer", "LayerSidecar", "LayerStore", "layer_path"]

_FORMAT = 1
"""To be raised when layer images are made differently, so that older ones are not used any more."""
_RECIPE_LENGTH = 16
_READ = 1 << 20


class LayerSidecar(NamedTuple):
    """The description of a layer's image."""

    layer: str
    """The diff_id, so that nobody can pass off one layer as another by giving its files other names."""
    size: int
    """Bytes."""
    mtime_ns: int
    crc32: str
    """The image's `system.checksum.Checksum`."""

    @classmethod
    def parse(cls, content: bytes) -> LayerSidecar:
        """The sidecar in *content*.  Raises: ValueError."""
        fields = json.loads(content)
        if not isinstance(fields, dict) or set(fields) != set(cls._fields):
            raise ValueError("not a sidecar of this version")
        sidecar = cls(**fields)
        if [type(value) for value in sidecar] != [str, int, int, str]:
            raise ValueError("a field is of another type")
        return sidecar

    def is_of(self, layer: str, size: int, mtime_ns: int) -> bool:
        """Whether it tells of this image."""
        return (self.layer, self.size, self.mtime_ns) == (layer, size, mtime_ns)

    def __bytes__(self) -> bytes:
        return json.dumps(self._asdict()).encode()


class LayerStore:
    """The layer images of caches that are made by *recipe*, a text that holds all that shapes their bytes.

    They are written to *place*; those of the cache *shared*, which others write, are used as well.
    """

    def __init__(self, place: CacheDirectory, recipe: str, locks: Locks, *, shared: SharedCache | None = None) -> None:
        self._place = place
        self._locks = locks
        self._shared = shared
        self._text = recipe
        self._recipe = _directory_of(recipe)

    def layer(self, diff_id: Digest, size: int = 0) -> CachedLayer:
        """The layer image of *diff_id*, whether or not it is here; *size*: bytes of a blob of it, if one is known."""
        lock = self._locks.lock(f"layer-{self._recipe}-{diff_id.hex}", size)
        if self._shared is not None:
            layer = CachedLayer(diff_id, self._path(self._shared.root, diff_id), lock, None, self._shared)
            if layer.path not in self._shared.unusable and layer.ready:
                return layer
        return CachedLayer(diff_id, self._path(self._place.root, diff_id), lock, self._place, None)

    def prepare(self) -> None:
        """Make the directories.  Raises: OSError."""
        self._place.directory("layers", self._recipe)

    def _path(self, root: Path, diff_id: Digest) -> Path:
        return layer_path(root, self._text, diff_id)


def layer_path(root: Path, recipe: str, diff_id: Digest) -> Path:
    """Where the cache *root* has the image of the layer *diff_id* that is made by *recipe* (see `LayerStore`)."""
    return root / "layers" / _directory_of(recipe) / f"{diff_id.algorithm}-{diff_id.hex}.sqsh"


def _directory_of(recipe: str) -> str:
    return hashlib.sha256(f"{_FORMAT} {recipe}".encode()).hexdigest()[:_RECIPE_LENGTH]


class CachedLayer(NamedTuple):
    """The place of one layer image."""

    diff_id: Digest
    path: Path
    lock: Lock
    place: CacheDirectory | None
    """The cache that it is in, or belongs in; None: it is in *shared*."""
    shared: SharedCache | None

    @property
    def name(self) -> str:
        """The layer for people."""
        return f"layer {self.diff_id}"

    @property
    def sidecar(self) -> Path:
        """The path of its `LayerSidecar`, which identifies the published file."""
        return self.path.with_suffix(".json")

    @property
    def ready(self) -> bool:
        """Whether the image is there, is the file that was published, and nobody can have changed it."""
        owners = {0, os.geteuid()} if self.shared is None else self.shared.owners
        try:
            sidecar = LayerSidecar.parse(read_trusted(self.sidecar, owners, MAX_SIDECAR))
            with open_trusted(self.path, owners) as file:
                return sidecar.is_of(str(self.diff_id), file.status.st_size, file.status.st_mtime_ns)
        except (OSError, ValueError, Untrusted):
            return False

    def draft(self) -> contextlib.AbstractContextManager[Draft]:
        """The image without its name, in its directory; what is left there at the end is removed."""
        assert self.place is not None
        return self.place.draft(self.path, self.diff_id.short)

    def publish(self, file: Draft, checksum: str) -> None:
        """Give the complete image *file* its name, unless another process has been faster.  Raises: OSError."""
        assert self.place is not None
        if self.ready:  # locks do nothing here, or we were left behind
            return
        os.fchmod(file.fd, self.place.mode)
        status = os.fstat(file.fd)
        sidecar = LayerSidecar(str(self.diff_id), status.st_size, status.st_mtime_ns, checksum)
        # Whoever looks between the two renames finds a file that is not the one described, and makes it again.
        self.place.write(self.sidecar, bytes(sidecar))
        file.publish(self.path, replace=True)

    @property
    def is_sound(self) -> bool:
        """Whether the image's bytes are those that were published: all of them are read."""
        owners = {0, os.geteuid()} if self.shared is None else self.shared.owners
        checksum = Checksum()
        try:
            sidecar = LayerSidecar.parse(read_trusted(self.sidecar, owners, MAX_SIDECAR))
            with open_trusted(self.path, owners) as file:
                while data := os.read(file.descriptor, _READ):
                    checksum.add(data)
        except (OSError, ValueError, Untrusted):
            return False
        return checksum.hexdigest() == sidecar.crc32

    def discard(self) -> None:
        """Remove the image from the cache, or let this process not use the other cache's one any more."""
        if self.shared is not None:
            self.shared.unusable.add(self.path)
            return
        for path in (self.path, self.sidecar):
            with contextlib.suppress(OSError):
                path.unlink()
