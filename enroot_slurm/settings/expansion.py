"""Variables in values of files: ``~/``, ``$NAME``, ``${NAME}``, ``${NAME:-TEXT}``, ``$(id -u)``, and ``$$`` for ``$``.

enroot gives the values of enroot.conf to a shell.  Nothing is run here; the few commands that such files really use
(``ENROOT_RUNTIME_PATH /run/enroot/user-$(id -u)``) are known by name and answered in the process.  Any other command
is an error.

A variable that is neither set nor has a default text is an error, since a path that lost a part is another path.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Variables"]

_DOLLAR = re.compile(
    r"""\$(?:
        (?P<escaped>\$)
      | (?P<bare>[A-Za-z_]\w*)
      | \{(?P<braced>[A-Za-z_]\w*)(?::?-(?P<default>(?:[^{}]|\{[^{}]*\})*))?\}
      | \((?P<command>[^()]*)\)
      | (?P<other>)
    )""",
    re.ASCII | re.VERBOSE,
)
_MAX_LENGTH = 4096  # a value may hold an earlier one twice, and so would double with each line


class Variables:
    """Variables that a value may use: *environ*; for those missing there, the user's own data and XDG's defaults."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._known = dict(environ)

    def get(self, name: str) -> str | None:
        """The value of variable *name*; None if there is none; an empty variable counts as missing, as with ``:-``.

        Raises: ConfigError, when HOME is asked for, but neither the environment nor the password database has it.
        """
        return self._known.get(name) or (_FALLBACKS[name](self) if name in _FALLBACKS else None)

    def define(self, name: str, value: str) -> None:
        """Set *name*, unless the environment or an earlier line did."""
        if not self._known.get(name):
            self._known[name] = value

    def expand(self, text: str) -> str:
        """*text* with everything replaced.

        Raises: ConfigError, for a variable without value, a command that is not known, or a lone dollar sign.
        """
        expanded = text
        if len(text) <= _MAX_LENGTH:
            expanded = _DOLLAR.sub(self._replace, self.expand_home(text))
        if len(expanded) > _MAX_LENGTH:
            raise ConfigError(f"longer than {_MAX_LENGTH} characters")
        return expanded

    def expand_home(self, text: str) -> str:
        """*text* with the home directory for a leading ``~``."""
        return f"{self.get('HOME')}{text[1:]}" if text == "~" or text.startswith("~/") else text

    def _replace(self, match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["command"] is not None:
            command = " ".join(match["command"].split())
            if command not in _COMMANDS:
                raise ConfigError(
                    f"commands are not run: $({printable(command, 60)})",
                    hint=f"Known by name are only {', '.join(f'$({c})' for c in _COMMANDS)}.",
                )
            return _COMMANDS[command]()
        if name := match["bare"] or match["braced"]:
            value = self.get(name)
            if value is None and match["default"] is not None:
                value = _DOLLAR.sub(self._replace, match["default"])
            if value is None:
                raise ConfigError(f"the variable {name} is not set", hint=f"${{{name}:-TEXT}} gives a default.")
            return value
        raise ConfigError("'$' starts no variable name", hint="Write $$ for a dollar sign.")


def _home(_: Variables) -> str:
    import pwd  # noqa: PLC0415 - it asks LDAP or the like: only when it has to

    try:
        return pwd.getpwuid(os.geteuid()).pw_dir
    except KeyError:
        raise ConfigError(
            f"HOME is not set, and the password database has no user {os.geteuid()}",
            hint="Set HOME, or give the paths of the cache, of the configuration and of runtime files.",
        ) from None


def _user_name() -> str:
    import pwd  # noqa: PLC0415

    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def _group_name() -> str:
    import grp  # noqa: PLC0415

    try:
        return grp.getgrgid(os.getegid()).gr_name
    except KeyError:
        return str(os.getegid())


_FALLBACKS: dict[str, Callable[[Variables], str]] = {
    "HOME": _home,
    "USER": lambda _: _user_name(),
    "LOGNAME": lambda _: _user_name(),
    "UID": lambda _: str(os.getuid()),  # bash has these two without exporting them
    "EUID": lambda _: str(os.geteuid()),
    "XDG_CONFIG_HOME": lambda variables: f"{variables.get('HOME')}/.config",
    "XDG_CACHE_HOME": lambda variables: f"{variables.get('HOME')}/.cache",
    "XDG_DATA_HOME": lambda variables: f"{variables.get('HOME')}/.local/share",
    "XDG_RUNTIME_DIR": lambda _: "/run",
}
_COMMANDS: dict[str, Callable[[], str]] = {
    "id -u": lambda: str(os.geteuid()),
    "id -un": _user_name,
    "id -g": lambda: str(os.getegid()),
    "id -gn": _group_name,
    "whoami": _user_name,
    "nproc": lambda: str(len(os.sched_getaffinity(0))),
    "hostname": lambda: os.uname().nodename,
    "hostname -s": lambda: os.uname().nodename.partition(".")[0],
}
