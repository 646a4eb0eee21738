"""The file system of a cache: what /proc/self/mountinfo says of it, and what that means for locks and for ages.

Sources: proc_pid_mountinfo(5), nfs(5) (lock, local_lock), mount.lustre(8) (flock, localflock), beegfs-client.conf
(tuneUseGlobalFileLocks), mount(8) (noatime).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.doctor.finding import error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enroot_slurm.doctor.finding import Finding

__all__ = ["Mount", "check_mount", "mount_of", "parse_mounts", "read_mounts"]

_LOCAL = frozenset(
    ("bcachefs", "btrfs", "erofs", "ext2", "ext3", "ext4", "f2fs", "jfs", "overlay", "squashfs", "vfat", "xfs", "zfs")
)
_MEMORY = frozenset(("ramfs", "tmpfs"))
_ESCAPE = re.compile(r"\\([0-7]{3})")
_NOT_COHERENT = (
    "processes on other nodes do not see its locks: an image may be imported more than once, but never wrong"
)


class Mount(NamedTuple):
    """A line of mountinfo."""

    point: str
    kind: str
    """The type of the file system, such as ``nfs4``."""
    source: str
    """The device or server."""
    options: frozenset[str]
    """Of the mount and of the file system."""

    def option(self, name: str) -> str:
        """The value of the option *name*, or empty."""
        return next((o.partition("=")[2] for o in self.options if o.startswith(f"{name}=")), "")

    @property
    def is_local(self) -> bool:
        """Whether it is surely of this machine."""
        return self.kind in _LOCAL | _MEMORY


def read_mounts() -> list[Mount]:
    """The mounts that this process sees.  Raises: OSError."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:  # noqa: PTH123
        return parse_mounts(file.read())


def parse_mounts(text: str) -> list[Mount]:
    """The lines of mountinfo; what has another form is left out."""
    mounts = []
    for line in text.splitlines():
        head, _, tail = (part.split(" ") for part in line.partition(" - "))
        if len(head) >= 6 and len(tail) >= 2:
            options = f"{head[5]},{tail[2] if len(tail) > 2 else ''}".split(",")
            mounts.append(Mount(_plain(head[4]), tail[0], _plain(tail[1]), frozenset(filter(None, options))))
    return mounts


def _plain(text: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), text)


def mount_of(path: Path, mounts: list[Mount]) -> Mount | None:
    """The mount that *path*, without symbolic links, is on: the deepest one, and of those in one place the last."""
    names = {str(each) for each in (path, *path.parents)}
    found = [(len(mount.point), number, mount) for number, mount in enumerate(mounts) if mount.point in names]
    return max(found)[2] if found else None


def check_mount(mount: Mount, title: str, *, shared: bool, writes: bool) -> Iterator[Finding]:
    """What is to be known about a cache on *mount*.

    title   what it is, for people
    shared  it is the site's
    writes  this process, or the one that it stands for, writes to it
    """
    where = "this node's own" if mount.is_local else f"from {mount.source}"
    yield ok("cache.filesystem", f"{title} is on {mount.kind} at {mount.point}, {where}")
    if mount.kind in _MEMORY:
        yield warning(
            "cache.filesystem",
            f"{title} is in memory ({mount.kind} at {mount.point}): it takes what jobs need, and is lost at a reboot",
            "Put it on a disk, or on a file system that all nodes share.",
        )
    if writes and "ro" in mount.options:
        yield error(
            "cache.filesystem", f"{mount.point} is mounted read-only", f"Run: mount -o remount,rw {mount.point}"
        )
    if trouble := _locks(mount):
        yield warning("cache.locks", *trouble)
    if shared and "noatime" in mount.options and not mount.kind.startswith("nfs"):  # there, the server decides
        yield warning(
            "cache.noatime",
            f"{mount.point} is mounted with noatime: collections do not see when users read images, "
            "and may remove what is in use without a lease",
            "Mount it with relatime, or let the prolog lease images (docs/slurm.md).",
        )


def _locks(mount: Mount) -> tuple[str, str] | None:
    """What is wrong with the locks of *mount* by its options, and what to do; None if nothing is, by these."""
    kind, options = mount.kind, mount.options
    if kind in {"nfs", "nfs4"} and ("nolock" in options or mount.option("local_lock") in {"all", "flock"}):
        named = "nolock" if "nolock" in options else f"local_lock={mount.option('local_lock')}"
        return f"{mount.point} is NFS mounted with {named}: {_NOT_COHERENT}", f"Mount it without {named}: see nfs(5)."
    if kind == "lustre" and "flock" not in options:
        named = "localflock" if "localflock" in options else "noflock"
        why = _NOT_COHERENT if named == "localflock" else "there are no locks: an image may be imported more than once"
        return f"{mount.point} is Lustre mounted with {named}: {why}", "Mount it with -o flock: see mount.lustre(8)."
    if kind == "beegfs":
        return (
            f"{mount.point} is BeeGFS, whose locks are each node's own unless tuneUseGlobalFileLocks is set",
            "See beegfs-client.conf; 'enroot-slurm doctor --nodes 2' tells whether locks work between nodes.",
        )
    return None
