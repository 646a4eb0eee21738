"""Where the logins for an import may be written: the user's files, in their order, or the site's.

    $ENROOT_CONFIG_PATH/.credentials              (its line "default" after all others)
    $DOCKER_AUTH_CONFIG                           the text itself; never in hooks
    the setting auth_file, or $REGISTRY_AUTH_FILE  then none of the following
    $XDG_RUNTIME_DIR/containers/auth.json         or /run/containers/UID/auth.json: what podman login writes
    ${XDG_CONFIG_HOME:-~/.config}/containers/auth.json
    ${DOCKER_CONFIG:-~/.docker}/config.json
    ~/.dockercfg
    credential-helpers                            of registries.conf; before these files, if they stand in its list
                                                  before the word containers-auth.json

Sources: containers-auth.json(5); containers-registries.conf(5); docker/cli, cli/config; docs/credentials.md.
"""

from __future__ import annotations

import contextlib
import os
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError, printable
from enroot_slurm.importing.permission import files_of
from enroot_slurm.oci.digest import hash_of_text
from enroot_slurm.registry.auth_file import HELPERS_OFF, AuthFile, HelperList
from enroot_slurm.registry.credentials import Credentials, read_logins
from enroot_slurm.settings.expansion import Variables
from enroot_slurm.settings.registries_conf import helpers_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enroot_slurm.registry.credentials import CredentialSource, LoginFile
    from enroot_slurm.settings.config import Config

__all__ = ["AuthPath", "auth_paths", "credentials_of", "netrc_path", "node_local", "read_auths", "state_of_logins"]

_PODMANS = "/run/containers"
"""Where files are without XDG_RUNTIME_DIR; podman of root makes it for root alone, and then no other user has one."""
_VARIABLE = "DOCKER_AUTH_CONFIG"
_FILES = "containers-auth.json"
"""The word for files of logins among credential-helpers."""
_STATE_LENGTH = 32


class AuthPath(NamedTuple):
    """A file in Docker's form that counts."""

    path: Path
    why: str = ""
    """The setting or variable that names it; then it has to be there."""
    bare: bool = False
    """Whether it is ``~/.dockercfg``, whose form is an older one."""
    doubt: str = ""
    """Why it can't be there, for the user; or empty."""


def credentials_of(
    repository: str, config: Config, warn: Callable[[str], None], *, public: bool, defaults: bool = True
) -> Credentials:
    """The logins for *repository* (empty: for the registry alone); the site's only, if what comes is to be *public*.

    Without *defaults* (for a mirror, which the user has not named) a login that is for any host does not count.
    Nothing is read yet.
    """
    if public:  # what is written there is for everybody: nobody's own credentials may have to do with it
        if not config.site_credentials:
            return Credentials()
        path = Path(config.site_credentials)
        read = partial(read_logins, path, run_commands=False, strict=True)
        return Credentials([read], name=str(path), repository=repository, warn=warn, defaults=defaults)
    sources: list[Callable[[], CredentialSource | None]] = []
    if "netrc" in config.credential_sources:
        sources.append(partial(read_logins, netrc_path(config), run_commands=config.credential_commands))
    if "docker" in config.credential_sources:
        if not config.trusted and os.environ.get(_VARIABLE):
            sources.append(partial(_of_variable, os.environ[_VARIABLE]))
        listed = cache(partial(_listed_helpers, config))
        sources.append(lambda: listed()[0])
        sources += [partial(_read, each, config, warn) for each in auth_paths(config)]
        sources.append(lambda: listed()[1])
    return Credentials(sources, name=str(netrc_path(config)), repository=repository, warn=warn, defaults=defaults)


def state_of_logins(config: Config, *, public: bool) -> str:
    """A word that changes when a file does in which a login for an import may be written."""
    if public:
        paths = [Path(config.site_credentials)] if config.site_credentials else []
    else:
        paths = [netrc_path(config), *(each.path for each in auth_paths(config))]
    states = []
    for path in paths:
        with contextlib.suppress(OSError):
            status = path.stat()
            states.append(f"{path}:{status.st_ino}.{status.st_size}.{status.st_mtime_ns}")
    texts = [*states, os.environ.get(_VARIABLE, "") if not public and not config.trusted else ""]
    return hash_of_text("\n".join(texts), _STATE_LENGTH)


def netrc_path(config: Config) -> Path:
    """The file where a user's own lines are."""
    return config.config_path / ".credentials"


def auth_paths(config: Config) -> list[AuthPath]:
    """The files in Docker's form that count, in their order; most of them are not there."""
    environ: Mapping[str, str] = {} if config.trusted else os.environ
    if config.auth_file:
        return [AuthPath(Path(config.auth_file), "auth_file")]
    if named := environ.get("REGISTRY_AUTH_FILE"):
        return [AuthPath(Path(named).absolute(), "REGISTRY_AUTH_FILE")]
    return list(_usual(environ))


def node_local(path: Path) -> bool:
    """Whether *path* is a file of this login and this node: jobs will not see it."""
    runtime = os.environ.get("XDG_RUNTIME_DIR", "")
    return path.is_relative_to("/run") or bool(runtime and path.is_relative_to(runtime))


def read_auths(each: AuthPath, config: Config) -> LoginFile | None:
    """The content of the file of *each*; None if it is not there, and need not be.

    Raises: ConfigError, StorageError.
    """
    commands = config.credential_commands
    return read_logins(each.path, run_commands=commands, docker=True, bare=each.bare, required=bool(each.why))


def _usual(environ: Mapping[str, str]) -> Iterator[AuthPath]:
    runtime = environ.get("XDG_RUNTIME_DIR") or f"{_PODMANS}/{os.geteuid()}"
    doubt = ""
    if environ.get("XDG_RUNTIME_DIR") and not os.path.isdir(runtime):  # noqa: PTH112 - Path's raises below closed ones
        doubt = (
            f"XDG_RUNTIME_DIR is {printable(runtime)}, which is not here: what podman login has written there is lost"
        )
    within = "containers/auth.json" if environ.get("XDG_RUNTIME_DIR") else "auth.json"
    if environ.get("XDG_RUNTIME_DIR") or not os.path.isdir(_PODMANS) or os.access(_PODMANS, os.X_OK):  # noqa: PTH112
        yield AuthPath(Path(runtime, within), doubt=doubt)
    variables = Variables(environ)
    try:
        home, config_home = variables.get("HOME") or "/", variables.get("XDG_CONFIG_HOME") or "/"
    except ConfigError:
        return  # who has no home has no files in it
    yield AuthPath(Path(config_home, "containers/auth.json"))
    yield AuthPath(Path(environ.get("DOCKER_CONFIG") or Path(home, ".docker"), "config.json").absolute())
    yield AuthPath(Path(home, ".dockercfg"), bare=True)


def _of_variable(text: str) -> AuthFile:
    return AuthFile(text, _VARIABLE, strict=True)


def _listed_helpers(config: Config) -> tuple[HelperList, HelperList]:
    """The helpers that registries.conf lists before the word for these files, and after it."""
    listed, name = helpers_in(files_of(config, site=config.trusted))
    at = listed.index(_FILES) if _FILES in listed else len(listed)
    no_helpers = "" if config.credential_commands else HELPERS_OFF
    before, after = (HelperList(part, name, no_helpers=no_helpers) for part in (listed[:at], listed[at + 1 :]))
    return before, after


def _read(each: AuthPath, config: Config, warn: Callable[[str], None]) -> CredentialSource | None:
    if each.doubt:
        warn(each.doubt)
        return None
    return read_auths(each, config)
