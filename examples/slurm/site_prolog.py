#!/opt/enroot-slurm/bin/python -I
"""A site's own prolog that uses the library: as Slurm's, but with an image for all jobs of a partition.

slurm.conf:  Prolog=/etc/slurm/prolog.d/40-site.py   PrologFlags=Alloc,DeferBatch

It runs as root; the library does nothing but start workers as other users (docs/slurm.md).
"""

from __future__ import annotations

import os
import sys

from enroot_slurm import EnrootSlurmError
from enroot_slurm.slurm import Job, prolog, record

IMAGES = {"visualization": ["docker://registry.example.com/site/paraview:5.13"]}


def main() -> int:
    """Get the images of the partition, and those that the job asks for; tell what is missing."""
    images = IMAGES.get(os.environ.get("SLURM_JOB_PARTITION", ""), [])
    try:
        job = Job.from_environ(os.environ)
        status = prolog(job, images=images)
        known = record(job)
    except (EnrootSlurmError, OSError) as error:
        # Slurm logs it if a later script fails; and this one must not, for that would drain the node.
        print(f"site prolog: {error}", file=sys.stderr)
        return 0
    for result in known.results if known else []:
        if result.failure:
            print(f"site prolog: {result.uri}: {result.failure.message}", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main())
