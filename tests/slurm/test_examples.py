"""The examples for Slurm, each on a real cluster: as they are, but for the image's name, the nodes and the GPUs.

Containers are run by stand-ins: for pyxis support/pyxis_standin.c, for enroot the script below.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import wait_for
from support.images import Image, Layer
from support.pyxis import pyxis_standin
from support.site import RUN, Site

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.installation import Installation
    from support.slurm import Job, User

pytestmark = pytest.mark.xdist_group("slurm-examples")

EXAMPLES = Path(__file__).resolve().parents[2] / "examples/slurm"
LINE = "NAME=image of the tests"
ENROOT = """\
#!/bin/sh
# enroot start IMAGE COMMAND...
set -eu
[ "$1" = start ]
image=$2
shift 2
root=$(mktemp -d)
trap 'rm -rf "$root"' EXIT
unsquashfs -f -quiet -no-progress -d "$root" "$image"
unshare --map-root-user chroot "$root" "$@"
"""
TORCHRUN = """\
#!/bin/sh
# What a trainer would see: the arguments, and where in the job it is.
echo "task $SLURM_PROCID of $SLURM_NTASKS: $*"
"""


class ExampleSite(Site):
    """A site with pyxis' stand-in, and a stand-in for enroot in the users' path."""

    def __init__(self, installation: Installation, cache_user: User, *registries: str) -> None:
        super().__init__(installation, cache_user, *registries, comment_requests="yes")
        programs = self.directory / "bin"
        programs.mkdir()
        (programs / "enroot").write_text(ENROOT)
        (programs / "enroot").chmod(0o755)
        (self.directory / "run").mkdir()
        self.path = f"{programs}:{installation.program()}:/usr/sbin:/usr/bin:/sbin:/bin"

    def example(self, user, name, image) -> str:
        """The example *name* as *user* has it, with another image, and for this cluster; its name."""
        text = (EXAMPLES / name).read_text()
        text = re.sub(r"docker://(?:nvcr\.io|python|registry\.example)[^\s\")]*", image.replace("#", "/"), text)
        text = re.sub(r"^#SBATCH --(gpus-per-node|exclusive).*\n", "", text, flags=re.MULTILINE)
        user.write(name, text)
        return name

    def submit(self, *words: str, user: User) -> Job:
        """Run a command that submits a job; the job when it has ended, with its output."""
        for file in user.home.glob("*.out"):  # of jobs with the same numbers, on other clusters
            file.unlink()
        result = self.cluster.run(*words, user=user, environment={"PATH": self.path})
        job = int(result.stdout.split()[-1])
        ended = self.cluster.wait_job(job)
        files = [user.home / f"slurm-{job}.out", *user.home.glob(f"array-{job}-*.out")]
        ended = ended._replace(output="".join(file.read_text() for file in files if file.exists()))
        assert ended.state == "COMPLETED", f"{ended.exit_code}\n{ended.output}\n{result.stderr}"
        return ended


@pytest.fixture(scope="module")
def start_site(make_site, start_cluster) -> Iterator[Callable[..., ExampleSite]]:
    """A function that starts a site: start_site(plugstack, conf, files)."""
    sites: list[ExampleSite] = []

    def start(plugstack: str, conf: dict[str, str], files: dict[str, str]) -> ExampleSite:
        sites.append(make_site(kind=ExampleSite))
        site = sites[-1].start(
            start_cluster,
            conf=conf,
            files={"plugstack.conf": plugstack, **files},
            private=("/tmp",),
            shared={RUN: sites[-1].directory / "run"},
        )
        for node in site.cluster.nodes:
            site.cluster.node_path(node, "/tmp").chmod(0o1777)
        return site

    yield start
    assert "".join(site.cluster.sinfo_reasons() for site in sites) == ""


@pytest.fixture(scope="module")
def pyxis() -> Iterator[Path]:
    with pyxis_standin() as library:
        yield library


@pytest.fixture(scope="module")
def site(start_site, pyxis) -> ExampleSite:
    """A site with the prolog and with pyxis, and nothing of ours else."""
    return start_site(f"required {pyxis}\n", {}, {})


@pytest.fixture(scope="module")
def full_site(start_site, pyxis, installation) -> ExampleSite:
    """A site with all doors: the plug-in, the importer, stage-in; and with the example of a prolog beside ours."""
    slurm = installation.etc / "slurm"
    ours = (slurm / "plugstack.conf.d/enroot-slurm.conf").read_text()
    files = {name: (slurm / name).read_text() for name in ("burst_buffer.lua", "burst_buffer.conf")}
    importer = f"importer={installation.libexec}/pyxis-importer"
    prologs = installation.directory / "prologs"
    prologs.mkdir()
    (prologs / "50-enroot-slurm").symlink_to(installation.prolog)
    conf = {"BurstBufferType": "burst_buffer/lua", "Prolog": f"{prologs}/*"}
    # The example's partition; the tests' other one is the default.
    conf["PartitionName"] = "visualization Nodes=ALL"
    return start_site(f"{ours}required {pyxis} {importer}\n", conf, files)


@pytest.fixture
def image(push, repository) -> str:
    """An image with a shell, a trainer, and something to print; another one for each test."""
    layer = Layer().dirs("bin", "etc", "tmp").file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    for name in ("sh", "cat", "echo"):
        layer.symlink(f"bin/{name}", "busybox")
    layer.file("bin/torchrun", TORCHRUN.encode(), 0o755)
    return push(Image([layer.file("etc/os-release", f"{LINE}\n".encode()).file("etc/test", repository.encode())]))


def blobs(registry) -> int:
    return registry.count("GET", "/blobs/")


def test_comment(site, alice, image, registry) -> None:
    """The prolog of one node imports for both, before the script asks for the path."""
    registry.reset()
    job = site.submit("sbatch", site.example(alice, "comment.sbatch", image), user=alice)
    assert job.output == f"{LINE}\n{LINE}\n"
    assert blobs(registry) == 2
    assert list(site.cache.glob("images/*/*/*.sqsh"))


@pytest.mark.parametrize("name", ["import-first.sbatch", "stage-in.sbatch"])
def test_import_first(site, alice, image, registry, name) -> None:
    """``enroot-slurm sbatch`` has imported the image when it submits the job."""
    registry.reset()
    job = site.submit("enroot-slurm", "sbatch", site.example(alice, name, image), user=alice)
    assert job.output == f"{LINE}\n{LINE}\n"
    assert blobs(registry) == 2


def test_array(site, alice, image, registry) -> None:
    """Eight jobs, one import."""
    registry.reset()
    job = site.submit("enroot-slurm", "sbatch", site.example(alice, "array.sbatch", image), user=alice)
    assert sorted(job.output.splitlines()) == [f"task {i} of 8" for i in range(1, 9)]
    assert blobs(registry) == 2


def test_pytorch(site, alice, image, registry) -> None:
    """A launcher on each node, in the image, and all with the same meeting point."""
    registry.reset()
    example = site.example(alice, "pytorch.sbatch", image)
    job = site.submit("enroot-slurm", "sbatch", "-N3", example, "train.py", "--epochs", "2", user=alice)
    lines = sorted(job.output.splitlines())
    meeting = f"--rdzv-id={job.id} --rdzv-backend=c10d --rdzv-endpoint=n1:{20000 + job.id}"
    launch = f"--nnodes=3 --nproc-per-node=1 {meeting} train.py --epochs 2"
    assert lines == [f"task {i} of 3: {launch}" for i in range(3)]
    assert blobs(registry) == 2


def test_local_disks(site, alice, image, registry) -> None:
    """sbcast, two nodes, and no rest."""
    registry.reset()
    job = site.submit("sbatch", site.example(alice, "local-disks.sbatch", image), user=alice)
    assert job.output.splitlines().count(LINE) == 2  # among what is told of the import
    assert blobs(registry) == 2
    directories = [site.cluster.node_path(node, "/tmp") for node in site.cluster.nodes]
    wait_for(lambda: not any(list(directory.iterdir()) for directory in directories))  # and of jobs before it


@pytest.mark.parametrize("name", ["prolog.sbatch", "pyxis.sbatch", "stage-in.sbatch"])
def test_doors(full_site, alice, image, registry, name) -> None:
    """One import for both nodes: by the prolog, by a step that it knew nothing of, or while the job was pending."""
    registry.reset()
    job = full_site.submit("sbatch", full_site.example(alice, name, image), user=alice)
    assert job.output == f"{LINE}\n{LINE}\n"
    assert blobs(registry) == 2


def test_staged_in(full_site, alice, image, registry) -> None:
    """The array and the training of many nodes are submitted by sbatch itself where there is stage-in."""
    registry.reset()
    job = full_site.submit("sbatch", full_site.example(alice, "array.sbatch", image), user=alice)
    assert sorted(job.output.splitlines()) == [f"task {i} of 8" for i in range(1, 9)]
    job = full_site.submit("sbatch", "-N3", full_site.example(alice, "pytorch.sbatch", image), "train.py", user=alice)
    assert [line.split(":")[0] for line in sorted(job.output.splitlines())] == [f"task {i} of 3" for i in range(3)]
    assert blobs(registry) == 2


def test_a_site_s_own_prolog(full_site, installation, alice, image) -> None:
    """Jobs of its partition have its image without asking, and a job that asks for another one has that."""
    name = full_site.example(alice, "site_prolog.py", image)
    text = (alice.home / name).read_text()
    file = installation.directory / "prologs/40-site.py"
    file.write_text(text.replace("/opt/enroot-slurm/bin/python ", f"{installation.python} ", 1))
    file.chmod(0o755)
    show = ["srun", "-p", "visualization", "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json"]
    assert f'"path": "{full_site.cache}' in full_site.cluster.run(*show, user=alice).stdout
    other = image.replace(":t1", ":t2")
    record = full_site.cluster.run(show[0], f"--enroot-image={other}", *show[1:], user=alice, check=False)
    assert "has no tag t2" in record.stderr
    done = full_site.cluster.run("srun", "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json", user=alice, check=False)
    assert "No such file" in done.stderr
