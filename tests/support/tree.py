"""The content of a squashfs image, or of a directory, as a dictionary of paths; and what differs between two."""

from __future__ import annotations

import hashlib
import os
import stat
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.tools import require_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

__all__ = ["ROOT", "Entry", "diff_trees", "read_directory", "read_tree"]

ROOT = b"."
"""The path of the root directory; all others are relative to it (``etc/passwd``)."""


class Entry(NamedTuple):
    """What one path of an image is."""

    kind: str
    """file, dir, symlink, char, block, fifo or socket"""
    mode: int = 0o755
    """Permission bits with setuid, setgid and sticky."""
    uid: int = 0
    gid: int = 0
    size: int = 0
    """Of files only."""
    mtime: int = 0
    target: bytes = b""
    """Of symlinks only."""
    device: tuple[int, int] = (0, 0)
    """Major and minor, of char and block."""
    sha256: str = ""
    """Of a file's content."""
    link: bytes = b""
    """The first path, in sorted order, of a group of hard links; empty when there is but one."""
    xattrs: tuple[tuple[str, bytes], ...] = ()

    def __str__(self) -> str:
        more = {
            "file": f" {self.size} bytes {self.sha256[:12]}",
            "symlink": f" -> {_show(self.target)}",
            "char": f" {self.device[0]}:{self.device[1]}",
            "block": f" {self.device[0]}:{self.device[1]}",
        }.get(self.kind, "")
        return f"{self.kind} {self.mode:04o} {self.uid}:{self.gid}{more}"


_KINDS: dict[int, str] = {
    stat.S_IFREG: "file",
    stat.S_IFDIR: "dir",
    stat.S_IFLNK: "symlink",
    stat.S_IFCHR: "char",
    stat.S_IFBLK: "block",
    stat.S_IFIFO: "fifo",
    stat.S_IFSOCK: "socket",
}
_TAR_KINDS: dict[bytes, str] = {
    tarfile.REGTYPE: "file",
    tarfile.DIRTYPE: "dir",
    tarfile.SYMTYPE: "symlink",
    tarfile.CHRTYPE: "char",
    tarfile.BLKTYPE: "block",
    tarfile.FIFOTYPE: "fifo",
}


def read_tree(image: Path, *, how: str = "") -> dict[bytes, Entry]:
    """All that is in the squashfs *image*.

    As root it is unpacked by unsquashfs, which keeps owners, modes and devices; else converted by sqfs2tar, which
    loses sockets.  *how* (``unsquashfs`` or ``sqfs2tar``) decides otherwise.
    """
    how = how or ("unsquashfs" if os.geteuid() == 0 else "sqfs2tar")
    require_tools(how)
    if how == "sqfs2tar":
        return _read_with_sqfs2tar(image)
    with tempfile.TemporaryDirectory(prefix="tree.") as directory:
        command = ["unsquashfs", "-no-progress", "-quiet", "-dest", f"{directory}/root", str(image)]
        result = subprocess.run(command, capture_output=True, check=False)
        assert result.returncode == 0, f"unsquashfs {image}: exit code {result.returncode}\n{result.stderr.decode()}"
        return read_directory(Path(directory, "root"))


def read_directory(directory: Path) -> dict[bytes, Entry]:
    """All that is in *directory*, which may be a mounted image."""
    tree: dict[bytes, Entry] = {}
    groups: dict[tuple[int, int], list[bytes]] = {}
    hashes: dict[tuple[int, int], str] = {}
    base = os.fsencode(directory)

    def visit(path: bytes, info: os.stat_result) -> None:
        full = base if path == ROOT else base + b"/" + path
        kind = _KINDS[stat.S_IFMT(info.st_mode)]
        inode = (info.st_dev, info.st_ino)
        sha256 = ""
        if kind == "file":
            if inode not in hashes:
                hashes[inode] = _hash(full)
            sha256 = hashes[inode]
        if kind != "dir" and info.st_nlink > 1:
            groups.setdefault(inode, []).append(path)
        tree[path] = Entry(
            kind=kind,
            mode=stat.S_IMODE(info.st_mode),
            uid=info.st_uid,
            gid=info.st_gid,
            size=info.st_size if kind == "file" else 0,
            mtime=int(info.st_mtime_ns // 10**9),
            target=os.readlink(full) if kind == "symlink" else b"",
            device=(os.major(info.st_rdev), os.minor(info.st_rdev)) if kind in {"char", "block"} else (0, 0),
            sha256=sha256,
            xattrs=tuple((n, os.getxattr(full, n, follow_symlinks=False)) for n in sorted(_listxattr(full))),
        )
        if kind == "dir":
            with os.scandir(full) as entries:
                for entry in entries:
                    visit(_join(path, entry.name), entry.stat(follow_symlinks=False))

    visit(ROOT, directory.lstat())
    return _with_links(tree, groups.values())


def _listxattr(path: bytes) -> list[str]:
    return [n for n in os.listxattr(path, follow_symlinks=False) if n != "security.selinux"]


def _hash(path: bytes) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read_with_sqfs2tar(image: Path) -> dict[bytes, Entry]:
    tree: dict[bytes, Entry] = {}
    groups: dict[bytes, list[bytes]] = {}
    command = ["sqfs2tar", "--root-becomes", "r", str(image)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stderr
        with tarfile.open(fileobj=process.stdout, mode="r|", errors="surrogateescape") as archive:
            for member in archive:
                path = os.fsencode(member.name).rstrip(b"/").removeprefix(b"r").removeprefix(b"/") or ROOT
                if member.islnk():
                    first = os.fsencode(member.linkname).removeprefix(b"r/")
                    groups.setdefault(first, [first]).append(path)
                    tree[path] = tree[first]
                    continue
                content = archive.extractfile(member) if member.isreg() else None
                tree[path] = Entry(
                    kind=_TAR_KINDS[member.type],
                    mode=member.mode,
                    uid=member.uid,
                    gid=member.gid,
                    size=member.size if content else 0,
                    mtime=int(member.mtime),
                    target=os.fsencode(member.linkname) if member.issym() else b"",
                    device=(member.devmajor, member.devminor) if member.isdev() and not member.isfifo() else (0, 0),
                    sha256=hashlib.file_digest(content, "sha256").hexdigest() if content else "",  # type: ignore[arg-type]
                    xattrs=_tar_xattrs(member.pax_headers),
                )
        stderr = process.stderr.read().decode(errors="replace")
    assert process.returncode == 0, f"sqfs2tar {image}: exit code {process.returncode}\n{stderr}"
    return _with_links(tree, groups.values())


def _tar_xattrs(records: Mapping[str, str]) -> tuple[tuple[str, bytes], ...]:
    prefix = "SCHILY.xattr."
    return tuple(
        (k.removeprefix(prefix), v.encode("utf-8", "surrogateescape"))
        for k, v in sorted(records.items())
        if k.startswith(prefix)
    )


def _with_links(tree: dict[bytes, Entry], groups: Collection[list[bytes]]) -> dict[bytes, Entry]:
    for paths in groups:
        if len(paths) > 1:
            for path in paths:
                tree[path] = tree[path]._replace(link=min(paths))
    return tree


def _join(parent: bytes, name: bytes) -> bytes:
    return name if parent == ROOT else parent + b"/" + name


def diff_trees(
    a: Mapping[bytes, Entry],
    b: Mapping[bytes, Entry],
    *,
    names: tuple[str, str] = ("a", "b"),
    ignore_mtime_of: Collection[bytes] | Callable[[bytes], bool] = (),
    ignore: Collection[str] = (),
) -> list[str]:
    """What differs, a line each, empty when nothing does; *ignore* names fields of `Entry` that don't matter."""
    ignored = ignore_mtime_of if callable(ignore_mtime_of) else ignore_mtime_of.__contains__
    lines = []
    for path in sorted(a.keys() | b.keys()):
        first, second = a.get(path), b.get(path)
        if first is None or second is None:
            where, entry = (names[1], second) if first is None else (names[0], first)
            lines.append(f"{_show(path)}: only in {where}: {entry}")
            continue
        for name in Entry._fields:
            one, two = getattr(first, name), getattr(second, name)
            if one == two or name in ignore or (name == "mtime" and ignored(path)):
                continue
            if name == "mode":
                one, two = f"{one:04o}", f"{two:04o}"
            lines.append(f"{_show(path)}: {name} {_show(one)} in {names[0]}, {_show(two)} in {names[1]}")
    return lines


def _show(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace").encode("unicode_escape").decode() or "''"
    return str(value)
