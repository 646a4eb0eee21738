"""HTTP as a registry needs it: one pool of connections a host, raw bytes, errors in our words.

Alone imports requests, and turns off what that does by itself: reading ``~/.netrc`` and replacing the Authorization
header by it (psf/requests#3929), CA bundles from the environment (#6342), following redirects with credentials,
decoding bodies (which breaks digests), keeping cookies.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import threading
import time
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import urljoin

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH, get_environ_proxies

from enroot_slurm.errors import AccessDenied, EnrootSlurmError, NetworkError, printable
from enroot_slurm.registry.connection import ForeignHttpPool, ForeignHttpsPool, HttpPool, HttpsPool
from enroot_slurm.registry.origin import Origin, RefusedTarget, check_redirect
from enroot_slurm.registry.retry import Passing
from enroot_slurm.registry.tls import client_context, describe_failure
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

__all__ = ["Http", "Response", "Transport"]

_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_MAX_ERROR = 64 << 10
_LARGEST = 1 << 20
_CHUNK = 256 << 10
_SLOWEST = 1024  # bytes for each second of a stall timeout, below which a connection is given up


class Transport(NamedTuple):
    """How registries are reached."""

    connect_timeout: float = 30
    """Seconds for a connection to be made."""
    transfer_timeout: float = 0
    """Seconds for a blob with all its retries; 0: no limit."""
    stall_timeout: float = 60
    """Seconds without a byte, or with less than 1 KiB each, after which a connection is given up."""
    retries: int = 5
    """Attempts after the first one; for a blob: in a row without progress."""
    max_connections: int = 10
    allow_http: bool = False
    """Ask the registry by http://, as ENROOT_ALLOW_HTTP does."""
    insecure_registries: frozenset[str] = frozenset()
    """Registries, as written in references, that are asked by http://."""
    ca_file: str = ""
    """CA certificates in place of the system's."""
    certs_dirs: tuple[Path, ...] = ()
    """Directories with HOST[:PORT]/*.crt, *.cert and *.key."""
    proxies_from_env: bool = True
    backoff: float = 1.0
    """Seconds before the first retry at most; twice as many before each one after it."""


class _Adapter(HTTPAdapter):
    """An adapter whose TLS settings come from one context and nowhere else."""

    def __init__(self, context: ssl.SSLContext | None, size: int, *, foreign: bool) -> None:
        self._context = context
        self._foreign = foreign
        super().__init__(pool_connections=1, pool_maxsize=size, max_retries=0, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = {
            "http": ForeignHttpPool if self._foreign else HttpPool,
            "https": ForeignHttpsPool if self._foreign else HttpsPool,
        }

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        return super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the context does it, and requests would add the bundle of certifi."""


class Response:
    """An answer whose body is still to be read, as it was sent; use it as a context manager."""

    def __init__(self, response: requests.Response, *, redirected: bool, stall: float | None = None) -> None:
        self._response = response
        self._stall = stall
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.redirected = redirected
        """Whether another host than the one that was asked has answered."""
        self._error_body: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def header_lines(self, name: str) -> list[str]:
        """The values of all headers called *name*, which may occur more than once."""
        return list(self._response.raw.headers.getlist(name))

    def chunks(self) -> Iterator[bytes]:
        """The body, in pieces of up to 1 MiB.

        Raises: Passing, after all bytes that had come were yielded.
        """
        waiting: list[bytes] = []
        failure: EnrootSlurmError | None = None
        more, held = True, 0
        seconds, came = 0.0, 0  # of waiting, without what whoever takes the pieces needs for them
        while more:
            began = time.monotonic()
            try:
                data = self._response.raw.read1(_LARGEST - held, decode_content=False)
            except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
                data, failure = b"", _failure(error, self._response.url)
            seconds, came = seconds + time.monotonic() - began, came + len(data)
            if self._stall and seconds >= self._stall and not failure:
                if data and came < _SLOWEST * seconds:
                    failure = Passing(f"{Origin.of(self._response.url).netloc}: slower than 1 KiB/s")
                seconds, came = 0.0, 0
            more = bool(data) and not failure
            waiting.append(data)
            held += len(data)
            # TLS gives 16 KiB at a time: too little for whoever hashes and writes.
            if not more or held >= _CHUNK:
                if joined := b"".join(waiting):
                    yield joined
                waiting, held = [], 0
        if failure:
            raise failure

    def read(self, limit: int) -> bytes:
        """The body's first *limit* bytes, and one more if there are more."""
        content = bytearray()
        for chunk in self.chunks():
            content += chunk
            if len(content) > limit:
                break
        return bytes(content[: limit + 1])

    def error_body(self) -> bytes:
        """The start of a body that is an error or of no interest; the connection is free after it."""
        if self._error_body is None:
            try:
                self._error_body = self.read(_MAX_ERROR)
            except NetworkError:
                self._error_body = b""
            self._response.close()
        return self._error_body


class Http:
    """Requests to one registry and to the hosts that it names.  Safe for several threads."""

    def __init__(self, registry: Origin, transport: Transport) -> None:
        self.registry = registry
        self.client_certificate = False
        """Whether the registry was shown one: then its answers are not anonymous."""
        self._transport = transport
        self._sessions: dict[Origin, requests.Session] = {}
        self._lock = threading.Lock()
        self._agent = f"enroot-slurm/{__version__}"

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()

    def get(self, url: str, headers: Mapping[str, str], authorization: str = "", *, method: str = "GET") -> Response:
        """The answer to a GET (or HEAD) of *url* after up to five redirects.

        *authorization* is dropped for good once a redirect leaves the origin.

        Raises: Passing or NetworkError; AccessDenied for a redirect that is refused.
        """
        origin = Origin.of(url)
        left = False
        for _ in range(_MAX_REDIRECTS + 1):
            response = self.send(method, url, headers, authorization)
            response.redirected = left
            location = response.headers.get("Location", "")
            if response.status not in _REDIRECTS or not location:
                return response
            response.error_body()
            url = urljoin(url, location)
            try:
                target = check_redirect(url, self.registry, allow_http=self._transport.allow_http)
            except RefusedTarget as error:
                raise AccessDenied(
                    f"{origin} redirects to {printable(url.partition('?')[0])}, which is refused: {error}",
                    hint="The registry, or the store behind it, is set up wrongly or hostile.",
                ) from None
            if target != origin:
                authorization, left = "", True
            origin = target
        raise NetworkError(f"{self.registry} redirects more than {_MAX_REDIRECTS} times")

    def send(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str = "", body: bytes | None = None
    ) -> Response:
        """The answer to one request; redirects are not followed.

        Raises: Passing or NetworkError.
        """
        fixed = {"User-Agent": self._agent, "Accept-Encoding": "identity"}
        if authorization:
            fixed["Authorization"] = authorization
        session = self._session(Origin.of(url))
        stall = self._transport.stall_timeout or None
        if self._transport.transfer_timeout:
            stall = min(stall or self._transport.transfer_timeout, self._transport.transfer_timeout)
        try:
            response = session.request(
                method,
                url,
                headers={**headers, **fixed},
                data=body,
                auth=_leave_alone,
                proxies=get_environ_proxies(url) if self._transport.proxies_from_env else {},
                timeout=(self._transport.connect_timeout or None, stall),
                allow_redirects=False,
                stream=True,
                verify=True,
            )
        except (requests.RequestException, urllib3.exceptions.HTTPError, RefusedTarget, OSError, ValueError) as error:
            raise _failure(error, url) from None
        return Response(response, redirected=False, stall=stall)

    def _session(self, origin: Origin) -> requests.Session:
        with self._lock:
            if origin not in self._sessions:
                context, certificate = None, False
                if origin.scheme == "https":
                    context, certificate = client_context(
                        origin, self._transport.ca_file, self._transport.certs_dirs, DEFAULT_CA_BUNDLE_PATH
                    )
                own = origin[1:] == self.registry[1:]
                self.client_certificate |= certificate and own
                session = requests.Session()
                session.trust_env = False
                session.headers.clear()
                session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                foreign = not own and not self.registry.loopback
                session.mount(
                    f"{origin.scheme}://", _Adapter(context, self._transport.max_connections, foreign=foreign)
                )
                self._sessions[origin] = session
            return self._sessions[origin]


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Requests' hook for authentication; with one given, it looks for no other."""
    return request


def _causes(error: BaseException) -> list[BaseException]:
    """*error* and all that it wraps, through the ways in which requests and urllib3 wrap."""
    found: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            queue += [getattr(item, "reason", None), *item.args, item.__cause__, item.__context__]
    return found


def _failure(error: BaseException, url: str) -> EnrootSlurmError:
    """What *error*, of a request to *url*, means.  Its own text may hold a proxy's password and is not used."""
    host = Origin.of(url).netloc
    causes = _causes(error)
    if refused := next((c for c in causes if isinstance(c, RefusedTarget)), None):
        return AccessDenied(f"{host} is refused: {refused}")
    if away := next((c for c in causes if isinstance(c, OSError) and c.errno in _UNREACHABLE), None):
        return Passing(f"{host}: {printable(str(away.strerror))}")
    for kinds, words, hint, may_pass in _FAILURES:
        cause = next((c for c in causes if isinstance(c, kinds)), None)
        if cause is not None and isinstance(cause, _TLS_ERRORS):
            message, tls_hint, passing = describe_failure(cause)
            return (Passing if passing else NetworkError)(f"{host}: {message}", hint=tls_hint)
        if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN:
            return Passing(f"{host}: the DNS does not answer")
        if cause is not None:
            text = words or getattr(cause, "strerror", "") or "the connection broke"
            return (Passing if may_pass else NetworkError)(f"{host}: {printable(text)}", hint=hint)
    return NetworkError(f"{host}: {type(error).__name__}")


_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL}
_TLS_ERRORS = (ssl.SSLError, urllib3.exceptions.SSLError)
_Kinds = tuple[type[BaseException], ...]
_FAILURES: tuple[tuple[_Kinds, str, str, bool], ...] = (
    # kinds of errors (the first that fits counts), what to say, what to do, whether it may pass
    (
        (urllib3.exceptions.ProxyError, requests.exceptions.ProxyError),
        "the proxy does not reach it",
        "See https_proxy, http_proxy and no_proxy.",
        True,
    ),
    (_TLS_ERRORS, "", "", False),
    (
        (socket.gaierror, urllib3.exceptions.NameResolutionError),
        "the host name is not known",
        "Check the registry's name, or this node's DNS.",
        False,
    ),
    ((ConnectionRefusedError,), "the connection was refused", "Check the registry's name and port.", True),
    (
        (urllib3.exceptions.ConnectTimeoutError,),
        "no connection in time",
        "A firewall may be in between: does this node need https_proxy?",
        True,
    ),
    ((urllib3.exceptions.ReadTimeoutError, TimeoutError), "it stopped to answer", "", True),
    ((urllib3.exceptions.ProtocolError, http.client.HTTPException, OSError), "", "", True),
)
