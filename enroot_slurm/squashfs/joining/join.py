"""Layer images to one image: data is copied as it is, the tables are written anew.

The cost is that of copying, or nearly nothing where the file system shares blocks, and some microseconds for each
inode.  The same layers give the same bytes.
"""

from __future__ import annotations

import contextlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from enroot_slurm.squashfs.format.metadata import packed
from enroot_slurm.squashfs.format.superblock import SUPERBLOCK_SIZE, CannotJoin, Flag, unwritten
from enroot_slurm.squashfs.format.tables import write, write_tables
from enroot_slurm.squashfs.joining.joined_tables import JoinedTables
from enroot_slurm.squashfs.joining.layer_image import LayerImage
from enroot_slurm.squashfs.joining.overlay import Overlay
from enroot_slurm.squashfs.joining.placement import Placement
from enroot_slurm.squashfs.joining.rc_layer import rc_image
from enroot_slurm.system.file_copy import FileCopy

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from enroot_slurm.squashfs.format.superblock import Superblock
    from enroot_slurm.system.checksum import Checksum
    from enroot_slurm.system.publish import Draft

__all__ = ["join_layers"]


def join_layers(
    output: Draft,
    layers: Sequence[Path],
    directories: Sequence[bytes],
    files: Sequence[tuple[bytes, bytes]],
    *,
    now: int,
    time: int | None = None,
    image_time: int | None = None,
    copied: Callable[[int, int], object] = lambda _done, _total: None,
    checksum: Checksum | None = None,
) -> Superblock:
    """Write the image of *layers*, whose first is the top one, below *directories* (0755) and *files* (0644).

    now         the time of these, and of the image
    time        the time that all files get; None leaves the layers' files theirs
    image_time  the time that the image gets
    copied      is told how many bytes of all have been copied, by another thread
    checksum    becomes that of the image

    Raises: CannotJoin, when a layer image is not what the linker understands; StorageError.
    What is left in *output* then is no image.
    """
    image_time = now if image_time is None else image_time
    with contextlib.ExitStack() as stack:
        images = []
        for path in layers:
            images.append(LayerImage.open(path))
            stack.callback(os.close, images[-1].fd)
        if len({image.recipe for image in images}) != 1:
            raise CannotJoin("the layer images differ in compressor, its options, or block size")
        images.insert(0, rc_image(images[0].recipe, directories, files, now if time is None else time))
        stack.callback(os.close, images[0].fd)
        try:
            return _Link(images, image_time, time, copied, checksum).write(output)
        except OSError as error:
            raise unwritten(output.path, error) from None


class _Link:
    """One link of *images*, with the rc layer first."""

    def __init__(
        self,
        images: list[LayerImage],
        now: int,
        time: int | None,
        copied: Callable[[int, int], object],
        checksum: Checksum | None,
    ) -> None:
        self._images = images
        self._recipe = images[0].recipe
        self._flags = Flag(images[1].flags)
        self._now = now
        self._time = time
        self._copied = copied
        self._checksum = checksum
        self._overlay = Overlay(images)
        self._placement = Placement(self._overlay, images, SUPERBLOCK_SIZE + len(self._recipe.options))

    def write(self, output: Draft) -> Superblock:
        output.clear()
        stop = threading.Event()
        with ThreadPoolExecutor(1) as pool:  # the copy needs the disk, the tables the processor
            copied = pool.submit(self._copy, output.fd, stop)
            try:
                superblock = self._write_tables(output.fd)
                copied.result()
            except BaseException:
                stop.set()
                raise
        # Last, so that an image that is not complete is none.
        write(output.fd, 0, [bytes(superblock), self._recipe.options])
        if self._checksum is not None:
            self._checksum.add_rest(output.fd)
            self._checksum.rewrite_head(output.fd)
        return superblock

    def _copy(self, fd: int, stop: threading.Event) -> None:
        done, start = 0, SUPERBLOCK_SIZE + len(self._recipe.options)
        if self._checksum is not None:
            self._checksum.clear()
        for image, relocation in zip(self._images, self._placement.relocations, strict=True):
            transfer = FileCopy(image.fd, fd)
            for extent in relocation.extents:
                left = extent.length
                for count in transfer.copy(*extent):
                    if stop.is_set():
                        return
                    if self._checksum is not None:
                        # From the layer: an image that shares its blocks would have to be read from the disk again.
                        passed = extent.length - left
                        self._checksum.add_zeros(extent.target + passed)
                        self._checksum.add_part(image.fd, extent.source + passed, count)
                    left -= count
                    done += count
                    self._copied(done, self._placement.end - start)
                if left:
                    raise CannotJoin("a layer image became shorter")

    def _write_tables(self, fd: int) -> Superblock:
        """Write the tables behind the data."""
        at = self._placement.end

        def write_inodes(inodes: bytes) -> None:
            nonlocal at
            at = write(fd, at, packed(inodes))

        content = JoinedTables(self._images, self._overlay, self._placement, self._time, write_inodes)
        superblock, _ = write_tables(
            fd,
            range(self._placement.end, at),
            directories=content.directories,
            fragments=self._placement.fragments,
            positions=content.positions,
            root=content.root,
            flags=self._flags,
            recipe=self._recipe,
            mtime=self._now,
        )
        return superblock
