"""Leases: which images the jobs of which nodes use, so that none of these is collected.

    ROOT/jobs/JOBID.RESTART/NODE.KEY.lease         KEY is a hash of the image's path below ROOT
    ROOT/jobs/JOBID.RESTART/NODE~STEP.KEY.lease    likewise, of one step
    ROOT/visitors/JOBID.RESTART~NODE~STEP.KEY.lease    likewise, by a user who can't write to the rest of the cache

A lease is an empty file: its name says all, so one call makes it, and nobody ever finds half of it.  (Those of earlier
versions have content, which is not read.)  It ends when its step or its node releases it, or when the job is not active
any more (`enroot_slurm.housekeeping.keeper`).  Everybody can write to ``visitors``, as to /tmp, and nobody but the
cache's owner can list it: what is there keeps an image for as long as some job lasts, and no more.

On a shared file system, each node of each job pays for each call.  So directories are made when they are missed, and
``visitors``, which has names of all jobs, is listed for those only that may be there.
"""

from __future__ import annotations

import contextlib
import os
import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.job_tags import check_job
from enroot_slurm.cache.last_use import used
from enroot_slurm.cache.layout import kind_of
from enroot_slurm.cache.tree import Tree
from enroot_slurm.errors import UsageError, printable
from enroot_slurm.oci.digest import hash_of_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from enroot_slurm.cache.tree import CacheFile

__all__ = ["Lease", "Leases", "lease_key", "leased_keys", "leases_of", "open_to_visitors"]

_NODE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,150}", re.ASCII)
_KEY_LENGTH = 32
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
    """The leases of the cache *root*, which this process' user may write, or read only.

    *public* is as for `CacheDirectory`.
    """

    def __init__(self, root: Path, *, public: bool = False) -> None:
        self._root = root
        self._public = public

    def lease(self, image: Path, job: str, node: str, step: str = "") -> Path:
        """Keep the cached *image* (a path) until *job* (``JOBID.RESTART``), or its *step*, ends on *node*.

        Again makes no difference.  The file that does it.

        Raises: UsageError; FileNotFoundError, when the image has just been collected: get it again; OSError.
        """
        name = _relative(self._root, image)
        path = self._root / "jobs" / _checked_job(job) / f"{_holder_of(node, step)}.{lease_key(name)}.lease"
        for attempt in range(_ATTEMPTS):
            try:
                if attempt:
                    CacheDirectory(self._root, self._public).directory("jobs", job)
                _make(path)
                break
            except FileNotFoundError:
                if attempt == _ATTEMPTS - 1:
                    raise
        _find(image)
        used(image)
        return path

    def visit(self, image: Path, job: str, node: str, step: str = "") -> Path:
        """Like `lease`, by a user who may only read the cache."""
        name = _relative(self._root, image)
        path = self._root / _VISITORS / f"{_checked_job(job)}~{_holder_of(node, step)}.{lease_key(name)}.lease"
        _make(path)
        _find(image)
        return path

    def release(self, job: str, node: str, *, visits: bool = True) -> int:
        """End what *job* and its steps have leased on *node*; how many leases that were.

        With the job's last lease goes all else that is kept for it.  Without *visits*, those are not looked for.

        Raises: UsageError, OSError.
        """
        directory = f"jobs/{_checked_job(job)}"
        _checked_node(node)
        with Tree(self._root) as tree:
            count = _end(tree, _VISITORS, job, node) if visits else 0
            count += _end(tree, directory, job, node)
            # Only now: of nodes that end together, each would else take the other's lease for one that stays.
            left = [f"{directory}/{name}" for name in tree.names(directory)]
            if not any(kind_of(path) == "lease" for path in left):
                for path in left:
                    if kind_of(path) in {"record", "temporary"}:
                        tree.unlink(path)
                tree.remove_directory(directory)
        return count


def leased_keys(tree: Tree) -> set[str]:
    """The keys (`lease_key`) of all images of the cache *tree* that have a lease."""
    jobs = (f"jobs/{job}" for job in tree.names("jobs"))
    # Each is another directory than the one before, so none of them is what the tree has kept open.
    paths = [f"{job}/{name}" for job in jobs for name in tree.names(job)]
    # Everybody can put something there that is no file, and would never be collected.
    paths += [entry.path for entry in tree.entries(_VISITORS)]
    return {path.rsplit(".", 2)[1] for path in paths if _holder(path)}


def _end(tree: Tree, directory: str, job: str, node: str) -> int:
    """Remove what *job* has leased on *node* from the *directory*; how many leases that were."""
    # By their names: a job of 1,000 nodes would else have each file looked at by each of them.
    paths = [f"{directory}/{name}" for name in tree.names(directory) if name.startswith((node, f"{job}~{node}"))]
    return sum(tree.unlink(path) for path in paths if (holder := _holder(path)) and holder[:2] == (job, node))


def leases_of(entries: Iterable[CacheFile], images: Iterable[str]) -> Iterator[Lease]:
    """The leases among *entries* of the *images* (paths below the cache); others keep nothing that is there."""
    known = {lease_key(image): image for image in images}
    for entry in entries:
        holder, image = _holder(entry.path), known.get(entry.name.rsplit(".", 2)[-2])
        if holder and image:
            yield Lease(*holder, image, entry.mtime, entry)


def _make(path: Path) -> None:
    """Make the empty file *path*, unless it is there.  Raises: OSError."""
    with contextlib.suppress(FileExistsError):
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o444))


def _find(image: Path) -> None:
    """Look whether the *image*, which has a lease now, is still there.  Raises: FileNotFoundError; OSError.

    The collector looks at leases once it has taken the name away.  The file is opened, since clients of NFS may answer
    for its status themselves, with what they were told up to a minute before.
    """
    os.close(os.open(image, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY))


def _holder(path: str) -> tuple[str, str, str] | None:
    """The job, the node and the step whose lease the file *path* is, or None."""
    kind, (directory, _, name) = kind_of(path), path.rpartition("/")
    name = name.rsplit(".", 2)[0]
    if kind == "lease":
        name = f"{directory.rpartition('/')[2]}~{name}"
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
