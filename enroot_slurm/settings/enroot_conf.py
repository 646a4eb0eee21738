"""enroot's own configuration: ``enroot.conf``, and ``enroot.conf.d/*.conf`` beside it.

A line is a name, blanks or an equals sign, and a value with a shell's quotes, comments and variables.  The environment
goes before the files.  The first of several lines for one name counts, also over several files (enroot exports
``${NAME:-VALUE}``).  Later lines may use any enroot variable; settings we do not have are otherwise ignored.  All other
lines are ignored as well, as by enroot.

Sources: enroot.in (config::init, config::export, config::fini), conf/enroot.conf.in, conf/enroot.conf.d/README.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError
from enroot_slurm.settings.schema import SETTINGS, Assignment, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

    from enroot_slurm.settings.expansion import Variables

__all__ = ["conf_file", "read_entries"]

_LINE = re.compile(r"[ \t]*([A-Za-z_]+)[ \t=]+(.*)", re.ASCII)
_NAME = re.compile(r"ENROOT_[A-Z_]+|SSL_CERT_(?:DIR|FILE)|(?:all|no|http|https)_proxy", re.ASCII)
_SYSCONF = re.compile(rb"ENROOT_SYSCONF_PATH[^\n/]{0,60}(/[A-Za-z0-9_./-]+)")
_MAX_SCRIPT = 64 << 10
_SETTINGS = {setting.variable: setting for setting in SETTINGS.values()}


def conf_file(default: Path, environ: Mapping[str, str]) -> Path:
    """The enroot.conf that ``enroot`` itself would read: its script says where that was when it was built.

    *default* is that of the packages; a build from source has /usr/local/etc/enroot.  Source: enroot.in.
    """
    directory = environ.get("ENROOT_SYSCONF_PATH", "")
    program = _program("enroot", environ.get("PATH", os.defpath))
    if not directory and program:
        with contextlib.suppress(OSError), open(program, "rb") as script:  # noqa: PTH123 - no Path is needed for it
            match = _SYSCONF.search(script.read(_MAX_SCRIPT))
            directory = match[1].decode() if match else ""
    return Path(directory, default.name) if directory.startswith("/") else default


def _program(name: str, path: str) -> str:
    """The first program *name* in the directories *path*, or empty; as `shutil.which`, which takes 3 ms to load."""
    for directory in path.split(os.pathsep):
        program = os.path.join(directory, name)  # noqa: PTH118 - no Path is needed for it
        if os.access(program, os.X_OK) and os.path.isfile(program):  # noqa: PTH113 - likewise
            return program
    return ""


def read_entries(name: str, content: bytes, variables: Variables) -> tuple[list[Assignment], list[tuple[str, Problem]]]:
    """The settings in the file *name*, and the problems of lines that are settings, each with its key.

    *variables* gets the values of all lines, so that later lines and files can use them.
    """
    entries: list[Assignment] = []
    problems: list[tuple[str, Problem]] = []
    for number, line in enumerate(content.decode("utf-8", "backslashreplace").splitlines(), 1):
        match = _LINE.fullmatch(line)
        if not match or not _NAME.fullmatch(match[1]):
            continue
        variable, setting = match[1], _SETTINGS.get(match[1])
        where = f"{name}:{number}:{match.start(2) + 1}"
        try:
            value = _value(match[2], variables)
        except ConfigError as error:
            if setting:
                problems.append((setting.key, Problem(where, f"{variable}: {error.message}", error.hint)))
            continue
        variables.define(variable, value)
        if setting and (entry := Assignment.of_variable(setting, value, where, f"{name}:{number}")):
            entries.append(entry)
    return entries, problems


def _value(text: str, variables: Variables) -> str:
    try:
        words = shlex.split(text, comments=True)
    except ValueError as error:
        raise ConfigError(f"unbalanced quotes: {error}") from None
    return variables.expand(" ".join(words))
