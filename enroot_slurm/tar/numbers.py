"""Numbers in tar archives (POSIX.1-2024, pax(1); GNU tar manual, "Extensions").

What counts something is unsigned; only times may lie before 1970.  Forms are those that GNU tar and Go's archive/tar
take: blanks and NULs around octal digits, base 256 where the first bit is set, decimals with a sign and leading zeros.
"""

from __future__ import annotations

import re

from enroot_slurm.errors import IntegrityError, printable

__all__ = ["decimal", "decimal_seconds", "signed", "unsigned"]

_MAX_DIGITS = 19  # of 64 bits
_OCTAL = re.compile(rb"[ \0]*(-?[0-7]+)?(?: *| *\0.*)", re.DOTALL)
_DECIMAL = re.compile(rb"\+?0*(\d*)")
_SECONDS = re.compile(rb"([+-]?)0*(\d*)(?:\.(\d*))?")


def unsigned(field: bytes) -> int:
    """A numeric field of a header that counts something; an empty one is 0.  Raises: IntegrityError."""
    value = signed(field)
    if value < 0:
        raise IntegrityError(f"a tar header in a layer has a negative number: {printable(field)}")
    return value


def signed(field: bytes) -> int:
    """A numeric field of a header that may be negative; an empty one is 0.  Raises: IntegrityError."""
    if field[0] & 0x80:
        bits = 8 * len(field) - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if field[0] & 0x40 else value
    match = _OCTAL.fullmatch(field)
    if match is None:
        raise IntegrityError(f"a tar header in a layer has a malformed number: {printable(field)}")
    return int(match[1] or b"0", 8)


def decimal(text: bytes, what: str) -> int:
    """A decimal number that counts something.  Raises: IntegrityError, which says *what*."""
    match = _DECIMAL.fullmatch(text)
    if match is None or not text[-1:].isdigit() or len(match[1]) > _MAX_DIGITS:
        raise IntegrityError(f"a layer has a malformed {what}: {printable(text)}")
    return int(match[1] or b"0")


def decimal_seconds(text: bytes) -> int:
    """The whole seconds at or before a PAX time such as ``-1.5``.  Raises: IntegrityError."""
    match = _SECONDS.fullmatch(text)
    if match is None or not text.strip(b"+-.") or len(match[2]) > _MAX_DIGITS:
        raise IntegrityError(f"a PAX header in a layer has a malformed time: {printable(text)}")
    whole = int(match[2] or b"0")
    return whole if match[1] != b"-" else -whole - bool((match[3] or b"").strip(b"0"))
