"""The SPANK plug-in on real clusters: with the prolog, without it, and where it can't be loaded."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import serve, wait_for
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.pyxis import pyxis_standin
from support.tools import require_tools

from enroot_slurm.errors import UsageError
from enroot_slurm.slurm.step import main

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.site import Site, Slow

pytestmark = pytest.mark.xdist_group("slurm-spank")

SPANK = Path(__file__).resolve().parents[2] / "etc/slurm/spank"
SHOW = 'echo "$ENROOT_SLURM_IMAGE $ENROOT_SLURM_IMAGE_DIGEST"'


# Without Slurm.


@pytest.fixture(scope="module")
def check(tmp_path_factory: pytest.TempPathFactory) -> Callable[[list[str]], list[str]]:
    """A function that lets the plug-in look at references; what it says to each."""
    require_tools("cc")
    program = tmp_path_factory.mktemp("spank") / "check"
    source = Path(__file__).with_name("spank_harness.c")
    words = ["-I", SPANK, "-o", program, source]
    subprocess.run(["cc", "-std=gnu11", "-Wall", *words], check=True)

    def run(references: list[str]) -> list[str]:
        text = "".join(f"{reference}\n" for reference in references)
        done = subprocess.run([program], input=text, capture_output=True, text=True, check=True)
        return done.stdout.splitlines()

    return run


def refused(uri: str) -> bool:
    """Whether the helper refuses *uri*, which the plug-in asks where a job is submitted."""
    try:
        return main("--check", uri) != 0
    except UsageError:
        return True


def test_it_agrees_with_the_parser(check, vectors) -> None:
    """Of the recorded URIs the plug-in itself refuses nothing that the helper, which has the grammar, would take."""
    uris = [row["uri"] for row in json.loads((vectors / "uris.json").read_text())["rows"]]
    uris = [uri for uri in uris if uri and uri.isascii() and uri.isprintable() and " " not in uri]
    said = dict(zip(uris, check(uris), strict=True))
    assert [uri for uri, why in said.items() if why != "ok" and not refused(uri)] == []
    assert len(said) > 100
    assert {why for why in said.values() if "password" in why or "without an image" in why}


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("nvcr.io", "registry without an image"),
        ("127.0.0.1:5000", "registry without an image"),
        ("localhost:5000", "registry without an image"),
        ("debian:12", "ok"),
        ("nvcr.io#", "'#' cuts off the rest"),
        ("nvcr.io\\#x", "backslash"),
        ("docker://nvcr.io/nvidia/pytorch:25.06-py3", "ok"),
        ("nvcr.io#nvidia/pytorch:25.06-py3", "ok"),
        ("user@nvcr.io#nvidia/pytorch", "ok"),
        ("user:secret@nvcr.io#nvidia/pytorch", "password"),
        ("/images/x.sqsh", "ok"),
        ("./x.sqsh", "ok"),
        ("me@example.com@nvcr.io#nvidia/pytorch", "ok"),
        (f"a/x@sha512:{'ab' * 64}", "ok"),
        ("docker-archive:/data/x.tar:@0", "ok"),
        ("docker://oci:/data/layout:app@x", "ok"),
        ("dockerd://app:1", "ok"),
        ("oci:secret@nvcr.io#x", "password"),
    ],
)
def test_what_it_says(check, reference, said) -> None:
    """A lost image and a password are known even where there is no helper; all else is the helper's to say."""
    assert said in check([reference])[0]


@pytest.mark.parametrize(
    "reference", ["docker-archive:./x", "https://x", "-rf", "$(reboot)", "a/b:c:d", "h:0/x", "x@sha256:12"]
)
def test_what_the_helper_refuses(check, reference) -> None:
    assert check([reference]) == ["ok"]
    assert refused(reference)


def test_it_is_built_without_a_warning(tmp_path) -> None:
    """By the command that the documentation gives, into any place; and it has no symbol that would cost a node."""
    require_tools("cc", "make")
    done = subprocess.run(
        ["make", "-C", SPANK, "install", f"PREFIX={tmp_path}"], check=True, capture_output=True, text=True
    )
    assert done.stderr == ""
    library = tmp_path / "lib/enroot-slurm/spank_enroot_slurm.so"
    symbols = subprocess.run(["nm", "-D", "--defined-only", library], check=True, capture_output=True, text=True)
    exported = {line.split()[-1] for line in symbols.stdout.splitlines()}
    assert {name for name in exported if name.startswith("slurm_spank_")} == {
        "slurm_spank_init",
        "slurm_spank_init_post_opt",
        "slurm_spank_user_init",
        "slurm_spank_task_init",
    }


# With the prolog.


@pytest.fixture(scope="module")
def plugstack(installation) -> str:
    return (installation.etc / "slurm/plugstack.conf.d/enroot-slurm.conf").read_text()


@pytest.fixture(scope="module")
def with_prolog(make_site, start_cluster, plugstack) -> Site:
    return make_site().start(start_cluster, files={"plugstack.conf": plugstack})


@pytest.fixture
def site(with_prolog: Site) -> Iterator[Site]:
    """The cluster with an empty cache; after each test no node is drained and nothing is left."""
    with_prolog.new_cache()
    yield with_prolog
    with_prolog.check_clean()


def plain(uri: str) -> str:
    """*uri* as one writes it in an #SBATCH line."""
    return uri.removeprefix("docker://").replace("#", "/")


def paths(output: str) -> list[Path]:
    """The paths in lines of `SHOW`, each of which has a digest."""
    found = [line.split() for line in output.splitlines() if line]
    assert all(len(words) == 2 and words[1].startswith("sha256:") for words in found), output
    return [Path(words[0]) for words in found]


def test_every_way_to_ask(site, alice, push, image, registry) -> None:
    """#SBATCH, the command lines of sbatch, srun and salloc; the script and its steps have the path; one import."""
    uri = push(image)
    registry.reset()
    run = site.cluster.run
    found = []
    script = f"#!/bin/sh\n#SBATCH --enroot-image={plain(uri)}\n{SHOW}\nsrun /bin/sh -c '{SHOW}'\n"
    jobs = [
        site.cluster.submit(script, "-N2", user=alice),
        site.cluster.submit(script, "--export=NONE", user=alice),
        site.cluster.submit(script.replace(plain(uri), "not/there:1"), f"--enroot-image={uri}", user=alice),
        site.cluster.submit(f"{SHOW}; srun sh -c '{SHOW}'", "--enroot-image", plain(uri), "--array=1-2", user=alice),
    ]
    found += paths(run("srun", "-N2", "-n4", f"--enroot-image={uri}", "sh", "-c", SHOW, user=alice).stdout)
    assert len(found) == 4
    found += paths(run("salloc", "-N2", f"--enroot-image={uri}", "srun", "sh", "-c", SHOW, user=alice).stdout)
    assert len(found) == 6
    for job in jobs:
        done = site.cluster.wait_job(job)
        assert (done.state, done.exit_code) == ("COMPLETED", "0:0"), done
        found += paths(done.output)
    assert len(found) == 6 + 3 + 2 + 2 + 2  # of the array, job() shows the last task
    assert set(found) == {found[0]}
    assert found[0].is_relative_to(site.cache)
    assert registry.count("GET", "/blobs/") == 2


def test_a_heterogeneous_job(site, alice, push, image) -> None:
    """All components have one image; two are refused, for Slurm would give one of them to all tasks."""
    uri = push(image)
    step = ["-n1", "sh", "-c", SHOW]
    out = site.cluster.run("srun", f"--enroot-image={uri}", *step, ":", *step, user=alice).stdout
    assert len(paths(out)) == 2
    other = [":", "--enroot-image=other", *step]
    done = site.cluster.run("srun", f"--enroot-image={uri}", *step, *other, user=alice, check=False)
    assert "all components of a heterogeneous job have the same image" in done.stderr
    script = f"""#!/bin/sh
#SBATCH -n1 --enroot-image={plain(uri)}
#SBATCH hetjob
#SBATCH -n1
srun --het-group=0,1 sh -c '{SHOW}'
"""
    job = site.cluster.run_job(script, user=alice)
    assert len(set(paths(job.output))) == 1
    assert len(paths(job.output)) == 2


def test_two_images_and_another(site, alice, push, image) -> None:
    """A job with two images, and a step with another one: by their names, and beside each other (--overlap)."""
    first, second, third = push(image), push(Image([Layer().file("b", b"b")])), push(Image([Layer().file("c", b"c")]))
    show = f"{SHOW}; {SHOW.replace('IMAGE', 'IMAGE_TOOLS')}"
    script = f"""#!/bin/sh
#SBATCH --enroot-image="{first} {second} name=tools"
srun --overlap sh -c '{show}; sleep 0.2' &
srun --overlap --enroot-image={third} sh -c '{SHOW}'
wait
"""
    job = site.cluster.run_job(script, user=alice)
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job
    found = paths(job.output)
    assert len(found) == 3
    assert len(set(found)) == 3
    # What only a step asks for is imported by the user: the prolog was over.
    assert [path.is_relative_to(site.cache) for path in found].count(True) == 2
    shutil.rmtree(alice.home / ".cache/enroot")


def test_a_requeued_job(site, alice, push, image) -> None:
    """A requeued job asks again, and gets the record of its new start."""
    uri = push(image)
    script = f'{SHOW}; echo restart $SLURM_RESTART_COUNT; [ -n "$SLURM_RESTART_COUNT" ] || exec sleep 100'
    job = site.cluster.submit(script, "-w", "n1", "--requeue", f"--enroot-image={uri}", user=alice)
    wait_for(lambda: "restart" in site.cluster.output(job, alice.home))
    site.cluster.wait_for_state(job, "RUNNING")  # slurmctld may hear of the start later than we see the output
    site.cluster.run("scontrol", "requeue", job)
    wait_for(lambda: site.cluster.job(job)["Reason"] == "BeginTime")
    site.cluster.run("scontrol", "update", f"jobid={job}", "reqnodelist=n2", "starttime=now")
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED"
    assert done.output.endswith("restart 1\n")
    assert len(paths(done.output.partition("restart")[0])) == 1


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("127.0.0.1:5000", "a '#' cuts off the rest"),
        ("nvcr.io/Nvidia/x", "lower case"),
        ("", "expected 1 to"),
        (" ", "an image is missing"),
        ("$(touch /tmp/owned)", "reference"),
        ("-x", "begins like an option"),
        ("a\nb", "printable"),
        ("é", "printable"),
        ("x" * 5000, "characters long"),
        ("x" * 9000, "expected 1 to"),
        ("name=x", "must follow its image"),
        ("docker://user:canary@h.example/x", "password"),
    ],
)
def test_refused_at_submit(site, alice, text, said) -> None:
    """srun, sbatch and salloc say what is wrong, and nothing is submitted."""
    for command in (["srun", "true"], ["salloc", "true"], ["sbatch", "--wrap=true"]):
        done = site.cluster.run(command[0], f"--enroot-image={text}", *command[1:], user=alice, check=False)
        assert done.returncode not in {0, 78}
        assert "error: enroot-slurm: " in done.stderr
        assert said in done.stderr or said == "reference"
    assert site.cluster.run("squeue", "--noheader").stdout == ""


def test_a_blocked_image_is_refused_at_submit(site, alice) -> None:
    """srun, sbatch and salloc name the list and its file, and nothing is submitted."""
    site.configure(blocked_images=["registry.bad/team"])
    for command in (["srun", "true"], ["salloc", "true"], ["sbatch", "--wrap=true"]):
        option = "--enroot-image=registry.bad/team/x:1"
        done = site.cluster.run(command[0], option, *command[1:], user=alice, check=False)
        assert done.returncode not in {0, 78}
        assert "registry.bad/team/x:1 may not be used: blocked_images has registry.bad/team (" in done.stderr
    assert site.cluster.run("squeue", "--noheader").stdout == ""


def test_an_image_that_is_not_there(site, alice, bob, push, image) -> None:
    """The cause and a hint are in the job's own stderr, once per node; the task's status is 78; no node is drained."""
    uri = push(image) + "-typo"
    done = site.cluster.run("srun", "-n4", f"--enroot-image={uri}", "echo", "ran", user=alice, check=False)
    assert done.returncode == 78
    assert done.stdout == ""
    assert done.stderr.count("has no tag t1-typo") == 1
    assert "  Check the spelling." in done.stderr
    job = site.cluster.run_job("echo ran", f"--enroot-image={uri}", user=alice)
    assert (job.state, job.exit_code) == ("FAILED", "78:0")
    assert "has no tag t1-typo" in job.output
    assert "ran" not in job.output
    with FaultRegistry(auth="basic", users={"alice": "canary-91"}) as private:
        site.configure(insecure_registries=[private.host])
        alice.write(".config/enroot/.credentials", "machine 127.0.0.1 login alice password canary-91\n")
        uri = serve(private, image)
        words = ["salloc", f"--enroot-image={uri}", "srun", "sh", "-c", SHOW]
        [path] = paths(site.cluster.run(*words, user=alice).stdout)
        assert path.is_relative_to(alice.home)
        done = site.cluster.run(*words, user=bob, check=False)
        assert done.returncode == 78
        assert "does not let us read app" in done.stderr
        assert "login USER password" in done.stderr
    assert "canary" not in site.cluster.logs(10_000)


@pytest.mark.parametrize(
    ("status", "headers", "cause", "hint"),
    [
        (401, {"WWW-Authenticate": "Basic realm=x"}, "does not let us read app", "login USER password"),
        (404, {}, "has no tag 1", "Check the spelling"),
        (429, {"Retry-After": "3600"}, "too many requests", "limits how fast"),
    ],
)
def test_refusals(site, alice, image, status, headers, cause, hint) -> None:
    """By srun, sbatch, salloc and in a step of a job without an image: the cause, a hint, and 78; nothing runs."""
    (alice.home / ".config/enroot/.credentials").unlink(missing_ok=True)  # of other tests
    with FaultRegistry() as registry:
        site.configure(insecure_registries=[registry.host])
        uri = serve(registry, image)
        registry.fault("/manifests/", status=status, headers=headers)
        option = f"--enroot-image={uri}"
        texts = []
        for words in (["srun", option, "echo", "ran"], ["salloc", "-Q", option, "srun", "echo", "ran"]):
            done = site.cluster.run(*words, user=alice, check=False)
            assert (done.returncode, done.stdout) == (78, "")
            texts.append(done.stderr)
        jobs = [site.cluster.submit(f"srun {option} echo ran", user=alice)]
        jobs.append(site.cluster.submit("echo ran", option, user=alice))
        for job in map(site.cluster.wait_job, jobs):
            assert (job.state, job.exit_code) == ("FAILED", "78:0")
            assert "ran" not in job.output
            texts.append(job.output)
    for text in texts:
        assert text.count(cause) == 1, text
        assert hint in text, text


@pytest.fixture
def slow(site, image) -> Iterator[Slow]:
    with site.slow(image, prolog_deadline=0.5) as slow:
        yield slow


def test_it_waits_for_a_running_import(site, alice, slow) -> None:
    """When the prolog's deadline is over, each task waits for the import that goes on."""
    registry, uri, go = slow
    waiting = site.cluster.start("srun", "-Q", "-N2", "-n4", f"--enroot-image={uri}", "sh", "-c", SHOW, user=alice)
    wait_for(lambda: len([line for line in site.cluster.processes().values() if "slurm.step" in line]) >= 4)
    go.set()
    out, err = waiting.communicate(timeout=30)
    assert err == ""
    assert len(paths(out)) == 4
    assert registry.count("/blobs/") == 2


@pytest.mark.parametrize("door", ["srun", "sbatch"])
def test_scancel_while_it_waits(site, alice, slow, door) -> None:
    """A job that is cancelled while its tasks wait is gone within KillWait, and so are all processes."""
    registry, uri, _ = slow
    if door == "srun":
        site.cluster.start("srun", "-n2", f"--enroot-image={uri}", "echo", "ran", user=alice)
    else:
        site.cluster.submit("echo ran", f"--enroot-image={uri}", user=alice)
    wait_for(lambda: any("slurm.step docker" in line for line in site.cluster.processes().values()))
    job = int(site.cluster.run("squeue", "--noheader", "--format=%A").stdout)
    site.cluster.cancel(job)
    site.cluster.wait_job(job)  # the registry still stalls: who waits for it was ended
    assert registry.count("/blobs/", status=200) <= 2
    assert site.cluster.output(job, alice.home).count("ran") == 0


def test_a_helper_that_is_killed(site, alice, slow) -> None:
    """However the helper ends without an image, the job's stderr says so, once for each node; tasks end with 78."""
    process = site.cluster.start("srun", "-n2", f"--enroot-image={slow.uri}", "echo", "ran", user=alice)

    def helpers() -> list[int]:
        return [pid for pid, line in site.cluster.processes().items() if "slurm.step docker" in line]

    wait_for(lambda: len(helpers()) == 2)
    for pid in helpers():
        os.kill(pid, signal.SIGKILL)
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (78, "")
    assert said.count("was ended by signal 9 (Killed), and the image is not there") == 1


def test_a_waiting_user_sees_how_far_it_is(site, alice, slow) -> None:
    """A line when it has begun to wait, once for a job; and what enroot-slurm status tells is the same."""
    process = site.cluster.start("srun", "-N2", f"--enroot-image={slow.uri}", "echo", "ran", user=alice)
    wait_for(lambda: len(list(site.cache.glob("jobs/*/import-*.json"))) >= 1)
    wait_for(lambda: len([1 for line in site.cluster.processes().values() if "slurm.step docker" in line]) == 2)
    wait_for(lambda: len(list(alice.home.glob(".cache/enroot/jobs/*/import-*.json"))) == 2)
    status = [site.installation.program() / "enroot-slurm", "status"]
    told = site.cluster.run(*status, user=alice).stdout
    assert re.search(rf"job [0-9]+ on n[12] \(prolog\): {slow.uri}: .*, [0-9]+ %, .*downloaded ", told), told
    slow.go.set()
    out, said = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ran\n" * 2)
    assert len(re.findall(rf"enroot-slurm: {slow.uri}: waiting for the prolog: .*[0-9] %", said)) == 1, said
    assert site.cluster.run(*status, user=alice).stdout == ""


def test_what_pyxis_waits_for_is_told(make_site, start_cluster, installation, plugstack, alice, image) -> None:
    """pyxis hides what its importer says; our plug-in before it tells on the task's stderr, and ends."""
    with pyxis_standin() as pyxis:
        line = f"required {pyxis} importer={installation.libexec}/pyxis-importer\n"
        site = make_site(prolog_deadline=0.5)
        site.start(start_cluster, nodes=1, files={"plugstack.conf": f"{plugstack}{line}"})
        with site.slow(image) as slow:
            words = ["srun", "-n2", f"--container-image={slow.uri}", "/a"]
            process = site.cluster.start(*words, user=alice)
            wait_for(lambda: list(site.cache.glob("jobs/*/import-*.json")))
            wait_for(lambda: any("slurm.step --tell" in line for line in site.cluster.processes().values()))
            assert f"enroot-slurm: {slow.uri}: " in process.stderr.readline()
            slow.go.set()
            process.communicate(timeout=60)
        wait_for(lambda: site.cluster.processes() == {})
        site.check_clean()


def test_a_site_in_trouble(site, alice, push, image) -> None:
    """When the shared cache can't be written, or the registry is down, a step helps itself; or goes on, if told so."""
    uri = push(image)
    site.cache.chmod(0o555)
    [path] = paths(site.cluster.run("srun", f"--enroot-image={uri}", "sh", "-c", SHOW, user=alice).stdout)
    assert path.is_relative_to(alice.home)
    shutil.rmtree(alice.home / ".cache/enroot")
    site.cache.chmod(0o755)
    down = "docker://127.0.0.1:1/x/y:1"
    site.configure(insecure_registries=["127.0.0.1:1"], connect_timeout=2)
    done = site.cluster.run("srun", f"--enroot-image={down}", "echo", "ran", user=alice, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert "127.0.0.1:1" in done.stderr
    site.configure(insecure_registries=["127.0.0.1:1"], connect_timeout=2, on_site_failure="continue")
    done = site.cluster.run("srun", f"--enroot-image={down}", "sh", "-c", SHOW, user=alice)
    assert done.stdout == " \n"
    assert "going on without docker://127.0.0.1:1#x/y:1" in done.stderr


def test_no_image_costs_nothing(site, alice) -> None:
    """A job without an image starts no program of ours."""
    out = site.cluster.run("srun", "-N3", "sh", "-c", "env", user=alice).stdout
    assert "ENROOT_SLURM" not in out
    assert site.cluster.run("srun", "--enroot-image=/etc/hostname", "sh", "-c", SHOW, user=alice).stdout == (
        "/etc/hostname \n"
    )


# Without the prolog, and without the plug-in.


@pytest.fixture(scope="module")
def without_prolog(make_site, start_cluster, installation) -> Site:
    site: Site = make_site()
    line = f"optional {installation.plugin} helper={installation.libexec}/step option=container-image\n"
    wrong = f"optional {site.directory}/other.so\noptional {site.directory}/missing.so\n"
    build_for_another_slurm(site.directory)
    site.cluster = start_cluster(
        nodes=2, files={"plugstack.conf": wrong + line}, shared={"/etc/enroot-slurm": site.etc}
    )
    return site


def build_for_another_slurm(directory: Path) -> None:
    """The plug-in as ``other.so``, built for a Slurm of another major release."""
    require_tools("cc", "make")
    headers = directory / "other/include/slurm"
    shutil.copytree("/usr/include/slurm", headers)
    for header in headers.iterdir():
        text = header.read_text()
        if "define SLURM_VERSION_NUMBER" in text:
            line = next(line for line in text.splitlines() if "define SLURM_VERSION_NUMBER" in line)
            header.write_text(text.replace(line, "#define SLURM_VERSION_NUMBER 0x140B00"))
    command = ["make", "-s", "-C", SPANK, "install", f"LIBDIR={directory}", f"SLURM={directory}/other"]
    subprocess.run(command, check=True)
    (directory / "spank_enroot_slurm.so").rename(directory / "other.so")


def own(text: str) -> str:
    """*text* without what Slurm says to plug-ins that it can't load."""
    return "".join(
        line for line in text.splitlines(keepends=True) if "plugstack.conf" not in line and "plugin" not in line
    )


def test_plugins_that_cannot_be_loaded(without_prolog, alice) -> None:
    """One of another Slurm costs a warning, and one that is missing too, at most; jobs run."""
    done = without_prolog.cluster.run("srun", "-N2", "echo", "ran", user=alice)
    assert done.stdout == "ran\nran\n"
    assert re.search("Incompatible (Slurm )?plugin .*version", done.stderr)
    assert without_prolog.cluster.sinfo_reasons() == ""


def test_steps_help_themselves(without_prolog, alice, push, image, registry) -> None:
    """Without a prolog the first step imports as the user; the option may be called container-image."""
    uri = push(image)
    registry.reset()
    cluster = without_prolog.cluster
    done = cluster.run("srun", "-Q", "-N2", "-n4", f"--container-image={uri}", "sh", "-c", SHOW, user=alice)
    assert own(done.stderr) == ""
    found = paths(done.stdout)
    assert len(found) == 4
    done = cluster.run("salloc", f"--container-image={uri}", "srun", "--export=NONE", "/bin/sh", "-c", SHOW, user=alice)
    found += paths(done.stdout)
    script = f"#!/bin/sh\n#SBATCH --container-image={plain(uri)}\n{SHOW}\nsrun /bin/sh -c '{SHOW}'\n"
    for option in ("--export=ALL", "--export=NONE"):
        job = cluster.run_job(script, option, user=alice)
        assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job
        found += paths(own(job.output))
    assert len(found) == 9
    assert set(found) == {found[0]}
    assert found[0].is_relative_to(alice.home)
    assert registry.count("GET", "/blobs/") == 2
    done = cluster.run("srun", "-n2", f"--container-image={uri}-typo", "echo", "ran", user=alice, check=False)
    assert (done.returncode, done.stdout) == (78, "")
    assert done.stderr.count("has no tag") == 1
    without_prolog.check_clean(records=False)
