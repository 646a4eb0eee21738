"""Tar archives, read as streams: members become values, and never files.

Understood: ustar, GNU (long names, base-256 numbers, old sparse files) and PAX (POSIX.1-2001, pax(1); with GNU's
sparse formats 0.0, 0.1 and 1.0).  Owners and extended attributes are ignored: an image has none.

A scan by hand is several times as fast as `tarfile`, and contents are never copied: they stay slices of what came.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError, UnsupportedImage, printable
from enroot_slurm.tar import pax, sparse
from enroot_slurm.tar.names import MAX_PATH, clean
from enroot_slurm.tar.numbers import decimal, decimal_seconds, signed, unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from enroot_slurm.tar.sink import Content

__all__ = [
    "BLOCK",
    "CHAR",
    "DIRECTORY",
    "FIFO",
    "FILE",
    "HARDLINK",
    "SYMLINK",
    "Member",
    "Reader",
]

FILE, HARDLINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0123456"

_PAX_NEXT, _PAX_GLOBAL, _PAX_SOLARIS, _LONG_NAME, _LONG_LINK, _OLD_SPARSE, _DUMPDIR = b"xgXLKSD"
_EXTENDED = frozenset((_PAX_NEXT, _PAX_GLOBAL, _PAX_SOLARIS, _LONG_NAME, _LONG_LINK))
_VOLUME_KINDS = b"VMN"  # labels and continuations of GNU tar's multi-volume archives: no files
_MAX_EXTENDED = 1 << 20  # bytes of the PAX headers and long names of one member
_MAX_SIZE = 1 << 42
_MAX_CHECKSUM = 512 * 255
_MAX_MAJOR, _MAX_MINOR = (1 << 12) - 1, (1 << 20) - 1  # Linux' (linux/kdev_t.h), and squashfs'
_TIME_MASK = 0xFFFFFFFF  # squashfs has 32 bits; times before 1970 wrap around, as in mksquashfs before 4.7
_NO_DEVICE = (0, 0)
# Mode, owner, size and time in their plain forms; checksum; a file or symlink; ustar; no prefix.
_PLAIN = re.compile(
    rb"(?:[0-7]{7}\0){3}(?:[0-7]{11}[ \0]){2}.{8}(?:0.{100}|2[^\0].{99})ustar(?:  \0|\0\d\d).{80}\0",
    re.DOTALL,
)


class Member(NamedTuple):
    """The fields of a header, sanitised; the content follows in the stream."""

    path: bytes
    """Relative, without ``.``, ``..`` and empty components; empty for the root directory."""
    kind: int
    """`FILE`, `HARDLINK`, `SYMLINK`, `CHAR`, `BLOCK`, `DIRECTORY` or `FIFO`."""
    mode: int
    """The twelve permission bits."""
    mtime: int
    """Seconds since 1970, modulo 2**32."""
    size: int
    """Bytes of content."""
    link: bytes
    """A symlink's target as it is, or a hard link's cleaned like *path*."""
    device: tuple[int, int]
    """Major and minor number."""
    pieces: tuple[tuple[int, int], ...] | None
    """(offset, length) of what is stored of a sparse file, else None."""


class Reader:
    """The members of the archive in *chunks*, in order.

    Iterate once.  `copy` writes the member that the iteration is at; otherwise its content is passed over.  Chunks
    are read to their end even behind the archive's, so that whoever hashes them sees everything.

    leap  lets the chunks go on so many bytes further on, where content is passed over that need not be read
    """

    def __init__(self, chunks: Iterable[bytes], *, leap: Callable[[int], None] | None = None) -> None:
        self._chunks = iter(chunks)
        self._leap = leap
        self._chunk = b""
        self._before = 0  # bytes before the chunk
        self._at = 0
        self._left = 0  # bytes of the current member's content and padding that are still to come
        self._member: Member | None = None

    def __iter__(self) -> Iterator[Member]:
        """Yield the members.  Raises: IntegrityError, for an archive that is damaged or cut short."""
        ahead = _Ahead()
        while self._skip(self._left) and self._more():
            raw = self._take(512)
            if raw[0] == 0 and not raw.strip(b"\0"):
                break
            _verify(raw)
            kind = raw[156]
            plain = _PLAIN.match(raw, 100) is not None
            size = int(raw[124:135], 8) if plain else unsigned(raw[124:136])
            if size > (ahead.room if kind in _EXTENDED else _MAX_SIZE):
                raise IntegrityError(f"a layer has a tar member of {size} bytes, of type {kind}")
            self._left = size + (-size % 512)
            if kind in _EXTENDED:
                ahead.add(kind, self._take(size))
                self._left -= size
                continue
            if kind in _VOLUME_KINDS:
                ahead.end()
                continue
            if ahead.any or kind == _OLD_SPARSE:
                member = self._extended(raw, size, ahead)
                ahead.end()
            elif plain:
                member = _plain_member(raw, kind, size)
            else:
                member = _member(raw, kind, _name(raw), _c_string(raw[157:257]), size, None, None)
            if HARDLINK <= kind <= FIFO:
                self._left = 0  # such a header has no data, whatever its size
            self._member = member
            yield member
        for _ in self._chunks:
            pass

    @property
    def offset(self) -> int:
        """Where the content of the current member begins, in bytes from the start."""
        return self._before + self._at

    def copy(self, sink: Content) -> None:
        """Pass the content of the current member on, a regular file's."""
        member = self._member
        assert member is not None
        if member.pieces is None:
            self._copy(sink, member.size)
            return
        at = 0
        for offset, length in member.pieces:
            sink.zeros(offset - at)
            self._copy(sink, length)
            at = offset + length
        sink.zeros(member.size - at)

    def _extended(self, raw: bytes, stored: int, ahead: _Ahead) -> Member:
        """The member of a header that others preceded."""
        stated = pax.in_force(ahead.everywhere, ahead.records)
        kind = raw[156]
        if b"size" in stated:
            stored = decimal(stated[b"size"], "size in a PAX header")
            if stored > _MAX_SIZE:
                raise IntegrityError(f"a layer has a tar member of {stored} bytes, of type {kind}")
            self._left = stored + (-stored % 512)
        padding = -stored % 512
        name = stated.get(b"GNU.sparse.name") or stated.get(b"path") or ahead.name or _name(raw)
        link = stated.get(b"linkpath") or ahead.link or _c_string(raw[157:257])
        mtime = decimal_seconds(stated[b"mtime"]) if b"mtime" in stated else None
        layout: sparse.Map | None = None
        if kind == _OLD_SPARSE:
            layout = sparse.old_gnu(raw, lambda: self._take(512))
        elif form := sparse.pax_format(stated):
            if HARDLINK <= kind <= FIFO or kind == _DUMPDIR:
                raise IntegrityError(f"{printable(name)} in a layer is sparse, but no file")
            if form == (1, 0):
                layout = sparse.pax_1_0(stated, lambda: self._take_stored_block(padding))
            elif form == (0, 0):
                layout = sparse.pax_0(ahead.records)
            else:
                raise UnsupportedImage(f"the sparse file {printable(name)} in a layer is of a format of the future")
        if layout is None:
            return _member(raw, kind, name, link, stored, mtime, None)
        if sum(length for _, length in layout.pieces) > self._left - padding:
            raise IntegrityError(f"the map of the sparse file {printable(name)} in a layer exceeds its data")
        return _member(raw, FILE, name, link, layout.size, mtime, layout.pieces)

    # ---- the chunks as one sequence of bytes

    def _more(self) -> bool:
        while self._at == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
            self._before += self._at
            self._chunk, self._at = chunk, 0
        return True

    def _demand(self) -> None:
        if not self._more():
            raise IntegrityError("a layer's tar archive is cut short")

    def _take(self, count: int) -> bytes:
        start, stop = self._at, self._at + count
        if stop <= len(self._chunk):
            self._at = stop
            return self._chunk[start:stop]
        parts = []
        while count:
            self._demand()
            part = self._chunk[self._at : self._at + count]
            self._at += len(part)
            count -= len(part)
            parts.append(part)
        return b"".join(parts)

    def _take_stored_block(self, padding: int) -> bytes:
        if self._left - padding < 512:
            raise IntegrityError("a sparse file in a layer has no room for its map")
        self._left -= 512
        return self._take(512)

    def _skip(self, count: int) -> bool:
        here = len(self._chunk) - self._at
        if self._leap is not None and count > here:
            self._leap(count - here)
            self._before += self._at + count
            self._chunk, self._at = b"", 0
            return True
        while count:
            self._demand()
            step = min(count, len(self._chunk) - self._at)
            self._at += step
            count -= step
        return True

    def _copy(self, sink: Content, count: int) -> None:
        self._left -= count
        while count:
            self._demand()
            stop = min(len(self._chunk), self._at + count)
            sink.slice(self._chunk, self._at, stop)
            count -= stop - self._at
            self._at = stop


class _Ahead:
    """The extended headers of the member that follows; they may have 1 MiB together."""

    def __init__(self) -> None:
        self.everywhere: dict[bytes, bytes] = {}
        """Of this member and all later ones."""
        self.end()

    def end(self) -> None:
        """The member has come."""
        self.name = self.link = b""
        self.records: pax.Records = []
        self.room = _MAX_EXTENDED
        self.any = bool(self.everywhere)

    def add(self, kind: int, value: bytes) -> None:
        """A header of this *kind*, which has room.  Raises: IntegrityError."""
        self.any = True
        self.room -= len(value)
        if kind == _LONG_NAME:
            self.name = _c_string(value)
        elif kind == _LONG_LINK:
            self.link = _c_string(value)
        else:
            records, count = pax.read_records(value, self.room)
            self.room -= count * pax.RECORD_COST
            if kind == _PAX_GLOBAL:
                self.everywhere.update(pax.for_all(records))
            else:
                self.records = records  # a second header replaces the first, as in GNU tar and Go


def _plain_member(raw: bytes, kind: int, size: int) -> Member:
    """The member of a header that `_PLAIN` matches: nearly all are, so that this decides how fast layers are read."""
    name = _c_string(raw[:100])
    path = clean(name)
    link = _c_string(raw[157:257]) if kind == SYMLINK else b""
    if path != name:
        return _member(raw, kind, name, link, size, None, None)
    if kind == SYMLINK:
        size = 0
    mode, mtime = int(raw[100:107], 8) & 0o7777, int(raw[136:147], 8) & _TIME_MASK
    return Member(path, kind, mode, mtime, size, link, _NO_DEVICE, None)


def _member(
    raw: bytes,
    kind: int,
    name: bytes,
    link: bytes,
    size: int,
    mtime: int | None,
    pieces: tuple[tuple[int, int], ...] | None,
) -> Member:
    path = clean(name)
    if not FILE <= kind <= FIFO:
        kind = DIRECTORY if kind == _DUMPDIR else FILE  # POSIX: unknown types are regular files
    if kind == FILE and pieces is None and name.endswith(b"/"):
        kind = DIRECTORY  # as before ustar
    if kind == HARDLINK:
        link = clean(link)
    elif kind == SYMLINK:
        if not link or len(link) >= MAX_PATH:
            raise IntegrityError(f"the symlink {printable(path)} in a layer has a target of {len(link)} bytes")
    else:
        link = b""
    device = _device(raw, path) if kind in (CHAR, BLOCK) else _NO_DEVICE
    return Member(
        path=path,
        kind=kind,
        mode=unsigned(raw[100:108]) & 0o7777,
        mtime=(signed(raw[136:148]) if mtime is None else mtime) & _TIME_MASK,
        size=size if kind == FILE else 0,
        link=link,
        device=device,
        pieces=pieces,
    )


def _verify(raw: bytes) -> None:
    """Check a header's checksum: the sum of its bytes, with the checksum itself as spaces."""
    try:
        expected = int(raw[148:156].strip(b"\0 "), 8)
    except ValueError:
        raise IntegrityError("a layer is not a tar archive, or is damaged") from None
    # The low half of Adler-32 is the sum plus one modulo 65521, in a tenth of the time of sum().
    actual = (zlib.adler32(raw) & 0xFFFF) - (zlib.adler32(raw[148:156]) & 0xFFFF) + 256
    if (actual - expected) % 65521 or not 0 <= expected <= _MAX_CHECKSUM:
        field = raw[:148] + b" " * 8 + raw[156:]
        if expected != sum(field) - 256 * sum(b > 127 for b in field):  # signed sums of old writers
            raise IntegrityError("a layer is not a tar archive, or is damaged: a header's checksum is wrong")


def _device(raw: bytes, path: bytes) -> tuple[int, int]:
    major, minor = unsigned(raw[329:337]), unsigned(raw[337:345])
    if major > _MAX_MAJOR or minor > _MAX_MINOR:
        raise IntegrityError(
            f"the device {printable(path)} in a layer has a number that Linux has not: {major}:{minor}"
        )
    return major, minor


def _c_string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(raw: bytes) -> bytes:
    name = _c_string(raw[:100])
    if raw[345] and raw[257:263] == b"ustar\0":
        return _c_string(raw[345:500]) + b"/" + name
    return name
