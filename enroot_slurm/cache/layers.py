"""Layer images by their content: made once, and joined into every image that has the layer.

    ROOT/layers/RECIPE/sha256-HEX.sqsh    one layer as squashfs; HEX is its diff_id
    ROOT/layers/RECIPE/sha256-HEX.json    its `LayerSidecar`, written before the image gets its name
    ROOT/locks/layer-RECIPE-HEX.lock      held by the process that makes it

A layer is known by its diff_id, not by its blob's digest: the compression of the blob makes no difference here.
Layers that can only be converted together, a stack, are one image: HEX is the ChainID of the topmost one.
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
_STACK = "stack "  # in sidecars, before a ChainID
_READ = 1 << 20


class LayerSidecar(NamedTuple):
    """The description of a layer's image."""

    layer: str
    """The diff_id, so that nobody can pass off one layer as another by giving its files other names.

    Of a stack, ``stack`` and its ChainID: no image config can pass that off as the diff_id of a layer.
    """
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

    def is_of(self, digest: str, size: int, mtime_ns: int) -> bool:
        """Whether it tells of this image, of a layer or a stack."""
        return (self.layer.removeprefix(_STACK), self.size, self.mtime_ns) == (digest, size, mtime_ns)

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
        return self._image(str(diff_id), diff_id, size)

    def stack(self, chain_id: Digest, size: int = 0) -> CachedLayer:
        """The image of all layers from the lowest one to that with *chain_id*; *size*: bytes of their blobs."""
        return self._image(f"{_STACK}{chain_id}", chain_id, size)

    def _image(self, subject: str, digest: Digest, size: int) -> CachedLayer:
        lock = self._locks.lock(f"layer-{self._recipe}-{digest.hex}", size)
        if self._shared is not None:
            layer = CachedLayer(subject, digest, self._path(self._shared.root, digest), lock, None, self._shared)
            if layer.path not in self._shared.unusable and layer.ready:
                return layer
        return CachedLayer(subject, digest, self._path(self._place.root, digest), lock, self._place, None)

    def prepare(self) -> None:
        """Make the directories.  Raises: OSError."""
        self._place.directory("layers", self._recipe)

    def _path(self, root: Path, digest: Digest) -> Path:
        return layer_path(root, self._text, digest)


def layer_path(root: Path, recipe: str, digest: Digest) -> Path:
    """Where the cache *root* has the image that is made by *recipe* (see `LayerStore`) of a layer, or of a stack.

    *digest* is the layer's diff_id, or the stack's ChainID.
    """
    return root / "layers" / _directory_of(recipe) / f"{digest.algorithm}-{digest.hex}.sqsh"


def _directory_of(recipe: str) -> str:
    return hashlib.sha256(f"{_FORMAT} {recipe}".encode()).hexdigest()[:_RECIPE_LENGTH]


class CachedLayer(NamedTuple):
    """The place of one layer image, or of a stack's."""

    subject: str
    """As in its `LayerSidecar`."""
    digest: Digest
    """The diff_id, or the ChainID."""
    path: Path
    lock: Lock
    place: CacheDirectory | None
    """The cache that it is in, or belongs in; None: it is in *shared*."""
    shared: SharedCache | None

    @property
    def name(self) -> str:
        """The layer or the stack for people."""
        return self.subject if self.subject.startswith(_STACK) else f"layer {self.subject}"

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
                known = sidecar.is_of(str(self.digest), file.status.st_size, file.status.st_mtime_ns)
                return known and sidecar.layer == self.subject
        except (OSError, ValueError, Untrusted):
            return False

    def draft(self) -> contextlib.AbstractContextManager[Draft]:
        """The image without its name, in its directory; what is left there at the end is removed."""
        assert self.place is not None
        return self.place.draft(self.path, self.digest.short)

    def publish(self, file: Draft, checksum: str) -> None:
        """Give the complete image *file* its name, unless another process has been faster.  Raises: OSError."""
        assert self.place is not None
        if self.ready:  # locks do nothing here, or we were left behind
            return
        os.fchmod(file.fd, self.place.mode)
        status = os.fstat(file.fd)
        sidecar = LayerSidecar(self.subject, status.st_size, status.st_mtime_ns, checksum)
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
