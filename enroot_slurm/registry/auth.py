"""Logging in to a registry: Basic, or a token of the realm that the registry names.

Sources: distribution's docs/spec/auth/{token,oauth}.md; RFC 6750; go-containerregistry's pkg/v1/remote/transport.

Which credentials a token service is sent, when a registry names it as its realm:

    the realm's own entry in the file      if it is the registry's own host, or they are a known pair
    else the registry's entry              likewise, or if the realm's host is above the registry's
    else the entry of both                 if each has one, and both hold the same login and password
    else none                              with a warning that names the missing line

So a secret goes only to a host that has it already, or that owns the name that it is for.  A registry gets no token by
a login of another host.  A registry never chooses the request: the scope is always to pull the repository that the user
has named.  Scope, service and account in the realm's own query are dropped.
"""

from __future__ import annotations

import base64
import json
import re
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Protocol
from urllib.parse import SplitResult, parse_qsl, urlencode, urlsplit, urlunsplit

from enroot_slurm.errors import AccessDenied, NetworkError, printable
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry.challenge import Challenge, parse_challenges
from enroot_slurm.registry.connections import Connections, Token
from enroot_slurm.registry.origin import Origin, RefusedTarget, same_owner, shown
from enroot_slurm.registry.words import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from enroot_slurm.registry.credentials import Credential, Credentials
    from enroot_slurm.registry.reach import Reach

__all__ = ["Ask", "Challenge", "Login", "TokenAnswer", "parse_challenges"]

MAX_ANSWER = 1 << 20
"""Bytes that a token service may answer."""
_CLIENT_ID = "enroot-slurm"
_LIFETIME = 60.0  # seconds, when the service states none (token.md)
_DENIED = frozenset({400, 401, 403})
_NOT_THIS_WAY = frozenset({404, 405, 501})
_NOT_OURS = frozenset({"scope", "service", "account", "client_id", "offline_token"})
"""Parameters that a realm's URL must not choose."""
_SERVICES = {
    "auth.docker.io": DOCKER_HUB,
    "authn.nvidia.com": "nvcr.io",
    "gitlab.com": "registry.gitlab.com",
    "ghcr.io": "ghcr.io",
    "quay.io": "quay.io",
    "public.ecr.aws": "public.ecr.aws",
}
"""Token services and the registries that they serve: they get logins of those, and those alone get theirs."""


class TokenAnswer(NamedTuple):
    """The answer of a token service."""

    status: int
    headers: Mapping[str, str]
    body: bytes


class Ask(Protocol):
    """How a token service is asked."""

    def __call__(self, url: str, authorization: str, form: bytes | None) -> TokenAnswer:
        """Send a GET, or a POST of *form*, once.  Raises: NetworkError; Passing when asking again may help."""


_FOREVER = float("inf")
_NOTHING = Token("", None, _FOREVER)


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
        reach: Reach,
        ask: Ask,
        warn: Callable[[str], None],
        connections: Connections | None = None,
    ) -> None:
        self.anonymous = True
        """Whether every answer that was used came without credentials."""
        self.source = ""
        """Where the credentials that were tried are from (FILE:LINE), or empty."""
        self.name = ""
        """The login name in them."""
        self.problem = ""
        """Why no credentials were used, or what became of them; or empty."""
        self.unsupported = False
        """Whether the *problem* is that none of the ways to log in is known here: no credentials would help."""
        self.machine = registry.netloc
        """The name that an entry in the file needs to be used."""
        self.registry = registry
        """Whom it is for."""
        self._reach = reach
        self._repository = repository
        self._scope = f"repository:{repository}:pull" if repository else ""
        self._user = user
        self._credentials = credentials
        self._ask = ask
        self._warn = warn
        self._lock = threading.Lock()
        self._connections = connections = connections or Connections()
        known = connections.token(registry, repository, user)
        if known is not None and known.credential is not None:
            self.source, self.name = known.credential.source, known.credential.login
        self._token = known or _NOTHING
        self._begun = known is not None  # whether it was looked how this registry wants logins
        self._good = known is not None  # whether the token was accepted once: then it has expired when it is rejected
        self._challenge = Challenge("", {})
        self._realm = ""  # of the challenge, as an absolute URL
        self._without = False  # credentials were rejected: go on without
        self._offered = False  # whether the registry was asked for a challenge

    @property
    def good(self) -> bool:
        """Whether what is sent now was accepted once."""
        return self._good

    def authorization(self) -> str:
        """The header's value for the next request; empty when none is known to be needed."""
        with self._lock:
            if time.monotonic() > self._token.expires:
                if not self._realm:  # another repository's login has left the token, but not how to get one
                    self._token, self._good, self._begun = _NOTHING, False, False
                else:
                    self._fetch()
            if not self._begun and self._token is _NOTHING:
                self._begun = True
                self._begin(self._connections.challenge(self.registry))
            return self._token.authorization

    def _begin(self, headers: Sequence[str]) -> None:
        """Log in as *headers* want it, which the registry has answered for another repository; or do nothing."""
        challenges = parse_challenges(headers)
        if bearer := [c for c in challenges if c.scheme == "bearer"]:
            with suppress(AccessDenied):  # told when the registry says it again
                self._renew_bearer(bearer)
        elif any(c.scheme == "basic" for c in challenges):
            self._basic()

    def accepted(self, authorization: str) -> None:
        """Note that the registry answered a request with *authorization* well."""
        with self._lock:
            if authorization != self._token.authorization:
                return  # another thread has renewed it since: that thread's answers tell
            if self._token.credential:
                self.anonymous = False
            elif self._without and not self._good:
                self._warn(f"{self.problem}: going on without them, because the image needs no login")
            self._good = True
            if authorization:
                self._connections.accept(self.registry, self._repository, self._user, self._token)

    def renew(self, rejected: str, headers: Sequence[str], *, forbidden: bool = False) -> bool:
        """Try to find another Authorization than the *rejected* one; whether there is one.

        *headers* are the WWW-Authenticate headers of the answer, which is 403 if *forbidden*, else 401.

        Raises: AccessDenied when the registry asks for something that is refused; NetworkError.
        """
        with self._lock:
            if rejected != self._token.authorization:
                return True  # another thread was faster
            challenges = parse_challenges(headers)
            if challenges and not forbidden:
                self._connections.challenged(self.registry, tuple(headers))
            bearer = [c for c in challenges if c.scheme == "bearer"]
            if bearer and not (forbidden and rejected):
                return self._renew_bearer(bearer) and self._token.authorization != rejected
            if rejected:
                return self._go_without() and self._token.authorization != rejected
            if any(c.scheme == "basic" for c in challenges):
                return self._basic()
            if challenges:
                names = ", ".join(printable(c.scheme, 20) for c in challenges)
                self.problem = f"of the ways to log in that it offers ({names}) none is supported"
                self.unsupported = True
            return False

    def offer(self) -> bool:
        """Whether a login might help where nobody was asked for one; True once at most.

        Some registries say to who is not logged in that there is nothing (404), or no access (403), and offer a login
        only at ``/v2/``.
        """
        with self._lock:
            if self._offered or self._token.authorization or self.problem:
                return False
            self._offered = True
            return self._credentials.has(self.registry.netloc, self._user)

    def _basic(self) -> bool:
        credential = self._look_up(self.registry.netloc)
        if credential is None:
            return False
        self._token, self._good = Token(_basic(credential), credential, _FOREVER), False
        return True

    def _renew_bearer(self, challenges: Sequence[Challenge]) -> bool:
        self._challenge, self._realm = self._first_allowed(challenges)
        if self._token.authorization and not self._good:
            return self._go_without()  # a new token of the same kind would be rejected as well
        self._fetch()
        return bool(self._token.authorization)

    def _first_allowed(self, challenges: Sequence[Challenge]) -> tuple[Challenge, str]:
        refused = ""
        for challenge in challenges:
            realm = challenge.params.get("realm", "")
            try:
                url = self._reach.absolute_realm(realm)
                self._reach.realm(url)
            except RefusedTarget as error:
                refused = refused or f"'{printable(shown(realm), 100)}': {error}"
            else:
                return challenge, url
        raise AccessDenied(
            f"{self.registry.netloc} names a place to log in that is refused: {refused}",
            hint="The registry is hostile, or does not know its own address. Nothing was sent to that place. "
            "If the site trusts it, name it in trusted_hosts.",
        )

    def _go_without(self) -> bool:
        if self._without or self._token.credential is None or not self._challenge.scheme:
            return False
        self.problem = f"{self.registry.netloc} refuses what {self.source} logs in to"
        self._without = True
        self._fetch()
        return bool(self._token.authorization)

    def _fetch(self) -> None:
        """Get a token from the realm of the last challenge: with credentials if there are, else without."""
        realm = self._reach.realm(self._realm)
        if not self._without and (credential := self._choose(realm)):
            if credential.kind == "registry":
                self._token, self._good = Token(f"Bearer {credential.secret.reveal()}", credential, _FOREVER), False
                return
            answer = self._request(credential)
            if answer.status not in _DENIED:
                self._token, self._good = _read_token(answer, realm, credential), False
                return
            said = _said(answer, credential)
            self.problem = f"{realm.netloc} rejects the credentials of {credential.source}{said}"
            self._without = True
        answer = self._request(None)
        if answer.status in _DENIED:
            if not self.problem and (said := _said(answer, None)):
                self.problem = f"{realm.netloc}, where to log in, gives no token{said}"
            self._token, self._good = _NOTHING, False
        else:
            self._token, self._good = _read_token(answer, realm, None), False

    def _request(self, credential: Credential | None) -> TokenAnswer:
        parts = urlsplit(self._realm)
        service = self._challenge.params.get("service", "")
        fields = {"service": service, "scope": self._scope}
        identity = credential is not None and credential.kind == "identity"
        if credential and identity:
            form = {"grant_type": "refresh_token", **fields, "refresh_token": credential.secret.reveal()}
            answer = self._post(parts, form)
            if answer.status not in _NOT_THIS_WAY:
                return answer
        query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k.lower() not in _NOT_OURS]
        query += [(key, value) for key, value in fields.items() if value]
        if credential and not identity:
            query.append(("account", credential.login))
        url = urlunsplit(parts._replace(query=urlencode(query, errors="surrogateescape"), fragment=""))
        answer = self._ask(url, _basic(credential) if credential else "", None)
        if credential and not identity and answer.status in _NOT_THIS_WAY:
            # Services of OAuth2 alone know no GET (distribution's docs/spec/auth/oauth.md).
            form = {"username": credential.login, "password": credential.secret.reveal()}
            posted = self._post(parts, {"grant_type": "password", **fields, **form})
            answer = answer if posted.status in _NOT_THIS_WAY else posted
        return answer

    def _post(self, parts: SplitResult, form: Mapping[str, str]) -> TokenAnswer:
        query = [(k, v) for k, v in parse_qsl(parts.query, keep_blank_values=True) if k.lower() not in _NOT_OURS]
        url = urlunsplit(parts._replace(query=urlencode(query), fragment=""))
        return self._ask(url, "", urlencode({**form, "client_id": _CLIENT_ID}, errors="surrogateescape").encode())

    def _choose(self, realm: Origin) -> Credential | None:
        """The credentials that *realm* may get, by the table above."""
        registry = self.registry
        if realm.host == registry.host or _SERVICES.get(realm.host) == registry.host:
            return self._look_up(realm.netloc, exact=True) or self._look_up(registry.netloc)
        if same_owner(realm.host, registry.host):
            return self._look_up(registry.netloc)
        mine = self._credentials.has(registry.netloc, self._user, exact=True)
        theirs = self._credentials.has(realm.netloc, self._user, exact=True)
        if mine and theirs:
            one, other = (self._look_up(name, exact=True) for name in (registry.netloc, realm.netloc))
            if one and other and one[:2] == other[:2]:  # whoever wrote both lines knows that they belong together
                return other
        if mine or theirs or self._credentials.has(registry.netloc, self._user):
            self.machine = realm.netloc if mine else registry.netloc
            self.problem = (
                f"no credentials were sent to {realm.netloc}, where {registry.netloc} wants logins: another owner"
            )
            self._warn(
                f"{registry.netloc} wants logins to be sent to {realm.netloc}, which may be another owner: asking "
                "without credentials. If both are one, say so by a line for each with the same login and password: "
                f"machine {registry.netloc} ... and machine {realm.netloc} ..."
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


def _basic(credential: Credential) -> str:
    pair = f"{credential.login}:{credential.secret.reveal()}"
    return "Basic " + base64.b64encode(pair.encode("utf-8", "surrogateescape")).decode("ascii")


def _read_token(answer: TokenAnswer, realm: Origin, credential: Credential | None) -> Token:
    if answer.status != 200:
        raise AccessDenied(f"{realm.netloc}, where to log in, answers {answer.status}{_said(answer, credential)}")
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
    return Token(f"Bearer {token}", credential, time.monotonic() + 0.9 * lifetime)


def _said(answer: TokenAnswer, credential: Credential | None) -> str:
    """The token service's own words, in brackets; a secret that it repeats is not."""
    text = words_of(answer.body).text
    secret = credential.secret.reveal() if credential else ""
    if secret and credential:
        for each in (_basic(credential).partition(" ")[2], secret, printable(secret, 1000)):
            text = text.replace(each, "***")
    return f" ({text})" if text else ""
