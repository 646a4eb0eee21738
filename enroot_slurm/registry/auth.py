"""Logging in to a registry: Basic, or a token of the realm that the registry names.

Sources: distribution's docs/spec/auth/{token,oauth}.md; RFC 6750; go-containerregistry's pkg/v1/remote/transport.

Which credentials a token service is sent, when a registry names it as its realm:

    the realm's own entry in the file      if the realm is not the known service of another registry
    else the registry's entry              if both have one owner: same host, same registrable domain, or a known pair
    else none                              with a warning that names the missing line
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from enroot_slurm.errors import AccessDenied, NetworkError, printable
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry.challenge import Challenge, parse_challenges
from enroot_slurm.registry.origin import Origin, RefusedTarget, check_realm, same_site

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from enroot_slurm.registry.credentials import Credential, Credentials

__all__ = ["Answer", "Ask", "Challenge", "Login", "parse_challenges"]

MAX_ANSWER = 1 << 20
"""Bytes that a token service may answer."""
_CLIENT_ID = "enroot-slurm"
_IDENTITY_TOKEN = "<token>"  # noqa: S105  (Docker's login name that marks a refresh token)
_LIFETIME = 60.0  # seconds, when the service states none (token.md)
_SERVICES = {
    "auth.docker.io": DOCKER_HUB,
    "authn.nvidia.com": "nvcr.io",
    "gitlab.com": "registry.gitlab.com",
    "ghcr.io": "ghcr.io",
    "quay.io": "quay.io",
    "public.ecr.aws": "public.ecr.aws",
}
"""Token services and the registries that they serve: they get logins of those, and those alone get theirs."""


class Answer(NamedTuple):
    """What a token service answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Ask(Protocol):
    """How a token service is asked."""

    def __call__(self, url: str, authorization: str, form: bytes | None) -> Answer:
        """Send a GET, or a POST of *form*.  Raises: NetworkError."""


class _Token(NamedTuple):
    authorization: str
    credential: Credential | None
    expires: float  # by time.monotonic


_FOREVER = float("inf")
_NOTHING = _Token("", None, _FOREVER)


class Login:
    """The login of one repository's client: what to send in Authorization, renewed as the registry asks for it.

    *repository* may be empty: then the login is for the registry alone.

    Tokens stay in memory.  Several threads may use it: one renews, the others wait for it and use the outcome.
    """

    def __init__(
        self,
        registry: Origin,
        repository: str,
        user: str,
        credentials: Credentials,
        *,
        ask: Ask,
        warn: Callable[[str], None],
    ) -> None:
        self.anonymous = True
        """Whether every answer that was used came without credentials."""
        self.source = ""
        """Where the credentials that were tried are from (FILE:LINE), or empty."""
        self.name = ""
        """The login name in them."""
        self.problem = ""
        """Why no credentials were used, or what became of them; or empty."""
        self.machine = registry.netloc
        """The name that an entry in the file needs to be used."""
        self._registry = registry
        self._scope = f"repository:{repository}:pull" if repository else ""
        self._user = user
        self._credentials = credentials
        self._ask = ask
        self._warn = warn
        self._lock = threading.Lock()
        self._token = _NOTHING
        self._good = False  # whether the token was accepted once: then it has expired when it is rejected
        self._challenge = Challenge("", {})
        self._wider: list[str] = []
        self._without = False  # credentials were rejected: go on without

    def authorization(self) -> str:
        """The header's value for the next request; empty when none is known to be needed."""
        with self._lock:
            if time.monotonic() > self._token.expires:
                self._fetch()
            return self._token.authorization

    def accepted(self, authorization: str) -> None:
        """Note that the registry answered a request with *authorization* well."""
        with self._lock:
            if authorization != self._token.authorization:
                return  # another thread has renewed it since: that thread's answers tell
            if self._token.credential:
                self.anonymous = False
            elif self._without and not self._good:
                self._warn(f"{self.problem}: going on without them, since the image can be read by anyone")
            self._good = True

    def renew(self, rejected: str, headers: Sequence[str], *, forbidden: bool = False) -> bool:
        """Try to find another Authorization than the *rejected* one; whether there is one.

        *headers* are the WWW-Authenticate headers of the answer, which is 403 if *forbidden*, else 401.

        Raises: AccessDenied when the registry asks for something that is refused; NetworkError.
        """
        with self._lock:
            if rejected != self._token.authorization:
                return True  # another thread was faster
            challenges = parse_challenges(headers)
            bearer = [c for c in challenges if c.scheme == "bearer"]
            if bearer and not (forbidden and not any(c.wider_scope for c in bearer)):
                return self._renew_bearer(bearer) and self._token.authorization != rejected
            if rejected:
                return self._go_without() and self._token.authorization != rejected
            if any(c.scheme == "basic" for c in challenges):
                return self._basic()
            names = ", ".join(printable(c.scheme, 20) for c in challenges) or "none"
            self.problem = f"of the ways to log in that it offers ({names}) none is supported"
            return False

    def _basic(self) -> bool:
        credential = self._look_up(self._registry.netloc)
        if credential is None:
            return False
        self._token, self._good = _Token(_basic(credential), credential, _FOREVER), False
        return True

    def _renew_bearer(self, challenges: Sequence[Challenge]) -> bool:
        self._challenge = self._first_allowed(challenges)
        wider = self._challenge.wider_scope
        if wider and wider not in self._wider:
            self._wider.insert(0, wider)  # the wanted one first: some services look at the first alone
        elif self._token.authorization and not self._good:
            return self._go_without()  # a new token of the same kind would be rejected as well
        self._fetch()
        return bool(self._token.authorization)

    def _first_allowed(self, challenges: Sequence[Challenge]) -> Challenge:
        refused = ""
        for challenge in challenges:
            realm = challenge.params.get("realm", "")
            try:
                check_realm(realm, self._registry)
            except RefusedTarget as error:
                refused = refused or f"{printable(realm, 100)!r}: {error}"
            else:
                return challenge
        raise AccessDenied(
            f"{self._registry.netloc} names a place to log in that is refused: {refused}",
            hint="The registry is hostile, or does not know its own address. Nothing was sent to that place.",
        )

    def _go_without(self) -> bool:
        if self._without or self._token.credential is None or not self._challenge.scheme:
            return False
        self.problem = f"{self._registry.netloc} refuses what {self.source} logs in to"
        self._without = True
        self._fetch()
        return bool(self._token.authorization)

    def _fetch(self) -> None:
        """Get a token from the realm of the last challenge: with credentials if there are, else without."""
        realm = check_realm(self._challenge.params.get("realm", ""), self._registry)
        scopes = [*self._wider, *self._own_scopes]
        if not self._wider and self._challenge.params.get("scope", "").startswith("repository:"):
            scopes = [self._challenge.params["scope"]]
        if not self._without and (credential := self._choose(realm)):
            if credential.kind == "registry":
                self._token, self._good = _Token(f"Bearer {credential.secret.reveal()}", credential, _FOREVER), False
                return
            if not _related(realm, self._registry):
                # Only for the repository that the user has named: the registry must not get a token for another one.
                scopes = self._own_scopes
            answer = self._request(scopes, credential)
            if answer.status not in {400, 401, 403}:
                self._token, self._good = _read_token(answer, realm, credential), False
                return
            self.problem = f"{realm.netloc} rejects the credentials of {credential.source}"
            self._without = True
        answer = self._request(scopes, None)
        denied = answer.status in {400, 401, 403}
        self._token, self._good = (_NOTHING if denied else _read_token(answer, realm, None)), False

    @property
    def _own_scopes(self) -> list[str]:
        """None for a login that is for no repository."""
        return [self._scope] if self._scope else []

    def _request(self, scopes: list[str], credential: Credential | None) -> Answer:
        parts = urlsplit(self._challenge.params["realm"])
        service = self._challenge.params.get("service", "")
        if credential and credential.kind == "identity":
            form = {
                "grant_type": "refresh_token",
                "service": service,
                "scope": " ".join(scopes),
                "client_id": _CLIENT_ID,
                "refresh_token": credential.secret.reveal(),
            }
            answer = self._ask(urlunsplit(parts._replace(fragment="")), "", urlencode(form).encode())
            if answer.status not in {404, 405}:
                return answer
        query = parse_qsl(parts.query, keep_blank_values=True)
        query += [("service", service)] if service else []
        query += [("scope", scope) for scope in scopes]
        if credential and credential.login != _IDENTITY_TOKEN:
            query.append(("account", credential.login))
        url = urlunsplit(parts._replace(query=urlencode(query), fragment=""))
        return self._ask(url, _basic(credential) if credential else "", None)

    def _choose(self, realm: Origin) -> Credential | None:
        """The credentials that *realm* may get, by the table above."""
        if _related(realm, self._registry):
            return self._look_up(realm.netloc, exact=True) or self._look_up(self._registry.netloc)
        served = _SERVICES.get(realm.host)
        if served is None and (credential := self._look_up(realm.netloc, exact=True)):
            return credential
        if self._credentials.has(self._registry.netloc, self._user):
            if served is None:
                self.machine = realm.netloc
            self.problem = f"the credentials for {self._registry.netloc} were not sent to {realm.netloc}, another owner"
            self._warn(
                f"{self._registry.netloc} wants logins to be sent to {realm.netloc}, which may be another owner: "
                "asking without credentials"
                + (f" (to allow it, add a line: machine {realm.netloc} login USER password ...)" if not served else "")
            )
        return None

    def _look_up(self, host: str, *, exact: bool = False) -> Credential | None:
        try:
            credential = self._credentials.find(host, self._user, exact=exact)
        except AccessDenied as error:
            self.problem = f"{error}. {error.hint}"  # it may work without
            return None
        if credential:
            self.source, self.name = credential.source, credential.login
        return credential


def _related(realm: Origin, registry: Origin) -> bool:
    return same_site(realm.host, registry.host) or _SERVICES.get(realm.host) == registry.host


def _basic(credential: Credential) -> str:
    pair = f"{credential.login}:{credential.secret.reveal()}"
    return "Basic " + base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii")


def _read_token(answer: Answer, realm: Origin, credential: Credential | None) -> _Token:
    if answer.status != 200:
        raise AccessDenied(f"{realm.netloc}, where to log in, answers {answer.status}")
    try:
        document = json.loads(answer.body)
    except (ValueError, RecursionError):
        document = None
    fields = document if isinstance(document, dict) else {}
    token = fields.get("token") or fields.get("access_token")
    if len(answer.body) > MAX_ANSWER or not isinstance(token, str) or not re.fullmatch(r"[!-~]+", token):
        raise NetworkError(f"{realm.netloc}, where to log in, answers with something that is not a token")
    seconds = fields.get("expires_in")
    lifetime = float(seconds) if isinstance(seconds, int | float) and 0 < seconds < 1e9 else _LIFETIME
    # A little early, so that it does not expire on its way.
    return _Token(f"Bearer {token}", credential, time.monotonic() + 0.9 * lifetime)
