"""The files of containers-registries.conf(5), version 2, become tables; the only module that loads tomllib, and late.

`conf_files` says which files count, and in which order.  A table replaces a whole one of an earlier file that has the
same prefix; in one file the first one counts.

Unknown keys are told, and ignored: a key that stands behind ``[[registry]]`` by mistake is that table's.
Short names and aliases of these files do not count: an image without a registry is Docker Hub's.

Sources: the manual page; container-libs, image/pkg/sysregistriesv2.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enroot_slurm.errors import ConfigError, printable
from enroot_slurm.oci.names import prefix_form
from enroot_slurm.registry.endpoints import PULLS, Mirror, Table
from enroot_slurm.settings.conf_files import read_files
from enroot_slurm.settings.schema import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from enroot_slurm.settings.conf_files import ConfFile

__all__ = ["helpers_in", "parse_conf", "problems_of", "tables_in"]

_KEYS = {
    *("registry", "unqualified-search-registries", "credential-helpers", "short-name-mode", "aliases"),
    "additional-layer-store-auth-helper",
}
_REGISTRY = {
    *("prefix", "location", "insecure", "blocked", "mirror-by-digest-only", "mirror"),
    "pull-from-mirror",
}
_MIRROR = {"location", "insecure", "pull-from-mirror"}
_OLD = {
    "search": "unqualified-search-registries = [...]",
    "insecure": '[[registry]] location = "HOST" insecure = true',
    "block": '[[registry]] location = "HOST" blocked = true',
}
_KINDS = {str: "text in quotes", bool: "true or false", list: "a list", dict: "a table"}


def tables_in(files: Sequence[ConfFile]) -> tuple[list[Table], list[str]]:
    """The tables of *files*, in their order, and what is doubtful in them, for people.

    Raises: ConfigError, with a line for each problem.
    """
    tables: dict[str, Table] = {}
    doubts: list[str] = []
    for file in files:
        found, doubtful = parse_conf(str(file.path), file.content)
        tables |= {table.prefix: table for table in found}
        doubts += doubtful
    return list(tables.values()), doubts


def helpers_in(files: Sequence[ConfFile]) -> tuple[tuple[str, ...], str]:
    """The ``credential-helpers`` of the last of *files* that lists some, and its name.

    Raises: ConfigError.
    """
    for file in reversed(files):
        if b"credential-helpers" in file.content:
            parser = _Parser(str(file.path))
            if listed := parser.helpers(_document(parser.name, file.content)):
                return listed, parser.name
    return (), ""


def parse_conf(name: str, content: bytes) -> tuple[list[Table], list[str]]:
    """The tables in the *content* of the file *name*, and what is doubtful in it, for people.

    Raises: ConfigError, with a line for each problem.
    """
    document = _document(name, content)
    parser = _Parser(name)
    tables = parser.tables(document)
    if parser.problems:
        raise ConfigError("\n".join(parser.problems), hint=parser.hint)
    return tables, parser.doubts


def _document(name: str, content: bytes) -> dict[str, Any]:
    import tomllib  # noqa: PLC0415 - mostly there is no such file

    try:
        return tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ConfigError(f"{name}: not UTF-8 text") from None
    except (ValueError, RecursionError, OverflowError) as error:
        raise ConfigError(f"{name}: not valid TOML: {printable(str(error))}") from None


def problems_of(file: Path) -> list[Problem] | None:
    """What is wrong with *file*, and what is doubtful; None: by its name, or its directory's, it is no such file."""
    if file.suffix != ".conf" or "registries" not in {file.stem, file.absolute().parent.name.partition(".")[0]}:
        return None
    try:
        [found] = read_files([file], trusted=False)
        doubts = parse_conf(str(file), found.content)[1]
    except ConfigError as error:
        doubts = error.message.split("\n")
    return [Problem(str(file), text.removeprefix(f"{file}: ")) for text in doubts]


class _Parser:
    """Reads one document, and collects what is wrong with it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.problems: list[str] = []
        self.doubts: list[str] = []
        self.hint = ""

    def tables(self, document: dict[str, Any]) -> list[Table]:
        self._refuse_old(document)
        self._doubt(document, _KEYS, "")
        self.helpers(document)
        tables: list[Table] = []
        states: dict[str, tuple[bool, bool]] = {}
        for where, entry in self._entries(document, "registry", "[[registry]]"):
            table = self._table(where, entry)
            if table is None:
                continue
            state = table.insecure, table.blocked
            if table.location and states.setdefault(table.location, state) != state:
                self._problem(where, f"{table.location} has another 'insecure' or 'blocked' in an earlier table")
            if table.prefix in {each.prefix for each in tables}:
                self.doubts.append(f"{self.name}: {where}: {table.prefix} has an earlier table, which counts")
            else:
                tables.append(table)
        return tables

    def helpers(self, document: dict[str, Any]) -> tuple[str, ...]:
        listed = self._get("credential-helpers", document, "credential-helpers", [])
        if all(isinstance(each, str) for each in listed):
            return tuple(listed)
        self._problem("credential-helpers", "expected texts in quotes")
        return ()

    def _refuse_old(self, document: dict[str, Any]) -> None:
        old = document.pop("registries", None)
        if not isinstance(old, dict):
            if old is not None:
                self._problem("registries", "expected [[registry]]: the name has no plural")
            return
        for key, now in _OLD.items():
            table = old.get(key)
            if isinstance(table, dict) and table.get("registries"):
                self._problem(f"[registries.{key}]", f"this is version 1 of the file; it is written now: {now}")
                self.hint = "Skopeo and podman of 2026 refuse version 1 as well."

    def _table(self, where: str, entry: dict[str, Any]) -> Table | None:
        prefix, location = self._get(where, entry, "prefix", ""), self._get(where, entry, "location", "")
        where = f"{where} ({printable(prefix or location, 60)})" if prefix or location else where
        self._doubt(entry, _REGISTRY, where)
        if "pull-from-mirror" in entry:
            self._problem(where, "'pull-from-mirror' belongs to [[registry.mirror]]")
        if not prefix and not location:
            self._problem(where, "neither 'prefix' nor 'location' is set")
            return None
        prefix = self._prefix(where, "prefix", prefix or location, domains=bool(prefix))
        if location or not prefix.startswith("*."):
            location = self._prefix(where, "location", location or prefix, domains=False)
        by_digest = self._get(where, entry, "mirror-by-digest-only", default=False)
        mirrors = [
            self._mirror(place, each, by_digest=by_digest)
            for place, each in self._entries(entry, "mirror", f"{where}: [[registry.mirror]]")
        ]
        return Table(
            prefix,
            location,
            self._get(where, entry, "insecure", default=False),
            self._get(where, entry, "blocked", default=False),
            tuple(mirrors),
            self.name,
        )

    def _mirror(self, where: str, entry: dict[str, Any], *, by_digest: bool) -> Mirror:
        self._doubt(entry, _MIRROR, where)
        location = self._get(where, entry, "location", "")
        if not location:
            self._problem(where, "'location' is not set")
        pull = self._get(where, entry, "pull-from-mirror", "")
        if pull not in {"", *PULLS}:
            self._problem(where, f"'pull-from-mirror': expected {', '.join(PULLS)}, got '{printable(pull, 60)}'")
        if pull and by_digest:
            self._problem(where, "'pull-from-mirror' can't be together with 'mirror-by-digest-only = true'")
        location = self._prefix(where, "location", location, domains=False) if location else ""
        insecure = self._get(where, entry, "insecure", default=False)
        return Mirror(location, insecure, "digest-only" if by_digest else pull or "all")

    def _entries(self, entry: dict[str, Any], key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        """The tables of the array *key*, and the place of each."""
        values = self._get(where, entry, key, [])
        for number, value in enumerate(values, 1):
            place = f"{where} {number}"
            if isinstance(value, dict):
                yield place, value
            else:
                self._problem(place, "expected a table")

    def _prefix(self, where: str, key: str, text: str, *, domains: bool) -> str:
        try:
            return prefix_form(text, domains=domains)
        except ValueError as error:
            self._problem(where, f"'{key}' is '{printable(text, 80)}': {error}")
            return ""

    def _get(self, where: str, entry: dict[str, Any], key: str, default: Any) -> Any:
        value = entry.get(key, default)
        if type(value) is not type(default):
            self._problem(where, f"'{key}': expected {_KINDS[type(default)]}, got {printable(repr(value), 40)}")
            return default
        return value

    def _doubt(self, entry: dict[str, Any], known: set[str], where: str) -> None:
        for key in entry:
            if key not in known:
                behind = (
                    " (keys for the whole file stand above the first [[registry]])" if where and key in _KEYS else ""
                )
                place = f"{self.name}: {where}" if where else self.name
                self.doubts.append(f"{place}: the key '{printable(key, 60)}' is not known, and is ignored{behind}")

    def _problem(self, where: str, text: str) -> None:
        self.problems.append(f"{self.name}: {where}: {text}")
