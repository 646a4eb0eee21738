"""``enroot-slurm sbcast`` on nodes that share no file system: each has a /local of its own."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.archives import docker_members, made_tar
from support.images import Image, Layer

from enroot_slurm.errors import ConversionError, UsageError
from enroot_slurm.slurm.sbcast import Copy, Nodes

pytestmark = pytest.mark.xdist_group("slurm-sbcast")
LOCAL = "/var/tmp/es-local"
"""A mount point, of which each node has its own."""
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def cluster(start_cluster):
    cluster = start_cluster(private=[LOCAL], nodes=len(NODES))
    for node in NODES:
        cluster.node_path(node, LOCAL).chmod(0o1777)
    return cluster


@pytest.fixture
def run(cluster, alice, installation):
    """Run a batch script of alice's on all nodes; the job."""

    def run(script, *options):
        path = f"{cluster.directory}:{installation.program()}:/usr/sbin:/usr/bin:/sbin:/bin"
        settings = f"export PATH={path} ENROOT_ALLOW_HTTP=yes ENROOT_CACHE_PATH={LOCAL}/$USER\n"
        return cluster.run_job(settings + script, "-N3", *options, user=alice)

    return run


@pytest.fixture
def image(push, repository) -> str:
    """Another one for each test, for they share the caches."""
    return push(Image([Layer().file("f", repository.encode() * 500)]))


def files_of(cluster, node) -> dict[str, bytes]:
    root = cluster.node_path(node, LOCAL)
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def test_all_nodes_get_the_image(cluster, run, image, registry) -> None:
    """One import; every node then finds it in its own cache, without a request even for the tag's digest."""
    registry.reset()
    job = run(f"image=$(enroot-slurm sbcast -q '{image}') && echo $image && srun -l stat -c '%a %s' $image && sleep 0")
    assert job.state == "COMPLETED", job.output
    path = Path(job.output.splitlines()[0])
    assert path.is_relative_to(LOCAL)
    name = str(path.relative_to(LOCAL))
    trees = [files_of(cluster, node) for node in NODES]
    assert trees[0][name] == trees[1][name] == trees[2][name] != b""
    assert sorted(job.output.splitlines()[1:]) == [f"{i}: 400 {len(trees[0][name])}" for i in range(3)]
    assert not [name for tree in trees for name in tree if name.endswith(".tmp")]
    assert registry.count("GET", "blobs") == 2  # config and layer
    registry.reset()
    digest = f"sha256:{path.stem.partition('-')[2]}"
    found = run(f"srun -l enroot-slurm get -q '{image}@{digest}'")
    assert sorted(found.output.splitlines()) == [f"{i}: {path}" for i in range(3)]
    assert registry.requests() == []


def test_what_is_there_is_not_sent_again(run, image) -> None:
    """Files stay the same, but for one that was changed, and one that a node lacks."""
    job = run(
        f"send() {{ enroot-slurm sbcast '{image}'; }}\n"
        "image=$(send)\n"
        "each() { srun --overlap -l stat -c %i $image | sort; }\n"
        'before=$(each); [ $(send) = $image ] && [ "$(each)" = "$before" ] || exit 3\n'
        'srun --overlap -N1 -n1 -w n2 sh -c "chmod u+w $image; echo cut > $image"\n'
        "srun --overlap -N1 -n1 -w n3 rm -f $image\n"
        "[ $(send) = $image ] && srun --overlap cksum $image | sort -u\n"
    )
    assert job.state == "COMPLETED", job.output
    assert job.output.count("all nodes have the image") == 1
    assert job.output.count(".sqsh\n") == 1, job.output


def test_a_destination(cluster, run, image) -> None:
    """Any file; missing directories are made, and a second call sends nothing."""
    script = f"enroot-slurm sbcast '{image}' {LOCAL}/new/x.sqsh; srun cksum {LOCAL}/new/x.sqsh | sort -u"
    for expected in (1, 2):
        output = run(script).output
        assert output.count(f"{LOCAL}/new/x.sqsh\n") == 2, output
        assert ("all nodes have the image" in output) == (expected == 2)


def test_an_archive_of_the_first_node(cluster, run, alice) -> None:
    """A file that only the job's first node has is an image on all of them."""
    archive = made_tar(docker_members(Image([Layer().file("of", b"an archive" * 999)])))
    file = cluster.node_path("n1", LOCAL) / "archive.tar"
    file.write_bytes(archive)
    file.chmod(0o644)
    job = run(f"image=$(enroot-slurm sbcast -q docker-archive:{LOCAL}/archive.tar) && srun cksum $image | sort -u")
    file.unlink()
    assert job.state == "COMPLETED", job.output
    assert job.output.count(".sqsh\n") == 1, job.output


def test_a_shared_cache_is_left_alone(run, cluster, alice, image) -> None:
    """Where all nodes see one file, it is not sent onto itself."""
    job = run(
        f"export ENROOT_CACHE_PATH=$HOME/shared; enroot-slurm sbcast '{image}'\n"
        "srun cksum $HOME/shared/images/*/*/*.sqsh | sort -u"
    )
    assert "all nodes have the image" in job.output
    assert job.output.count(".sqsh") == 2, job.output


def test_a_node_that_can_not_take_it(cluster, run, image) -> None:
    """7 and the node's own words; no rest is left anywhere."""
    place = cluster.node_path("n2", LOCAL)
    place.chmod(0o755)
    try:
        job = run(f"enroot-slurm sbcast '{image}' {LOCAL}/closed/x.sqsh")
    finally:
        place.chmod(0o1777)
    assert (job.state, job.exit_code) == ("FAILED", "7:0")
    assert "Permission denied" in job.output
    assert "n2" in job.output
    assert not [name for node in NODES for name in files_of(cluster, node) if "closed" in name]
    assert cluster.sinfo_reasons() == ""


def test_files_that_arrive_damaged_are_not_named(cluster, run, image) -> None:
    """sbcast may be cut off: a full disk, say.  What it has written so far goes away."""
    program = cluster.directory / "sbcast"
    cut = 'sh -c \'rm -f "$1"; echo cut off > "$1"\' sh'
    program.write_text(f'#!/bin/sh\n/usr/bin/sbcast "$1" "$2" && srun -Q --overlap -w n3 -N1 -n1 {cut} "$2"\n')
    program.chmod(0o755)
    try:
        job = run(f"enroot-slurm sbcast '{image}' {LOCAL}/damaged/x.sqsh")
    finally:
        program.unlink()
    assert job.exit_code == "7:0", job.output
    assert "bytes, 8 arrived" in job.output
    assert [name for name in files_of(cluster, "n3") if "damaged" in name] == []


def test_jobs_only(tmp_path) -> None:
    """2 outside of a job, and in a heterogeneous one; 8 without Slurm."""
    with pytest.raises(UsageError, match="no job"):
        Nodes.of_environ({})
    job = {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "2"}
    with pytest.raises(UsageError, match="heterogeneous"):
        Nodes.of_environ({**job, "SLURM_HET_SIZE": "2"})
    (tmp_path / "f").write_bytes(b"")
    with pytest.raises(ConversionError, match="srun"):
        Nodes.of_environ({**job, "PATH": "/nowhere"}).lacking([Copy(tmp_path / "f", tmp_path / "f")])
