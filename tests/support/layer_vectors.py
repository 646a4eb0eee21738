"""../shared/vectors/layers.json: layers from the test suites of other programs, and what must become of them."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from support.images import Layer
from support.tree import ROOT

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from support.tree import Entry

__all__ = ["INODE_USED_AGAIN", "VECTORS", "layers_of", "load_rows", "unmet"]

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors"
"""Recorded facts beside the project; not part of it."""

_KINDS = {
    "file": tarfile.REGTYPE,
    "dir": tarfile.DIRTYPE,
    "symlink": tarfile.SYMTYPE,
    "hardlink": tarfile.LNKTYPE,
    "fifo": tarfile.FIFOTYPE,
}
_OUTSIDE = "/enroot-slurm-outside"  # for OUT, "an absolute directory outside the root"
_OWN = {ROOT, b"etc", b"etc/rc", b"etc/rc.local", b"etc/fstab", b"etc/environment"}

INODE_USED_AGAIN = {"go-archive:TestUntarInvalidSymlink[5]", "go-archive:TestApplyLayerInvalidSymlink[5]"}
"""A symlink to ``..`` and then a file of that name.  GNU tar puts such symlinks off, with an empty file in their place
until the end; where the new file gets the inode of that (ext4, not tmpfs), tar takes it for its own and replaces it."""


def load_rows() -> list[dict[str, Any]]:
    """The rows, or none when the file is missing."""
    path = VECTORS / "layers.json"
    return json.loads(path.read_text())["rows"] if path.exists() else []


def layers_of(row: Mapping[str, Any]) -> list[bytes]:
    """The row's layers as tar archives, the lowest first."""
    archives = []
    for entries in row["layers"]:
        layer = Layer()
        for entry in entries:
            layer.member(
                entry["name"].replace("OUT/", f"{_OUTSIDE}/"),
                _KINDS[entry["type"]],
                entry.get("data", "").encode(),
                mode=entry.get("mode", 0o644),
                link=entry.get("linkname", "").replace("OUT/", f"{_OUTSIDE}/"),
                mtime=entry.get("mtime"),
            )
        archives.append(layer.tar())
    return archives


def unmet(row: Mapping[str, Any], tree: Mapping[bytes, Entry], *, made_now: Collection[bytes] = ()) -> list[str]:
    """What the row expects and *tree*, an enroot image, is not; times of the paths in *made_now* don't matter."""
    expect = row["expect"]
    wrong = []
    paths = {**expect.get("paths", {}), **expect.get("paths_if_ok", {}), **expect.get("exact", {})}
    for name, wanted in paths.items():
        path = name.encode()
        if path not in tree:
            wrong.append(f"{name} is missing")
            continue
        for key, value in wanted.items():
            if key == "mtime" and path in made_now:
                continue
            if (found := _found(tree[path], key)) != (value := _wanted(tree[path], key, value)):
                wrong.append(f"{name}: {key} is {found!r}, not {value!r}")
    wrong += [f"{n} is there" for n in expect.get("absent", []) if n.encode() in tree]
    for names in expect.get("same_file", []):
        wrong += _compare_links(names, tree, same=True)
    for names in expect.get("not_same_file", []):
        wrong += _compare_links(names, tree, same=False)
    for name in expect.get("empty_dirs", []):
        wrong += [f"{p!r} is in {name}" for p in tree if p.startswith(name.encode() + b"/")]
    if expect.get("no_wh"):
        wrong += [f"{p!r} is there" for p in tree if b"/.wh." in b"/" + p]
    if expect.get("root_stays_dir") and tree[ROOT].kind != "dir":
        wrong.append("the root is no directory")
    found_names = {p.decode() + ("/" if e.kind == "dir" else "") for p, e in tree.items() if p not in _OWN}
    if "exact_names" in expect and found_names != set(expect["exact_names"]):
        wrong.append(f"names are {sorted(found_names)}")
    if "exact" in expect and {n.rstrip("/") for n in found_names} != set(expect["exact"]):
        wrong.append(f"names are {sorted(found_names)}")
    return wrong


def _found(entry: Entry, key: str) -> object:
    return {
        "type": entry.kind,
        "mode": entry.mode,
        "mtime": entry.mtime,
        "data": entry.sha256,
        "linkname": entry.target.decode(),
    }[key]


def _wanted(entry: Entry, key: str, value: Any) -> object:
    if key == "data":
        return hashlib.sha256(value.encode()).hexdigest()
    if key == "mode":  # enroot makes all accessible to the owner
        return value | (0o700 if entry.kind == "dir" else 0o500 if value & 0o111 else 0o400)
    return value


def _compare_links(names: list[str], tree: Mapping[bytes, Entry], *, same: bool) -> list[str]:
    # "lstat" is the rows' word for the links themselves, where they are symlinks
    names = [n if "lstat" in names else _resolved(n, tree) for n in names if n != "lstat"]
    entries = [tree.get(n.encode()) for n in names]
    missing = [f"{n} is missing" for n, e in zip(names, entries, strict=True) if e is None]
    if missing:
        return missing
    linked = len(set(names)) == 1 or (bool(entries[0].link) and len({e.link for e in entries if e}) == 1)  # type: ignore[union-attr]
    return [] if linked == same else [f"{names} are {'not ' if same else ''}one file"]


def _resolved(name: str, tree: Mapping[bytes, Entry]) -> str:
    """*name* with all symlinks in it followed, within the image; ``..`` stops at its root."""
    done: list[str] = []
    todo = name.split("/")
    for _ in range(1000):
        if not todo:
            break
        part, *todo = todo
        if part == "..":
            done = done[:-1]
        elif part not in {"", "."}:
            entry = tree.get("/".join([*done, part]).encode())
            if entry is None or entry.kind != "symlink":
                done.append(part)
                continue
            target = entry.target.decode()
            done = [] if target.startswith("/") else done
            todo = [*target.split("/"), *todo]
    return "/".join(done)
