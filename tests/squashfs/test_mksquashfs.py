"""mksquashfs as a child: what it writes is checked, what it says is told."""

from __future__ import annotations

import os
import subprocess
import threading

import pytest

from enroot_slurm.errors import ConversionError, IntegrityError, StorageError
from enroot_slurm.rootfs import tar
from enroot_slurm.rootfs.tar_writer import header
from enroot_slurm.squashfs.format.superblock import Superblock
from enroot_slurm.squashfs.mksquashfs import Mksquashfs
from enroot_slurm.squashfs.options import SquashOptions

OPTIONS = SquashOptions.parse("-comp gzip -noD")


def start(image, options=OPTIONS, **more):
    return Mksquashfs(image, options, processors=2, memory=64 << 20, **more)


def feed(mksquashfs, *members):
    with open(mksquashfs.stdin, "wb", closefd=False) as stdin:
        stdin.writelines([*members, bytes(1024)])


def file(path, content=b""):
    return header(path, tar.FILE, 0o644, 5, len(content)) + content + bytes(-len(content) % 512)


def test_an_image_is_written_and_checked(tmp_path):
    """The superblock says the compressor, the block size and the inodes of the archive."""
    image = tmp_path / "image"
    with start(image, SquashOptions.parse("-comp zstd -b 256K")) as mksquashfs:
        feed(mksquashfs, file(b"a", b"x" * 1000), header(b"d", tar.DIRECTORY, 0o700, 1))
        block = mksquashfs.finish(inodes=3)
    assert (block.compressor, block.block_size, block.inodes) == ("zstd", 256 << 10, 3)
    with image.open("rb") as opened:
        assert Superblock.read(opened) == block


def test_the_root_directory_is_0755_and_all_is_roots(tmp_path):
    """mksquashfs' own default for the root directory, 0777, is not used."""
    image = tmp_path / "image"
    with start(image) as mksquashfs:
        feed(mksquashfs, file(b"a"))
        mksquashfs.finish(inodes=2)
    listing = subprocess.run(["unsquashfs", "-lls", image], capture_output=True, text=True, check=True).stdout
    assert "drwxr-xr-x root/root" in listing


def test_times_can_be_fixed(tmp_path):
    """With a time, image and files have it: the same archive gives the same bytes."""
    images = [tmp_path / "a", tmp_path / "b"]
    for image in images:
        with start(image, time=7) as mksquashfs:
            feed(mksquashfs, file(b"a", os.urandom(0)), file(b"b", b"same"))
            mksquashfs.finish(inodes=3)
    assert images[0].read_bytes() == images[1].read_bytes()


def test_dropped_members_are_noticed(tmp_path):
    """mksquashfs leaves out a duplicate with exit status 0; the missing inode is an error."""
    with start(tmp_path / "image") as mksquashfs:
        feed(mksquashfs, file(b"a", b"1"), file(b"a", b"2"))
        with pytest.raises(ConversionError, match="2 inodes of 3: .*already exists"):
            mksquashfs.finish(inodes=3)


def test_failures_are_explained(tmp_path):
    """What mksquashfs says is in the error: an unknown option, a cut archive, a missing directory."""
    with start(tmp_path / "nowhere" / "image") as mksquashfs, pytest.raises(ConversionError, match="No such file"):
        try:
            feed(mksquashfs, file(b"a" * 50, b"x" * 3_000_000))
        except BrokenPipeError:
            raise mksquashfs.failure() from None
        mksquashfs.finish(inodes=2)


def test_a_full_disk_is_told(tmp_path):
    """No space for the image is an error of its own, with a way out."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", mount], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        with start(mount / "image") as mksquashfs, pytest.raises(StorageError, match="no space left") as caught:
            try:
                feed(mksquashfs, file(b"a", os.urandom(8 << 20)))
            except BrokenPipeError:
                raise mksquashfs.failure() from None
            mksquashfs.finish(inodes=2)
        assert "--output" in caught.value.hint
    finally:
        subprocess.run(["umount", mount], check=True)


def test_a_missing_program_is_named(tmp_path, monkeypatch):
    """Without mksquashfs the error names the package."""
    monkeypatch.setattr("enroot_slurm.squashfs.mksquashfs._SYSTEM_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ConversionError, match="not installed") as caught:
        start(tmp_path / "image")
    assert "squashfs-tools" in caught.value.hint


def test_it_is_killed_when_the_block_is_left(tmp_path):
    """An error inside of the block leaves no process behind, and no thread or pipe."""
    before = threading.active_count()
    with pytest.raises(ZeroDivisionError), start(tmp_path / "image") as mksquashfs:
        pid = mksquashfs._process.pid
        1 / 0
    assert not os.path.exists(f"/proc/{pid}")
    assert threading.active_count() == before


@pytest.mark.parametrize("length", [0, 50, 96, 500])
def test_incomplete_images_are_refused(tmp_path, length):
    """A cut file, an empty one, or another file is no image."""
    image = tmp_path / "image"
    with start(image) as mksquashfs:
        feed(mksquashfs, file(b"a", os.urandom(5000)))
        mksquashfs.finish(inodes=2)
    os.truncate(image, length)
    with image.open("rb") as opened, pytest.raises(IntegrityError, match="squashfs"):
        Superblock.read(opened)
    image.write_bytes(os.urandom(8192))
    with image.open("rb") as opened, pytest.raises(IntegrityError, match="squashfs"):
        Superblock.read(opened)
