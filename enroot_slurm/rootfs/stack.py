"""Which names of a layer show in the image, below the layers that are above it.

What an upper layer has hides the same name below it.  Whiteouts and opaque markers (OCI image-spec, layer.md) take
effect on lower layers only.  Where an upper directory meets something else, lower layers no longer show through.
This is what overlayfs does with the layers that `enroot import` unpacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError, IntegrityError, printable
from enroot_slurm.oci.layer import AUFS, OPAQUE, WHITEOUT
from enroot_slurm.rootfs.plan import MAX_SYMLINKS, follow, join

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["VISIBLE", "LayerNames", "NeedsPlan", "Stack"]

VISIBLE = -1
"""From `LayerNames.find`: the name shows."""


class NeedsPlan(EnrootSlurmError):
    """A layer has a name twice: its result must be planned before anything of it is written."""


class Stack:
    """What the layers from the top down to the one that is read have put into the image.

    Names are kept as their 64-bit hashes (SipHash, with a key of this process), in a third of the memory of paths.
    Of a million names, two share a hash once in 40 million imports.
    """

    def __init__(self, directories: Iterable[bytes], files: Iterable[bytes]) -> None:
        self.names: dict[int, int] = {hash(path): 1 for path in directories}
        """By hashed path: twice the number of the layer that has the name, and 1 more for a directory."""
        self.names.update((hash(path), 0) for path in files)
        self.removed: set[int] = set()
        """What whiteouts name."""
        self.closed: set[int] = set()
        """Directories into which nothing lower shows through."""
        self.depth = 0
        """Layers so far; number 0 is the one that the stack is made with."""


class LayerNames:
    """The names of the next lower layer of *stack*, as its members are met.

    Raises: NeedsPlan, from any method, where a member replaces an earlier one of another kind or name.
    """

    def __init__(self, stack: Stack) -> None:
        stack.depth += 1
        self._stack = stack
        self._code = 2 * stack.depth
        self._removed: list[int] = []
        self._closed: list[int] = []
        self._hidden: dict[int, int] = {}  # what is no directory and does not show, by hashed path: member numbers
        self.directories: dict[bytes, bool] = {b"": hash(b"") in stack.closed}
        """The directories of this layer, named or implied: True where what is inside is hidden."""
        self.shown: dict[bytes, tuple[int, int]] = {}
        """Mode and mtime of the directories that this layer is the highest to have."""
        self.symlinks: dict[bytes, bytes] = {}
        """Targets of the symlinks of this layer, hidden ones too: they lead names of this layer elsewhere."""

    def enter(self, path: bytes, implied: tuple[int, int], hops: int = 0) -> bytes:
        """The directory that *path* leads to in this layer; where no member names it, it gets *implied* attributes."""
        if path in self.directories:
            return path
        parent, _, name = path.rpartition(b"/")
        path = join(self.enter(parent, implied, hops), name)
        if path in self.symlinks:
            return self.enter(self._follow(path, hops), implied, hops + 1)
        if path not in self.directories:
            self.directory(path, implied)
        return path

    def resolve(self, path: bytes, hops: int = 0) -> bytes:
        """*path* with the symlinks of this layer followed in all but its last component."""
        parent, _, name = path.rpartition(b"/")
        if parent and parent not in self.directories:
            parent = self.resolve(parent, hops)
            while parent in self.symlinks:
                parent = self.resolve(self._follow(parent, hops), hops + 1)
                hops += 1
        return join(parent, name)

    def directory(self, path: bytes, attributes: tuple[int, int]) -> None:
        """A directory, whose parent has been entered, with its mode and mtime; the last to come has its way."""
        key = hash(path)
        above = self._stack.names.get(key)
        if above == self._code or key in self._hidden:
            raise NeedsPlan(f"{printable(path)} is in a layer twice")
        if above == self._code + 1:
            above = None
        parent, _, name = path.rpartition(b"/")
        hidden = self.directories[parent] or name.startswith(WHITEOUT)
        if not hidden and above is None and key not in self._stack.removed:
            self.shown[path] = attributes
            self._stack.names[key] = self._code + 1
        if path not in self.directories:
            is_file = above is not None and not above & 1
            self.directories[path] = hidden or is_file or key in self._stack.closed

    def claim(self, path: bytes, parent: bytes, number: int) -> bool:
        """Whether *path*, the member *number*, which is no directory and is in the entered *parent*, shows."""
        key = hash(path)
        above = self._stack.names.get(key)
        if key in self._hidden or path in self.directories or above == self._code:
            raise NeedsPlan(f"{printable(path)} is in a layer twice")
        if above is None and not self.directories[parent] and key not in self._stack.removed:
            self._stack.names[key] = self._code
            return True
        if above is not None and above & 1:
            self._closed.append(key)
        self._hidden[key] = number
        return False

    def find(self, path: bytes) -> int | None:
        """What is at *path* in this layer, and no directory: `VISIBLE`, a hidden member's number, or None."""
        key = hash(path)
        return VISIBLE if self._stack.names.get(key) == self._code else self._hidden.get(key)

    def whiteout(self, parent: bytes, name: bytes) -> bool:
        """The marker *name*, which starts with ``.wh.``, in the entered *parent*; False if it means nothing."""
        if name == OPAQUE:
            self._closed.append(hash(parent))
        elif name.startswith(AUFS):
            return False
        else:
            victim = name.removeprefix(WHITEOUT)
            if victim in (b"", b".", b".."):
                raise IntegrityError(f"a layer has an invalid whiteout: {printable(join(parent, name))}")
            key = hash(join(parent, victim))
            self._removed.append(key)
            self._closed.append(key)
        return True

    def removes(self, path: bytes) -> bool:
        """Whether this layer's markers hide *path* of lower layers."""
        while path:
            if hash(path) in self._removed:
                return True
            path = path.rpartition(b"/")[0]
            if hash(path) in self._closed:
                return True
        return False

    def close(self) -> None:
        """End the layer: its markers take effect on those below."""
        self._stack.removed.update(self._removed)
        self._stack.closed.update(self._closed)

    def _follow(self, path: bytes, hops: int) -> bytes:
        if hops >= MAX_SYMLINKS:
            raise IntegrityError(f"too many symlinks on the way to {printable(path)} in a layer")
        return follow(path, self.symlinks[path])
