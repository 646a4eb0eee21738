"""policy.json, as podman, skopeo and CRI-O read it: one requirement list per scope, and the most precise scope counts.

    {"default": [REQUIREMENT, ...],
     "transports": {TRANSPORT: {SCOPE: [REQUIREMENT, ...]}}}

A file with anything unknown in it is refused as a whole: a mistyped word must not open what it was to close.

Source: containers-policy.json(5).
"""

from __future__ import annotations

import base64
import binascii
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import ConfigError, IntegrityError, printable
from enroot_slurm.oci.manifest import load_json
from enroot_slurm.trust.identity import DEFAULT, SignedIdentity
from enroot_slurm.trust.names import ImageName
from enroot_slurm.trust.requirements import (
    AcceptAnything,
    Fulcio,
    Material,
    Pki,
    Reject,
    Rule,
    SignedBy,
    SigstoreSigned,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enroot_slurm.trust.requirements import Requirement

__all__ = ["MAX_POLICY", "Policy"]

MAX_POLICY = 1 << 20
"""Bytes that a policy may have."""
_PATHS = {"dir", "oci", "oci-archive", "sif"}
"""Transports whose scopes are paths."""
_KEY_TYPES = {"GPGKeys", "signedByGPGKeys", "X509Certificates", "signedByX509CAs"}


class Policy(NamedTuple):
    """One policy.json."""

    file: str
    default: tuple[Requirement, ...]
    transports: Mapping[str, Mapping[str, tuple[Requirement, ...]]]

    @classmethod
    def parse(cls, file: str, content: bytes) -> Policy:
        """The policy in *content*, which is that of *file*.

        Raises: ConfigError, which says where in it something is wrong.
        """
        try:
            document = load_json(content, "policy", MAX_POLICY)
            fields = _Fields(document, "policy")
            default = _list(fields.pop("default"), "default")
            transports = {
                name: _transport(name, scopes)
                for name, scopes in _object(fields.pop("transports", {}), "transports").items()
            }
            fields.end()
        except (_PolicyError, IntegrityError) as error:
            raise ConfigError(
                f"{file}: {error}",
                hint="No image is used while the policy is wrong; containers-policy.json(5) has its form.",
            ) from None
        return cls(file, default, transports)

    def rule(self, transport: str, scopes: list[str]) -> Rule:
        """The rule for an image of *transport* whose places are *scopes*, the most precise first."""
        known = self.transports.get(transport, {})
        for scope in [*scopes, ""]:
            if scope in known:
                place = f"{transport} scope {printable(scope)}" if scope else f"all of {transport}"
                return Rule(self.file, place, known[scope])
        return Rule(self.file, "default", self.default)


class _PolicyError(Exception):
    """Something in the policy is wrong; the message says where."""


class _Fields:
    """The members of one object, each of which has to be asked for."""

    def __init__(self, value: object, where: str) -> None:
        self._left = dict(_object(value, where))
        self.where = where

    def pop(self, name: str, default: object = ...) -> Any:
        """The member *name*.  Raises: _PolicyError, when it is missing and has no *default*."""
        if name in self._left:
            return self._left.pop(name)
        if default is ...:
            raise _PolicyError(f"{self.where}: '{name}' is missing")
        return default

    def text(self, name: str, default: str | None = None) -> str:
        """The member *name*, a string that is not empty; *default* where it is missing."""
        value = self.pop(name, ... if default is None else default)
        if not isinstance(value, str) or (not value and default is None):
            raise _PolicyError(f"{self.where}: '{name}' is not a string with something in it")
        return value

    def end(self) -> None:
        """Raises: _PolicyError, when something is left."""
        if self._left:
            raise _PolicyError(f"{self.where}: '{printable(next(iter(self._left)), 80)}' is not known")

    def one_of(self, *names: str) -> str:
        """Which one of *names* is there; empty: none.  Raises: _PolicyError, when it is several."""
        found = [name for name in names if name in self._left]
        if len(found) > 1:
            raise _PolicyError(f"{self.where}: {' and '.join(found)} exclude each other")
        return found[0] if found else ""

    def material(self, name: str) -> tuple[Material, ...]:
        """The sources in the member *name*: files (``...Path``, ``...Paths``) or texts (``...Data``, ``...Datas``)."""
        value = self.pop(name)
        if name.endswith("s"):
            if not isinstance(value, list) or not value:
                raise _PolicyError(f"{self.where}: '{name}' is not a list with something in it")
        else:
            value = [value]
        return tuple(self._material(name, each) for each in value)

    def _material(self, name: str, value: object) -> Material:
        if not isinstance(value, str) or not value:
            raise _PolicyError(f"{self.where}: '{name}' is not a string with something in it")
        if name.removesuffix("s").endswith("Path"):
            if not value.startswith("/") or "\0" in value:
                raise _PolicyError(f"{self.where}: '{name}' is not an absolute path: {printable(value)}")
            return Material(value)
        try:
            return Material("", base64.b64decode(value, validate=True))
        except (ValueError, binascii.Error):
            raise _PolicyError(f"{self.where}: '{name}' is not base64") from None


def _object(value: object, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _PolicyError(f"{where}: an object is expected")
    return value


def _transport(name: str, value: object) -> dict[str, tuple[Requirement, ...]]:
    where = f"transports.{printable(name, 80)}"
    scopes = _object(value, where)
    for scope in scopes:
        if name == "docker-archive" and scope:
            raise _PolicyError(f'{where}: the only scope is ""')
        if name in _PATHS and scope:
            parts = scope.split("/")
            if parts[0] or {".", ".."} & set(parts) or "" in parts[1:]:
                raise _PolicyError(f"{where}: a scope is an absolute path without '.', '..' and '/' at its end")
        if name == "docker" and ("*" in scope.removeprefix("*.") or (scope.startswith("*.") and "/" in scope)):
            raise _PolicyError(f"{where}: '*' is possible in *.DOMAIN only: {printable(scope)}")
    return {scope: _list(each, f"{where}.{printable(scope, 200)}") for scope, each in scopes.items()}


def _list(value: object, where: str) -> tuple[Requirement, ...]:
    if not isinstance(value, list) or not value:
        raise _PolicyError(f"{where}: a list of requirements is expected, with one at least")
    return tuple(_requirement(each, f"{where}[{i}]") for i, each in enumerate(value))


def _requirement(value: object, where: str) -> Requirement:
    fields = _Fields(value, where)
    kind = fields.text("type")
    if kind not in _REQUIREMENTS:
        raise _PolicyError(f"{where}: the type {printable(kind, 80)} is not known")
    requirement = _REQUIREMENTS[kind](fields)
    fields.end()
    return requirement


def _signed_by(fields: _Fields) -> SignedBy:
    if fields.text("keyType") not in _KEY_TYPES:
        raise _PolicyError(f"{fields.where}: the keyType is not known")
    name = fields.one_of("keyPath", "keyPaths", "keyData")
    if not name:
        raise _PolicyError(f"{fields.where}: no key is named")
    fields.material(name)
    _identity(fields)
    return SignedBy()


def _sigstore_signed(fields: _Fields) -> SigstoreSigned:
    name = fields.one_of("keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki")
    if not name:
        raise _PolicyError(f"{fields.where}: no key is named (keyPath, keyPaths, keyData, keyDatas, fulcio or pki)")
    log = fields.one_of("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData", "rekorPublicKeyDatas")
    if name == "fulcio" and not log:
        raise _PolicyError(f"{fields.where}: fulcio needs a rekorPublicKey: its certificates are valid for minutes")
    if name == "pki" and log:
        raise _PolicyError(f"{fields.where}: pki and {log} exclude each other")
    rekor = fields.material(log) if log else ()
    identity = _identity(fields)
    if name == "fulcio":
        return SigstoreSigned(fulcio=_fulcio(fields), rekor=rekor, identity=identity)
    if name == "pki":
        return SigstoreSigned(pki=_pki(fields), identity=identity)
    return SigstoreSigned(keys=fields.material(name), rekor=rekor, identity=identity)


def _fulcio(parent: _Fields) -> Fulcio:
    fields = _Fields(parent.pop("fulcio"), f"{parent.where}.fulcio")
    name = fields.one_of("caPath", "caData") or "caPath"
    (ca,) = fields.material(name)
    found = Fulcio(ca, fields.text("oidcIssuer"), fields.text("subjectEmail"))
    fields.end()
    return found


def _pki(parent: _Fields) -> Pki:
    fields = _Fields(parent.pop("pki"), f"{parent.where}.pki")
    (roots,) = fields.material(fields.one_of("caRootsPath", "caRootsData") or "caRootsPath")
    name = fields.one_of("caIntermediatesPath", "caIntermediatesData")
    between = fields.material(name)[0] if name else None
    found = Pki(roots, between, fields.text("subjectEmail", ""), fields.text("subjectHostname", ""))
    fields.end()
    if not (found.email or found.hostname):
        raise _PolicyError(f"{fields.where}: subjectEmail or subjectHostname is missing")
    return found


def _identity(parent: _Fields) -> SignedIdentity:
    value = parent.pop("signedIdentity", None)
    if value is None:
        return SignedIdentity()
    fields = _Fields(value, f"{parent.where}.signedIdentity")
    kind = fields.text("type")
    if kind in {"matchExact", DEFAULT, "matchRepository"}:
        found = SignedIdentity(kind)
    elif kind in {"exactReference", "exactRepository"}:
        found = SignedIdentity(kind, fields.text("dockerReference" if kind == "exactReference" else "dockerRepository"))
        try:
            name = ImageName.parse(found.name)
        except ValueError:
            raise _PolicyError(f"{fields.where}: not the name of an image: {printable(found.name)}") from None
        if name.is_repository != (kind == "exactRepository"):
            wanted = "no tag and no digest" if kind == "exactRepository" else "a tag or a digest"
            raise _PolicyError(f"{fields.where}: {kind} has a name with {wanted}")
    elif kind == "remapIdentity":
        found = SignedIdentity(kind, prefix=_prefix(fields, "prefix"), signed_prefix=_prefix(fields, "signedPrefix"))
    else:
        raise _PolicyError(f"{fields.where}: the type {printable(kind, 80)} is not known")
    fields.end()
    return found


def _prefix(fields: _Fields, name: str) -> str:
    """A host, or a repository or what is above one, without tag and digest."""
    value = fields.text(name)
    with suppress(ValueError):
        # In full, or it would never be the beginning of a name.
        if ImageName.parse(f"{value}/x").repository == f"{value}/x":
            return value
    raise _PolicyError(f"{fields.where}: '{name}' is not a registry or a repository in full: {printable(value)}")


_REQUIREMENTS: dict[str, Callable[[_Fields], Requirement]] = {
    "insecureAcceptAnything": lambda _: AcceptAnything(),
    "reject": lambda _: Reject(),
    "signedBy": _signed_by,
    "sigstoreSigned": _sigstore_signed,
}
