"""Images that are written member by member, against mksquashfs, and as independent readers see them."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import sys
import tarfile
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from support.layer_images import NOW, Member, archive, layer_image, link_layers, opened, stream, write
from support.stacks import RC, STACKS, assert_equal, corners, members, mounted, mounted_equals, noise, read_mounted
from support.tools import require_root, require_tools
from support.tree import diff_trees, read_tree

from enroot_slurm.errors import ConversionError, IntegrityError
from enroot_slurm.squashfs.format.superblock import Superblock
from enroot_slurm.squashfs.options import SquashOptions
from enroot_slurm.squashfs.writing import compressors
from enroot_slurm.squashfs.writing.writer import ImageWriter

DIR, FILE, HARDLINK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.LNKTYPE
COMPRESSORS = [
    "gzip",
    "gzip -Xcompression-level 1 -Xwindow-size 9",
    "gzip -Xstrategy filtered",
    "gzip -Xstrategy default,huffman_only,run_length_encoded,fixed -Xcompression-level 5",
    "lzo",
    "lzo -Xcompression-level 1",
    "lzo -Xalgorithm lzo1x_1_15",
    "lz4",
    "lz4 -Xhc",
    "xz",
    "xz -Xdict-size 25%",
    "xz -Xbcj x86",
    "xz -Xbcj arm,powerpc,sparc -Xdict-size 50%",
    "zstd",
    "zstd -Xcompression-level 1",
]
FLAGS = ["", "-noD", "-noD -noF", "-no-fragments", "-no-tailends", "-no-duplicates", "-exports", "-nopad"]


@pytest.fixture(autouse=True)
def tools():
    require_tools("mksquashfs", "unsquashfs")


def superblock(path):
    with path.open("rb") as file:
        return Superblock.read(file)


def sha256(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("compressor", "block_size"),
    [(each, size) for each in COMPRESSORS for size in ("4K", "128K", "1M") if ("dict" in each) <= (size != "4K")],
)
def test_all_compressors_and_block_sizes(tmp_path, compressor, block_size):
    """The image is that of mksquashfs, to unsquashfs and the kernel; it is as large, and says the same of itself."""
    options = f"-comp {compressor} -b {block_size}"
    write(tmp_path / "linked", corners(), RC, options)
    stream(tmp_path / "theirs", corners(), RC, options)
    assert_equal(tmp_path / "linked", tmp_path / "theirs")
    ours, theirs = superblock(tmp_path / "linked"), superblock(tmp_path / "theirs")
    same = ("inodes", "block_size", "compression", "ids")
    assert [getattr(ours, name) for name in same] == [getattr(theirs, name) for name in same]
    heads = [(tmp_path / name).read_bytes()[96:106] for name in ("linked", "theirs")]
    length = 2 + (heads[0][0] if ours.flags & 0x400 else -2)  # of the block of the compressor's options
    assert heads[0][:length] == heads[1][:length]
    assert ours.flags & 0x400 == theirs.flags & 0x400
    assert ours.bytes_used < 1.05 * theirs.bytes_used + 40 * ours.inodes  # zlib-ng's first level is faster than zlib's
    mounted_equals(tmp_path, ours)


@pytest.mark.parametrize("flags", FLAGS)
def test_options_of_all_sorts(tmp_path, flags):
    """Each shapes the image as it does mksquashfs'."""
    options = f"-comp gzip -b 16K {flags}"
    write(tmp_path / "linked", corners(), RC, options)
    stream(tmp_path / "theirs", corners(), RC, options)
    assert_equal(tmp_path / "linked", tmp_path / "theirs")
    ours, theirs = superblock(tmp_path / "linked"), superblock(tmp_path / "theirs")
    tables = 0x1 | 0x800  # ours are always plain
    assert ours.flags | tables == theirs.flags | tables
    assert ours.exportable == ("-exports" in flags)
    assert (ours.fragments == 0) == ("-no-fragments" in flags)
    assert abs(ours.fragments - theirs.fragments) <= 0.02 * theirs.fragments
    if flags != "-nopad":  # loop devices end at whole sectors
        mounted_equals(tmp_path, ours)


def test_four_readers_agree(tmp_path):
    """The kernel, unsquashfs, squashfuse and sqfs2tar."""
    require_tools("squashfuse", "sqfs2tar")
    write(tmp_path / "linked", corners(), RC)
    mounted_equals(tmp_path, superblock(tmp_path / "linked"))
    expected = read_tree(tmp_path / "linked", how="unsquashfs")
    assert not diff_trees(expected, read_tree(tmp_path / "linked", how="sqfs2tar"))
    require_root("FUSE mounts")
    with mounted(tmp_path / "linked", tmp_path / "fuse", "squashfuse") as root:
        assert not diff_trees(expected, read_mounted(root), ignore=("link",))  # it has no link counts


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate])
@given(STACKS)
def test_random_stacks(tmp_path_factory, stacks):
    """Streamed by us, streamed by mksquashfs, and joined from images of layers by both: all have the same tree."""
    directory = tmp_path_factory.mktemp("stack")
    layers = [[] for _ in range(5)]
    for number, stack in enumerate(stacks):
        for i, operations in enumerate(stack):
            layers[i] += members(operations, f"s{number}" if number else "a", 100 * number + i)
    tars = [archive(layer) for layer in layers if layer]
    options = "-comp gzip -b 4096"
    write(directory / "ours", tars, RC, options)
    stream(directory / "theirs", tars, RC, options)
    assert_equal(directory / "ours", directory / "theirs")
    for i, tar in enumerate(tars):
        write(directory / f"layer{i}", [tar], options=f"{options} -noI -noX", markers=True)
    layer_image(directory / "layer0", tars[0], options)  # one of each kind
    link_layers(directory / "joined", [directory / f"layer{i}" for i in range(len(tars))], RC)
    assert_equal(directory / "joined", directory / "ours")


def test_the_same_bytes_however_it_comes(tmp_path):
    """Neither the pieces that an archive comes in nor the number of threads makes a difference."""
    digests = set()
    for number, (piece, threads) in enumerate([(1 << 20, 1), (777, 4), (1 << 16, 2), (1 << 20, 7)]):
        image = tmp_path / str(number)
        write(image, corners(), RC, "-comp zstd -Xcompression-level 3 -b 16K", piece=piece, threads=threads)
        digests.add(sha256(image))
    assert len(digests) == 1


def test_doubles_are_stored_once(tmp_path):
    """Files, tails and whole contents: without blocks, with them, and in any order."""
    big, small = noise(1 << 20, 5) + b"tail", noise(3000, 6)
    near = noise(4096, 5) + noise((1 << 20) - 4096, 8) + b"tail"  # its size and its beginning are big's
    names = [("a", big), ("b", small), ("c", near), ("d", big), ("e", small), ("f", near), ("g", big)]
    tar = archive([Member(name, content=content) for name, content in names])
    for flags, copies in (("-noD", 2), ("", 2), ("-no-duplicates", 5)):
        write(tmp_path / "image", [tar], options=f"-comp gzip {flags}")
        stream(tmp_path / "theirs", [tar], options=f"-comp gzip {flags}")
        assert_equal(tmp_path / "image", tmp_path / "theirs")
        size = superblock(tmp_path / "image").bytes_used
        assert copies << 20 <= size < (copies << 20) + 50_000


def test_a_double_at_the_end(tmp_path):
    """What was written and taken back leaves nothing behind the image."""
    content = noise(4 << 20)
    tar = archive([Member("a", content=content), Member("b", content=content)])
    write(tmp_path / "image", [tar], options="-comp gzip -noD")
    block = superblock(tmp_path / "image")
    assert block.bytes_used < (4 << 20) + 50_000
    assert (tmp_path / "image").stat().st_size == -(-block.bytes_used // 4096) * 4096


def test_holes_cost_nothing(tmp_path):
    """Blocks of zeros are not stored, however many there are; the tail is."""

    def tar(size):
        info = tarfile.TarInfo("sparse")
        info.size = size
        info.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "sparse",
            "GNU.sparse.realsize": str(size),
        }  # fmt: skip
        stored = b"2\n0\n5\n%d\n3\n" % (size - 3)
        stored = stored.ljust(512, b"\0") + b"first" + b"end"
        info.size = len(stored)
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as file:
            file.addfile(info, io.BytesIO(stored))
        return out.getvalue()

    size = (5 << 30) + 1000
    write(tmp_path / "image", [tar(size)], options="-comp gzip")
    assert (tmp_path / "image").stat().st_size < 200_000 + 4 * (size >> 17)
    require_root("loop mounts")
    with mounted(tmp_path / "image", tmp_path / "root", "mount", "-t", "squashfs", "-o", "loop,ro") as root:
        status = (root / "sparse").stat()
        assert status.st_size == size
        assert status.st_blocks < 1024
        with (root / "sparse").open("rb") as file:
            assert file.read(10) == b"first" + bytes(5)
            file.seek(size - 10)
            assert file.read() == bytes(7) + b"end"


def test_many_names(tmp_path):
    """100,000 names in one directory, and hard links to them; the time is not that of mksquashfs, which squares it."""
    files = [Member(f"d/{i:06}", content=b"%d" % (i % 1000)) for i in range(100_000)]
    links = [Member(f"l/{i:06}", HARDLINK, link=f"d/{i:06}") for i in range(0, 100_000, 10)]
    write(tmp_path / "linked", [archive([Member("d", DIR), Member("l", DIR), *files, *links])])
    block = superblock(tmp_path / "linked")
    assert block.inodes == 100_003
    require_root("loop mounts")
    with mounted(tmp_path / "linked", tmp_path / "root", "mount", "-t", "squashfs", "-o", "loop,ro") as root:
        assert sorted(os.listdir(root / "d")) == [f"{i:06}" for i in range(100_000)]
        assert (root / "l/012340").read_bytes() == b"340"
        assert (root / "d/012340").stat().st_nlink == 2
        assert (root / "l/012340").stat().st_ino == (root / "d/012340").stat().st_ino


def test_an_empty_image(tmp_path):
    """Nothing but the root directory."""
    write(tmp_path / "linked", [archive([])])
    assert superblock(tmp_path / "linked").inodes == 1
    mounted_equals(tmp_path, superblock(tmp_path / "linked"))


def test_times(tmp_path):
    """-all-time is the files', -mkfs-time the image's; without them the files have theirs, the image the one given."""
    write(tmp_path / "one", [archive([Member("a", mtime=5)])], options="-comp gzip -all-time 7 -mkfs-time 9")
    assert superblock(tmp_path / "one").mtime == 9
    assert {entry.mtime for entry in read_tree(tmp_path / "one").values()} == {7}
    write(tmp_path / "two", [archive([Member("a", mtime=5)])])
    assert superblock(tmp_path / "two").mtime == NOW
    assert read_tree(tmp_path / "two")[b"a"].mtime == 5


def test_no_space(tmp_path):
    """A full disk is met at the data or at the tables; the file without a name goes, too."""
    require_root("tmpfs mounts")
    small = tmp_path / "small"
    with mounted("none", small, "mount", "-t", "tmpfs", "-o", "size=2M"):
        for tar in (
            archive([Member("a", content=noise(3 << 20))]),
            archive([Member(f"{i:0200}") for i in range(9000)]),
        ):
            with pytest.raises(OSError, check=lambda error: error.errno == errno.ENOSPC):
                write(small / "image", [tar], options="-comp gzip -noD")
            (small / "image").unlink()
        assert list(small.iterdir()) == []


def test_what_is_not_there(tmp_path):
    """A hard link to nothing, and inodes that nobody has counted, are errors and no image."""
    with ThreadPoolExecutor(1) as pool:
        with opened(tmp_path / "image") as file, ImageWriter(file, SquashOptions.parse(""), pool, 1) as writer:
            with pytest.raises(ConversionError, match="a is a hard link to b"):
                writer.hardlink(b"a", b"b")
            with pytest.raises(ConversionError, match="1 inodes of 2"):
                writer.finish(2)
    assert (tmp_path / "image").read_bytes() == b""


@pytest.mark.parametrize("options", ["-comp gzip -Xstrategy default,fixed", "-comp xz -Xbcj x86,arm"])
def test_the_best_of_several_ways(options):
    """With a list, each block is stored in the way that makes it shortest."""
    blocks = [b"abcd" * 9000, noise(5000), _machine_code()]
    compressor = compressors.compressor_of(SquashOptions.parse(options))
    one = compressors.compressor_of(SquashOptions.parse(options.partition(" -X")[0]))
    assert all(len(compressor.compress(block)) <= len(one.compress(block)) for block in blocks)
    assert any(len(compressor.compress(block)) < len(one.compress(block)) for block in blocks) == ("xz" in options)


def _machine_code():
    """x86 calls of a few functions from everywhere, whose distances only a filter makes alike."""
    code = bytearray()
    while len(code) < 100_000:
        code += noise(7, len(code)) + b"\xe8" + ((len(code) % 5 << 12) - len(code)).to_bytes(4, "little", signed=True)
    return bytes(code)


@pytest.mark.parametrize(("name", "package"), [("lzo", "liblzo2-2"), ("lz4", "liblz4-1"), ("zstd", "backports.zstd")])
def test_a_library_that_is_missing(monkeypatch, name, package):
    """The error names the compressor and what to install."""

    def no(*_, **__):
        raise OSError("cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", no)
    monkeypatch.setitem(sys.modules, "backports", None)
    monkeypatch.setitem(sys.modules, "compression", None)
    with pytest.raises(ConversionError, match=f"'-comp {name}' needs a library") as caught:
        compressors.compressor_of(SquashOptions.parse(f"-comp {name}"))
    assert package in caught.value.hint


@pytest.mark.parametrize("path", [b"a\0b", b"d\0/a", b"d/..", b".", b"d//a", b"d/", b"x/../y"])
def test_impossible_names_are_never_written(tmp_path, path):
    """What the reader of layer images refuses, and unsquashfs calls corrupted, is refused, whatever way it came."""
    with (
        ThreadPoolExecutor(1) as pool,
        opened(tmp_path / "image") as file,
        ImageWriter(file, SquashOptions.parse("-comp gzip"), pool, 1) as writer,
    ):
        writer.file(b"d/fine", 0o644, 0, 0)
        writer.file(path, 0o644, 0, 0)
        above = {path[:at] for at in range(len(path)) if path[at : at + 1] == b"/"}
        with pytest.raises(IntegrityError, match="impossible name"):
            writer.finish(len(above | {b"", b"d"}) + 2)


def test_a_name_twice_is_never_written(tmp_path):
    """Readers find one of the two, or call the image corrupted."""
    with (
        ThreadPoolExecutor(1) as pool,
        opened(tmp_path / "image") as file,
        ImageWriter(file, SquashOptions.parse("-comp gzip"), pool, 1) as writer,
    ):
        writer.file(b"f", 0o644, 0, 0)
        writer.symlink(b"f", 0, b"g")
        with pytest.raises(IntegrityError, match="one twice"):
            writer.finish(3)


@pytest.mark.parametrize("device", [(4096, 0), (0, 1 << 20), (-1, 0), (0, -1)])
def test_devices_that_no_image_can_hold(tmp_path, device):
    """A device number has 12 and 20 bits."""
    with (
        ThreadPoolExecutor(1) as pool,
        opened(tmp_path / "image") as file,
        ImageWriter(file, SquashOptions.parse("-comp gzip"), pool, 1) as writer,
        pytest.raises(IntegrityError, match="no device"),
    ):
        writer.device(b"d", "b", 0o600, 0, device)
