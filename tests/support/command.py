"""The command as users run it: a process, with an eye on all that it starts and leaves behind."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from support.images import CONFIG, MANIFEST

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.fault_registry import FaultRegistry
    from support.images import Image

__all__ = ["COMMAND", "Running", "enroot_slurm", "processes_of", "serve", "wait_for"]

COMMAND = [sys.executable, "-m", "enroot_slurm"]
# What starts the tests may ignore signals (nohup, a shell's background job); that would be inherited.
_DEFAULT_SIGNALS = ["env", "--default-signal=INT,TERM,HUP"]


def enroot_slurm(
    *arguments: object, environment: Mapping[str, str], **options: Any
) -> subprocess.CompletedProcess[str]:
    """Run ``enroot-slurm ARGUMENTS...`` to its end; *options* are those of `subprocess.run`."""
    options = {"capture_output": True, "text": True, "timeout": 120, **options}
    return subprocess.run([*COMMAND, *map(str, arguments)], check=False, env=dict(environment), **options)


class Running:
    """``enroot-slurm ARGUMENTS...`` in a session of its own; leaving the ``with`` block kills what is left of it."""

    def __init__(
        self, *arguments: object, environment: Mapping[str, str], log: Path, prefix: tuple[str, ...] = ()
    ) -> None:
        self._log = log
        with log.open("wb") as stderr:
            self.process = subprocess.Popen(
                [*_DEFAULT_SIGNALS, *prefix, *COMMAND, *map(str, arguments)],
                env={**environment, "PYTHONFAULTHANDLER": "1"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def said(self) -> str:
        """Its standard error up to now."""
        return self._log.read_text("utf-8", "replace")

    def wait(self, timeout: float = 60) -> int:
        """The status it ends with; where it hangs, an error that says what each of its threads does."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            os.kill(self.pid, signal.SIGABRT)
            self.process.wait()
            raise AssertionError(f"it did not end within {timeout} s:\n{self.said}") from None

    def wait_until_says(self, text: str) -> None:
        wait_for(lambda: text in self.said or self.process.poll() is not None)
        assert text in self.said, self.said

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for pid in processes_of(self.pid):
            os.kill(pid, 9)
        self.process.wait()


def processes_of(session: int) -> dict[int, str]:
    """The living processes of a session, by number, with their names: orphans too."""
    found = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            head, _, tail = path.read_text().rpartition(")")
        except OSError:
            continue
        fields = tail.split()
        if int(fields[3]) == session and fields[0] != "Z":
            found[int(path.parent.name)] = head.partition("(")[2]
    return found


def wait_for(condition: Callable[[], object], seconds: float = 30) -> None:
    """Wait until *condition* is true; fail when it never is.

    The condition may look at files that come and go.  A file that goes away meanwhile makes it false.
    """
    deadline = time.monotonic() + seconds
    while True:
        with contextlib.suppress(FileNotFoundError):
            if condition():
                return
        assert time.monotonic() < deadline, "it does not come"
        time.sleep(0.01)


def serve(registry: FaultRegistry, image: Image, repository: str = "app", tag: str = "1") -> str:
    """Put *image* into a `FaultRegistry`; its URI."""
    for blob in image.blobs():
        registry.add_blob(blob.data)
    registry.add_blob(image.config_document(), CONFIG[image.family])
    registry.add_manifest(repository, tag, image.manifest(), MANIFEST[image.family])
    return f"docker://{registry.host}#{repository}:{tag}"
