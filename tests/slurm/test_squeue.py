"""Which jobs are active, asked of a real one."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from support.slurm import User

pytestmark = pytest.mark.xdist_group("slurm-squeue")

ASK = """
import json, sys
from enroot_slurm.slurm.squeue import active_jobs
known = active_jobs(of_all=sys.argv[1] == "all")
print(json.dumps(known if isinstance(known, str) else sorted(known)))
"""


@pytest.fixture(scope="module")
def cluster(start_cluster):
    return start_cluster(nodes=1, conf={"PrivateData": "jobs"})


def test_active_jobs(cluster, installation, alice, bob) -> None:
    """Running and waiting ones, and each running task of an array; of others only if Slurm shows them."""

    def ask(which: str, user: User | None = None) -> Any:
        return json.loads(cluster.run(installation.python, "-I", "-c", ASK, which, user=user).stdout)

    done = cluster.run_job("true", user=bob).id
    running = cluster.submit("exec sleep 100", user=alice)
    waiting = cluster.submit("true", "--hold", user=bob)
    array = cluster.submit("exec sleep 100", "--array=1-2", user=alice)
    cluster.wait_for_state(running, "RUNNING")
    tasks = cluster.run("squeue", "--noheader", "--array", f"--jobs={array}", "--format=%A").stdout.split()
    assert set(ask("all")) == {running, waiting, *map(int, tasks)}
    assert len(tasks) == 2
    assert done not in ask("all")
    assert "PrivateData" in str(ask("all", alice))
    own = ask("own", alice)
    assert waiting not in own
    assert running in own
    for job in (running, waiting, array):
        cluster.cancel(job)
