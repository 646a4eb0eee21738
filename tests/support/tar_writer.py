"""Tar archives, written as streams: plain ustar headers with GNU long names, and content that is never copied."""

from __future__ import annotations

import os

from enroot_slurm.tar.reader import BLOCK, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK

__all__ = ["TarWriter", "header"]

_ZEROS = bytes(1 << 16)
_FLUSH = 1 << 20  # bytes that are gathered before the kernel is called
_IOV_MAX = 1000


class TarWriter:
    """A `Sink` that writes an archive to a file descriptor, in large pieces and without copying contents."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._pending: list[bytes | memoryview] = []
        self._size = 0
        self._chunk = b""
        self._start = self._stop = 0
        self._padding = b""  # behind the content of the last file

    def file(self, path: bytes, mode: int, mtime: int, size: int) -> None:
        """A regular file; its content follows by `slice` and `zeros`."""
        self._write(header(path, FILE, mode, mtime, size))
        self._padding = bytes(-size % 512)

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        """The content goes on with ``chunk[start:stop]``; slices that touch become one."""
        if chunk is self._chunk and start == self._stop:
            self._stop = stop
        else:
            self._cut()
            self._chunk, self._start, self._stop = chunk, start, stop

    def zeros(self, count: int) -> None:
        """The content goes on with *count* zeros."""
        while count > 0:
            step = min(count, len(_ZEROS))
            self._cut()
            self._add(_ZEROS[:step])
            count -= step

    def directory(self, path: bytes, mode: int, mtime: int) -> None:
        """A directory."""
        self._write(header(path, DIRECTORY, mode, mtime))

    def symlink(self, path: bytes, mtime: int, target: bytes) -> None:
        """A symbolic link."""
        self._write(header(path, SYMLINK, 0o777, mtime, link=target))

    def device(self, path: bytes, kind: str, mode: int, mtime: int, device: tuple[int, int]) -> None:
        """A device (*kind* ``b`` or ``c``) with its major and minor number, or a fifo (``p``)."""
        self._write(header(path, {"b": BLOCK, "c": CHAR, "p": FIFO}[kind], mode, mtime, device=device))

    def hardlink(self, path: bytes, target: bytes) -> None:
        """Another name of what is at *target*."""
        self._write(header(path, HARDLINK, 0o644, 0, link=target))

    def close(self) -> None:
        """Write the end of the archive and all that is still held back; the descriptor stays open."""
        self._write(bytes(1024))
        self._flush()

    def _write(self, data: bytes) -> None:
        self._cut()
        self._add(self._padding + data)
        self._padding = b""

    def _add(self, data: bytes | memoryview) -> None:
        self._pending.append(data)
        self._size += len(data)
        if self._size >= _FLUSH or len(self._pending) >= _IOV_MAX:
            self._flush()

    def _cut(self) -> None:
        chunk, start, stop = self._chunk, self._start, self._stop
        self._chunk, self._start, self._stop = b"", 0, 0
        if stop > start:
            self._add(memoryview(chunk)[start:stop])

    def _flush(self) -> None:
        pending, self._pending, self._size = self._pending, [], 0
        first = 0
        while first < len(pending):
            written = os.writev(self._fd, pending[first : first + _IOV_MAX])
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
