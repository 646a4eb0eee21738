"""A checksum of a file that finds what a disk or a memory has changed, and costs next to nothing while it is written.

The CRC-32 of each MiB, and SHA-256 over these.  A CRC finds every error of up to 32 bits in a row, and any other with a
probability of 1 - 2**-32 in each MiB; zlib-ng computes tens of gigabytes of it in a second, which is a twentieth of
the time of SHA-256.  It is no protection against people: whoever can write the file can write its checksum as well.
"""

from __future__ import annotations

import hashlib
import os
import zlib
from array import array
from typing import Any

__all__ = ["Checksum"]

_STEP = 1 << 20


def _crc32() -> Any:
    try:
        from zlib_ng import zlib_ng  # noqa: PLC0415  one of these is used
    except ImportError:
        return zlib.crc32
    return zlib_ng.crc32


class Checksum:
    """The checksum of what is added, in the order of the file."""

    def __init__(self) -> None:
        self._crc32 = _crc32()
        self.clear()

    def clear(self) -> None:
        """Forget all that was added."""
        self._sums = array("I")  # of whole steps
        self._sum = 0  # of the one that has begun
        self._left = _STEP

    def add(self, data: bytes | memoryview) -> None:
        """The file goes on with *data*."""
        view = memoryview(data)
        while len(view) >= self._left:
            self._sums.append(self._crc32(view[: self._left], self._sum))
            view = view[self._left :]
            self._sum, self._left = 0, _STEP
        self._sum = self._crc32(view, self._sum)
        self._left -= len(view)

    def add_zeros(self, end: int) -> None:
        """The file goes on with zeros, up to the byte *end*."""
        while (left := end - self._at) > 0:
            self.add(bytes(min(left, _STEP)))

    def add_part(self, fd: int, at: int, length: int) -> None:
        """The file goes on with *length* bytes of *fd*, from *at* on.  Raises: OSError."""
        while length and (data := os.pread(fd, min(length, _STEP), at)):
            self.add(data)
            at, length = at + len(data), length - len(data)

    def add_rest(self, fd: int) -> None:
        """The file goes on with what is in *fd* from here to its end.  Raises: OSError."""
        while data := os.pread(fd, _STEP, self._at):
            self.add(data)

    def rewind(self, fd: int, at: int) -> None:
        """Forget all from *at* on; what is before that is in *fd*.  Raises: OSError."""
        whole, more = divmod(at, _STEP)
        del self._sums[whole:]
        self._sum, self._left = self._crc32(os.pread(fd, more, at - more)), _STEP - more

    def rewrite_head(self, fd: int) -> None:
        """The first bytes of *fd*, less than a MiB, have changed since they were added.  Raises: OSError."""
        head = self._crc32(os.pread(fd, _STEP if self._sums else self._at, 0))
        if self._sums:
            self._sums[0] = head
        else:
            self._sum = head

    def __str__(self) -> str:
        """As sidecars have it: ``crc32:HEX``."""
        return f"crc32:{self.hexdigest()}"

    def hexdigest(self) -> str:
        """The checksum of all that was added: 64 hexadecimal digits."""
        sums = [*self._sums, self._sum]
        return hashlib.sha256(b"".join(each.to_bytes(4, "big") for each in sums)).hexdigest()

    @property
    def _at(self) -> int:
        return (len(self._sums) + 1) * _STEP - self._left
