"""Writing a tar archive (POSIX.1-1988, ustar) member by member: an OCI layout for another machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["TarWriter"]

_BLOCK = 512
_MAX_OCTAL = 1 << 33


class TarWriter:
    """Regular files of root's, mode 0644, of 1970; their names have 100 bytes at most."""

    def __init__(self, write: Callable[[bytes], None]) -> None:
        self._write = write

    def add(self, name: str, size: int, chunks: Iterable[bytes]) -> None:
        """The file *name* with *size* bytes.  The caller sees to it that *chunks* has as many."""
        self._write(_header(name.encode("ascii"), size))
        for chunk in chunks:
            self._write(chunk)
        self._write(bytes(-size % _BLOCK))

    def finish(self) -> None:
        """The archive's end."""
        self._write(bytes(2 * _BLOCK))


def _header(name: bytes, size: int) -> bytes:
    # Beyond 8 GiB the size is a binary number, as GNU tar and Go write it.
    number = b"%011o\0" % size if size < _MAX_OCTAL else b"\x80" + size.to_bytes(11, "big")
    fields = (
        (name, 100),
        (b"0000644\0" + b"0000000\0" * 2, 24),
        (number, 12),
        (b"%011o\0" % 0, 12),
        (b" " * 8, 8),
        (b"0", 1),
        (b"", 100),
        (b"ustar\x0000", 8),
    )
    raw = b"".join(value.ljust(length, b"\0") for value, length in fields).ljust(_BLOCK, b"\0")
    return raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]
