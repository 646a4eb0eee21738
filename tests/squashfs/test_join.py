"""The linker, against the streaming import, and as four independent readers see it."""

from __future__ import annotations

import errno
import os
import random
import shutil
import struct
import subprocess
import tarfile

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.layer_images import Member, archive, layer_image, link_layers, stream, write_image
from support.stacks import RC, STACKS, assert_equal, corners, members, mounted, mounted_equals, noise, read_mounted
from support.tools import require_root, require_tools
from support.tree import ROOT, diff_trees, read_tree

from enroot_slurm.errors import StorageError
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.squashfs.format.superblock import CannotJoin, Superblock
from enroot_slurm.squashfs.joining import join as join_module
from enroot_slurm.squashfs.joining import overlay
from enroot_slurm.system.file_copy import FileCopy

DIR, FILE, SYMLINK, HARDLINK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


@pytest.fixture(autouse=True)
def tools():
    require_tools("mksquashfs", "unsquashfs")


# ---- equality with the streaming path


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(STACKS)
def test_random_stacks_are_as_if_streamed(tmp_path_factory, stacks):
    """Trees, replacements, whiteouts, opaque markers, hard links: eight to twelve stacks in each of 25 images."""
    directory = tmp_path_factory.mktemp("stack")
    layers = [[] for _ in range(5)]
    for number, stack in enumerate(stacks):
        # The first is where the rc layer is too.
        prefix = f"s{number}" if number else "a"
        for i, operations in enumerate(stack):
            if number == 0 or operations:
                layers[i] += members(operations, prefix, 100 * number + i)
    tars = [archive(layer) for layer in layers]
    images = [layer_image(directory / f"layer{i}", tar, "-comp gzip -b 4096") for i, tar in enumerate(tars)]
    link_layers(directory / "linked", images, RC)
    stream(directory / "streamed", tars, RC, "-comp gzip -b 4096")
    assert_equal(directory / "linked", directory / "streamed")


@pytest.mark.parametrize("block_size", ["4K", "128K", "1M"])
@pytest.mark.parametrize("compressor", ["gzip", "lzo -Xalgorithm lzo1x_1", "lz4", "xz", "zstd -Xcompression-level 1"])
def test_all_compressors_and_block_sizes(tmp_path, compressor, block_size):
    """The image is that of the streaming path, to unsquashfs and to sqfs2tar; it has no dead data to speak of."""
    options = f"-comp {compressor} -b {block_size}"
    tars = corners()
    images = [layer_image(tmp_path / f"layer{i}", tar, options) for i, tar in enumerate(tars)]
    block = link_layers(tmp_path / "linked", images, RC)
    stream(tmp_path / "streamed", tars, RC, options)
    assert_equal(tmp_path / "linked", tmp_path / "streamed")
    if not compressor.startswith("lzo"):
        require_tools("sqfs2tar")
        assert_equal(tmp_path / "linked", tmp_path / "streamed", "sqfs2tar")
    assert block.bytes_used < sum(i.stat().st_size for i in images) - (3 << 20) + 50_000


@pytest.mark.parametrize("flags", ["-exports", "-noD -noF", "-no-fragments", "-always-use-fragments", "-no-duplicates"])
def test_options_of_all_sorts(tmp_path, flags):
    """Export tables, data as it is, tails in blocks of their own."""
    options = f"-comp gzip {flags}"
    tars = corners()
    images = [layer_image(tmp_path / f"layer{i}", tar, options) for i, tar in enumerate(tars)]
    block = link_layers(tmp_path / "linked", images, RC)
    layer_image(tmp_path / "streamed", archive([Member("x")]), options)
    assert block.exportable == (flags == "-exports")
    stream(tmp_path / "streamed", tars, RC)
    assert_equal(tmp_path / "linked", tmp_path / "streamed")
    mounted_equals(tmp_path, block)


def test_compressed_metadata_is_read(tmp_path):
    """Layer images may have been made without -noI and -noId."""
    tars = corners()
    for compressor in ("gzip", "lzo", "lz4", "xz", "zstd"):
        image = tmp_path / compressor
        command = ["mksquashfs", "-", image, "-tar", "-all-root", "-no-xattrs", "-comp", compressor, "-quiet"]
        subprocess.run([*command, "-no-progress", "-root-mode", "0755"], input=tars[0], check=True)
        link_layers(tmp_path / "linked", [image])
        assert_equal(tmp_path / "linked", image, ignore=("mode",))


# ---- readers


def test_four_readers_agree(tmp_path):
    """The kernel, unsquashfs, squashfuse and sqfs2tar."""
    require_tools("squashfuse", "sqfs2tar")
    images = [layer_image(tmp_path / f"layer{i}", tar) for i, tar in enumerate(corners())]
    block = link_layers(tmp_path / "linked", images, RC)
    mounted_equals(tmp_path, block)
    expected = read_tree(tmp_path / "linked", how="unsquashfs")
    assert not diff_trees(read_tree(tmp_path / "linked", how="sqfs2tar"), expected)
    with mounted(tmp_path / "linked", tmp_path / "fuse", "squashfuse") as root:
        assert not diff_trees(read_mounted(root), expected, ignore=("link",))  # it has no link counts
    assert expected[b"d/link1"].link == b"d/link1"
    assert expected[b"s2"].link == b"s"


@pytest.mark.parametrize("count", [255, 256, 257, 7_000, 100_000])
def test_large_directories(tmp_path, count):
    """Runs and indices: the kernel finds each name, and lists all of them."""
    require_root("loop mounts")
    names = [b"%x-%06d" % (i % 16, i) + b"n" * (i % 50) for i in range(count)]
    low = write_image(tmp_path / "low", {b"d": dict.fromkeys(names[::2], b""), b"e": {}})
    up = write_image(tmp_path / "up", {b"d": dict.fromkeys(names[1::2], b"")})
    block = link_layers(tmp_path / "linked", [low, up])
    assert block.inodes == count + 3
    with mounted(tmp_path / "linked", tmp_path / "kernel", "mount", "-t", "squashfs", "-o", "loop,ro") as root:
        base = os.fsencode(root)
        assert sorted(os.listdir(base + b"/d")) == sorted(names)
        for name in random.Random(1).sample(names, min(count, 2000)):
            assert os.stat(base + b"/d/" + name).st_size == 0
        for name in (b"", b"0", b"zzz", names[0] + b"!", b"8-"):
            assert not name or not os.path.exists(base + b"/d/" + name)
    listing = subprocess.run(["unsquashfs", "-l", tmp_path / "linked"], capture_output=True, check=True).stdout
    assert listing.count(b"\n") == count + 3


def test_deep_trees(tmp_path):
    """Five hundred levels, in two layers."""
    deep = [Member("/".join(["d"] * i), DIR) for i in range(1, 500)]
    tars = [archive([*deep, Member(deep[-1].path + f"/f{i}", content=b"%d" % i)]) for i in range(2)]
    images = [layer_image(tmp_path / f"layer{i}", tar) for i, tar in enumerate(tars)]
    link_layers(tmp_path / "linked", images)
    listing = subprocess.run(["unsquashfs", "-l", tmp_path / "linked"], capture_output=True, check=True).stdout
    assert listing.count(b"\n") == 502
    assert b"d/d/f0\n" in listing


# ---- data


def test_data_beyond_four_gigabytes(tmp_path, monkeypatch):
    """Such a file has an extended inode; the readers find its data."""
    monkeypatch.setattr(join_module, "SUPERBLOCK_SIZE", 5 << 30)
    images = [layer_image(tmp_path / f"layer{i}", tar, "-comp gzip") for i, tar in enumerate(corners())]
    block = link_layers(tmp_path / "linked", images, RC)
    monkeypatch.undo()
    assert block.inode_table > 5 << 30
    link_layers(tmp_path / "near", images, RC)
    assert_equal(tmp_path / "linked", tmp_path / "near")
    mounted_equals(tmp_path, block)


def test_a_far_layer(tmp_path):
    """What is beyond 4 GiB in its layer may come closer: dead ranges are skipped."""
    far = write_image(tmp_path / "far", {b"a": b"near", b"b": b"far"}, gap=5 << 30)
    up = write_image(tmp_path / "up", {b".wh.a": b""})
    assert link_layers(tmp_path / "linked", [far, up]).bytes_used < 20_000
    assert read_tree(tmp_path / "linked")[b"b"].size == 3


def test_a_sparse_file_of_many_gigabytes(tmp_path):
    """Its blocks are holes; sizes above 4 GiB survive."""
    write_image(tmp_path / "layer", {b"holes": (5 << 30, b"here".ljust(131072, b"."))})
    block = link_layers(tmp_path / "linked", [tmp_path / "layer"])
    with mounted(tmp_path / "linked", tmp_path / "kernel", "mount", "-t", "squashfs", "-o", "loop,ro") as root:
        info = (root / "holes").stat()
        assert info.st_size == 5 << 30
        assert info.st_blocks < 10_000
        with (root / "holes").open("rb") as file:
            file.seek((5 << 30) - 131072 - 2)
            assert file.read(8) == b"\0\0here.."
    assert block.inodes == 2


def clone(target, request, argument):
    """FICLONERANGE, as strict as a file system of 4 KiB blocks is."""
    assert request == 0x4020940D
    source, at, length, to = struct.unpack("=qQQQ", argument)
    if os.readlink(f"/proc/self/fd/{source}").startswith("/memfd"):
        raise OSError(errno.EXDEV, "another file system")
    assert length
    assert not (at | length | to) % 4096
    assert os.pwrite(target, os.pread(source, length, at), to) == length


@pytest.mark.parametrize("refused", [(), ("clone",), ("clone", "copy")])
def test_every_way_to_copy(tmp_path, monkeypatch, refused):
    """Where the file system can't share blocks, or the kernel not copy, the bytes are the same."""
    images = [layer_image(tmp_path / f"layer{i}", tar) for i, tar in enumerate(corners())]
    link_layers(tmp_path / "expected", images, RC)
    monkeypatch.setattr("fcntl.ioctl", clone)

    def no(*_):
        raise OSError(errno.EOPNOTSUPP, "not supported")

    if "clone" in refused:
        monkeypatch.setattr("fcntl.ioctl", no)
    if "copy" in refused:
        monkeypatch.setattr("os.copy_file_range", no)
    link_layers(tmp_path / "linked", images, RC)
    assert (tmp_path / "linked").read_bytes() == (tmp_path / "expected").read_bytes()


def test_blocks_are_shared_where_they_can_be(tmp_path):
    """On XFS with reflink, a link takes no space but that of the tables."""
    require_root("loop mounts")
    if not shutil.which("mkfs.xfs"):
        pytest.skip("needs mkfs.xfs")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    with mounted(disk, tmp_path / "xfs", "mount", "-o", "loop") as root:
        tar = archive([Member("big", content=noise(60 << 20)), Member("small", content=b"x")])
        layers = [layer_image(root / "layer", tar, "-noD"), layer_image(root / "up", archive([Member("y")]), "-noD")]
        os.sync()
        before = os.statvfs(root).f_bfree * os.statvfs(root).f_frsize
        link_layers(root / "linked", layers, RC)
        os.sync()
        assert before - os.statvfs(root).f_bfree * os.statvfs(root).f_frsize < 2 << 20
        assert_equal(root / "linked", root / "linked")
        assert read_tree(root / "linked")[b"big"] == read_tree(layers[0])[b"big"]


# ---- the ends of the scale, and the rest


def test_upper_layer_deletes_everything(tmp_path):
    """Nothing is left but the root, and no data."""
    tars = [corners()[0], archive([Member(".wh..wh..opq")])]
    images = [layer_image(tmp_path / f"layer{i}", tar) for i, tar in enumerate(tars)]
    block = link_layers(tmp_path / "linked", images)
    assert block.inodes == 1
    assert block.bytes_used < 300
    assert read_tree(tmp_path / "linked").keys() == {ROOT}
    mounted_equals(tmp_path, block)


def test_one_hundred_and_twenty_seven_layers(tmp_path):
    """As many as Docker allows: each adds, replaces and removes."""
    tars = []
    for i in range(127):
        more = [Member(f"d/.wh.{i - 2}")] if i % 3 == 0 and i else []
        tars.append(archive([Member("d", DIR, 0o700 + i % 8), Member(f"d/{i}", content=b"%d" % i), *more, Member("f")]))
    images = [layer_image(tmp_path / f"layer{i}", tar) for i, tar in enumerate(tars)]
    link_layers(tmp_path / "linked", images, RC)
    stream(tmp_path / "streamed", tars, RC)
    assert_equal(tmp_path / "linked", tmp_path / "streamed")


def test_the_same_layers_give_the_same_bytes(tmp_path):
    """Also from other copies of them; with SOURCE_DATE_EPOCH all times are that."""
    images = [layer_image(tmp_path / f"layer{i}", tar) for i, tar in enumerate(corners())]
    link_layers(tmp_path / "a", images, RC)
    link_layers(tmp_path / "b", images, RC)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    block = link_layers(tmp_path / "c", images, RC, time=7, image_time=7)
    assert {entry.mtime for entry in read_tree(tmp_path / "c").values()} == {7}
    assert block.mtime == 7
    with (tmp_path / "c").open("rb") as file:
        assert Superblock.read(file) == block


def test_a_layer_twice(tmp_path):
    """The same layer may be in an image more than once."""
    image = layer_image(tmp_path / "layer", corners()[0])
    link_layers(tmp_path / "twice", [image, image])
    assert_equal(tmp_path / "twice", image, ignore=("mode",))


def test_different_recipes_are_refused(tmp_path):
    """Another compressor, other options of it, another block size; no layers."""
    tar = corners()[2]
    options = ["-comp zstd -Xcompression-level 1", "-comp zstd -Xcompression-level 2", "-comp gzip", "-comp gzip -b 4K"]
    images = [layer_image(tmp_path / f"layer{i}", tar, each) for i, each in enumerate(options)]
    for other in images[1:]:
        with pytest.raises(CannotJoin, match="differ"):
            link_layers(tmp_path / "linked", [images[0], other])
    with pytest.raises(CannotJoin):
        link_layers(tmp_path / "linked", [])


def test_names_of_whiteouts_in_the_rc_layer_are_refused(tmp_path):
    """A working directory may be called so; streaming makes it."""
    image = layer_image(tmp_path / "layer", corners()[2])
    with pytest.raises(CannotJoin, match="whiteout"):
        link_layers(tmp_path / "linked", [image], RcLayer((b"x", b"x/.wh.y"), ()))


def test_an_error_of_the_copy_is_raised(tmp_path, monkeypatch):
    """What the disk has to say in the other thread comes out of the call; no descriptor stays."""
    image = layer_image(tmp_path / "layer", corners()[0])
    before = len(os.listdir("/proc/self/fd"))

    def fail(*_):
        raise ZeroDivisionError

    monkeypatch.setattr(FileCopy, "copy", fail)
    with pytest.raises(ZeroDivisionError):
        link_layers(tmp_path / "linked", [image])
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_full_disk_is_told(tmp_path):
    """No space for the image is an error with a way out."""
    require_root("a small tmpfs")
    image = layer_image(tmp_path / "layer", archive([Member("f", content=noise(4 << 20))]), "-noD")
    (tmp_path / "small").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", tmp_path / "small"], check=True)
    try:
        with pytest.raises(StorageError, match="no space left"):
            link_layers(tmp_path / "small" / "linked", [image])
    finally:
        subprocess.run(["umount", tmp_path / "small"], check=True)


def test_too_many_names(tmp_path, monkeypatch):
    """An image has a limit of names: that of all its layers together."""
    layers = [
        layer_image(tmp_path / f"layer{n}", archive([Member(f"{n}-{i}", content=b"") for i in range(50)]))
        for n in (1, 2)
    ]
    link_layers(tmp_path / "whole", layers)
    monkeypatch.setattr(overlay, "_MAX_ENTRIES", 90)
    link_layers(tmp_path / "one", layers[:1])
    with pytest.raises(CannotJoin, match="more than 90 names"):
        link_layers(tmp_path / "both", layers)
