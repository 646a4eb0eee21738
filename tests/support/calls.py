"""System calls that ask a file system: for a shared one, each may be a message to its server."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["KINDS", "STRACE", "FileCall", "calls_in"]

STRACE = ("strace", "-f", "-y", "-qq", "-s", "0", "-e", "trace=%file,%desc")
"""The command whose output `calls_in` reads; ``-o FILE`` and a program are to follow."""
KINDS = ("look", "open", "read", "change")
"""Status of a name or a file; opening what is there; reading a file or a directory; all that changes something."""
_LINE = re.compile(r"\d+ +(\w+)\((.*)")
_CALLS = {
    "look": "stat lstat fstat newfstatat statx access faccessat faccessat2 readlink readlinkat statfs fstatfs",
    "open": "open openat openat2",
    "read": "read pread64 readv preadv getdents getdents64",
    # What the kernel answers from memory, or does later.
    "": "close lseek fcntl dup dup2 dup3 fadvise64 ioctl mmap execve chdir fchdir getcwd",
}
_KIND_OF = {call: kind for kind, calls in _CALLS.items() for call in calls.split()}


class FileCall(NamedTuple):
    """A call, and its arguments as strace prints them."""

    kind: str
    """One of `KINDS`."""
    text: str


def calls_in(directory: Path, trace: str) -> Iterator[FileCall]:
    """The calls on *directory* and on what is below, in the output of `STRACE`; each counts once."""
    inside = re.compile(rf'["<]{re.escape(str(directory))}["/>]')
    for line in trace.splitlines():
        if (call := _LINE.match(line)) and inside.search(call[2]):
            kind = "change" if "O_CREAT" in call[2] else _KIND_OF.get(call[1], "change")
            if kind:
                yield FileCall(kind, f"{call[1]}({call[2]}")
