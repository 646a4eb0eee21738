"""The content of one layer once all of its members are applied in order.

Most layers have each name once, and stream through without a plan.  A plan is made, by reading the layer once
more, where a later member replaces an earlier one: the last one wins, as when the archive is unpacked.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.oci.layer import WHITEOUT
from enroot_slurm.rootfs.hard_links import ends
from enroot_slurm.rootfs.paths import Symlinks, join, outside
from enroot_slurm.tar.reader import DIRECTORY, HARDLINK, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Iterable

    from enroot_slurm.rootfs.paths import Implied
    from enroot_slurm.tar.reader import Member

__all__ = ["Plan", "make_plan"]


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


def make_plan(members: Iterable[Member], implied: Implied) -> Plan:
    """The plan of the layer with these members.  Raises: IntegrityError."""
    tree = _Tree(implied)
    for number, member in enumerate(members):
        tree.add(number, member)
    return tree.plan()


class _Tree:
    """A layer's name space while members are applied.

    What is in a directory is listed, so that dropping it takes no longer than making it did.
    """

    def __init__(self, implied: Implied) -> None:
        self._implied = implied
        self._directories: dict[bytes, tuple[int, int] | None] = {b"": None}
        self._inside: dict[bytes, list[bytes]] = {}  # what was made in a directory, and may be gone
        self._files: dict[bytes, int] = {}  # the members that names are of
        self._waiting: dict[bytes, bytes] = {}  # hard links whose targets have not come yet
        self._whiteouts: dict[bytes, dict[bytes, None]] = {}  # by directory: their paths
        self._symlinks = Symlinks(self._directories)

    def add(self, number: int, member: Member) -> None:
        if outside(member.path):
            return
        parent, _, name = member.path.rpartition(b"/")
        parent = self._enter(parent)
        path = join(parent, name)
        if outside(path):
            return
        if name.startswith(WHITEOUT):
            self._whiteouts.setdefault(parent, {})[path] = None
        elif member.kind == DIRECTORY:
            if path not in self._directories:
                self._drop(path)
                self._list(parent, path)
            self._directories[path] = (member.mode, member.mtime)
        elif member.kind == HARDLINK:
            self._link(parent, path, member.link)
        else:
            self._drop(path)
            self._list(parent, path)
            self._files[path] = number
            if member.kind == SYMLINK:
                self._symlinks[path] = member.link

    def plan(self) -> Plan:
        members: dict[int, list[bytes]] = {}
        for path, number in self._files.items():
            members.setdefault(number, []).append(path)
        missing: dict[bytes, list[bytes]] = {}
        targets = {path: self._symlinks.resolve(link) for path, link in self._waiting.items()}
        for path, target in ends(targets, self._directories).items():
            if (found := self._files.get(target)) is not None:
                members[found].append(path)
            else:
                missing.setdefault(target, []).append(path)
        del self._directories[b""]
        return Plan(self._directories, members, missing, [p for inside in self._whiteouts.values() for p in inside])

    def _link(self, parent: bytes, path: bytes, link: bytes) -> None:
        target = self._symlinks.resolve(link)
        number = self._files.get(target)
        if number is not None and target == path:
            return  # it is there already; GNU tar lets it be, too
        to = self._symlinks.get(target)
        self._drop(path)
        self._list(parent, path)
        if number is None:
            self._waiting[path] = link
            return
        self._files[path] = number
        if to is not None:
            self._symlinks[path] = to

    def _enter(self, path: bytes) -> bytes:
        """The directory that *path* leads to, made if need be."""
        path = self._symlinks.lead(path)
        if path not in self._directories:
            for each in self._implied.missing(path, self._directories):
                self._drop(each)
                self._list(each.rpartition(b"/")[0], each)
                self._directories[each] = None
        return path

    def _list(self, parent: bytes, path: bytes) -> None:
        self._inside.setdefault(parent, []).append(path)

    def _drop(self, path: bytes) -> None:
        """Nothing is at *path* any more, nor below it."""
        gone = [path]
        while gone:
            path = gone.pop()
            if self._files.pop(path, None) is None:
                self._waiting.pop(path, None)
            elif path in self._symlinks:
                del self._symlinks[path]
            if path in self._directories:
                del self._directories[path]
                self._symlinks.forget()
                gone += self._inside.pop(path, ())
                self._whiteouts.pop(path, None)
