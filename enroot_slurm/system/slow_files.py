"""Reading a small file that may be on a file system that hangs, such as a home directory on NFS.

What hangs in the kernel can't be interrupted, but a process of its own can be left behind: on a file system that is not
this machine's, the file is read by a child, which has a deadline, writes into a pipe and nowhere else, and starts in
about the time that such a file system takes to answer.  A fork would be quicker, but the program has threads already.
Which file system a path is on is looked up in /proc; nothing on the way is asked that could hang.
"""

from __future__ import annotations

import errno
import os
import select
import stat
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import StorageError
from enroot_slurm.system.mounts import LOCAL, MEMORY, read_mounts

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["FileContent", "is_local", "read_file"]

_TIMEOUT = 20.0  # seconds
_LOCAL = LOCAL | MEMORY
_MAX_SYMLINKS = 40
# It prints the file's owner, mode and size, or the number of an error, on a line, and then the content.
_CHILD = """
import os, stat, sys
try:
    fd = os.open(sys.argv[1], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    status = os.fstat(fd)
    content, more = b"", stat.S_ISREG(status.st_mode)
    while more and len(content) <= int(sys.argv[2]):
        more = os.read(fd, 65536)
        content += more or b""
    head = b"%d %d\\n" % (status.st_uid, status.st_mode)
except OSError as error:
    head, content = b"%d\\n" % error.errno, b""
os.write(1, head)
while content:
    content = content[os.write(1, content):]
"""


class FileContent(NamedTuple):
    """The result of reading."""

    content: bytes
    uid: int
    mode: int
    """As in `os.stat_result.st_mode`."""


def read_file(path: Path, limit: int, *, timeout: float = _TIMEOUT) -> FileContent:
    """The regular file *path*, or its first *limit* bytes and one more; of anything else nothing but its mode.

    Raises: StorageError after *timeout* seconds; OSError.
    """
    if is_local(path) or not sys.executable:
        return _read(path, limit)
    process = subprocess.Popen(
        # -S: it needs nothing but the standard library, and starts in half the time
        [sys.executable, "-I", "-S", "-c", _CHILD, os.fspath(path), str(limit)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env={},
        start_new_session=True,
    )
    assert process.stdout is not None
    with process.stdout:
        answer = _receive(process.stdout.fileno(), limit, time.monotonic() + timeout)
    if answer is None:
        process.kill()
        process.returncode = -1  # whoever hangs in the kernel can't be waited for
        raise StorageError(
            f"{path}: the file system has not answered for {timeout:g} seconds",
            hint="The server of that directory is down or too busy; nothing was imported.",
        )
    process.wait()
    head, _, content = answer.partition(b"\n")
    numbers = [int(word) for word in head.split()] or [errno.EIO]
    if len(numbers) == 1:
        raise OSError(numbers[0], os.strerror(numbers[0]), str(path))
    return FileContent(content[: limit + 1], *numbers)


def _read(path: Path, limit: int) -> FileContent:
    # A fifo must not block; a symbolic link is followed, since people link their dotfiles.
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        status = os.fstat(fd)
        content, more = b"", stat.S_ISREG(status.st_mode)
        while more and len(content) <= limit:
            piece = os.read(fd, limit + 1 - len(content))
            content, more = content + piece, bool(piece)
    finally:
        os.close(fd)
    return FileContent(content, status.st_uid, status.st_mode)


def _receive(fd: int, limit: int, deadline: float) -> bytes | None:
    """The bytes that come through the pipe *fd* until its end; None if the end is not there in time."""
    received = bytearray()
    while len(received) <= limit + 100:
        ready, _, _ = select.select([fd], [], [], max(0, deadline - time.monotonic()))
        if not ready:
            return None
        piece = os.read(fd, 65536)
        if not piece:
            break
        received += piece
    return bytes(received)


def is_local(path: Path) -> bool:
    """Whether *path* and all symbolic links on the way to it are on file systems of this machine."""
    try:
        mounts = {mount.point: mount.kind for mount in read_mounts()}  # a later one hides an earlier one
    except OSError:
        return False
    rest = [part for part in os.path.abspath(path).split("/") if part][::-1]  # noqa: PTH100 - nothing is to be asked
    at = ""
    links = 0
    while True:
        if _kind(mounts, at or "/") not in _LOCAL:
            return False
        if not rest:
            return True
        name = rest.pop()
        if name == "..":
            at = at.rpartition("/")[0]
            continue
        try:
            local = _kind(mounts, f"{at}/{name}") in _LOCAL
            target = os.readlink(f"{at}/{name}") if local else ""  # noqa: PTH115
        except OSError:
            target = ""
        if not target:
            at = f"{at}/{name}"
            continue
        links += 1
        if links > _MAX_SYMLINKS:
            return True  # that is an error, which comes at once
        rest += [part for part in target.split("/") if part not in {"", "."}][::-1]
        at = "" if target.startswith("/") else at


def _kind(mounts: dict[str, str], path: str) -> str:
    """The type of the file system that *path* is on."""
    while path not in mounts:
        if path in {"", "/"}:
            return ""
        path = path.rpartition("/")[0] or "/"
    return mounts[path]
