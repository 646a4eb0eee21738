"""Stacks of layers to make images of, and what different readers see in these."""

from __future__ import annotations

import contextlib
import os
import random
import subprocess
import tarfile
import time

import pytest
from hypothesis import strategies as st
from support.layer_images import Member, archive
from support.tools import require_root
from support.tree import ROOT, diff_trees, read_directory, read_tree

from enroot_slurm.rootfs.entrypoint import RcLayer

__all__ = ["RC", "STACKS", "assert_equal", "corners", "members", "mounted", "mounted_equals", "noise", "read_mounted"]

DIR, FILE, SYMLINK, HARDLINK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
RC = RcLayer((b"etc", b"a", b"a/a"), ((b"etc/rc", b"rc\n" * 5000), (b"a/b", b""), (b"c", b"mine")))

PATHS = st.lists(st.sampled_from("abcd"), min_size=1, max_size=4).map("/".join)
KINDS = st.sampled_from(
    ["file"] * 4 + ["dir"] * 3 + ["whiteout"] * 2 + ["link"] * 2 + ["opaque", "symlink", "fifo", "big"]
)
LAYERS = st.lists(st.tuples(PATHS, KINDS, st.integers(0, 0o7777)), max_size=12)
STACKS = st.lists(st.lists(LAYERS, min_size=1, max_size=5), min_size=8, max_size=12)


def members(operations, prefix, salt):
    """A proper layer of *operations*: directories before what is in them, each name once."""
    made = {prefix: Member(prefix, DIR, 0o750 + salt % 8)}
    files = []

    def enter(path):
        if path and path not in made:
            if not enter(path.rpartition("/")[0]):
                return False
            made[path] = Member(path, DIR, 0o755)
        return not path or made[path].kind == DIR

    for i, (inner, kind, mode) in enumerate(operations):
        path = f"{prefix}/{inner}"
        parent, _, name = path.rpartition("/")
        if kind == "opaque":
            path, kind = f"{path}/.wh..wh..opq", "whiteout"
            parent = path.rpartition("/")[0]
        elif kind == "whiteout":
            path = f"{parent}/.wh.{name}"
        if path in made or not enter(parent):
            continue
        mtime = 1_000_000_000 + salt * 1000 + i
        if kind == "dir":
            made[path] = Member(path, DIR, mode, mtime=mtime)
        elif kind == "symlink":
            made[path] = Member(path, SYMLINK, 0o777, link=f"to{i}", mtime=mtime)
        elif kind == "fifo":
            made[path] = Member(path, tarfile.FIFOTYPE, mode, mtime=mtime)
        elif kind == "link" and files:
            made[path] = Member(path, HARDLINK, mode, link=files[mode % len(files)], mtime=mtime)
        elif kind == "whiteout":
            made[path] = Member(path, mtime=mtime)
        else:
            content = noise(5000 * (i % 4), salt + i) if kind == "big" else b"%d %d" % (salt, i)
            made[path] = Member(path, FILE, mode, content, mtime=mtime)
            files.append(path)
    return list(made.values())


def noise(size, seed=1):
    return random.Random(seed).randbytes(size)


def assert_equal(linked, streamed, how="", ignore=()):
    trees = (read_tree(linked, how=how), read_tree(streamed, how=how))
    lines = diff_trees(*trees, names=("one", "other"), ignore_mtime_of=(ROOT,), ignore=ignore)
    assert not lines, "\n".join(lines[:40])


def corners():
    """Layers with one of everything."""
    big = noise(1 << 20) + b"text " * 400_000 + noise(777, 2)
    low = [
        *(Member(p, DIR) for p in ("d", "d/e", "d/gone", "o", "mode", "empty")),
        Member("d/big", content=big),
        Member("d/big2", content=big[: 1 << 20]),
        Member("d/gone/big", content=noise(3 << 20, 3)),
        Member("d/e/holes", content=bytes(5 << 20) + b"x" + bytes(3 << 20)),
        Member("d/e/nothing", content=bytes(2 << 20)),
        Member("d/empty"),
        Member("d/link1", content=b"linked"),
        Member("d/link2", HARDLINK, link="d/link1"),
        Member("o/link3", HARDLINK, link="d/link1"),
        Member("s", SYMLINK, 0o777, link="d/../" * 50),
        Member("s2", HARDLINK, link="s"),
        Member("fifo", tarfile.FIFOTYPE, 0o200),
        Member("char", tarfile.CHRTYPE, 0o600, device=(300, 70_000)),
        Member("block", tarfile.BLKTYPE, 0o600, device=(8, 1)),
        Member("mode/none", mode=0),
        Member("mode/exec", mode=0o4011),
        Member("mode/dir", DIR, 0),
        *(Member(f"o/{i:03}", content=noise(i * 31, i)) for i in range(300)),
    ]
    middle = [
        *(Member(p, DIR, 0o711) for p in ("d", "d/e", "o", "n")),
        Member("d/.wh.gone"),
        Member("o/.wh.link3"),
        *(Member(f"o/.wh.{i:03}") for i in range(0, 300, 3)),
        *(Member(f"n/{i:03}", content=b"%d\n" % i * 50) for i in range(300)),
    ]
    top = [
        Member("d", DIR, 0o700), Member("d/e", DIR), Member("d/e/new", content=big[1 << 19 :]),
        Member("empty"), Member("n", DIR), Member("n/.wh..wh..opq"), Member("n/only", content=b"this"),
    ]  # fmt: skip
    return [archive(layer) for layer in (low, middle, top)]


@contextlib.contextmanager
def mounted(image, directory, *command):
    directory.mkdir(exist_ok=True)
    done = subprocess.run([*command, image, directory], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"can't mount: {done.stderr.decode()}")
    try:
        yield directory
    finally:
        for _ in range(20):
            if not subprocess.run(["umount", directory], capture_output=True, check=False).returncode:
                break
            time.sleep(0.1)


def read_mounted(root):
    """The tree of a mounted image; the kernel has no answer to questions for attributes where no table is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("support.tree._listxattr", lambda _: [])
        return read_directory(root)


def mounted_equals(tmp_path, block):
    """The kernel sees what unsquashfs sees."""
    require_root("loop mounts")
    with mounted(tmp_path / "linked", tmp_path / "kernel", "mount", "-t", "squashfs", "-o", "loop,ro") as root:
        tree = read_mounted(root)
        assert os.statvfs(root).f_files == block.inodes
    assert not diff_trees(tree, read_tree(tmp_path / "linked"))
