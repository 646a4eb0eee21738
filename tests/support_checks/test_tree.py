"""Reading images back: every way gives the same, and differences are named."""

from __future__ import annotations

import subprocess

import pytest
from support.corner_cases import GOOD
from support.images import Layer
from support.tools import require_root, require_tools
from support.tree import ROOT, Entry, diff_trees, read_directory, read_tree


@pytest.fixture
def unpacked(tmp_path):
    """A function that unpacks a layer and makes an image of it; returns both."""
    require_tools("tar", "mksquashfs", "unsquashfs", "sqfs2tar")
    require_root("owners and devices")

    def make(layer: Layer):
        directory, image = tmp_path / "root", tmp_path / "image.sqsh"
        directory.mkdir()
        subprocess.run(["tar", "-C", directory, "-xpf", "-"], input=layer.tar(), check=True)
        subprocess.run(["mksquashfs", directory, image, "-quiet", "-no-progress"], check=True)
        return directory, image

    return make


@pytest.mark.parametrize("name", ["hard_links", "long_names", "modes", "devices_elsewhere", "names_that_are_not_utf8"])
def test_ways_of_reading_agree(unpacked, name):
    """A directory, unsquashfs and sqfs2tar give one result."""
    directory, image = unpacked(GOOD[name].make()[0])
    tree = read_directory(directory)
    assert len(tree) > 5
    assert diff_trees(tree, read_tree(image, how="unsquashfs")) == []
    # GNU tar's archives have hard links of files only, as sqfs2tar writes them
    assert diff_trees(tree, read_tree(image, how="sqfs2tar")) == []


def test_ten_thousand_files(unpacked):
    """An image of 10,000 files is read, each of them."""
    layer = Layer()
    for number in range(10_000):
        layer.file(f"f{number}", b"%d" % number)
    _, image = unpacked(layer)
    assert len(read_tree(image)) == 10_001


def test_entry_of_each_kind(unpacked):
    """Kind, mode, owner, content, target, device and link group are as in the archive."""
    layer = Layer(uid=5, gid=6).file("b", b"x", 0o4711).hardlink("a", "b").symlink("s", "t").char("c", (7, 300))
    tree = read_tree(unpacked(layer)[1])
    assert tree[b"a"] == tree[b"b"]
    assert tree[b"a"]._replace(sha256="") == Entry("file", 0o4711, 5, 6, 1, 1_700_000_000, link=b"a")
    assert tree[b"s"] == Entry("symlink", 0o777, 5, 6, 0, 1_700_000_000, b"t")
    assert tree[b"c"] == Entry("char", 0o666, 5, 6, 0, 1_700_000_000, device=(7, 300))
    assert tree[ROOT].kind == "dir"


def test_differences_are_named():
    """A line for every field that differs and for what only one tree has; times may be ignored by path."""
    a = {b"x": Entry("file", 0o644, mtime=1), b"only\n": Entry("dir"), b"same": Entry("fifo")}
    b = {b"x": Entry("file", 0o600, mtime=2), b"same": Entry("fifo")}
    assert diff_trees(a, b, ignore_mtime_of={b"x"}) == [
        "only\\n: only in a: dir 0755 0:0",
        "x: mode 0644 in a, 0600 in b",
    ]
    assert diff_trees(a, a) == []
    assert "x: mtime 1 in a, 2 in b" in diff_trees(a, b, ignore_mtime_of=lambda path: path == b"y")
