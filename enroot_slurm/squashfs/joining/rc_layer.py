"""enroot's own files as a layer image in memory, so that the linker has but one kind of layer."""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING

from enroot_slurm.oci.layer import WHITEOUT
from enroot_slurm.squashfs.format.inodes import DIRECTORY, FILE, NOTHING, File
from enroot_slurm.squashfs.format.metadata import Metadata
from enroot_slurm.squashfs.format.superblock import UNCOMPRESSED, CannotJoin
from enroot_slurm.squashfs.format.tables import Tables
from enroot_slurm.squashfs.joining.layer_image import LayerImage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enroot_slurm.squashfs.joining.layer_image import Recipe

__all__ = ["rc_image"]


def rc_image(
    recipe: Recipe, directories: Sequence[bytes], files: Sequence[tuple[bytes, bytes]], time: int
) -> LayerImage:
    """The image with these relative paths, parents first; *files* have contents.

    Data is stored in whole blocks, uncompressed: it is little, and needs no compressor.  Raises: CannotJoin.
    """
    if any(b"/" + WHITEOUT in b"/" + path for path in (*directories, *(path for path, _ in files))):
        raise CannotJoin("a directory of the image config has the name of a whiteout")
    fd = os.memfd_create("rc")
    pieces: list[bytes] = []
    tables = Tables(pieces.append)
    children: dict[bytes, list[tuple[bytes, int, int, int]]] = {b"": [], **{path: [] for path in directories}}
    stored = 0

    def add(path: bytes) -> int:  # the linker gives inodes their numbers, and counts their links
        return tables.add_directory(sorted(children[path]), 0, parent=0, links=2, mode=0o755, mtime=time)

    for path, content in files:
        os.pwrite(fd, content, stored)
        inode = File(0o644, time, 1, stored, len(content), 0, NOTHING, 0, _blocks(len(content), 1 << recipe.block_log))
        parent, _, name = path.rpartition(b"/")
        children[parent].append((name, tables.add(inode.pack(0)), 0, FILE))
        stored += len(content)
    for path in sorted(directories, reverse=True):  # what is in a directory sorts behind it
        parent, _, name = path.rpartition(b"/")
        children[parent].append((name, add(path), 0, DIRECTORY))
    root = add(b"")
    tables.finish()
    return LayerImage(
        fd,
        recipe,
        tables=(Metadata.plain(b"".join(pieces)), Metadata.plain(bytes(tables.directories))),
        root=root,
        data=range(stored),
    )


def _blocks(size: int, block_size: int) -> bytes:
    sizes = [min(block_size, size - at) | UNCOMPRESSED for at in range(0, size, block_size)]
    return struct.pack(f"<{len(sizes)}I", *sizes)
