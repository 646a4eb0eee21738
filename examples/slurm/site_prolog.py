#!/opt/enroot-slurm/bin/python -I
"""A site's own prolog that uses the library: as Slurm's, but with an image for all jobs of a partition.

slurm.conf:  Prolog=/etc/slurm/prolog.d/40-site.py   PrologFlags=Alloc,DeferBatch

It runs as root; the library does nothing but start workers as other users (docs/slurm.md).
"""

from __future__ import annotations

import os
import sys

from enroot_slurm import EnrootSlurmError
from enroot_slurm.slurm import Job, prolog

IMAGES = {"visualization": "docker://registry.example.com/site/paraview:5.13"}


def main() -> int:
    environ = dict(os.environ)
    image = IMAGES.get(environ.get("SLURM_JOB_PARTITION", ""))
    if image:
        environ.setdefault("SPANK_ENROOT_IMAGE", image)  # as if the job had asked for it
    try:
        return prolog(Job.from_environ(environ), environ=environ)
    except (EnrootSlurmError, OSError) as error:
        # Slurm logs it if a later script fails; and this one must not, for that would drain the node.
        print(f"site prolog: {error}", file=sys.stderr)
        return 0


if __name__ == "__main__":
    raise SystemExit(main())
