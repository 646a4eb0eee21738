"""Which jobs are active: one call of ``squeue`` for all of them.

Sources: squeue(1) of Slurm 22.05; slurm.conf(5), PrivateData.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

__all__ = ["active_jobs", "own_jobs", "run_slurm"]

_TIMEOUT = 60.0
# Every record's own number: an array's tasks have one each as soon as they run.  Without --states it shows jobs from
# PENDING to COMPLETING, whose epilogs may still be at work.
_SQUEUE = ("--noheader", "--all", "--array", "--format=%A")
_NUMBERS = re.compile(rb"(?:[0-9]+\s+)*", re.ASCII)
_PRIVATE = re.compile(rb"^PrivateData\s*=\s*.*\b(?:jobs|all)\b", re.MULTILINE)


def active_jobs(*, of_all: bool) -> frozenset[int] | str:
    """The numbers of the jobs that have not ended, of all users or at least of this one; or why that can't be said.

    A job that is not among them has ended: nothing less may be concluded from a call that failed, or that was shown
    this user's jobs only.
    """
    output = run_slurm("squeue", *_SQUEUE)
    if isinstance(output, str):
        return output
    if not _NUMBERS.fullmatch(output):
        return "squeue's output can't be understood"
    if of_all and os.geteuid() != 0:
        settings = run_slurm("scontrol", "show", "config")
        if isinstance(settings, str):
            return settings
        if _PRIVATE.search(settings):
            return "Slurm shows this user only his own jobs (PrivateData); root is shown all"
    return frozenset(map(int, output.split()))


def own_jobs() -> frozenset[int] | str:
    """The numbers of this user's active jobs, or why they are not known."""
    output = run_slurm("squeue", *_SQUEUE, f"--user={os.getuid()}")
    if isinstance(output, str):
        return output
    return frozenset(map(int, output.split())) if _NUMBERS.fullmatch(output) else "squeue's output can't be understood"


def run_slurm(program: str, *arguments: str, conf: str = "") -> bytes | str:
    """The output of a program of Slurm, with the configuration *conf*, or the reason why there is none."""
    path = shutil.which(program)
    if path is None:
        return f"there is no {program} on PATH"
    # Variables such as SQUEUE_USERS would leave jobs out.
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SQUEUE_")}
    environ = {**environ, "LC_ALL": "C"}
    environ.pop("SLURM_CLUSTERS", None)
    environ |= {"SLURM_CONF": conf} if conf else {}
    try:
        result = subprocess.run(
            [path, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT,
            env=environ,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{program} failed: {type(error).__name__}"
    return result.stdout if result.returncode == 0 else f"{program} failed with status {result.returncode}"
