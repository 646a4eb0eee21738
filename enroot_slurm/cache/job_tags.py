"""The tags that a job has resolved: a tag is asked for once per job, and all its nodes use that answer.

ROOT/jobs/JOBID.RESTART/resolved-HASH.json    the manifest of one reference for one platform
ROOT/tags/HASH.json                           the last answer to any job, and its time
"""

from __future__ import annotations

import contextlib
import json
import re
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.trust import Untrusted, read_trusted
from enroot_slurm.errors import IntegrityError, UsageError, printable
from enroot_slurm.oci.digest import Digest, hash_of_text

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["LastTag", "check_job", "key_of", "read_resolved", "read_tag", "write_resolved", "write_tag"]

_JOB = re.compile(r"[0-9]{1,19}(?:\.[0-9]{1,9})?", re.ASCII)
_MAX_RECORD = 4096


def check_job(job: str) -> str:
    """*job*, which is empty or ``JOBID.RESTART``: it becomes a part of paths.  Raises: UsageError."""
    if job and not _JOB.fullmatch(job):
        raise UsageError(f"not a job: {printable(job, 60)!r}", hint="Expected JOBID.RESTART, such as 1234.0.")
    return job


def key_of(reference: str, platform: str) -> str:
    """The name, as a part of paths, of *reference* (with its login) for *platform*."""
    return hash_of_text(f"{reference}\n{platform}", 32)


def read_resolved(root: Path, job: str, key: str, owners: set[int]) -> Digest | None:
    """The digest that *job* has resolved *key* to."""
    with contextlib.suppress(OSError, Untrusted, ValueError, LookupError, TypeError, IntegrityError):
        return Digest.parse(json.loads(read_trusted(_path(root, job, key), owners, _MAX_RECORD))["digest"])
    return None


def write_resolved(place: CacheDirectory, key: str, uri: str, digest: Digest) -> Digest:
    """Let the job of *place* use *digest*, unless another process was faster; the digest that it uses.

    Others may read it, so *uri* has no login.  A cache that can't be written is no reason to fail.
    """
    with contextlib.suppress(OSError):
        place.directory("jobs", place.job)
        path = _path(place.root, place.job, key)
        content = json.dumps({"uri": uri, "digest": str(digest)}).encode()
        if not place.write(path, content, replace=False):
            return read_resolved(place.root, place.job, key, {path.lstat().st_uid}) or digest
    return digest


class LastTag(NamedTuple):
    """The last answer for a tag."""

    digest: Digest
    time: float
    """Seconds since 1970."""
    carried: bool = False
    """Whether it was brought by hand from another cache, and no registry has said it here."""


def read_tag(root: Path, key: str, owners: set[int]) -> LastTag | None:
    """The last answer for *key*."""
    with contextlib.suppress(OSError, Untrusted, ValueError, LookupError, TypeError, IntegrityError):
        fields = json.loads(read_trusted(_tag_path(root, key), owners, _MAX_RECORD))
        return LastTag(Digest.parse(fields["digest"]), float(fields["time"]), fields.get("carried") is True)
    return None


def write_tag(place: CacheDirectory, key: str, digest: Digest, *, carried: bool = False) -> None:
    """Remember what *key* is resolved to now.  A cache that can't be written is no reason to fail."""
    with contextlib.suppress(OSError):
        place.directory("tags")
        fields = {"digest": str(digest), "time": int(time.time()), **({"carried": True} if carried else {})}
        place.write(_tag_path(place.root, key), json.dumps(fields).encode())


def _tag_path(root: Path, key: str) -> Path:
    return root / "tags" / f"{key}.json"


def _path(root: Path, job: str, key: str) -> Path:
    return root / "jobs" / job / f"resolved-{key}.json"
