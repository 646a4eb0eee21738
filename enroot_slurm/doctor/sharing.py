"""Whether processes in one cache see each other's locks and files: tried, with the code that imports use.

Locks only save work, so a lock that does not lock is a warning.  Names decide about correctness: each must be given
once, and be seen by all.
"""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.directory import CacheDirectory, unwritable
from enroot_slurm.doctor.finding import OK, error, ok, warning
from enroot_slurm.doctor.probe import site_settings
from enroot_slurm.doctor.readers import Reading, findings_of
from enroot_slurm.settings.config import SITE_FILE
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.doctor.team import Team, TeamMember
    from enroot_slurm.squashfs.options import SquashOptions

__all__ = ["Traces", "check_node_readers", "check_nodes", "check_team"]

_ROUNDS = 20
_LATE = 5.0  # seconds
_WAIT = 15.0  # seconds for a file to be seen; less than a member has to answer
_SKEW = 5.0  # seconds


class Traces(NamedTuple):
    """The files of a check in the cache *root*, until it is over."""

    root: str
    directory: str
    """Relative to the cache, for files."""
    lock: str
    """The name of a lock."""

    @classmethod
    def make(cls, root: Path) -> Traces:
        """Make them.  Raises: StorageError."""
        place = CacheDirectory(root)
        unique = place.unique()
        made = cls(str(root), f"tmp/.doctor.{unique}.tmp", f"doctor-{unique.rpartition('.')[2]}")
        try:
            place.closed_directory("tmp")
            place.closed_directory("locks")
            (root / made.directory / "probe").mkdir(mode=0o700, parents=True)
            place.write(root / made.marker, b"")
        except BaseException as cause:
            made.remove()
            if isinstance(cause, OSError):
                raise unwritable(root, cause) from None
            raise
        return made

    @property
    def marker(self) -> str:
        """A file that is there from the beginning, relative to the cache."""
        return f"{self.directory}/marker"

    @property
    def image(self) -> str:
        """An image to be read, relative to the cache; with a cache beside it, of which it is made."""
        return f"{self.directory}/probe/probe.sqsh"

    def file(self, name: str) -> str:
        """A file for the check, relative to the cache."""
        return f"{self.directory}/{name}"

    def remove(self) -> None:
        """Remove them."""
        directory = Path(self.root, self.directory)
        shutil.rmtree(directory, ignore_errors=True)
        for suffix in ("lock", "worker"):
            with contextlib.suppress(OSError):
                Path(self.root, "locks", f"{self.lock}.{suffix}").unlink()


def check_nodes(team: Team, uid: int) -> Iterator[Finding]:
    """Whether the nodes of *team* are alike, and see this machine's files; the cache belongs to user *uid*."""
    names = _names(team.members)
    yield ok("nodes.nodes", f"a process ran on each of {names}")
    for member in team.members:
        said = member.said
        if said["version"] != __version__:
            yield warning(
                "nodes.version",
                f"{member.node} has enroot-slurm {said['version']}, this machine {__version__}",
                "Install the same version everywhere: others may make other images.",
            )
        if said["uid"] != uid:
            yield error(
                "nodes.user",
                f"on {member.node} the user has the number {said['uid']}, but the cache belongs to {uid}",
                "Give the user the same number on all nodes.",
            )
    yield from _settings(team.members)
    times = [said["time"] for said in team.ask(team.members, "clock").values()]  # now that all have started
    if (skew := max(times) - min(times)) > _SKEW:
        yield warning("nodes.clock", f"the nodes' clocks differ by up to {skew:.0f} s", "Run an NTP client on each.")
    else:
        yield ok("nodes.clock", "the nodes' clocks agree")
    blind = [member for member in team.members if not member.said["sees"]]
    if blind:
        yield warning(
            "nodes.shared",
            f"{_names(blind)} {'does' if len(blind) == 1 else 'do'} not see the cache of this machine",
            "Mount it there. If each node is to have a cache of its own, that is right: each imports for itself.",
        )
    else:
        yield ok("nodes.shared", "all see the files that this machine has made")


def check_node_readers(team: Team, traces: Traces, options: SquashOptions) -> Iterator[Finding]:
    """Whether the nodes of *team* can read the image of *traces*, which the *options* have made."""
    said = team.ask(team.members, "read", traces.image, options.compressor)
    readings = {
        member.node: [Reading(*map(str, pair)) for pair in said[member.who]["readings"]] for member in team.members
    }
    yield from findings_of("nodes", str(options), readings)


def _settings(members: Sequence[TeamMember]) -> Iterator[Finding]:
    """The settings of the site's file on the nodes, compared with this machine's."""
    ours, differ = site_settings(), False
    for member in members:
        theirs = {str(key): str(value) for key, value in dict(member.said["settings"]).items()}
        for key in sorted({*ours, *theirs}):
            if ours.get(key) != theirs.get(key):
                differ = True
                yield warning(
                    "nodes.settings",
                    f"{key} is '{theirs.get(key, 'not set')}' on {member.node}, and '{ours.get(key, 'not set')}' here",
                    f"Let all machines have the same {SITE_FILE}.",
                )
    if not differ:
        yield ok("nodes.settings", f"the nodes have the settings of this machine's {SITE_FILE}")


def check_team(team: Team, traces: Traces, group: str, *, locks: bool) -> Iterator[Finding]:
    """Checks whether the members of *team* see each other's locks and files; *locks* is the setting."""
    if len(team.members) < 2:
        return
    yield from _exclusion(team, traces.lock, group, locks=locks)
    published = _once(team, traces, group)
    yield published
    if published.status == OK:
        yield _seen(team, traces, group)
    if group == "cache":
        yield _death(team, traces.lock)


def _exclusion(team: Team, lock: str, group: str, *, locks: bool) -> Iterator[Finding]:
    check, broken = f"{group}.locks", []
    for holder in team.members:
        others = [member for member in team.members if member is not holder]
        if not team.ask([holder], "hold", lock)[holder.who]["held"]:
            broken.append(f"{holder.node} does not get a lock that is free")
        said = team.ask(others, "attempt", lock)
        broken += [f"{each.node} gets a lock that {holder.node} holds" for each in others if said[each.who]["held"]]
        team.ask([holder], "drop")
    if broken:
        if locks:
            more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
            yield warning(
                check,
                f"locks do not work between {team.what}: {broken[0]}{more}",
                "Images will be right, but imported more than once at a time. Mount the file system with locks; "
                "if it can't have any, set locks: no.",
            )
        else:
            yield ok(check, f"locks do not work between {team.what}, and are not used (locks: no)")
    elif locks:
        yield ok(check, f"locks work between {team.what}: one at a time gets one")
    else:
        yield warning(
            check,
            f"locks are off (locks: no), but would work between {team.what}",
            "Set locks: yes; now several import the same image at the same time.",
        )


def _once(team: Team, traces: Traces, group: str) -> Finding:
    """Whether one of all that give a name at the same time does give it, and all find that one's file."""
    for number in range(_ROUNDS):
        name = traces.file(f"once{number}")
        won = [who for who, said in team.ask(team.members, "publish", name).items() if said["won"]]
        found = {said["content"] for said in team.ask(team.members, "see", name, f"{_WAIT}").values()}
        if len(won) != 1 or found != set(won):
            return error(
                f"{group}.publish",
                f"of {team.what} that named a new file at once, not exactly one did, or not all see the same file",
                "This file system can't hold a cache that they share: choose another.",
            )
    return ok(f"{group}.publish", f"when {team.what} name a new file at once, one of them does ({_ROUNDS} attempts)")


def _seen(team: Team, traces: Traces, group: str) -> Finding:
    """How late a new file is seen by those who have looked for it in vain just before."""
    late, by = 0.0, ""
    for maker in team.members:
        name = traces.file(f"seen{maker.who}")
        others = [member for member in team.members if member is not maker]
        team.ask(others, "see", name, "0")
        team.ask([maker], "publish", name)
        for who, said in team.ask(others, "see", name, f"{_WAIT}").items():
            seconds = float(said["seconds"]) if said["content"] == maker.who else _WAIT
            if seconds >= late:
                late, by = seconds, _member(others, who).node
    check = f"{group}.visible"
    if late >= _WAIT:
        return error(check, f"{by} does not see a new file after {_WAIT:g} s", "All have to mount one file system.")
    if late > _LATE:
        return warning(
            check,
            f"{by} sees a new file {late:.1f} s late",
            "Waiting for an import takes longer by that. On NFS, see acdirmax and lookupcache in nfs(5).",
        )
    return ok(check, f"between {team.what}, a new file is seen after {late:.2f} s at most")


def _death(team: Team, lock: str) -> Finding:
    """Whether the lock of a process that is killed is free."""
    holder, other = team.members[:2]
    team.ask([holder], "hold", lock)
    team.kill(holder)
    end = time.monotonic() + _LATE
    while not team.ask([other], "attempt", lock)[other.who]["held"]:
        if time.monotonic() > end:
            return warning(
                "cache.dead_locks",
                f"the lock of a killed process is not free after {_LATE:g} s",
                "Imports wait for worker_timeout when a process dies; see the file system's lock server.",
            )
        time.sleep(0.05)
    return ok("cache.dead_locks", "the lock of a killed process is free at once")


def _member(members: Sequence[TeamMember], who: str) -> TeamMember:
    return next(member for member in members if member.who == who)


def _names(members: Sequence[TeamMember]) -> str:
    return ", ".join(member.node for member in members)
