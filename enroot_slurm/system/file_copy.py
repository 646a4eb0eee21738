"""Data from one file to another, by the cheapest way that both file systems have, and to the disk meanwhile."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from typing import TYPE_CHECKING

from enroot_slurm.system.publish import beside, draft

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["FileCopy", "WriteBack", "can_share_blocks", "clone", "room"]

_FICLONE = 0x40049409  # linux/fs.h
_FICLONERANGE = 0x4020940D
_CLONE_RANGE = struct.Struct("=qQQQ")  # source file, offset, length, target offset
_BLOCK = 4096  # of the file systems that share blocks; with larger ones the kernel refuses and data is copied
# What the kernel moves at once: where pieces begin elsewhere, it cuts them in two and takes half as long again.
_ALIGNED = 64 << 10
_CHUNK = 16 << 20
_BUFFER = 1 << 20
_NOT_SO = frozenset(
    (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.ETXTBSY)
)
_BEGIN = 2  # SYNC_FILE_RANGE_WRITE: begin, and don't wait (sync_file_range(2))
_STEP = 16 << 20


class FileCopy:
    """Copies from the file *source* to the file *target*, both descriptors.

    Blocks are shared where the file system can (reflink), copied by the kernel where that can, else by hand.
    """

    def __init__(self, source: int, target: int) -> None:
        self._source = source
        self._target = target
        self._clones = self._kernel_copies = True

    def copy(self, at: int, to: int, length: int) -> Iterator[int]:
        """Copy *length* bytes from *at* to *to*; yield numbers of bytes as they are copied.

        They add up to less if the source ends before.  Raises: OSError.
        """
        write_back = WriteBack(self._target, to)
        allocated = False
        while length:
            if not (allocated or self._clones):
                _allocate(self._target, to, length)
                allocated = True
            copied = self._copy(at, to, _piece(at, to, length))
            if not copied:
                return
            at, to, length = at + copied, to + copied, length - copied
            if not self._clones:
                write_back.reached(to)
            yield copied

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


class WriteBack:
    """Lets the file *fd*, which grows from *at* on, go to the disk meanwhile.

    The kernel would gather gigabytes first, and the sync at the end would wait for all of them.
    """

    def __init__(self, fd: int, at: int) -> None:
        self._fd = fd
        self._begun = at

    def reached(self, at: int) -> None:
        """Everything before *at* has been written."""
        if at - self._begun >= _STEP:
            # What it answers does not matter: some file systems can't, and the sync at the end tells of errors.
            length = at - self._begun
            _call("sync_file_range", self._fd, ctypes.c_int64(self._begun), ctypes.c_int64(length), _BEGIN)
            self._begun = at


def clone(source: int, target: int) -> bool:
    """Let the file *target* share all blocks of *source*; False if that can't be (ioctl_ficlone(2))."""
    try:
        fcntl.ioctl(target, _FICLONE, source)
    except OSError:
        return False
    return True


def can_share_blocks(source: Path, target: Path) -> bool:
    """Whether a file in the directory *source* can be cloned into the directory *target* (ioctl_ficlone(2))."""
    try:
        if source.stat().st_dev != target.stat().st_dev:
            return False
        # Reading is needed too: what can't be read is not cloned.
        with draft(beside(source / "clone")) as original, draft(beside(target / "clone")) as other:
            os.write(original.fd, b"x")
            return clone(original.fd, other.fd)
    except OSError:
        return False


def room(path: Path) -> int | None:
    """The bytes that this process may still write in the directory *path*, but for its user's quota; None: unknown."""
    try:
        file_system = os.statvfs(path)
    except OSError:
        return None
    if not file_system.f_blocks:  # it does not say
        return None
    blocks = file_system.f_bavail if os.geteuid() else file_system.f_bfree
    return blocks * file_system.f_frsize


def _piece(at: int, to: int, length: int) -> int:
    """How much to copy at once, so that the next piece begins at a block, and then where the kernel likes it."""
    together = (to - at) % _BLOCK == 0
    piece = min(length, -at % _BLOCK or (together and -to % _ALIGNED) or _CHUNK)
    return piece - piece % _BLOCK if piece > _BLOCK else piece


def _allocate(fd: int, at: int, length: int) -> None:
    """Reserve blocks at once, which is less work than to find some for each piece.

    Raises: OSError, when there is no room.  os.posix_fallocate would write zeros where the file system can't reserve.
    """
    code = _call("fallocate", fd, 0, ctypes.c_int64(at), ctypes.c_int64(length))
    if code in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
        raise OSError(code, os.strerror(code))


def _call(function: str, *arguments: object) -> int:
    """Call a function of the C library that Python lacks; the error's number, or 0."""
    call = getattr(ctypes.CDLL(None, use_errno=True), function, None)
    if call is None:
        return errno.ENOSYS
    return ctypes.get_errno() if call(*arguments) else 0


def _refused(error: OSError) -> bool:
    """False, if the file system says that it can't do it this way; else the error is raised."""
    if error.errno not in _NOT_SO:
        raise error
    return False
