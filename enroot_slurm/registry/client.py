"""The registry: a reference becomes a manifest, a descriptor becomes bytes (OCI distribution-spec 1.1, "Pull").

Nothing here trusts a header about content: manifests are hashed as received, blobs are counted, and the caller hashes
them.
"""

from __future__ import annotations

import re
import threading
from functools import partial
from typing import TYPE_CHECKING, Self, TypeVar
from urllib.parse import urlsplit

from enroot_slurm.errors import (
    AccessDenied,
    IntegrityError,
    InvalidReference,
    NetworkError,
    NotFound,
    RateLimited,
    printable,
)
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import MAX_CONFIG, ImageConfig
from enroot_slurm.oci.manifest import ACCEPT, MAX_DOCUMENT, OCI_INDEX, Descriptor, parse_document
from enroot_slurm.oci.selection import select
from enroot_slurm.registry import referrers, refusals
from enroot_slurm.registry.access import Access
from enroot_slurm.registry.auth import MAX_ANSWER, Answer, Login
from enroot_slurm.registry.connections import Connections
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.download import Download
from enroot_slurm.registry.origin import Origin, RefusedTarget
from enroot_slurm.registry.ranges import Requests, Streams, read_blob
from enroot_slurm.registry.retry import RETRIED, Passing, Retries, TooMany
from enroot_slurm.registry.transport import Http, Response, Transport
from enroot_slurm.registry.words import words_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enroot_slurm.errors import EnrootSlurmError
    from enroot_slurm.oci.manifest import Index, Manifest
    from enroot_slurm.oci.platform import Platform
    from enroot_slurm.oci.reference import Reference

__all__ = ["Repository", "Transport"]

_T = TypeVar("_T")
_ACCEPT = {"Accept": ", ".join(ACCEPT)}
_MAX_LOGINS = 6  # requests until it is well: without a token, an expired, a new one, without credentials, elsewhere
_ELSEWHERE = re.compile(r"/v2/([a-z0-9._/-]{1,255})/(?:manifests|blobs)/[^/]+", re.ASCII)


class Repository:
    """One repository of a registry, for pulling.  Several threads may use it; close it, or use it in a ``with``."""

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials,
        transport: Transport,
        *,
        warn: Callable[[str], None],
        connections: Connections | None = None,
    ) -> None:
        insecure = transport.allow_http or reference.registry in transport.insecure_registries
        self._reference = reference
        self._transport = transport
        self._base = f"{'http' if insecure else 'https'}://{reference.registry}/v2/{reference.repository}"
        try:
            registry = Origin.of(self._base)
        except RefusedTarget as error:  # brackets without an IPv6 address in them
            raise InvalidReference(f"not a registry: {reference.registry!r}: {error}") from None
        self._own = connections is None
        self._connections = connections = connections or Connections()
        self._http = connections.http(registry, partial(Http, registry, transport))
        self._http.restart()
        self._credentials = credentials
        self._warn = warn
        self._logins: dict[tuple[Origin, str], Login] = {}
        self._login = self._login_of(self._http.registry, reference.repository, reference.user)
        self._retries = Retries(transport.retries, transport.backoff, warn, self._http.deadline)
        self._warned: set[str] = set()
        self._lock = threading.Lock()
        self._streams = Streams(transport, registry, connections)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, but for those that are shared."""
        if self._own:
            self._connections.close()

    @property
    def anonymous(self) -> bool:
        """True while every answer came without credentials: then the image is anyone's to see."""
        return all(login.anonymous for login in self._logins.values()) and not self._http.client_certificate

    def resolve(
        self,
        platform: Platform,
        digest: Digest | None = None,
        *,
        known: Callable[[Digest], Manifest | Index | None] = lambda _: None,
        known_config: Callable[[Digest], ImageConfig | None] = lambda _: None,
        keep: Callable[[bytes], None] = lambda _: None,
    ) -> Manifest:
        """The manifest for *platform* that *digest* names, or is in the index that it names.

        digest        by default what the reference names
        known         documents that need not be asked for
        known_config  likewise image configs, which are asked for where an index does not state platforms
        keep          is given each document that was received and verified

        Raises: NotFound, PlatformNotFound, AccessDenied, NetworkError, IntegrityError.
        """

        def read(wanted: Digest) -> Manifest | Index:
            return known(wanted) or fetch(str(wanted), wanted)

        def fetch(target: str, wanted: Digest | None) -> Manifest | Index:
            content, content_type = self._document(target, wanted)
            document = parse_document(content, content_type)
            keep(content)
            return document

        def platform_of(manifest: Manifest) -> Platform | None:
            config = known_config(manifest.config.digest)
            if config is None:
                content = self._config(manifest.config)
                config = ImageConfig.parse(content)
                keep(content)
            return config.platform

        reference, digest = self._reference, digest or self._reference.digest
        first = read(digest) if digest else fetch(reference.target, None)
        return select(first, platform, read, f"{reference.familiar_name}:{reference.tag}", platform_of=platform_of)

    def head(self) -> Digest | None:
        """The digest of what the reference's tag names now, by one HEAD request; None where the registry tells none.

        It is what the registry claims, so it may only serve to find what was verified before.  It only saves work:
        where HEAD fails in any way, `resolve` asks again by GET, whose answer says why.

        Raises: RateLimited, when the registry asks to wait longer than we may; NetworkError, when it can't be reached.
        """
        while True:
            try:
                with self._get(f"/manifests/{self._reference.target}", _ACCEPT, "HEAD") as response:
                    if response.status == 429:
                        raise self._refusal(response, "")
                    stated = response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""
                    response.error_body()  # there is none; read to its end, the connection serves the next request
                return Digest.parse(stated)
            except Passing as error:
                if not error.before and not isinstance(error, TooMany):
                    return None
                self._retries.wait(error)
            except RateLimited:
                raise
            except (AccessDenied, IntegrityError, NetworkError):
                return None

    def check(self) -> Access:
        """Ask for nothing but whether we are let in: to the repository or, if that is empty, to the registry.

        Raises: NotFound, AccessDenied, NetworkError.
        """
        path = "/tags/list?n=1" if self._reference.repository else ""

        def ask() -> Mapping[str, str]:
            with self._get(path, {"Accept": "application/json"}) as response:
                if response.status != 200:
                    raise self._refusal(response, "")
                self._refuse_page(response)
                return response.headers

        headers = self._retried(ask)
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
            date=headers.get("Date", ""),
        )

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """The bytes of the blob that *descriptor* names: exactly as many as it says, in pieces of up to 1 MiB.

        They are not hashed: that is the business of whoever writes them.

        Raises: NotFound, AccessDenied, NetworkError, IntegrityError, at any piece.
        """

        def answer(headers: Mapping[str, str]) -> Response:
            return self._get(f"/blobs/{descriptor.digest}", headers)

        def accepted(response: Response) -> Response:
            if response.status in {200, 206, 416}:
                self._refuse_page(response, body=True)
                return response
            if response.redirected and response.status in {401, 403, 410}:
                response.error_body()
                raise Passing(f"the link that {self._reference.registry} gave has expired")
            error = self._refusal(response, f"blob {descriptor.digest}")
            error.hint = refusals.foreign_hint(descriptor) or error.hint
            raise error

        retries = partial(Retries, self._transport.retries, self._transport.backoff, self._warn, self._http.deadline)
        transfer = Download(descriptor, self._transport.transfer_timeout, retries())
        yield from read_blob(transfer, Requests(answer, accepted, self._http.get, retries), self._streams)

    def document(self, target: str) -> bytes | None:
        """The manifest or index *target*, a tag or a digest, which it is verified by; None: there is none.

        Raises: AccessDenied, NetworkError, IntegrityError.
        """
        digest = Digest.parse(target) if ":" in target else None
        try:
            return self._document(target, digest)[0]
        except NotFound:
            return None

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """The blob *digest* of *size* bytes, verified.  Raises: as `blob`."""
        content = b"".join(self.blob(Descriptor("", digest, size)))
        _verify(content, digest)
        return content

    def referrers(self, digest: Digest) -> Iterator[bytes]:
        """What refers to *digest*, as pages of an index (`referrers.pages`).  Raises: AccessDenied, NetworkError."""
        return referrers.pages(digest, self._page, self.document, self._base)

    def _page(self, path: str) -> tuple[str, bytes] | None:
        """The answer at *path*, the page that follows it, and None where the registry has no such thing."""

        def read() -> tuple[str, bytes] | None:
            with self._get(path, {"Accept": OCI_INDEX}) as response:
                is_page = response.headers.get("Content-Type", "").startswith("text/html")
                if is_page or (400 <= response.status < 500 and response.status not in {401, 403, 408, 429}):
                    return None
                if response.status != 200:
                    raise self._refusal(response, "")
                return response.headers.get("Link", ""), response.read(MAX_DOCUMENT)

        return self._retried(read)

    def _config(self, descriptor: Descriptor) -> bytes:
        """The image config that *descriptor* names, verified."""
        if descriptor.size > MAX_CONFIG:
            raise IntegrityError(f"the image config has {descriptor.size} bytes; {MAX_CONFIG} are the most")
        return self.small_blob(descriptor.digest, descriptor.size)

    def _document(self, target: str, digest: Digest | None) -> tuple[bytes, str]:
        """The manifest or index that *target*, a tag or the *digest*, names, and its Content-Type."""

        def read() -> tuple[bytes, str]:
            with self._get(f"/manifests/{target}", _ACCEPT) as response:
                if response.status != 200:
                    raise self._refusal(response, "")
                self._refuse_page(response)
                content = response.read(MAX_DOCUMENT)
                if response.headers.get("Content-Encoding"):
                    from enroot_slurm.registry.encoding import decoded  # noqa: PLC0415 - seldom needed

                    content = decoded(content, response.headers, MAX_DOCUMENT)
                return content, response.headers.get("Content-Type", "")

        content, content_type = self._retried(read)
        if digest:
            _verify(content, digest)
        return content, content_type

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
        url, login = self._base + path, self._login
        for _ in range(_MAX_LOGINS):
            authorization = login.authorization()
            response = self._http.get(url, headers, authorization, method=method)
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
        if response.status != 401 or not match:
            return None
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

    def _ask(self, url: str, authorization: str, form: bytes | None) -> Answer:
        """The answer of the token service at *url* (auth.Ask)."""
        try:
            if form is None:
                response = self._http.get(url, {"Accept": "application/json"}, authorization)
            else:
                kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
                response = self._http.send("POST", url, kind, body=form)
            with response:
                if response.status in RETRIED:
                    raise refusals.passing(response, response.host)
                return Answer(response.status, response.headers, response.read(MAX_ANSWER))
        except Passing as error:
            error.before = True  # what it was for was not asked
            raise

    def _retried(self, call: Callable[[], _T]) -> _T:
        while True:
            try:
                return call()
            except Passing as error:
                self._retries.wait(error)

    def _refusal(self, response: Response, blob: str) -> EnrootSlurmError:
        login = response.login or self._login
        return refusals.refusal(response, self._reference, blob, login, self._credentials.name)

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


def _verify(content: bytes, digest: Digest) -> None:
    if (received := Digest.of(content, digest.algorithm)) != digest:
        raise IntegrityError(
            f"the registry sent {received} for {digest}",
            hint="Bytes were changed on the way or in the registry; a proxy that rewrites answers may do that.",
        )
