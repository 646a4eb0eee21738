"""What one layer holds once all of its members are applied in order.

Most layers have each name once, and stream through without a plan.  A plan is made, by reading the layer once
more, where a later member replaces an earlier one: the last one wins, as when the archive is unpacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError, printable
from enroot_slurm.oci.layer import WHITEOUT
from enroot_slurm.rootfs.tar import DIRECTORY, HARDLINK, SYMLINK, clean

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enroot_slurm.rootfs.tar import Member

__all__ = ["MAX_SYMLINKS", "Plan", "follow", "join", "make_plan", "outside"]

MAX_SYMLINKS = 40
"""Symlinks that one name may lead through (path_resolution(7))."""


class Plan(NamedTuple):
    """The result of a layer's members; names are resolved paths."""

    directories: dict[bytes, tuple[int, int] | None]
    """Mode and mtime of each, parents first; None where no member describes the directory."""
    members: dict[int, list[bytes]]
    """The number of each member that stays and is no directory (the first is 0): its names."""
    links: dict[bytes, list[bytes]]
    """Hard links to names that the layer does not have: target -> names."""
    whiteouts: list[bytes]
    """Names with their ``.wh.`` prefix."""


def outside(path: bytes) -> bool:
    """Whether *path* never gets into an image: the root itself, and what is below /dev, as with enroot."""
    return not path or path.startswith(b"dev/")


def join(parent: bytes, name: bytes) -> bytes:
    """The path of *name* in the directory *parent*, which is empty for the root."""
    return parent + b"/" + name if parent else name


def make_plan(members: Iterable[Member]) -> Plan:
    """The plan of the layer with these members."""
    tree = _Tree()
    for number, member in enumerate(members):
        tree.add(number, member)
    return tree.plan()


class _Tree:
    """A layer's name space while members are applied."""

    def __init__(self) -> None:
        self.directories: dict[bytes, tuple[int, int] | None] = {b"": None}
        self.files: dict[bytes, int] = {}
        self.symlinks: dict[bytes, bytes] = {}
        self.names: dict[int, list[bytes]] = {}
        self.links: list[tuple[bytes, bytes]] = []
        self.whiteouts: list[bytes] = []

    def add(self, number: int, member: Member) -> None:
        if outside(member.path):
            return
        parent, _, name = member.path.rpartition(b"/")
        path = join(self._enter(parent), name)
        if outside(path):
            return
        if name.startswith(WHITEOUT):
            self.whiteouts.append(path)
        elif member.kind == DIRECTORY:
            self._drop_file(path)
            self.directories[path] = (member.mode, member.mtime)
        elif member.kind == HARDLINK:
            self._link(path, member.link)
        else:
            self._drop(path)
            self._name(path, number)
            if member.kind == SYMLINK:
                self.symlinks[path] = member.link

    def plan(self) -> Plan:
        missing: dict[bytes, list[bytes]] = {}
        for path, target in self.links:
            if (number := self.files.get(target)) is not None:
                self._name(path, number)
            else:
                missing.setdefault(target, []).append(path)
        del self.directories[b""]
        return Plan(self.directories, {n: names for n, names in self.names.items() if names}, missing, self.whiteouts)

    def _link(self, path: bytes, link: bytes) -> None:
        parent, _, name = link.rpartition(b"/")
        target = join(self._enter(parent, create=False), name)
        number = self.files.get(target)
        if target == path:
            return
        self._drop(path)
        if number is None:
            self.links.append((path, target))
        else:
            self._name(path, number)
            if target in self.symlinks:
                self.symlinks[path] = self.symlinks[target]

    def _name(self, path: bytes, number: int) -> None:
        self.files[path] = number
        self.names.setdefault(number, []).append(path)

    def _enter(self, path: bytes, hops: int = 0, *, create: bool = True) -> bytes:
        """The directory that *path* leads to, made if need be."""
        if path in self.directories:
            return path
        parent, _, name = path.rpartition(b"/")
        path = join(self._enter(parent, hops, create=create), name)
        if path in self.symlinks:
            if hops == MAX_SYMLINKS:
                raise IntegrityError(f"too many symlinks on the way to {printable(path)} in a layer")
            return self._enter(follow(path, self.symlinks[path]), hops + 1, create=create)
        if create and path not in self.directories:
            self._drop_file(path)
            self.directories[path] = None
        return path

    def _drop_file(self, path: bytes) -> None:
        number = self.files.pop(path, None)
        if number is not None:
            self.names[number].remove(path)
        self.symlinks.pop(path, None)
        self.links = [(p, t) for p, t in self.links if p != path] if self.links else self.links

    def _drop(self, path: bytes) -> None:
        self._drop_file(path)
        if path not in self.directories:
            return
        del self.directories[path]
        inside = path + b"/"
        for below in [p for p in self.directories if p.startswith(inside)]:
            del self.directories[below]
        for below in [p for p in self.files if p.startswith(inside)]:
            self._drop_file(below)
        self.whiteouts = [p for p in self.whiteouts if not p.startswith(inside)]


def follow(path: bytes, target: bytes) -> bytes:
    """Where the symlink at *path* with *target* leads, below the root and by names alone."""
    return clean(target if target.startswith(b"/") else join(path.rpartition(b"/")[0], target))
