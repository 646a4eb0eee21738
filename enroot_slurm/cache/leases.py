"""Leases: which images the jobs of which nodes use, so that none of these is collected.

    ROOT/jobs/JOBID.RESTART/NODE.KEY.lease    JSON: the image's path below ROOT; KEY is a hash of that path

A lease is a file that appears complete and is never changed.  It ends when its node releases it, or when Slurm does
not know the job any more (`enroot_slurm.housekeeping.keeper`).
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

__all__ = ["Lease", "Leases", "lease_key", "leased_keys", "leases_of"]

_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}", re.ASCII)
_KEY_LENGTH = 32
_MAX_LEASE = 4096
_ATTEMPTS = 10  # to write into a directory that others, who release their last lease, remove


class Lease(NamedTuple):
    """A job's use of an image on a node."""

    job: str
    """``JOBID.RESTART``."""
    node: str
    image: str
    """The image's path below the cache."""
    since: float
    """Seconds since 1970."""
    entry: CacheFile
    """The file."""


def lease_key(image: str) -> str:
    """What stands for the *image*, a path below the cache, in the names of its leases."""
    return hash_of_text(image, _KEY_LENGTH)


class Leases:
    """The leases of the cache *root*, which this process' user may write, or read only."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def lease(self, image: Path, job: str, node: str) -> None:
        """Keep the cached *image* (a path) until *job* (``JOBID.RESTART``) ends on *node*; again makes no difference.

        Raises: UsageError; FileNotFoundError, when the image has just been collected: get it again; OSError.
        """
        name = _relative(self._root, image)
        status = self._root.stat()
        place = CacheDirectory(self._root, public=bool(status.st_mode & stat.S_IROTH), job=_checked_job(job))
        content = json.dumps({"image": name}).encode() + b"\n"
        path = self._root / "jobs" / job / f"{_checked_node(node)}.{lease_key(name)}.lease"
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

    def release(self, job: str, node: str) -> int:
        """End what *job* has leased on *node*; how many leases that were.

        With the job's last lease goes all else that is kept for it.  Raises: UsageError, OSError.
        """
        prefix, count = f"jobs/{_checked_job(job)}/", 0
        _checked_node(node)
        with Tree(self._root) as tree:
            others = False
            entries = list(tree.entries(f"jobs/{job}"))
            for entry in entries:
                holder = _holder(entry)
                if holder == node:
                    count += tree.remove(entry)
                others = others or (holder is not None and holder != node)
            if not others:
                for entry in entries:
                    if kind_of(entry.path) in {"record", "temporary"}:
                        tree.remove(entry)
                tree.remove_directory(prefix[:-1])
        return count

    def all(self) -> Iterator[Lease]:
        """All leases that can be understood."""
        with Tree(self._root) as tree:
            yield from leases_of(tree, tree.entries("jobs"))


def leased_keys(tree: Tree) -> set[str]:
    """The keys (`lease_key`) of all images of the cache *tree* that have a lease, from the names of files alone."""
    names = (name for job in tree.names("jobs") for name in tree.names(f"jobs/{job}"))
    return {name.rsplit(".", 2)[1] for name in names if name.endswith(".lease") and name.count(".") > 1}


def leases_of(tree: Tree, entries: Iterator[CacheFile]) -> Iterator[Lease]:
    """The leases among *entries*."""
    for entry in entries:
        node = _holder(entry)
        if node is None:
            continue
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            image = json.loads(tree.read(entry, _MAX_LEASE))["image"]
            # A lease whose name does not fit its content would not be found by the name.
            if isinstance(image, str) and entry.path.endswith(f".{lease_key(image)}.lease"):
                yield Lease(entry.path.split("/")[1], node, image, entry.mtime, entry)


def _holder(entry: CacheFile) -> str | None:
    """The node whose lease the file is, or None."""
    if kind_of(entry.path) != "lease":
        return None
    return entry.name.rsplit(".", 2)[0]


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
