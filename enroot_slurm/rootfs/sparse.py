"""Sparse members of tar archives: where their pieces of data belong (GNU tar manual, "Storing Sparse Files")."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Map", "old_gnu", "pax_0", "pax_1_0"]

_MAX_PIECES = 1 << 20
_MAX_SIZE = 1 << 42


class Map(NamedTuple):
    """The *size* of the whole file in bytes, and (offset, length) of each piece that is stored, in order."""

    size: int
    pieces: tuple[tuple[int, int], ...]


def old_gnu(raw: bytes, take_block: Callable[[], bytes]) -> Map:
    """The map of a type ``S`` member: in its header, and in extension blocks before the data."""
    fields = [raw[386 + i : 398 + i] + raw[398 + i : 410 + i] for i in range(0, 96, 24)]
    more = raw[482]
    while more:
        block = take_block()
        fields += [block[i : i + 24] for i in range(0, 504, 24)]
        more = block[504]
        if len(fields) > _MAX_PIECES:
            raise _malformed()
    used = [f for f in fields if f[:12].strip(b"\0 ")]
    return _map(_field(raw[483:495]), ((_field(f[:12]), _field(f[12:])) for f in used))


def pax_0(records: Iterable[tuple[bytes, bytes]]) -> Map:
    """The map of PAX formats 0.0 (a record for each number) and 0.1 (one record with all numbers)."""
    numbers: list[int] = []
    size = 0
    for key, value in records:
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(_int(value))
        elif key == b"GNU.sparse.map":
            numbers = [_int(n) for n in value.split(b",")] if value else []
        elif key == b"GNU.sparse.size":
            size = _int(value)
    return _map(size, _pairs(numbers))


def pax_1_0(size: bytes, take_block: Callable[[], bytes]) -> Map:
    """The map of PAX format 1.0: decimal lines in the first blocks of the data."""
    text = b""
    count = -1
    while count < 0 or text.count(b"\n") < 1 + 2 * count:
        text += take_block()
        if count < 0 and b"\n" in text:
            count = _int(text.partition(b"\n")[0])
        if count > _MAX_PIECES or len(text) > 32 * _MAX_PIECES:
            raise _malformed()
    return _map(_int(size), _pairs([_int(line) for line in text.split(b"\n")[1 : 1 + 2 * count]]))


def _pairs(numbers: list[int]) -> Iterable[tuple[int, int]]:
    if len(numbers) % 2:
        raise _malformed()
    return zip(numbers[::2], numbers[1::2], strict=True)


def _map(size: int, pieces: Iterable[tuple[int, int]]) -> Map:
    result = Map(size, tuple(pieces))
    end = 0
    for offset, length in result.pieces:
        if offset < end:
            raise _malformed()
        end = offset + length
    if not end <= size <= _MAX_SIZE:
        raise _malformed()
    return result


def _field(field: bytes) -> int:
    if field[0] & 0x80:
        return int.from_bytes(field[1:], "big")
    try:
        return int(field.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise _malformed() from None


def _int(text: bytes) -> int:
    if not text.isdigit() or len(text) > 19:
        raise _malformed()
    return int(text)


def _malformed() -> IntegrityError:
    return IntegrityError("a sparse file in a layer has a malformed map")
