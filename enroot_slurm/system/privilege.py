"""Working as another user: a function runs in a forked child that has given up every privilege before.

The child is in a session of its own, with /dev/null for standard streams, no descriptor but those it is given, ``/`` as
its directory and an environment of six variables.  It can't regain anything: groups, group and user are set, read
back, and tried to be set again; ``no_new_privs`` closes the way of set-uid programs.  It is not dumpable, so that
neither its memory nor its environment can be read by others of that user.

Forking, not starting a program: what root knows (the settings) needs no second reading, and a word of a user never
becomes an argument.  The child must import what it needs from directories that its user can read.

Sources: setresuid(2), prctl(2), credentials(7).
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import syslog
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from enroot_slurm.errors import ConfigError, EnrootSlurmError, WorkerFailed, error_fields, error_of, printable
from enroot_slurm.system.interrupts import raise_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["CRASHED", "Child", "Identity", "fork", "run"]

CRASHED = 70
"""Status of a child whose function raised; EX_SOFTWARE of sysexits.h."""
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MAX_ANSWER = 64 << 10
_GRACE = 5.0  # seconds in which a child that is told to end may clean up
_PR_SET_PDEATHSIG = 1
_PR_SET_DUMPABLE = 4
_PR_SET_NO_NEW_PRIVS = 38


class Identity(NamedTuple):
    """A user, with all that a login would give; made by `of`."""

    name: str
    uid: int
    gid: int
    groups: tuple[int, ...]
    home: str

    @classmethod
    def of(cls, user: str | int, gid: int | None = None) -> Identity:
        """The user of this name or number, with *gid* as group (by default the user's own).

        Raises: ConfigError, when there is no such user, or it is root.
        """
        import pwd  # noqa: PLC0415 - it may ask a server

        try:
            entry = pwd.getpwnam(user) if isinstance(user, str) else pwd.getpwuid(user)
        except KeyError:
            raise ConfigError(f"there is no user {printable(str(user), 64)} on {os.uname().nodename}") from None
        if entry.pw_uid == 0:
            raise ConfigError("nothing is imported as root", hint="Set cache_user to a user who owns the cache alone.")
        group = entry.pw_gid if gid is None else gid
        groups = tuple(sorted(set(os.getgrouplist(entry.pw_name, group))))
        return cls(entry.pw_name, entry.pw_uid, group, groups, entry.pw_dir)


class Child(NamedTuple):
    """A child process: its number, and a pipe that says what it answers, and that it has ended.

    A process that has got the pipe can wait as well, when the parent has ended.
    """

    pid: int
    pipe: int

    def wait(self, seconds: float | None = None) -> int | None:
        """Its exit status (-N if signal N ended it), or None when it still runs after *seconds*.

        Either call this until it returns a status, or never; then the child runs on its own.
        """
        if not _is_readable(self.pipe, seconds):
            return None
        said = os.read(self.pipe, 1)
        os.close(self.pipe)
        try:
            return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        except ChildProcessError:
            return said[0] if said else CRASHED

    def end(self) -> int:
        """End it, and what it has started, first politely; its status."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:  # it has no session of its own yet, or none is left
                with suppress(ProcessLookupError):
                    os.kill(self.pid, number)
            status = self.wait(_GRACE)
            if status is not None:
                return status
        raise WorkerFailed(f"process {self.pid} can't be killed")


def fork(
    function: Callable[[], int],
    identity: Identity | None = None,
    *,
    keep: Sequence[int] = (),
    detached: bool = False,
) -> Child:
    """Run *function* in a child as *identity* (None: as this user); what it returns is the child's status.

    The child keeps the descriptors *keep*.  SIGTERM, SIGHUP and SIGINT raise KeyboardInterrupt in it, so that it cleans
    up; it gets a SIGTERM when this process ends, unless it is *detached*.
    """

    def answer(pipe: int) -> int:
        status = function()
        with suppress(BrokenPipeError):  # nobody waits any more
            os.write(pipe, bytes([status]))
        return status

    return _fork(answer, identity, keep, detached=detached)


def run(
    function: Callable[[], Any], identity: Identity | None, *, deadline: float = 60, keep: Sequence[int] = ()
) -> Any:
    """Return the result of *function* in a child as *identity* (None: as this user): JSON's values, at most 64 KiB.

    Raises: what it raises, if that is an EnrootSlurmError; WorkerFailed, when the child crashes, says too much or takes
    longer than *deadline* seconds (it is ended then).
    """

    def answer(pipe: int) -> int:
        try:
            value = {"value": function()}
        except EnrootSlurmError as error:
            value = {"error": error_fields(error)}
        data = memoryview(json.dumps(value).encode())
        while data:
            data = data[os.write(pipe, data) :]
        return 0

    child = _fork(answer, identity, keep)
    try:
        data = _read(child.pipe, deadline)
        status = child.wait()
    except BaseException:
        child.end()
        raise
    if status or not data:
        name = identity.name if identity else "this user"
        raise WorkerFailed(f"the process that worked as {name} {_ended(status)}")
    fields = json.loads(data)
    if "error" in fields:
        raise error_of(fields["error"])
    return fields["value"]


def _fork(
    function: Callable[[int], int], identity: Identity | None, keep: Sequence[int], *, detached: bool = False
) -> Child:
    sys.stdout.flush()
    sys.stderr.flush()
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        _live(function, identity, writer, keep, detached=detached)
    os.close(writer)
    return Child(pid, reader)


def _live(
    function: Callable[[int], int], identity: Identity | None, pipe: int, keep: Sequence[int], *, detached: bool
) -> NoReturn:
    status = CRASHED
    try:
        _detach({pipe, *keep})
        import ctypes  # noqa: F401, PLC0415 - now, for the user may not be able to read it

        if identity:
            _become(identity)
        if not detached:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # forgotten when a process becomes another user
        status = function(pipe)
    except KeyboardInterrupt as interrupt:
        status = 128 + (interrupt.args or (signal.SIGINT,))[0]
    except BaseException as error:  # noqa: BLE001 - nothing may return into the parent's code
        with suppress(Exception):
            import traceback  # noqa: PLC0415 - not needed while all is well

            where = traceback.extract_tb(error.__traceback__)[-1]
            told = f"{type(error).__name__}: {error} ({where.filename}:{where.lineno})"
            syslog.openlog("enroot-slurm", syslog.LOG_PID, syslog.LOG_DAEMON)
            syslog.syslog(syslog.LOG_ERR, f"event=crash error={printable(told, 800)!r}")
    finally:
        os._exit(status)


def _detach(keep: set[int]) -> None:
    os.setsid()
    null = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(null, stream)
    for descriptor in map(int, os.listdir("/proc/self/fd")):  # noqa: PTH208 - numbers, not paths
        if descriptor > 2 and descriptor not in keep:
            with suppress(OSError):  # the listing's own
                os.close(descriptor)
    os.chdir("/")
    os.umask(0o022)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    raise_interrupts()


def _become(identity: Identity) -> None:
    """Give up what this process may beyond *identity*, for ever.  Raises: OSError, WorkerFailed."""
    uid, gid = identity.uid, identity.gid
    if os.geteuid() == 0:
        os.setgroups(identity.groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)
    _prctl(_PR_SET_DUMPABLE, 0)
    is_it = (
        os.getresuid() == (uid, uid, uid)
        and os.getresgid() == (gid, gid, gid)
        and set(os.getgroups()) | {gid} == set(identity.groups) | {gid}
    )
    if not is_it or 0 in {uid, os.geteuid()} or _regains():
        raise WorkerFailed(f"this process did not become {identity.name}")
    os.environ.clear()
    os.environ.update(
        HOME=identity.home,
        USER=identity.name,
        LOGNAME=identity.name,
        PATH=_SEARCH_PATH,
        LANG="C.UTF-8",
        SHELL="/bin/sh",
    )


def _regains() -> bool:
    with suppress(PermissionError):
        os.setresuid(0, 0, 0)
        return True
    with suppress(PermissionError):
        os.setgroups([0])
        return True
    return False


def _prctl(option: int, argument: int) -> None:
    import ctypes  # noqa: PLC0415 - only a child needs it, but always

    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(argument), 0, 0, 0):
        raise OSError(ctypes.get_errno(), f"prctl({option})")


def _read(pipe: int, deadline: float) -> bytes:
    """All that comes through *pipe*.  Raises: WorkerFailed."""
    end = time.monotonic() + deadline
    data = bytearray()
    while _is_readable(pipe, max(0.0, end - time.monotonic())):
        chunk = os.read(pipe, _MAX_ANSWER)
        data += chunk
        if not chunk:
            return bytes(data)
        if len(data) > _MAX_ANSWER:
            raise WorkerFailed(f"a process answered more than {_MAX_ANSWER} bytes")
    raise WorkerFailed(f"a process did not answer within {deadline:g} s")


def _is_readable(pipe: int, seconds: float | None) -> bool:
    poll = select.poll()
    poll.register(pipe, select.POLLIN)
    return bool(poll.poll(None if seconds is None else seconds * 1000))


def _ended(status: int | None) -> str:
    if status is not None and status < 0:
        return f"was ended by signal {-status}"
    return "gave no answer" if not status else f"ended with status {status}"
