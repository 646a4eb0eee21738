"""The reference itself: against recorded results of enroot, and its two ways against each other and umoci."""

from __future__ import annotations

import json
import os
import subprocess

import pytest
from support.corner_cases import GOOD, HARD
from support.images import Image, skopeo_copy
from support.layer_vectors import INODE_USED_AGAIN, layers_of, load_rows, unmet
from support.reference_tree import EnrootFailsError, RcLayer, rc_layer, reference_tree
from support.tools import require_root, require_tools
from support.tree import diff_trees, read_directory

ROWS = load_rows()


@pytest.mark.parametrize("row", ROWS, ids=[r["id"] for r in ROWS])
def test_reference_does_as_enroot_did(row):
    """An image that enroot refused is refused, others become what the row says unless enroot differed there too."""
    if "error" in row["enroot"]:
        with pytest.raises(EnrootFailsError):
            reference_tree(layers_of(row), RcLayer())
        return
    reference = reference_tree(layers_of(row), RcLayer())
    assert (unmet(row, reference.tree, made_now=reference.made_now) == []) == row["enroot"]["agrees"]


@pytest.mark.parametrize("row", [r for r in ROWS if r["id"] not in INODE_USED_AGAIN], ids=lambda r: r["id"])
def test_overlay_equals_merge(row):
    """overlayfs and the merge in Python give the same tree."""
    try:
        overlay = reference_tree(layers_of(row), RcLayer(), how="overlay")
    except EnrootFailsError:
        return
    merged = reference_tree(layers_of(row), RcLayer(), how="merge")
    assert diff_trees(overlay.tree, merged.tree, ignore_mtime_of=overlay.made_now) == []


def test_rc_layer_is_as_recorded(vectors):
    """The four files and the directories are what enroot wrote."""
    rows = json.loads((vectors / "rc_files.json").read_text())["rows"]
    names = {"etc/rc": "rc", "etc/fstab": "fstab", "etc/environment": "environment", "etc/rc.local": "rc_local"}
    for row in rows:
        layer = rc_layer(row["config"]["config"], "docker://registry-1.docker.io#library/x:1")
        assert {k.encode(): row[v].encode() for k, v in names.items()} == layer.files, row["id"]
        assert sorted(os.fsdecode(d) for d in layer.dirs) == sorted(row["dirs"]), row["id"]


@pytest.mark.parametrize("name", GOOD)
def test_good_images_are_good(name):
    """enroot's tar takes the image, and overlayfs and the merge in Python make the same tree of it."""
    case = GOOD[name]
    layers = [layer if isinstance(layer, bytes) else layer.tar() for layer in case.make()]
    rc = rc_layer(case.config, "docker://host#name:tag")
    overlay = reference_tree(layers, rc, how="overlay")
    merged = reference_tree(layers, rc, how="merge")
    early = {p for p, e in merged.tree.items() if e.mtime > 1 << 31}  # which squashfs-tools 4.7 have as 1970
    assert diff_trees(overlay.tree, merged.tree, ignore_mtime_of=overlay.made_now | early) == []
    assert all((e.uid, e.gid, e.xattrs) == (0, 0, ()) for e in overlay.tree.values())


@pytest.mark.parametrize("name", HARD)
def test_hard_images_are_hard(name):
    """enroot fails on the image."""
    layers = [layer if isinstance(layer, bytes) else layer.tar() for layer in HARD[name].make()]
    with pytest.raises(EnrootFailsError):
        reference_tree(layers, RcLayer())


NOT_AS_UMOCI = {
    "dev_is_emptied": "umoci keeps what is in /dev",
    "dev_without_entry": "umoci keeps what is in /dev",
    "dev_whited_out": "umoci keeps what is in /dev",
    "hard_link_into_dev": "umoci keeps what is in /dev",
    "workdir_in_dev": "umoci keeps what is in /dev",
    "names_that_are_not_utf8": "a parent without entry of its own keeps the mode that it has in the lower layer",
    "opaque_alone": "a parent without entry of its own keeps the mode that it has in the lower layer",
    "parents_without_entries": "a parent without entry of its own keeps the mode that it has in the lower layer",
    "opaque_marker_last": "umoci deletes in the directory after it has set its time",
    "opaque_root": "overlayfs ignores the mark in a layer's root",
    "through_a_symlink_below": "umoci follows it, as Docker does",
    "extended_headers": "umoci 0.4.7 refuses global headers",
    "old_formats": "umoci 0.4.7 refuses contiguous files",
    "sparse_files": "umoci 0.4.7 refuses GNU's sparse files",
    "times_before_1970": "squashfs has none",
    "xattrs": "umoci keeps them",
}


@pytest.mark.parametrize("name", [n for n in GOOD if n not in NOT_AS_UMOCI])
def test_reference_is_as_umoci_unpacks(name, registry, repository, tmp_path):
    """Another program's idea of the merged layers, below what enroot does to modes and owners."""
    require_tools("umoci", "skopeo")
    require_root("umoci keeps owners")
    layers = [layer if isinstance(layer, bytes) else layer.tar() for layer in GOOD[name].make()]
    registry.push(repository, "t", Image(layers, "oci"))
    skopeo_copy(f"docker://{registry.host}/{repository}:t", f"oci:{tmp_path}/layout:t")
    command = ["umoci", "unpack", "--image", f"{tmp_path}/layout:t", f"{tmp_path}/bundle"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    theirs = read_directory(tmp_path / "bundle/rootfs")
    reference = reference_tree(layers, RcLayer(dirs=(), files={}))
    for path, entry in theirs.items():
        mode = entry.mode
        if entry.kind == "dir":
            mode |= 0o700
        elif entry.kind != "symlink":
            mode |= 0o500 if mode & 0o111 else 0o400
        theirs[path] = entry._replace(mode=mode, uid=0, gid=0, mtime=entry.mtime & 0xFFFFFFFF)
    differences = diff_trees(theirs, reference.tree, names=("umoci", "reference"), ignore_mtime_of=reference.made_now)
    assert [d for d in differences if not d.startswith(".: ")] == []
