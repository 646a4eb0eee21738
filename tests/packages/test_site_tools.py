"""What sites use around the program: NHC, Ansible, Prometheus, Spack, ReFrame."""

from __future__ import annotations

import ast
import configparser
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.tools import require_tools

import enroot_slurm
from enroot_slurm.housekeeping import metrics

CHECKOUT = Path(enroot_slurm.__file__).parents[1]
ETC = CHECKOUT / "etc"


def nhc(tmp_path: Path, *words: object, program: str = "#!/bin/sh\nexit 0\n") -> tuple[int, str]:
    """The check in a shell that has what NHC gives it: its status, and what it said."""
    path = tmp_path / "enroot-slurm"
    path.write_text(program)
    path.chmod(0o755)
    script = f"""
        die() {{ local status=$1; shift; echo "die: $*"; return $status; }}
        log() {{ echo "log: $*"; }}
        source {ETC}/nhc/enroot-slurm.nhc
        check_enroot_slurm -p {path} -r {tmp_path}/run {" ".join(map(str, words))}
    """
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_nhc_passes_a_sound_node(tmp_path):
    """Nothing is said."""
    assert nhc(tmp_path, "-c", tmp_path) == (0, "")


@pytest.mark.parametrize("program", ["#!/bin/sh\necho broken\nexit 3\n", "#!/bin/sh\nexec sleep 100\n"])
def test_nhc_fails_for_a_program_that_does_not_run(tmp_path, program):
    """One that hangs, too; the reason is a line that begins with the check's name."""
    status, said = nhc(tmp_path, "-t", 1, program=program)
    assert status == 1
    assert said.startswith("die: check_enroot_slurm: ")


def test_nhc_fails_for_a_cache_that_is_not_there(tmp_path):
    """It is not mounted here."""
    status, said = nhc(tmp_path, "-c", tmp_path / "none")
    assert (status, "is its file system mounted?" in said) == (1, True)


def test_nhc_does_not_drain_for_a_full_cache(tmp_path):
    """All nodes would be drained at once: it is logged."""
    full = tmp_path / "bin"
    full.mkdir()
    (full / "df").write_text("#!/bin/sh\necho Use%\necho 100%\n")
    (full / "df").chmod(0o755)
    before = os.environ["PATH"]
    os.environ["PATH"] = f"{full}:{before}"
    try:
        status, said = nhc(tmp_path, "-c", tmp_path)
    finally:
        os.environ["PATH"] = before
    assert status == 0
    assert said.startswith("log: check_enroot_slurm: the file system of the cache")


def test_ansible_changes_nothing_the_second_time(tmp_path):
    """The role writes settings and links into a tree; again, it changes nothing; --check changes nothing at all."""
    require_tools("ansible-playbook")
    root = tmp_path / "root"
    play = [
        {
            "hosts": "all",
            "gather_facts": True,
            "roles": ["enroot_slurm"],
            "vars": {
                "enroot_slurm_root": str(root),
                "enroot_slurm_share": str(ETC / "slurm"),
                "enroot_slurm_settings": {"shared_cache": "/cache", "max_imports": 3},
                "enroot_slurm_images": ["docker://ubuntu:24.04"],
                "enroot_slurm_cache_host": "localhost",
                "enroot_slurm_plugin": True,
                "enroot_slurm_stage_in": True,
            },
        }
    ]
    (tmp_path / "play.json").write_text(json.dumps(play))
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE")},
        "ANSIBLE_ROLES_PATH": str(ETC / "ansible/roles"),
        "ANSIBLE_LOCAL_TEMP": str(tmp_path / "local"),
        "ANSIBLE_HOME": str(tmp_path / "home"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
    }
    (root / "etc").mkdir(parents=True)

    def changed(*words: str) -> int:
        command = ["ansible-playbook", "-i", "localhost,", "-c", "local", *words, str(tmp_path / "play.json")]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        return int(re.findall(r"changed=(\d+)", done.stdout)[-1])

    assert changed("--check") > 0
    assert not (root / "etc/enroot-slurm/config.yaml").exists()
    assert changed() > 0
    assert changed() == 0
    assert (root / "etc/slurm/prolog.d/50-enroot-slurm").is_symlink()
    assert (root / "etc/slurm/plugstack.conf.d/enroot-slurm.conf").readlink().is_file()
    assert (root / "cache").is_dir()
    command = [sys.executable, "-m", "enroot_slurm", "config", "--check", root / "etc/enroot-slurm/config.yaml"]
    subprocess.run(command, check=True)


def test_alerts_and_dashboard_know_our_metrics():
    """Each metric they name is one that is written; promtool finds the rules sound."""
    names = {f"{metrics.PREFIX}{name}" for name in metrics._HELP}
    histograms = [name for name in metrics._HELP if metrics._HELP[name][0] == "histogram"]
    names |= {f"{metrics.PREFIX}{name}_bucket" for name in histograms}
    rules = ETC / "prometheus/enroot-slurm.rules.yaml"
    dashboard = (ETC / "prometheus/grafana-dashboard.json").read_text()
    assert len(json.loads(dashboard)["panels"]) == 13
    used = set(re.findall(r"\benroot_slurm_\w+", rules.read_text() + dashboard))
    assert used <= names
    documented = (CHECKOUT / "docs/metrics.md").read_text()
    assert all(name in documented or name.rpartition("_")[2] in {"objects", "images"} for name in names - {
        f"{metrics.PREFIX}{name}_bucket" for name in histograms
    })  # fmt: skip
    if shutil.which("promtool"):
        subprocess.run(["promtool", "check", "rules", rules], check=True, capture_output=True)


def test_docs_have_each_word():
    """docs/metrics.md has all doors and results."""
    text = (CHECKOUT / "docs/metrics.md").read_text()
    assert all(f"`{word}`" in text for word in (*metrics.DOORS, *metrics.RESULTS))


def test_spack_wants_what_setup_cfg_wants():
    """The same packages, in the same releases."""
    recipe = (ETC / "spack/packages/py-enroot-slurm/package.py").read_text()
    ast.parse(recipe)
    assert f'version("{enroot_slurm.__version__}")' in recipe
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    wanted = settings["options"]["install_requires"]
    runtime = re.findall(r"^([A-Za-z][\w.-]*) >= ([\d.]+)", wanted, re.MULTILINE)
    assert len(runtime) == 7
    for name, least in runtime:
        spack = f"py-{name.lower().replace('.', '-')}"
        found = re.search(rf'"{re.escape(spack)}@([\d.]+):"', recipe)
        assert found, spack
        assert [int(n) for n in found[1].split(".")] == [int(n) for n in least.split(".")][: len(found[1].split("."))]


def test_reframe_test_is_python():
    """ReFrame can't be run here without its own configuration; the file is at least sound."""
    tree = ast.parse((ETC / "reframe/enroot_slurm_check.py").read_text())
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert classes == ["EnrootSlurmBase", "EnrootSlurmOneNode", "EnrootSlurmPyxis"]
