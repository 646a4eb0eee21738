"""pyxis for the tests: a stand-in for the plug-in, and a driver that treats an importer as the plug-in does."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from support.tools import require_tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from support.slurm import Cluster, User

__all__ = ["Importer", "Said", "pyxis_standin"]


@contextmanager
def pyxis_standin() -> Iterator[Path]:
    """The plug-in's file, for a line ``required FILE [importer=PROGRAM]`` of plugstack.conf."""
    require_tools("cc", "unsquashfs")
    directory = Path(tempfile.mkdtemp(prefix="es-pyxis-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        library = directory / "pyxis_standin.so"
        source = Path(__file__).with_name("pyxis_standin.c")
        subprocess.run(["cc", "-Wall", "-fPIC", "-shared", "-o", library, source], check=True)
        yield library
    finally:
        shutil.rmtree(directory)


class Said(NamedTuple):
    """What came of a call of an importer."""

    status: int
    line: str
    """The first line of standard output: pyxis reads no other."""
    log: str
    """Standard error, which pyxis shows when the call fails."""


class Importer(NamedTuple):
    """An importer in the hands of pyxis 0.24, in one step of a job on one node.

    With stdin on /dev/null; stdout a pipe, of which it also has both ends under other numbers; stderr a file in memory.
    The environment is the job's without what pyxis denies (ENROOT_CACHE_PATH, LD_LIBRARY_PATH, SLURM_PROCID, ...), and
    SLURM_STEP_ID is missing in a batch script.
    """

    cluster: Cluster
    program: Path
    user: User
    job: int
    step: str = ""
    """SLURM_STEP_ID; empty: a batch script's."""
    node: str = "n1"
    environment: Mapping[str, str] | None = None
    """In place of the job's environment."""

    def get(self, uri: str) -> Said:
        """``get URI``, to its end."""
        return self.begin("get", uri).end()

    def release(self) -> Said:
        """``release``; its output goes where its errors go."""
        return self.begin("release").end()

    def begin(self, *words: str) -> _Call:
        """Start a call."""
        log = os.memfd_create("importer-log")
        reading, writing = os.pipe()
        process = self.cluster.start(
            *("env", "--default-signal", "-i", *(f"{k}={v}" for k, v in self._variables().items())),
            *(self.program, *words),
            user=self.user,
            node=self.node,
            stdout=writing if words[0] == "get" else log,
            stderr=log,
            pass_fds=(reading, writing),
        )
        os.close(writing)
        return _Call(process, reading, log)

    def _variables(self) -> dict[str, str]:
        job = {"SLURM_JOB_ID": str(self.job), "SLURM_JOB_UID": str(self.user.uid), "SLURMD_NODENAME": self.node}
        job["SLURM_CONF"] = str(self.cluster.conf)
        if self.step:
            job["SLURM_STEP_ID"] = self.step
        given = self.environment
        if given is None:
            given = {"HOME": str(self.user.home), "USER": self.user.name, "TERM": "xterm"}
        ours = {"PATH": "/usr/bin:/bin", "PYXIS_RUNTIME_PATH": "/run/pyxis", "PYXIS_VERSION": "0.24.0"}
        return {**given, **job, **ours}


class _Call:
    """A call that may still run."""

    def __init__(self, process: subprocess.Popen[str], reading: int, log: int) -> None:
        self.process = process
        self._reading = reading
        self._log = log

    def end(self) -> Said:
        """Read the first line, close the pipe, and wait."""
        with os.fdopen(self._reading, "rb") as pipe:
            line = pipe.readline()
        status = self.process.wait(60)
        with os.fdopen(self._log, "rb") as file:
            file.seek(0)
            log = file.read().decode()
        assert b"\0" not in line
        return Said(status, line.decode().removesuffix("\n"), log)
