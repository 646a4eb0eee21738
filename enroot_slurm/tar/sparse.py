"""Sparse members of tar archives: where their pieces of data belong (GNU tar manual, "Storing Sparse Files")."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError
from enroot_slurm.tar.numbers import decimal, unsigned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Map", "old_gnu", "pax_0", "pax_1_0", "pax_format"]

_MAX_PIECES = 1 << 20
_MAX_SIZE = 1 << 42
_MAX_LINE = 32  # bytes of a number in a map
_WHAT = "map of a sparse file"


class Map(NamedTuple):
    """The *size* of the whole file in bytes, and (offset, length) of each piece that is stored, in order."""

    size: int
    pieces: tuple[tuple[int, int], ...]


def old_gnu(raw: bytes, take_block: Callable[[], bytes]) -> Map:
    """The map of a type ``S`` member: in its header, and in extension blocks before the data."""
    fields = [raw[386 + i : 410 + i] for i in range(0, 96, 24)]
    more = raw[482]
    while more:
        block = take_block()
        fields += [block[i : i + 24] for i in range(0, 504, 24)]
        more = block[504]
        if len(fields) > _MAX_PIECES:
            raise _malformed()
    used = [f for f in fields if f[:12].strip(b"\0 ")]
    return _map(unsigned(raw[483:495]), ((unsigned(f[:12]), unsigned(f[12:])) for f in used))


def pax_format(stated: Mapping[bytes, bytes]) -> tuple[int, int] | None:
    """The format that PAX records state, (0, 0) for both with their maps in records; None for files without holes."""
    major, minor = stated.get(b"GNU.sparse.major"), stated.get(b"GNU.sparse.minor", b"0")
    if major is not None:
        form = decimal(major, "format of a sparse file"), decimal(minor, "format of a sparse file")
        return (0, 0) if form == (0, 1) else form
    # Formats 0.0 and 0.1 need not state what they are.
    return (0, 0) if b"GNU.sparse.size" in stated or b"GNU.sparse.map" in stated else None


def pax_0(records: Iterable[tuple[bytes, bytes]]) -> Map:
    """The map of PAX formats 0.0 (a record for each number) and 0.1 (one record with all numbers)."""
    numbers: list[int] = []
    size = 0
    for key, value in records:
        if key in (b"GNU.sparse.offset", b"GNU.sparse.numbytes"):
            numbers.append(decimal(value, _WHAT))
        elif key == b"GNU.sparse.map":
            numbers = [decimal(n, _WHAT) for n in value.split(b",")] if value else []
        elif key in (b"GNU.sparse.size", b"GNU.sparse.realsize"):
            size = decimal(value, _WHAT)
    return _map(size, _pairs(numbers))


def pax_1_0(stated: Mapping[bytes, bytes], take_block: Callable[[], bytes]) -> Map:
    """The map of PAX format 1.0: decimal lines in the first blocks of the data."""
    numbers: list[int] = []
    wanted = 1  # how many there are: the first one says it
    rest = b""
    while len(numbers) < wanted:
        *lines, rest = (rest + take_block()).split(b"\n")
        numbers += [decimal(line, _WHAT) for line in lines[: wanted - len(numbers)]]
        if wanted == 1 and numbers:
            if numbers[0] > _MAX_PIECES:
                raise _malformed()
            numbers += [decimal(line, _WHAT) for line in lines[1 : 1 + 2 * numbers[0]]]
            wanted += 2 * numbers[0]
        if len(numbers) < wanted and len(rest) > _MAX_LINE:
            raise _malformed()
    size = stated.get(b"GNU.sparse.realsize") or stated.get(b"GNU.sparse.size") or b"0"
    return _map(decimal(size, _WHAT), _pairs(numbers[1:]))


def _pairs(numbers: list[int]) -> Iterable[tuple[int, int]]:
    if len(numbers) % 2:
        raise _malformed()
    return zip(numbers[::2], numbers[1::2], strict=True)


def _map(size: int, pieces: Iterable[tuple[int, int]]) -> Map:
    """The map with these *pieces*; those of no bytes, which only say where a file ends, are left out."""
    kept = []
    end = 0
    for offset, length in pieces:
        if offset < end:
            raise _malformed()
        end = offset + length
        if length:
            kept.append((offset, length))
    if not end <= size <= _MAX_SIZE:
        raise _malformed()
    return Map(size, tuple(kept))


def _malformed() -> IntegrityError:
    return IntegrityError("a sparse file in a layer has a malformed map")
