"""``etc/install-slurm.sh``: which interpreter it takes, and what it replaces; with stand-ins for Python and pip."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.installation import CHECKOUT
from support.tools import require_root, require_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.installation import Installation

# An interpreter that makes an environment of nothing but itself, whatever the network is like.
PYTHON = """\
#!/bin/sh
case "$*" in
    "-m venv "*) for last; do :; done; rm -rf "$last/bin"; mkdir -p "$last/bin"; cp {file} "$last/bin/python3" ;;
    "-m pip "*) echo "$*" >> {log} ;;
    *) exec {real} "$@" ;;
esac
"""


class Machine(NamedTuple):
    """Directories to install into, and interpreters: one that all can run, one below a closed directory."""

    directory: Path
    open: Path
    closed: Path

    def install(self, **variables: object) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "PREFIX": self.directory / "prefix",
            "DESTDIR": self.directory / "dest",
            "PLUGIN": "no",
            **variables,
        }
        command = ["sh", str(CHECKOUT / "etc/install-slurm.sh")]
        words = {name: str(value) for name, value in environment.items()}
        return subprocess.run(command, check=False, env=words, capture_output=True, text=True)

    @property
    def slurm(self) -> Path:
        return self.directory / "dest/etc/slurm"


@pytest.fixture
def machine(installation: Installation) -> Iterator[Machine]:
    require_root("it is looked whether users can run it")
    require_tools("setpriv")
    directory = Path(tempfile.mkdtemp(prefix="es-machine-", dir="/var/tmp"))
    directory.chmod(0o755)
    made = Machine(directory, directory / "open/python3", directory / "closed/python3")
    for file, mode in ((made.open, 0o755), (made.closed, 0o700)):
        file.parent.mkdir(mode=mode)
        file.write_text(PYTHON.format(file=file, log=directory / "pip.log", real=installation.python))
        file.chmod(0o755)
    yield made
    shutil.rmtree(directory)


def test_an_interpreter_that_users_cannot_run(machine) -> None:
    """It is named, and the next one is taken; without one, nothing is installed."""
    done = machine.install(BASE=f"{machine.closed} {machine.open}")
    assert done.returncode == 0, done.stderr
    assert f"Users can't run {machine.closed}: {machine.open} is taken." in done.stderr
    assert "install" in (machine.directory / "pip.log").read_text()
    assert (
        f"exec {machine.directory}/prefix/bin/python3 "
        in (machine.directory / "dest/usr/libexec/enroot-slurm/step").read_text()
    )
    shutil.rmtree(machine.directory / "dest")
    done = machine.install(BASE=machine.closed)
    assert done.returncode == 1
    assert f"not these: {machine.closed}" in done.stderr
    done = machine.install(PYTHON=machine.closed)
    assert done.returncode == 1
    assert f"Users can't run {machine.closed}" in done.stderr
    assert not machine.slurm.exists()


def test_a_second_run_mends_the_first(machine) -> None:
    """An environment that users can't run is made anew."""
    (machine.directory / "prefix/bin").mkdir(parents=True)
    python = machine.directory / "prefix/bin/python3"
    python.symlink_to(machine.closed)
    done = machine.install(BASE=machine.open)
    assert done.returncode == 0, done.stderr
    assert not python.is_symlink()


def test_upgrades(machine) -> None:
    """Our own files are replaced, but for the line that sites change; what is a site's own stays."""
    assert machine.install(BASE=machine.open).returncode == 0
    ours, theirs = machine.slurm / "job_submit.lua", machine.slurm / "burst_buffer.lua"
    text = ours.read_text()
    first = text.splitlines()[0]
    ours.write_text(f'{first}\nlocal ENROOT_SLURM_FIELD = "extra"\nlocal old = true\n')
    theirs.write_text("-- the site's\n")
    assert machine.install(BASE=machine.open).returncode == 0
    assert ours.read_text() == text.replace('FIELD = "comment"', 'FIELD = "extra"')
    assert theirs.read_text() == "-- the site's\n"
