"""Logins for registries, from the file that enroot uses: ``$ENROOT_CONFIG_PATH/.credentials``.

Only the entry that is chosen for a host is ever evaluated, and secrets stay in `Secret`, which shows itself nowhere.
"""

from __future__ import annotations

import os
import signal
import stat
import subprocess
import threading
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from enroot_slurm.errors import AccessDenied, ConfigError
from enroot_slurm.oci.reference import DOCKER_HUB_NAMES
from enroot_slurm.registry import netrc
from enroot_slurm.system.slow_files import read_file

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Credential", "Credentials", "Secret"]

_HUB = DOCKER_HUB_NAMES | {"auth.docker.io"}
_MAX_FILE = 64 << 10
_MAX_OUTPUT = 64 << 10
_COMMAND_TIMEOUT = 20.0  # seconds


class Secret:
    """A string that is shown as ``***``; only `reveal` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, for the one line that sends it."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be stored or sent")


class Credential(NamedTuple):
    """A login with its secret, and where it is from."""

    login: str
    secret: Secret
    source: str
    """FILE:LINE, for messages."""


class Credentials:
    """The entries of a credentials file.  Without arguments: none."""

    def __init__(
        self,
        entries: Sequence[netrc.MachineEntry] = (),
        *,
        name: str = "",
        warnings: tuple[str, ...] = (),
        no_commands: str = "commands in it are off",
        strict: bool = False,
    ) -> None:
        self._entries = tuple(entries)
        self._name = name
        self._strict = strict
        self._no_commands = no_commands  # why, or empty: they may be run
        self._evaluated: dict[int, Secret] = {}
        self._lock = threading.Lock()
        self.warnings = warnings
        """What is doubtful about the file, for the user."""

    @classmethod
    def load(cls, path: Path, *, run_commands: bool, strict: bool = False) -> Credentials:
        """The credentials in the file *path*; none if there is no such file.

        *run_commands*: whether passwords of the form ``$(COMMAND)`` and ``$NAME`` may be evaluated.  Even so they
        are not when someone else could have written them.

        *strict*: an entry is only for the port that it names (without one: https's), and ``default`` for nobody.  So it
        is in the site's name, where a job's user chooses the host that is asked.

        Raises: ConfigError, with FILE:LINE and never with content; StorageError, when the file system hangs.
        """
        try:
            content, uid, mode = read_file(path, _MAX_FILE)
        except (FileNotFoundError, NotADirectoryError):
            return cls()
        except OSError as error:
            raise ConfigError(f"{path}: the credentials can't be read: {error.strerror}") from None
        if not stat.S_ISREG(mode):
            raise ConfigError(f"{path}: not a regular file")
        if len(content) > _MAX_FILE:
            raise ConfigError(f"{path}: larger than {_MAX_FILE >> 10} KiB")
        try:
            text = content.decode()
        except UnicodeDecodeError as error:
            line = content.count(b"\n", 0, error.start) + 1
            raise ConfigError(f"{path}:{line}: not UTF-8 text") from None
        if "\0" in text:
            raise ConfigError(f"{path}:{text.count(chr(10), 0, text.index(chr(0))) + 1}: there is a NUL character")
        warnings, no_commands = _judge(path, uid, mode)
        if not run_commands:
            no_commands = "commands in credentials are off"
        return cls(
            netrc.parse(text, str(path)), name=str(path), warnings=warnings, no_commands=no_commands, strict=strict
        )

    def find(self, host: str, user: str = "", *, exact: bool = False) -> Credential | None:
        """The credential for *host* (``HOST[:PORT]``), with the login *user* if that is not empty.

        An entry for host and port goes before one for the host, both before ``default`` (never with *exact*);
        of several the first.  Docker Hub's host names are one.

        Raises: AccessDenied when its password has to be evaluated and may not; ConfigError when that fails.
        """
        i = self._index(host, user, exact=exact)
        if i is None:
            return None
        return Credential(self._entries[i].login, self._secret(i), f"{self._name}:{self._entries[i].line}")

    def has(self, host: str, user: str = "", *, exact: bool = False) -> bool:
        """Whether `find` would find something; nothing is evaluated."""
        return self._index(host, user, exact=exact) is not None

    def place(self, host: str, user: str = "") -> str:
        """FILE:LINE of what `find` would find, or empty; nothing is evaluated."""
        i = self._index(host, user, exact=False)
        return "" if i is None else f"{self._name}:{self._entries[i].line}"

    @property
    def name(self) -> str:
        """The file's name, or empty."""
        return self._name

    def _index(self, host: str, user: str, *, exact: bool) -> int | None:
        for name in _names(host)[:1] if self._strict else [*_names(host), *([] if exact else [""])]:
            for i, entry in enumerate(self._entries):
                if _one_name(entry.machine) == name and entry.password and user in {"", entry.login}:
                    return i
        return None

    def _secret(self, i: int) -> Secret:
        entry = self._entries[i]
        password, where = entry.password or netrc.NetrcWord(""), f"{self._name}:{entry.line}"
        if not password.substitution:
            return Secret(password.text)
        if self._no_commands:
            raise AccessDenied(
                f"{where}: the password has to be evaluated, but {self._no_commands}",
                hint="Turn it on with the setting credential_commands. "
                "If the password is meant as it stands, put it in double quotes.",
            )
        with self._lock:
            if i not in self._evaluated:
                self._evaluated[i] = Secret(_evaluate(password.text, where))
            return self._evaluated[i]


def _names(host: str) -> list[str]:
    """The names that entries for *host* can have, the most specific first."""
    host = _one_name(host.lower())
    bare = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() and host.count(":") == 1 else host
    if host.startswith("["):
        bare = host.partition("]")[0].lstrip("[")
    return [host, *([_one_name(bare)] if bare != host else [])]


def _one_name(machine: str) -> str:
    return "registry-1.docker.io" if machine in _HUB else machine


def _judge(path: Path, uid: int, mode: int) -> tuple[tuple[str, ...], str]:
    """Warnings about the file, and why its commands can't be trusted (or empty)."""
    if uid not in {0, os.geteuid()}:
        why = "the file belongs to another user"
        return (f"{path}: {why}",), why
    if mode & 0o022:
        return (f"{path}: other users may write it; run: chmod 600 {path}",), "other users may write the file"
    if mode & 0o044:
        return (f"{path}: other users may read it; run: chmod 600 {path}",), ""
    return (), ""


def _evaluate(text: str, where: str) -> str:
    """What the shell makes of *text*, a variable or a command: the first line.

    A command that fails is an error and never leads to other credentials (CVE-2021-41092).
    """
    if not text.startswith("$("):
        name = text.strip("${}")
        if not os.environ.get(name):
            raise ConfigError(
                f"{where}: the password is a variable that is not set",
                hint="Put the password in double quotes if it is meant as it stands.",
            )
        return os.environ[name]
    process = subprocess.Popen(
        # As enroot does it; quoted, so that the output is neither split nor expanded.
        ["/bin/sh", "-c", f"result={text} || exit; printf '%s\\n' \"$result\""],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    timer = threading.Timer(_COMMAND_TIMEOUT, _kill, [process])
    timer.start()
    assert process.stdout is not None
    try:
        with process.stdout as pipe:
            output = pipe.read(_MAX_OUTPUT + 1)
        if len(output) > _MAX_OUTPUT:
            _kill(process)
        status = process.wait()
    finally:
        timed_out = not timer.is_alive()
        timer.cancel()
    if timed_out:
        raise ConfigError(f"{where}: the command of the password took longer than {_COMMAND_TIMEOUT:g} s")
    if len(output) > _MAX_OUTPUT:
        raise ConfigError(f"{where}: the command of the password printed more than {_MAX_OUTPUT >> 10} KiB")
    first = output.decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
    if status or not first or not first.isprintable():
        ended = f"ended with status {status}" if status else "printed no password"
        raise ConfigError(f"{where}: the command of the password {ended}")
    return first


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
