"""What is given up is given up for ever: working as another user, as real users of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import wait_for
from support.slurm import User
from support.tools import require_root

from enroot_slurm.errors import ConfigError, NotFound, WorkerFailed, error_fields, error_of
from enroot_slurm.system.privilege import CRASHED, Identity, fork, run

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def user() -> Iterator[User]:
    require_root("it becomes another user")
    made = User.make("priv")
    subprocess.run(["usermod", "-a", "-G", "audio", made.name], check=True)
    yield made
    made.remove()


def test_the_child_is_the_user_and_stays_so(user, monkeypatch) -> None:
    """Users, groups, environment, descriptors, session: nothing of root's is left, and nothing comes back."""
    monkeypatch.setenv("LD_PRELOAD_CANARY", "canary")
    secret = os.open("/etc/shadow", os.O_RDONLY)

    def look() -> dict[str, object]:
        status = Path("/proc/self/status").read_text()
        with_sudo = subprocess.run(["/bin/su", "root", "-c", "id"], check=False, capture_output=True, text=True)
        return {
            "uids": os.getresuid(),
            "gids": os.getresgid(),
            "groups": sorted(os.getgroups()),
            "environment": dict(os.environ),
            "descriptors": [fd for fd in range(3, 64) if _is_open(fd)],
            "directory": str(Path.cwd()),
            "leader": os.getsid(0) == os.getpid(),
            "status": {k: v.strip() for k, _, v in (line.partition(":") for line in status.splitlines())},
            "su": with_sudo.returncode,
            "stdin": os.read(0, 1).decode(),
            "shadow": _can_open("/etc/shadow"),
        }

    seen = run(look, Identity.of(user.name))
    os.close(secret)
    assert seen["uids"] == [user.uid] * 3
    assert seen["gids"] == [user.gid] * 3
    groups = subprocess.run(["id", "-G", user.name], check=True, capture_output=True, text=True).stdout.split()
    assert seen["groups"] == sorted(map(int, groups))
    assert len(groups) == 2
    assert set(seen["environment"]) - {"LC_CTYPE"} == {"HOME", "USER", "LOGNAME", "PATH", "LANG", "SHELL"}
    assert len(seen["descriptors"]) == 1  # the answer's pipe
    assert (seen["directory"], seen["leader"], seen["stdin"], seen["shadow"]) == ("/", True, "", False)
    status = seen["status"]
    assert status["NoNewPrivs"] == "1"
    for name in ("CapEff", "CapPrm", "CapInh", "CapAmb"):
        assert int(status[name], 16) == 0
    assert seen["su"] != 0


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


def _can_open(path: str) -> bool:
    try:
        os.close(os.open(path, os.O_RDONLY))
    except PermissionError:
        return False
    return True


def test_answers(user) -> None:
    """What the function returns or raises comes back; a crash, too much and too long are WorkerFailed."""
    identity = Identity.of(user.uid, user.gid)
    assert run(lambda: {"a": [1, None]}, identity) == {"a": [1, None]}

    def refuse() -> None:
        raise NotFound("no such \x1b[31mimage", hint="Look again.")

    with pytest.raises(NotFound, match=r"no such \\x1b\[31mimage") as caught:
        run(refuse, identity)
    assert caught.value.hint == "Look again."
    with pytest.raises(WorkerFailed, match=f"status {CRASHED}"):
        run(lambda: 1 // 0, identity)
    with pytest.raises(WorkerFailed, match="more than 65536 bytes"):
        run(lambda: "x" * 70_000, identity)
    with pytest.raises(WorkerFailed, match="signal 9"):
        run(lambda: os.kill(os.getpid(), signal.SIGKILL), identity)
    with pytest.raises(WorkerFailed, match="within 0.2 s"):
        run(lambda: time.sleep(3600), identity, deadline=0.2)  # it is not waited for: a test may take 300 s


def test_nobody_becomes_root() -> None:
    """Root, and users that do not exist, are refused."""
    with pytest.raises(ConfigError, match="nothing is imported as root"):
        Identity.of("root")
    with pytest.raises(ConfigError, match="no user"):
        Identity.of("nobody-of-that-name")


def test_a_child_ends_with_all_it_has_started(tmp_path) -> None:
    """`Child.end` ends programs that the child runs too; a child that cleans up is given the time."""
    note = tmp_path / "note"

    def work() -> int:
        program = subprocess.Popen(["sleep", "1000"])
        try:
            note.write_text(f"{program.pid}")
            time.sleep(1000)
        finally:
            note.write_text(f"{program.pid} cleaned")
        return 0

    child = fork(work)
    wait_for(lambda: note.exists() and note.read_text())
    assert child.wait(0) is None
    assert child.end() == 128 + signal.SIGTERM
    program, _, cleaned = note.read_text().partition(" ")
    assert cleaned == "cleaned"
    wait_for(lambda: not Path(f"/proc/{program}/cmdline").exists() or not Path(f"/proc/{program}/cmdline").read_bytes())


def test_errors_are_told_as_texts() -> None:
    """Classes come back by name; a foreign name is no way to make anything else."""
    fields = error_fields(NotFound("a\nb", hint="c"))
    assert json.loads(json.dumps(fields)) == {"kind": "NotFound", "message": "a\nb", "hint": "c"}
    assert type(error_of(fields)) is NotFound
    assert str(error_of(fields)) == "a\nb"
    for kind in ("printable", "os", "Interrupted", "", "__class__"):
        assert type(error_of({"kind": kind, "message": "\x07"})).__name__ == "EnrootSlurmError"
