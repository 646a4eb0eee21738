"""The Debian packages, built for this machine's Slurm, and tried in a clean tree of its release, without a network."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from support.tools import require_root, require_tools

import enroot_slurm

pytestmark = pytest.mark.xdist_group("packages")
CHECKOUT = Path(enroot_slurm.__file__).parents[1]


@pytest.mark.timeout(900)
@pytest.mark.skipif(os.environ.get("ENROOT_SLURM_PACKAGES") == "no", reason="ENROOT_SLURM_PACKAGES=no")
def test_the_packages(tree, tmp_path):
    """lintian finds no error; they install, import, upgrade, are removed and purged as Debian wants it."""
    require_tools("dpkg-buildpackage", "dh", "lintian", "mmdebstrap", "docker-registry", "skopeo", "umoci", "srun")
    require_root("a tree of a distribution is made")
    debs = tmp_path / "debs"
    for command in (
        ["sh", "packaging/deb.sh", str(tree), str(debs)],
        ["lintian", "--allow-root", "--fail-on", "error"],
        ["sh", "packaging/try-deb.sh", suite(), str(debs)],
    ):
        words = [*command, *map(str, debs.glob("*.changes"))] if command[0] == "lintian" else command
        environ = {**os.environ, "DEBFULLNAME": "Site", "DEBEMAIL": "packages@check.test"}
        done = subprocess.run(words, cwd=CHECKOUT, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    for deb in debs.glob("*.deb"):
        told = subprocess.run(["dpkg-deb", "-f", deb, "Maintainer"], capture_output=True, text=True, check=True).stdout
        assert told == "Site <packages@check.test>\n"


def suite() -> str:
    """The release of this machine: the plug-in is for its Slurm."""
    lines = Path("/etc/os-release").read_text().splitlines()
    [name] = [line.partition("=")[2].strip('"') for line in lines if line.startswith("VERSION_CODENAME=")]
    return name
