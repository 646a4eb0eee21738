"""The mounts of this machine, as /proc/self/mountinfo lists them (proc_pid_mountinfo(5))."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["LOCAL", "MEMORY", "Mount", "mount_of", "parse_mounts", "read_mounts"]

LOCAL = frozenset(
    (
        *(
            "bcachefs",
            "btrfs",
            "devtmpfs",
            "erofs",
            "ext2",
            "ext3",
            "ext4",
            "f2fs",
            "jfs",
            "overlay",
            "rootfs",
            "squashfs",
        ),
        *("squashfs", "vfat", "xfs", "zfs"),
    )
)
"""Types of file systems that are on a disk of this machine."""
MEMORY = frozenset(("ramfs", "tmpfs"))
"""Likewise, in its memory."""
_ESCAPE = re.compile(r"\\([0-7]{3})")


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
        return self.kind in LOCAL | MEMORY


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
