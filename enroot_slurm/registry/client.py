"""The registry: a reference becomes a manifest, a descriptor becomes bytes (OCI distribution-spec 1.1, "Pull").

Nothing here trusts a header about content: manifests are hashed as received, blobs are counted, and whoever takes a
blob hashes it.
"""

from __future__ import annotations

import re
import threading
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from enroot_slurm.errors import (
    IntegrityError,
    InvalidReference,
    NetworkError,
    printable,
)
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import MAX_CONFIG, ImageConfig
from enroot_slurm.oci.manifest import ACCEPT, MAX_DOCUMENT, parse_document
from enroot_slurm.oci.selection import select
from enroot_slurm.registry import refusals
from enroot_slurm.registry.auth import MAX_ANSWER, Answer, Login
from enroot_slurm.registry.download import Download
from enroot_slurm.registry.origin import Origin, RefusedTarget
from enroot_slurm.registry.retry import RETRIED, Passing, Retries
from enroot_slurm.registry.transport import Http, Response, Transport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enroot_slurm.errors import EnrootSlurmError
    from enroot_slurm.oci.manifest import Descriptor, Index, Manifest
    from enroot_slurm.oci.platform import Platform
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.registry.credentials import Credentials

__all__ = ["Access", "Repository", "Transport"]

_T = TypeVar("_T")
_ACCEPT = {"Accept": ", ".join(ACCEPT)}
_MAX_LOGINS = 5  # requests until it is well: without a token, an expired, a new, a wider one, without credentials


class Access(NamedTuple):
    """What a registry said to the credentials that there are for it."""

    source: str
    """FILE:LINE of the credentials that were tried, or empty."""
    name: str
    """The login name in them."""
    used: bool
    """Whether they were accepted."""
    problem: str
    """What became of them otherwise; or empty."""
    unasked: str
    """FILE:LINE of credentials that the registry did not ask for, or empty."""
    certificate: bool
    """Whether a client certificate was shown."""
    date: str
    """The registry's clock: the header Date, or empty."""


class Repository:
    """One repository of a registry, for pulling.  Several threads may use it; close it, or use it in a ``with``."""

    def __init__(
        self,
        reference: Reference,
        credentials: Credentials,
        transport: Transport,
        *,
        warn: Callable[[str], None],
    ) -> None:
        insecure = transport.allow_http or reference.registry in transport.insecure_registries
        self._reference = reference
        self._transport = transport
        self._base = f"{'http' if insecure else 'https'}://{reference.registry}/v2/{reference.repository}"
        try:
            self._http = Http(Origin.of(self._base), transport)
        except RefusedTarget as error:  # brackets without an IPv6 address in them
            raise InvalidReference(f"not a registry: {reference.registry!r}: {error}") from None
        self._login = Login(
            self._http.registry, reference.repository, reference.user, credentials, ask=self._ask, warn=warn
        )
        self._credentials = credentials
        self._warn = warn
        self._warned: set[str] = set()
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._http.close()

    @property
    def anonymous(self) -> bool:
        """True while every answer came without credentials: then the image is anyone's to see."""
        return self._login.anonymous and not self._http.client_certificate

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
                content = self._small_blob(manifest.config)
                config = ImageConfig.parse(content)
                keep(content)
            return config.platform

        reference, digest = self._reference, digest or self._reference.digest
        first = read(digest) if digest else fetch(reference.target, None)
        return select(first, platform, read, f"{reference.familiar_name}:{reference.tag}", platform_of=platform_of)

    def head(self) -> Digest | None:
        """The digest of what the reference's tag names now, by one HEAD request; None where the registry tells none.

        It is what the registry claims, so it may only serve to find what was verified before.  A refusal is no error
        here: `resolve` asks again by GET, whose answer says why.

        Raises: NetworkError.
        """

        def ask() -> Digest | None:
            with self._get(f"/manifests/{self._reference.target}", _ACCEPT, "HEAD") as response:
                if response.status in RETRIED:
                    raise self._refusal(response, "")
                stated = response.headers.get("Docker-Content-Digest", "") if response.status == 200 else ""
            try:
                return Digest.parse(stated)
            except IntegrityError:
                return None

        return self._retried(ask)

    def check(self) -> Access:
        """Ask for nothing but whether we are let in: to the repository or, if that is empty, to the registry.

        Raises: NotFound, AccessDenied, NetworkError.
        """
        path = "/tags/list?n=1" if self._reference.repository else ""

        def ask() -> Mapping[str, str]:
            with self._get(path, {"Accept": "application/json"}) as response:
                if response.status != 200:
                    raise self._refusal(response, "")
                self._refuse_page(response.headers.get("Content-Type", ""))
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

        def ask(headers: Mapping[str, str]) -> Response:
            response = self._get(f"/blobs/{descriptor.digest}", headers)
            if response.status in {200, 206, 416}:
                return response
            if response.redirected and response.status in {401, 403, 410}:
                raise Passing(f"the link that {self._reference.registry} gave has expired")
            raise self._refusal(response, f"blob {descriptor.digest}")

        transfer = Download(descriptor, self._transport, self._warn)
        while not transfer.complete:
            yield from transfer.attempt(ask)

    def _small_blob(self, descriptor: Descriptor) -> bytes:
        """The image config that *descriptor* names, verified."""
        if descriptor.size > MAX_CONFIG:
            raise IntegrityError(f"the image config has {descriptor.size} bytes; {MAX_CONFIG} are the most")
        content = b"".join(self.blob(descriptor))
        _verify(content, descriptor.digest)
        return content

    def _document(self, target: str, digest: Digest | None) -> tuple[bytes, str]:
        """The manifest or index that *target*, a tag or the *digest*, names, and its Content-Type."""

        def read() -> tuple[bytes, str]:
            with self._get(f"/manifests/{target}", _ACCEPT) as response:
                if response.status != 200:
                    raise self._refusal(response, "")
                return response.read(MAX_DOCUMENT), response.headers.get("Content-Type", "")

        content, content_type = self._retried(read)
        if digest:
            _verify(content, digest)
        else:
            self._refuse_page(content_type)
        return content, content_type

    def _refuse_page(self, content_type: str) -> None:
        if content_type.startswith("text/html"):
            raise NetworkError(
                f"{self._reference.registry} answers with a web page",
                hint="Check the registry's name; a proxy or a login page may be in between.",
            )

    def _get(self, path: str, headers: Mapping[str, str], method: str = "GET") -> Response:
        """The answer to a GET (or HEAD) of *path*, after logging in where that is asked for."""
        for _ in range(_MAX_LOGINS):
            authorization = self._login.authorization()
            response = self._http.get(self._base + path, headers, authorization, method=method)
            self._show_warnings(response)
            if response.status not in {401, 403} or response.redirected:
                if response.status < 400:
                    self._login.accepted(authorization)
                return response
            response.error_body()
            wanted = response.header_lines("WWW-Authenticate")
            if not self._login.renew(authorization, wanted, forbidden=response.status == 403):
                return response
        return response

    def _ask(self, url: str, authorization: str, form: bytes | None) -> Answer:
        """What the token service at *url* answers (auth.Ask)."""

        def ask() -> Answer:
            if form is None:
                response = self._http.get(url, {"Accept": "application/json"}, authorization)
            else:
                kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"}
                response = self._http.send("POST", url, kind, body=form)
            with response:
                if response.status in RETRIED:
                    raise refusals.passing(response, Origin.of(url).netloc)
                return Answer(response.status, response.headers, response.read(MAX_ANSWER))

        return self._retried(ask)

    def _retried(self, call: Callable[[], _T]) -> _T:
        retries = Retries(self._transport.retries, self._transport.backoff, self._warn)
        while True:
            try:
                return call()
            except Passing as error:
                retries.wait(error)

    def _refusal(self, response: Response, blob: str) -> EnrootSlurmError:
        return refusals.refusal(response, self._reference, blob, self._login, self._credentials.name)

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
