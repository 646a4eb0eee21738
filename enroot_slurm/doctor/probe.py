"""A process that does the steps of imports in a cache, on command of team.py, which starts it on some node.

It reads lines ``WHO OP ARGUMENT...`` from its standard input, where WHO is its own number or ``*``, and answers each
with a line of JSON.  It ends with its input.

    hello MARKER        who and where it is, its site's settings, and whether it sees the file MARKER
    clock               its ``time``, in seconds since 1970
    hold NAME           take the lock NAME and keep it: ``held``
    attempt NAME        take the lock NAME and give it back: ``held``
    drop                give back what is held
    publish FILE        let FILE be a file with its number, unless there is one: ``won``
    read FILE KIND      read the image FILE, whose compressor is KIND: ``readings``, pairs of a reader and its problem
    see FILE SECONDS    wait until FILE is there: ``content``, or null, and after how many ``seconds``
"""

from __future__ import annotations

import json
import os
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.locks import Locks
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.settings.config import Config
from enroot_slurm.system.privilege import Identity, fork
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "site_settings"]

_PAUSE = 0.005  # seconds between two looks
_MAX_CONTENT = 256


def main(arguments: Sequence[str]) -> int:
    """Serve: *arguments* are the cache's directory, this process' number and, for root, whom to become."""
    root, number, user = Path(arguments[0]), arguments[1] or os.environ.get("SLURM_PROCID", "0"), arguments[2]
    streams, myself = [os.dup(0), os.dup(1)], _self(number)  # now, for another user gets another environment
    serve = partial(_serve, root, myself, streams)
    try:
        identity = Identity.of(user) if user and os.geteuid() == 0 else None
    except EnrootSlurmError as error:
        os.write(1, json.dumps({**myself, "error": str(error)}).encode() + b"\n")
        return error.exit_code
    if identity is None:
        return serve()
    return fork(serve, identity, keep=streams).wait() or 0


def _serve(root: Path, myself: dict[str, Any], streams: list[int]) -> int:
    with os.fdopen(streams[0], "rb") as commands, os.fdopen(streams[1], "wb", 0) as answers, ExitStack() as held:
        hand = _Hand(root, myself, held)
        _answer(hand, commands, answers)
    return 0


def _answer(hand: _Hand, commands: BinaryIO, answers: Any) -> None:
    for line in iter(commands.readline, b""):
        who, op, *arguments = line.decode().rstrip("\n").split(" ")
        if who in {"*", hand.number}:
            try:
                said: dict[str, Any] = getattr(hand, op)(*arguments)
            except OSError as error:
                said = {"error": f"{os.strerror(error.errno or 0)}: {error.filename or hand.place.root}"}
            answers.write(json.dumps({**hand.myself, "op": op, **said}).encode() + b"\n")


class _Hand:
    """The operations; each returns its answer.  Raises: OSError."""

    def __init__(self, root: Path, myself: dict[str, Any], held: ExitStack) -> None:
        self.place = CacheDirectory(root)
        self.myself = myself
        self.number: str = myself["who"]
        self._locks = Locks(self.place)
        self._held = held

    def hello(self, marker: str) -> dict[str, Any]:
        try:
            sees = (self.place.root / marker).exists()
        except PermissionError:  # this user is another one here
            sees = False
        return {"version": __version__, "uid": os.geteuid(), "sees": sees, "settings": site_settings()}

    def clock(self) -> dict[str, Any]:
        return {"time": time.time()}

    def hold(self, name: str) -> dict[str, Any]:
        return {"held": self._held.enter_context(self._locks.lock(name).attempt())}

    def drop(self) -> dict[str, Any]:
        self._held.close()
        return {}

    def attempt(self, name: str) -> dict[str, Any]:
        with self._locks.lock(name).attempt() as held:
            return {"held": held}

    def publish(self, name: str) -> dict[str, Any]:
        return {"won": self.place.write(self.place.root / name, self.number.encode(), replace=False)}

    def read(self, name: str, compressor: str) -> dict[str, Any]:
        from enroot_slurm.doctor.readers import read_back  # noqa: PLC0415 - only where it is asked for

        return {"readings": read_back(self.place.root / name, compressor)}

    def see(self, name: str, seconds: str) -> dict[str, Any]:
        begin = time.monotonic()
        while True:
            try:
                with (self.place.root / name).open("rb") as file:
                    content: str | None = file.read(_MAX_CONTENT).decode()
            except FileNotFoundError:
                content = None
            waited = time.monotonic() - begin
            if content is not None or waited >= float(seconds):
                return {"content": content, "seconds": waited}
            time.sleep(_PAUSE)


def site_settings() -> dict[str, str]:
    """The settings of hooks on this node, by key, from the site's file; or why the file is wrong, as ``problems``."""
    try:
        config = Config.load(trusted=True)
    except EnrootSlurmError as error:
        return {"problems": str(error)}
    return {row.key: row.value for row in config.rows() if config.origins[row.key] != "default"}


def _self(number: str) -> dict[str, Any]:
    """How a process presents itself, with the number of all that srun has started."""
    node = os.environ.get("SLURMD_NODENAME") or os.uname().nodename
    return {"who": number, "op": "hello", "node": node, "of": os.environ.get("SLURM_NTASKS", "")}
