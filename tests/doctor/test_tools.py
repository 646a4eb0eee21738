"""Programs: what is said where one is missing, old, or built without what the settings ask for."""

from __future__ import annotations

import ctypes
import os
import shutil
from typing import TYPE_CHECKING

import pytest
from support.command import MKSQUASHFS
from support.tools import require_tools

from enroot_slurm.doctor.tools import check_tools
from enroot_slurm.settings.config import Config
from enroot_slurm.squashfs import mksquashfs

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.doctor.finding import Finding

# mksquashfs as Red Hat builds it, without lzo; and as it was before it could read archives.
WITHOUT_LZO = """\
#!/bin/sh
case " $* " in *" lzo "*) echo "FATAL ERROR: Compressor \\"lzo\\" is not supported!" >&2; exit 1;; esac
exec {real} "$@"
"""
OLD = """\
#!/bin/sh
echo "mksquashfs version 4.4 (2019/08/29)"
"""


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
        require_tools("mksquashfs")
        file = tmp_path / name
        file.write_text(text.format(real=shutil.which("mksquashfs")))
        file.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
        return file

    return put


def test_all_is_there() -> None:
    """Here, every compressor works, and both kinds of layers can be decoded."""
    require_tools("mksquashfs")
    for compressor in ("gzip", "lzo", "lz4", "xz", "zstd"):
        checks = found(f"-comp {compressor}")
        assert {checks[name].status for name in ("python", "mksquashfs", "squash_options", "gzip", "zstd")} == {"ok"}


def test_a_compressor_that_mksquashfs_was_built_without(program, monkeypatch) -> None:
    """With no library for it either, the error names the options; the hint, what mksquashfs offers, and what to set."""
    program("mksquashfs", WITHOUT_LZO)
    assert found("-comp lzo -noD")["squash_options"].status == "ok"
    monkeypatch.setattr(ctypes, "CDLL", cannot_be_loaded)
    finding = found("-comp lzo -noD")["squash_options"]
    assert finding.status == "error"
    assert "[argument]" in finding.message
    assert "It offers gzip, lz4, xz, zstd: set squash_options: -comp zstd" in finding.hint
    assert found("-comp zstd")["squash_options"].status == "ok"


def test_an_old_one(program) -> None:
    """Before 4.5 it can't read archives, which matters if it is needed."""
    program("mksquashfs", OLD)
    assert found()["mksquashfs"].status == "warning"
    checks = found(MKSQUASHFS)
    assert checks["mksquashfs"].status == "error"
    assert "4.4" in checks["mksquashfs"].message
    assert checks["squash_options"].status == "skipped"


def test_none(tmp_path, monkeypatch) -> None:
    """Without mksquashfs some options can't be had; what enroot needs is not ours to demand."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(mksquashfs, "_SYSTEM_PATH", str(tmp_path))
    checks = found()
    assert (checks["mksquashfs"].status, checks["squash_options"].status) == ("skipped", "ok")
    checks = found(MKSQUASHFS)
    assert checks["mksquashfs"].status == "error"
    assert "squashfs-tools" in checks["mksquashfs"].hint
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
    assert "tools.mksquashfs" in checks
    assert "tools.squash_options" not in checks
