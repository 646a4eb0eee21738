"""Which files of containers-registries.conf(5) count; nothing here parses them.

    $CONTAINERS_REGISTRIES_CONF                            this file alone, if it is set; else
    ~/.config/containers/registries.conf                   the first of these that is there,
    /etc/containers/...    /usr/share/containers/...
    DIRECTORY/*.conf                                       then all drop-ins, sorted by their own names; of two with
                                                           one name that of the first directory counts
    $CONTAINERS_REGISTRIES_CONF_OVERRIDE                   last

DIRECTORY is ``registries.conf.d`` of the user, then of /etc ``registries.rootful.conf.d`` for root, or
``registries.rootless.conf.d/UID`` and ``registries.rootless.conf.d`` for others, then ``registries.conf.d``, then those
of /usr/share.

Source: the manual page; container-libs, image/pkg/sysregistriesv2.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError
from enroot_slurm.settings.expansion import Variables
from enroot_slurm.settings.files import read_content

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enroot_slurm.settings.schema import Problem

__all__ = ["SYSTEM", "ConfFile", "conf_files", "may_block", "read_files"]

SYSTEM = (Path("/etc/containers"), Path("/usr/share/containers"))
"""Where root's files are."""
_BLOCKS = re.compile(rb"^(?![ \t]*#).*(?:block|\\u)", re.MULTILINE | re.IGNORECASE)


class ConfFile(NamedTuple):
    """A file, and its content."""

    path: Path
    content: bytes


def conf_files(environ: Mapping[str, str] | None, *, system: Sequence[Path] = SYSTEM) -> list[Path]:
    """The files that count, in the order in which they do; *environ* is None where no user's file may count."""
    user: list[Path] = []
    last: list[Path] = []
    if environ is not None:
        if named := environ.get("CONTAINERS_REGISTRIES_CONF"):
            return [Path(named).absolute()]
        last = [Path(n).absolute() for n in [environ.get("CONTAINERS_REGISTRIES_CONF_OVERRIDE")] if n]
        try:
            user = [Path(Variables(environ).expand("${XDG_CONFIG_HOME:-$HOME/.config}")) / "containers"]
        except ConfigError:
            user = []  # without a home there are no files in it
    main = next((each / "registries.conf" for each in (*user, *system) if _is_there(each / "registries.conf")), None)
    uid = os.geteuid()
    own = ["registries.rootless.conf.d/" + str(uid), "registries.rootless.conf.d"] if uid else []
    own = own or ["registries.rootful.conf.d"]
    directories = [
        *(each / "registries.conf.d" for each in user),
        *(each / name for each in system for name in (*own, "registries.conf.d")),
    ]
    dropped: dict[str, Path] = {}
    for directory in directories:
        for name in _names(directory):
            dropped.setdefault(name, directory / name)
    return [*([main] if main else []), *(dropped[name] for name in sorted(dropped)), *last]


def read_files(paths: Sequence[Path], *, trusted: bool) -> list[ConfFile]:
    """The files *paths*; with *trusted*, none that others than root and this user can write.

    Raises: ConfigError.
    """
    problems: list[Problem] = []
    files = [ConfFile(each, read_content(each, problems, required=True, trusted=trusted) or b"") for each in paths]
    if problems:
        raise ConfigError(
            "\n".join(str(each) for each in problems), hint=" ".join(dict.fromkeys(p.hint for p in problems if p.hint))
        )
    return files


def may_block(files: Sequence[ConfFile]) -> bool:
    """Whether one of *files* may block a registry: found without a parser, because mostly none does."""
    return any(_BLOCKS.search(each.content) for each in files)


def _is_there(path: Path) -> bool:
    try:
        path.stat()
    except OSError:
        return False
    return True


def _names(directory: Path) -> list[str]:
    try:
        names = os.listdir(directory)  # noqa: PTH208  only names are wanted
    except OSError:
        return []
    # A link that leads nowhere is named as an error, not left out: a site that relies on the file would not notice.
    return [name for name in names if name.endswith(".conf") and not (directory / name).is_dir()]
