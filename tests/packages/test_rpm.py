"""The rpms, built by Debian's rpmbuild, unpacked and run; no distribution with rpm can be reached from here."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from support.tools import require_tools

import enroot_slurm

pytestmark = pytest.mark.xdist_group("packages")
CHECKOUT = Path(enroot_slurm.__file__).parents[1]


def told(*words: object) -> str:
    done = subprocess.run(list(map(str, words)), cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def rpms(tree, tmp_path_factory) -> dict[str, Path]:
    """The packages by their names."""
    require_tools("rpmbuild", "rpm2cpio", "cpio")
    directory = tmp_path_factory.mktemp("rpm")
    told("sh", "packaging/rpm.sh", tree, directory)
    return {told("rpm", "-qp", "--queryformat", "%{NAME}", path): path for path in directory.glob("*.rpm")}


@pytest.mark.timeout(600)
def test_they_unpack_and_run(rpms, tmp_path):
    """The program runs after what the scripts do; settings are kept; the plug-in is apart, for one release of Slurm."""
    main = rpms["enroot-slurm"]
    told("sh", "-c", f"cd {tmp_path} && rpm2cpio {main} | cpio -id --quiet")
    told(tmp_path / "usr/lib/enroot-slurm/configure")
    python = tmp_path / "usr/lib/enroot-slurm/bin/python3"
    assert told(python, "-I", "-m", "enroot_slurm", "version") == f"enroot-slurm {enroot_slurm.__version__}\n"
    assert "site-packages" in told(python, "-I", "-c", "import requests, yaml, filelock; print(requests.__file__)")
    told(python, "-I", "-c", "import cryptography, socks, enroot_slurm.trust.crypto")
    files = set(told("rpm", "-qpl", main).split("\n"))
    for file in (
        "/usr/bin/enroot-slurm",
        "/usr/lib/enroot-slurm/libexec/pyxis-importer",
        "/usr/lib/systemd/system/enroot-slurm-gc.timer",
        "/usr/lib/sysusers.d/enroot-slurm.conf",
        "/usr/share/enroot-slurm/prolog.d/50-enroot-slurm",
        "/usr/share/enroot-slurm/prometheus/enroot-slurm.rules.yaml",
        "/usr/share/man/man1/enroot-slurm-import.1",
        "/usr/share/man/man5/enroot-slurm-config.5",
    ):
        assert file in files
    assert not any(file.startswith(("/etc/slurm", "/usr/local", "/var")) for file in files)
    assert told("rpm", "-qpc", main).split() == ["/etc/enroot-slurm/config.yaml", "/etc/enroot-slurm/images.yaml"]
    hook = (tmp_path / "usr/share/enroot-slurm/prolog.d/50-enroot-slurm").read_text()
    assert "\n/usr/lib/enroot-slurm/bin/python3 -I " in hook
    assert "@" not in (tmp_path / "usr/share/enroot-slurm/burst_buffer.lua").read_text().partition("local function")[0]


def test_the_scripts_leave_slurm_alone(rpms):
    """Nothing is restarted, and no cache is removed."""
    for path in rpms.values():
        scripts = told("rpm", "-qp", "--scripts", path)
        assert not any(word in scripts for word in ("systemctl", "scontrol", "/etc/slurm", "/var/"))


def test_the_plugin_wants_its_slurm(rpms):
    """Another release would refuse it."""
    if "enroot-slurm-spank" not in rpms:
        pytest.skip("missing: apt-get install -y libslurm-dev")
    needs = told("rpm", "-qp", "--requires", rpms["enroot-slurm-spank"])
    assert "\nslurm < " in f"\n{needs}"
    assert "\nslurm >= " in f"\n{needs}"
