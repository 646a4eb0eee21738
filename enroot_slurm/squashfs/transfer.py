"""Data from one file to another, by the cheapest way that both file systems have."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from enroot_slurm.squashfs.format import CannotLink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.squashfs.layout import Extent

__all__ = ["Transfer"]

_FICLONERANGE = 0x4020940D  # linux/fs.h
_CLONE_RANGE = struct.Struct("=qQQQ")  # source file, offset, length, target offset
_BLOCK = 4096  # of the file systems that share blocks; with larger ones the kernel refuses and data is copied
_CHUNK = 16 << 20
_BUFFER = 1 << 20
_NOT_SO = frozenset(
    (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)
)


class Transfer:
    """Copies from the file *source* to the file *target*, both descriptors.

    Blocks are shared where the file system can (reflink), copied by the kernel where that can, else by hand.
    """

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._clones = self._kernel_copies = True

    def copy(self, extent: Extent) -> Iterator[int]:
        """Copy one extent; yield numbers of bytes as they are copied.  Raises: CannotLink; OSError."""
        at, to, length = extent
        while length:
            piece = min(length, -at % _BLOCK or _CHUNK)
            if piece > _BLOCK:
                piece -= piece % _BLOCK
            copied = self._copy(at, to, piece)
            if not copied:
                raise CannotLink("a layer image became shorter")
            yield copied
            at, to, length = at + copied, to + copied, length - copied

    def _copy(self, at: int, to: int, length: int) -> int:
        if self._clones and not (at | to | length) % _BLOCK:
            try:
                fcntl.ioctl(self._target, _FICLONERANGE, _CLONE_RANGE.pack(self._source, at, length, to))
            except OSError as error:
                self._clones = _refused(error)
            else:
                return length
        if self._kernel_copies:
            try:
                if copied := os.copy_file_range(self._source, self._target, length, at, to):
                    return copied
                self._kernel_copies = False
            except OSError as error:
                self._kernel_copies = _refused(error)
        return os.pwrite(self._target, os.pread(self._source, min(length, _BUFFER), at), to)


def _refused(error: OSError) -> bool:
    """False, if the file system says that it can't do it this way; else the error is raised."""
    if error.errno not in _NOT_SO:
        raise error
    return False
