"""Images in Slurm jobs: hooks, and what a site's own hooks can call.

import os
from enroot_slurm.slurm import Job, prolog, record

job = Job.from_environ(os.environ)
prolog(job, images=["docker://registry.example.com/site/tools:1"])
for result in record(job).results:
    print(result.path or result.failure.message)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enroot_slurm.slurm.hooks import epilog, prolog
    from enroot_slurm.slurm.job import Job
    from enroot_slurm.slurm.job_record import Failure, Record, Result, record
    from enroot_slurm.slurm.launch import Launch, sbatch_launch, srun_launch
    from enroot_slurm.slurm.request import Request, image_requests

__all__ = [
    "Failure",
    "Job",
    "Launch",
    "Record",
    "Request",
    "Result",
    "epilog",
    "image_requests",
    "prolog",
    "record",
    "sbatch_launch",
    "srun_launch",
]

_HOMES = {
    "Failure": "job_record",
    "Job": "job",
    "Launch": "launch",
    "Record": "job_record",
    "Request": "request",
    "Result": "job_record",
    "epilog": "hooks",
    "image_requests": "request",
    "prolog": "hooks",
    "record": "job_record",
    "sbatch_launch": "launch",
    "srun_launch": "launch",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
