"""``enroot-slurm doctor`` on a real cluster that is set up badly, and between its nodes."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.pyxis import pyxis_standin
from support.site import RUN, Site
from support.tools import require_tools

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.installation import Installation
    from support.slurm import Cluster, User

pytestmark = pytest.mark.xdist_group("slurm-doctor")

CODE = "const unsigned int plugin_version = (20 << 16) + (11 << 8);"


class Bad:
    """A bad slurm.conf, a cache that is shared, one whose locks are not, and one that each node has for itself."""

    def __init__(self, site: Site, directory: Path) -> None:
        self.site = site
        self.directory = directory
        self.broken, self.apart = directory / "broken", directory / "apart"

    def doctor(self, *words: str, user: User | None = None, status: int = 0) -> dict[str, tuple[str, str]]:
        """Status and message with hint, by check; of warnings and errors if a check has any."""
        program = self.site.installation.program() / "enroot-slurm"
        result = self.site.cluster.run(program, "doctor", "--json", "--no-network", *words, user=user, check=False)
        assert result.returncode == status, result.stdout + result.stderr
        found: dict[str, tuple[str, str]] = {}
        for finding in json.loads(result.stdout)["findings"]:
            if found.get(finding["check"], ("ok",))[0] == "ok":
                found[finding["check"]] = (finding["status"], f"{finding['message']} {finding['hint']}")
        return found


@pytest.fixture(scope="module")
def bad(
    installation: Installation, make_user: Callable[..., User], start_cluster: Callable[..., Cluster]
) -> Iterator[Bad]:
    require_tools("cc")
    site = Site(installation, make_user("cache"))
    directory = Path(tempfile.mkdtemp(prefix="es-doctor-", dir="/var/tmp"))
    directory.chmod(0o755)
    made = Bad(site, directory)
    plugin = directory / "spank_enroot_slurm.so"
    subprocess.run(["cc", "-xc", "-shared", "-fPIC", "-o", plugin, "-"], input=CODE, text=True, check=True)
    with pyxis_standin() as pyxis:
        private = [RUN, str(made.broken / "locks"), str(made.apart)]
        cluster = start_cluster(
            nodes=3,
            conf={
                "Prolog": str(installation.prolog),
                "Epilog": "/bin/true",
                "PrologFlags": "Alloc,Serial",
                "PrivateData": "jobs",
                "TaskProlog": "/bin/true",
            },
            files={"plugstack.conf": "include plug.d/*.conf\n"},
            shared={"/etc/enroot-slurm": site.etc},
            private=private,
        )
        (cluster.directory / "plug.d").mkdir()
        (cluster.directory / "plug.d/a.conf").write_text(f"optional {plugin}\noptional {pyxis}\n")
        owned = [made.broken, made.broken / "locks", made.apart]
        owned += [cluster.node_path(node, path) for node in cluster.nodes for path in private[1:]]
        for path in owned:
            os.chown(path, site.cache_user.uid, site.cache_user.gid)
        site.cluster = cluster
        yield made
    site.remove()
    shutil.rmtree(directory)


@pytest.fixture(autouse=True)
def configured(bad: Bad) -> Iterator[Callable[..., None]]:
    """The site's settings, as a test wants them; no node is drained in the end."""
    bad.site.new_cache()
    bad.site.configure(prolog_deadline=15)

    def configure(**changes: Any) -> None:
        bad.site.configure(prolog_deadline=15, **changes)

    yield configure
    bad.site.check_clean(records=False)


def test_what_is_wrong_with_slurm(bad, alice) -> None:
    """Each bad line of slurm.conf and plugstack.conf is found, by any user, with what to write instead."""
    found = bad.doctor(user=alice)
    for check, text in {
        "epilog": "Epilog=/bin/true",
        "prolog_flags": "PrologFlags=Alloc,DeferBatch",
        "serial": "Serial",
        "prolog_timeout": "PrologEpilogTimeout",
        "private_data": "PrivateData",
        "task_prolog": "TaskProlog=/bin/true",
        "pyxis": "plug.d/a.conf:2",
        "importer": "importer=",
        "plugin": "different versions (20.11 and ",
    }.items():
        status, message = found[f"slurm.{check}"]
        assert status == "warning", check
        assert text in message, check
    assert found["slurm.prolog"][0] == "ok"


def test_a_deadline_above_slurms(bad, configured) -> None:
    """When srun gives up before the prolog does, that is an error."""
    configured()
    bad.site.configure(prolog_deadline=60)
    assert "prolog_deadline below 20" in bad.doctor(status=9)["slurm.prolog_flags"][1]


def test_a_plugin_of_another_release_stops_no_job(bad, alice) -> None:
    """Under ``optional`` it costs a warning, as the doctor says."""
    result = bad.site.cluster.run("srun", "-N1", "echo", "ran", user=alice)
    assert result.stdout == "ran\n"


@pytest.mark.parametrize(("who", "nodes"), [("root", "3"), ("owner", "n[1-3]"), ("alice", "n1,n2,n3")])
def test_between_nodes(bad, alice, who, nodes) -> None:
    """On each node a process works in the cache that counts; root's becomes the cache's owner there."""
    user = {"root": None, "owner": bad.site.cache_user, "alice": alice}[who]
    found = bad.doctor("--nodes", nodes, user=user)
    assert "n1, n2, n3" in found["nodes.nodes"][1]
    checks = {check: status for check, (status, _) in found.items() if check.startswith("nodes.")}
    names = ("nodes", "settings", "clock", "shared", "locks", "publish", "visible", "unsquashfs")
    here = {f"nodes.{name}" for name in ("squashfuse", "squashfuse_ll", "kernel")} & checks.keys()  # this machine's
    assert checks == {**{f"nodes.{name}": "ok" for name in names}, **dict.fromkeys(here, "ok")}
    assert "unsquashfs on n1, n2, n3: reads images" in found["nodes.unsquashfs"][1]
    files = [path for path in bad.site.cache.rglob("*") if path.parent.name in {"tmp", "locks"}]
    assert files == []
    assert {path.stat().st_uid for path in bad.site.cache.rglob("*")} <= {bad.site.cache_user.uid}


def test_in_a_job(bad, alice) -> None:
    """Inside of a batch job the nodes are those of the job."""
    program = bad.site.installation.program() / "enroot-slurm"
    job = bad.site.cluster.run_job(f"{program} doctor -v --no-network --nodes 2", "-N2", "-n8", user=alice)
    assert job.state == "COMPLETED", job.output
    assert "locks work between nodes" in job.output


def test_settings_that_others_can_write(bad) -> None:
    """Hooks do not trust them, so that nothing is prefetched: an error, with what to run."""
    file = bad.site.etc / "config.yaml"
    file.chmod(0o666)
    status, message = bad.doctor(status=9)["settings.site"]
    file.chmod(0o644)
    assert status == "error"
    assert "chmod go-w /etc/enroot-slurm/config.yaml" in message


def test_locks_that_other_nodes_do_not_see(bad, configured) -> None:
    """As on Lustre with localflock: two processes of one node exclude each other, those of two nodes do not."""
    configured(shared_cache=str(bad.broken))
    found = bad.doctor("--nodes", "3")
    assert found["cache.locks"][0] == "ok"
    status, message = found["nodes.locks"]
    assert status == "warning"
    assert "n2 gets a lock that n1 holds (and 5 more)" in message
    assert found["nodes.publish"][0] == found["nodes.visible"][0] == "ok"
    configured(shared_cache=str(bad.broken), locks=False)
    assert bad.doctor("--nodes", "3")["nodes.locks"][0] == "ok"


def test_a_cache_that_each_node_has_for_itself(bad, configured) -> None:
    """All nodes are named that do not see what this machine has made."""
    configured(shared_cache=str(bad.apart))
    status, message = bad.doctor("--nodes", "3")["nodes.shared"]
    assert status == "warning"
    assert "n1, n2, n3 do not see" in message


def test_nodes_that_are_not_there(bad) -> None:
    """What srun says is in the finding."""
    status, message = bad.doctor("--nodes", "n[7-8]", status=9)["nodes.nodes"]
    assert status == "error"
    assert "srun: error" in message


def test_no_srun(bad) -> None:
    """Without Slurm, --nodes is an error that says so, and the rest is looked at."""
    program = bad.site.installation.program() / "enroot-slurm"
    words = ["env", "PATH=/none", program, "doctor", "--json", "--no-network", "--nodes", "2"]
    result = bad.site.cluster.run(*words, check=False)
    found = {finding["check"]: finding for finding in json.loads(result.stdout)["findings"]}
    assert result.returncode == 9
    assert "srun can't be run" in found["nodes.nodes"]["message"]
    assert found["slurm.config"]["status"] == "skipped"
