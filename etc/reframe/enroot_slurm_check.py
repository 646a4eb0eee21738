"""A ReFrame test of container images in jobs: reframe -C SITE.py -c enroot_slurm_check.py -r

The image is imported through the door that the site has, and each task has to find the same one.
"""

import os

import reframe as rfm
import reframe.utility.sanity as sn
from reframe.core.builtins import performance_function, run_before, sanity_function, variable


class EnrootSlurmBase(rfm.RunOnlyRegressionTest):
    """Runs ``cat /etc/os-release`` in an image, on so many nodes."""

    image = variable(str, value=os.environ.get("ENROOT_SLURM_TEST_IMAGE", "docker://ubuntu:24.04"))
    valid_systems = ["*"]
    valid_prog_environs = ["*"]
    tags = {"containers", "maintenance"}
    maintainers = ["administrators"]
    num_tasks_per_node = 1
    time_limit = "30m"

    @run_before("run")
    def import_first(self):
        # In the job, before the step: an import that the prolog has begun is waited for.
        self.prerun_cmds = [
            "begin=$(date +%s.%N)",
            f"path=$(enroot-slurm get {self.image})",
            'echo "import_time $(echo "$(date +%s.%N) - $begin" | bc)"',
            "begin=$(date +%s.%N)",
        ]
        self.executable = "unsquashfs"
        self.executable_opts = ["-cat", "$path", "etc/os-release"]
        self.postrun_cmds = ['echo "start_time $(echo "$(date +%s.%N) - $begin" | bc)"']

    @sanity_function
    def each_task_has_the_image(self):
        return sn.assert_eq(sn.count(sn.findall(r"^ID=", self.stdout)), self.num_tasks)

    @performance_function("s")
    def import_time(self):
        return sn.extractsingle(r"^import_time (\S+)", self.stdout, 1, float)

    @performance_function("s")
    def start_time(self):
        return sn.extractsingle(r"^start_time (\S+)", self.stdout, 1, float)


@rfm.simple_test
class EnrootSlurmOneNode(EnrootSlurmBase):
    """On one node."""

    num_tasks = 1


@rfm.simple_test
class EnrootSlurmPyxis(EnrootSlurmBase):
    """With pyxis: the program runs in the container. Run it where pyxis is: --system=SYSTEM -n EnrootSlurmPyxis"""

    num_tasks = 2
    tags = {"pyxis"}

    @run_before("run")
    def in_the_container(self):
        self.executable = "cat"
        self.executable_opts = ["/etc/os-release"]
        self.job.launcher.options += ["--container-image=$path"]
