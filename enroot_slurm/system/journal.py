"""An entry of systemd's journal, with fields, through its socket.

    journalctl -t enroot-slurm SLURM_JOB_ID=17 -o verbose

A field is a line ``NAME=VALUE``; a value with a line break comes after ``NAME``, a line break, and its length as 64
bits, least significant byte first.  Source: systemd's "Native Journal Protocol".
"""

from __future__ import annotations

import _socket  # `socket` costs a hook some milliseconds, and gives it nothing
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SOCKET", "send"]

SOCKET = "/run/systemd/journal/socket"


def send(fields: Mapping[str, str], path: str = SOCKET) -> bool:
    """Write an entry with *fields*; False if there is no journal, or it has no room: then syslog is to be told.

    It never waits.
    """
    with suppress(OSError):
        connection = _socket.socket(_socket.AF_UNIX, _socket.SOCK_DGRAM | _socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
        try:
            connection.sendto(b"".join(_line(name, value) for name, value in fields.items()), path)
        finally:
            connection.close()
        return True
    return False


def _line(name: str, value: str) -> bytes:
    data = value.encode("utf-8", "backslashreplace")
    if b"\n" in data:
        return name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n"
    return name.encode() + b"=" + data + b"\n"
