"""Tar archives, read as streams: members become values, and never files.

Understood: ustar, GNU (long names, base-256 numbers, old sparse files) and PAX (POSIX.1-2001, pax(1); with GNU's
sparse formats 0.0, 0.1 and 1.0).  Owners and extended attributes are ignored: an image has none.

A scan by hand is several times as fast as `tarfile`, and contents are never copied: they stay slices of what came.
"""

from __future__ import annotations

import re
import zlib
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError, printable
from enroot_slurm.rootfs import sparse

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from enroot_slurm.rootfs.sink import Sink

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
    "clean",
]

FILE, HARDLINK, SYMLINK, CHAR, BLOCK, DIRECTORY, FIFO = b"0123456"

_PAX_NEXT, _PAX_GLOBAL, _PAX_SOLARIS, _LONG_NAME, _LONG_LINK, _OLD_SPARSE = b"xgXLKS"
_EXTENDED = frozenset((_PAX_NEXT, _PAX_GLOBAL, _PAX_SOLARIS, _LONG_NAME, _LONG_LINK))
_VOLUME_KINDS = b"VMN"  # labels and continuations of GNU tar's multi-volume archives: no files
_MAX_EXTENDED = 1 << 20  # bytes of the PAX headers and long names of one member
_MAX_SIZE = 1 << 42
_MAX_PATH, _MAX_NAME = 4096, 255  # PATH_MAX and NAME_MAX (limits.h)
_MAX_DEPTH = 512  # directories in each other
_TIME_MASK = 0xFFFFFFFF  # squashfs has 32 bits; times before 1970 wrap around, as in mksquashfs before 4.7
_USED_KEYWORDS = frozenset((b"path", b"linkpath", b"size", b"mtime"))  # of global PAX headers: others are of no use
_NO_DEVICE = (0, 0)
_SECONDS = re.compile(rb"(-?)(\d{1,18})(?:\.(\d*))?")
# Mode, owner, size and time in their plain forms; checksum; a file or symlink; ustar; no prefix.
_PLAIN = re.compile(
    rb"(?:[0-7]{7}\0){3}(?:[0-7]{11}[ \0]){2}.{8}(?:0.{100}|2[^\0].{99})ustar(?:  \0|\0\d\d).{80}\0",
    re.DOTALL,
)


class Member(NamedTuple):
    """What a header says, sanitised; the content follows in the stream."""

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
    """

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        self._chunk = b""
        self._at = 0
        self._left = 0  # bytes of the current member's content and padding that are still to come
        self._member: Member | None = None

    def __iter__(self) -> Iterator[Member]:
        """Yield the members.  Raises: IntegrityError, for an archive that is damaged or cut short."""
        everywhere: dict[bytes, bytes] = {}
        records: list[tuple[bytes, bytes]] = []
        name = link = b""
        extended = 0  # bytes of headers before the member
        while self._skip(self._left) and self._more():
            raw = self._take(512)
            if raw[0] == 0 and not raw.strip(b"\0"):
                break
            _verify(raw)
            kind = raw[156]
            plain = _PLAIN.match(raw, 100) is not None
            size = int(raw[124:135], 8) if plain else _number(raw[124:136])
            if size > (_MAX_EXTENDED - extended if kind in _EXTENDED else _MAX_SIZE):
                raise IntegrityError(f"a layer has a tar member of {size} bytes, of type {kind}")
            self._left = size + (-size % 512)
            if kind in _EXTENDED:
                extended += size
                value = self._take(size)
                if kind == _LONG_NAME:
                    name = value.partition(b"\0")[0]
                elif kind == _LONG_LINK:
                    link = value.partition(b"\0")[0]
                elif kind == _PAX_GLOBAL:
                    everywhere.update(record for record in _pax_records(value) if record[0] in _USED_KEYWORDS)
                else:
                    records += _pax_records(value)
                self._left -= size
                continue
            extended = 0
            if kind in _VOLUME_KINDS:
                continue
            if name or link or records or everywhere or kind == _OLD_SPARSE:
                member = self._extended(raw, size, name, link, [*everywhere.items(), *records])
                name = link = b""
                records = []
            elif plain:
                member = _plain_member(raw, kind, size)
            else:
                member = _member(raw, kind, _name(raw), _c_string(raw[157:257]), size, None, None)
            if HARDLINK <= member.kind <= FIFO:
                self._left = 0
            self._member = member
            yield member
        for _ in self._chunks:
            pass

    def copy(self, sink: Sink) -> None:
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

    def _extended(
        self, raw: bytes, stored: int, name: bytes, link: bytes, records: list[tuple[bytes, bytes]]
    ) -> Member:
        """The member of a header that others preceded."""
        pax = {key: value for key, value in records if value}
        kind = raw[156]
        if b"size" in pax:
            stored = _decimal(pax[b"size"], b"size")
            self._left = stored + (-stored % 512)
        name = pax.get(b"GNU.sparse.name") or pax.get(b"path") or name or _name(raw)
        link = pax.get(b"linkpath") or link or _c_string(raw[157:257])
        mtime = _seconds(pax[b"mtime"]) if b"mtime" in pax else None
        layout: sparse.Map | None = None
        if kind == _OLD_SPARSE:
            layout = sparse.old_gnu(raw, lambda: self._take(512))
        elif pax.get(b"GNU.sparse.major") == b"1":
            layout = sparse.pax_1_0(pax.get(b"GNU.sparse.realsize", b""), self._take_stored_block)
        elif b"GNU.sparse.size" in pax:
            layout = sparse.pax_0(records)
        if layout is None:
            return _member(raw, kind, name, link, stored, mtime, None)
        if sum(length for _, length in layout.pieces) > self._left:
            raise IntegrityError(f"the map of the sparse file {printable(name)} in a layer exceeds its data")
        return _member(raw, FILE, name, link, layout.size, mtime, layout.pieces)

    # ---- the chunks as one sequence of bytes

    def _more(self) -> bool:
        while self._at == len(self._chunk):
            chunk = next(self._chunks, None)
            if chunk is None:
                return False
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

    def _take_stored_block(self) -> bytes:
        if self._left < 512:
            raise IntegrityError("a sparse file in a layer has no room for its map")
        self._left -= 512
        return self._take(512)

    def _skip(self, count: int) -> bool:
        while count:
            self._demand()
            step = min(count, len(self._chunk) - self._at)
            self._at += step
            count -= step
        return True

    def _copy(self, sink: Sink, count: int) -> None:
        self._left -= count
        while count:
            self._demand()
            stop = min(len(self._chunk), self._at + count)
            sink.slice(self._chunk, self._at, stop)
            count -= stop - self._at
            self._at = stop


def clean(name: bytes) -> bytes:
    """*name* as a path below the root: without leading, doubled and final slashes, ``.`` and ``..``.

    ``..`` stops at the root.  Raises: IntegrityError, when no file system can hold the name.
    """
    if name[:1] not in b"./" and b"//" not in name and b"/." not in name and len(name) <= _MAX_NAME:
        return name.removesuffix(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            del parts[-1:]
        elif part not in (b"", b"."):
            parts.append(part)
    path = b"/".join(parts)
    if len(path) > _MAX_PATH or any(len(p) > _MAX_NAME for p in parts):
        raise IntegrityError(f"a name in a layer is longer than a file system allows: {printable(name)}")
    if len(parts) > _MAX_DEPTH:
        raise IntegrityError(f"a name in a layer is more than {_MAX_DEPTH} directories deep: {printable(name)}")
    return path


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
        kind = DIRECTORY if kind == ord("D") else FILE  # POSIX: unknown types are regular files
    if kind == FILE and pieces is None and name.endswith(b"/"):
        kind = DIRECTORY  # as before ustar
    if kind == HARDLINK:
        link = clean(link)
    elif kind == SYMLINK:
        if not link or len(link) >= _MAX_PATH:
            raise IntegrityError(f"the symlink {printable(path)} in a layer has a target of {len(link)} bytes")
    else:
        link = b""
    device = (_number(raw[329:337]), _number(raw[337:345])) if kind in (CHAR, BLOCK) else _NO_DEVICE
    return Member(
        path=path,
        kind=kind,
        mode=_number(raw[100:108]) & 0o7777,
        mtime=(_number(raw[136:148]) if mtime is None else mtime) & _TIME_MASK,
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
    if (actual - expected) % 65521:
        field = raw[:148] + b" " * 8 + raw[156:]
        if expected != sum(field) - 256 * sum(b > 127 for b in field):  # signed sums of old writers
            raise IntegrityError("a layer is not a tar archive, or is damaged: a header's checksum is wrong")


def _number(field: bytes) -> int:
    """A numeric field: octal digits, or GNU's base 256 when the first bit is set."""
    if field[0] & 0x80:
        value = int.from_bytes(field, "big", signed=True)
        return value if field[0] == 0xFF else value + (1 << (8 * len(field) - 1))
    try:
        return int(field.partition(b"\0")[0].strip() or b"0", 8)
    except ValueError:
        raise IntegrityError(f"a tar header in a layer has a malformed number: {printable(field)}") from None


def _c_string(field: bytes) -> bytes:
    return field.partition(b"\0")[0]


def _name(raw: bytes) -> bytes:
    name = _c_string(raw[:100])
    if raw[345] and raw[257:263] == b"ustar\0":
        return _c_string(raw[345:500]) + b"/" + name
    return name


def _decimal(value: bytes, what: bytes) -> int:
    if not value.isdigit() or len(value) > 18:
        raise IntegrityError(f"a PAX header in a layer has a malformed {printable(what)}: {printable(value)}")
    return int(value)


def _seconds(value: bytes) -> int:
    """The whole seconds at or before a PAX time such as ``-1.5``."""
    match = _SECONDS.fullmatch(value)
    if match is None:
        raise IntegrityError(f"a PAX header in a layer has a malformed time: {printable(value)}")
    whole = int(match[2])
    return whole if not match[1] else -whole - bool((match[3] or b"").strip(b"0"))


def _pax_records(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    r"""The (key, value) pairs of a PAX header: ``LENGTH KEY=VALUE\n``."""
    at = 0
    while at < len(data):
        digits, space, _ = data[at : at + 20].partition(b" ")
        if not space and not data[at:].strip(b"\0"):
            return
        length = int(digits) if digits.isdigit() else 0
        key, equals, value = data[at + len(digits) + 1 : at + length].partition(b"=")
        if not space or not equals or not value.endswith(b"\n") or at + length > len(data):
            raise IntegrityError("a PAX header in a layer is malformed")
        yield key, value[:-1]
        at += length
