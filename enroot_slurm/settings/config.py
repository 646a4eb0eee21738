"""The configuration: one typed value per setting, and where it is from.

In falling precedence: arguments (the command line's options, or a caller's), the environment, the user's YAML file,
the site's YAML file, enroot.conf, the default.  Everything that is said anywhere is checked, and all problems are
reported in one error, a line each; only enroot.conf, which is another program's, may be wrong where it does not count.

A hook that root starts loads with ``trusted=True``: the environment and the user's file are the job's to write, so
only the site's file and the defaults count.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import ConfigError, printable
from enroot_slurm.settings.expansion import Variables
from enroot_slurm.settings.files import read_content
from enroot_slurm.settings.schema import (
    SETTINGS,
    Assignment,
    Problem,
    Setting,
    Value,
    similar_setting,
    similar_variable,
)
from enroot_slurm.squashfs.options import SquashOptions

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["ENROOT_CONF", "SITE_FILE", "USER_FILE", "Config", "Problem", "Row", "Said"]

SITE_FILE = Path("/etc/enroot-slurm/config.yaml")
"""The administrator's file; ``ENROOT_SLURM_SITE_CONFIG`` names another one."""
USER_FILE = Path("${XDG_CONFIG_HOME:-$HOME/.config}/enroot-slurm/config.yaml")
"""The user's file; ``ENROOT_SLURM_CONFIG`` names another one."""
ENROOT_CONF = Path("/etc/enroot/enroot.conf")
"""enroot's file, if its program names no other place; the directory ``enroot.conf.d`` is beside it."""

_OBSOLETE = ("squash_memory",)
_PREFIX = "ENROOT_SLURM_"
_OTHERS = frozenset({"ENROOT_SLURM_CONFIG", "ENROOT_SLURM_SITE_CONFIG"})  # and _IMAGE..., which jobs get
_PLACE = re.compile(r"(.*):(\d+):(\d+)", re.DOTALL)


class Row(NamedTuple):
    """A setting for people: its names, the value as text (which may be set as it is) and where that is from."""

    key: str
    variable: str
    value: str
    source: str


class Said(NamedTuple):
    """What one source says of a setting."""

    value: Any
    source: str
    site: bool
    """Whether it is the site's file."""


class Config(NamedTuple):
    """All settings; docs/configuration.md tells their meaning.  Made by `load` only.

    A named tuple, not a dataclass: a hook must not load `dataclasses` and all that it imports.
    """

    config_path: Path
    cache_path: Path
    temp_path: Path
    runtime_path: Path
    gzip_program: str
    """A name or an absolute path; empty: layers are decompressed in the process."""
    squash_options: SquashOptions
    max_processors: int
    """At least 1."""
    max_imports: int
    """At once on this node, for one cache; 0: as many as are wanted."""
    user_rate: int
    """Images a minute that the site's cache asks registries for, for one user on this node; 0: any number."""
    max_connections: int
    """From 1 to 64."""
    parallel_ranges: int
    """Connections for one large blob, as far as they are free; 0: one."""
    max_download: int
    """Bytes that all layers of an image may have in the registry."""
    max_unpacked: int
    """Bytes that they may have when they are unpacked."""
    connect_timeout: float
    """Seconds; 0 is no limit."""
    transfer_timeout: float
    """Seconds; 0 is no limit."""
    import_timeout: float
    """Seconds for all that an image needs of its registry; 0 is no limit."""
    min_rate: int
    """Bytes a second that a connection has to give; 0: any."""
    transfer_retries: int
    allow_http: bool
    squash_memory: int
    """Bytes; of no use any more."""
    layer_cache: bool
    """Whether each layer gets an image of its own, to be joined with others."""
    keep_blobs: bool
    """Whether blobs stay when their layers have images."""
    shared_cache: str
    """An absolute path; empty: there is none."""
    cache_user: str
    """The user that owns the shared cache; empty: any user may."""
    site_credentials: str
    """An absolute path; empty: images of the shared cache are fetched without credentials."""
    auth_file: str
    """An absolute path, of the only file of docker or podman that counts; empty: the usual ones."""
    credential_sources: tuple[str, ...]
    """``netrc`` and ``docker``: whose files of logins are read."""
    cache_high: float
    """Bytes, or a share of the file system if not above 1; 0: the cache may grow."""
    cache_low: float
    """Like `cache_high`; 0: a tenth below that."""
    min_free: float
    """Of the cache's file system, which imports leave free: bytes, or a share if not above 1; 0: nothing."""
    cache_max_age: float
    """Seconds; 0: any age."""
    failure_ttl: float
    """Seconds."""
    tag_ttl: float
    """Seconds; 0: each job asks."""
    stale_tags: bool
    """Whether a tag may be what it was last, when its registry does not answer."""
    offline: bool
    """Whether no registry is asked for anything."""
    locks: bool
    """Whether processes lock what they work on, so that no other does the same."""
    lock_timeout: float
    """Seconds."""
    worker_timeout: float
    """Seconds."""
    credential_commands: bool
    run_path: Path
    prolog_deadline: float
    """Seconds."""
    comment_requests: bool
    """Whether a job's comment may name an image."""
    hook_credential_commands: bool
    """Like `credential_commands`, for what hooks do in a user's name."""
    site_failure_wait: float
    """Seconds."""
    on_site_failure: str
    """``fail`` or ``continue``."""
    on_node_failure: str
    """``fail`` or ``drain``."""
    record_in: str
    """``nothing`` or ``admincomment``: where in Slurm a job's digests are noted."""
    ca_file: str
    """An absolute path; empty: the system's certificates."""
    insecure_registries: tuple[str, ...]
    """Hosts, or hosts with ports, as `Reference.registry` has them."""
    trusted_hosts: tuple[str, ...]
    """Where registries may lead although it is no place of the Internet: `enroot_slurm.registry.reach`."""
    mirrors: tuple[str, ...]
    """``PREFIX=LOCATION``, with ``?ns=HOST`` where that is to be sent."""
    registries_conf: str
    """``auto``, ``off`` or an absolute path."""
    allowed_images: tuple[str, ...]
    """Prefixes of all sources together; what each of them allows is in `said`."""
    blocked_images: tuple[str, ...]
    """Prefixes of all sources: each blocks."""
    certs_dirs: tuple[str, ...]
    signature_policy: tuple[str, ...]
    """Absolute paths, ``auto`` and ``off``, of all sources: all of them count."""
    verifier_dir: tuple[str, ...]
    """Absolute paths, likewise."""
    doubts: tuple[str, ...]
    """Doubts that are no errors: variables called ``ENROOT_SLURM_...`` that no setting has."""
    trusted: bool
    """Whether neither the environment nor the user's file counts, as for a hook that root starts."""
    origins: Mapping[str, str]
    """By key: ``default``, ``argument``, ``environment ENROOT_X`` or ``FILE:LINE``."""
    said: Mapping[str, tuple[Said, ...]]
    """By key: what each source says, the one that counts most first; not enroot.conf, and no defaults."""

    @classmethod
    def load(
        cls,
        *,
        environ: Mapping[str, str] | None = None,
        site_file: Path | None = SITE_FILE,
        user_file: Path | None = USER_FILE,
        enroot_conf: Path | None = ENROOT_CONF,
        overrides: Mapping[str, object] | None = None,
        trusted: bool = False,
        snapshot: Path | None = None,
    ) -> Config:
        """The configuration of this process.

        *environ* is `os.environ` if not given.  A file of None is not read.  A default file may be missing; any other
        must be there.  *overrides* has texts or typed values by key; one of None says nothing.  With *trusted*, only
        the overrides, the site's file (which nobody but root and the process' user may be able to write) and the
        defaults count, and *environ*, *user_file* and *enroot_conf* are ignored.  *snapshot* is where root keeps a copy
        of the site's file that is quicker to read.

        Raises: ConfigError, with a line for each problem of all sources.
        """
        environ = {} if trusted else os.environ if environ is None else environ
        variables = Variables(environ)
        problems: list[Problem] = []
        layers = [_overridden(overrides or {}, problems), _environment(environ)]
        site: list[Assignment] = []
        if user_file is not None and not trusted:
            layers.append(_user_yaml(user_file, environ, variables, problems))
        if site_file is not None:
            named = environ.get("ENROOT_SLURM_SITE_CONFIG") if site_file == SITE_FILE else None
            file = Path(named or site_file)
            site = _yaml(file, problems, required=file != SITE_FILE, trusted=trusted, snapshot=snapshot)
            layers.append(site)
        values: dict[str, Any] = {}
        origins: dict[str, str] = {}
        said: dict[str, tuple[Said, ...]] = {}
        for rows, entry in ((layer, entry) for layer in layers for entry in layer):
            value = entry.value(variables, problems)
            key = entry.setting.key
            said[key] = (*said.get(key, ()), Said(value, entry.source, rows is site))
            if key not in values:
                values[key], origins[key] = value, entry.source
            elif entry.setting.narrows and isinstance(value, tuple) and isinstance(values[key], tuple):
                values[key], origins[key] = (*values[key], *value), f"{origins[key]}, {entry.source}"
        if enroot_conf is not None and not trusted:
            _add_enroot_conf(enroot_conf, environ, values, origins, problems)
        for key, setting in SETTINGS.items():
            if key not in values:
                entry = Assignment(setting, setting.key, (Value(setting.default, "default"),), "default", "default")
                values[key], origins[key] = entry.value(variables, problems), "default"
        if problems:
            raise _error(problems)
        return cls(
            **values, doubts=(*_unknown(environ), *_obsolete(origins)), trusted=trusted, origins=origins, said=said
        )

    @staticmethod
    def check(file: Path, *, environ: Mapping[str, str] | None = None) -> list[Problem]:
        """The problems of *file*, in its order: a YAML file, or an enroot.conf if its name ends with ``.conf``."""
        environ = os.environ if environ is None else environ
        variables = Variables(environ)
        problems: list[Problem] = []
        if file.suffix == ".conf":
            content = read_content(file, problems, required=True)
            from enroot_slurm.settings import enroot_conf  # noqa: PLC0415 - hooks do not read it

            entries, wrong = enroot_conf.read_entries(str(file), content or b"", variables)
            problems += [problem for _, problem in wrong]
        else:
            entries = _yaml(file, problems, required=True)
        for entry in entries:
            entry.value(variables, problems)
        return _ordered(problems)

    def rows(self) -> list[Row]:
        """All settings in the schema's order."""
        return [
            Row(key, setting.variable, setting.text(getattr(self, key)), self.origins[key])
            for key, setting in SETTINGS.items()
        ]


def _overridden(overrides: Mapping[str, object], problems: list[Problem]) -> list[Assignment]:
    entries = []
    for key, value in overrides.items():
        setting = SETTINGS.get(key)
        if setting is None:
            problems.append(Problem("argument", f"unknown setting '{printable(key, 80)}'{similar_setting(key)}"))
        elif value is not None:
            is_list = isinstance(value, (list, tuple)) and not isinstance(value, SquashOptions)
            elements: Iterable[object] = value if is_list else [value]  # type: ignore[assignment]
            values = tuple(Value(_text(setting, element), "argument") for element in elements)
            entries.append(Assignment(setting, key, values, "argument", "argument", is_list, expands=False))
    return entries


def _text(setting: Setting, value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Path) and not str(value).startswith("~"):
        return str(Path.cwd() / value)  # unlike in a file, it is clear what a caller's relative path is relative to
    if isinstance(value, float):
        return setting.form(value)
    return str(value)


def _environment(environ: Mapping[str, str]) -> list[Assignment]:
    entries = []
    for setting in SETTINGS.values():
        name = setting.variable
        entry = Assignment.of_variable(setting, environ.get(name, ""), "environment", f"environment {name}")
        if entry:
            entries.append(entry)
    return entries


def _unknown(environ: Mapping[str, str]) -> tuple[str, ...]:
    """A line for each variable that is spelled like a setting of ours, and is none."""
    known = _OTHERS | {setting.variable for setting in SETTINGS.values()}
    return tuple(
        f"the variable {printable(name, 80)} is no setting{similar_variable(name)}"
        for name in environ
        if name.startswith(_PREFIX) and name not in known and not name.startswith(f"{_PREFIX}IMAGE")
    )


def _obsolete(origins: Mapping[str, str]) -> tuple[str, ...]:
    """A line for each setting that is still accepted, but has no use any more."""
    return tuple(
        f"{key} has no use any more: remove it from {origins[key]}" for key in _OBSOLETE if origins[key] != "default"
    )


def _user_yaml(
    user_file: Path, environ: Mapping[str, str], variables: Variables, problems: list[Problem]
) -> list[Assignment]:
    if user_file != USER_FILE:
        return _yaml(user_file, problems, required=True)
    if named := environ.get("ENROOT_SLURM_CONFIG"):
        return _yaml(Path(named), problems, required=True)
    try:
        file = Path(variables.expand(str(USER_FILE)))
    except ConfigError:
        return []  # without a home there is no user's file; a setting that needs one has its own error
    return _yaml(file, problems, required=False)


def _yaml(
    file: Path, problems: list[Problem], *, required: bool, trusted: bool = False, snapshot: Path | None = None
) -> list[Assignment]:
    content = read_content(file, problems, required=required, trusted=trusted)
    if content is None:
        return []
    if snapshot is not None:
        from enroot_slurm.settings.snapshot import read_snapshot  # noqa: PLC0415 - hooks only

        known = read_snapshot(snapshot, str(file), content)
        if known is not None:
            return known
    from enroot_slurm.settings import yaml_file  # noqa: PLC0415 - most processes have no such file

    entries, wrong = yaml_file.read_entries(str(file), content)
    problems += wrong
    if snapshot is not None and not wrong:
        from enroot_slurm.settings.snapshot import write_snapshot  # noqa: PLC0415

        write_snapshot(snapshot, str(file), content, entries)
    return entries


def _add_enroot_conf(
    file: Path, environ: Mapping[str, str], values: dict[str, Any], origins: dict[str, str], problems: list[Problem]
) -> None:
    from enroot_slurm.settings import enroot_conf  # noqa: PLC0415

    variables = Variables(environ)
    entries: list[Assignment] = []
    wrong: list[tuple[str, Problem]] = []
    required = file != ENROOT_CONF
    file = file if required else enroot_conf.conf_file(file, environ)
    contents = [(file, read_content(file, problems, required=required))]
    contents += [
        (f, read_content(f, problems, required=True)) for f in sorted(file.parent.glob("enroot.conf.d/*.conf"))
    ]
    for name, content in contents:
        found, unreadable = enroot_conf.read_entries(str(name), content or b"", variables)
        entries += found
        wrong += unreadable
    problems += [problem for key, problem in wrong if key not in values]
    for entry in entries:
        if entry.setting.key not in values:
            values[entry.setting.key] = entry.value(variables, problems)
            origins[entry.setting.key] = entry.source


def _error(problems: list[Problem]) -> ConfigError:
    ordered = _ordered(problems)
    hints = dict.fromkeys(problem.hint for problem in ordered if problem.hint)
    return ConfigError("\n".join(str(problem) for problem in ordered), hint=" ".join(hints))


def _ordered(problems: list[Problem]) -> list[Problem]:
    """The problems by source, the first that has one first, and by line and column in a source."""
    places = [_PLACE.fullmatch(problem.where) for problem in problems]
    keys = [
        (p[1], int(p[2]), int(p[3])) if p else (problem.where, 0, 0)
        for p, problem in zip(places, problems, strict=True)
    ]
    first = {source: i for i, (source, _, _) in reversed(list(enumerate(keys)))}
    order = sorted(range(len(problems)), key=lambda i: (first[keys[i][0]], *keys[i][1:]))
    return [problems[i] for i in order]
