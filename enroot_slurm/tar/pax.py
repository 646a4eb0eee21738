r"""Extended headers (POSIX.1-2024, pax(1), "pax Extended Header"): records ``LENGTH KEY=VALUE\n``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["RECORD_COST", "Records", "for_all", "in_force", "read_records"]

Records = list[tuple[bytes, bytes]]

RECORD_COST = 64
"""Each record counts so many bytes more in the limit of headers: a thousand tiny ones take longer than a long one."""
_GLOBAL = frozenset((b"path", b"linkpath", b"size", b"mtime"))
_SPARSE = b"GNU.sparse."
_TEXTS = frozenset((b"path", b"linkpath", b"GNU.sparse.name"))  # which C programs end at a NUL


def read_records(data: bytes, room: int) -> tuple[Records, int]:
    """The records in *data* that say something of the member itself, and how many there are in all.

    Zeros may follow them.  Raises: IntegrityError, also when they cost more than *room*.
    """
    found: Records = []
    at = count = 0
    end = len(data)
    while at < end:
        space = data.find(b" ", at, at + 20)
        digits = data[at:space]
        if space < 0 or not digits.isdigit():
            if not data[at:].strip(b"\0"):
                break
            raise _malformed(data[at : at + 40])
        stop = at + int(digits)
        equals = data.find(b"=", space + 1, stop)
        if equals <= space + 1 or stop > end or data[stop - 1] != 0x0A:
            raise _malformed(data[at : at + 40])
        key = data[space + 1 : equals]
        if key in _GLOBAL or key.startswith(_SPARSE):
            value = data[equals + 1 : stop - 1]
            if key in _TEXTS and b"\0" in value:
                raise IntegrityError(f"a {printable(key)} in a layer holds a NUL: {printable(value)}")
            found.append((key, value))
        count += 1
        if count * RECORD_COST > room:
            raise IntegrityError("a member of a layer has too many PAX records")
        at = stop
    return found, count


def in_force(everywhere: Mapping[bytes, bytes], records: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The records that hold for a member: its own *records* over those that hold *everywhere*.

    An empty value takes back what was said before.
    """
    merged = {**everywhere, **dict(records)}
    return {key: value for key, value in merged.items() if value}


def for_all(records: Iterable[tuple[bytes, bytes]]) -> dict[bytes, bytes]:
    """The records of a global header that have a meaning for members."""
    return {key: value for key, value in records if key in _GLOBAL}


def _malformed(text: bytes) -> IntegrityError:
    return IntegrityError(f"a PAX header in a layer is malformed: {printable(text)}")
