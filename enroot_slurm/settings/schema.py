"""The schema: each setting's key, variable, default, form and meaning; and what a source says about one.

A scalar is typed by its setting, never by its looks: ``12:30``, ``0755`` and ``no`` are errors where a whole number
belongs, whatever a YAML reader makes of them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError
from enroot_slurm.settings import forms
from enroot_slurm.squashfs.options import SquashOptions

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.settings.expansion import Variables

__all__ = ["SETTINGS", "Assignment", "Problem", "Setting", "Value", "similar_setting", "similar_variable"]

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Setting(NamedTuple):
    """One setting.

    default   text that `parse` takes once its variables are replaced; a list is separated by commas
    expected  the form in words, after "expected"
    parse     the value of a text (of one element, for a list); raises ValueError
    form      the text of a value, which `parse` takes back
    """

    key: str
    variable: str
    default: str
    expected: str
    parse: Callable[[str], object]
    form: Callable[..., str] = str
    is_list: bool = False
    is_boolean: bool = False
    narrows: bool = False
    """Whether each source adds to the list: what the site asks for, nobody can take away."""
    is_mapping: bool = False
    """Whether a file may write the list as a mapping: ``KEY=ELEMENT`` for each pair."""

    def text(self, value: object) -> str:
        """*value* as this setting's text; the elements of a list are separated by commas."""
        if isinstance(value, tuple) and self.is_list:
            return ",".join(self.form(element) for element in value)
        return self.form(value)


class Value(NamedTuple):
    """One scalar of a source, and where it stands: ``FILE:LINE:COLUMN``, or a source without lines."""

    text: str
    where: str


class Assignment(NamedTuple):
    """The value of one setting in a source.

    name      the setting as the source names it, for messages
    values    one, or the elements of a list
    source    for people: where the value is from
    where     likewise, to the column, for messages
    expands   whether ``~``, ``${NAME}`` and the like are still to be replaced
    """

    setting: Setting
    name: str
    values: tuple[Value, ...]
    source: str
    where: str
    is_list: bool = False
    expands: bool = True

    @classmethod
    def of_variable(cls, setting: Setting, text: str, where: str, source: str) -> Assignment | None:
        """The value of *setting* that its variable states by *text*; None for an empty one, which counts as unset.

        enroot unsets a variable whose value is ``no``: where that is no value of the setting, its default applies.
        """
        if not text.strip():
            return None
        if text.strip().lower() in forms.OFF and not setting.is_boolean:
            return cls(setting, setting.variable, (Value(setting.default, where),), source, where)
        return cls(setting, setting.variable, (Value(text, where),), source, where, expands=False)

    def value(self, variables: Variables, problems: list[Problem]) -> object:
        """The typed value, or None with the reasons added to *problems*."""
        if self.is_list and not self.setting.is_list:
            problems.append(Problem(self.where, f"{self.name}: expected {self.setting.expected}, got a list"))
            return None
        before = len(problems)
        parsed = []
        for text, where in self.values:
            try:
                parsed += [self._parse(part, variables) for part in self._parts(text)]
            except ConfigError as error:
                problems.append(Problem(where, f"{self.name}: {error.message}", error.hint))
            except ValueError:
                problems.append(
                    Problem(where, f"{self.name}: expected {self.setting.expected}, got {forms.quoted(text)}")
                )
        if len(problems) > before:
            return None
        return tuple(parsed) if self.setting.is_list else parsed[0]

    def _parts(self, text: str) -> list[str]:
        if not self.setting.is_list or self.is_list:
            return [text.strip()]
        return [part.strip() for part in text.split(",") if part.strip()]

    def _parse(self, part: str, variables: Variables) -> object:
        text = variables.expand(part) if self.expands else variables.expand_home(part)
        if _CONTROL.search(text):
            raise ValueError(text)
        return self.setting.parse(text)


class Problem(NamedTuple):
    """A problem in a source: what, where, and what to do about it."""

    where: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.where}: {self.message}"


def _several(key: str, variable: str, default: str, expected: str, parse: Callable[[str], str]) -> Setting:
    return Setting(key, variable, default, expected, parse, is_list=True)


def _switch(key: str, variable: str, default: str) -> Setting:
    return Setting(key, variable, default, _YES_NO, forms.boolean, forms.boolean_text, is_boolean=True)


_A_PATH = "an absolute path"
_A_NUMBER = "a whole number"
_A_SIZE = "a size such as 512MiB or 1GiB"
_TIME = "seconds, such as 30 or 0.5"
_AMOUNT = "a size such as 500GiB, or a share of the file system such as 85%"
_YES_NO = "yes or no"
_A_PREFIX = "the beginning of an image's full name, such as docker.io/library or *.example.com"
_CERTS_DIRS = "~/.config/containers/certs.d,/etc/containers/certs.d,/etc/docker/certs.d"

SETTINGS: dict[str, Setting] = {
    setting.key: setting
    for setting in (
        Setting("config_path", "ENROOT_CONFIG_PATH", "${XDG_CONFIG_HOME:-$HOME/.config}/enroot", _A_PATH, forms.path),
        Setting("cache_path", "ENROOT_CACHE_PATH", "${XDG_CACHE_HOME:-$HOME/.cache}/enroot", _A_PATH, forms.path),
        Setting("temp_path", "ENROOT_TEMP_PATH", "${TMPDIR:-/tmp}", _A_PATH, forms.path),
        Setting("runtime_path", "ENROOT_RUNTIME_PATH", "${XDG_RUNTIME_DIR:-/run}/enroot", _A_PATH, forms.path),
        Setting("gzip_program", "ENROOT_GZIP_PROGRAM", "", "a program: its name or absolute path", forms.program),
        Setting(
            "squash_options", "ENROOT_SQUASH_OPTIONS", "-comp lzo -noD", "options of mksquashfs", SquashOptions.parse
        ),
        Setting("max_processors", "ENROOT_MAX_PROCESSORS", "$(nproc)", _A_NUMBER, forms.processors),
        Setting("max_imports", "ENROOT_SLURM_MAX_IMPORTS", "2", _A_NUMBER, forms.imports),
        Setting("user_rate", "ENROOT_SLURM_USER_RATE", "300", _A_NUMBER, forms.integer),
        Setting("max_connections", "ENROOT_MAX_CONNECTIONS", "10", _A_NUMBER, forms.connections),
        Setting("parallel_ranges", "ENROOT_SLURM_PARALLEL_RANGES", "4", _A_NUMBER, forms.integer),
        Setting("max_download", "ENROOT_SLURM_MAX_DOWNLOAD", "100GiB", _A_SIZE, forms.size, forms.size_text),
        Setting("max_unpacked", "ENROOT_SLURM_MAX_UNPACKED", "200GiB", _A_SIZE, forms.size, forms.size_text),
        Setting("connect_timeout", "ENROOT_CONNECT_TIMEOUT", "30", _TIME, forms.seconds, forms.number_text),
        Setting("transfer_timeout", "ENROOT_TRANSFER_TIMEOUT", "0", _TIME, forms.seconds, forms.number_text),
        Setting("import_timeout", "ENROOT_SLURM_IMPORT_TIMEOUT", "43200", _TIME, forms.seconds, forms.number_text),
        Setting("min_rate", "ENROOT_SLURM_MIN_RATE", "4096", "bytes a second, as a whole number", forms.integer),
        Setting("transfer_retries", "ENROOT_TRANSFER_RETRIES", "5", _A_NUMBER, forms.integer),
        _switch("allow_http", "ENROOT_ALLOW_HTTP", "no"),
        Setting("squash_memory", "ENROOT_SLURM_SQUASH_MEMORY", "1GiB", _A_SIZE, forms.size, forms.size_text),
        _switch("layer_cache", "ENROOT_SLURM_LAYER_CACHE", "yes"),
        _switch("keep_blobs", "ENROOT_SLURM_KEEP_BLOBS", "yes"),
        Setting("shared_cache", "ENROOT_SLURM_SHARED_CACHE", "", _A_PATH, forms.optional_path),
        Setting("cache_user", "ENROOT_SLURM_CACHE_USER", "", "a user's name", forms.user_name),
        Setting("site_credentials", "ENROOT_SLURM_SITE_CREDENTIALS", "", _A_PATH, forms.optional_path),
        Setting("auth_file", "ENROOT_SLURM_AUTH_FILE", "", _A_PATH, forms.optional_path),
        _several(
            *("credential_sources", "ENROOT_SLURM_CREDENTIAL_SOURCES", "netrc,docker", "netrc or docker"),
            forms.choice("netrc", "docker"),
        ),
        Setting("cache_high", "ENROOT_SLURM_CACHE_HIGH", "", _AMOUNT, forms.watermark, forms.watermark_text),
        Setting("cache_low", "ENROOT_SLURM_CACHE_LOW", "", _AMOUNT, forms.watermark, forms.watermark_text),
        Setting("min_free", "ENROOT_SLURM_MIN_FREE", "", _AMOUNT, forms.watermark, forms.watermark_text),
        Setting(
            "cache_max_age", "ENROOT_SLURM_CACHE_MAX_AGE", "", "an age such as 30d or 12h", forms.age, forms.age_text
        ),
        Setting("failure_ttl", "ENROOT_SLURM_FAILURE_TTL", "60", _TIME, forms.seconds, forms.number_text),
        Setting("tag_ttl", "ENROOT_SLURM_TAG_TTL", "0", _TIME, forms.seconds, forms.number_text),
        _switch("stale_tags", "ENROOT_SLURM_STALE_TAGS", "no"),
        _switch("offline", "ENROOT_SLURM_OFFLINE", "no"),
        _switch("locks", "ENROOT_SLURM_LOCKS", "yes"),
        Setting("lock_timeout", "ENROOT_SLURM_LOCK_TIMEOUT", "3600", _TIME, forms.seconds, forms.number_text),
        Setting("worker_timeout", "ENROOT_SLURM_WORKER_TIMEOUT", "30", _TIME, forms.seconds, forms.number_text),
        _switch("credential_commands", "ENROOT_SLURM_CREDENTIAL_COMMANDS", "yes"),
        Setting("run_path", "ENROOT_SLURM_RUN_PATH", "/run/enroot-slurm", _A_PATH, forms.path),
        Setting("prolog_deadline", "ENROOT_SLURM_PROLOG_DEADLINE", "15", _TIME, forms.seconds, forms.number_text),
        _switch("comment_requests", "ENROOT_SLURM_COMMENT_REQUESTS", "no"),
        _switch("hook_credential_commands", "ENROOT_SLURM_HOOK_CREDENTIAL_COMMANDS", "no"),
        Setting("site_failure_wait", "ENROOT_SLURM_SITE_FAILURE_WAIT", "60", _TIME, forms.seconds, forms.number_text),
        Setting(
            "on_site_failure",
            "ENROOT_SLURM_ON_SITE_FAILURE",
            "fail",
            "fail or continue",
            forms.choice("fail", "continue"),
        ),
        Setting(
            "on_node_failure", "ENROOT_SLURM_ON_NODE_FAILURE", "fail", "fail or drain", forms.choice("fail", "drain")
        ),
        Setting(
            "record_in",
            "ENROOT_SLURM_RECORD_IN",
            "nothing",
            "nothing or admincomment",
            forms.choice("nothing", "admincomment"),
        ),
        Setting("ca_file", "ENROOT_SLURM_CA_FILE", "", _A_PATH, forms.optional_path),
        _several(
            "insecure_registries",
            "ENROOT_SLURM_INSECURE_REGISTRIES",
            "",
            "a registry: HOST or HOST:PORT",
            forms.registry,
        ),
        _several(
            *("mirrors", "ENROOT_SLURM_MIRRORS", "", "PREFIX=MIRROR, such as docker.io=harbor.site/dockerhub"),
            forms.mirror,
        )._replace(is_mapping=True),
        Setting(
            *("registries_conf", "ENROOT_SLURM_REGISTRIES_CONF", "auto", "auto, off or an absolute path"), forms.policy
        ),
        _several("allowed_images", "ENROOT_SLURM_ALLOWED_IMAGES", "", _A_PREFIX, forms.image_prefix)._replace(
            narrows=True
        ),
        _several("blocked_images", "ENROOT_SLURM_BLOCKED_IMAGES", "", _A_PREFIX, forms.image_prefix)._replace(
            narrows=True
        ),
        _several("trusted_hosts", "ENROOT_SLURM_TRUSTED_HOSTS", "", "HOST, *.DOMAIN or ADDRESS/BITS", forms.trusted),
        _several("certs_dirs", "ENROOT_SLURM_CERTS_DIRS", _CERTS_DIRS, _A_PATH, forms.absolute),
        _several(
            "signature_policy", "ENROOT_SLURM_SIGNATURE_POLICY", "off", "off, auto or an absolute path", forms.policy
        )._replace(narrows=True),
        _several("verifier_dir", "ENROOT_SLURM_VERIFIER_DIR", "", _A_PATH, forms.absolute)._replace(narrows=True),
    )
}


def similar_setting(name: str) -> str:
    """``, did you mean ...?`` when *name* resembles a setting or is one's variable, else nothing."""
    key = _similar(name)
    return f", did you mean '{key}'?" if key else ""


def similar_variable(name: str) -> str:
    """Likewise, with the variable of the setting."""
    key = _similar(name)
    return f", did you mean {SETTINGS[key].variable}?" if key else ""


def _similar(name: str) -> str:
    import difflib  # noqa: PLC0415 - a millisecond that only errors need

    key = name.lower().replace("-", "_").removeprefix("enroot_").removeprefix("slurm_")
    return next(iter(difflib.get_close_matches(key, SETTINGS, n=1)), "")
