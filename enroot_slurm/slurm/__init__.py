"""Images in Slurm jobs: hooks, and what a site's own hooks can call.

import os
from enroot_slurm.slurm import Job, prolog

prolog(Job.from_environ(os.environ))
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enroot_slurm.slurm.hooks import epilog, prolog
    from enroot_slurm.slurm.job import Job
    from enroot_slurm.slurm.job_record import Record
    from enroot_slurm.slurm.launch import Launch, sbatch_launch, srun_launch
    from enroot_slurm.slurm.request import Request, image_requests

__all__ = [
    "Job",
    "Launch",
    "Record",
    "Request",
    "epilog",
    "image_requests",
    "prolog",
    "sbatch_launch",
    "srun_launch",
]

_HOMES = {
    "Job": "job",
    "Launch": "launch",
    "Record": "job_record",
    "Request": "request",
    "epilog": "hooks",
    "image_requests": "request",
    "prolog": "hooks",
    "sbatch_launch": "launch",
    "srun_launch": "launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
