"""What the processes of a cache tell each other about registries, so that one learns for all.

    ROOT/hosts/held-HASH.json     until when nobody is to ask a registry, which has said that it is asked too often
    ROOT/hosts/probe-HASH.json    somebody asks it nevertheless, to find out whether that is over
    ROOT/hosts/down-HASH.json     a mirror that did not answer one node
    ROOT/hosts/left-HASH.json     how many requests a registry has said that it allows still

Each is replaced as a whole; there is no lock.  A note may be lost, or come late: then a registry is asked once more.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from typing import TYPE_CHECKING, Any

from enroot_slurm.cache.trust import Untrusted, read_trusted
from enroot_slurm.oci.digest import hash_of_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["HostNotes", "all_notes"]

_MAX_NOTE = 16 << 10


class HostNotes:
    """The notes of the cache *place*.  *who* gives a word for the logins: another login may have another limit."""

    def __init__(self, place: CacheDirectory, who: Callable[[], str] = str) -> None:
        self._place = place
        self._who = who
        self._word: str | None = None

    def read(self, kind: str, host: str) -> dict[str, Any]:
        """The note of this *kind* about *host*, as it was written; empty if there is none."""
        return _read(self._path(kind, host), {0, os.geteuid()})

    def write(self, kind: str, host: str, fields: dict[str, Any]) -> None:
        """Let the note be *fields*, with the host, this node and the time.  It is no reason to fail if it can't be."""
        known = {**fields, "host": host, "node": os.uname().nodename, "time": time.time()}
        with contextlib.suppress(OSError):
            self._place.directory("hosts")
            self._place.write(self._path(kind, host), json.dumps(known).encode())

    def claim(self, kind: str, host: str, seconds: float) -> bool:
        """Write the note, if there is none that is younger than *seconds*; whether this process has."""
        path = self._path(kind, host)
        content = json.dumps({"host": host, "node": os.uname().nodename, "time": time.time()}).encode()
        try:
            if abs(time.time() - path.stat().st_mtime) > seconds:
                path.unlink()
        except OSError:
            pass
        try:
            self._place.directory("hosts")
            return self._place.write(path, content, replace=False)
        except OSError:
            return True  # there is no way to agree with others

    def forget(self, kind: str, host: str) -> None:
        """Remove the note."""
        with contextlib.suppress(OSError):
            self._path(kind, host).unlink()

    def _path(self, kind: str, host: str) -> Path:
        # What is down for one node may not be so for another one; all have the same limit, by address or by login.
        if kind != "down" and self._word is None:
            self._word = self._who()
        words = [host, os.uname().nodename if kind == "down" else self._word or ""]
        return self._place.root / "hosts" / f"{kind}-{hash_of_text(chr(10).join(words), 32)}.json"


def all_notes(root: Path, kind: str) -> Iterator[dict[str, Any]]:
    """The notes of this *kind* below *root* that its owner or root has written."""
    with contextlib.suppress(OSError):
        owners = {0, root.stat().st_uid}
        for path in sorted((root / "hosts").glob(f"{kind}-*.json")):
            if fields := _read(path, owners):
                yield fields


def _read(path: Path, owners: set[int]) -> dict[str, Any]:
    with contextlib.suppress(OSError, Untrusted, ValueError, RecursionError):
        fields = json.loads(read_trusted(path, owners, _MAX_NOTE))
        if isinstance(fields, dict):
            return fields
    return {}
