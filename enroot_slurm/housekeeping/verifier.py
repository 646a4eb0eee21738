"""Reading a cache to its last byte, to find what is no longer what it was.

Blobs and manifests are compared with their names, images and layers with what their sidecars say.  An image that was
joined from a damaged layer image is taken for damaged, too.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.layers import LayerSidecar
from enroot_slurm.cache.layout import locks_of
from enroot_slurm.cache.tree import Tree
from enroot_slurm.cache.trust import MAX_SIDECAR
from enroot_slurm.housekeeping.joined import layers_of
from enroot_slurm.oci.digest import Digest
from enroot_slurm.system.checksum import Checksum

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.cache.locks import Locks
    from enroot_slurm.cache.tree import CacheFile
    from enroot_slurm.housekeeping.inventory import Item

__all__ = ["Damage", "Verifier"]

_READ = 4 << 20
_FLIPPED = "its content is not what its sidecar says"


class Damage(NamedTuple):
    """Something that is not what it was."""

    kind: str
    path: str
    """Relative to the cache."""
    what: str
    removed: bool
    leased: bool
    """Whether jobs use it."""


class _DamageError(Exception):
    """Something is damaged; the message says how."""


class Verifier:
    """Checks what is in the cache *place*; with *repair*, what is damaged is removed, and made again when needed.

    read  is told the number of bytes of each piece that was read
    """

    def __init__(self, place: CacheDirectory, locks: Locks, *, repair: bool, read: Callable[[int], None]) -> None:
        self._place = place
        self._locks = locks
        self._repair = repair
        self._read = read

    def run(self, items: Iterable[Item]) -> list[Damage]:
        """The problems of *items*.  Items that somebody works on are left out.  Raises: OSError."""
        items, damages = tuple(items), []
        with Tree(self._place.root) as self._tree:
            for item in items:
                try:
                    self._check(item)
                except (_DamageError, OSError) as error:
                    what = error.strerror or "" if isinstance(error, OSError) else str(error)
                    if (damage := self._judge(item, what)) is not None:
                        damages.append(damage)
            damages += self._suspects(items, damages)
        return damages

    def _suspects(self, items: Iterable[Item], damages: Iterable[Damage]) -> Iterator[Damage]:
        """Images that may have a damaged layer's bytes in them: all that were joined from its image."""
        layers = {damage.path for damage in damages if damage.kind == "layer" and damage.what == _FLIPPED}
        known = {damage.path for damage in damages}
        for item in items if layers else ():
            if item.kind == "image" and item.sidecar is not None and item.path not in known:
                for layer in sorted(layers & layers_of(self._place.root, item)):
                    damage = self._judge(item, f"it may be joined from a damaged layer: {layer}")
                    if damage is not None:
                        yield damage
                    break

    def _judge(self, item: Item, what: str) -> Damage | None:
        """The damage of *item*, unless somebody has just changed or removed it, or does so."""
        name = next(iter(locks_of(item.path)), "")
        with contextlib.ExitStack() as stack:
            if self._repair and name and not stack.enter_context(self._locks.lock(name).attempt()):
                return None
            for file in item.files:
                now = self._tree.look(file.path)
                if now is None or now.identity != file.identity:
                    return None
            removed = self._repair
            for file in item.files if removed else ():
                removed = self._tree.remove(file) and removed
        return Damage(item.kind, item.path, what, removed, bool(item.leases))

    def _check(self, item: Item) -> None:
        """Raises: _DamageError, OSError."""
        if item.kind in {"blob", "manifest"}:
            digest = Digest.parse(item.digest)
            if self._hash(item.files[0], digest.algorithm) != digest.hex:
                raise _DamageError("its content is not what its name says")
            return
        if item.kind == "layer":
            self._check_layer(item)
            return
        if item.sidecar is None:
            self._missing(
                item, "is not the file that was published: its sidecar is damaged, or says another size or time"
            )
            return
        if item.sidecar.digest != item.digest:
            raise _DamageError(f"its sidecar is that of {Digest.parse(item.sidecar.digest)}")
        algorithm, _, stated = item.sidecar.checksum.partition(":")
        found = self._hash if algorithm == "sha256" else self._checksum
        if found(item.files[0]) != stated:
            raise _DamageError(_FLIPPED)

    def _check_layer(self, item: Item) -> None:
        if not item.complete:
            self._missing(item, "")
        image, sidecar = item.files
        try:
            known = LayerSidecar.parse(self._tree.read(sidecar, MAX_SIDECAR))
        except ValueError:
            raise _DamageError("its sidecar can't be understood") from None
        if not known.is_of(item.digest, image.size, image.identity[-1]):
            raise _DamageError("it is not the file that was published: its sidecar says another size or time")
        if self._checksum(image) != known.crc32:
            raise _DamageError(_FLIPPED)

    def _missing(self, item: Item, otherwise: str) -> None:
        """Say which half is missing, if one is."""
        if len(item.files) > 1:
            raise _DamageError(f"it {otherwise}")
        raise _DamageError("it has no sidecar" if item.files[0].path == item.path else "there is a sidecar only")

    def _checksum(self, entry: CacheFile) -> str:
        checksum = Checksum()
        for chunk in self._content(entry):
            checksum.add(chunk)
        return checksum.hexdigest()

    def _hash(self, entry: CacheFile, algorithm: str = "sha256") -> str:
        hasher = hashlib.new(algorithm)
        for chunk in self._content(entry):
            hasher.update(chunk)
        return hasher.hexdigest()

    def _content(self, entry: CacheFile) -> Iterator[bytes]:
        fd = self._tree.open(entry)
        try:
            while chunk := os.read(fd, _READ):
                yield chunk
                self._read(len(chunk))
        finally:
            os.close(fd)
