"""The digests of a job's images in Slurm's database: `record_in: admincomment` appends them to the job's AdminComment.

    sacct -j 17 -o AdminComment            enroot=sha256:...[,sha256:...]

Only Slurm's own user may write that, so a child of the prolog becomes that user; it runs scontrol and nothing else.
One node of a job does it: the first one.  Source: scontrol(1), AdminComment.
"""

from __future__ import annotations

import re
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError, EnrootSlurmError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.slurm.log import WARNING, log
from enroot_slurm.slurm.squeue import run_slurm
from enroot_slurm.system.privilege import Identity, fork

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enroot_slurm.slurm.job import Job
    from enroot_slurm.slurm.job_record import Writer

__all__ = ["AdminComment"]

_MAX_COMMENT = 1024
_SLURM_USER = re.compile(r"^[ \t]*SlurmUser[ \t]*=[ \t]*([A-Za-z0-9_.-]+)", re.MULTILINE | re.IGNORECASE)
_FIRST = re.compile(r"([^\[\],]+)(?:\[([0-9]+)[^\]]*\])?(?:,|$)")
_OLD = re.compile(r"^ +AdminComment=(.*)$", re.MULTILINE)


class AdminComment:
    """The AdminComment of *job*; *environ* is the prolog's environment."""

    def __init__(self, job: Job, environ: Mapping[str, str]) -> None:
        self._job = job
        self._conf = environ.get("SLURM_CONF") or "/etc/slurm/slurm.conf"
        self._is_first = _is_first(job.node, environ.get("SLURM_JOB_NODELIST") or environ.get("SLURM_NODELIST", ""))

    def note(self, record: Writer) -> None:
        """Let a child append the digests of the *record*; nobody waits for it.  For root."""
        if not self._is_first:
            return
        try:
            user = _slurm_user(self._conf)
            identity = None if user == "root" else Identity.of(user)
        except (ConfigError, OSError) as error:
            log("admincomment", WARNING, job=self._job.key, error=f"SlurmUser is not known: {error}")
            return
        fork(partial(self._append, record), identity, keep=(record.descriptor,), detached=True)

    def _append(self, record: Writer) -> int:
        job = self._job
        try:
            if digests := _digests(record):
                _update(job.id, f"enroot={','.join(digests)}", self._conf)
        except EnrootSlurmError as error:
            log("admincomment", WARNING, job=job.key, error=error)
            return error.exit_code
        return 0


def _digests(record: Writer) -> list[str]:
    """The digests, each once, in their order; the job's user may have written into the record."""
    found: dict[str, None] = {}
    for text in record.digests():
        with suppress(EnrootSlurmError):
            found[str(Digest.parse(text))] = None
    return list(found)


def _update(job: int, addition: str, conf: str) -> None:
    """Append *addition*, behind a blank, unless it is there.  Raises: EnrootSlurmError."""
    match = _OLD.search(_scontrol(conf, "show", "job", str(job)))
    old = match[1].strip() if match else ""
    old = "" if old == "(null)" else old
    if addition in old:
        return
    new = f"{old} {addition}".strip()
    if len(new) > _MAX_COMMENT:
        raise EnrootSlurmError(f"its AdminComment would be longer than {_MAX_COMMENT} characters")
    _scontrol(conf, "update", f"jobid={job}", f"admincomment={new}")


def _scontrol(conf: str, *words: str) -> str:
    """The output of scontrol.  Raises: EnrootSlurmError."""
    output = run_slurm("scontrol", *words, conf=conf)
    if isinstance(output, str):
        raise EnrootSlurmError(output)
    return output.decode(errors="replace")


def _slurm_user(conf: str) -> str:
    """The user that slurmctld runs as.  Raises: OSError."""
    found = _SLURM_USER.findall(Path(conf).read_text(errors="replace"))
    return found[-1] if found else "root"


def _is_first(node: str, nodes: str) -> bool:
    """Whether *node* is the first of the list *nodes*; True where the list can't be understood."""
    match = _FIRST.match(nodes)
    return match is None or match[1] + (match[2] or "") == node
