"""Layer images for the linker's tests: made by mksquashfs from tar archives, or written by hand where that is slow."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import subprocess
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple

from support.tar_writer import TarWriter

from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.rootfs.merge import Merge
from enroot_slurm.rootfs.stack import NeedsPlan
from enroot_slurm.squashfs.format.inodes import DIRECTORY, FILE, NOTHING, File
from enroot_slurm.squashfs.format.metadata import lookup_table, packed, reference
from enroot_slurm.squashfs.format.superblock import ABSENT, MAGIC, SUPERBLOCK_SIZE, Superblock
from enroot_slurm.squashfs.format.tables import Tables
from enroot_slurm.squashfs.joining.join import join_layers
from enroot_slurm.squashfs.options import SquashOptions
from enroot_slurm.squashfs.writing.writer import ImageWriter
from enroot_slurm.system.checksum import Checksum
from enroot_slurm.system.publish import Draft

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from enroot_slurm.tar.sink import Sink

__all__ = ["NOW", "Member", "archive", "layer_image", "link_layers", "opened", "stream", "write", "write_image"]

NOW = 1_700_000_000
NO_RC = RcLayer((), ())
OPTIONS = "-comp zstd -Xcompression-level 1"
_LAYER = ("-all-root", "-noI", "-noId", "-noX", "-no-xattrs", "-root-mode", "0755", "-noappend", "-quiet")


class Member(NamedTuple):
    """A member of a tar archive."""

    path: str
    kind: bytes = tarfile.REGTYPE
    mode: int = 0o644
    content: bytes = b""
    link: str = ""
    device: tuple[int, int] = (0, 0)
    mtime: int = 1_500_000_000


def archive(members: Iterable[Member]) -> bytes:
    """The tar archive of *members*."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for member in members:
            info = tarfile.TarInfo(member.path)
            info.type, info.mode, info.mtime, info.linkname = member.kind, member.mode, member.mtime, member.link
            info.size = len(member.content)
            info.devmajor, info.devminor = member.device
            tar.addfile(info, io.BytesIO(member.content))
    return stream.getvalue()


def layer_image(path: Path, tar: bytes, options: str = OPTIONS, *more: str) -> Path:
    """The layer image at *path* of the archive *tar*, with its whiteouts as files; *more* are flags."""
    words = [*options.split(), *more]
    words += [] if "-exports" in words else ["-no-exports"]  # some releases make them by default
    command = ["mksquashfs", "-", str(path), "-tar", *_LAYER, "-no-progress", "-mem", "128M", *words]
    done = subprocess.run(command, input=tar, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return path


def link_layers(output: Path, layers: Sequence[Path], rc: RcLayer = NO_RC, **more: int) -> Superblock:
    """Link *layers*, the lowest first; the checksum that comes of it is that of the file."""
    linked, whole = Checksum(), Checksum()
    with opened(output) as file:
        arguments: dict[str, Any] = {**more, "now": NOW, "checksum": linked}
        superblock = join_layers(file, layers[::-1], rc.directories, rc.files, **arguments)
        if os.fstat(file.fd).st_size > 1 << 30:  # nearly all of it is a hole
            return superblock
        whole.add_rest(file.fd)
    assert str(linked) == str(whole)
    return superblock


@contextlib.contextmanager
def opened(path: Path) -> Iterator[Draft]:
    """The file *path*, made if it is missing, to be written; its name stays."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        yield Draft(path, fd)
    finally:
        os.close(fd)


def stream(output: Path, tars: Sequence[bytes], rc: RcLayer = NO_RC, options: str = OPTIONS) -> None:
    """The image of the same layers as mksquashfs makes it of one archive."""
    words = SquashOptions.parse(options).arguments
    words += () if "-exports" in words else ("-no-exports",)
    command = ["mksquashfs", "-", output, "-tar", "-all-root", "-root-mode", "0755", "-no-xattrs", "-noappend", *words]
    for planned in (False, True):
        with tempfile.TemporaryFile() as tar:
            sink = TarWriter(tar.fileno())
            if inodes := _merge(sink, tars, rc, planned=planned):
                sink.close()
                tar.seek(0)
                subprocess.run([*command, "-quiet", "-no-progress"], stdin=tar, check=True)
                with output.open("rb") as image:
                    assert Superblock.read(image).inodes == inodes
                return


def write(
    output: Path,
    tars: Sequence[bytes],
    rc: RcLayer = NO_RC,
    options: str = OPTIONS,
    *,
    piece: int = 1 << 20,
    threads: int = 2,
    markers: bool = False,
) -> None:
    """The image of the same layers as the streaming import makes it, from *piece* bytes at a time."""
    for planned in (False, True):
        with (
            ThreadPoolExecutor(threads) as pool,
            opened(output) as file,
            ImageWriter(file, SquashOptions.parse(options), pool, threads, now=NOW) as sink,
        ):
            if inodes := _merge(sink, tars, rc, planned=planned, piece=piece, markers=markers):
                sink.finish(inodes)
                return


def _merge(
    sink: Sink,
    tars: Sequence[bytes],
    rc: RcLayer,
    *,
    planned: bool,
    piece: int = 1 << 20,
    markers: bool = False,
) -> int:
    merge = Merge(sink, rc, NOW, limit=1 << 40, markers=markers)
    try:
        for tar in reversed(tars):
            merge.add_layer(lambda tar=tar: (tar[i : i + piece] for i in range(0, len(tar), piece)), planned=planned)
        merge.finish()
    except NeedsPlan:
        assert not planned
        return 0
    return merge.inodes


def write_image(path: Path, tree: dict[bytes, object], *, gap: int = 0) -> Path:
    """An image with *tree*: name -> dict, or a file's content of at most a block, *gap* bytes behind each other.

    A file may be (size, content) too, whose content is in its last block, behind a hole.
    """
    pieces, number, data = [], 0, []
    tables = Tables(pieces.append)
    at = SUPERBLOCK_SIZE

    def add(node: dict[bytes, object]) -> int:
        nonlocal number, at
        names = []
        for name, value in sorted(node.items()):
            if isinstance(value, dict):
                names.append((name, add(value), number, DIRECTORY))
                continue
            size, value = value if isinstance(value, tuple) else (len(value), value)
            number += 1
            holes = -(-(size - len(value)) // 131072)
            blocks = bytes(4 * holes) + (struct.pack("<I", len(value) | 1 << 24) if value else b"")
            file = File(0o644, 5, 1, at if value else 0, size, holes * 131072, NOTHING, 0, blocks)
            names.append((name, tables.add(file.pack(number)), number, FILE))
            if value:
                data.append((at, value))
                at += len(value) + gap
        number += 1
        return tables.add_directory(names, number, parent=0, links=2, mode=0o755, mtime=5)

    root = add(tree)
    with path.open("wb") as image:
        for where, value in data:
            image.seek(where)
            image.write(value)
        image.seek(at)
        tables.finish()
        image.writelines(packed(b"".join(pieces)))
        directory_table = image.tell()
        image.writelines(packed(tables.directories))
        ids, where = lookup_table(bytes(4), image.tell())
        image.write(ids)
        used = image.tell()
        image.write(bytes(-used % 4096))
        image.seek(0)
        places = (reference(root), used, where, ABSENT, at, directory_table, ABSENT, ABSENT)
        image.write(bytes(Superblock(MAGIC, number, 5, 131072, 0, 6, 17, 0x301, 1, 4, 0, *places)))
    return path
