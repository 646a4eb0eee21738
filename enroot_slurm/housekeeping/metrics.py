"""Metrics for Prometheus, in its text format: sums of this node's events, and gauges of a cache.

    RUN_PATH/events          what has happened (`enroot_slurm.system.events`)
    RUN_PATH/metrics.json    sums of what has been read of it, and how far that was; root's (0600)

No label holds an image, a user or a job. Events may be forged by users, whose processes append them: what is read is
taken only if it is what we would have written, and root lets a child count (`enroot_slurm.commands.metrics`).

Source: Prometheus' "Exposition formats" and "Metric and label naming".
"""

from __future__ import annotations

import json
import os
import re
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.cache.hosts import all_notes
from enroot_slurm.cache.status import Holder
from enroot_slurm.housekeeping.inventory import KINDS, Inventory, inventory
from enroot_slurm.registry.tally import ANSWERS, PASSED
from enroot_slurm.slurm.account import DOORS, RESULTS
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from enroot_slurm.cache.tree import CacheFile
    from enroot_slurm.housekeeping.collector import CollectorLimits

__all__ = ["State", "cache_text", "count", "node_text"]

PREFIX = "enroot_slurm_"
BUCKETS = (1, 2, 5, 10, 30, 60, 120, 300, 600, 1800)
"""Seconds."""
_PHASES = {"total": "seconds", "wait": "wait", "resolve": "resolve", "download": "download", "convert": "convert"}
_MAX_HOSTS = 20
"""Whatever is asked for: each makes time series of its own; all others are "other"."""
_HOST = re.compile(r"[a-z0-9.-]{1,253}(?::[0-9]{1,5})?|\[[0-9a-f:.]{2,45}\](?::[0-9]{1,5})?", re.ASCII)
_MAX_NUMBER = 1e15
_SILENT = 60.0  # seconds
_SLOT, _IMAGE = "slot-", "image-"
_WAITS = "waiting"  # as phases of that kind begin
_HELP = {
    "imports_total": ("counter", "Images that were asked for, by what became of it and by who asked."),
    "import_seconds": (
        "histogram",
        "Time until an image was there that had to be imported, and of its phases; convert overlaps with download.",
    ),
    "downloaded_bytes_total": ("counter", "Bytes that came from registries; none for what a cache had."),
    "registry_requests_total": ("counter", "Requests for a registry or mirror, by its answer; error: there was none."),
    "mirror_fallbacks_total": (
        "counter",
        "How often a mirror was of no use, and the next one or the registry was asked.",
    ),
    "gc_removed_bytes_total": ("counter", "Bytes that collections have removed."),
    "gc_last_success_timestamp_seconds": ("gauge", "When garbage was collected last."),
    "prefetch_last_success_timestamp_seconds": ("gauge", "When all images of the list were there last."),
    "prefetch_failed": ("gauge", "Images of the list that could not be imported the last time."),
    "build_info": ("gauge", "The version, as a label."),
    "cache_bytes": ("gauge", "Size of what is in the cache, by kind."),
    "cache_objects": ("gauge", "Number of what is in the cache, by kind."),
    "cache_limit_bytes": ("gauge", "Where a collection begins to remove (high), and how far it goes (low)."),
    "cache_filesystem_free_bytes": ("gauge", "What is left for the cache on its file system."),
    "cache_leased_images": ("gauge", "Images in use by jobs."),
    "cache_pinned_images": ("gauge", "Images that are pinned."),
    "registry_ratelimit_remaining": ("gauge", "Pulls that a registry allows still, as it has said last."),
    "registry_held": ("gauge", "1 while nobody asks a registry, because it was asked too often."),
    "locks_held": ("gauge", "Locks that processes hold, on all nodes that share the cache."),
    "imports_running": ("gauge", "Imports that convert layers, on all nodes that share the cache."),
    "imports_waiting": ("gauge", "Imports that wait until their node may run more of them (max_imports)."),
    "cache_writing": ("gauge", "Files that are being written, or were when their process was killed."),
}


class State(NamedTuple):
    """Sums, by the name and labels of a metric: ``imports_total{door="prolog",result="ok"}``."""

    sums: dict[str, float]
    hosts: list[str]
    """That have a time series."""

    @classmethod
    def parse(cls, content: bytes) -> State:
        """The saved counters; none if they can't be understood: counters may begin anew."""
        with suppress(ValueError, TypeError, LookupError, AttributeError):
            fields = json.loads(content)
            sums = {str(name): float(value) for name, value in fields["sums"].items()}
            return cls(sums, [str(host) for host in fields["hosts"]])
        return cls({}, [])


def count(state: State, content: bytes) -> State:
    """*state* with the events in *content*, which are whole lines; what is no event of ours is left out."""
    sums, hosts = dict(state.sums), list(state.hosts)
    for line in content.splitlines():
        with suppress(ValueError, TypeError, LookupError, RecursionError):
            event = json.loads(line)
            for name, value, is_sum in [*_amounts(event, hosts)]:
                sums[name] = sums.get(name, 0) + value if is_sum else value
    return State(sums, hosts)


def node_text(state: State) -> str:
    """The metrics of this node."""
    return _text({**state.sums, _name("build_info", version=__version__): 1})


def cache_text(root: Path, limits: CollectorLimits) -> str:
    """The gauges of the cache *root*.  Raises: OSError."""
    found, space = inventory(root), os.statvfs(root)
    free, all_of_it = space.f_bavail * space.f_frsize, space.f_blocks * space.f_frsize
    values: dict[str, float] = {}
    for kind in KINDS:
        items = found.of(kind)
        values[_name("cache_bytes", kind=kind)] = sum(item.size for item in items)
        values[_name("cache_objects", kind=kind)] = len(items)
    for mark, limit in (("high", limits.high), ("low", limits.low)):
        if limit:
            values[_name("cache_limit_bytes", mark=mark)] = limit if limit > 1 else limit * all_of_it
    values[_name("cache_filesystem_free_bytes")] = free
    values[_name("cache_leased_images")] = sum(bool(image.leases) for image in found.images)
    values[_name("cache_pinned_images")] = sum(image.pinned for image in found.images)
    values[_name("cache_writing")] = len(found.temporaries)
    held = [root / note.path for note in found.notes if note.path.endswith(".holder") and _beats(found, note)]
    values[_name("locks_held")] = len(held)
    values |= dict(_limits(root))
    values[_name("imports_running")] = sum(path.name.startswith(_SLOT) for path in held)
    values[_name("imports_waiting")] = sum(path.name.startswith(_IMAGE) and _waits(path) for path in held)
    return _text(values)


def _limits(root: Path) -> Iterator[tuple[str, float]]:
    """What registries have said of their limits; the lowest number, where several logins have limits of their own."""
    hosts: list[str] = []
    lowest: dict[str, float] = {}
    for note in all_notes(root, "left"):
        with suppress(ValueError, LookupError):
            host, remaining = _known(note["host"], hosts), _number(note["remaining"])
            lowest[host] = min(remaining, lowest.get(host, remaining))
    for host, remaining in lowest.items():
        yield _name("registry_ratelimit_remaining", host=host), remaining
    held = {_known(note.get("host"), hosts) for note in all_notes(root, "held") if _is_ahead(note.get("until"))}
    for host in sorted(held | lowest.keys()):
        yield _name("registry_held", host=host), host in held


def _is_ahead(until: object) -> bool:
    return isinstance(until, int | float) and until > time.time()


def _beats(found: Inventory, note: CacheFile) -> bool:
    """Whether a holder's file has changed lately: one whose process was killed stays."""
    return found.time - note.mtime < _SILENT


def _waits(path: Path) -> bool:
    """Whether the holder of an image's lock waits for a slot: it has the lock before that."""
    holder = Holder.read(path)
    return holder is not None and holder.phase.startswith(_WAITS)


def _amounts(event: Mapping[str, Any], hosts: list[str]) -> Iterator[tuple[str, float, bool]]:
    """The sums that *event* changes, by how much, and whether that is added.  Raises: ValueError and the like."""
    kind, now = event["kind"], _number(event["time"])
    if kind == "import":
        door, result = event["door"], event["result"]
        if door not in DOORS or result not in RESULTS:
            raise ValueError("unknown words")
        phases = {phase: _number(event[key]) for phase, key in _PHASES.items() if key in event}
        if "total" not in phases:
            raise ValueError("no time")
        size, host = _number(event["bytes"]), _known(event["host"], hosts)
        yield _name("imports_total", door=door, result=result), 1, True
        yield _name("downloaded_bytes_total", host=host), size, True
        if result == "ok":
            for phase, seconds in phases.items():
                for bucket in BUCKETS:
                    yield _name("import_seconds_bucket", le=str(bucket), phase=phase), seconds <= bucket, True
                yield _name("import_seconds_bucket", le="+Inf", phase=phase), 1, True
                yield _name("import_seconds_sum", phase=phase), seconds, True
                yield _name("import_seconds_count", phase=phase), 1, True
    elif kind == "requests":
        host = _known(event["host"], hosts)
        for code in filter(event.__contains__, ANSWERS):
            yield _name("registry_requests_total", host=host, code=code), _number(event[code]), True
        if PASSED in event:
            yield _name("mirror_fallbacks_total", host=host), _number(event[PASSED]), True
    elif kind == "gc":
        yield _name("gc_removed_bytes_total"), _number(event["bytes"]), True
        yield _name("gc_last_success_timestamp_seconds"), now, False
    elif kind == "prefetch":
        failed = _number(event["failed"])
        yield _name("prefetch_failed"), failed, False
        if not failed:
            yield _name("prefetch_last_success_timestamp_seconds"), now, False


def _number(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < _MAX_NUMBER:
        raise ValueError("no number that we have written")
    return value


def _known(host: object, hosts: list[str]) -> str:
    """*host*, if it has a time series or gets one, else "other"."""
    if not isinstance(host, str) or not _HOST.fullmatch(host):
        return "other"
    if host not in hosts:
        if len(hosts) >= _MAX_HOSTS:
            return "other"
        hosts.append(host)
    return host


def _name(metric: str, **labels: str) -> str:
    words = ",".join(f'{name}="{value}"' for name, value in sorted(labels.items()))
    return f"{metric}{{{words}}}" if words else metric


def _text(values: Mapping[str, float]) -> str:
    """*values* as Prometheus reads them: each metric's lines together, in a fixed order."""
    lines = []
    for metric, (kind, text) in _HELP.items():
        names = {metric, *(f"{metric}_{end}" for end in ("bucket", "sum", "count") if kind == "histogram")}
        found = [(name, value) for name, value in values.items() if name.partition("{")[0] in names]
        if found:
            lines += [f"# HELP {PREFIX}{metric} {text}", f"# TYPE {PREFIX}{metric} {kind}"]
            lines += [f"{PREFIX}{name} {value:.17g}" for name, value in found]
    return "".join(f"{line}\n" for line in lines)
