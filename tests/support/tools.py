"""Programs that tests need: a missing one is a failure in CI, else a skip that names the package."""

from __future__ import annotations

import os
import shutil

import pytest

__all__ = ["PACKAGES", "require_root", "require_tools"]

PACKAGES = {
    "ansible-playbook": "ansible-core",
    "buildah": "buildah",
    "busybox": "busybox-static",
    "cc": "gcc",
    "dh": "debhelper",
    "docker-registry": "docker-registry",
    "dpkg-buildpackage": "dpkg-dev",
    "htpasswd": "apache2-utils",
    "lintian": "lintian",
    "make": "make",
    "mksquashfs": "squashfs-tools",
    "mmdebstrap": "mmdebstrap",
    "munged": "munge",
    "openssl": "openssl",
    "cpio": "cpio",
    "pigz": "pigz",
    "podman": "podman",
    "promtool": "prometheus",
    "rpm2cpio": "rpm2cpio",
    "rpmbuild": "rpm",
    "sbatch": "slurm-client",
    "setpriv": "util-linux",
    "skopeo": "skopeo",
    "slurmctld": "slurmctld",
    "slurmd": "slurmd",
    "sqfs2tar": "squashfs-tools-ng",
    "squashfuse": "squashfuse",
    "srun": "slurm-client",
    "strace": "strace",
    "tar": "tar",
    "umoci": "umoci",
    "unshare": "util-linux",
    "unsquashfs": "squashfs-tools",
}
"""Program -> Debian package."""


def require_tools(*programs: str) -> None:
    """Fail (when CI is set) or skip the running test unless all *programs* are installed."""
    missing = sorted({PACKAGES[p] for p in programs if shutil.which(p) is None})
    if missing:
        _unavailable(f"missing: apt-get install -y --no-install-recommends {' '.join(missing)}")


def require_root(why: str) -> None:
    """Fail (when CI is set) or skip unless the tests run as root."""
    if os.geteuid() != 0:
        _unavailable(f"needs root: {why}; run the tests with sudo")


def _unavailable(reason: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
