"""The prolog and the epilog on a real cluster: one import for all, and no drained node whatever goes wrong."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.archives import docker_members, made_tar
from support.attached import attach, write_policy
from support.calls import STRACE, calls_in
from support.command import serve, wait_for
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.signing import Repository, Signer
from support.site import RUN, Site, Slow
from support.tools import require_tools

from enroot_slurm.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.slurm import User

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
pytestmark = pytest.mark.xdist_group("slurm-prolog")


class PrologSite(Site):
    """A site whose jobs ask in their comments; and what the prolog notes for them."""

    def record(self, job: int, node: str = "n1", restart: int = 0) -> list[dict[str, Any]]:
        """The results in a job's record on *node*; empty if there is none."""
        path = self.cluster.node_path(node, RUN) / f"{job}.{restart}.json"
        if not path.exists():
            return []
        return [line for line in map(json.loads, path.read_text().splitlines()) if "uri" in line]


@pytest.fixture(scope="module")
def running_site(make_site, start_cluster, installation) -> Iterator[PrologSite]:
    site = make_site("127.0.0.1:1", kind=PrologSite, comment_requests="yes")
    (site.directory / "disk").mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=755", "none", site.directory / "disk"], check=True)
    conf = {"PrologEpilogTimeout": "90", "JobSubmitPlugins": "lua"}
    files = installation.slurm_files("job_submit.lua")
    check = f'"{installation.libexec}/step --check"'
    files["job_submit.lua"] = files["job_submit.lua"].replace("CHECK = nil", f"CHECK = {check}")
    yield site.start(start_cluster, conf=conf, files=files)
    subprocess.run(["umount", "-l", site.directory / "disk"], check=True)


@pytest.fixture
def image() -> Image:
    return Image([Layer().file("a", os.urandom(40_000)), Layer().file("b", os.urandom(40_000))])


@pytest.fixture
def site(running_site: PrologSite) -> Iterator[PrologSite]:
    """The cluster with an empty cache; after each test no node is drained and nothing is left."""
    running_site.new_cache()
    yield running_site
    running_site.check_clean()


STEP = """\
import json, os, sys
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.slurm import Job, Record, Request
from pathlib import Path

job = Job.from_environ(os.environ)
record = Record.find(Path("/run/enroot-slurm"), job.id)
request = record.requests[0] if record.requests else Request(record.results[0].uri)
result = record.wait(request, 30)
print(json.dumps(result and result._asdict()))
"""


@pytest.fixture(scope="module")
def step(running_site: PrologSite) -> list[str]:
    """A command with which a step prints what became of the job's first image, waiting for it if it must."""
    file = running_site.cluster.directory / "step.py"
    file.write_text(STEP)
    return [str(running_site.installation.python), "-I", str(file)]


def ask(site: PrologSite, user: User, uri: str, *command: str, nodes: int = 1, **options: Any) -> str:
    """The output of a step of a job that asks for *uri* in its comment."""
    words = ["srun", "-Q", f"-N{nodes}", f"--comment=enroot:{uri}", *(command or ["true"])]
    done = site.cluster.run(*words, user=user, **options)
    assert done.stderr == ""
    return done.stdout


def result_of(site: PrologSite, user: User, uri: str) -> dict[str, Any]:
    """The result that the prolog notes for *uri*, as the job's user reads it."""
    lines = ask(site, user, uri, "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json").splitlines()
    [result] = [fields for fields in map(json.loads, lines) if "uri" in fields]
    return result


# One import for all.


def test_one_import_for_all_nodes(site, alice, push, registry, image) -> None:
    """Three nodes, one job: each blob is fetched once, the tag is resolved once, and each node has the record."""
    uri = push(image)
    registry.reset()
    script = f"srun sh -c 'cat {RUN}/$SLURM_JOB_ID.0.json'"
    job = site.cluster.run_job(script, "-N3", f"--comment=enroot:{uri}", user=alice)
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), job
    paths = [line["path"] for line in map(json.loads, job.output.splitlines()) if "path" in line]
    assert len(paths) == 3
    assert len(set(paths)) == 1
    assert Path(paths[0]).is_relative_to(site.cache)
    assert registry.count("GET", "/blobs/") == 3  # the config and two layers
    assert registry.count("GET", "/manifests/") == 1
    ask(site, alice, uri, nodes=3)
    assert registry.count("GET", "/blobs/") == 3


def test_a_node_that_comes_later(site, alice, push, registry, image) -> None:
    """A node that was not there when the image was imported has it all the same."""
    uri = push(image)
    site.cluster.stop_node("n3")
    path = result_of(site, alice, uri)["path"]
    site.cluster.start_node("n3")
    registry.reset()
    out = ask(site, alice, uri, "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json", nodes=3)
    assert out.count(f'"{path}"') == 3
    assert registry.count("GET", "/blobs/") == 0


def test_without_locks(site, alice, push, image) -> None:
    """Locks that do nothing cost double work, and no image: of a job on three nodes, and of an array."""
    site.configure(locks="no")
    array = site.cluster.submit(
        "grep -c path " + RUN + "/$SLURM_JOB_ID.0.json", "--array=1-20", f"--comment=enroot:{push(image)}", user=alice
    )
    assert set(site.cluster.wait_job(array).output.split()) == {"1"}
    assert site.cluster.states(array) == ["COMPLETED"] * 20
    site.new_cache()
    site.configure(locks="no")
    out = ask(site, alice, push(image), "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json", nodes=3)
    paths = [line["path"] for line in map(json.loads, out.splitlines()) if "path" in line]
    assert len(paths) == 3
    assert len(set(paths)) == 1


def test_array_of_jobs(site, alice, push, registry, image) -> None:
    """A hundred tasks on three nodes: one import."""
    uri = push(image)
    registry.reset()
    job = site.cluster.run_job("true", "--array=1-100", f"--comment=enroot:{uri}", user=alice)
    assert site.cluster.states(job.id) == ["COMPLETED"] * 100
    assert registry.count("GET", "/blobs/") == 3


def test_two_jobs_on_one_node(site, alice, bob, push, registry, image) -> None:
    """Two users ask for one public image on one node: one import, and each can read the own record only."""
    uri = push(image)
    registry.reset()
    script = f"cat {RUN}/$SLURM_JOB_ID.0.json; cat {RUN}/*.json > all.txt 2> refused.txt; sleep 1"
    words = ["-w", "n1", f"--comment=enroot:{uri}"]
    jobs = [site.cluster.submit(script, *words, user=user) for user in (alice, bob)]
    done = [site.cluster.wait_job(job) for job in jobs]
    assert [job.output.count('"path"') for job in done] == [1, 1]
    assert registry.count("GET", "/blobs/") == 3
    refused = [(user.home / "refused.txt").read_text() for user in (alice, bob)]
    assert any("Permission denied" in text for text in refused)


def test_several_images_in_one_job(site, alice, push, image) -> None:
    """The comment and pyxis' option, or two comments, are both imported."""
    uris = [push(image), push(Image([Layer().file("c", b"c")]))]
    comment = " ".join(f"enroot:{uri}" for uri in uris)
    out = site.cluster.run("srun", f"--comment={comment}", "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json", user=alice)
    paths = [line["path"] for line in map(json.loads, out.stdout.splitlines()) if "path" in line]
    assert len(set(paths)) == 2


def test_leases_end_with_the_job(site, alice, push, image) -> None:
    """While a job runs, its image is leased; the epilog ends that, and removes the record."""
    job = site.cluster.submit("exec sleep 100", "-N2", f"--comment=enroot:{push(image)}", user=alice)
    wait_for(lambda: len(list(site.cache.glob(f"jobs/{job}.0/*.lease"))) == 2 and site.record(job))
    site.cluster.cancel(job)
    site.cluster.wait_job(job)
    wait_for(lambda: site.left() == [])
    assert not site.record(job)


def test_requeue(site, alice, push, image, registry) -> None:
    """A requeued job gets a record of its own, and the old one goes."""
    uri = push(image)
    job = site.cluster.submit("exec sleep 100", "-w", "n1", f"--comment=enroot:{uri}", user=alice)
    wait_for(lambda: site.record(job))
    site.cluster.run("scontrol", "requeue", job)
    site.cluster.wait_for_state(job, "PENDING")
    wait_for(lambda: site.left() == [])
    # Slurm would wait two minutes before it starts it again, for a node may refuse a job that it has just ended.
    wait_for(lambda: site.cluster.job(job)["Reason"] == "BeginTime")
    site.cluster.run("scontrol", "update", f"jobid={job}", "reqnodelist=n2", "starttime=now")
    wait_for(lambda: site.record(job, "n2", restart=1))


def test_other_kinds_of_jobs(site, alice, push, image) -> None:
    """salloc with srun inside, overlapping steps, and a heterogeneous job with an image for each component."""
    uri, other = push(image), push(Image([Layer().file("h", b"h")]))
    show = ["sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json"]
    words = ["salloc", "-Q", "-N2", f"--comment=enroot:{uri}", "srun", "--overlap", *show]
    assert site.cluster.run(*words, user=alice).stdout.count('"path"') == 2
    words = ["srun", "-w", "n1", f"--comment=enroot:{uri}", *show, ":", "-w", "n2", f"--comment=enroot:{other}", "true"]
    [line] = [
        fields
        for fields in map(json.loads, site.cluster.run(*words, user=alice).stdout.splitlines())
        if "path" in fields
    ]
    assert line["uri"] == uri
    assert len(list(site.cache.rglob("*.sqsh"))) >= 2


# Users' mistakes.


def test_an_array_with_a_typo(site, alice, push, registry, image) -> None:
    """A hundred tasks ask for a tag that is not there: the registry is asked by the first ones, and no node drains."""
    uri = push(image) + "-typo"
    registry.reset()
    job = site.cluster.run_job(
        "cat " + RUN + "/$SLURM_JOB_ID.0.json", "--array=1-100", f"--comment=enroot:{uri}", user=alice
    )
    assert site.cluster.states(job.id) == ["COMPLETED"] * 100
    assert '"NotFound"' in job.output
    # Three nodes of 16 processors begin 48 tasks at once. Some more begin before the first failure is noted, where a
    # machine is busy; those that begin after it ask nobody.
    assert registry.count("GET", "/manifests/") < 100


@pytest.mark.parametrize(
    ("status", "headers", "kind", "fault"),
    [
        (401, {}, "AccessDenied", "user"),
        (404, {}, "NotFound", "user"),
        (429, {"Retry-After": "3600"}, "RateLimited", "site"),
        (500, {}, "NetworkError", "site"),
    ],
)
def test_refusals(site, alice, image, status, headers, kind, fault) -> None:
    """What a registry refuses is in the record, with whose fault it is."""
    with FaultRegistry() as registry:
        site.configure(insecure_registries=[registry.host])
        uri = serve(registry, image)
        registry.fault("/manifests/", status=status, headers=headers)
        failure = result_of(site, alice, uri)["failure"]
        assert (failure["kind"], failure["fault"]) == (kind, fault)
        assert failure["message"]


def test_lists_hold_in_the_prolog(site, alice, image) -> None:
    """An image that the site does not allow costs its job, and nobody is asked; a user's list is asked in the step."""
    with FaultRegistry() as registry:
        site.configure(insecure_registries=[registry.host], allowed_images=["docker.io"])
        uri = serve(registry, image)
        failure = result_of(site, alice, uri)["failure"]
        assert (failure["kind"], failure["fault"]) == ("ImageRefused", "user")
        assert "it is not among allowed_images (/etc/enroot-slurm/config.yaml:" in failure["message"]
        assert registry.requests == []


def test_mirrors_of_the_site_alone(site, alice, image) -> None:
    """The site's mirror serves what goes into its cache; what the user's files name is not asked at all."""
    with FaultRegistry() as primary, FaultRegistry() as mirror, FaultRegistry() as evil:
        uri = serve(primary, image)
        serve(mirror, image, "hub/app")
        serve(evil, image, "hub/app")
        own = alice.home / ".config/containers/registries.conf"
        own.parent.mkdir(parents=True, exist_ok=True)
        own.write_text(f'[[registry]]\nlocation = "{primary.host}"\nmirror = [{{location = "{evil.host}/hub"}}]\n')
        hosts = [each.host for each in (primary, mirror, evil)]
        site.configure(insecure_registries=hosts, mirrors={primary.host: [f"{mirror.host}/hub"]})
        try:
            result = result_of(site, alice, uri)
        finally:
            own.unlink()
        assert Path(result["path"]).is_relative_to(site.cache)
        assert json.loads(Path(result["path"]).with_suffix(".json").read_text())["endpoint"] == f"{mirror.host}/hub/app"
        assert primary.requests == evil.requests == []


def test_a_policy_holds_in_the_prolog(site, alice, image) -> None:
    """A signed image comes into the site's cache; an unsigned one costs its job, and is asked for once."""
    signer, digest = Signer(), Digest.of(image.manifest())
    with FaultRegistry() as registry:
        policy = write_policy(site.etc / "policy.json", f"{registry.host}/app", signer)
        named = json.loads(policy.read_text())
        (requirement,) = named["transports"]["docker"][f"{registry.host}/app"]
        requirement["keyPath"] = "/etc/enroot-slurm/policy.pub"
        policy.write_text(json.dumps(named))
        site.configure(insecure_registries=[registry.host], signature_policy="/etc/enroot-slurm/policy.json")
        uri = serve(registry, image)
        failure = result_of(site, alice, uri)["failure"]
        assert (failure["kind"], failure["fault"]) == ("ImageRefused", "user")
        assert "is not signed" in failure["message"]
        assert "/etc/enroot-slurm/policy.json" in failure["message"]
        assert registry.count(r"\.sig$") == 1
        assert registry.count("/blobs/") == 0
        signatures = Repository()
        signatures.sign(digest, f"{registry.host}/app", signer)
        attach(signatures, registry, "app")
        site.configure(
            insecure_registries=[registry.host], signature_policy="/etc/enroot-slurm/policy.json", failure_ttl=0
        )
        assert result_of(site, alice, uri)["path"].startswith(str(site.cache))
        asked = registry.count(r"\.sig$")
        assert result_of(site, alice, uri)["path"].startswith(str(site.cache))
        assert registry.count(r"\.sig$") == asked


@pytest.mark.parametrize(
    "text",
    [
        "$(touch${IFS}/tmp/owned)",
        "-rf",
        "--help",
        "-a\nb",
        "x" * 900,
        "docker://a:b:c",
        "docker://u:secret@h/x",
        "é#ü",
        "%s%n",
    ],
    ids=["command", "option", "long-option", "newline", "long", "colons", "password", "unicode", "format"],
)
def test_hostile_references(site, alice, text) -> None:
    """Whatever a user writes costs that job only: the record has the refusal, and the node goes on."""
    out = site.cluster.run(
        "srun", f"--comment=enroot:{text}", "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json", user=alice
    )
    [result] = [fields for fields in map(json.loads, out.stdout.splitlines()) if "uri" in fields]
    assert result["failure"]["fault"] == "user"
    assert out.stdout.isascii()
    assert "secret" not in out.stdout


# job_submit.lua.


def test_too_many_images(site, alice, registry) -> None:
    """A comment that asks for more images than a job may have: no registry is asked for any of them."""
    registry.reset()
    comment = " ".join(f"enroot:{registry.host}/x/i{number}" for number in range(33))
    out = site.cluster.run("srun", f"--comment={comment}", "sh", "-c", f"cat {RUN}/$SLURM_JOB_ID.0.json", user=alice)
    [failure] = [fields["failure"] for fields in map(json.loads, out.stdout.splitlines()) if "failure" in fields]
    assert "32 are the most for a job" in failure["message"]
    assert failure["fault"] == "user"
    assert registry.count("GET", "/x/") == registry.count("HEAD", "/x/") == 0


def test_lines_of_a_script_become_the_comment(site, alice, push, image, registry) -> None:
    """``#ENROOT image=REF`` asks the prolog for an image, several for several, and a comment of the user's stays."""
    uris = [push(image), push(Image([Layer().file("l", b"l")]))]
    plain = [uri.removeprefix("docker://").replace("#", "/") for uri in uris]
    script = f"""#!/bin/sh
# a comment
#ENROOT image={plain[0]}
#SBATCH --comment="my own words"

#ENROOT   image=docker://{plain[1]}
cat {RUN}/$SLURM_JOB_ID.0.json
#ENROOT image=not/a/directive
"""
    job = site.cluster.run_job(script, user=alice)
    results = [fields for fields in map(json.loads, job.output.splitlines()) if "uri" in fields]
    assert [result["uri"] for result in results] == uris
    assert all(Path(result["path"]).is_relative_to(site.cache) for result in results)
    shown = site.cluster.run("scontrol", "show", "job", job.id).stdout
    assert f"Comment=my own words enroot:{plain[0]} enroot:docker://{plain[1]}" in shown
    job = site.cluster.run_job("#!/bin/sh\n#ENROOTED image=Bad\necho ran\n", "--comment=mine", user=alice)
    assert (job.output, job.fields["Comment"]) == ("ran\n", "mine")


def test_a_blocked_image_is_refused_where_a_job_is_submitted(site, alice) -> None:
    """sbatch says which list of which file has it, if the site lets job_submit.lua ask."""
    site.configure(blocked_images=["registry.bad/team"])
    script = "#!/bin/sh\n#ENROOT image=registry.good/x\n#ENROOT image=registry.bad/team/x:1\ntrue\n"
    done = site.cluster.run("sbatch", user=alice, input=script, check=False)
    assert done.returncode == 1
    assert "registry.bad/team/x:1 may not be used: blocked_images has registry.bad/team" in done.stderr
    assert site.cluster.run("squeue", "--noheader").stdout == ""


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("image=docker://$(touch${IFS}/tmp/owned)", "it is not a reference of an image"),
        ("image=-rf", "it is not a reference of an image"),
        ("image=docker://user:canary@h.example/x", "a login must not hold a password"),
        ("image=nvcr.io/", "the image is missing after the registry"),
        ("image=" + "x" * 3000, "longer than 2100"),
        ("image=" + " x" * 20_000, "longer than 2100"),
        ("image=user:canary@" + "x" * 3000, "longer than 2100"),
        ("image=x" + " " * 1000 + "y", "expected one word, image=REFERENCE"),
        ("image=user:canary/with#all:of@it@h.example/x", "a login must not hold a password"),
        ("image=x name=tools", "expected one word, image=REFERENCE"),
        ("nvcr.io/x", "expected one word, image=REFERENCE"),
        ("imgae=x", "expected one word, image=REFERENCE"),
    ],
)
def test_lines_that_are_refused(site, alice, line, said) -> None:
    """sbatch says what is wrong, and submits nothing."""
    done = site.cluster.run("sbatch", user=alice, input=f"#!/bin/sh\n#ENROOT {line}\ntrue\n", check=False)
    assert done.returncode == 1
    assert "sbatch: error: enroot-slurm: #ENROOT" in done.stderr
    assert said in done.stderr
    assert "canary" not in done.stderr
    assert site.cluster.run("squeue", "--noheader").stdout == ""


# The site's trouble.


def test_registry_down_then_back(site, alice, push, image) -> None:
    """A registry that is not there is the site's fault; when it is back, the next job has its image."""
    assert result_of(site, alice, "docker://127.0.0.1:1#x/y:1")["failure"]["fault"] == "site"
    with FaultRegistry() as registry:
        site.configure(insecure_registries=[registry.host], site_failure_wait=30)
        uri = serve(registry, image)
        registry.fault("/manifests/", 2, status=503)
        assert result_of(site, alice, uri)["path"]
        assert registry.count("/manifests/", status=503) == 2


@pytest.fixture
def disk(running_site: PrologSite, site: PrologSite) -> Iterator[Path]:
    """The cache on a small file system of its own."""
    del site
    disk = running_site.directory / "disk"
    running_site.cache = disk / "cache"
    running_site.cache.mkdir()
    os.chown(running_site.cache, running_site.cache_user.uid, running_site.cache_user.gid)
    running_site.configure()
    yield disk
    subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
    shutil.rmtree(running_site.cache)


@pytest.mark.parametrize("option", ["size=64k", "ro"])
def test_cache_full_or_read_only(running_site, disk, alice, push, image, option) -> None:
    """When the shared cache can't be written, the job's user gets the image in the own one; then all is well again."""
    subprocess.run(["mount", "-o", f"remount,{option}", disk], check=True)
    path = Path(result_of(running_site, alice, push(image))["path"])
    assert path.is_relative_to(alice.home)
    assert path.stat().st_uid == alice.uid
    subprocess.run(["mount", "-o", "remount,rw,size=64m", disk], check=True)
    path = Path(result_of(running_site, alice, push(Image([Layer().file("d", os.urandom(9000))])))["path"])
    assert path.is_relative_to(running_site.cache)


def test_a_cache_that_is_not_there_or_not_trusted(site, alice, push, image) -> None:
    """Without its directory, or when others could change it, the shared cache is not used: the user's own one is."""
    site.cache.chmod(0o777)
    assert Path(result_of(site, alice, push(image))["path"]).is_relative_to(alice.home)
    site.cache.rmdir()
    assert Path(result_of(site, alice, push(Image([Layer().file("m", b"m")])))["path"]).is_relative_to(alice.home)
    site.new_cache()


def test_a_broken_site_file(site, alice) -> None:
    """An administrator's mistake starts no import, and drains no node."""
    site.configure(prolog_deadline="soon")
    assert ask(site, alice, "docker://127.0.0.1:1#x", "echo", "ran") == "ran\n"
    (site.etc / "config.yaml").chmod(0o666)
    assert ask(site, alice, "docker://127.0.0.1:1#x", "echo", "ran") == "ran\n"


def test_without_cache_user(site, alice, push, image) -> None:
    """Nothing is imported as root: without a cache user the job's user does it, into the own cache."""
    site.configure(cache_user=None)
    assert Path(result_of(site, alice, push(image))["path"]).is_relative_to(alice.home)
    site.configure(cache_user="root")
    assert Path(result_of(site, alice, push(image, "two"))["path"]).is_relative_to(alice.home)
    site.configure(shared_cache=None, cache_user=None)
    assert Path(result_of(site, alice, push(image, "three"))["path"]).is_relative_to(alice.home)


def test_a_faulty_node_is_drained_if_the_site_asks(site, alice, push, image) -> None:
    """Only for a fault of the node itself, and only with on_node_failure: drain, the prolog fails."""
    layers = Image([Layer().file("e", os.urandom(9000))])
    site.configure(gzip_program="/nonexistent/gzip", layer_cache="no")
    failure = result_of(site, alice, push(layers))["failure"]
    assert (failure["kind"], failure["fault"]) == ("ConversionError", "node")
    assert site.cluster.sinfo_reasons() == ""
    site.configure(gzip_program="/nonexistent/gzip", layer_cache="no", on_node_failure="drain")
    job = site.cluster.submit("true", "-w", "n1", f"--comment=enroot:{push(layers)}", user=alice)
    wait_for(lambda: "Prolog error" in site.cluster.sinfo_reasons())
    site.cluster.cancel(job)
    site.cluster.heal()


HOSTILE = {
    "device": Image([Layer().char("d", (1 << 12, 0))]),
    "cut": Image([Layer().file("f", b"x").tar(end=b"")[:700]]),
    "link": Image([Layer().hardlink("l", "nowhere")]),
    "name": Image([Layer().file("a" * 300, b"")]),
    "large": Image([Layer().file("zeros", bytes(40 << 20))]),
    "implied": Image([Layer().file("/".join("d" * 2000), b"")]),
}
"""Images that can't be converted."""


def test_an_image_is_blamed_and_not_the_node(site, alice, push) -> None:
    """An image that can not be converted is no fault of the node, which is not drained with on_node_failure: drain."""
    site.configure(on_node_failure="drain", max_unpacked="32MiB")
    for tag, hostile in HOSTILE.items():
        failure = result_of(site, alice, push(hostile, tag))["failure"]
        assert failure["kind"] in {"IntegrityError", "UnsupportedImage"}, (tag, failure)
        assert failure["fault"] != "node", (tag, failure)
        assert site.cluster.sinfo_reasons() == ""


def test_digests_in_the_admin_comment(site, alice, push, image) -> None:
    """They are appended, once; other words stay, also when the job runs again."""
    site.configure(record_in="admincomment")
    uri = push(image)
    words = ("-w", "n1", "--hold", f"--comment=enroot:{uri} enroot:{uri}")
    job = site.cluster.submit("exec sleep 100", *words, user=alice)
    site.cluster.run("scontrol", "update", f"jobid={job}", "admincomment=JS1:abc")
    site.cluster.run("scontrol", "release", job)
    wait_for(lambda: site.record(job))
    digest = site.record(job)[0]["digest"]
    comment = f"JS1:abc enroot={digest}"
    shown = lambda: re.search(r"AdminComment=(.*)", site.cluster.run("scontrol", "show", "job", job).stdout)  # noqa: E731
    wait_for(lambda: shown()[1].strip() == comment)
    site.cluster.run("scontrol", "requeue", job)
    site.cluster.wait_for_state(job, "PENDING")
    wait_for(lambda: site.cluster.job(job)["Reason"] == "BeginTime")
    # As in test_requeue: a node may refuse a job that it has just ended.
    site.cluster.run("scontrol", "update", f"jobid={job}", "reqnodelist=n2", "starttime=now")
    wait_for(lambda: site.record(job, "n2", restart=1))
    site.cluster.cancel(job)
    site.cluster.wait_job(job)
    assert shown()[1].strip() == comment


def test_imports_are_counted(site, alice, push) -> None:
    """Each node notes what its prologs asked for, as whom ever they worked, where only root can write."""
    uri = push(Image([Layer().file("counted", os.urandom(3000))]), "counted")
    for _ in range(2):
        assert "path" in result_of(site, alice, uri)
    files = [site.cluster.node_path(node, RUN) / "events" for node in ("n1", "n2")]
    events = [json.loads(line) for file in files if file.exists() for line in file.read_text().splitlines()]
    mine = [event["result"] for event in events if event["kind"] == "import" and event["door"] == "prolog"]
    assert any(event["kind"] == "requests" and event["2xx"] > 0 for event in events)
    assert {"ok", "reused"} <= set(mine)
    assert all(file.stat().st_mode & 0o777 == 0o600 and file.stat().st_uid == 0 for file in files if file.exists())
    assert "counted" not in "".join(file.read_text() for file in files if file.exists())


# Private images.


def test_private_images_stay_private(site, alice, bob, image) -> None:
    """An image that needs alice's login is imported into her cache; bob is refused, though she has it."""
    with FaultRegistry(auth="basic", users={"alice": "canary-7d1f"}) as registry:
        site.configure(insecure_registries=[registry.host])
        alice.write(".config/enroot/.credentials", "machine 127.0.0.1 login alice password canary-7d1f\n")
        uri = serve(registry, image)
        path = Path(result_of(site, alice, uri)["path"])
        assert path.is_relative_to(alice.home)
        assert path.stat().st_mode & 0o077 == 0
        failure = result_of(site, bob, uri)["failure"]
        assert (failure["kind"], failure["fault"]) == ("AccessDenied", "user")
    assert not [f for f in site.cache.rglob("*") if f.suffix == ".sqsh"]
    assert "canary" not in site.cluster.logs(10_000)


def test_archives_are_the_job_s_user_s(site, alice, bob, image) -> None:
    """A file is read by the job's user alone, and its image is in that user's cache."""
    image = replace(image, architecture=HERE)
    file = alice.home / "app.tar"
    file.write_bytes(made_tar(docker_members(image)))
    os.chown(file, alice.uid, alice.gid)
    file.chmod(0o600)
    uri = f"docker-archive:{file}"
    result = result_of(site, alice, uri)
    assert result["uri"] == uri
    assert Path(result["path"]).is_relative_to(alice.home)
    assert Path(result["path"]).stat().st_uid == alice.uid
    assert "can't read" in result_of(site, bob, uri)["failure"]["message"]
    assert not list(site.cache.glob("images/*/*/*"))
    assert not list(site.cache.glob("blobs/*/*"))


def test_commands_in_credentials_are_not_run(site, alice, image) -> None:
    """A password that is a command is for the command line; the prolog runs it only if the site allows that."""
    with FaultRegistry(auth="basic", users={"alice": "from-command"}) as registry:
        site.configure(insecure_registries=[registry.host])
        line = "machine 127.0.0.1 login alice password $(id -u > ran; echo from-command)\n"
        alice.write(".config/enroot/.credentials", line)
        uri = serve(registry, image)
        assert result_of(site, alice, uri)["failure"]["fault"] == "user"
        site.configure(insecure_registries=[registry.host], hook_credential_commands="yes", failure_ttl=0)
        assert "path" in result_of(site, alice, uri)


# Time, and ends.


@pytest.fixture
def slow(site, image) -> Iterator[Slow]:
    with site.slow(image, prolog_deadline=0.5) as slow:
        yield slow


def test_the_deadline(site, alice, slow, step) -> None:
    """After prolog_deadline the job starts, and its step waits for the import that goes on."""
    registry, uri, go = slow
    waiting = site.cluster.start("srun", "-Q", "-N2", f"--comment=enroot:{uri}", *step, user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    wait_for(lambda: any("step.py" in line for line in site.cluster.processes().values()))
    go.set()
    out, err = waiting.communicate(timeout=30)
    assert err == ""
    assert [Path(json.loads(line)["path"]).is_relative_to(site.cache) for line in out.splitlines()] == [True, True]


def test_the_user_s_turn_comes_after_the_deadline(site, alice, image, step) -> None:
    """What the site's worker learns to be private when the prolog is long gone, the user's worker imports."""
    go = threading.Event()
    with FaultRegistry(auth="basic", users={"alice": "canary-9c"}) as registry:
        site.configure(insecure_registries=[registry.host], prolog_deadline=0.3)
        alice.write(".config/enroot/.credentials", "machine 127.0.0.1 login alice password canary-9c\n")
        uri = serve(registry, image)
        registry.fault("/manifests/", 1, stall=go)
        waiting = site.cluster.start("srun", f"--comment=enroot:{uri}", *step, user=alice)
        wait_for(lambda: any("step.py" in line for line in site.cluster.processes().values()))
        go.set()
        result = json.loads(waiting.communicate(timeout=30)[0])
        assert Path(result["path"]).is_relative_to(alice.home)


def test_get_in_a_job(site, alice, slow) -> None:
    """``enroot-slurm get`` in a job's script waits for the prolog's import, and does not resolve the tag again."""
    registry, uri, go = slow
    path = f"{site.installation.program()}:/usr/bin:/bin"
    script = f"enroot-slurm get {uri}; srun -N2 enroot-slurm get -q {uri}"
    options = {"user": alice, "environment": {"PATH": path}}
    job = site.cluster.submit(script, "-N2", f"--comment=enroot:{uri}", **options)
    wait_for(lambda: any("bin/enroot-slurm get" in line for line in site.cluster.processes().values()))
    wait_for(lambda: "waiting for the prolog" in site.cluster.output(job, alice.home))
    go.set()
    done = site.cluster.wait_job(job)
    assert done.state == "COMPLETED", done
    paths = [line for line in done.output.splitlines() if line.startswith("/")]
    assert len(paths) == 3
    assert len(set(paths)) == 1
    assert Path(paths[0]).is_relative_to(site.cache)
    assert registry.count("/blobs/") == 3
    assert registry.count("/manifests/") == 1


def test_scancel_during_an_import(site, alice, slow) -> None:
    """When a job is cancelled in its prolog, its worker ends with it, on all nodes."""
    registry, uri, _ = slow
    job = site.cluster.submit("true", "-N3", f"--comment=enroot:{uri}", user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    site.cluster.cancel(job)
    site.cluster.wait_job(job)  # though the registry still stalls
    wait_for(lambda: site.left() == [])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_slurmd_ends_during_an_import(site, alice, slow, number, push) -> None:
    """slurmd is ended while its prolog imports, and started again: nothing is damaged, the next job has its image."""
    registry, uri, go = slow
    site.cluster.wait_for_node("n1")
    job = site.cluster.submit("true", "-w", "n1", f"--comment=enroot:{uri}", user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    site.cluster.stop_node("n1", number)
    site.cluster.start_node("n1")
    go.set()
    site.cluster.cancel(job)
    site.cluster.wait_job(job)
    assert "path" in result_of(site, alice, uri)


def test_an_orphan_prolog(site, alice, slow) -> None:
    """A prolog whose slurmd was killed works on until the job is requeued; then the epilog ends it."""
    registry, uri, go = slow
    site.configure(insecure_registries=[registry.host], prolog_deadline=60)
    site.cluster.wait_for_node("n1")
    job = site.cluster.submit("true", "-w", "n1", f"--comment=enroot:{uri}", user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    site.cluster.stop_node("n1", signal.SIGKILL)
    assert len([line for line in site.cluster.processes().values() if line.endswith("prolog.d/50-enroot-slurm")]) == 1
    site.cluster.start_node("n1")
    site.cluster.run("scontrol", "requeue", job)
    wait_for(lambda: site.left() == [])
    go.set()
    wait_for(lambda: site.cluster.job(job)["JobState"] == "PENDING")
    site.cluster.run("scontrol", "update", f"jobid={job}", "starttime=now", "reqnodelist=n2")
    wait_for(lambda: site.record(job, "n2", restart=1) or list(site.cache.rglob("*.sqsh")))
    assert site.cluster.wait_job(job).fields["Restarts"] == "1"


def test_two_prologs_of_one_job(site, alice, slow) -> None:
    """Should the next start's prolog come to the node while the orphan still works, both get one image."""
    registry, uri, go = slow
    site.configure(insecure_registries=[registry.host], prolog_deadline=60)
    environment = hook_environment(uri, alice, 900_040)
    prologs = []
    for restart in ("0", "1"):
        environment["SLURM_JOB_RESTART_COUNT"] = restart
        prologs.append(site.cluster.start(site.installation.prolog, node="n1", environment=environment))
        run = site.cluster.node_path("n1", RUN)
        wait_for((run / f"900040.{restart}.worker").exists)
        wait_for(lambda: registry.count("/blobs/"))
    go.set()
    assert [prolog.wait(30) for prolog in prologs] == [0, 0]
    assert site.record(900_040)[0]["path"] == site.record(900_040, restart=1)[0]["path"]
    assert registry.count("/blobs/") == 3
    site.cluster.run(site.installation.epilog, node="n1", environment=environment)


def test_a_killed_worker(site, alice, slow, step) -> None:
    """When the worker is killed, the step does not wait for ever; the next import removes what is left."""
    registry, uri, go = slow
    waiting = site.cluster.start("srun", "-w", "n1", f"--comment=enroot:{uri}", *step, user=alice)
    wait_for(lambda: registry.count("/blobs/"))
    wait_for(lambda: any("step.py" in line for line in site.cluster.processes().values()))
    [journal] = site.cluster.node_path("n1", RUN).glob("*.worker")
    for line in journal.read_text().splitlines():
        os.kill(int(line.split()[1]), signal.SIGKILL)
    assert json.loads(waiting.communicate(timeout=30)[0]) is None
    go.set()
    again = site.cluster.run("srun", "-w", "n1", f"--comment=enroot:{uri}", *step, user=alice)
    assert Path(json.loads(again.stdout)["path"]).is_file()


@pytest.fixture
def hanging_home(alice: User, tmp_path: Path) -> Iterator[None]:
    """alice's home on a file system whose server has stopped to answer."""
    require_tools("squashfuse", "mksquashfs")
    source, image = tmp_path / "home", tmp_path / "home.sqsh"
    (source / ".config/enroot").mkdir(parents=True)
    (source / ".config/enroot/.credentials").write_text("machine 127.0.0.1 login alice password canary-5e\n")
    subprocess.run(["chown", "-R", f"{alice.uid}:{alice.gid}", source], check=True)
    subprocess.run(["mksquashfs", source, image, "-quiet", "-no-progress"], check=True, capture_output=True)
    server = subprocess.Popen(["squashfuse", "-f", "-o", "allow_other", image, alice.home])
    try:
        wait_for(lambda: os.path.ismount(alice.home))
        server.send_signal(signal.SIGSTOP)
        yield
    finally:
        subprocess.run(["umount", "-l", alice.home], check=True)
        server.send_signal(signal.SIGCONT)
        server.kill()
        server.wait()


def test_a_home_that_hangs(site, alice, push, image, hanging_home) -> None:
    """What the site's cache gives needs no home; what does, ends neither the prolog's deadline nor the epilog."""
    del hanging_home
    environment = hook_environment(push(image), alice, 900_040)
    site.cluster.run(site.installation.prolog, node="n1", environment=environment)
    assert Path(site.record(900_040)[0]["path"]).is_relative_to(site.cache)
    site.cluster.run(site.installation.epilog, node="n1", environment=environment)
    with FaultRegistry(auth="basic", users={"alice": "canary-5e"}) as registry:
        site.configure(insecure_registries=[registry.host], prolog_deadline=0.5)
        environment = hook_environment(serve(registry, image), alice, 900_041)
        done = site.cluster.run(site.installation.prolog, node="n1", environment=environment)
        assert (done.stdout, done.stderr) == ("", "")
        assert site.record(900_041) == []
        journal = site.cluster.node_path("n1", RUN) / "900041.0.worker"
        wait_for(lambda: "user " in journal.read_text())
        assert len(site.cluster.processes()) > 0
        site.cluster.run(site.installation.epilog, node="n1", environment=environment)
    site.check_clean()


# What root does.


class Trace:
    """System calls of a hook, by what each process was when it made them."""

    _LINE = re.compile(r"(\d+) +(\w+)\((.*?)(?:\) += (-?\d+|\?).*)?")

    def __init__(self, text: str) -> None:
        self.root: list[str] = []
        """Calls with root's rights."""
        self.users: list[str] = []
        """Calls after the privileges were given up."""
        self.forks = 0
        unprivileged: set[str] = set()
        for pid, call, arguments, result in self._calls(text):
            (self.users if pid in unprivileged else self.root).append(f"{call}({arguments}")
            if call == "setresuid" and result == "0":
                unprivileged.add(pid)
            if call in {"clone", "clone3", "fork", "vfork"} and result and int(result) > 0:
                self.forks += 1
                if pid in unprivileged:
                    unprivileged.add(result)

    @classmethod
    def _calls(cls, text: str) -> Iterator[tuple[str, str, str, str]]:
        # strace splits a call in two when another process comes between.
        begun: dict[str, str] = {}
        for line in text.splitlines():
            pid, _, rest = line.partition(" ")
            rest = rest.strip()
            if rest.endswith("<unfinished ...>"):
                begun[pid] = rest.removesuffix("<unfinished ...>")
                continue
            if rest.startswith("<... "):
                rest = begun.pop(pid, "") + rest.partition("resumed>")[2]
            if match := cls._LINE.fullmatch(f"{pid} {rest}"):
                yield match[1], match[2], match[3], match[4] or ""


def hook_environment(uri: str, user: User, job: int) -> dict[str, str]:
    """What slurmd gives to a prolog, more or less."""
    return {
        "SLURM_JOB_ID": str(job),
        "SLURM_JOB_UID": str(user.uid),
        "SLURM_JOB_GID": str(user.gid),
        "SLURM_JOB_USER": user.name,
        "SLURM_JOB_RESTART_COUNT": "0",
        "SLURMD_NODENAME": "n1",
        "SPANK_ENROOT_IMAGE": uri,
    }


def traced(site: PrologSite, hook: Path, environment: dict[str, str]) -> Trace:
    require_tools("strace")
    file = site.directory / "trace"
    calls = "trace=%file,setresuid,clone,clone3,fork,vfork,connect"
    site.cluster.run("strace", "-f", "-e", calls, "-s", "300", "-o", file, hook, node="n1", environment=environment)
    return Trace(file.read_text())


def test_root_looks_at_nothing_of_a_user(site, alice, push, image) -> None:
    """Before the privileges are given up, no path below a home is used, no program started and nobody connected to.

    On a hit one worker is forked, and loads none of the libraries that an import needs.
    """
    uri = push(image)
    digest = result_of(site, alice, uri)["digest"]
    pinned = f"{uri.rpartition(':')[0]}@{digest}"
    (site.cluster.node_path("n1", RUN) / "config.json").unlink(missing_ok=True)
    for number in (1, 2):  # the second time root's copy of the settings is there
        environment = hook_environment(pinned, alice, 900_000 + number)
        trace = traced(site, site.installation.prolog, environment)
        assert site.record(900_000 + number)[0]["path"]
        assert trace.users
        called = "\n".join(trace.root)
        assert "/home/" not in called
        assert str(alice.home) not in called
        # sh, and Python: by sh as a process of its own
        assert [call.partition('"')[2].partition('"')[0].rpartition("/")[2] for call in trace.root if "execve" in call][
            -2:
        ] == [site.installation.prolog.name, "python3"]
        assert all("AF_UNIX" in call for call in trace.root if call.startswith("connect"))
    everything = called + "\n".join(trace.users)
    for library in ("requests", "urllib3", "filelock", "tarfile", "yaml"):
        assert f"/{library}/" not in everything, library
        assert f"/{library}.py" not in everything, library
    assert trace.forks == 2  # Python itself, and one worker
    for number in (1, 2):
        trace = traced(site, site.installation.epilog, hook_environment(pinned, alice, 900_000 + number))
        assert "/home/" not in "\n".join(trace.root)
    assert trace.forks == 2  # Python, and who gives the leases back


def test_what_a_hit_asks_the_shared_file_system(site, alice, push, image) -> None:
    """A job's nodes pay for each call on the cache: to find the image and lease it, and to give it back."""
    require_tools("strace")
    uri = push(image)
    digest = result_of(site, alice, uri)["digest"]
    pinned = f"{uri.rpartition(':')[0]}@{digest}"

    def calls(hook: Path, uri: str, job: int, node: str) -> list[str]:
        file = site.directory / "trace"
        environment = {**hook_environment(uri, alice, job), "SLURMD_NODENAME": node}
        site.cluster.run(*STRACE, "-o", file, hook, node=node, environment=environment)
        return [each.text for each in calls_in(site.cache, file.read_text())]

    prolog, epilog = site.installation.prolog, site.installation.epilog
    for most, hook, name, job, node in (
        (17, prolog, pinned, 900_051, "n1"),  # with the job's directory
        (14, prolog, pinned, 900_051, "n2"),
        (10, epilog, pinned, 900_051, "n1"),
        (12, epilog, pinned, 900_051, "n2"),  # with the job's directory
        (99, prolog, uri, 900_052, "n1"),  # asks the registry
        (17, prolog, uri, 900_052, "n2"),  # uses that answer
        (10, epilog, uri, 900_052, "n1"),
        (13, epilog, uri, 900_052, "n2"),
    ):
        found = calls(hook, name, job, node)
        assert len(found) <= most, found
        assert hook == epilog or site.record(job, node)[0]["path"]
    site.check_clean()


def test_a_site_s_own_prolog(site, alice, push, image) -> None:
    """The library does what the hook does, and holds nothing when it is back."""
    code = """
import os, sys
from enroot_slurm.slurm import Job, Record, epilog, prolog
from pathlib import Path
job = Job.from_environ(os.environ)
assert prolog(job) == 0
record = Record.find(Path("/run/enroot-slurm"), job.id)
assert not record.importing and record.results[0].path, record
assert epilog(job) == 0
assert Record.find(Path("/run/enroot-slurm"), job.id) is None
"""
    environment = hook_environment(push(image), alice, 900_030)
    site.cluster.run(site.installation.python, "-I", "-c", code, node="n1", environment=environment)


@pytest.mark.parametrize("text", ["x" * 5000, "a\nb c\x1b[31m" * 300, "image= arch=", "name=x", "\udcff"])
def test_hostile_variables(site, alice, text) -> None:
    """What no comment can hold, a SPANK plug-in's variable can."""
    environment = hook_environment(text, alice, 900_010)
    for hook in (site.installation.prolog, site.installation.epilog):
        done = site.cluster.run(hook, node="n1", environment=environment)
        assert done.stdout + done.stderr == ""
        if hook == site.installation.prolog:
            assert site.record(900_010)[0]["failure"]["fault"] == "user"


@pytest.mark.parametrize("variable", ["SLURM_JOB_ID", "SLURM_JOB_UID", "SLURM_JOB_USER", "SLURMD_NODENAME"])
def test_variables_of_another_form(site, alice, variable) -> None:
    """Slurm's own variables are matched too: nothing is done then, and no node is drained."""
    environment = hook_environment("docker://127.0.0.1:1#x", alice, 900_020)
    environment[variable] = "../1; reboot"
    done = site.cluster.run(site.installation.prolog, node="n1", environment=environment)
    assert done.stdout + done.stderr == ""
    assert site.left() == []
