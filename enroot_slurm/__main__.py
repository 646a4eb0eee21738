"""``python -m enroot_slurm``."""

from enroot_slurm.cli import main

raise SystemExit(main())
