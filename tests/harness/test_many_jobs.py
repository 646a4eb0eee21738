"""A short turn of the harness of jobs on three nodes; `many_jobs.py` by itself runs 200."""

from __future__ import annotations

import pytest
from harness.many_jobs import run
from support.tools import require_root, require_tools

pytestmark = pytest.mark.xdist_group("slurm-many")


def test_no_job_of_some_fails() -> None:
    """Each image is fetched once for its three nodes, no node is drained, nothing is left."""
    require_root("runs a Slurm cluster")
    require_tools("slurmctld", "docker-registry")
    outcome = run(10, 2)
    assert outcome._replace(seconds=0) == (10, (), 20, "", (), 0)
