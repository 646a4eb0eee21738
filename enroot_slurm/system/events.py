"""Events of this node, to be counted: a line of JSON for each, appended to one file.

    RUN_PATH/events     root's (0600); hooks open it before they become somebody else

A line is written by one call, and shorter than 4 KiB, so that lines of several processes don't mix.  Nobody waits for
who counts them (`enroot_slurm.housekeeping.metrics`): where nobody does, the file stops growing at 8 MiB.
"""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["MOST", "Events"]

MOST = 8 << 20
"""Bytes of the file."""
_LONGEST = 4095


class Events(NamedTuple):
    """The file, opened to append; `open` it."""

    descriptor: int
    """-1: there is none, or this user may not write it; then events are forgotten."""

    @classmethod
    def open(cls, run_path: Path) -> Events:
        """The events of this node.  Only root makes the file; a site may make one that others may append to."""
        flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        flags |= 0 if os.geteuid() else os.O_CREAT
        with suppress(OSError):
            return cls(os.open(run_path / "events", flags, 0o600))
        return cls(-1)

    @property
    def keep(self) -> tuple[int, ...]:
        """The descriptors that a child needs for it."""
        return (self.descriptor,) if self.descriptor >= 0 else ()

    def add(self, kind: str, **fields: str | float) -> None:
        """Append an event of this *kind*, which happened now."""
        if self.descriptor < 0:
            return
        line = json.dumps({"kind": kind, "time": round(time.time()), **fields}).encode() + b"\n"
        with suppress(OSError):
            found = os.fstat(self.descriptor)
            if stat.S_ISREG(found.st_mode) and found.st_size < MOST and len(line) <= _LONGEST:
                os.write(self.descriptor, line)

    def close(self) -> None:
        """Close the file."""
        for descriptor in self.keep:
            os.close(descriptor)
