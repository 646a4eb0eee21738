"""The importer for pyxis: in the hands of a driver that does as pyxis does, and of a stand-in on a real cluster."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.archives import docker_members, made_tar
from support.command import serve, wait_for
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.pyxis import Importer, pyxis_standin
from support.site import RUN, Site, Slow

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.slurm import User

pytestmark = pytest.mark.xdist_group("slurm-pyxis")

LINE = "in the image"
CAT = "/bin/cat /etc/test"


@pytest.fixture(scope="module")
def running_site(make_site, start_cluster, installation) -> Iterator[Site]:
    site = make_site()
    (site.directory / "run").mkdir()
    files = installation.slurm_files("burst_buffer.lua", "burst_buffer.conf")
    with pyxis_standin() as pyxis:
        # Our plug-in in the wrong place, behind pyxis: what comes by pyxis' option must not depend on it.
        ours = (installation.etc / "slurm/plugstack.conf.d/enroot-slurm.conf").read_text()
        files["plugstack.conf"] = f"required {pyxis} importer={installation.libexec}/pyxis-importer\n{ours}"
        yield site.start(
            start_cluster,
            nodes=2,
            conf={"BurstBufferType": "burst_buffer/lua"},
            files=files,
            shared={RUN: site.directory / "run"},
        )


@pytest.fixture
def site(running_site: Site, alice: User) -> Iterator[Site]:
    """The cluster with empty caches; after each test no node is drained and nothing is left."""
    running_site.new_cache()
    yield running_site
    running_site.check_clean()
    own = alice.home / ".cache/enroot"
    assert [str(file) for pattern in ("*.tmp", "import-*") for file in own.rglob(pattern)] == []
    shutil.rmtree(own, ignore_errors=True)


@pytest.fixture
def image() -> Image:
    layer = Layer().dirs("bin", "etc", "tmp").file("bin/busybox", Path("/bin/busybox").read_bytes(), 0o755)
    for name in ("cat", "sh", "sleep"):
        layer.symlink(f"bin/{name}", "busybox")
    layer.file("etc/test", f"{LINE}\n".encode())
    return Image([layer.file("etc/random", os.urandom(40_000))])


@pytest.fixture
def slow(site, image) -> Iterator[Slow]:
    with site.slow(image, prolog_deadline=0.5) as slow:
        yield slow


@pytest.fixture
def make_importer(site: Site, alice: User) -> Callable[..., Importer]:
    """A function that makes the driver of our importer; the arguments are `Importer`'s, from the job's number on."""

    def make(job: int, step: str = "", **options: object) -> Importer:
        return Importer(site.cluster, site.installation.libexec / "pyxis-importer", alice, job, step, **options)

    return make


@pytest.fixture
def hooks(site: Site, alice: User) -> Iterator[Callable[[int, str], None]]:
    """A function that runs the prolog of a job of alice's, as slurmd does on n1: hooks(JOB, URI); epilogs follow."""
    jobs = []

    def variables(job: int, uri: str = "") -> dict[str, str]:
        return {
            "SLURM_JOB_ID": str(job),
            "SLURM_JOB_UID": str(alice.uid),
            "SLURM_JOB_GID": str(alice.gid),
            "SLURM_JOB_USER": alice.name,
            "SLURM_JOB_RESTART_COUNT": "0",
            "SLURMD_NODENAME": "n1",
            "SPANK__SLURM_SPANK_OPTION_pyxis_container_image": uri,
        }

    def prolog(job: int, uri: str) -> None:
        jobs.append(job)
        site.cluster.run(site.installation.prolog, node="n1", environment=variables(job, uri))

    yield prolog
    for job in jobs:
        site.cluster.run(site.installation.epilog, node="n1", environment=variables(job))


def status_files(alice: User) -> list[Path]:
    return list((alice.home / ".cache/enroot").glob("jobs/*/import-*.json"))


# By the driver: what pyxis promises, and what it asks for.


@pytest.mark.parametrize("step", ["0", ""], ids=["step", "batch"])
def test_the_image_of_the_prolog(site, alice, push, image, registry, make_importer, hooks, step) -> None:
    """One line with an absolute path, to the image that the prolog has imported; the registry is not asked again."""
    uri = push(image)
    hooks(1001, uri)
    registry.reset()
    importer = make_importer(1001, step)
    said = importer.get(uri)
    assert said.status == 0, said.log
    path = Path(said.line)
    assert path.is_absolute()
    assert path.is_relative_to(site.cache)
    assert said.log == ""
    assert importer.release() == (0, "", "")
    assert path.is_file()
    assert importer.get(uri.replace("#", "/")).line == said.line  # pyxis' users may write it so
    assert registry.requests() == []
    assert status_files(alice) == []


def test_without_a_prolog(site, alice, push, image, registry, make_importer) -> None:
    """The user's own cache gets the image, once; HOME and USER may be missing (--export=NONE)."""
    uri = push(image)
    first = make_importer(1002, "0").get(uri)
    assert first.status == 0, first.log
    assert Path(first.line).is_relative_to(alice.home / ".cache/enroot")
    registry.reset()
    assert make_importer(1002, "1", environment={}).get(uri).line == first.line
    assert registry.count("GET", "/blobs/") == 0
    assert list(site.cache.rglob("*.sqsh")) == []


def test_release(alice, push, image, make_importer) -> None:
    """It may come twice, alone, or after a step that was killed: the path lives, and nothing complains.

    The first call leaves the lease, for a container may be mounted from the file; the second one ends it alone.
    """
    importer, other = make_importer(1003, "0"), make_importer(1003, "1")
    assert importer.release() == (0, "", "")
    path = Path(importer.get(push(image)).line)
    assert other.get(push(image)).line == str(path)
    leases = (alice.home / ".cache/enroot/jobs/1003.0").glob
    assert importer.release() == (0, "", "")
    assert len(list(leases("*.lease"))) == 2
    assert importer.release() == (0, "", "")
    assert [file.name.split(".")[0] for file in leases("*.lease")] == ["n1~1"]
    assert [importer.release() for _ in range(2)] == [(0, "", "")] * 2
    assert len(list(leases("*.lease"))) == 1
    assert path.is_file()


def test_a_step_that_finds_the_image_in_the_sites_cache(site, alice, push, image, make_importer, hooks) -> None:
    """It leases it there, as a visitor: who removes images learns of the job, until the step's second release."""
    uri = push(image)
    hooks(1009, uri)  # brings it there, for another job
    importer = make_importer(1010, "0")
    assert Path(importer.get(uri).line).is_relative_to(site.cache)
    [visit] = (site.cache / "visitors").iterdir()
    assert visit.name.startswith("1010.0~n1~0.")
    assert visit.stat().st_uid == alice.uid
    importer.release()
    assert visit.exists()
    importer.release()
    assert not visit.exists()


def test_steps_without_a_prolog_leave_nothing(site, alice, push, image) -> None:
    """What srun --container-image inside of a job has leased ends with it, in both caches."""
    uri, other = push(image), push(Image([*image.layers, Layer().file("etc/test", b"another\n")]))
    site.cluster.run("srun", f"--container-image={uri}", "cat", "/etc/test", user=alice)
    script = f"""#!/bin/sh
srun --container-image={other} cat /etc/test
srun --container-image={uri} cat /etc/test
srun --overlap --container-image={uri} sleep 100 &
srun --overlap --container-image={other} sleep 100 &
sleep 1
touch ready
wait
"""
    job = site.cluster.submit(script, user=alice)
    wait_for((alice.home / "ready").exists)
    (alice.home / "ready").unlink()
    own = alice.home / ".cache/enroot/jobs"
    wait_for(lambda: len(list(own.glob("*/*.lease"))) == 1)
    wait_for(lambda: len(list((site.cache / "visitors").iterdir())) == 1)
    site.cluster.cancel(job)
    site.cluster.wait_job(job)

    def left() -> list[Path]:
        return [*own.rglob("*"), *(site.cache / "visitors").iterdir()]

    with contextlib.suppress(AssertionError):
        wait_for(lambda: left() == [])
    assert left() == []
    marks = [site.cluster.node_path(node, RUN) / f"steps/{job}.0" for node in site.cluster.nodes]
    assert [path for path in marks if path.exists()] == []


def test_a_killed_step(alice, slow, make_importer) -> None:
    """SIGKILL of an import, then release alone: the status goes, and the next step has its image."""
    registry, uri, go = slow
    importer = make_importer(1004, "0")
    call = importer.begin("get", uri)
    wait_for(lambda: registry.count("/blobs/"))
    wait_for(lambda: status_files(alice))
    call.process.kill()
    said = call.end()
    assert (said.status, said.line) == (-signal.SIGKILL, "")
    assert importer.release() == (0, "", "")
    assert status_files(alice) == []
    go.set()
    assert make_importer(1004, "1").get(uri).status == 0


def test_the_status_file(alice, slow, make_importer) -> None:
    """While it works, people can see how far it is, though pyxis hides what it says."""
    registry, uri, go = slow
    call = make_importer(1005, "3").begin("get", uri)
    wait_for(lambda: registry.count("/blobs/"))
    wait_for(lambda: [f for f in status_files(alice) if json.loads(f.read_text())["expected"]])
    [file] = status_files(alice)
    assert file.stat().st_uid == alice.uid
    fields = json.loads(file.read_text())
    assert (fields["node"], fields["step"], fields["uri"]) == ("n1", "3", uri)
    assert fields["phase"]
    assert fields["received"] < fields["expected"]
    go.set()
    said = call.end()
    assert (said.status, said.log) == (0, "")
    assert status_files(alice) == []


@pytest.mark.parametrize("waiting", [True, False], ids=["waiting", "importing"])
def test_sigterm(site, alice, slow, make_importer, hooks, waiting) -> None:
    """Slurm ends a step: the importer ends at once, whether it waits for the prolog's import or imports itself."""
    registry, uri, go = slow
    if waiting:
        hooks(1006, uri)
    call = make_importer(1006, "0").begin("get", uri)
    wait_for(lambda: registry.count("/blobs/"))
    if waiting:
        wait_for(lambda: any("waiting for the prolog" in f.read_text() for f in status_files(alice)))
    call.process.send_signal(signal.SIGTERM)
    said = call.end()  # though the registry still stalls
    assert (said.status, said.line) == (128 + signal.SIGTERM, "")
    assert status_files(alice) == []
    assert [line for line in site.cluster.processes().values() if "slurm.pyxis" in line] == []
    assert not list((alice.home / ".cache/enroot").rglob("*.tmp"))
    go.set()


def test_it_waits_for_the_prolog(site, slow, make_importer, hooks) -> None:
    """An import that goes on after the prolog's deadline is not doubled."""
    registry, uri, go = slow
    hooks(1007, uri)
    call = make_importer(1007, "0").begin("get", uri)
    wait_for(lambda: any("slurm.pyxis" in line for line in site.cluster.processes().values()))
    go.set()
    said = call.end()
    assert said.status == 0, said.log
    assert Path(said.line).is_relative_to(site.cache)
    assert registry.count("/blobs/") == 2


def test_an_archive(site, alice, make_importer) -> None:
    """pyxis has put docker:// before it; the image is in the user's own cache."""
    here = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    file = alice.home / "archive.tar"
    file.write_bytes(made_tar(docker_members(Image([Layer().file("a")], architecture=here))))
    for uri in (f"docker://docker-archive:{file}", f"docker-archive:{file}:app:1"):
        said = make_importer(1020, "0").get(uri)
        assert said.status == 0, said.log
        assert Path(said.line).is_relative_to(alice.home)
    assert site


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("docker://podman://--help", ["not the name of an image"]),
        ("docker://docker-archive:./x.tar", ["has to be absolute"]),
        ("docker://docker-archive:/dev/stdin", ["a pipe is no image"]),
        ("docker://docker://x", ["docker:// is there twice", "Write docker://x"]),
        ("docker://x y", ["expected one image"]),
        ("docker://x arch=arm64", ["expected one image"]),
        ("docker://-rf", ["not a repository name"]),
        ("docker://$(reboot)", ["not a repository name"]),
        ("docker://a\nb", ["expected one image"]),
        ("docker://a\x1b[31m", ["not a repository name"]),
        ("docker://" + "x" * 5000, ["characters long"]),
        ("docker://user:canary@h.example/x", ["must not hold a password"]),
    ],
)
def test_what_is_no_image(make_importer, uri, said) -> None:
    """What pyxis passes on, whatever it is, gets an answer of its own, in the last lines of the log; no traceback."""
    done = make_importer(1008, "0").get(uri)
    assert (done.status, done.line) == (2, "")
    for text in said:
        assert text in done.log
    assert "Traceback" not in done.log
    assert "canary" not in done.log
    assert len(done.log) < 2000


# By Slurm: with the stand-in as a plug-in.


def test_every_door(site, alice, push, image, registry) -> None:
    """sbatch, srun and salloc: the prolog imports, and the tasks are in the image; a batch script is outside of it."""
    uri = push(image)
    plain = uri.removeprefix("docker://").replace("#", "/")
    registry.reset()
    run = site.cluster.run
    words = [f"--container-image={uri}", "cat", "/etc/test"]
    assert run("srun", "-N2", *words, user=alice).stdout == f"{LINE}\n" * 2
    assert run("salloc", "-N2", f"--container-image={uri}", "srun", "cat", "/etc/test", user=alice).stdout == (
        f"{LINE}\n" * 2
    )
    script = f'#!/bin/sh\n#SBATCH --container-image={plain}\necho "$STANDIN_IMAGE"\nsrun {CAT}\n'
    job = site.cluster.run_job(script, "-N2", user=alice)
    assert job.state == "COMPLETED", job
    path, *lines = job.output.splitlines()
    assert Path(path).is_relative_to(site.cache)
    assert lines == [LINE] * 2
    assert registry.count("GET", "/blobs/") == 2


def test_stage_in_and_another_image(site, alice, push, image, registry) -> None:
    """A step gets what was staged in while the job was pending, without a request; one beside it imports its own image.

    The second one is the user's: nobody but the step has asked for it.
    """
    uri, other = push(image), push(Image([*image.layers, Layer().file("etc/test", b"another\n")]))
    script = f"""#!/bin/sh
#ENROOT image={uri}
srun --overlap --container-image={uri} sh -c '{CAT}; echo $STANDIN_IMAGE' &
wait
touch ready
while [ -e ready ]; do sleep 0.1; done
srun --overlap --container-image={uri} sleep 1 &
srun --overlap --container-image={other} sh -c '{CAT}; echo $STANDIN_IMAGE' &
wait
"""
    job = site.cluster.submit(script, user=alice)
    wait_for(lambda: site.cluster.job(job)["JobState"] == "RUNNING")
    registry.reset()
    wait_for((alice.home / "ready").exists)
    assert registry.requests() == []
    (alice.home / "ready").unlink()
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED", done
    first, path, second, own = done.output.splitlines()
    assert (first, second) == (LINE, "another")
    assert Path(path).is_relative_to(site.cache)
    assert Path(own).is_relative_to(alice.home)


@pytest.mark.parametrize(
    ("status", "headers", "cause", "hint"),
    [
        (401, {"WWW-Authenticate": "Basic realm=x"}, "does not let us read app", "login USER password"),
        (404, {}, "has no tag 1", "Check the spelling"),
        (429, {"Retry-After": "3600"}, "too many requests", "limits how fast"),
    ],
)
def test_refusals(site, alice, image, status, headers, cause, hint) -> None:
    """By each door the cause and a hint are the last lines of the log that pyxis shows; no node is drained."""
    (alice.home / ".config/enroot/.credentials").unlink(missing_ok=True)  # of other tests
    with FaultRegistry() as registry:
        site.configure(insecure_registries=[registry.host])
        uri = serve(registry, image)
        registry.fault("/manifests/", status=status, headers=headers)
        option = f"--container-image={uri}"
        texts = []
        for words in (["srun", option, "true"], ["salloc", "-Q", option, "srun", "true"]):
            done = site.cluster.run(*words, user=alice, check=False)
            assert done.returncode != 0
            texts.append(done.stderr)
        jobs = [site.cluster.submit(CAT, option, user=alice)]
        jobs.append(site.cluster.submit(f"srun {option} {CAT}", user=alice))
        for job in map(site.cluster.wait_job, jobs):
            assert job.state == "FAILED"
            texts.append(job.output)
    for text in texts:
        shown = [line.partition("pyxis:     ")[2] for line in text.splitlines() if "pyxis:     " in line]
        assert any(cause in line for line in shown[-3:]), text
        assert hint in shown[-1], text
        assert LINE not in text


def test_an_import_that_outlives_the_deadline(site, alice, slow) -> None:
    """The importer waits for it; our plug-in, whose task is inside of the container by then, does not."""
    registry, uri, go = slow
    process = site.cluster.start("srun", "-N2", "-n4", f"--container-image={uri}", "cat", "/etc/test", user=alice)
    wait_for(lambda: sum("slurm.pyxis get" in line for line in site.cluster.processes().values()) == 2)
    go.set()
    assert process.communicate(timeout=60) == (f"{LINE}\n" * 4, "")
    assert process.returncode == 0
    assert registry.count("/blobs/") == 2


def test_our_option_behind_pyxis(site, alice, slow) -> None:
    """What our plug-in itself has to wait for then fails, with the reason."""
    other = slow.uri + "-other"
    words = [f"--container-image={slow.uri}", f"--enroot-image={other}"]
    process = site.cluster.start("srun", *words, "cat", "/etc/test", user=alice)
    wait_for(lambda: any("slurm.pyxis get" in line for line in site.cluster.processes().values()))
    slow.go.set()
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (78, "")
    assert "is the line of enroot-slurm behind that of pyxis?" in said


def test_scancel_while_it_waits(site, alice, slow) -> None:
    """A job whose step waits for its image is gone within KillWait, and so are all processes."""
    registry, uri, _ = slow
    site.cluster.start("srun", "-N2", f"--container-image={uri}", "cat", "/etc/test", user=alice)
    wait_for(lambda: any("slurm.pyxis get" in line for line in site.cluster.processes().values()))
    job = int(site.cluster.run("squeue", "--noheader", "--format=%A").stdout)
    site.cluster.run("scancel", job, user=alice)
    site.cluster.wait_job(job)
    wait_for(lambda: site.cluster.processes() == {})  # though the registry still stalls
    assert registry.count("/blobs/") <= 2
