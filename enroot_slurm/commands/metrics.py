"""``metrics``: what Prometheus collects, as a text for node_exporter's textfile collector."""

from __future__ import annotations

import fcntl
import json
import os
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import StorageError, UsageError

if TYPE_CHECKING:
    import argparse

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.housekeeping.metrics import State

__all__ = ["add_commands"]

_METRICS = """\
Print what has been counted on this node, in the text format of Prometheus: imports by result and by who asked, their
times, requests to registries and bytes from them, collections and prefetches. With --site, print gauges of the site's
cache instead: on one node only, for all of them would say the same.
"""
_MOST = 1 << 20
"""Bytes of events that are read at once."""
_MAX_STATE = 256 << 10
"""More than all metrics with the longest names of hosts."""


def add_commands(commands: Commands) -> None:
    """Declare the command of this module."""
    metrics = commands.add("metrics", _metrics, "print metrics for Prometheus", description=_METRICS)
    text = "write them to FILE, for node_exporter (--collector.textfile.directory)"
    metrics.add_argument("--textfile", metavar="FILE", type=Path, help=text)
    metrics.add_argument("--site", action="store_true", help="gauges of the site's cache (setting shared_cache)")


def _metrics(options: argparse.Namespace) -> int:
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config = Config.load()
    text = _of_site(config.shared_cache, config.cache_user) if options.site else _of_node(config.run_path)
    if options.textfile:
        _write(options.textfile.absolute(), text.encode(), 0o644)
    else:
        print(text, end="")
    return 0


def _of_site(shared_cache: str, cache_user: str) -> str:
    from enroot_slurm.housekeeping.as_owner import owner_identity  # noqa: PLC0415
    from enroot_slurm.housekeeping.keeper import limits_of  # noqa: PLC0415
    from enroot_slurm.housekeeping.metrics import cache_text  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415
    from enroot_slurm.system import privilege  # noqa: PLC0415

    if not shared_cache:
        raise UsageError("there is no shared cache", hint="Set shared_cache.")
    root = Path(shared_cache)
    work = partial(cache_text, root, limits_of(Config.load()))
    try:
        identity = owner_identity(root, cache_user)
        return str(privilege.run(work, identity, deadline=600)) if identity else work()
    except OSError as error:
        raise StorageError(f"{root} can't be read: {error.strerror}") from None


def _of_node(run_path: Path) -> str:
    """Count the events that are new, and note how far that was."""
    from enroot_slurm.housekeeping.metrics import State as Sums  # noqa: PLC0415
    from enroot_slurm.housekeeping.metrics import node_text  # noqa: PLC0415

    try:
        descriptor = os.open(run_path / "events", os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        return node_text(Sums({}, []))
    except OSError as error:
        raise StorageError(f"{run_path}/events can't be read: {error.strerror}", hint="Run this as root.") from None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)  # others who count
        state = _counted(run_path / "metrics.json", descriptor)
    finally:
        os.close(descriptor)
    return node_text(state)


def _counted(file: Path, events: int) -> State:
    from enroot_slurm.housekeeping.metrics import State as Sums  # noqa: PLC0415

    saved, position = b"", 0
    with suppress(OSError, ValueError, TypeError, LookupError, AttributeError):
        with file.open("rb") as stream:
            saved = stream.read(_MAX_STATE)
        position = int(json.loads(saved)["position"])
    size = os.fstat(events).st_size
    position = position if 0 <= position <= size else 0
    state = Sums.parse(saved)
    while content := os.pread(events, _MOST, position):
        content = content[: content.rfind(b"\n") + 1]  # the last line may come just now
        if not content:
            break
        state = Sums(*_apart(saved, content))
        position += len(content)
        saved = json.dumps({**state._asdict(), "position": position}).encode()
        _write(file, saved, 0o600)
    if position == size >= _MOST:  # what is appended in between is lost: better than a file that only grows
        os.ftruncate(events, 0)
        _write(file, json.dumps({**state._asdict(), "position": 0}).encode(), 0o600)
    return state


def _apart(saved: bytes, content: bytes) -> tuple[dict[str, float], list[str]]:
    """Count in a child that is not root: users can have written the events."""
    from enroot_slurm.housekeeping.metrics import State as Sums  # noqa: PLC0415
    from enroot_slurm.housekeeping.metrics import count  # noqa: PLC0415
    from enroot_slurm.system import privilege  # noqa: PLC0415
    from enroot_slurm.system.privilege import Identity  # noqa: PLC0415

    def work() -> State:
        return count(Sums.parse(saved), content)

    nobody = Identity("nobody", 65534, 65534, (), "/")
    sums, hosts = work() if os.geteuid() else privilege.run(work, nobody, deadline=60)
    return sums, hosts


def _write(path: Path, content: bytes, mode: int) -> None:
    """Write *path* complete or not at all.  Raises: StorageError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")  # node_exporter reads *.prom only
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
            temporary.replace(path)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise StorageError(f"{path} can't be written: {error.strerror}") from None
