"""The visible tree of a stack of layer images: their directories laid over each other.

A name in an upper layer hides the same name in lower layers.  Whiteouts and opaque markers, which are in layer images
as the empty files that they are in layers (OCI image-spec, layer.md), take effect on lower layers only.  Where an upper
directory meets something else, lower layers no longer show through.

The tree is kept as columns, some twenty bytes for each name, and not as objects; nothing recurses.
"""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from enroot_slurm.errors import printable
from enroot_slurm.oci.layer import AUFS, OPAQUE, WHITEOUT
from enroot_slurm.squashfs.format.directories import name_at
from enroot_slurm.squashfs.format.inodes import DIRECTORY, SOCKET
from enroot_slurm.squashfs.format.superblock import CannotJoin

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from enroot_slurm.squashfs.joining.layer_image import LayerImage

__all__ = ["POSITIONS", "Overlay"]

_MAX_ENTRIES = 10_000_000
"""Names that an image may have."""
POSITIONS = 1 << 40
"""Positions of inodes that a layer has: an inode of the tree is ``layer * POSITIONS + position``."""


class Overlay:
    """The names that show of *images*, the top one first; root is entry 0 and directory 0.

    The names of a directory are one after the other, sorted.  Directories come before what is in them.
    Raises: CannotJoin.
    """

    def __init__(self, images: Sequence[LayerImage]) -> None:
        self._images = images
        self.kinds = bytearray()
        """Of each entry: what it is, as in `inodes`."""
        self.inodes: array[int] = array("Q")
        """Of each entry: its inode; but the number of the directory if it is one."""
        self._names: array[int] = array("I")
        self.directories: array[int] = array("Q")
        """Of each directory: its inode in the uppermost layer that has it."""
        self.entries: array[int] = array("I")
        """Of each directory: which entry it is itself."""
        self.parents: array[int] = array("I")
        """Of each directory: the number of the one that it is in; of the root its own."""
        self._first: array[int] = array("I")
        self._last: array[int] = array("I")
        self._build()

    def __len__(self) -> int:
        return len(self.kinds)

    def inside(self, directory: int) -> range:
        """The entries that are in the *directory* with this number."""
        return range(self._first[directory], self._last[directory])

    def names(self, directory: int) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield what is in the *directory* with this number: entry, kind, inode, and name."""
        inside = self.inside(directory)
        columns = (column[inside.start : inside.stop] for column in (self.kinds, self.inodes, self._names))
        for entry, kind, inode, name in zip(inside, *columns, strict=True):
            layer = (inode if kind != DIRECTORY else self.directories[inode]) // POSITIONS
            yield entry, kind, inode, name_at(self._images[layer].directories, name)

    def _build(self) -> None:
        self._add(DIRECTORY, 0, 0)
        pending = [(0, 0, [layer * POSITIONS + image.root for layer, image in enumerate(self._images)])]
        while pending:
            entry, parent, sources = pending.pop()
            number = self.inodes[entry] = len(self.directories)
            self.directories.append(sources[0])
            self.entries.append(entry)
            self.parents.append(parent)
            self._first.append(len(self))
            below = []
            for kind, at, inodes in self._overlay(sources) if len(sources) > 1 else self._alone(sources[0]):
                if kind == DIRECTORY:
                    below.append((len(self), number, inodes))
                self._add(kind, inodes[0], at)
            self._last.append(len(self))
            if len(self) > _MAX_ENTRIES:
                raise CannotJoin(f"the layers have more than {_MAX_ENTRIES} names")
            pending += reversed(below)

    def _add(self, kind: int, inode: int, name: int) -> None:
        if not DIRECTORY <= kind <= SOCKET:
            raise CannotJoin(f"a layer image has an inode of kind {kind}")
        self.kinds.append(kind)
        self.inodes.append(inode)
        self._names.append(name)

    def _alone(self, source: int) -> Iterator[tuple[int, int, list[int]]]:
        """Yield the names of a directory that only one layer has: kind, where the name is, and its inode."""
        layer, position = divmod(source, POSITIONS)
        first = layer * POSITIONS
        for name, inode, kind, at in self._images[layer].listing(position):
            if not name.startswith(WHITEOUT):
                yield kind, at, [first + inode]

    def _overlay(self, sources: Iterable[int]) -> Iterable[tuple[int, int, list[int]]]:
        """The names of one directory, which *sources* are from the top: kind, where the name is, and its inodes."""
        shown: dict[bytes, tuple[int, int, list[int]]] = {}
        closed: set[bytes] = set()  # names of which nothing lower shows
        for source in sources:
            layer, position = divmod(source, POSITIONS)
            first = layer * POSITIONS
            removed = []
            opaque = False
            for name, inode, kind, at in self._images[layer].listing(position):
                if name.startswith(WHITEOUT):
                    opaque = opaque or name == OPAQUE
                    if not name.startswith(AUFS):
                        removed.append(_victim(name))
                elif name not in closed:
                    if name not in shown:
                        shown[name] = (kind, at, [first + inode])
                    elif kind == DIRECTORY:
                        shown[name][2].append(first + inode)
                    if kind != DIRECTORY:
                        closed.add(name)
            closed.update(removed)
            if opaque:
                break
        return [shown[name] for name in sorted(shown)]


def _victim(name: bytes) -> bytes:
    victim = name.removeprefix(WHITEOUT)
    if victim in (b"", b".", b".."):
        raise CannotJoin(f"a layer has an invalid whiteout: {printable(name)}")
    return victim
