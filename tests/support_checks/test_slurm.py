"""The cluster of the tests is one: jobs run on its nodes as their users, nodes come back, and nothing is left."""

from __future__ import annotations

import signal
from pathlib import Path

from support.slurm import Cluster, User, processes_with


def test_a_cluster_runs_jobs_and_leaves_nothing(tmp_path) -> None:
    """Batch jobs and steps run as their user; private directories are a node's own; a killed node comes back."""
    tmp_path.chmod(0o755)
    (tmp_path / "config.yaml").write_text("{}")
    user = User.make("cluster")
    try:
        with Cluster(nodes=2, private=["/run/enroot-slurm"], shared={"/etc/enroot-slurm": tmp_path}) as cluster:
            (cluster.node_path("n2", "/run/enroot-slurm") / "mark").touch()
            script = "srun -l -N2 sh -c 'id -un; ls /run/enroot-slurm /etc/enroot-slurm'"
            job = cluster.run_job(script, "-N2", user=user)
            assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job
            assert "1: mark" in job.output
            assert "0: mark" not in job.output
            assert job.output.count("config.yaml") == 2
            assert job.output.count(user.name) == 2
            for number in (signal.SIGTERM, signal.SIGKILL):
                cluster.stop_node("n2", number)
                cluster.start_node("n2")
            assert cluster.run("srun", "-N2", "hostname", user=user).stdout.count("\n") == 2
            assert cluster.sinfo_reasons() == ""
            cluster.start("srun", "sleep", "1000", user=user)
            directory = str(cluster.directory)
        assert processes_with(directory) == {}
        assert not Path(directory).exists()
    finally:
        user.remove()
