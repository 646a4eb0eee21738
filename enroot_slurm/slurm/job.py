"""The job that a hook or a step works for, as Slurm's environment describes it.

Sources: slurm.conf(5) and prolog_epilog.html (the node prolog's variables), sbatch(1) and srun(1) (a step's).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["Job"]

_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}", re.ASCII)
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]{0,255}\$?", re.ASCII)


class Job(NamedTuple):
    """A job on this node.  A task of an array, and a component of a heterogeneous job, is a job of its own."""

    id: int
    restart: int
    """How often the job was requeued before."""
    uid: int
    gid: int
    user: str
    """The login name; empty if Slurm does not tell."""
    node: str
    """Slurm's name of this node."""

    @property
    def key(self) -> str:
        """The key of a job's state: a requeued job keeps its number, and its first prolog may still run beside it."""
        return f"{self.id}.{self.restart}"

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Job:
        """The job of a prolog, an epilog or a step with this environment.

        Raises: UsageError, when a variable is missing or not of its form.
        """
        return cls(
            _number(environ, "SLURM_JOB_ID", "SLURM_JOBID"),
            # the prolog's name, and the step's, where it is missing the first time
            _number(environ, "SLURM_JOB_RESTART_COUNT", "SLURM_RESTART_COUNT", default=0),
            _number(environ, "SLURM_JOB_UID", default=os.getuid()),
            _number(environ, "SLURM_JOB_GID", default=os.getgid()),
            _name(environ, "SLURM_JOB_USER"),
            _name(environ, "SLURMD_NODENAME") or os.uname().nodename,
        )


def _number(environ: Mapping[str, str], *names: str, default: int | None = None) -> int:
    for name in names:
        text = environ.get(name, "")
        if text and not _NUMBER.fullmatch(text):
            raise UsageError(f"{name} is not a number: {printable(text, 40)}")
        if text:
            return int(text)
    if default is None:
        raise UsageError(f"{names[0]} is not set", hint="This works in Slurm's prologs, epilogs and steps only.")
    return default


def _name(environ: Mapping[str, str], variable: str) -> str:
    text = environ.get(variable, "")
    if text and not _NAME.fullmatch(text):
        raise UsageError(f"{variable} is not a name: {printable(text, 40)}")
    return text
