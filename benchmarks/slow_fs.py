"""A directory through FUSE, each call later: ``python benchmarks/slow_fs.py DIRECTORY MOUNTPOINT SECONDS [LOG]``.

So are file systems far away.  It needs fuse3 and ``pip install mfusepy``; the kernel keeps attributes and names for
a second, as clients of such file systems do.  LOG gets a line for each request of the kernel.
"""

# The calls of the kernel are passed on as they are.
# ruff: noqa: PTH101, PTH102, PTH104, PTH106, PTH108, PTH208
from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

_TIMEOUT = 10.0  # seconds for the mount
_ATTRIBUTES = ("st_gid", "st_mode", "st_nlink", "st_size", "st_uid", "st_ino")
_TIMES = ("st_atime", "st_ctime", "st_mtime")  # mfusepy wants them in nanoseconds
_SPACE = ("f_bavail", "f_bfree", "f_blocks", "f_bsize", "f_favail", "f_ffree", "f_files", "f_frsize", "f_namemax")


class Loopback:
    """mfusepy's operations on *root*."""

    use_ns = True

    def __init__(self, root: str) -> None:
        self._root = root

    def _at(self, path: str) -> str:
        return self._root + path

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        status = os.fstat(fh) if fh is not None else os.lstat(self._at(path))
        times = {name: getattr(status, f"{name}_ns") for name in _TIMES}
        return {name: getattr(status, name) for name in _ATTRIBUTES} | times

    def readdir(self, path: str, _fh: int) -> list[str]:
        return [".", "..", *os.listdir(self._at(path))]

    def statfs(self, path: str) -> dict[str, Any]:
        status = os.statvfs(self._at(path))
        return {name: getattr(status, name) for name in _SPACE}

    def open(self, path: str, flags: int) -> int:
        return os.open(self._at(path), flags & ~os.O_NOFOLLOW)

    def create(self, path: str, mode: int, _info: Any = None) -> int:
        return os.open(self._at(path), os.O_RDWR | os.O_CREAT | os.O_EXCL, mode)

    def read(self, _path: str, size: int, offset: int, fh: int) -> bytes:
        return os.pread(fh, size, offset)

    def write(self, _path: str, data: bytes, offset: int, fh: int) -> int:
        return os.pwrite(fh, data, offset)

    def truncate(self, path: str, length: int, fh: int | None = None) -> None:
        os.truncate(self._at(path) if fh is None else fh, length)

    def fsync(self, _path: str, _data: int, fh: int) -> None:
        os.fsync(fh)

    def release(self, _path: str, fh: int) -> None:
        os.close(fh)

    def link(self, target: str, source: str) -> None:
        os.link(self._at(source), self._at(target))

    def rename(self, old: str, new: str, _flags: int = 0) -> None:
        os.rename(self._at(old), self._at(new))

    def unlink(self, path: str) -> None:
        os.unlink(self._at(path))

    def mkdir(self, path: str, mode: int) -> None:
        os.mkdir(self._at(path), mode)

    def rmdir(self, path: str) -> None:
        os.rmdir(self._at(path))

    def chmod(self, path: str, mode: int) -> None:
        os.chmod(self._at(path), mode)

    def utimens(self, path: str, times: tuple[int, int] | None = None) -> None:
        os.utime(self._at(path), ns=times)


@contextmanager
def slow(directory: Path, mountpoint: Path, delay: float, log: Path | None = None) -> Iterator[Path]:
    """*directory* at *mountpoint*, each call *delay* seconds later, until the block ends."""
    mountpoint.mkdir()
    command = [sys.executable, __file__, str(directory), str(mountpoint), str(delay), *([str(log)] if log else [])]
    process = subprocess.Popen(command)
    try:
        end = time.monotonic() + _TIMEOUT
        while not os.path.ismount(mountpoint) and process.poll() is None and time.monotonic() < end:
            time.sleep(0.05)
        if not os.path.ismount(mountpoint):
            raise SystemExit("the file system can't be mounted: is mfusepy there, and /dev/fuse?")
        yield mountpoint
    finally:
        subprocess.run(["umount", "-l", mountpoint], check=False)
        process.wait()


def _later(function: Callable[..., Any], delay: float, log: int) -> Callable[..., Any]:
    def call(*arguments: Any, **more: Any) -> Any:
        os.write(log, f"{function.__name__}\n".encode())
        time.sleep(delay)
        return function(*arguments, **more)

    return call


def main() -> None:
    import mfusepy  # noqa: PLC0415 - no part of the project

    root, mountpoint, delay, *log = sys.argv[1:]
    told = os.open(log[0] if log else os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    late = {
        name: _later(function, float(delay), told)
        for name, function in vars(Loopback).items()
        if not name.startswith("_")
        if callable(function)
    }
    # Of operations that Loopback does not have, mfusepy's own class tells the kernel so.
    operations = type("Slow", (Loopback, mfusepy.Operations), late)(root)
    mfusepy.FUSE(
        operations, mountpoint, foreground=True, attr_timeout=1, entry_timeout=1, negative_timeout=0, max_threads=64
    )


if __name__ == "__main__":
    main()
