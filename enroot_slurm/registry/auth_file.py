"""Logins in the form of Docker's ``config.json``, which podman's and skopeo's ``auth.json`` have, too.

    {"auths": {KEY: {"auth": BASE64 of LOGIN:PASSWORD, "identitytoken": ..., "registrytoken": ...}},
     "credHelpers": {HOST: NAME}, "credsStore": NAME}

KEY is a registry, with or without a part of the repository's name, or a URL.  ``~/.dockercfg`` is the
inner mapping alone.

Sources: docker/cli, cli/config/configfile/file.go; containers-auth.json(5); go-containerregistry, pkg/authn/authn.go.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from typing import TYPE_CHECKING, Any

from enroot_slurm.errors import ConfigError, printable
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry.helpers import HelperFailed, ask_helper, is_helper_name
from enroot_slurm.registry.names import HUB_KEY, aliases, one_name
from enroot_slurm.registry.netrc_file import Candidate
from enroot_slurm.registry.secret import Credential, Secret

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["HELPERS_OFF", "AuthFile", "HelperList"]

HELPERS_OFF = "credential helpers are off"

_IDENTITY_TOKEN = "<token>"  # noqa: S105  (the login name by which a helper marks a refresh token)
_ROOTS = frozenset({"v1", "v2"})  # paths of URLs that are the registry's own


class AuthFile:
    """The logins in a file, or in a variable, whose *text* is such a document."""

    def __init__(
        self,
        text: str,
        name: str,
        *,
        no_helpers: str = HELPERS_OFF,
        bare: bool = False,
        strict: bool = False,
    ) -> None:
        """The document in *text*, which people know as *name*; nothing of its content but keys is ever shown.

        no_helpers  why helpers must not be run; empty: they may
        bare        the document is what others have as ``auths``
        strict      ``auths`` alone may be in it, and ``auth`` alone in those: Docker's rule for DOCKER_AUTH_CONFIG

        Raises: ConfigError.
        """
        document = _load(text, name)
        problems: list[str] = []
        if strict and (wrong := _wrong(document)):
            raise ConfigError(f"{name}: {wrong}", hint='Expected {"auths": {"HOST": {"auth": "BASE64"}}}.')
        self._name = name
        self._no_helpers = no_helpers
        self._entries: dict[str, Credential] = {}
        for key, value in (document if bare else _mapping(document, "auths", problems)).items():
            place = f"{name} ({printable(key, 100)})"
            try:
                credential = _credential(value, place)
            except ValueError as error:
                problems.append(f"{place}: {error}; it is left out")
            else:
                if credential is not None:
                    self._entries[key] = credential
        self._helpers: dict[str, str] = {}
        self._store = ""
        if not bare:
            self._add_helpers(document, problems)
        self.warnings = tuple(f"{name}: {p}" if not p.startswith(name) else p for p in problems[:20])
        """The problems in it, for the user."""

    @property
    def helpers(self) -> tuple[str, ...]:
        """The helpers that are named in it."""
        return tuple(dict.fromkeys([*self._helpers.values(), *([self._store] if self._store else [])]))

    def candidates(self, host: str, repository: str, user: str, *, default: bool) -> Iterator[Candidate]:
        """The logins for *repository* of *host*: its own helper's, the file's, and those of the store for all hosts."""
        if default:
            return
        name = one_name(host)
        hub = [HUB_KEY] if name == DOCKER_HUB else []
        for key in [*hub, *aliases(name)]:
            if key in self._helpers:
                yield self._helper(self._helpers[key], [key], user, "credHelpers")
                break
        for key in self._keys(name, repository):
            credential = self._entries[key]
            if user in {"", credential.login}:
                yield Candidate(credential.source, True, lambda credential=credential: credential)  # type: ignore[misc]
        if self._store:
            yield self._helper(self._store, hub or [host.lower()], user, "credsStore")

    def _keys(self, name: str, repository: str) -> Iterator[str]:
        """The keys for a repository: the longest that is a part of its name first, then those that have to be read."""
        parts = repository.split("/") if repository else []
        exact = ["/".join([alias, *parts[:length]]) for length in range(len(parts), -1, -1) for alias in aliases(name)]
        found = [key for key in exact if key in self._entries]
        yield from found
        for key in self._entries:
            if key in found:
                continue
            host, path, is_url = _normal(key)
            inside = parts[: len(path.split("/"))] == path.split("/")
            if one_name(host) == name and (not path or (is_url and (path in _ROOTS or inside))):
                yield key

    def _helper(self, helper: str, keys: list[str], user: str, family: str) -> Candidate:
        return _of_helper(helper, keys, user, f"{self._name} ({family}", self._no_helpers)

    def _add_helpers(self, document: dict[str, Any], problems: list[str]) -> None:
        for host, helper in _mapping(document, "credHelpers", problems).items():
            if is_helper_name(helper):
                self._helpers[host if host == HUB_KEY else host.lower()] = helper
            else:
                problems.append(f"credHelpers of {printable(host, 100)}: not the name of a helper")
        store = document.get("credsStore") or ""
        if store and not is_helper_name(store):
            problems.append("credsStore: not the name of a helper")
        else:
            self._store = store


class HelperList:
    """Helpers for all hosts, asked in their order: ``credential-helpers`` of containers-registries.conf(5)."""

    def __init__(self, helpers: Sequence[str], name: str, *, no_helpers: str) -> None:
        """Those of *helpers*, which the file *name* lists; *no_helpers*: see `AuthFile`."""
        self._name = name
        self._no_helpers = no_helpers
        self._helpers = [each for each in helpers if is_helper_name(each)]
        wrong = [each for each in helpers if each not in self._helpers]
        self.warnings = tuple(
            f"{name}: credential-helpers: '{printable(each, 60)}' is not the name of a helper" for each in wrong[:20]
        )

    def candidates(self, host: str, _repository: str, user: str, *, default: bool) -> Iterator[Candidate]:
        """Their logins for *host*."""
        keys = [HUB_KEY] if one_name(host) == DOCKER_HUB else [host.lower()]
        for helper in () if default else self._helpers:
            yield _of_helper(helper, keys, user, f"{self._name} (credential-helpers", self._no_helpers)


def _of_helper(helper: str, keys: list[str], user: str, place: str, no_helpers: str) -> Candidate:
    """What *helper* answers to the first of *keys* that it knows; *no_helpers*: why it must not be asked."""
    place = f"{place}, docker-credential-{helper})"

    def evaluate() -> Credential | None:
        if no_helpers:
            raise HelperFailed(
                f"{place} is not asked: {no_helpers}",
                hint="The settings credential_commands and, for hooks, hook_credential_commands turn helpers on.",
            )
        answer = ask_helper(helper, keys, place)
        if answer is None or user not in {"", answer.login}:
            return None
        kind = "identity" if answer.login == _IDENTITY_TOKEN else "password"
        return Credential(answer.login, answer.secret, place, kind)

    return Candidate(place, False, evaluate)


def _load(text: str, name: str) -> dict[str, Any]:
    try:
        document = json.loads(text.removeprefix("\ufeff"))
    except json.JSONDecodeError as error:
        raise ConfigError(f"{name}:{error.lineno}: not valid JSON: {error.msg}") from None
    except (ValueError, RecursionError):
        raise ConfigError(f"{name}: not valid JSON") from None
    if not isinstance(document, dict):
        raise ConfigError(f"{name}: not a JSON object")
    return document


def _mapping(document: dict[str, Any], key: str, problems: list[str]) -> dict[str, Any]:
    value = document.get(key) or {}
    if isinstance(value, dict):
        return value
    problems.append(f"{key}: not an object")
    return {}


def _wrong(document: dict[str, Any]) -> str:
    """The problem for which Docker refuses the variable."""
    auths = document.get("auths")
    if document.keys() - {"auths"} or not isinstance(auths, dict):
        return "expected 'auths' and nothing else"
    if any(not isinstance(v, dict) or v.keys() != {"auth"} or not v["auth"] for v in auths.values()):
        return "expected 'auth' and nothing else in each of 'auths'"
    return ""


def _credential(value: object, place: str) -> Credential | None:
    """The login in one entry; None for one without secrets.  Raises: ValueError, with the reason."""
    if value is None:
        return None
    if not isinstance(value, dict):
        raise ValueError("not an object")  # noqa: TRY004 - one kind of error
    texts = {k: value.get(k) or "" for k in ("auth", "username", "password", "identitytoken", "registrytoken")}
    for key, text in texts.items():
        if not isinstance(text, str):
            raise ValueError(f"{key} is not a text")  # noqa: TRY004
    login, password = texts["username"], texts["password"]
    if texts["auth"]:
        login, password = _decode(texts["auth"])
    if texts["registrytoken"]:
        return Credential(login or _IDENTITY_TOKEN, Secret(texts["registrytoken"]), place, "registry")
    if texts["identitytoken"]:
        return Credential(login or _IDENTITY_TOKEN, Secret(texts["identitytoken"]), place, "identity")
    if not login and (texts["auth"] or password):
        raise ValueError("there is no login in it")
    return Credential(login, Secret(password), place) if login else None


def _decode(text: str) -> tuple[str, str]:
    packed = "".join(text.split())
    try:
        plain = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("auth is not base64") from None
    login, colon, password = plain.decode("utf-8", "surrogateescape").partition(":")
    if not colon:
        raise ValueError("auth has no colon between login and password")
    return login, password.rstrip("\0")


def _normal(key: str) -> tuple[str, str, bool]:
    """The host of *key*, its path without slashes around it, and whether it is a URL, or what is left of one."""
    rest = re.sub(r"^https?://", "", key, flags=re.IGNORECASE)
    host, _, path = rest.partition("/")
    return host, path.strip("/"), rest != key or key.endswith("/")
