"""Processes that work in one cache at the same time: two on this machine, or one on each of some nodes (probe.py)."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from enroot_slurm.errors import ConversionError, WorkerFailed, printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from types import TracebackType

__all__ = ["Team", "TeamMember", "probe_command"]

_FREE = 60  # seconds for nodes to become free
_START = _FREE + 30.0
_ANSWER = 30.0
_GRACE = 5.0
_MAX_LINE = 64 << 10
_PROBE = (
    "import sys; sys.path.append({directory!r}); from enroot_slurm.doctor.probe import main; "
    "raise SystemExit(main(sys.argv[1:]))"
)


class TeamMember(NamedTuple):
    """A process of the team, as it has presented itself."""

    who: str
    node: str
    said: dict[str, Any]
    """Its answer to ``hello``."""


class Team:
    """The processes, as a context manager; leaving it ends them.

    Raises: WorkerFailed, when they don't start or stop to answer; ConversionError, when srun can't be run.
    """

    def __init__(self, commands: Sequence[Sequence[str]], *, what: str) -> None:
        self.what = what
        """For messages: what they are."""
        self.members: list[TeamMember] = []
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  as long as the processes
        self._processes: list[subprocess.Popen[bytes]] = []
        self._buffers: dict[int, bytearray] = {}
        self._answers: list[dict[str, Any]] = []
        for command in commands:
            try:
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=self._messages,
                    start_new_session=True,
                )
            except OSError as error:
                self._end()
                raise ConversionError(
                    f"{command[0]} can't be run: {error.strerror}",
                    hint="Slurm's srun has to be in PATH."
                    if command[0] == "srun"
                    else "All users have to be able to run it: see docs/slurm.md about make install-slurm.",
                ) from None
            assert process.stdout is not None
            self._processes.append(process)
            self._buffers[process.stdout.fileno()] = bytearray()

    @classmethod
    def here(cls, root: Path) -> Self:
        """Two processes of this user on this machine, in the cache *root*."""
        return cls([probe_command(root, number, "") for number in ("0", "1")], what="two processes on this machine")

    @classmethod
    def on_nodes(cls, nodes: str, root: Path, user: str) -> Self:
        """A process on each of *nodes*, a number of them or a list for srun; root's become *user*."""
        which = [f"--nodes={nodes}"] if nodes.isdecimal() else [f"--nodelist={nodes}"]
        srun = ["srun", *which, "--ntasks-per-node=1", "--job-name=enroot-slurm-doctor", "--time=5"]
        srun += [f"--immediate={_FREE}", "--kill-on-bad-exit=0", "--quiet", "--chdir=/"]
        return cls([[*srun, *probe_command(root, "", user)]], what="nodes")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def greet(self, marker: str) -> None:
        """Let all present themselves: then `members` has them.  Raises: WorkerFailed."""
        self._send("*", "hello", marker)
        first = self._next(time.monotonic() + _START)
        if "error" in first:  # before its end is seen, which says less
            raise WorkerFailed(f"{printable(str(first.get('node')), 64)}: {printable(str(first['error']))}")
        count = len(self._processes) if len(self._processes) > 1 else int(first.get("of") or 1)
        self._answers.append(first)
        said = self._gather("hello", {str(number) for number in range(count)}, _START)
        for who, fields in sorted(said.items(), key=lambda item: int(item[0])):
            if "error" in fields:
                raise WorkerFailed(f"{printable(str(fields['node']), 64)}: {printable(str(fields['error']))}")
            self.members.append(TeamMember(who, printable(str(fields["node"]), 64), fields))

    def ask(self, members: Iterable[TeamMember], op: str, *arguments: str) -> dict[str, dict[str, Any]]:
        """The answers of *members* to *op*, by `TeamMember.who`; all are asked before one has to answer.

        Raises: WorkerFailed, when one does not, or says that it can't.
        """
        asked = [member.who for member in members]
        if len(asked) == len(self.members):
            self._send("*", op, *arguments)
        else:
            for who in asked:
                self._send(who, op, *arguments)
        said = self._gather(op, set(asked), _ANSWER)
        for member in self.members:
            if "error" in said.get(member.who, {}):
                raise WorkerFailed(f"{member.node}: {printable(str(said[member.who]['error']))}")
        return said

    def kill(self, member: TeamMember) -> None:
        """End the process of *member* as a crash would; only for processes on this machine."""
        process = self._processes[int(member.who)]
        process.kill()
        process.wait()
        assert process.stdout is not None
        del self._buffers[process.stdout.fileno()]
        self.members.remove(member)

    def _send(self, *words: str) -> None:
        line = f"{' '.join(words)}\n".encode()
        for process in self._processes:
            assert process.stdin is not None
            with suppress(BrokenPipeError, ValueError):  # that it has ended is seen when it does not answer
                process.stdin.write(line)
                process.stdin.flush()

    def _gather(self, op: str, missing: set[str], seconds: float) -> dict[str, dict[str, Any]]:
        """The answers to *op* of those who are *missing*."""
        said: dict[str, dict[str, Any]] = {}
        missing, deadline = set(missing), time.monotonic() + seconds
        while missing:
            answer = self._answers.pop(0) if self._answers else self._next(deadline)
            if answer.get("op") == op and answer.get("who") in missing:
                missing.remove(answer["who"])
                said[answer["who"]] = answer
        return said

    def _next(self, deadline: float) -> dict[str, Any]:
        """The next answer of anyone.  Raises: WorkerFailed."""
        while True:
            for buffer in self._buffers.values():
                line, end, rest = bytes(buffer).partition(b"\n")
                if end:
                    buffer[:] = rest
                    with suppress(ValueError):
                        answer = json.loads(line)
                        if isinstance(answer, dict):
                            return answer
            ready, _, _ = select.select(list(self._buffers), [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise WorkerFailed(f"{self.what} do not answer in time{self._complaint()}")
            for descriptor in ready:
                piece = os.read(descriptor, _MAX_LINE)
                if not piece:
                    raise WorkerFailed(f"{self.what} have ended{self._complaint()}")
                self._buffers[descriptor] += piece

    def _complaint(self) -> str:
        """The text that the processes, or srun, have written to standard error, to be put behind a message."""
        time.sleep(0.2)  # srun says it after its tasks' end
        self._messages.seek(0)
        text = " ".join(self._messages.read(_MAX_LINE).decode("utf-8", "replace").split())
        return f": {printable(text, 500)}" if text else ""

    def _end(self) -> None:
        for process in self._processes:
            with suppress(OSError):
                if process.stdin:
                    process.stdin.close()
        for process in self._processes:
            for number in (0, signal.SIGTERM, signal.SIGKILL):
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, number)
                with suppress(subprocess.TimeoutExpired):
                    process.wait(_GRACE)
                    break
            if process.stdout:
                process.stdout.close()
        self._messages.close()


def probe_command(root: Path, number: str, user: str) -> list[str]:
    """The command line of a member: *number* is its own, or empty for srun to give; see probe.py."""
    directory = str(Path(__file__).parents[2])
    return [sys.executable, "-I", "-c", _PROBE.format(directory=directory), str(root), number, user]
