"""File systems by /proc/self/mountinfo: what is read, and what is said of locks, access times and the like."""

from __future__ import annotations

from pathlib import Path

import pytest

from enroot_slurm.doctor.mounts import check_mount
from enroot_slurm.system.mounts import mount_of, parse_mounts, read_mounts

NFS3 = "90 27 0:50 / /nfs rw,relatime shared:1 - nfs server:/export rw,vers=3,{},addr=10.0.0.1"
NFS4 = "91 27 0:51 /sub /nfs4 rw,noatime - nfs4 server:/export rw,vers=4.2,local_lock=none"
LUSTRE = "92 27 0:52 / /lustre rw - lustre 10.0.0.2@tcp:/fs rw,{}checksum"
BEEGFS = "93 27 0:53 / /beegfs rw,relatime - beegfs beegfs_nodev rw,cfgFile=/etc/beegfs/beegfs-client.conf"
XFS = "94 27 8:1 / /data {} - xfs /dev/sda1 rw,attr2"


def found(line: str, *, shared: bool = True, writes: bool = True) -> dict[str, tuple[str, str, str]]:
    """Status, message and hint by check, but for the line that names the file system."""
    [mount] = parse_mounts(line)
    findings = list(check_mount(mount, "the cache", shared=shared, writes=writes))
    assert findings[0].status == "ok"
    assert mount.kind in findings[0].message
    return {finding.check: (finding.status, finding.message, finding.hint) for finding in findings[1:]}


@pytest.mark.parametrize(
    ("line", "named"),
    [
        (NFS3.format("nolock,local_lock=all"), "nolock"),
        (NFS3.format("local_lock=flock"), "local_lock=flock"),
        (NFS3.format("local_lock=all"), "local_lock=all"),
        (LUSTRE.format("localflock,"), "localflock"),
        (LUSTRE.format("noflock,"), "noflock"),
        (LUSTRE.format(""), "noflock"),
        (BEEGFS, "tuneUseGlobalFileLocks"),
    ],
)
def test_locks_that_are_each_nodes_own(line, named) -> None:
    """Options that keep locks from other nodes are named, with a warning: images stay right."""
    [(check, (status, message, hint))] = found(line).items()
    assert (check, status) == ("cache.locks", "warning")
    assert named in message
    assert hint


@pytest.mark.parametrize(
    "line",
    [
        NFS3.format("local_lock=none"),
        NFS3.format("local_lock=posix"),  # flock is what is used
        NFS4,  # a client's noatime means nothing
        LUSTRE.format("flock,"),
        XFS.format("rw,relatime"),
    ],
)
def test_nothing_to_say(line) -> None:
    """File systems whose locks are seen by all, and that tell when files are read."""
    assert found(line) == {}


def test_noatime() -> None:
    """It matters for the site's cache, whose readers leave no other trace."""
    line = XFS.format("rw,noatime")
    assert found(line)["cache.noatime"][0] == "warning"
    assert found(line, shared=False) == {}


def test_read_only() -> None:
    """A file system that can't be written is an error for who writes, and right for all others."""
    line = XFS.format("ro,relatime")
    assert found(line)["cache.filesystem"][0] == "error"
    assert found(line, writes=False) == {}


def test_memory() -> None:
    """A cache in a tmpfs takes jobs' memory."""
    status, message, _ = found("95 27 0:60 / /ram rw - tmpfs none rw,size=1024k")["cache.filesystem"]
    assert status == "warning"
    assert "memory" in message


def test_which_mount_a_path_is_on() -> None:
    """The deepest mount point counts, of those in one place the last, and names are compared whole."""
    lines = [
        "1 0 8:1 / / rw - ext4 /dev/root rw",
        "2 1 8:2 / /data rw - xfs /dev/a rw",
        "3 1 8:3 / /data rw - btrfs /dev/b rw",
        r"4 1 8:4 / /with\040space\134 rw - nfs4 server:/x\040y rw",
        "5 1 8:5 / /data/deep ro shared:7 master:8 - tmpfs none",
    ]
    mounts = parse_mounts("\n".join([*lines, "", "garbage", "1 2 - 3"]))
    assert len(mounts) == len(lines)

    def kind(path: str) -> str | None:
        mount = mount_of(Path(path), mounts)
        return mount and mount.kind

    assert kind("/data/x/y") == "btrfs"
    assert kind("/data") == "btrfs"
    assert kind("/database") == "ext4"
    assert kind("/data/deep/x") == "tmpfs"
    assert mount_of(Path("/with space\\/x"), mounts).source == "server:/x y"
    assert mount_of(Path("/x"), []) is None


def test_this_machine() -> None:
    """What the kernel prints here can be read."""
    assert mount_of(Path("/proc/self"), read_mounts()).kind == "proc"
