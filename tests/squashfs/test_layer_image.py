"""The reader of layer images: what it refuses, and that damage never makes it run wild."""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest
from support.layer_images import Member, archive, layer_image, link_layers, write_image
from support.tools import require_tools

from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.squashfs.format.codec import decompress
from enroot_slurm.squashfs.format.inodes import FILE, NOTHING, read_file, read_small_file
from enroot_slurm.squashfs.format.superblock import CannotJoin, Superblock
from enroot_slurm.squashfs.joining.layer_image import LayerImage

DIR, SYMLINK, HARDLINK = tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
RC = RcLayer((b"etc",), ((b"etc/rc", b"rc\n"),))


@pytest.fixture(autouse=True)
def tools():
    require_tools("mksquashfs", "unsquashfs")


def small():
    """A little of everything."""
    return archive(
        [
            *(Member(p, DIR) for p in ("a", "a/b", "a/b/c", "o")),
            *(Member(f"a/f{i}", content=bytes([i]) * i * 100) for i in range(20)),
            Member("a/big", content=random.Random(1).randbytes(20_000)),
            Member("a/holes", content=bytes(100_000) + b"x"),
            Member("a/link", HARDLINK, link="a/f3"),
            Member("o/.wh..wh..opq"),
            Member("a/.wh.gone"),
            Member("s", SYMLINK, link="a/b"),
            Member("fifo", tarfile.FIFOTYPE),
            Member("char", tarfile.CHRTYPE, device=(1, 3)),
        ]
    )


def patch(image, at, data):
    raw = bytearray(image.read_bytes())
    raw[at : at + len(data)] = data
    damaged = image.with_suffix(".damaged")
    damaged.write_bytes(raw)
    return damaged


def superblock(image):
    with image.open("rb") as file:
        return Superblock.read(file)


def refused(image, match):
    with pytest.raises(CannotJoin, match=match):
        link_layers(image.with_suffix(".linked"), [image], RC)


def test_it_reads_what_mksquashfs_writes(tmp_path):
    """Listings are sorted; kinds, sizes, link counts and targets are there."""
    image = LayerImage.open(layer_image(tmp_path / "layer", small(), "-comp gzip -b 4K"))
    try:
        names = {name: (inode, kind) for name, inode, kind, _ in image.listing(image.root)}
        assert list(names) == [b"a", b"char", b"fifo", b"o", b"s"]
        assert image.special(*names[b"s"]).content == struct.pack("<I", 3) + b"a/b"
        files = {name: inode for name, inode, kind, _ in image.listing(names[b"a"][0]) if kind == 2}
        assert image.file(files[b"big"]).size == 20_000
        assert image.file(files[b"link"]).links == 2
        assert files[b"link"] == files[b"f3"]
        assert image.file(files[b"holes"]).stored < 4096
        with pytest.raises(CannotJoin, match="twice"):
            for _ in range(100):
                image.listing(names[b"a"][0])
    finally:
        os.close(image.fd)


def test_the_quick_reader_of_files_agrees_with_the_thorough_one():
    """A basic file without blocks is read in either way; all others, and impossible ones, are left to the latter."""
    sizes, offsets = (0, 1, 100, 4095, 4096, 4097, 8192), (0, 1, 3996, 4095, 4096, 0xFFFFFFFF)
    found = set()
    for kind, size, offset, fragment in itertools.product((FILE, FILE + 7), sizes, offsets, (NOTHING, 0, 7)):
        inode = struct.pack("<HHHHIIIIII", kind, 0xA9ED, 0, 0, 12345, 1, 96, fragment, offset, size)
        expected = None
        with contextlib.suppress(CannotJoin):
            file = read_file(inode + bytes(24), 0, 12)
            if kind == FILE and not file.blocks:
                expected = (file.mode, file.mtime, file.fragment, file.offset, file.size)
        assert read_small_file(inode + bytes(24), 0, 4096) == expected
        found.add(expected is None)
    assert found == {True, False}


def test_foreign_images_are_refused(tmp_path):
    """Other owners, extended attributes, other formats, no image at all, no file."""
    good = layer_image(tmp_path / "layer", small(), "-comp gzip")
    refused(tmp_path / "nowhere", "can't open")
    (tmp_path / "empty").touch()
    refused(tmp_path / "empty", "not a squashfs image")
    refused(patch(good, 28, b"\3"), "4.0")
    refused(patch(good, 56, bytes(8)), "extended attributes")
    refused(patch(good, 20, b"\2"), "can't be decompressed|not in|damaged")
    owned = tmp_path / "owned"
    subprocess.run(["mksquashfs", "-", owned, "-tar", "-force-uid", "5", "-quiet", "-no-progress", "-no-xattrs"],
                   input=small(), check=True)  # fmt: skip
    refused(owned, "owners")
    attributes = tmp_path / "attributes"
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree/f").touch()
    try:
        os.setxattr(tmp_path / "tree/f", "user.x", b"1")
    except OSError:
        pytest.skip("no extended attributes here")
    subprocess.run(["mksquashfs", tmp_path / "tree", attributes, "-all-root", "-quiet", "-no-progress"], check=True)
    refused(attributes, "extended attributes")


def test_invalid_whiteouts_are_refused(tmp_path):
    """As when streaming."""
    for name in (b".wh.", b".wh..", b".wh..."):
        layers = [write_image(tmp_path / "low", {b"f": b""}), write_image(tmp_path / "up", {name: b""})]
        with pytest.raises(CannotJoin, match="whiteout"):
            link_layers(tmp_path / "linked", layers)


def test_impossible_names_are_refused(tmp_path):
    """A name that could lead elsewhere, or that readers could not find."""
    for name in (b"a/b", b"..", b".", b"n\0", b"x" * 257):
        image = write_image(tmp_path / "image", {name: b""})
        refused(image, "impossible name")
    raw = write_image(tmp_path / "image", {b"aaa": b"", b"bbb": b""}).read_bytes()
    (tmp_path / "image").write_bytes(raw.replace(b"aaa", b"ccc"))
    refused(tmp_path / "image", "not sorted")
    (tmp_path / "image").write_bytes(raw.replace(b"aaa", b"bbb"))
    refused(tmp_path / "image", "not sorted")


def test_circles_end(tmp_path):
    """A directory that is in itself."""
    image = write_image(tmp_path / "image", {b"d": {b"e": {b"f": b""}}})
    block = superblock(image)
    table = block.inode_table + 2
    # The inodes: f, e, d, root; the listing of e becomes that of d, which has e.
    listing_of_d = image.read_bytes()[table + 32 + 32 : table + 32 + 64]
    refused(patch(image, table + 32, listing_of_d), "twice|not in")


def test_many_names_of_one_inode_are_refused(tmp_path):
    """One inode with a long list of blocks, and thousands of names: the tables would explode."""
    image = write_image(tmp_path / "image", {b"%04d" % i: ((1 << 28, b"") if not i else b"") for i in range(2000)})
    raw = image.read_bytes()
    block = superblock(image)
    names = raw[block.directory_table :]
    start = 0
    for i in range(1, 2000):
        at = names.index(b"%04d" % i, start) - 8
        names = names[:at] + bytes(2) + names[at + 2 :]
        start = at + 8
    image.write_bytes(raw[: block.directory_table] + names)
    refused(image, "names in plenty|impossible|outside|not|damaged")


def test_bombs_are_refused():
    """A block of metadata that decompresses to more than 8 KiB."""
    import lzma
    import zlib

    for name, block in (("gzip", zlib.compress(bytes(1 << 20))), ("xz", lzma.compress(bytes(1 << 20)))):
        with pytest.raises(CannotJoin, match="damaged"):
            decompress(name, block)
        with pytest.raises(CannotJoin, match="damaged"):
            decompress(name, b"nonsense")
    for name in ("lzo", "lz4", "zstd"):
        with pytest.raises(CannotJoin):
            decompress(name, b"nonsense")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_images_are_refused_or_read(tmp_path, seed):
    """Flipped bytes in superblock and tables: our error, or an image that can be read; nothing runs wild."""
    low = layer_image(tmp_path / "low", small(), "-comp gzip -b 4K", *["-exports"] * (seed % 2))
    up = layer_image(tmp_path / "up", archive([Member("a", DIR), Member("a/f1", content=b"new")]), "-comp gzip -b 4K")
    good = low.read_bytes()
    block = superblock(low)
    spots = [*range(96), *range(block.inode_table, block.bytes_used)]
    chance = random.Random(seed)
    memory = Path("/dev/shm") if Path("/dev/shm").is_dir() else tmp_path
    damaged, linked = memory / f"fuzz{os.getpid()}.low", memory / f"fuzz{os.getpid()}.linked"
    outcomes = {"refused": 0, "linked": 0}
    try:
        for turn in range(800):
            raw = bytearray(good)
            for _ in range(chance.choice((1, 1, 1, 2, 5))):
                raw[chance.choice(spots)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
            damaged.write_bytes(raw)
            try:
                result = link_layers(linked, [damaged, up], RC)
            except CannotJoin:
                outcomes["refused"] += 1
                continue
            outcomes["linked"] += 1
            assert result.bytes_used < 2 * len(good)
            link_layers(damaged, [linked])  # it reads its own
            if turn % 40 == 0:
                listing = subprocess.run(["unsquashfs", "-lls", linked], capture_output=True, timeout=20, check=True)
                assert b"squashfs-root/etc/rc" in listing.stdout
    finally:
        damaged.unlink(missing_ok=True)
        linked.unlink(missing_ok=True)
    assert outcomes["refused"] > 100
    assert outcomes["linked"] > 100
