"""The content of a YAML file, kept as JSON beside its text: so a hook at each job's start loads no YAML library.

The copy counts only while the file's text is still the same, and the copy is root's.  It holds what is in the file and
nothing else, so it may be read by whoever may read the file.
"""

from __future__ import annotations

import json
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING

from enroot_slurm.settings.schema import SETTINGS, Assignment, Value
from enroot_slurm.system.publish import write_file

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_snapshot", "write_snapshot"]


def read_snapshot(copy: Path, name: str, content: bytes) -> list[Assignment] | None:
    """The settings in the *content* of the file *name*, if *copy* has them."""
    with suppress(OSError, ValueError, LookupError, TypeError):
        descriptor = os.open(copy, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as file:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode) or status.st_uid or status.st_mode & 0o022:
                return None
            known = json.loads(file.read())
        if known["key"] == _key(name, content):
            return [_entry(fields) for fields in known["entries"]]
    return None


def write_snapshot(copy: Path, name: str, content: bytes, entries: list[Assignment]) -> None:
    """Keep *entries*, if this is root and the directory of *copy* is there and root's alone."""
    with suppress(OSError, ValueError):
        directory = os.lstat(copy.parent)
        if os.geteuid() or directory.st_uid or directory.st_mode & 0o022:
            return
        known = {"key": _key(name, content), "entries": [_fields(entry) for entry in entries]}
        write_file(copy, json.dumps(known).encode(), mode=0o644)


def _key(name: str, content: bytes) -> list[str]:
    return [name, content.decode()]


def _fields(entry: Assignment) -> dict[str, object]:
    return {**entry._asdict(), "setting": entry.setting.key}


def _entry(fields: dict[str, object]) -> Assignment:
    values = fields["values"]
    assert isinstance(values, list)
    known = {"setting": SETTINGS[str(fields["setting"])], "values": tuple(Value(*each) for each in values)}
    return Assignment(**{**fields, **known})  # type: ignore[arg-type]
