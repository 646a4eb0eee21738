"""Collects garbage: the kinds of files, their order, and the files that always stay.

1. Files that killed processes have left: old enough, their lock free, and no process alive that could write them.
2. Files of jobs that are not active any more: leases, records, the locks of their references.
3. Halves of pairs, images that differ from the published ones, old failures.
4. Entries that nobody has used for the maximum age.
5. Above the high watermark: the least recently used, blobs before layers before images, down to the low watermark.

Never: leased and pinned images, entries that were used a moment ago, entries that a process works on (their lock is
held), and files whose names or kinds are not ours.  An image loses its name first, then leases are looked at once more.
A process that leases an image and then still finds it under its name keeps it (`leases.Leases.lease`).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
from itertools import accumulate
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.layout import locks_of, maker_of
from enroot_slurm.cache.leases import lease_key, leased_keys
from enroot_slurm.cache.pins import pin_of
from enroot_slurm.cache.tree import Tree
from enroot_slurm.housekeeping.inventory import KINDS, inventory

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.cache.locks import Locks
    from enroot_slurm.cache.tree import CacheFile
    from enroot_slurm.housekeeping.inventory import Inventory, Item

__all__ = ["IDLE", "Collector", "CollectorLimits", "Removed", "Report", "excess"]

IDLE = 3600.0
"""Seconds for which everything stays after it was used."""
_SILENT = 300.0  # seconds without a write after which a file may be an orphan, or of use to nobody
_ABANDONED = 86400.0  # and after which it is one even where locks say nothing
_REMEMBERED = 30 * 86400.0  # and where a tag led to last
_MAX_WARNINGS = 20
_BATCH = 200  # things that are taken at once: each has a lock, which is an open file
_REFERENCE = re.compile(r"locks/reference-([0-9.]+)-[0-9a-f]{32}\.lock", re.ASCII)


class CollectorLimits(NamedTuple):
    """When something is collected that could still be of use."""

    high: float = 0
    """If the cache is above this, it is collected until it is below *low*: bytes, or a share of the file system if
    not above 1; 0: it may grow."""
    low: float = 0
    max_age: float = 0
    """Seconds; 0: any age."""
    idle: float = IDLE
    """Seconds for which everything stays after its last use; what is new stays for some minutes even so."""


class Removed(NamedTuple):
    """Something that was removed."""

    kind: str
    path: str
    """Relative to the cache."""
    size: int
    used: float
    reason: str


class Report(NamedTuple):
    """The result of a collection, or of a dry run."""

    removed: tuple[Removed, ...]
    busy: int
    """How many things were to go, but somebody works on them or has begun to use them."""
    size: int
    """Bytes of the cache before."""
    above: int
    """Bytes above the low watermark that could not be freed."""
    warnings: tuple[str, ...]
    dry_run: bool

    @property
    def freed(self) -> int:
        """Bytes."""
        return sum(each.size for each in self.removed)


def excess(limits: CollectorLimits, size: int, file_system: os.statvfs_result, freed: int = 0) -> int:
    """How many bytes must go from a cache of *size* bytes: none, unless it is above the high watermark.

    *freed* bytes are already counted as gone.  A share is of the space available to users, as df(1) shows it.
    """
    if not limits.high:
        return 0
    if limits.high > 1:
        return max(0, size - freed - int(limits.low)) if size - freed > limits.high else 0
    used = -freed + (file_system.f_blocks - file_system.f_bfree) * file_system.f_frsize
    capacity = used + freed + file_system.f_bavail * file_system.f_frsize
    return max(0, used - int(limits.low * capacity)) if used > limits.high * capacity else 0


class Collector:
    """One collection of the cache *place*; with *dry_run*, nothing is written or removed.

    jobs  is called once at most, and says which jobs are active by their numbers, or why that is not known
    """

    def __init__(
        self,
        place: CacheDirectory,
        locks: Locks,
        *,
        jobs: Callable[[], frozenset[int] | str],
        dry_run: bool = False,
    ) -> None:
        self._place = place
        self._locks = locks
        self._jobs = jobs
        self._dry_run = dry_run
        self._removed: list[Removed] = []
        self._busy = 0
        self._warnings: list[str] = []

    def run(self, limits: CollectorLimits) -> Report:
        """Collect.  Raises: OSError."""
        found = inventory(self._place.root)
        with Tree(self._place.root) as self._tree:
            self._orphans(found)
            gone = self._gone_jobs(found)
            self._notes(found)
            items = [
                item._replace(leases=tuple(each for each in item.leases if each.job not in gone))
                for item in found.items
            ]
            items = [item for item in items if not item.kept]
            self._leftovers(found, items)
            idle = [item for item in items if item.complete and _is_idle(item, found.time, limits)]
            idle.sort(key=lambda item: (KINDS.index(item.kind), item.used, item.path))
            above = self._aged(found, idle, limits)
        return Report(tuple(self._removed), self._busy, found.size, above, tuple(self._warnings), self._dry_run)

    # What is of no use to anybody.

    def _orphans(self, found: Inventory) -> None:
        beating = {locks_of(e.path)[0] for e in found.notes if locks_of(e.path) and found.time - e.mtime < _SILENT}
        names = [entry.name.removesuffix(".lock") for entry in found.locks]
        for entry in found.temporaries:
            age = found.time - entry.mtime
            if age < _SILENT or (age < _ABANDONED and (not self._locks.enabled or _lives(entry.name))):
                continue
            locks = [name for name in names if name.startswith(tuple(locks_of(entry.path)) or ("\0",))]
            if not beating.intersection(locks) and not any(map(self._is_held, locks)):
                self._remove([entry], "temporary", "left by a process that has ended")

    def _gone_jobs(self, found: Inventory) -> set[str]:
        """The jobs that have gone, and with them what was kept for them."""
        kept = {job: list(entries) for job, entries in found.jobs.items()}
        for entry in found.locks:
            if match := _REFERENCE.fullmatch(entry.path):
                kept.setdefault(match[1], []).append(entry)
        old = {job for job, files in kept.items() if all(found.time - file.mtime >= _SILENT for file in files)}
        if not old:
            return set()
        known = self._jobs()
        if isinstance(known, str):
            if any(job in found.jobs for job in old):
                self._warnings.append(f"what jobs have leased stays, for {known}")
            return set()
        gone = {job for job in old if int(job.partition(".")[0]) not in known}
        for job in sorted(gone):
            self._remove(kept[job], "job", "the job is not active any more")
            if not self._dry_run:
                self._tree.remove_directory(f"jobs/{job}")
        return gone

    def _notes(self, found: Inventory) -> None:
        for entry in found.notes:
            is_status = entry.path.endswith(".holder")
            lasting = _REMEMBERED if entry.path.startswith("tags/") else _ABANDONED
            if found.time - entry.mtime < (_SILENT if is_status else lasting):
                continue
            if not is_status or not self._is_held(locks_of(entry.path)[0]):
                self._remove([entry], "note", "out of date")

    def _leftovers(self, found: Inventory, items: Iterable[Item]) -> None:
        old = [i for i in items if not i.complete and all(found.time - file.mtime >= _SILENT for file in i.files)]
        self._collect(old, "incomplete, or not what was published")

    # What could be of use.

    def _aged(self, found: Inventory, idle: list[Item], limits: CollectorLimits) -> int:
        """Collect what is too old, then what is too much; how many bytes are too much still."""
        aged = dict.fromkeys(item for item in idle if limits.max_age and found.time - item.used >= limits.max_age)
        self._collect(list(aged), "not used for the maximum age")
        if not limits.high or not found.size:
            return 0
        freed = sum(each.size for each in self._removed)
        file_system = os.statvfs(self._place.root)
        if limits.high > 1 or self._dry_run:
            above = excess(limits, found.size, file_system, freed)
        else:
            above = excess(limits, found.size, file_system)  # which knows what has gone
        left = [item for item in idle if item.kind != "manifest" and item not in aged]
        while above > 0 and left:
            least = next((n for n, size in enumerate(accumulate(item.size for item in left), 1) if size >= above), None)
            above -= self._collect(left[:least], "above the high watermark")
            left = left[least:] if least else []
        return max(0, above)

    def _collect(self, items: Sequence[Item], reason: str) -> int:
        """Remove the *items* that nobody works on, and that were not used since they were listed; the bytes freed."""
        freed = 0
        for begin in range(0, len(items), _BATCH):
            batch = items[begin : begin + _BATCH]
            taken = self._would_take(batch) if self._dry_run else self._take(batch)
            for item in taken:
                self._removed.append(Removed(item.kind, item.path, item.size, item.used, reason))
                freed += item.size
            self._busy += len(batch) - len(taken)
        return freed

    def _would_take(self, batch: Iterable[Item]) -> list[Item]:
        locks = ((item, next(iter(locks_of(item.path)), "")) for item in batch)
        return [item for item, name in locks if not name or not self._is_held(name)]

    def _take(self, batch: Sequence[Item]) -> list[Item]:
        """Remove the items of *batch* that may go; these.

        All images of the batch lose their names before the leases are looked at, once for all of them: there are far
        more leases than images.
        """
        taken: set[Item] = set()
        hidden: dict[Item, CacheFile] = {}
        with contextlib.ExitStack() as stack:
            stack.callback(self._show, hidden)  # whatever happens, the rest gets its names back
            for item in batch:
                name = next(iter(locks_of(item.path)), "")
                try:
                    if name and not stack.enter_context(self._locks.lock(name).attempt()):
                        continue
                    if not self._unchanged(item):
                        continue
                    if item.kind == "image" and item.files[0].path == item.path:
                        hidden[item] = self._hide(item.files[0])
                        continue
                    self._remove_all(item.files)
                except OSError as error:
                    self._failed(item.path, error)
                    continue
                taken.add(item)
            leased = leased_keys(self._tree) if hidden else set()
            for item, image in list(hidden.items()):
                if lease_key(item.path) in leased or self._tree.look(pin_of(item.path)) is not None:
                    continue
                try:
                    self._remove_all((image, *item.files[1:]))
                except OSError as error:
                    self._failed(item.path, error)
                    continue
                del hidden[item]
                taken.add(item)
        return [item for item in batch if item in taken]

    def _unchanged(self, item: Item) -> bool:
        for file in item.files:
            now = self._tree.look(file.path)
            if now is None or now.identity != file.identity:
                return False
            if file.path == item.path and now.atime > file.atime:
                return False
        return True

    def _hide(self, image: CacheFile) -> CacheFile:
        """Take the name of the *image* away: the file, under a private name."""
        directory, _, name = image.path.rpartition("/")
        private = f".{name.partition('-')[2][:12]}.{self._place.unique()}.tmp"
        self._tree.rename(image.path, private)
        return image._replace(path=f"{directory}/{private}")

    def _show(self, hidden: Mapping[Item, CacheFile]) -> None:
        """Give *hidden* images their names back, unless others have these meanwhile."""
        for item, image in hidden.items():
            with contextlib.suppress(OSError):
                if self._tree.look(item.path) is None:
                    self._tree.rename(image.path, item.path.rpartition("/")[2])
                else:
                    self._tree.remove(image)

    def _remove_all(self, files: Iterable[CacheFile]) -> None:
        for file in files:
            self._tree.remove(file)

    def _remove(self, entries: Iterable[CacheFile], kind: str, reason: str) -> None:
        for entry in entries:
            try:
                if self._dry_run or self._tree.remove(entry):
                    self._removed.append(Removed(kind, entry.path, entry.size, entry.mtime, reason))
            except OSError as error:
                self._failed(entry.path, error)

    def _failed(self, path: str, error: OSError) -> None:
        if len(self._warnings) < _MAX_WARNINGS:
            self._warnings.append(f"can't remove {path}: {error.strerror}")

    def _is_held(self, name: str) -> bool:
        """Whether some process holds the lock *name*; nothing is made to find out."""
        if not self._locks.enabled:
            return False
        entry = self._tree.look(f"locks/{name}.lock")
        if entry is None:
            return False
        try:
            fd = self._tree.open(entry)
        except OSError:
            return True
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False  # there are no locks here
        finally:
            os.close(fd)
        return False


def _is_idle(item: Item, now: float, limits: CollectorLimits) -> bool:
    """Whether nobody seems to need *item*.

    What an import misses it makes again, so that must stay for a while: else both could go on for ever.
    """
    return now - item.used >= limits.idle and all(now - file.mtime >= _SILENT for file in item.files)


def _lives(name: str) -> bool:
    """Whether the process that has made the temporary file *name* may live: one of this host with its number does."""
    pid = maker_of(name, os.uname().nodename)
    return pid is not None and os.path.lexists(f"/proc/{pid}")
