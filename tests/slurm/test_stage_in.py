"""Stage-in on a real cluster: ``#ENROOT`` lines are checked at submit, and imported while the job is pending."""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.archives import docker_members, made_tar
from support.command import serve, wait_for
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.site import RUN, Site, Slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


pytestmark = pytest.mark.xdist_group("slurm-stage-in")

SHOW = "env | grep ^ENROOT_SLURM | sort"


LUA = ("burst_buffer.lua", "burst_buffer.conf")


@pytest.fixture(scope="module")
def running_site(make_site, start_cluster, installation) -> Site:
    site: Site = make_site()
    (site.directory / "run").mkdir()
    return site.start(
        start_cluster,
        nodes=2,
        conf={"BurstBufferType": "burst_buffer/lua"},
        files=installation.slurm_files(*LUA),
        shared={RUN: site.directory / "run"},  # the controller's, too
    )


@pytest.fixture
def site(running_site: Site) -> Iterator[Site]:
    """The cluster with an empty cache; after each test no node is drained and nothing is left."""
    running_site.new_cache()
    yield running_site
    # A job that a test cancels last is torn down after it, and that may be killed as late.
    wait_for_release(running_site, lambda: [file.name for file in running_site.directory.glob("run/stage-in/*")])
    running_site.check_clean()


@pytest.fixture(scope="module")
def slurm_site(make_site, start_cluster, installation, make_user) -> Site:
    """A site whose slurmctld is not root's, but of a user who owns the shared cache, too."""
    slurm = make_user("slurm")
    site: Site = make_site(user=slurm)
    for name, mode in (("run", 0o755), ("run/stage-in", 0o700), ("state", 0o755)):
        (site.directory / name).mkdir(mode=mode)
    for name in ("run/stage-in", "state"):
        os.chown(site.directory / name, slurm.uid, slurm.gid)
    files = installation.slurm_files(*LUA)
    files["burst_buffer.conf"] = files["burst_buffer.conf"].replace("=7200", "=4")
    return site.start(
        start_cluster,
        nodes=1,
        conf={
            "SlurmUser": slurm.name,
            "StateSaveLocation": f"{site.directory}/state",
            "SlurmctldPidFile": f"{site.directory}/state/pid",
            "BurstBufferType": "burst_buffer/lua",
        },
        files=files,
        shared={RUN: site.directory / "run"},
    )


@pytest.fixture
def slow(site, image) -> Iterator[Slow]:
    with site.slow(image) as slow:
        yield slow


def release_killed(site: Site) -> None:
    """Do what Slurm 22.05 has kept a teardown from: killing an import, it sometimes kills that as well.

    `test_what_slurm_has_forgotten` shows what becomes of it on a site.
    """
    log = (site.cluster.directory / "slurmctld.log").read_text()
    for job in re.findall(r"teardown for JobId=([0-9]+) terminated by slurmctld", log):
        stage_in(site, "release", job)


def stage_in(site: Site, *words: object) -> None:
    """Run what burst_buffer.lua runs."""
    result = site.cluster.run(site.installation.libexec / "stage-in", *words)
    assert result.stdout.endswith("ok\n"), result


def wait_for_release(site: Site, left: Callable[[], object]) -> None:
    """Wait until Slurm has torn down what a job has *left*."""

    def released() -> bool:
        release_killed(site)
        return not left()

    try:
        wait_for(released)
    except AssertionError as error:
        error.add_note(f"left: {left()}\n{site.cluster.logs()}")
        raise


def script(*lines: str, command: str = SHOW) -> str:
    return "\n".join(["#!/bin/sh", *(f"#ENROOT {line}" for line in lines), command, ""])


def environment(output: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in output.splitlines())


def seconds(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def test_the_image_is_there_before_the_nodes(site, alice, slow) -> None:
    """A job gets no node while its image is imported; then its script has the path, and its nodes lease the image.

    Nothing is imported as root: the process that works is the cache user's.
    """
    registry, uri, go = slow
    job = site.cluster.submit(script(f"image={uri}", command=f"{SHOW}; sleep 1"), "-N2", user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    wait_for(lambda: site.cluster.job(job)["Reason"] == "BurstBufferStageIn")
    fields = site.cluster.job(job)
    assert (fields["JobState"], fields["NodeList"]) == ("PENDING", "")
    line = (
        rf"job {job} of user {alice.uid}: importing {re.escape(uri)}: importing [0-9a-f]+, \d+ %, downloaded \d.* of "
    )
    wait_for(lambda: re.search(line, site.cluster.run("scontrol", "show", "bbstat").stdout))
    owners = {Path(f"/proc/{pid}").stat().st_uid for pid in importers(site)}
    # The parent only waits.
    assert owners == {0, site.cache_user.uid}
    assert site.cluster.run("squeue", "--noheader", "--states=running").stdout == ""
    go.set()
    wait_for(lambda: len(site.leases()) == 3)  # stage-in's, and one for each node
    assert len(list(site.cluster.node_path("n1", RUN).glob(f"{job}.0.json"))) == 1
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED"
    path = Path(environment(done.output)["ENROOT_SLURM_IMAGE"])
    assert path.is_relative_to(site.cache)
    assert environment(done.output)["ENROOT_SLURM_IMAGE_DIGEST"].startswith("sha256:")
    assert seconds(done.fields["StartTime"]) + 1 > path.stat().st_mtime
    assert registry.count("/blobs/") == 2


def importers(site: Site) -> list[int]:
    found = site.cluster.processes().items()
    return [pid for pid, line in found if "slurm.stage_in import" in line and "/bin/sh" not in line]


def test_several_images(site, alice, push, image, registry) -> None:
    """Each named image has its variable; the first one is ENROOT_SLURM_IMAGE besides; an array imports once."""
    first, second = push(image), push(Image([Layer().file("b", b"b")], architecture="arm64"))
    registry.reset()
    job = site.cluster.run_job(script(f"image={first}", f"image={second} arch=arm64 name=tools"), user=alice)
    found = environment(job.output)
    assert sorted(found) == [
        "ENROOT_SLURM_IMAGE",
        "ENROOT_SLURM_IMAGE_DIGEST",
        "ENROOT_SLURM_IMAGE_TOOLS",
        "ENROOT_SLURM_IMAGE_TOOLS_DIGEST",
    ]
    assert "/linux-arm64/" in found["ENROOT_SLURM_IMAGE_TOOLS"]
    assert registry.count("GET", "/blobs/") == 4
    array = site.cluster.run_job(script(f"image={first}"), "--array=1-3", user=alice)
    assert site.cluster.states(array.id) == ["COMPLETED"] * 3
    assert environment(array.output)["ENROOT_SLURM_IMAGE"] == found["ENROOT_SLURM_IMAGE"]
    assert registry.count("GET", "/blobs/") == 4


def test_private_images(site, alice, bob, image) -> None:
    """What needs a user's login is imported as that user, into the own cache; another user's job is held."""
    cache = alice.home / ".cache/enroot"
    shutil.rmtree(cache, ignore_errors=True)  # another cluster's jobs may have had the same numbers
    with FaultRegistry(auth="basic", users={"alice": "canary-5c"}) as registry:
        site.configure(insecure_registries=[registry.host])
        alice.write(".config/enroot/.credentials", "machine 127.0.0.1 login alice password canary-5c\n")
        uri = serve(registry, image)
        job = site.cluster.submit(script(f"image={uri}", command=f"{SHOW}; exec sleep 100"), user=alice)
        wait_for(lambda: "DIGEST" in site.cluster.output(job, alice.home))
        path = Path(environment(site.cluster.output(job, alice.home))["ENROOT_SLURM_IMAGE"])
        assert path.is_relative_to(alice.home)
        assert path.stat().st_uid == alice.uid
        assert len(list(cache.glob(f"jobs/{job}.0/stage-in.*.lease"))) == 1
        site.cluster.wait_for_state(job, "RUNNING")  # slurmctld may hear of the start later than we see the output
        site.cluster.cancel(job)
        wait_for_release(site, lambda: list(cache.glob(f"jobs/{job}.0/*.lease")))
        held = site.cluster.submit(script(f"image={uri}"), user=bob)
        wait_for(lambda: site.cluster.job(held)["Priority"] == "0")
        reason = site.cluster.run("squeue", "--noheader", f"--jobs={held}", "--format=%r").stdout
        assert "does not let us read app" in reason
        assert "canary" not in reason + site.cluster.logs(10_000)
        shutil.rmtree(cache)


def test_archives(site, alice, bob, image) -> None:
    """A file is read as the job's user, into that user's cache; a job that may not read it is held."""
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    file = alice.home / "staged.tar"
    file.write_bytes(made_tar(docker_members(replace(image, architecture=here))))
    os.chown(file, alice.uid, alice.gid)
    file.chmod(0o600)
    job = site.cluster.run_job(script(f"image=docker-archive:{file}"), user=alice)
    path = Path(environment(job.output)["ENROOT_SLURM_IMAGE"])
    assert path.is_relative_to(alice.home)
    assert path.stat().st_uid == alice.uid
    assert not list(site.cache.glob("blobs/*/*"))
    held = site.cluster.submit(script(f"image=docker-archive:{file}"), user=bob)
    wait_for(lambda: site.cluster.job(held)["Priority"] == "0")
    assert "can't read" in site.cluster.run("squeue", "--noheader", f"--jobs={held}", "--format=%r").stdout
    site.cluster.cancel(held)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "image=docker://nvcr.io/Nvidia/x:1",
            [
                "line 2 of the script: invalid image reference: repository names are lower case",
                "^^^^^^^^",
                "  Try nvidia/x",
            ],
        ),
        (
            "image=docker://x imgae=docker://y",
            ["  image=docker://x imgae=docker://y", "^" * 16, "  Did you mean image=?"],
        ),
        ("", ["an image is missing"]),
        ("image=docker://$(touch${IFS}/tmp/owned)", ["not a repository name"]),
        ("image=docker://x';reboot;'", ["not a repository name"]),
        ("image=docker://a:canary@h.example/x", ["a login must not hold a password", "a:***@"]),
        ("image=docker://x name=a/b", ["not a name"]),
        ("image=docker://x arch=z80", ["z80"]),
        ("image=docker-archive:app.tar", ["has to be absolute"]),
        ("image=docker-archive:./app.tar", ["has to be absolute"]),
        ("image=docker-archive:/dev/stdin", ["a pipe is no image of a job"]),
        ("image=" + "x" * 5000, ["characters long"]),
    ],
)
def test_refused_at_submit(site, alice, line, said) -> None:
    """sbatch prints what is wrong, where, and what would be right; nothing is submitted."""
    done = site.cluster.run("sbatch", user=alice, input=script(line), check=False)
    assert done.returncode == 1
    told = [text.removeprefix("sbatch: error: ") for text in done.stderr.splitlines()]
    for text in said:
        assert [each for each in told if text in each], done.stderr
    assert "canary" not in done.stderr
    assert site.cluster.run("squeue", "--noheader").stdout == ""


def test_a_blocked_image_is_refused_at_submit(site, alice) -> None:
    """sbatch says which list of which file has it; what is not blocked goes on."""
    site.configure(blocked_images=["registry.bad/team"])
    done = site.cluster.run("sbatch", user=alice, input=script("image=registry.bad/team/x:1"), check=False)
    assert done.returncode == 1
    assert "registry.bad/team/x:1 may not be used: blocked_images has registry.bad/team" in done.stderr
    assert "/etc/enroot-slurm/config.yaml:" in done.stderr


def test_a_failed_import(site, alice, push, image) -> None:
    """The job is held, and squeue says why in one line; released by an administrator, it is staged in again."""
    uri = push(image, "there")
    job = site.cluster.submit(script(f"image={uri.replace('there', 'gone')}"), user=alice)
    wait_for(lambda: site.cluster.job(job)["Priority"] == "0")
    reason = site.cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%r").stdout
    assert reason.count("\n") == 1
    assert "has no tag gone (MANIFEST_UNKNOWN: manifest unknown). Check the spelling." in reason
    assert site.cluster.job(job)["JobState"] == "PENDING"
    wait_for(lambda: site.leases() == [])
    site.configure(failure_ttl=0)
    push(image, "gone")
    wait_for(lambda: not list((site.directory / "run/stage-in").glob(f"{job}.*")))
    site.cluster.run("scontrol", "release", job)
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED"
    assert "ENROOT_SLURM_IMAGE=" in done.output


def test_a_site_in_trouble(site, alice, image) -> None:
    """A registry that is down is waited for; a cache that can't be written leaves the import to the job's user."""
    with FaultRegistry() as registry:
        site.configure(insecure_registries=[registry.host], site_failure_wait=30)
        uri = serve(registry, image)
        registry.fault("/manifests/", 2, status=503)
        job = site.cluster.run_job(script(f"image={uri}"), user=alice)
        assert Path(environment(job.output)["ENROOT_SLURM_IMAGE"]).is_relative_to(site.cache)
        site.new_cache()
        site.configure(insecure_registries=[registry.host])
        site.cache.chmod(0o555)
        job = site.cluster.run_job(script(f"image={uri}"), user=alice)
        assert Path(environment(job.output)["ENROOT_SLURM_IMAGE"]).is_relative_to(alice.home)
        site.configure(insecure_registries=[registry.host], shared_cache=None, cache_user=None)
        job = site.cluster.run_job(script(f"image={uri}"), user=alice)
        assert Path(environment(job.output)["ENROOT_SLURM_IMAGE"]).is_relative_to(alice.home)
    shutil.rmtree(alice.home / ".cache/enroot")


def test_cancel_while_staging_in(site, alice, slow) -> None:
    """The import of a job that is cancelled ends, and leaves nothing; the next job has its image."""
    registry, uri, go = slow
    job = site.cluster.submit(script(f"image={uri}"), user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    site.cluster.run("scancel", job, user=alice)
    wait_for(lambda: site.cluster.processes() == {}, 10)  # though the registry still stalls
    assert site.cluster.job(job)["JobState"] == "CANCELLED"
    assert list(site.cache.rglob("*.sqsh")) == []
    wait_for_release(site, site.leases)
    go.set()
    assert site.cluster.run_job(script(f"image={uri}"), user=alice).state == "COMPLETED"


def test_slurmctld_restarts_while_staging_in(site, alice, slow) -> None:
    """Slurm ends the import, and stages in again once slurmctld is back."""
    registry, uri, go = slow
    job = site.cluster.submit(script(f"image={uri}"), user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    site.cluster.stop_controller()
    wait_for(lambda: importers(site) == [])
    site.cluster.start_controller()
    go.set()
    # Slurm lets the job wait a minute.
    wait_for(lambda: site.cluster.job(job)["Reason"] == "BeginTime")
    site.cluster.run("scontrol", "update", f"jobid={job}", "starttime=now")
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED"
    assert Path(environment(done.output)["ENROOT_SLURM_IMAGE"]).is_file()


def test_a_requeued_job(site, alice, push, image, registry) -> None:
    """Its image is staged in again, which costs nothing, and the job has it."""
    uri = push(image)
    command = f'{SHOW}; echo restart=$SLURM_RESTART_COUNT; [ -n "$SLURM_RESTART_COUNT" ] || exec sleep 100'
    job = site.cluster.submit(script(f"image={uri}", command=command), "-w", "n1", "--requeue", user=alice)
    wait_for(lambda: "restart" in site.cluster.output(job, alice.home))
    site.cluster.wait_for_state(job, "RUNNING")  # slurmctld may hear of the start later than we see the output
    registry.reset()
    site.cluster.run("scontrol", "requeue", job)
    wait_for(lambda: site.cluster.job(job)["Reason"] == "BeginTime")
    site.cluster.run("scontrol", "update", f"jobid={job}", "reqnodelist=n2", "starttime=now")
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED"
    assert environment(done.output)["restart"] == "1"
    assert "ENROOT_SLURM_IMAGE" in environment(done.output)
    assert registry.count("GET", "/blobs/") == 0


def test_what_slurm_has_forgotten(site, alice, push, image, tmp_path) -> None:
    """A job whose teardown was killed is released when another job is set up a day later; one that runs is not."""
    text = script(f"image={push(image)}", command="exec sleep 100")
    (tmp_path / "script").write_text(text)
    stage_in(site, "setup", 999_999, alice.uid, alice.gid)
    stage_in(site, "import", 999_999, tmp_path / "script")
    running = site.cluster.submit(text, user=alice)
    wait_for(lambda: site.cluster.states(running) == ["RUNNING"])
    state = site.directory / "run/stage-in"
    notes = {file.name for file in state.iterdir()}
    assert {"999999.json", "999999.paths", f"{running}.json"} <= notes
    assert list(site.cache.glob("jobs/999999.0/*.lease"))
    stage_in(site, "setup", 999_998, alice.uid, alice.gid)
    assert {file.name for file in state.iterdir()} == notes | {"999998.json"}  # it is too early to ask
    for name in ("999999.json", f"{running}.json"):
        os.utime(state / name, (0, 0))
    stage_in(site, "setup", 999_997, alice.uid, alice.gid)
    assert {file.name for file in state.glob("99999*")} == {"999998.json", "999997.json"}
    assert not list(site.cache.glob("jobs/999999.0/*.lease"))
    assert list(site.cache.glob(f"jobs/{running}.0/stage-in.*.lease"))
    assert (state / f"{running}.json").stat().st_mtime > time.time() - 100  # it is asked for again in a day
    for job in (999_998, 999_997):
        stage_in(site, "release", job)
    site.cluster.cancel(running)


def test_what_it_writes_is_its_own(site, alice, push, image) -> None:
    """The names of a job's private files are slurmctld's user's alone; prologs read what is public."""
    job = site.cluster.submit(script(f"image={push(image)}", command="exec sleep 100"), user=alice)
    wait_for(lambda: site.cluster.states(job) == ["RUNNING"])
    state = site.directory / "run/stage-in"
    assert state.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in state.iterdir()} == {0o600}
    [requests] = site.cache.glob(f"jobs/{job}.0/requests.json")
    assert requests.stat().st_uid == site.cache_user.uid
    assert len(json.loads(requests.read_text())["requests"]) == 1
    site.cluster.cancel(job)


def test_other_jobs(site, alice) -> None:
    """A job without an #ENROOT line is not staged in, nor is one with the line below its first command."""
    job = site.cluster.run_job("#!/bin/sh\necho ran\n#ENROOT image=docker://Bad\n", user=alice)
    assert (job.state, job.output) == ("COMPLETED", "ran\n")
    assert job.fields.get("BurstBuffer") is None
    assert "_bb_get_pools" not in (site.cluster.directory / "slurmctld.log").read_text()  # it would complain


def test_slurmctld_of_a_user(slurm_site, alice, push, image) -> None:
    """Where slurmctld is not root's, public images are staged in as its user; a private one holds the job."""
    job = slurm_site.cluster.run_job(script(f"image={push(image)}"), user=alice)
    path = Path(environment(job.output)["ENROOT_SLURM_IMAGE"])
    assert path.is_relative_to(slurm_site.cache)
    assert path.stat().st_uid == slurm_site.cache_user.uid
    with FaultRegistry(auth="basic", users={"alice": "canary-5d"}) as registry:
        slurm_site.configure(insecure_registries=[registry.host])
        alice.write(".config/enroot/.credentials", "machine 127.0.0.1 login alice password canary-5d\n")
        held = slurm_site.cluster.submit(script(f"image={serve(registry, image)}"), user=alice)
        wait_for(lambda: slurm_site.cluster.job(held)["Priority"] == "0")
        reason = slurm_site.cluster.run("squeue", "--noheader", f"--jobs={held}", "--format=%r").stdout
        assert "does not let us read app" in reason
        assert "in place of the #ENROOT line" in reason
    slurm_site.check_clean()


def test_the_admin_comment_is_slurms_users(slurm_site, alice, push, image) -> None:
    """The prolog, which is root's, lets a child that is Slurm's user append the digest."""
    slurm_site.configure(record_in="admincomment")
    job = slurm_site.cluster.run_job(script(f"image={push(image)}"), user=alice)
    digest = environment(job.output)["ENROOT_SLURM_IMAGE_DIGEST"]
    wait_for(lambda: slurm_site.cluster.job(job.id).get("AdminComment") == f"enroot={digest}")
    slurm_site.check_clean()


def test_the_longest_import(slurm_site, alice, image) -> None:
    """After StageInTimeout the import ends and the job is held; released, it is staged in."""
    cluster, go = slurm_site.cluster, threading.Event()
    with FaultRegistry() as registry:
        uri = serve(registry, image)
        registry.fault("/blobs/", stall=go, after=1000)
        slurm_site.configure(insecure_registries=[registry.host])
        job = cluster.submit(script(f"image={uri}"), user=alice)
        wait_for(lambda: cluster.job(job)["Priority"] == "0")
        reason = cluster.run("squeue", "--noheader", f"--jobs={job}", "--format=%r").stdout.strip()
        assert re.search(r"Timeout|slurm_bb_data_in( failed)?:$", reason)  # newer releases don't say why
        wait_for(lambda: importers(slurm_site) == [])
        go.set()
        cluster.run("scontrol", "release", job)
        assert cluster.wait_job(job).state == "COMPLETED"
    slurm_site.check_clean()
