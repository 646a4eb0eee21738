"""One registry, asked for one repository: each call is one attempt, with the logins that it takes.

Nothing here trusts a header about content: manifests are hashed as received, and of blobs the caller hashes the bytes.
"""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from enroot_slurm.errors import EnrootSlurmError, IntegrityError, InvalidReference, NetworkError, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import ACCEPT, MAX_DOCUMENT, OCI_INDEX
from enroot_slurm.registry import refusals
from enroot_slurm.registry.access import Access
from enroot_slurm.registry.auth import MAX_ANSWER, Login, TokenAnswer
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.endpoints import Endpoint
from enroot_slurm.registry.limits import HostLimits
from enroot_slurm.registry.origin import Origin, RefusedTarget
from enroot_slurm.registry.ranges import Requests
from enroot_slurm.registry.retry import RETRIED, Passing
from enroot_slurm.registry.transport import Http, Transport
from enroot_slurm.registry.words import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enroot_slurm.oci.manifest import Descriptor
    from enroot_slurm.registry.connections import Connections
    from enroot_slurm.registry.limits import Notes
    from enroot_slurm.registry.response import Response
    from enroot_slurm.registry.retry import Retries

__all__ = ["Server", "verify"]

_ACCEPT = {"Accept": ", ".join(ACCEPT)}
_MAX_LOGINS = 6  # requests until it is well: without a token, an expired, a new one, without credentials, elsewhere
_ELSEWHERE = re.compile(r"/v2/([a-z0-9._/-]{1,255})/(?:manifests|blobs)/[^/]+", re.ASCII)


class Server:
    """The registry of *endpoint*.  Several threads may use it.

    Raises of all that ask: Passing, when asking again may help; NotFound, AccessDenied, NetworkError.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        credentials: Credentials,
        transport: Transport,
        *,
        warn: Callable[[str], None],
        connections: Connections,
        deadline: float,
        notes: Notes,
    ) -> None:
        self.endpoint = endpoint
        self._limits_of = notes, warn, deadline
        self.limits = HostLimits(Endpoint(endpoint.reference._replace(repository="")).name, *self._limits_of)
        self._reference = endpoint.reference
        self._transport = transport
        self._credentials = credentials
        self._warn = warn
        self._connections = connections
        self._deadline = deadline
        self._logins: dict[tuple[Origin, str], Login] = {}
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        reference = endpoint.reference
        plain = transport.allow_http or reference.registry in transport.insecure_registries
        self._open("http" if plain else "https")
        self._unsure = endpoint.insecure and not plain
        """Whether it has to be found out by which scheme it is asked."""

    def _open(self, scheme: str) -> None:
        reference = self._reference
        self.base = f"{scheme}://{reference.registry}/v2/{reference.repository}"
        try:
            registry = Origin.of(self.base)
        except RefusedTarget as error:  # brackets without an IPv6 address in them
            raise InvalidReference(f"not a registry: {reference.registry!r}: {error}") from None
        transport = self._transport
        if self.endpoint.insecure:
            transport = transport._replace(verify=False)
        make = partial(Http, registry, transport, self._connections.tally)
        self._http = self._connections.http(registry, make, verified=transport.verify)
        self._http.deadline = self._deadline
        self._logins.clear()
        self._login = self._login_of(registry, reference.repository, reference.user)

    def _settle(self) -> None:
        """Find out whether an insecure registry speaks https, without a check of its certificate, or only http."""
        with self._lock:
            if not self._unsure:
                return
            try:
                self._http.get(f"{self._login.registry}/v2/", {}).error_body()
            except NetworkError:
                self._open("http")
            self._unsure = False

    @property
    def is_mirror(self) -> bool:
        """Whether it is asked in place of the primary."""
        return self.endpoint.is_mirror

    @property
    def name(self) -> str:
        """The repository there, for people."""
        return self.endpoint.name

    @property
    def anonymous(self) -> bool:
        """True while every answer came without credentials."""
        return all(login.anonymous for login in self._logins.values()) and not self._http.client_certificate

    def head(self) -> Digest | None:
        """The digest of what the tag names now, as the registry claims; None where it tells none."""
        with self._get(f"/manifests/{self._reference.target}", _ACCEPT, "HEAD") as response:
            if response.status == 429:
                raise self._refusal(response, "")
            stated = response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""
            response.error_body()  # there is none; read to its end, the connection serves the next request
        return Digest.parse(stated)

    def document(self, target: str, digest: Digest | None) -> tuple[bytes, str]:
        """The manifest or index that *target*, a tag or the *digest*, names, and its Content-Type.

        Raises: IntegrityError as well.
        """
        with self._get(f"/manifests/{target}", _ACCEPT) as response:
            if response.status != 200:
                raise self._refusal(response, "")
            self._refuse_page(response)
            content = response.read(MAX_DOCUMENT)
            if response.headers.get("Content-Encoding"):
                from enroot_slurm.registry.encoding import decoded  # noqa: PLC0415 - seldom needed

                content = decoded(content, response.headers, MAX_DOCUMENT)
            kind = response.headers.get("Content-Type", "")
        if digest:
            verify(content, digest)
        return content, kind

    def requests(self, descriptor: Descriptor, retries: Callable[..., Retries]) -> Requests:
        """How the blob is asked for, with *retries* at a part of it: none at a mirror, for there are others."""
        return Requests(
            self._http.registry,
            partial(self._get, f"/blobs/{descriptor.digest}"),
            partial(self._accepted, descriptor),
            self._http.get,
            partial(retries, mirror=self.is_mirror),
        )

    def _accepted(self, descriptor: Descriptor, response: Response) -> Response:
        """*response* to a request for the blob, if its status is 200, 206 or 416.  Raises: what it means otherwise."""
        if response.status in {200, 206, 416}:
            self._refuse_page(response, body=True)
            return response
        if response.redirected and response.status in {401, 403, 410}:
            response.error_body()
            raise Passing(f"the link that {self._reference.registry} gave has expired")
        error = self._refusal(response, f"blob {descriptor.digest}")
        error.hint = refusals.foreign_hint(descriptor) or error.hint
        raise error

    def page(self, path: str) -> tuple[str, bytes] | None:
        """The answer at *path*: its header Link, and the content; None where the registry has no such thing."""
        with self._get(path, {"Accept": OCI_INDEX}) as response:
            is_page = response.headers.get("Content-Type", "").startswith("text/html")
            if is_page or (400 <= response.status < 500 and response.status not in {401, 403, 408, 429}):
                return None
            if response.status != 200:
                raise self._refusal(response, "")
            return response.headers.get("Link", ""), response.read(MAX_DOCUMENT)

    def access(self) -> Access:
        """Whether we are let in: to the repository or, if that is empty, to the registry."""
        path = "/tags/list?n=1" if self._reference.repository else ""
        with self._get(path, {"Accept": "application/json"}) as response:
            if response.status != 200:
                raise self._refusal(response, "")
            self._refuse_page(response)
        login = self._login
        return Access(
            login.source,
            login.name,
            used=bool(login.source) and not login.anonymous,
            problem="" if not login.anonymous else login.problem,
            unasked=""
            if login.source or login.problem
            else self._credentials.place(self._http.registry.netloc, self._reference.user),
            certificate=self._http.client_certificate,
            date=response.headers.get("Date", ""),
        )

    def _refuse_page(self, response: Response, *, body: bool = False) -> None:
        """Raise NetworkError for a web page in place of what was asked for; only by its *body* if that may be any."""
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind not in {"text/html", "application/xhtml+xml"} or (body and not response.begins_with(b"<")):
            return
        title = words_of(response.error_body()).text
        raise NetworkError(
            f"{response.host} answers with a web page" + (f" ('{title}')" if title else ""),
            hint="Check the registry's name; a proxy or a login page may be in between.",
        )

    def _get(self, path: str, headers: Mapping[str, str], method: str = "GET") -> Response:
        """The answer to a GET (or HEAD) of *path*, after logging in where that is asked for."""
        if self._unsure:
            self._settle()
        url, login = self._url(path), self._login
        for _ in range(_MAX_LOGINS):
            authorization = login.authorization()
            self._http.prepare(url)  # now: between the look at the limits and the request there is to be little time
            response = self._limited(self.limits, partial(self._http.get, url, headers, authorization, method=method))
            self._show_warnings(response)
            response.login = login
            if response.status < 400:
                login.accepted(authorization)
                return response
            if response.redirected:
                elsewhere = self._elsewhere(response)
                if elsewhere is None:
                    return response
                url, login, authorization = response.url, elsewhere, ""
                response.login = login
            if response.status in {401, 403}:
                response.error_body()
                wanted = response.header_lines("WWW-Authenticate")
                if login.renew(authorization, wanted, forbidden=response.status == 403):
                    continue
            if response.status not in {401, 403, 404} or not login.offer() or not self._offered(login):
                return response
        return response

    def _limited(self, limits: HostLimits, ask: Callable[[], Response]) -> Response:
        """The answer, when the host may be asked; all processes learn whether it says that it was too often."""
        limits.wait(patient=not self.is_mirror)
        try:
            response = ask()
        except EnrootSlurmError:
            limits.failed()
            raise
        if response.status == 429 and not response.redirected:
            limits.refused(refusals.passing(response, response.host))
        else:
            limits.answered(response.headers)
        return response

    def _url(self, path: str) -> str:
        ns = self.endpoint.ns
        return f"{self.base}{path}" + (f"{'&' if '?' in path else '?'}ns={quote(ns, safe='')}" if ns else "")

    def _offered(self, login: Login) -> bool:
        """Whether a login was found by the challenge that the registry makes at ``/v2/``."""
        with self._http.get(f"{login.registry}/v2/", {}) as response:
            response.error_body()
            wanted = response.header_lines("WWW-Authenticate") if response.status == 401 else []
            return bool(wanted) and not response.redirected and login.renew("", wanted)

    def _elsewhere(self, response: Response) -> Login | None:
        """The login at the registry that *response* comes from, to which ours has redirected, if it asks for one.

        Credentials for it are used only for a repository of the name that the user has written: the registry that
        redirects must not choose what is read with them.
        """
        match = _ELSEWHERE.fullmatch(urlsplit(response.url).path)
        if response.status != 401 or not match or self.is_mirror:
            return None  # a mirror that leads elsewhere is one that does not have it
        return self._login_of(Origin.of(response.url), match[1], "")

    def _login_of(self, registry: Origin, repository: str, user: str) -> Login:
        credentials = self._credentials if repository == self._reference.repository else Credentials()
        made = Login(
            registry,
            repository,
            user,
            credentials,
            reach=self._http.reach,
            ask=self._ask,
            warn=self._warn,
            connections=self._connections,
        )
        return self._logins.setdefault((registry, repository), made)

    def _ask(self, url: str, authorization: str, form: bytes | None) -> TokenAnswer:
        """The answer of the token service at *url* (auth.Ask)."""
        try:
            if form is None:
                ask = partial(self._http.get, url, {"Accept": "application/json"}, authorization)
            else:
                kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
                ask = partial(self._http.send, "POST", url, kind, body=form)
            host = Origin.of(url).netloc
            limits = self.limits if host == self.limits.host else HostLimits(host, *self._limits_of)
            with self._limited(limits, ask) as response:
                if response.status in RETRIED:
                    raise refusals.passing(response, response.host)
                return TokenAnswer(response.status, response.headers, response.read(MAX_ANSWER))
        except Passing as error:
            error.before = True  # what it was for was not asked
            raise

    def _refusal(self, response: Response, blob: str) -> EnrootSlurmError:
        login = response.login or self._login
        error = refusals.refusal(response, self._reference, blob, login, self._credentials.name)
        error.add_note(f"status {response.status}")
        return error

    def _show_warnings(self, response: Response) -> None:
        """Pass on what the registry says in Warning headers (RFC 7234, 5.5), once each."""
        for line in response.header_lines("Warning"):
            match = re.match(r'299 \S+ "(.*?)"(?: "[^"]*")?$', line)
            text = f"{self._reference.registry} says: {printable(match[1] if match else line)}"
            with self._lock:
                new = text not in self._warned
                self._warned.add(text)
            if new:
                self._warn(text)


def verify(content: bytes, digest: Digest) -> None:
    """Raises: IntegrityError, when *content* is not what *digest* says."""
    if (received := Digest.of(content, digest.algorithm)) != digest:
        raise IntegrityError(
            f"the registry sent {received} for {digest}",
            hint="Bytes were changed on the way or in the registry; a proxy that rewrites answers may do that.",
        )
