"""Decides which names of a layer are visible in the image, below its upper layers.

A name in an upper layer hides the same name in lower layers.  Whiteouts and opaque markers (OCI image-spec, layer.md)
take effect on lower layers only.  Where an upper directory meets something else, lower layers no longer show through.
This is what overlayfs does with the layers that `enroot import` unpacks.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError, IntegrityError, printable
from enroot_slurm.oci.layer import AUFS, OPAQUE, WHITEOUT
from enroot_slurm.rootfs.paths import Implied, Symlinks, join

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["VISIBLE", "LayerNames", "NeedsPlan", "Stack"]

VISIBLE = -1
"""From `LayerNames.find`: the name shows."""


class NeedsPlan(EnrootSlurmError):
    """A layer has a name twice: its result must be planned before anything of it is written."""


class Stack:
    """The names that the layers from the top down to the present one have put into the image.

    Names are kept as their 64-bit hashes (SipHash, with a key of this process), in a third of the memory of paths.
    Of a million names, two share a hash once in 40 million imports.
    """

    def __init__(self, directories: Iterable[bytes], files: Iterable[bytes]) -> None:
        self.names: dict[int, int] = {hash(path): 1 for path in directories}
        """By hashed path: twice the number of the layer that has the name, and 1 more for a directory."""
        self.names.update((hash(path), 0) for path in files)
        self.removed: dict[int, int] = {}
        """The names that whiteouts remove: the number of the lowest layer that has one."""
        self.closed: dict[int, int] = {}
        """Directories into which nothing lower shows through: the number of the lowest layer that says so."""
        self.depth = 0
        """Layers so far; number 0 is the one that the stack is made with."""
        self.implied = Implied()

    def removes(self, path: bytes, since: int) -> bool:
        """Whether the layer *since*, or one between it and the current one, hides *path* of lower ones.

        It does by a marker, or by something that is no directory where *path* has one.
        """
        removed, closed, names = self.removed, self.closed, self.names
        while path:
            if removed.get(hash(path), 0) >= since:
                return True
            path = path.rpartition(b"/")[0]
            key = hash(path)
            if closed.get(key, 0) >= since:
                return True
            number, is_directory = divmod(names.get(key, 1), 2)
            if not is_directory and number >= since:
                return True
        return False


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
        self._markers: set[int] = set()
        self._hidden: dict[int, int] = {}  # what is no directory and does not show, by hashed path: member numbers
        self.directories: dict[bytes, bool] = {b"": hash(b"") in stack.closed}
        """The directories of this layer, named or implied: True where what is inside is hidden."""
        self.shown: dict[bytes, tuple[int, int]] = {}
        """Mode and mtime of the directories that this layer is the highest to have."""
        self.symlinks = Symlinks(self.directories)
        """Those of this layer, hidden ones too."""

    def enter(self, path: bytes, implied: tuple[int, int]) -> bytes:
        """The directory that *path* leads to in this layer; where no member names it, it gets *implied* attributes."""
        path = self.symlinks.lead(path)
        if path not in self.directories:
            for each in self._stack.implied.missing(path, self.directories):
                self.directory(each, implied)
        return path

    def directory(self, path: bytes, attributes: tuple[int, int]) -> None:
        """Add a directory, whose parent has been entered, with its mode and mtime; the last one wins."""
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
        """The member at *path* in this layer that is no directory: `VISIBLE`, a hidden member's number, or None."""
        key = hash(path)
        return VISIBLE if self._stack.names.get(key) == self._code else self._hidden.get(key)

    def whiteout(self, parent: bytes, name: bytes) -> bool:
        """The marker *name*, which starts with ``.wh.``, in the entered *parent*; False if it means nothing new."""
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
        key = hash(join(parent, name))
        if self.directories[parent] or key in self._markers:
            return False
        self._markers.add(key)
        return True

    def close(self, *, linked: bool) -> None:
        """End the layer: its markers take effect on those below.

        With *linked*, lower layers are to resolve links.  Then what does not show is noted as well, because it is in
        the way of lower directories: of what `Stack.removes` tells.
        """
        depth = self._stack.depth
        if linked:
            self._stack.closed.update(dict.fromkeys(self._hidden, depth))
        self._stack.removed.update(dict.fromkeys(self._removed, depth))
        self._stack.closed.update(dict.fromkeys(self._closed, depth))
