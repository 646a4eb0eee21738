"""Tar archives, written as streams: plain ustar headers with GNU long names, and content that is never copied."""

from __future__ import annotations

import os

__all__ = ["Writer", "header"]

_ZEROS = bytes(1 << 16)
_FLUSH = 1 << 20  # bytes that are gathered before the kernel is called
_IOV_MAX = 1000


class Writer:
    """Gathers headers and slices of input chunks and writes them to a file descriptor, without copying."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: list[bytes | memoryview] = []
        self._size = 0
        self._chunk = b""
        self._start = self._stop = 0
        self.written = 0
        """Bytes written so far."""

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        """Write ``chunk[start:stop]``; slices that touch become one."""
        if chunk is self._chunk and start == self._stop:
            self._stop = stop
        else:
            self._cut()
            self._chunk, self._start, self._stop = chunk, start, stop

    def write(self, data: bytes) -> None:
        """Write *data*."""
        self._cut()
        self._pending.append(data)
        self._size += len(data)

    def zeros(self, count: int) -> None:
        """Write *count* zero bytes."""
        while count > 0:
            self.write(_ZEROS[:count])
            count -= len(_ZEROS)

    def close(self) -> None:
        """Write the end of the archive and all that is still held back; the descriptor stays open."""
        self.write(bytes(1024))
        self._flush()

    def _cut(self) -> None:
        if self._stop > self._start:
            self._pending.append(memoryview(self._chunk)[self._start : self._stop])
            self._size += self._stop - self._start
        self._chunk, self._start, self._stop = b"", 0, 0
        if self._size >= _FLUSH or len(self._pending) >= _IOV_MAX:
            self._flush()

    def _flush(self) -> None:
        pending, self._pending, self._size = self._pending, [], 0
        first = 0
        while first < len(pending):
            written = os.writev(self._fd, pending[first : first + _IOV_MAX])
            self.written += written
            while first < len(pending) and written >= len(pending[first]):
                written -= len(pending[first])
                first += 1
            if written:
                pending[first] = memoryview(pending[first])[written:]


def header(
    path: bytes,
    kind: int,
    mode: int,
    mtime: int,
    size: int = 0,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
) -> bytes:
    """A ustar header owned by root, preceded by GNU long name headers where *path* or *link* needs them."""
    before = b""
    for value, long_kind in ((path, ord("L")), (link, ord("K"))):
        if len(value) > 100:
            padded = value + bytes(1 + (-len(value) - 1) % 512)
            before += header(b"././@LongLink", long_kind, 0o644, 0, len(value) + 1) + padded
    raw = b"%s%07o\x000000000\x000000000\0%s%011o\0        %c%sustar\x0000%s%07o\0%07o\0%s" % (
        path[:100].ljust(100, b"\0"),
        mode,
        b"%011o\0" % size if size < 1 << 33 else b"\x80" + size.to_bytes(11, "big"),
        mtime,
        kind,
        link[:100].ljust(100, b"\0"),
        bytes(64),
        *device,
        bytes(167),
    )
    return before + raw[:148] + b"%06o\0 " % sum(raw) + raw[156:]
