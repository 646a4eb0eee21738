"""The layout of the joined image: which data is needed, where it moves, which number an inode has.

Data is kept or dropped by pages of 4 KiB of its layer image, and keeps its place relative to a page.  So a file
system that can share blocks between files (reflink) can share nearly all of it, and what lies dead within a page is
all that is carried along.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.squashfs.format.inodes import DIRECTORY, FILE, NOTHING
from enroot_slurm.squashfs.format.superblock import FRAGMENT, CannotJoin
from enroot_slurm.squashfs.joining.overlay import POSITIONS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from enroot_slurm.squashfs.format.inodes import File
    from enroot_slurm.squashfs.joining.layer_image import LayerImage
    from enroot_slurm.squashfs.joining.overlay import Overlay

__all__ = ["Extent", "Placement", "Relocation"]

_PAGE = 4096


class Extent(NamedTuple):
    """Data that stays together: *length* bytes from *source* of a layer image go to *target* of the new one."""

    source: int
    target: int
    length: int


class Relocation:
    """The used data and fragments of *image*, as `use` and `use_fragment` are told, and then their new places."""

    def __init__(self, image: LayerImage) -> None:
        self._image = image
        self._pages = bytearray(-(-image.data.stop // _PAGE))
        self._used = bytearray(image.fragments)
        self._latest = NOTHING
        self._sources: list[int] = []
        self._fragments: array[int] = array("I")
        self.extents: list[Extent] = []

    def use(self, start: int, length: int) -> None:
        """These bytes are alive.  Raises: CannotJoin, if there are none such."""
        if start < self._image.data.start or start + length > self._image.data.stop:
            raise CannotJoin("a layer image has a file outside of its data")
        first, stop = start // _PAGE, -(-(start + length) // _PAGE)
        if stop - first == 1:
            self._pages[first] = 1
        else:
            self._pages[first:stop] = b"\1" * (stop - first)

    def use_fragment(self, number: int) -> None:
        """This fragment, or `NOTHING`, is alive.  Raises: CannotJoin, if there is none such."""
        if number == self._latest:
            return  # as with most files: those of one fragment are together
        if number == NOTHING:
            return
        self._latest = number
        if number >= len(self._used):
            raise CannotJoin("a layer image has a file in a fragment that does not exist")
        if not self._used[number]:
            self._used[number] = 1
            start, size = self._image.fragment(number)
            self.use(start, size & 0xFFFFFF)

    def place(self, at: int, fragments: bytearray) -> int:
        """Give all that is alive its place from *at* on, and add to the table of *fragments*; where it ends."""
        data = self._image.data
        for first, stop in _runs(self._pages):
            source = max(first * _PAGE, data.start)
            length = min(stop * _PAGE, data.stop) - source
            at += (source - at) % _PAGE
            self.extents.append(Extent(source, at, length))
            at += length
        self._sources = [extent.source for extent in self.extents]
        self._fragments = array("I", [NOTHING]) * len(self._used)
        for number, used in enumerate(self._used):
            if used:
                start, size = self._image.fragment(number)
                self._fragments[number] = len(fragments) // FRAGMENT.size
                fragments += FRAGMENT.pack(self.start(start), size, 0)
        return at

    def start(self, start: int) -> int:
        """The new place of what is at *start*, which is alive."""
        extent = self.extents[bisect_right(self._sources, start) - 1]
        return start - extent.source + extent.target

    def fragment(self, number: int) -> int:
        """The new number of the fragment *number*, which is alive; that of `NOTHING` is itself."""
        return self._fragments[number] if number != NOTHING else NOTHING


class Placement:
    """The layout of the image of *overlay*, with its data from *start* on.

    Raises: CannotJoin.
    """

    def __init__(self, overlay: Overlay, images: Sequence[LayerImage], start: int) -> None:
        self.numbers: array[int] = array("I")
        """Of each entry of the overlay: the number of its inode."""
        self.count = 0
        """How many inodes there are."""
        self.links: dict[int, int] = {}
        """Of each inode of the overlay that has several names in its layer: how many of them show."""
        self.fragments = bytearray()
        """The fragment table."""
        self.relocations = [Relocation(image) for image in images]
        """Of each layer."""
        self._survey(overlay, images)
        for relocation in self.relocations:
            start = relocation.place(start, self.fragments)
        self.end = start
        """Where the data ends."""

    def _survey(self, overlay: Overlay, images: Sequence[LayerImage]) -> None:
        numbers: dict[int, int] = {}  # of inodes with several names
        # An inode of one name is met once.  Where an image says otherwise, this keeps the tables from exploding.
        room = sum(len(image.inodes) for image in images)
        count = 0
        relocations = self.relocations
        for kind, inode in zip(overlay.kinds, overlay.inodes, strict=True):
            number = count = count + 1
            if kind != DIRECTORY:
                layer, position = divmod(inode, POSITIONS)
                file = None
                if kind == FILE and (small := images[layer].small_file(position)):
                    links, size = 1, 32
                    relocations[layer].use_fragment(small[2])
                elif kind == FILE:
                    file = images[layer].file(position)
                    links, size = file.links, 32 + len(file.blocks)
                else:
                    special = images[layer].special(position, kind)
                    links, size = special.links, 20 + len(special.content)
                if links == 1:
                    room -= size
                    if room < 0:
                        raise CannotJoin("a layer image has names in plenty for inodes that have but one")
                else:
                    self.links[inode] = self.links.get(inode, 0) + 1
                    number = numbers.setdefault(inode, number)
                    if number != count:
                        count -= 1
                        file = None
                if file:
                    self._use(relocations[layer], file)
            self.numbers.append(number)
        self.count = count

    @staticmethod
    def _use(relocation: Relocation, file: File) -> None:
        if length := file.stored:
            relocation.use(file.start, length)
        relocation.use_fragment(file.fragment)


def _runs(flags: bytearray) -> Iterator[tuple[int, int]]:
    """Yield (first, stop) of the runs of ones in *flags*."""
    first = flags.find(1)
    while first >= 0:
        stop = flags.find(0, first)
        stop = len(flags) if stop < 0 else stop
        yield first, stop
        first = flags.find(1, stop)
