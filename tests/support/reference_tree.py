"""What ``enroot import`` makes of an image, worked out the slow way and sharing nothing with the product.

Every layer is unpacked by GNU tar as enroot does it, its modes and whiteouts are treated as enroot treats them, and
the layers are put over each other by the kernel's overlayfs, which mksquashfs reads: `overlay`.  Where overlayfs is
not to be had, `merge` does the same in Python; tests/support_checks compares the two.

Where this differs from enroot: a directory keeps its time when enroot's conversion of whiteouts in it would set it to
now; and an opaque marker counts for its own directory, whereas enroot, by the order of readdir(3), may give it to a
subdirectory.
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from support.tools import require_root, require_tools
from support.tree import ROOT, Entry, read_directory, read_tree

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["EnrootFailsError", "RcLayer", "Reference", "rc_layer", "reference_tree"]


class EnrootFailsError(Exception):
    """enroot can't import this image; the message is tar's or names what its conversion of whiteouts stops at."""


class RcLayer(NamedTuple):
    """enroot's own layer, which lies over those of the image."""

    dirs: Sequence[bytes] = (b"etc",)
    """Parents first."""
    files: Mapping[bytes, bytes] = {}


class Reference(NamedTuple):
    """The tree, and the paths whose modification time is that of the import."""

    tree: dict[bytes, Entry]
    made_now: frozenset[bytes]


def reference_tree(layers: Sequence[bytes], rc: RcLayer, *, how: str = "", lenient: bool = False) -> Reference:
    """The image of *layers*, plain tar archives with the lowest first.

    how      ``overlay`` or ``merge``; by default the first that works
    lenient  a whiteout beside an entry of its own name in one layer hides what is below; enroot fails there

    Raises: EnrootFailsError.
    """
    require_tools("tar", "mksquashfs", "unshare")
    require_root("owners, modes and devices of unpacked layers")
    with tempfile.TemporaryDirectory(prefix="reference.") as name:
        directory = Path(name)
        try:
            made_now = _unpack_all(directory, layers, rc, lenient=lenient)
            stack = [directory / str(i) for i in range(len(layers) + 1)]  # 0 is the top
            implied = _made_now(stack, made_now)
            if how != "merge" and (result := _overlay(directory, stack)) is not None:
                return Reference(result, implied)
            assert how != "overlay", "overlayfs can't be mounted here"
            return Reference(merge([_read_layer(d) for d in stack]), implied)
        finally:
            _make_removable(directory)


def _unpack_all(directory: Path, layers: Sequence[bytes], rc: RcLayer, *, lenient: bool) -> list[set[bytes]]:
    """Directories 0 (rc layer), 1 (top layer) and so on; returns what got the present as its time in each."""
    top = directory / "0"
    top.mkdir(0o755)
    for name in rc.dirs:
        Path(os.fsdecode(os.fsencode(top) + b"/" + name)).mkdir(0o755, exist_ok=True)
    for name, content in rc.files.items():
        path = Path(os.fsdecode(os.fsencode(top) + b"/" + name))
        path.write_bytes(content)
        path.chmod(0o644)
    made_now = [{ROOT, *rc.dirs, *rc.files}]
    for number, layer in enumerate(reversed(layers), 1):
        root = directory / str(number)
        made_now.append(_unpack(root, layer))
        _fix_modes(root)
        _convert_whiteouts(root, lenient=lenient)
    return made_now


def _unpack(root: Path, layer: bytes) -> set[bytes]:
    """Unpack one layer; returns the directories that have no entry of their own in it."""
    root.mkdir(0o755)
    before = int(time.time() - 1)  # the clock of a file system lags behind by some milliseconds
    command = ["tar", "-C", str(root), "--warning=no-timestamp", "--numeric-owner", "--no-xattrs", "--anchored"]
    command += ["--exclude=dev/*", "--exclude=./dev/*", "-p", "-x", "-f", "-"]
    result = subprocess.run(
        command, input=layer, capture_output=True, check=False, umask=0o022, env={**os.environ, "LC_ALL": "C"}
    )
    if result.returncode:
        raise EnrootFailsError(f"tar rc={result.returncode}: {result.stderr.decode(errors='replace').strip()}")
    after = time.time()
    return {p for p, i in _walk(root) if stat.S_ISDIR(i.st_mode) and before <= i.st_mtime <= after} | {ROOT}


def _walk(root: Path) -> list[tuple[bytes, os.stat_result]]:
    """All paths below *root* and what lstat(2) says of them, deepest first."""
    found = []
    base = os.fsencode(root)
    for parent, dirs, files in os.walk(base, topdown=False):
        for name in dirs + files:
            full = parent + b"/" + name
            found.append((full[len(base) + 1 :], os.lstat(full)))
    return found


def _fix_modes(root: Path) -> None:
    """enroot makes all accessible to the owner."""
    for path, info in [*_walk(root), (b".", root.lstat())]:
        if stat.S_ISLNK(info.st_mode):
            continue
        mode = stat.S_IMODE(info.st_mode)
        if stat.S_ISDIR(info.st_mode):
            mode |= 0o700
        else:
            mode |= 0o500 if mode & 0o111 else 0o400
        os.chmod(os.fsencode(root) + b"/" + path, mode)


def _convert_whiteouts(root: Path, *, lenient: bool) -> None:
    """From aufs' marks to overlayfs': a device 0:0 where something is hidden, an attribute of opaque directories."""
    base = os.fsencode(root)
    for path, info in _walk(root):
        parent, _, name = path.rpartition(b"/")
        if not name.startswith(b".wh."):
            continue
        directory = base + b"/" + parent
        times = os.stat(directory)
        full = base + b"/" + path
        if stat.S_ISDIR(info.st_mode):
            os.rmdir(full)
        else:
            os.unlink(full)
        hidden = name.removeprefix(b".wh.")
        target = directory + b"/" + hidden
        if hidden == b".wh..opq":
            os.setxattr(directory, "trusted.overlay.opaque", b"y")
        elif hidden.startswith(b".wh."):
            raise EnrootFailsError(f"unsupported aufs whiteout: {path!r}")
        elif hidden in {b"", b".", b".."} or (os.path.lexists(target) and not lenient):
            raise EnrootFailsError(f"mknod EEXIST: {path!r}")
        elif not os.path.lexists(target):
            os.mknod(target, stat.S_IFCHR | 0o600, os.makedev(0, 0))
        elif stat.S_ISDIR(os.lstat(target).st_mode):
            os.setxattr(target, "trusted.overlay.opaque", b"y")
        os.utime(directory, ns=(times.st_atime_ns, times.st_mtime_ns))


def _overlay(directory: Path, stack: Sequence[Path]) -> dict[bytes, Entry] | None:
    """What mksquashfs sees in an overlay mount, or None when there can be none."""
    image = directory / "image.sqsh"
    (directory / "mnt").mkdir()
    # Relative names keep the mount options short; the name space ends with the shell, and the mount with it.
    script = """mount -t overlay overlay -o "lowerdir=$1" mnt || exit 99
        exec mksquashfs mnt "$2" -all-root -no-progress -quiet -noI -noD -noF -noX"""
    lower = ":".join(d.name for d in stack)
    command = ["unshare", "--mount", "sh", "-c", script, "sh", lower, str(image)]
    result = subprocess.run(command, cwd=directory, capture_output=True, check=False)
    if result.returncode == 99:
        return None
    assert result.returncode == 0, result.stderr.decode()
    return read_tree(image)


# The same by hand.  A layer is what was unpacked, with the marks of overlayfs in it.


class _Layer(NamedTuple):
    tree: dict[bytes, Entry]
    opaque: set[bytes]


def _read_layer(root: Path) -> _Layer:
    tree = read_directory(root)
    opaque = {p for p, e in tree.items() if any(n == "trusted.overlay.opaque" for n, _ in e.xattrs)}
    # squashfs has 32 bits for a time, and mksquashfs cuts it to them
    return _Layer({p: e._replace(xattrs=(), uid=0, gid=0, mtime=e.mtime & 0xFFFFFFFF) for p, e in tree.items()}, opaque)


def merge(layers: Sequence[_Layer]) -> dict[bytes, Entry]:
    """One tree of *layers*, the top one first, by overlayfs' rules."""
    result: dict[bytes, Entry] = {}
    groups: dict[tuple[int, bytes], list[bytes]] = {}
    children: list[dict[bytes, list[bytes]]] = []
    for layer in layers:
        below: dict[bytes, list[bytes]] = {}
        for path in layer.tree.keys() - {ROOT}:
            parent, _, name = path.rpartition(b"/")
            below.setdefault(parent or ROOT, []).append(name)
        children.append(below)

    def visit(path: bytes, visible: list[int]) -> None:
        """*visible* are the layers that have *path* as a directory which upper ones don't hide."""
        result[path] = layers[visible[0]].tree[path]
        for name in sorted({n for i in visible for n in children[i].get(path, [])}):
            child = name if path == ROOT else path + b"/" + name
            same: list[int] = []  # the layers that make up the child, if it is a directory
            for i in visible:
                entry = layers[i].tree.get(child)
                if entry is None:
                    continue
                if entry.kind != "dir":
                    whiteout = entry.kind == "char" and entry.device == (0, 0)
                    if not same and not whiteout:
                        result[child] = entry
                        if entry.link:
                            groups.setdefault((i, entry.link), []).append(child)
                    break
                same.append(i)
                if child in layers[i].opaque:
                    break
            if same:
                visit(child, same)

    visit(ROOT, list(range(len(layers))))
    for paths in groups.values():
        for path in paths:
            result[path] = result[path]._replace(link=min(paths) if len(paths) > 1 else b"")
    return result


def _made_now(stack: Sequence[Path], made_now: Sequence[set[bytes]]) -> frozenset[bytes]:
    """The paths whose entry comes from a layer that gave it the present as its time."""
    seen: set[bytes] = set()
    now: set[bytes] = set()
    for root, made in zip(stack, made_now, strict=True):
        paths = {ROOT, *(p for p, _ in _walk(root))}
        now |= (paths - seen) & made
        seen |= paths
    return frozenset(now)


def _make_removable(directory: Path) -> None:
    shutil.rmtree(directory / "mnt", ignore_errors=True)


# enroot's files.


def rc_layer(config: Mapping[str, Any], uri: str) -> RcLayer:
    """enroot's layer for the runtime part of an image config; *uri* is what /etc/rc has as the image's origin.

    Written from notes/enroot-semantics.md; vectors/rc_files.json has what enroot wrote.
    """
    workdir = config.get("WorkingDir") or ""
    dirs = [b"etc"]
    if workdir.startswith("/"):
        parts = [p for p in os.fsencode(workdir).split(b"/") if p not in {b"", b"."}]
        dirs += [b"/".join(parts[: n + 1]) for n in range(len(parts))]
    entrypoint, command = config.get("Entrypoint") or [], config.get("Cmd") or []
    if not entrypoint and not command:
        command = ["/bin/sh"]
    labels = "".join(f"# {key} {value}\n" for key, value in (config.get("Labels") or {}).items())
    where = workdir or "/"
    rc = f"""# enroot-provenance: {uri}
{labels}
mkdir -p "{where}" 2> /dev/null
cd "{where}" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec {_quoted(entrypoint)} "$@"
else
    exec {_quoted(entrypoint)} {_quoted(command)}
fi
"""
    fstab = "".join(
        f"${{ENROOT_ROOTFS}}{v} {v} none x-create=dir,bind,rw,nosuid,nodev\n"
        for v in sorted(config.get("Volumes") or {})
    )
    environment = "".join(f"{e}\n" for e in config.get("Env") or [])
    local = (
        "# This file is sourced by /etc/rc when the container starts.\n"
        "# It can be used to manipulate the entrypoint or the command of the container.\n"
    )
    files = {"etc/rc": rc, "etc/fstab": fstab, "etc/environment": environment, "etc/rc.local": local}
    return RcLayer(tuple(dict.fromkeys(dirs)), {k.encode(): v.encode() for k, v in files.items()})


def _quoted(words: Sequence[str]) -> str:
    """The words as bash quotes them."""
    script = 'words=("$@"); printf %s "${words[*]@Q}"'
    command = ["bash", "-c", script, "bash", *words]
    if not words:
        return ""
    return subprocess.run(
        command, capture_output=True, check=True, text=True, env={**os.environ, "LC_ALL": "C.UTF-8"}
    ).stdout
