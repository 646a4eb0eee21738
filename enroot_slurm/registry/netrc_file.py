"""Logins in netrc's form: ``$ENROOT_CONFIG_PATH/.credentials``.

Only the entry that is chosen for a host is ever evaluated.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import AccessDenied, ConfigError, printable
from enroot_slurm.registry import netrc, programs
from enroot_slurm.registry.names import one_name, without_port
from enroot_slurm.registry.secret import Credential, Secret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["Candidate", "NetrcFile"]

_MAX_DOUBTS = 20
_IDENTITY_TOKEN = "<token>"  # noqa: S105  (Docker's login name that marks a refresh token)


class Candidate(NamedTuple):
    """A login that may be the one for a registry."""

    place: str
    """Where it stands, for messages."""
    certain: bool
    """Whether it is known, without evaluating anything, that there is a login."""
    evaluate: Callable[[], Credential | None]
    """The login itself; None, when there is none after all.  Raises: AccessDenied, ConfigError."""


class NetrcFile:
    """The entries of a file whose *text* is netrc's."""

    def __init__(
        self, text: str, name: str, *, no_commands: str = "commands in it are off", strict: bool = False
    ) -> None:
        """*no_commands*: why passwords must not be evaluated; empty: they may.

        *strict*: an entry is only for the port that it names (without one: https's), and ``default`` for nobody.  So it
        is in the site's name, where a job's user chooses the host that is asked.

        Raises: ConfigError, with FILE:LINE and never with content.
        """
        self._entries = netrc.parse(text, name)
        self._name = name
        self._no_commands = no_commands
        self._strict = strict
        self._evaluated: dict[int, Secret] = {}
        self._lock = threading.Lock()
        doubts = [(entry.line, doubt) for entry in self._entries if (doubt := _doubt(entry))]
        self.warnings = tuple(f"{name}:{line}: {doubt}" for line, doubt in doubts[:_MAX_DOUBTS])
        """The doubts about the content, for the user."""

    def candidates(self, host: str, _repository: str, user: str, *, default: bool) -> Iterator[Candidate]:
        """The logins for *host*; with *default* those of ``default``.

        An entry for host and port goes before one for the host; of several the first.
        """
        name = one_name(host)
        names = [""] if default else list(dict.fromkeys([name, one_name(without_port(name))]))
        if self._strict:
            names = [] if default else [name]
        for wanted in names:
            for i, entry in enumerate(self._entries):
                if one_name(entry.machine) == wanted and entry.password and user in {"", entry.login}:
                    yield Candidate(f"{self._name}:{entry.line}", True, lambda i=i: self._credential(i))  # type: ignore[misc]

    def _credential(self, i: int) -> Credential:
        entry = self._entries[i]
        place = f"{self._name}:{entry.line}"
        kind = "identity" if entry.login == _IDENTITY_TOKEN else "password"
        return Credential(entry.login, self._secret(i, place), place, kind)

    def _secret(self, i: int, where: str) -> Secret:
        password = self._entries[i].password or netrc.NetrcWord("")
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


def _doubt(entry: netrc.MachineEntry) -> str:
    """Parts of *entry* that curl passes over, and that nobody can have meant."""
    if "/" in entry.machine:
        host = entry.machine.partition("://")[2] or entry.machine
        return f"a machine is a host, not a URL: write machine {printable(host.partition('/')[0], 100)}"
    return "" if entry.password else "there is no password, so it is not used"


def _evaluate(text: str, where: str) -> str:
    """The first line that the shell makes of *text*, a variable or a command.

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
    # As enroot does it; quoted, so that the output is neither split nor expanded.
    output = programs.run(["/bin/sh", "-c", f"result={text} || exit; printf '%s\\n' \"$result\""])
    if output.problem:
        raise ConfigError(f"{where}: the command of the password {output.problem}")
    first = output.text.decode("utf-8", "replace").partition("\n")[0].rstrip("\r")
    if output.status or not first or not first.isprintable():
        ended = f"ended with status {output.status}" if output.status else "printed no password"
        raise ConfigError(f"{where}: the command of the password {ended}")
    return first
