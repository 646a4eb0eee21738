"""The file system of a cache: what its mount options mean for locks and for ages.

Sources: nfs(5) (lock, local_lock), mount.lustre(8) (flock, localflock), beegfs-client.conf
(tuneUseGlobalFileLocks), mount(8) (noatime).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.doctor.finding import error, ok, warning
from enroot_slurm.system.mounts import MEMORY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.system.mounts import Mount

__all__ = ["check_mount"]

_NOT_COHERENT = (
    "processes on other nodes do not see its locks: an image may be imported more than once, but never wrong"
)


def check_mount(mount: Mount, title: str, *, shared: bool, writes: bool) -> Iterator[Finding]:
    """The properties of *mount* that matter to a cache on it.

    title   what it is, for people
    shared  it is the site's
    writes  this process, or the one that it stands for, writes to it
    """
    where = "this node's own" if mount.is_local else f"from {mount.source}"
    yield ok("cache.filesystem", f"{title} is on {mount.kind} at {mount.point}, {where}")
    if mount.kind in MEMORY:
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
    """The problem of locks on *mount* that its options show, and what to do; None without one."""
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
