"""The user's own lines of logins: one is put into ``.credentials``, or taken out, and all else in it stays as it is."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError, StorageError, shortage
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry import netrc
from enroot_slurm.registry.names import one_name
from enroot_slurm.system.publish import write_file
from enroot_slurm.system.slow_files import read_file

if TYPE_CHECKING:
    from enroot_slurm.registry.secret import Secret

__all__ = ["line_of", "put_line", "take_lines"]

_MAX_FILE = 64 << 10
_BOM = "\ufeff"


def line_of(registry: str, login: str, secret: Secret) -> str:
    """The line for a login: enroot finds it, too, unless the registry has a port."""
    # enroot lets curl look for the host that it sends a login to.
    machine = "auth.docker.io" if registry == DOCKER_HUB else registry
    words = netrc.quoted(machine), netrc.quoted(login), netrc.quoted(secret.reveal(), password=True)
    return "machine {} login {} password {}".format(*words)


def put_line(file: Path, registry: str, login: str, secret: Secret) -> bool:
    """Put a login into *file*, in place of the one that the same registry and login have; whether there was one.

    A new line goes to the end, but before ``default``: curl looks at nothing behind that.

    Raises: ConfigError, when the file can't be understood; StorageError, when it can't be written.
    """
    text = _read(file)
    all_entries, mine = _entries(text, file, registry, login)
    line = line_of(registry, login, secret)
    if mine:
        changed = text
        for entry in reversed(mine[1:]):
            changed = _without(changed, entry)
        changed = changed[: mine[0].start] + line + changed[mine[0].end :]
    else:
        at = next((entry.start for entry in all_entries if not entry.machine), len(text))
        before, after = text[:at], text[at:]
        changed = before + ("" if before in {"", _BOM} or before.endswith("\n") else "\n") + line + "\n" + after
    expected = [entry for entry in all_entries if entry not in mine] + netrc.parse(line, "")
    _write(file, _checked(changed, expected, file))
    return bool(mine)


def take_lines(file: Path, registry: str, login: str = "") -> int:
    """Take the logins for *registry* (only *login*, if that is not empty) out of *file*; how many there were.

    Raises: ConfigError, when the file can't be understood; StorageError, when it can't be written.
    """
    text = _read(file)
    all_entries, mine = _entries(text, file, registry, login)
    for entry in reversed(mine):
        text = _without(text, entry)
    if mine:
        _write(file, _checked(text, [entry for entry in all_entries if entry not in mine], file))
    return len(mine)


def _entries(
    text: str, file: Path, registry: str, login: str
) -> tuple[list[netrc.MachineEntry], list[netrc.MachineEntry]]:
    """All entries, and those for *registry* (and *login*)."""
    entries = netrc.parse(text, str(file))
    name = one_name(registry)
    return entries, [e for e in entries if e.machine and one_name(e.machine) == name and login in {"", e.login}]


def _checked(text: str, expected: list[netrc.MachineEntry], file: Path) -> str:
    """*text*, if it says what is *expected*: in a file that ends within an entry or a macro, a line is part of that."""
    with contextlib.suppress(ConfigError):
        if Counter(map(_said, netrc.parse(text, str(file)))) == Counter(map(_said, expected)):
            return text
    raise ConfigError(
        f"{file}: a line can't be put in or taken out without changing the meaning of another one",
        hint="Correct the file first: an entry, or a macro (macdef), has no end.",
    )


def _said(entry: netrc.MachineEntry) -> tuple[str, str, netrc.NetrcWord | None]:
    return entry.machine, entry.login, entry.password


def _without(text: str, entry: netrc.MachineEntry) -> str:
    """*text* without *entry*, and without what it leaves empty of its lines."""
    before, after = text[: entry.start], text[entry.end :]
    rest = after.lstrip(" \t\r")
    if before.endswith("\n") or before in {"", _BOM}:
        after = rest.removeprefix("\n") if rest.startswith("\n") or not rest else after.lstrip(" \t")
    return before + after


def _read(file: Path) -> str:
    try:
        content = read_file(file, _MAX_FILE).content
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise StorageError(f"{file}: can't be read: {error.strerror}") from None
    if len(content) > _MAX_FILE:
        raise ConfigError(f"{file}: larger than {_MAX_FILE >> 10} KiB")
    if content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"{" or b"\0" in content:
        raise ConfigError(f"{file}: not in netrc's form, so no line can be put into it or taken out")
    return content.decode("utf-8", "surrogateescape")


def _write(file: Path, text: str) -> None:
    """Give *file* the content *text*, in one step; readable by nobody else.  A symbolic link stays one."""
    target = Path(os.path.realpath(file))
    try:
        target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_file(target, text.encode("utf-8", "surrogateescape"))
    except OSError as error:
        raise StorageError(f"{file}: can't be written: {shortage(error) or error.strerror}") from None
