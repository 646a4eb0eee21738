"""Leases: which images the jobs of which nodes use, so that none of these is collected.

    ROOT/jobs/JOBID.RESTART/NODE.KEY.lease         JSON: the image's path below ROOT; KEY is a hash of that path
    ROOT/jobs/JOBID.RESTART/NODE~STEP.KEY.lease    likewise, of one step
    ROOT/visitors/JOBID.RESTART~NODE~STEP.KEY.lease    likewise, by a user who can't write to the rest of the cache

A lease is a file that appears complete and is never changed.  It ends when its step or its node releases it, or when
the job is not active any more (`enroot_slurm.housekeeping.keeper`).  Everybody can write to ``visitors``, as to /tmp,
and nobody but the cache's owner can list it: what is there keeps an image for as long as some job lasts, and no more.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import stat
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.job_tags import check_job
from enroot_slurm.cache.last_use import used
from enroot_slurm.cache.layout import kind_of
from enroot_slurm.cache.tree import Tree
from enroot_slurm.errors import UsageError, printable
from enroot_slurm.oci.digest import hash_of_text

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enroot_slurm.cache.tree import CacheFile

__all__ = ["Lease", "Leases", "lease_key", "leased_keys", "leases_of", "open_to_visitors"]

_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}", re.ASCII)
_KEY_LENGTH = 32
_MAX_LEASE = 4096
_VISITORS = "visitors"
_ATTEMPTS = 100  # to write into a directory that others, who release their last lease, remove


class Lease(NamedTuple):
    """A job's use of an image on a node."""

    job: str
    """``JOBID.RESTART``."""
    node: str
    step: str
    """Empty: the whole job's."""
    image: str
    """The image's path below the cache."""
    since: float
    """Seconds since 1970."""
    entry: CacheFile
    """The file."""


def lease_key(image: str) -> str:
    """The word for the *image*, a path below the cache, in the names of its leases."""
    return hash_of_text(image, _KEY_LENGTH)


def open_to_visitors(place: CacheDirectory) -> None:
    """Let users lease images of the site's cache *place*, which is this process' own.  Raises: OSError."""
    path = place.root / _VISITORS
    if not path.is_dir():
        place.directory(_VISITORS).chmod(0o1733)  # who is here is nobody else's business


class Leases:
    """The leases of the cache *root*, which this process' user may write, or read only."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def lease(self, image: Path, job: str, node: str, step: str = "") -> Path:
        """Keep the cached *image* (a path) until *job* (``JOBID.RESTART``), or its *step*, ends on *node*.

        Again makes no difference.  The file that does it.

        Raises: UsageError; FileNotFoundError, when the image has just been collected: get it again; OSError.
        """
        name = _relative(self._root, image)
        status = self._root.stat()
        place = CacheDirectory(self._root, public=bool(status.st_mode & stat.S_IROTH), job=_checked_job(job))
        content = json.dumps({"image": name}).encode() + b"\n"
        if place.public:
            open_to_visitors(place)
        path = self._root / "jobs" / job / f"{_holder_of(node, step)}.{lease_key(name)}.lease"
        for attempt in range(_ATTEMPTS):
            try:
                place.directory("jobs", job)
                place.write(path, content, replace=False)
                break
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        # After the lease: the collector looks at leases once it has taken the name away (see `gc`).
        image.lstat()
        used(image)
        return path

    def visit(self, image: Path, job: str, node: str, step: str = "") -> Path:
        """Like `lease`, by a user who may only read the cache."""
        name = _relative(self._root, image)
        path = self._root / _VISITORS / f"{_checked_job(job)}~{_holder_of(node, step)}.{lease_key(name)}.lease"
        # Written at once and in place, for this user could not replace what is there; it is complete or is no lease.
        with contextlib.suppress(FileExistsError):
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            descriptor = os.open(path, flags, 0o600)
            try:
                os.write(descriptor, json.dumps({"image": name}).encode() + b"\n")
                os.fchmod(descriptor, 0o444)
            finally:
                os.close(descriptor)
        image.lstat()
        return path

    def release(self, job: str, node: str) -> int:
        """End what *job* and its steps have leased on *node*; how many leases that were.

        With the job's last lease goes all else that is kept for it.  Raises: UsageError, OSError.
        """
        directory, count = f"jobs/{_checked_job(job)}", 0
        _checked_node(node)
        with Tree(self._root) as tree:
            own = (*tree.entries(directory, (f"{node}.", f"{node}~")), *tree.entries(_VISITORS, (f"{job}~{node}",)))
            for entry in own:
                if (holder := _holder(entry)) and holder[:2] == (job, node):
                    count += tree.remove(entry)
            # Only now: of nodes that end together, each would else take the other's lease for one that stays.
            # From their names: a job of 1,000 nodes would else have each file looked at by each of them.
            if not any(kind_of(f"{directory}/{name}") == "lease" for name in tree.names(directory)):
                for entry in list(tree.entries(directory)):
                    if kind_of(entry.path) in {"record", "temporary"}:
                        tree.remove(entry)
                tree.remove_directory(directory)
        return count


def leased_keys(tree: Tree) -> set[str]:
    """The keys (`lease_key`) of all images of the cache *tree* that have a lease, from the names of files alone."""
    directories = (_VISITORS, *(f"jobs/{job}" for job in tree.names("jobs")))
    names = (name for directory in directories for name in tree.names(directory))
    return {name.rsplit(".", 2)[1] for name in names if name.endswith(".lease") and name.count(".") > 1}


def leases_of(tree: Tree, entries: Iterator[CacheFile]) -> Iterator[Lease]:
    """The leases among *entries*."""
    for entry in entries:
        holder = _holder(entry)
        if holder is None:
            continue
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            image = json.loads(tree.read(entry, _MAX_LEASE))["image"]
            # A lease whose name does not fit its content would not be found by the name.
            if isinstance(image, str) and entry.path.endswith(f".{lease_key(image)}.lease"):
                yield Lease(*holder, image, entry.mtime, entry)


def _holder(entry: CacheFile) -> tuple[str, str, str] | None:
    """The job, the node and the step whose lease the file is, or None."""
    kind, name = kind_of(entry.path), entry.name.rsplit(".", 2)[0]
    if kind == "lease":
        name = f"{entry.path.split('/')[1]}~{name}"
    elif kind != "visit":
        return None
    job, node, *step = name.split("~")
    return job, node, "".join(step)


def _holder_of(node: str, step: str) -> str:
    return f"{_checked_node(node)}~{_checked_node(step)}" if step else _checked_node(node)


def _relative(root: Path, image: Path) -> str:
    try:
        name = image.relative_to(root).as_posix()
    except ValueError:
        name = ""
    if kind_of(name) != "image":
        raise UsageError(f"not an image of the cache {root}: {printable(os.fspath(image), 200)}")
    return name


def _checked_job(job: str) -> str:
    if not check_job(job):
        raise UsageError("a lease needs a job", hint="Expected JOBID.RESTART, such as 1234.0.")
    return job


def _checked_node(node: str) -> str:
    if not _NODE.fullmatch(node):
        raise UsageError(f"not the name of a node: {printable(node, 60)!r}")
    return node
