"""Layer images to one image: data is copied as it is, the tables are written anew.

The cost is that of copying, or nearly nothing where the file system shares blocks, and some microseconds for each
inode.  The same layers give the same bytes.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from enroot_slurm.errors import StorageError
from enroot_slurm.squashfs.content import Content
from enroot_slurm.squashfs.format import ABSENT, MAGIC, SUPERBLOCK_SIZE, CannotLink, Flag, Superblock
from enroot_slurm.squashfs.image import LayerImage
from enroot_slurm.squashfs.layout import FRAGMENT_SIZE, Layout
from enroot_slurm.squashfs.metadata import lookup_table, packed, reference
from enroot_slurm.squashfs.rc import rc_image
from enroot_slurm.squashfs.transfer import Transfer
from enroot_slurm.squashfs.tree import Tree

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

__all__ = ["link"]

_PADDING = 4096  # images are whole device blocks (doc/format.adoc, "Overview")
_OWNERS = bytes(4)  # root alone
_PLAIN = Flag.PLAIN_INODES | Flag.PLAIN_IDS | Flag.NO_XATTRS


def link(
    output: Path,
    layers: Sequence[Path],
    directories: Sequence[bytes],
    files: Sequence[tuple[bytes, bytes]],
    *,
    now: int,
    time: int | None = None,
    on_copied: Callable[[int], None],
) -> Superblock:
    """Write the image of *layers*, whose first is the top one, below *directories* (0755) and *files* (0644).

    now        the time of these, and of the image
    time       the time that all files and the image get; None leaves the layers' files theirs
    on_copied  is told each number of bytes that were copied, in another thread

    Raises: CannotLink, when a layer image is not what the linker understands; StorageError, when the disk is full.
    What is left at *output* then is no image.
    """
    now = now if time is None else time
    with contextlib.ExitStack() as stack:
        images = []
        for path in layers:
            images.append(LayerImage.open(path))
            stack.callback(os.close, images[-1].fd)
        if len({image.recipe for image in images}) != 1:
            raise CannotLink("the layer images differ in compressor, its options, or block size")
        images.insert(0, rc_image(images[0].recipe, directories, files, now))
        stack.callback(os.close, images[0].fd)
        try:
            return _Link(images, now, time).write(output, on_copied)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageError(
                    f"no space left to write the image: {output.parent}",
                    hint="Free space there ('enroot-slurm cache gc' for a cache), or name another place: --output.",
                ) from None
            raise


class _Link:
    """One link of *images*, with the rc layer first."""

    def __init__(self, images: list[LayerImage], now: int, time: int | None) -> None:
        self._images = images
        self._recipe = images[0].recipe
        self._flags = images[1].flags
        self._exportable = bool(self._flags & Flag.EXPORTABLE)
        self._now = now
        self._time = time
        self._tree = Tree(images)
        self._layout = Layout(self._tree, images, SUPERBLOCK_SIZE + len(self._recipe.options))

    def write(self, output: Path, on_copied: Callable[[int], None]) -> Superblock:
        fd = os.open(output, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
        stop = threading.Event()
        try:
            with ThreadPoolExecutor(1) as pool:  # the copy needs the disk, the tables the processor
                copied = pool.submit(self._copy, fd, on_copied, stop)
                try:
                    superblock = self._write_tables(fd)
                    copied.result()
                except BaseException:
                    stop.set()
                    raise
            # Last, so that an image that is not complete is none.
            _write(fd, 0, [bytes(superblock), self._recipe.options])
        finally:
            os.close(fd)
        return superblock

    def _copy(self, fd: int, on_copied: Callable[[int], None], stop: threading.Event) -> None:
        for image, relocation in zip(self._images, self._layout.relocations, strict=True):
            transfer = Transfer(image.fd, fd)
            for extent in relocation.extents:
                for count in transfer.copy(extent):
                    if stop.is_set():
                        return
                    on_copied(count)

    def _write_tables(self, fd: int) -> Superblock:
        """Write the tables, in the order that the kernel insists on, behind the data."""
        at = inode_table = self._layout.end

        def write(inodes: bytes) -> None:
            nonlocal at
            at = _write(fd, at, packed(inodes))

        content = Content(self._images, self._tree, self._layout, self._time, write)
        fragments = bytes(self._layout.fragments)
        directory_table = at
        at = _write(fd, directory_table, packed(content.directories))
        places = []
        for array in (fragments, content.export_table() if self._exportable else b"", _OWNERS):
            table, place = lookup_table(array, at)
            places.append(place)
            at = _write(fd, at, [table])
        _write(fd, at, [bytes(-at % _PADDING)])
        return Superblock(
            magic=MAGIC,
            inodes=self._layout.count,
            mtime=self._now,
            block_size=1 << self._recipe.block_log,
            fragments=len(fragments) // FRAGMENT_SIZE,
            compression=self._recipe.compression,
            block_log=self._recipe.block_log,
            flags=int(self._flags | _PLAIN),
            ids=len(_OWNERS) // 4,
            major=4,
            minor=0,
            root_inode=reference(content.root),
            bytes_used=at,
            id_table=places[2],
            xattr_table=ABSENT,
            inode_table=inode_table,
            directory_table=directory_table,
            fragment_table=places[0],
            export_table=places[1] if self._exportable else ABSENT,
        )


def _write(fd: int, at: int, parts: Iterable[bytes]) -> int:
    """Write *parts* one after the other; where they end."""
    for part in parts:
        view = memoryview(part)
        while view:
            count = os.pwrite(fd, view, at)
            view, at = view[count:], at + count
    return at
