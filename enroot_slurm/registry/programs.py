"""Programs that print a secret: they have 20 seconds, and 64 KiB."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import time
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ProgramOutput", "run"]

TIMEOUT = 20.0
"""Seconds."""
MAX_OUTPUT = 64 << 10
"""Bytes."""
_GLANCE = 0.1  # seconds between two looks whether the program has ended


class ProgramOutput(NamedTuple):
    """The output of a program, which may be a secret, and how it ended."""

    text: bytes
    status: int
    problem: str
    """Why it was killed, such as "took longer than 20 s"; or empty."""

    def __repr__(self) -> str:
        return f"ProgramOutput(***, {self.status}, {self.problem!r})"


def run(command: Sequence[str], *, given: bytes = b"", quiet: bool = False) -> ProgramOutput:
    """The output of *command*, which reads *given* (a few hundred bytes); *quiet*: its messages go nowhere.

    It has a session of its own, all of which is killed at the limits; so no service that it leaves behind, and that
    keeps its output open, is waited for.  Raises: OSError, when it can't be started.
    """
    process = subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL if quiet else None,
        start_new_session=True,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        with contextlib.suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(given)
        with process.stdout as pipe:
            text, problem = _read(process, pipe.fileno(), time.monotonic() + TIMEOUT)
        if not problem:
            try:
                process.wait(TIMEOUT)
            except subprocess.TimeoutExpired:
                problem = _too_long()
    finally:
        if process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return ProgramOutput(text, process.returncode, problem)


def _read(process: subprocess.Popen[bytes], fd: int, deadline: float) -> tuple[bytes, str]:
    received = bytearray()
    ended = False
    while len(received) <= MAX_OUTPUT:
        ready, _, _ = select.select([fd], [], [], 0 if ended else _GLANCE)
        if ready:
            piece = os.read(fd, 65536)
            if not piece:
                return bytes(received), ""
            received += piece
        elif ended:
            return bytes(received), ""
        ended = process.poll() is not None
        if not ended and time.monotonic() > deadline:
            return b"", _too_long()
    return b"", f"printed more than {MAX_OUTPUT >> 10} KiB"


def _too_long() -> str:
    return f"took longer than {TIMEOUT:g} s"
