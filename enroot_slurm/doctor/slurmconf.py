"""Slurm's configuration as it is in force: ``scontrol show config``, plugstack.conf and job_container.conf.

Sources: scontrol(1), spank(8) ("include", optional and required plug-ins), job_container.conf(5), of Slurm 22.05 to
25.05; src/plugins/job_container/tmpfs/read_jcconf.c (the default of Dirs).
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import struct
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "Plugin",
    "SlurmConf",
    "ask_scontrol",
    "exports",
    "parse_config",
    "plugin_version",
    "plugins_of",
    "private_directories",
]

_TIMEOUT = 30.0
_MAX_FILE = 1 << 20
_NO_LIMIT = 65534
_NONE = frozenset({"", "(null)", "none", "n/a"})
_MAX_DEPTH = 8
_SECONDS = re.compile(r"(\d+)(?: sec)?")


class SlurmConf(NamedTuple):
    """Settings by name, in lower case; a list (``Prolog[0]``) is joined by spaces."""

    values: Mapping[str, str]

    def text(self, name: str) -> str:
        """The setting *name*, or empty if there is none."""
        value = self.values.get(name.lower(), "")
        return "" if value.lower() in _NONE else value

    def words(self, name: str) -> set[str]:
        """The words, in lower case, of a setting that is a list with commas."""
        return {word.strip().lower() for word in self.text(name).split(",") if word.strip()}

    def seconds(self, name: str) -> int | None:
        """The time *name*; None if there is no such limit."""
        match = _SECONDS.match(self.text(name))
        return int(match[1]) if match and int(match[1]) < _NO_LIMIT else None

    @property
    def version(self) -> tuple[int, ...]:
        """Major and minor, such as (22, 5)."""
        return tuple(int(part) for part in re.findall(r"\d+", self.text("SLURM_VERSION"))[:2])

    @property
    def directory(self) -> Path:
        """Where slurm.conf is."""
        return Path(self.text("SLURM_CONF") or "/etc/slurm/slurm.conf").parent

    @property
    def plugstack(self) -> Path:
        """The file of SPANK plug-ins."""
        return Path(self.text("PlugStackConfig") or self.directory / "plugstack.conf")


class Plugin(NamedTuple):
    """A line of plugstack.conf."""

    file: Path
    """The plug-in."""
    required: bool
    arguments: tuple[str, ...]
    where: str
    """FILE:LINE."""

    def argument(self, name: str) -> str:
        """The value of the argument ``NAME=VALUE``, or empty."""
        return next((a.partition("=")[2] for a in self.arguments if a.startswith(f"{name}=")), "")


def ask_scontrol() -> str | None:
    """The output of ``scontrol show config``; None where there is no scontrol.  Raises: OSError, with the reason."""
    program = shutil.which("scontrol")
    if program is None:
        return None
    try:
        result = subprocess.run(
            [program, "show", "config"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
            timeout=_TIMEOUT,
            env={**os.environ, "LC_ALL": "C"},
        )
    except subprocess.TimeoutExpired:
        raise OSError(f"scontrol does not answer within {_TIMEOUT:g} s") from None
    if result.returncode:
        said = result.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2]
        raise OSError(f"'scontrol show config' fails: {said}")
    return result.stdout.decode("utf-8", "replace")


def parse_config(text: str) -> SlurmConf:
    """The settings in *text*, which scontrol has printed."""
    values: dict[str, str] = {}
    for line in text.splitlines():
        name, equals, value = line.partition("=")
        key = re.sub(r"\[\d+\]$", "", name.strip()).lower()
        if equals and key and " " not in key:
            values[key] = (
                f"{values[key]} {value.strip()}" if name.strip().endswith("]") and key in values else value.strip()
            )
    return SlurmConf(values)


def plugins_of(file: Path, plugin_directories: str, *, depth: int = 0) -> Iterator[Plugin | str]:
    """The plug-ins that plugstack.conf names, with its includes; a text where something can't be read.

    *plugin_directories* is where plug-ins without a path are looked for, separated by colons.
    """
    try:
        with file.open("rb") as stream:
            text = stream.read(_MAX_FILE).decode("utf-8", "replace")
    except FileNotFoundError:
        if depth:
            yield f"{file}: no such file"
        return
    except OSError as error:
        yield f"{file}: {error.strerror}"
        return
    for number, line in enumerate(text.splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError:
            words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "include" and depth < _MAX_DEPTH:
            for included in sorted(file.parent.glob(words[1]) if words[1][0] != "/" else _glob(words[1])):
                yield from plugins_of(included, plugin_directories, depth=depth + 1)
        elif words[0] in {"required", "optional"}:
            yield Plugin(
                _found(words[1], plugin_directories), words[0] == "required", tuple(words[2:]), f"{file}:{number}"
            )


def _glob(pattern: str) -> list[Path]:
    return list(Path("/").glob(pattern.lstrip("/")))


def _found(name: str, directories: str) -> Path:
    if name.startswith("/"):
        return Path(name)
    paths = [Path(directory, name) for directory in directories.split(":") if directory]
    return next((path for path in paths if path.exists()), paths[0] if paths else Path(name))


def private_directories(conf: SlurmConf) -> list[str]:
    """The directories of which each job has its own (job_container/tmpfs, in 25.11 namespace/tmpfs)."""
    kind = conf.text("JobContainerType") or conf.text("NamespaceType")
    if not kind.endswith("/tmpfs"):  # noqa: S108  the name of a plug-in
        return []
    names = ("job_container.conf", "namespace.conf")
    text = "\n".join(_text(conf.directory / name) for name in names)
    found = re.findall(r"^[^#\n]*\bDirs\s*=\s*(\S+)", text, re.MULTILINE | re.IGNORECASE)
    return sorted({path for each in found for path in each.strip('"').split(",") if path}) or ["/dev/shm", "/tmp"]  # noqa: S108


def _text(file: Path) -> str:
    try:
        with file.open("rb") as stream:
            return stream.read(_MAX_FILE).decode("utf-8", "replace")
    except OSError:
        return ""


def plugin_version(file: Path) -> tuple[int, ...]:
    """The major and minor version of Slurm that the plug-in *file* was built for; empty if that can't be told.

    It is the constant ``plugin_version`` of an ELF file, which is read, and never loaded: it is code.  Raises: OSError.
    """
    with file.open("rb") as stream:
        data = stream.read(_MAX_FILE << 3)
    try:
        return _elf_version(data)
    except (struct.error, ValueError, IndexError, OverflowError):  # it is cut off, or something else
        return ()


def exports(file: Path, symbol: str) -> bool:
    """Whether the plug-in *file* seems to have a function of this name; False if it can't be read."""
    try:
        with file.open("rb") as stream:
            return f"\0{symbol}\0".encode() in stream.read(_MAX_FILE << 3)
    except OSError:
        return False


def _elf_version(data: bytes) -> tuple[int, ...]:
    """See `plugin_version`; elf(5).  64-bit files in this machine's byte order only."""
    if data[:5] != b"\x7fELF\x02":
        return ()
    programs, sections = struct.unpack_from("=QQ", data, 32)
    entry, count, section_entry, section_count = struct.unpack_from("=HHHH", data, 54)
    loaded = []
    for number in range(count):
        kind, _, offset, address, _, size = struct.unpack_from("=IIQQQQ", data, programs + number * entry)
        if kind == 1:  # PT_LOAD
            loaded.append((address, size, offset))
    headers = [struct.unpack_from("=IIQQQQII", data, sections + n * section_entry) for n in range(section_count)]
    for _, kind, _, _, offset, size, link, _ in headers:
        if kind != 11:  # SHT_DYNSYM
            continue
        names = headers[link][4]
        for at in range(offset, offset + size, 24):
            name, _, _, _, value, _ = struct.unpack_from("=IBBHQQ", data, at)
            if data.startswith(b"plugin_version\0", names + name):
                [where] = [value - start + begin for start, length, begin in loaded if 0 <= value - start < length]
                (version,) = struct.unpack_from("=I", data, where)
                return (version >> 16 & 0xFF, version >> 8 & 0xFF)
    return ()
