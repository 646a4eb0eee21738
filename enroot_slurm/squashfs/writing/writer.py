"""An image that is written member by member, as they come out of an archive (linux/fs/squashfs/squashfs_fs.h).

What `mksquashfs - IMAGE -tar` makes, with its options, from a stream in this process: contents go to the file at once,
what is known of inodes to a file without a name beside it, names stay in memory.  The tables follow at the end.
Tables are not compressed: they are small, and the linker makes its own of them.
"""

from __future__ import annotations

import os
import struct
import tempfile
from array import array
from functools import partial
from typing import TYPE_CHECKING, Self

from enroot_slurm.errors import ConversionError, IntegrityError, printable
from enroot_slurm.squashfs.format.directories import possible
from enroot_slurm.squashfs.format.inodes import BLOCK_DEVICE, CHAR_DEVICE, DIRECTORY, FIFO, FILE, SYMLINK, File, Special
from enroot_slurm.squashfs.format.metadata import packed
from enroot_slurm.squashfs.format.superblock import SUPERBLOCK_SIZE, Flag, Superblock
from enroot_slurm.squashfs.format.tables import Tables, write, write_tables
from enroot_slurm.squashfs.writing.blocks import Blocks
from enroot_slurm.squashfs.writing.compressors import compressor_of
from enroot_slurm.squashfs.writing.files import Files
from enroot_slurm.squashfs.writing.names import Names

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor
    from types import TracebackType

    from enroot_slurm.squashfs.options import SquashOptions
    from enroot_slurm.squashfs.writing.files import Stored
    from enroot_slurm.system.checksum import Checksum
    from enroot_slurm.system.publish import Draft

__all__ = ["ImageWriter"]

_NODE = struct.Struct("<BHIQQQIII")  # kind, mode, mtime; size, start, sparse, fragment, offset; bytes that follow
_FLAGS = {
    "-noD": Flag.PLAIN_DATA,
    "-noF": Flag.PLAIN_FRAGMENTS,
    "-no-fragments": Flag.NO_FRAGMENTS,
    "-exports": Flag.EXPORTABLE,
}
_FLAGS_WITHOUT = {"-no-duplicates": Flag.DEDUPLICATED, "-no-tailends": Flag.ALWAYS_FRAGMENTS}


_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1


class ImageWriter:
    """Writes *image* of the members that it is given, with *options*; compresses in the *threads* threads of *pool*.

    now   seconds since 1970: the time of the image, where the options have none
    time  the time that all files get, likewise; None leaves them theirs
    checksum  becomes that of the image
    counted   makes of the function that compresses one that is counted

    What *image* holds already is overwritten.  Used as a context manager.  Raises: ConversionError, OSError;
    IntegrityError, for what no image can hold.
    """

    def __init__(
        self,
        image: Draft,
        options: SquashOptions,
        pool: Executor,
        threads: int,
        *,
        now: int = 0,
        time: int | None = None,
        checksum: Checksum | None = None,
        counted: Callable[[Callable[[bytes], bytes]], Callable[[bytes], bytes]] = lambda compress: compress,
    ) -> None:
        self._options = options
        image_time = options.image_time(None)
        self._now = now if image_time is None else image_time
        self._time = options.files_time(time)
        self._compressor = compressor_of(options)
        self._names = Names()
        self._attributes: dict[int, tuple[int, int]] = {}  # mode and mtime of directories, by their number
        self._links: dict[int, int] = {}  # names of inodes that have several
        self._count = 0  # inodes that are no directories
        self._positions: array[int] = array("Q")  # of their inodes
        self._fd = image.fd
        image.clear()
        self._nodes = tempfile.TemporaryFile(dir=image.path.parent, buffering=1 << 18)  # noqa: SIM115  until __exit__
        start = SUPERBLOCK_SIZE + len(self._compressor.options)
        self._blocks = Blocks(self._fd, start, counted(self._compressor.compress), pool, threads, checksum)
        self._checksum = checksum
        self._files = Files(self._blocks, options)

    def file(self, path: bytes, mode: int, mtime: int, size: int) -> None:
        """A regular file; *size* bytes of content are to come, by `slice` and `zeros`."""
        self._names.add(path, self._count, FILE)
        self._count += 1
        self._files.begin(size, partial(self._add_file, mode, mtime, size))

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        """The file's content goes on with ``chunk[start:stop]``."""
        self._files.slice(chunk, start, stop)

    def zeros(self, count: int) -> None:
        """The file's content goes on with *count* zeros."""
        self._files.zeros(count)

    def directory(self, path: bytes, mode: int, mtime: int) -> None:
        """A directory, which may be made already by what is in it."""
        self._attributes[self._names.directory(path)] = (mode, mtime)

    def symlink(self, path: bytes, mtime: int, target: bytes) -> None:
        """A symbolic link."""
        self._add_special(path, SYMLINK, 0o777, mtime, struct.pack("<I", len(target)) + target)

    def device(self, path: bytes, kind: str, mode: int, mtime: int, device: tuple[int, int]) -> None:
        """A device (*kind* ``b`` or ``c``) with its major and minor number, or a fifo (``p``)."""
        number = {"b": BLOCK_DEVICE, "c": CHAR_DEVICE, "p": FIFO}[kind]
        major, minor = device
        if not (0 <= major <= _MAX_MAJOR and 0 <= minor <= _MAX_MINOR):
            raise IntegrityError(f"no device can be {major}:{minor}, as {printable(path)} is")
        packed = b"" if number == FIFO else struct.pack("<I", minor & 0xFF | major << 8 | (minor & ~0xFF) << 12)
        self._add_special(path, number, mode, mtime, packed)

    def hardlink(self, path: bytes, target: bytes) -> None:
        """Another name of the file, or whatever is no directory, at *target*."""
        try:
            number, kind = self._names.find(target)
        except KeyError:
            raise ConversionError(
                f"{printable(path)} is a hard link to {printable(target)}, which is not there"
            ) from None
        self._links[number] = self._links.get(number, 1) + 1
        self._names.add(path, number, kind)

    def finish(self, inodes: int) -> Superblock:
        """Write the tables; there must be *inodes* inodes.

        Raises: OSError; IntegrityError, for names that readers refuse; ConversionError, for more or fewer inodes.
        """
        self._names.forget()
        count = self._count + len(self._names.directories)
        if count != inodes:
            raise ConversionError(f"the image has {count} inodes of {inodes}", hint="Please report this image.")
        at = start = self._files.finish()

        def write_inodes(piece: bytes) -> None:
            nonlocal at
            at = write(self._fd, at, packed(piece))

        tables = Tables(write_inodes)
        self._add_inodes(tables)
        root = self._add_directories(tables)
        tables.finish()
        options = self._compressor.options
        superblock, end = write_tables(
            self._fd,
            range(start, at),
            directories=tables.directories,
            fragments=self._files.table,
            positions=self._positions,
            root=root,
            flags=self._flags(),
            recipe=(self._compressor.number, self._options.block_size.bit_length() - 1, options),
            mtime=self._now,
            pad="-nopad" not in self._options.arguments,
        )
        # Last, so that an image that is not complete is none.  Doubles that were taken back may have left more.
        os.ftruncate(self._fd, end)
        write(self._fd, 0, [bytes(superblock), options])
        if self._checksum is not None:
            self._checksum.add_rest(self._fd)
            self._checksum.rewrite_head(self._fd)
        return superblock

    def kill(self) -> None:
        """Let whoever still writes, in another thread, get ConversionError."""
        self._files.ended = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._nodes.close()

    def _add_file(self, mode: int, mtime: int, size: int, stored: Stored) -> None:
        start, sparse, fragment, offset, blocks = stored
        head = _NODE.pack(FILE, mode, mtime, size, start, sparse, fragment, offset, 4 * len(blocks))
        self._nodes.write(head + struct.pack(f"<{len(blocks)}I", *blocks) if blocks else head)

    def _add_special(self, path: bytes, kind: int, mode: int, mtime: int, content: bytes) -> None:
        self._names.add(path, self._count, kind)
        self._count += 1
        node = _NODE.pack(kind, mode, mtime, 0, 0, 0, 0, 0, len(content)) + content
        self._blocks.then(partial(self._nodes.write, node))

    def _add_inodes(self, tables: Tables) -> None:
        read, links, time = self._nodes.read, self._links, self._time
        self._nodes.seek(0)
        for number in range(self._count):
            kind, mode, mtime, size, start, sparse, fragment, offset, more = _NODE.unpack(read(_NODE.size))
            content = read(more) if more else b""
            if time is not None:
                mtime = time
            names = links.get(number, 1)
            inode: File | Special
            if kind == FILE:
                inode = File(mode, mtime, names, start, size, sparse, fragment, offset, content)
            else:
                inode = Special(kind, mode, mtime, names, content)
            self._positions.append(tables.add(inode.pack(number + 1)))

    def _add_directories(self, tables: Tables) -> int:
        """Add the directories, whose numbers follow on those of all other inodes; the root's position."""
        first, names, positions = self._count, self._names, self._positions
        positions.extend([0] * len(names.directories))
        for path in sorted(names.directories, reverse=True):  # what is in a directory sorts behind it
            directory = names.directories[path]
            mode, mtime = self._attributes.get(directory, (0o755, self._now))
            parent = names.directories[path.rpartition(b"/")[0]] if path else len(names.directories)
            found = names.inside(directory)
            if not possible([name for name, _, _ in found]):
                raise IntegrityError(f"the directory {printable(b'/' + path)} has an impossible name, or one twice")
            inside = ((name, first + number if kind == DIRECTORY else number, kind) for name, number, kind in found)
            positions[first + directory] = tables.add_directory(
                ((name, positions[number], number + 1, kind) for name, number, kind in inside),
                first + directory + 1,
                parent=first + parent + 1,  # the root's is a number that no inode has
                links=2 + names.subdirectories[directory],
                mode=mode,
                mtime=mtime if self._time is None else self._time,
            )
        return positions[first]

    def _flags(self) -> Flag:
        words = self._options.arguments
        flags = Flag.NO_XATTRS
        for word, flag in _FLAGS.items():
            if word in words:
                flags |= flag
        for word, flag in _FLAGS_WITHOUT.items():
            if word not in words:
                flags |= flag
        return flags | (Flag.OPTIONS if self._compressor.options else Flag(0))
