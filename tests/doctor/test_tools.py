"""Programs: what is said where one is missing, old, or built without what the settings ask for."""

from __future__ import annotations

import ctypes
import os
import stat
from typing import TYPE_CHECKING

import pytest
from support.tools import require_root, require_tools

from enroot_slurm.doctor import tools
from enroot_slurm.doctor.tools import check_tools
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.doctor.finding import Finding


def found(options: str = "-comp zstd", **settings: str) -> dict[str, Finding]:
    """What is found, by check."""
    overrides = {"squash_options": options, **settings}
    config = Config.load(environ={}, site_file=None, user_file=None, enroot_conf=None, overrides=overrides)
    return {finding.check.partition(".")[2]: finding for finding in check_tools(config)}


def cannot_be_loaded(name: str) -> None:
    raise OSError(f"{name}: cannot open shared object file")


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a script before all other programs of its name."""

    def put(name: str, text: str) -> Path:
        file = tmp_path / name
        file.write_text(text)
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return file

    return put


def test_all_is_there() -> None:
    """Here, every compressor works, and both kinds of layers can be decoded."""
    for compressor in ("gzip", "lzo", "lz4", "xz", "zstd"):
        checks = found(f"-comp {compressor}")
        assert {checks[name].status for name in ("python", "squash_options", "gzip", "zstd")} == {"ok"}


def test_a_library_that_is_missing(monkeypatch) -> None:
    """The error names the options; the hint, what to install."""
    monkeypatch.setattr(ctypes, "CDLL", cannot_be_loaded)
    finding = found("-comp lzo -noD")["squash_options"]
    assert finding.status == "error"
    assert "liblzo2" in finding.message
    assert "Debian: liblzo2-2" in finding.hint
    assert found("-comp zstd")["squash_options"].status == "ok"


def test_no_programs(tmp_path, monkeypatch) -> None:
    """What enroot needs is not ours to demand."""
    monkeypatch.setenv("PATH", str(tmp_path))
    checks = found()
    assert checks["squash_options"].status == "ok"
    assert checks["unsquashfs"].status == checks["enroot"].status == "skipped"


def test_the_program_that_decodes_gzip(program) -> None:
    """It is tried: one that is missing, fails or prints something else is an error."""
    require_tools("gzip")
    assert "gzip layers are decoded by gzip" in found(gzip_program="gzip")["gzip"].message
    assert found(gzip_program="no-such-program")["gzip"].status == "error"
    program("liar", "#!/bin/sh\ncat > /dev/null\necho y\n")
    assert found(gzip_program="liar")["gzip"].status == "error"
    program("failing", "#!/bin/sh\nexit 3\n")
    assert found(gzip_program="failing")["gzip"].status == "error"


def test_no_settings() -> None:
    """When the settings are wrong, programs are looked for all the same."""
    checks = {finding.check for finding in check_tools(None)}
    assert "tools.enroot" in checks
    assert "tools.squash_options" not in checks


def test_fuse_that_users_cannot_open(tmp_path):
    """A device that is there for root alone keeps squashfuse from users; one that is missing is no mistake."""
    device = tmp_path / "fuse"
    assert tools._fuse(device).status == "skipped"
    require_root("devices are made")
    os.mknod(device, 0o600 | stat.S_IFCHR, os.makedev(10, 229))
    assert tools._fuse(device).status == "warning"
    assert f"chmod 0666 {device}" in tools._fuse(device).hint
    device.chmod(0o666)
    assert tools._fuse(device).status == "ok"
