"""Processes in one cache: what is said where locks or names are not the same for all.

A mount namespace gives one process another directory of locks, or of files: then it is as on a file system whose locks
are each node's own, or that is not shared at all.
"""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING

import pytest
from support.tools import require_root

from enroot_slurm.doctor import sharing
from enroot_slurm.doctor import team as module
from enroot_slurm.doctor.sharing import Traces, check_nodes, check_team
from enroot_slurm.doctor.team import Team, probe_command
from enroot_slurm.errors import StorageError, WorkerFailed
from enroot_slurm.housekeeping.collector import IDLE
from enroot_slurm.housekeeping.keeper import collect
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enroot_slurm.doctor.finding import Finding

ELSEWHERE = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'


@pytest.fixture
def root(tmp_path) -> Path:
    (tmp_path / "cache").mkdir(mode=0o700)
    return tmp_path / "cache"


@pytest.fixture
def traces(root) -> Iterator[Traces]:
    """What the check leaves, which is nothing in the end."""
    made = Traces.make(root)
    yield made
    made.remove()
    assert {path.name for path in root.rglob("*")} - {"gc.lock"} == {"locks", "tmp"}


def found(team: Team, traces: Traces, group: str = "cache", *, locks: bool = True) -> dict[str, Finding]:
    """What the members of *team* find, by check."""
    with team:
        team.greet(traces.marker)
        return {finding.check.partition(".")[2]: finding for finding in check_team(team, traces, group, locks=locks)}


def apart(root: Path, tmp_path: Path, name: str) -> Team:
    """A team whose second member has the cache's directory *name* for itself."""
    require_root("mounts")
    (tmp_path / "private").mkdir()
    mounted = ["unshare", "--mount", "sh", "-c", ELSEWHERE, "sh", str(tmp_path / "private"), str(root / name)]
    commands = [probe_command(root, "0", ""), [*mounted, *probe_command(root, "1", "")]]
    return Team(commands, what="two processes")


def test_all_is_well(root, traces) -> None:
    """On this file system locks lock, one of two names a file, and a killed process has no lock."""
    findings = found(Team.here(root), traces)
    assert findings.keys() == {"locks", "publish", "visible", "dead_locks"}
    assert {finding.status for finding in findings.values()} == {"ok"}


def test_locks_are_off(root, traces) -> None:
    """``locks: no`` where they would work costs work for nothing."""
    finding = found(Team.here(root), traces, locks=False)["locks"]
    assert finding.status == "warning"
    assert "locks: yes" in finding.hint


def test_locks_that_do_not_lock(root, traces, tmp_path) -> None:
    """As with localflock: a warning, for what is imported is right all the same; none with ``locks: no``."""
    findings = found(apart(root, tmp_path, "locks"), traces, "nodes")
    assert findings["locks"].status == "warning"
    assert "gets a lock that" in findings["locks"].message
    assert "locks: no" in findings["locks"].hint
    assert findings["publish"].status == findings["visible"].status == "ok"


def test_locks_that_do_not_lock_and_are_off(root, traces, tmp_path) -> None:
    """Then the setting is right."""
    assert found(apart(root, tmp_path, "locks"), traces, "nodes", locks=False)["locks"].status == "ok"


def test_a_cache_that_is_not_shared(root, traces, tmp_path) -> None:
    """Who does not see the others' files is named."""
    with apart(root, tmp_path, "tmp") as team:
        team.greet(traces.marker)
        findings = {finding.check: finding for finding in check_nodes(team, os.geteuid())}
    assert findings["nodes.shared"].status == "warning"
    assert "does not see" in findings["nodes.shared"].message
    assert findings["nodes.clock"].status == "ok"


def test_a_name_that_two_give(root, traces, tmp_path) -> None:
    """Where both get the same name, no cache can be shared: an error."""
    team = apart(root, tmp_path, "tmp")
    (tmp_path / "private" / traces.directory.rpartition("/")[2]).mkdir()
    findings = found(team, traces, "nodes")
    assert findings["publish"].status == "error"
    assert "visible" not in findings


def test_a_file_that_is_not_seen(root, traces, tmp_path, monkeypatch) -> None:
    """Whoever does not see a new file in time is named."""
    monkeypatch.setattr(sharing, "_WAIT", 0.2)
    team = apart(root, tmp_path, "tmp")
    (tmp_path / "private" / traces.directory.rpartition("/")[2]).mkdir()
    with team:
        team.greet(traces.marker)
        finding = sharing._seen(team, traces, "nodes")
    assert finding.status == "error"
    assert "does not see a new file" in finding.message


def test_another_user_number(root, traces) -> None:
    """A user whose number differs between nodes is an error: files would be somebody else's."""
    with Team.here(root) as team:
        team.greet(traces.marker)
        findings = list(check_nodes(team, os.geteuid() + 1))
    assert {finding.status for finding in findings if finding.check == "nodes.user"} == {"error"}


def test_settings_that_differ(root, traces, monkeypatch) -> None:
    """What the site's file says on a node and here is compared, key by key."""
    with Team.here(root) as team:
        team.greet(traces.marker)
        first, second = team.members
        first.said["settings"] = {"max_imports": "2"}
        second.said["settings"] = {"max_imports": "3", "locks": "no"}
        monkeypatch.setattr(sharing, "site_settings", lambda: {"max_imports": "2"})
        findings = [each for each in check_nodes(team, os.geteuid()) if each.check == "nodes.settings"]
    assert [each.status for each in findings] == ["warning"] * 2
    assert "locks is 'no'" in findings[0].message
    assert "max_imports is '3'" in findings[1].message


def test_a_member_that_dies(root, traces) -> None:
    """It is told, not waited for."""
    with Team.here(root) as team:
        team.greet(traces.marker)
        os.kill(team._processes[0].pid, signal.SIGKILL)
        with pytest.raises(WorkerFailed, match="have ended"):
            list(check_team(team, traces, "cache", locks=True))


def test_a_member_that_hangs(root, traces, monkeypatch) -> None:
    """It is waited for no longer than so long, and killed in the end."""
    monkeypatch.setattr(module, "_ANSWER", 0.3)
    monkeypatch.setattr(module, "_GRACE", 0.1)
    with Team.here(root) as team:
        team.greet(traces.marker)
        os.kill(team._processes[1].pid, signal.SIGSTOP)
        with pytest.raises(WorkerFailed, match="do not answer in time"):
            list(check_team(team, traces, "cache", locks=True))
    ended, hung = (process.returncode for process in team._processes)
    assert ended in {0, -signal.SIGKILL}  # if the machine is busy, it needs longer than that to end by itself
    assert hung == -signal.SIGKILL


def test_members_that_do_not_start(root, traces) -> None:
    """What they said to standard error is in the message."""
    with Team([["sh", "-c", "echo no such node >&2; exit 1"]], what="nodes") as team:
        with pytest.raises(WorkerFailed, match="nodes have ended: no such node"):
            team.greet(traces.marker)


def test_a_full_or_closed_cache(root) -> None:
    """What can't be written is an error that says so; nothing is left."""
    (root / "tmp").write_bytes(b"")
    with pytest.raises(StorageError):
        Traces.make(root)


def test_a_collection_meanwhile(root, traces) -> None:
    """A collection that runs beside a check does not disturb it."""
    with Team.here(root) as team:
        team.greet(traces.marker)
        assert collect(root, config=Config.load(environ={"HOME": str(root)}), idle=IDLE).freed == 0
        findings = list(check_team(team, traces, "cache", locks=True))
    assert {finding.status for finding in findings} == {"ok"}


def mixed(root: Path, user: str) -> Team:
    """A team whose second member, which root has started, becomes *user*."""
    require_root("becomes another user")
    commands = [probe_command(root, "0", ""), probe_command(root, "1", user)]
    return Team(commands, what="two processes")


def test_a_user_of_another_number_on_a_node(root, traces) -> None:
    """The node is named, with both numbers; that it can't see the cache is no failure of the check."""
    os.chmod(root.parent, 0o755)
    with mixed(root, "nobody") as team:
        team.greet(traces.marker)
        findings = list(check_nodes(team, os.geteuid()))
    [wrong] = [finding for finding in findings if finding.check == "nodes.user"]
    assert f"the user has the number 65534, but the cache belongs to {os.geteuid()}" in wrong.message
    assert [finding.status for finding in findings if finding.check == "nodes.shared"] == ["warning"]


def test_a_node_that_does_not_know_the_user(root, traces) -> None:
    """The node says so by its name, before anything is asked of it."""
    with mixed(root, "nobody-of-that-name") as team:
        with pytest.raises(WorkerFailed, match=f"{os.uname().nodename}: there is no user"):
            team.greet(traces.marker)
