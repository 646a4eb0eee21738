"""The archive with everything: run where it was unpacked, and installed where programs are."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name as canonical_name

import enroot_slurm

pytestmark = pytest.mark.xdist_group("packages")
VERSION = f"enroot-slurm {enroot_slurm.__version__}\n"


def told(*words: object, **environ: str) -> str:
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", **environ}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_it_runs_where_it_was_unpacked(tree, tmp_path):
    """By a link, too; with its own packages, and nothing of the user's."""
    unpacked = tmp_path / "a directory"
    shutil.copytree(tree, unpacked, symlinks=True)
    (tmp_path / "requests.py").write_text("raise SystemExit('not ours')")
    (tmp_path / "link").symlink_to(unpacked / "bin/enroot-slurm")
    for program in (unpacked / "bin/enroot-slurm", tmp_path / "link"):
        assert told(program, "version", PYTHONPATH=str(tmp_path)) == VERSION


def test_all_that_the_packages_need_is_there(tree):
    """Each package finds what its own metadata asks for: with every release of Python, and no extra left out."""
    packages = tree / "packages"
    found = {canonical_name(each.name): each for each in distributions(path=[str(packages)])}
    assert {"cryptography", "cffi", "pysocks"} <= found.keys()
    for each in found.values():
        for line in each.requires or []:
            need = Requirement(line)
            for python in ("3.11", "3.12", "3.13", "3.14"):
                environment = {"python_version": python, "python_full_version": f"{python}.0", "extra": ""}
                if need.marker is None or need.marker.evaluate(environment):
                    assert canonical_name(need.name) in found, f"{each.name} needs {line}"
                    assert found[canonical_name(need.name)].version in need.specifier, f"{each.name} needs {line}"


def pythons() -> list[str]:
    """The releases that are supported and here; a shim of pyenv may stand for one that is not."""
    found = [path for minor in (11, 12, 13, 14) if (path := shutil.which(f"python3.{minor}"))]
    works = [
        path for path in found if not subprocess.run([path, "-c", ""], capture_output=True, check=False).returncode
    ]
    return works or [sys.executable]


@pytest.mark.parametrize("python", pythons(), ids=lambda path: Path(path).name)
def test_signatures_and_socks_proxies_work(tree, python):
    """The libraries load with each release of Python that is here, from the tree, without any of the machine's."""
    code = """
import sys
sys.path.insert(0, sys.argv[1])
import cryptography, socks, enroot_slurm.trust.crypto
print(cryptography.__file__, socks.__file__)
"""
    words = [python, "-I", "-B", "-c", code, tree / "packages"]
    assert all(file.startswith(f"{tree}/packages/") for file in told(*words).split())


def test_the_program_goes_through_a_socks_proxy(tree, tmp_path):
    """Nobody listens there: the error is the proxy's, and not that PySocks is missing."""
    shutil.copytree(tree, tmp_path / "unpacked", symlinks=True)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "https_proxy": "socks5h://127.0.0.1:1"}
    words = [tmp_path / "unpacked/bin/enroot-slurm", "digest", "docker://registry.test/app"]
    environment["ENROOT_TRANSFER_RETRIES"] = "0"
    done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode
    assert "the proxy 127.0.0.1:1, on the way to registry.test, can't be reached" in done.stderr


def test_install_and_install_again(tree, tmp_path):
    """What is installed runs without the archive; a second time replaces programs, and leaves settings."""
    prefix, etc = tmp_path / "prefix", tmp_path / "etc"
    environ = {"PREFIX": str(prefix), "SYSCONFDIR": str(etc), "PLUGIN": "no"}
    told("sh", tree / "install.sh", **environ)
    assert told(prefix / "bin/enroot-slurm", "version") == VERSION
    (etc / "enroot-slurm/config.yaml").write_text("max_imports: 3\n")
    (prefix / "lib/enroot-slurm/packages/enroot_slurm/gone.py").touch()
    told("sh", tree / "install.sh", **environ)
    assert told(prefix / "bin/enroot-slurm", "version") == VERSION
    python = prefix / "lib/enroot-slurm/bin/python3"
    files = told(python, "-I", "-c", "import cryptography, socks; print(cryptography.__file__, socks.__file__)")
    assert files.count(f"{prefix}/lib/enroot-slurm/") == 2
    assert (etc / "enroot-slurm/config.yaml").read_text() == "max_imports: 3\n"
    assert not (prefix / "lib/enroot-slurm/packages/enroot_slurm/gone.py").exists()
    assert not list(prefix.rglob("*.new"))
    unit = (prefix / "lib/systemd/system/enroot-slurm-gc.service").read_text()
    assert f"ExecStart={prefix}/bin/enroot-slurm cache gc" in unit


def test_no_place_holder_is_left(tree, tmp_path):
    """Whatever is installed has its paths; none is of the directory that a package is made in."""
    told("sh", tree / "install.sh", DESTDIR=str(tmp_path), PREFIX="/usr", PLUGIN="no")
    for path in tmp_path.rglob("*"):
        if path.is_file() and "packages" not in path.parts and "doc" not in path.parts:
            text = path.read_bytes()
            assert str(tmp_path).encode() not in text, path
            for word in (b"@PYTHON@", b"@LIBEXECDIR@", b"@RUN_PATH@", b"@PLUGIN@", b"/usr/local/bin/"):
                assert word not in text, path
    assert not (tmp_path / "usr/local").exists()


def test_hooks_run_for_other_users(tree):
    """The prolog ends with 0 for a job that asks for nothing, with the interpreter of the installation."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        os.chmod(directory, 0o755)
        prefix = Path(directory, "prefix")
        told("sh", tree / "install.sh", PREFIX=str(prefix), SYSCONFDIR=f"{directory}/etc", PLUGIN="no")
        told(prefix / "share/enroot-slurm/prolog.d/50-enroot-slurm", SLURM_JOB_ID="1", SLURM_JOB_UID="1000")
        if os.geteuid() == 0:
            words = [
                "setpriv",
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                prefix / "bin/enroot-slurm",
                "version",
            ]
            assert told(*words) == VERSION
