"""The inodes and directories of the image that is linked."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from enroot_slurm.oci.layer import readable
from enroot_slurm.squashfs.format.inodes import DIRECTORY, FILE, SYMLINK, Special, pack_file
from enroot_slurm.squashfs.format.tables import Tables
from enroot_slurm.squashfs.joining.overlay import POSITIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enroot_slurm.squashfs.joining.layer_image import LayerImage
    from enroot_slurm.squashfs.joining.overlay import Overlay
    from enroot_slurm.squashfs.joining.placement import Placement

__all__ = ["JoinedTables"]


class JoinedTables:
    """The tables for the *overlay* of *images*, by its *placement*.

    All times are *time*, unless that is None.  The inode table goes to *write*, in pieces.
    Raises: CannotJoin.
    """

    def __init__(
        self,
        images: Sequence[LayerImage],
        overlay: Overlay,
        placement: Placement,
        time: int | None,
        write: Callable[[bytes], None],
    ) -> None:
        self._images = images
        self._overlay = overlay
        self._placement = placement
        self._time = time
        self.positions = array("Q", bytes(8 * placement.count))
        """Of inodes, by their numbers less one."""
        self._shared: set[int] = set()  # inodes of several names that are written
        self._tables = Tables(write)
        for directory in reversed(range(len(overlay.directories))):
            self._add_directory(directory)
        self._tables.finish()
        self.directories = self._tables.directories
        """The directory table."""

    @property
    def root(self) -> int:
        """The position of the root directory's inode."""
        return self.positions[self._placement.numbers[0] - 1]

    def _add_directory(self, directory: int) -> None:
        overlay, numbers = self._overlay, self._placement.numbers
        layer, position = divmod(overlay.directories[directory], POSITIONS)
        inode = self._images[layer].directory(position)
        number = numbers[overlay.entries[directory]]
        inside = overlay.inside(directory)
        self.positions[number - 1] = self._tables.add_directory(
            self._names(directory),
            number,
            # The root's parent has a number that no inode has.
            parent=numbers[overlay.entries[overlay.parents[directory]]] if directory else self._placement.count + 1,
            links=2 + overlay.kinds.count(DIRECTORY, inside.start, inside.stop),
            mode=inode.mode | 0o700,
            mtime=self._mtime(inode.mtime),
        )

    def _names(self, directory: int) -> Iterator[tuple[bytes, int, int, int]]:
        """Yield what is in a directory, as `write_listing` wants it; add the inodes that are no directories."""
        positions, numbers, links = self.positions, self._placement.numbers, self._placement.links
        add = self._tables.add
        for entry, kind, inode, name in self._overlay.names(directory):
            number = numbers[entry]
            if kind == DIRECTORY or inode in self._shared:
                yield name, positions[number - 1], number, kind
                continue
            count = 1
            if inode in links:
                self._shared.add(inode)
                count = links[inode]
            packed = self._file(inode, count, number) if kind == FILE else self._special(inode, kind, count, number)
            positions[number - 1] = position = add(packed)
            yield name, position, number, kind

    def _file(self, inode: int, links: int, number: int) -> bytes:
        layer, position = divmod(inode, POSITIONS)
        image, relocation = self._images[layer], self._placement.relocations[layer]
        if small := image.small_file(position):
            mode, mtime, fragment, offset, size = small
            start, sparse, blocks = 0, 0, b""
        else:
            file = image.file(position)
            mode, mtime, _, start, size, sparse, fragment, offset, blocks = file
            start = relocation.start(start) if blocks and file.stored else 0
        mtime, fragment = mtime if self._time is None else self._time, relocation.fragment(fragment)
        return pack_file(number, readable(mode), mtime, links, start, size, sparse, fragment, offset, blocks)

    def _special(self, inode: int, kind: int, links: int, number: int) -> bytes:
        layer, position = divmod(inode, POSITIONS)
        special = self._images[layer].special(position, kind)
        mode = special.mode if kind == SYMLINK else readable(special.mode)
        return Special(kind, mode, self._mtime(special.mtime), links, special.content).pack(number)

    def _mtime(self, mtime: int) -> int:
        return mtime if self._time is None else self._time
