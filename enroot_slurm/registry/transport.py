"""HTTP as a registry needs it: one pool of connections a host, raw bytes, errors in our words.

This module sets up requests, and turns off these habits of it: reading ``~/.netrc`` and replacing the Authorization
header by it (psf/requests#3929), CA bundles from the environment (#6342), following redirects with credentials,
decoding bodies (which breaks digests), keeping cookies.
"""

from __future__ import annotations

import ssl
import threading
import time
from http.cookiejar import DefaultCookiePolicy
from typing import TYPE_CHECKING, Any, NamedTuple

import requests
import urllib3
from requests.adapters import HTTPAdapter
from requests.utils import DEFAULT_CA_BUNDLE_PATH

from enroot_slurm.errors import AccessDenied, NetworkError
from enroot_slurm.registry.connection import POOLS, Surroundings, pool_classes
from enroot_slurm.registry.origin import Origin, RefusedTarget, followed, shown
from enroot_slurm.registry.proxies import NO_PROXY, proxy_for
from enroot_slurm.registry.reach import Reach
from enroot_slurm.registry.response import Response, failure
from enroot_slurm.registry.tally import Tally
from enroot_slurm.registry.tls import client_context
from enroot_slurm.registry.watchdog import Watchdog
from enroot_slurm.registry.words import words_of
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


__all__ = ["Http", "Transport"]

_MAX_REDIRECTS = 5
_REDIRECTS = {301, 302, 303, 307, 308}
_SILENTLY = frozenset({"GET", "HEAD"})
"""Methods that are sent again, once for each, over connections that the server had closed meanwhile."""


class Transport(NamedTuple):
    """How registries are reached."""

    connect_timeout: float = 30
    """Seconds for a connection to be made."""
    transfer_timeout: float = 0
    """Seconds for a blob with all its retries; 0: no limit."""
    stall_timeout: float = 60
    """Seconds without a byte, or with fewer than *min_rate* each, after which a connection is given up."""
    min_rate: int = 1024
    """Bytes a second; 0: any."""
    import_timeout: float = 0
    """Seconds for all that is asked for an image; 0: no limit."""
    retries: int = 5
    """Attempts after the first one; for a blob: in a row without progress."""
    max_connections: int = 10
    parallel_ranges: int = 4
    """Connections for one large blob; 0: one, by one request."""
    range_from: int = 64 << 20
    """Bytes from which on a blob is large."""
    range_size: int = 8 << 20
    """Bytes of each part that is asked for."""
    range_fast: float = 200e6
    """Bytes per second from which on one connection is enough."""
    range_waited: float = 0.25
    """Share of the time that was spent waiting for the network; below it, one connection is enough."""
    range_window: float = 0.5
    """Seconds after which, behind the first part, it is looked again at whether one connection is enough."""
    allow_http: bool = False
    """Ask the registry by http://, as ENROOT_ALLOW_HTTP does."""
    insecure_registries: frozenset[str] = frozenset()
    """Registries, as written in references, that are asked by http://."""
    trusted_hosts: tuple[str, ...] = ()
    """Hosts and addresses that registries may lead to, wherever they are: see `enroot_slurm.registry.reach`."""
    ca_file: str = ""
    """CA certificates in place of the system's."""
    verify: bool = True
    """Whether the registry's own certificate is checked."""
    certs_dirs: tuple[Path, ...] = ()
    """Directories with HOST[:PORT]/*.crt, *.cert and *.key."""
    proxies_from_env: bool = True
    backoff: float = 1.0
    """Seconds before the first retry at most; twice as many before each one after it."""


class _Adapter(HTTPAdapter):
    """An adapter whose TLS settings come from one context and nowhere else."""

    def __init__(self, context: ssl.SSLContext | None, size: int, surroundings: Surroundings) -> None:
        self._context = context
        self._surroundings = surroundings
        super().__init__(pool_connections=1, pool_maxsize=size, max_retries=0, pool_block=False)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **kwargs)
        self.poolmanager.pool_classes_by_scheme = pool_classes(POOLS, self._surroundings)

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, ssl_context=self._context, **kwargs)
        if not known:
            manager.pool_classes_by_scheme = pool_classes(manager.pool_classes_by_scheme, self._surroundings)
        return manager

    def cert_verify(self, conn: Any, url: Any, verify: Any, cert: Any) -> None:
        """Nothing: the context does it, and requests would add the bundle of certifi."""


class _Session(requests.Session):
    """A session that does not look at redirects, which `Http.get` follows.

    Even when it is told not to follow them, requests would read the whole body of such an answer, unpack it, and leave
    the connection open if the Location can't be read.
    """

    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: nothing is followed."""


class Http:
    """Requests to one registry and to the hosts that it names.  Safe for several threads."""

    def __init__(self, registry: Origin, transport: Transport, tally: Tally | None = None) -> None:
        self.registry = registry
        self._tally = tally or Tally()
        self.client_certificate = False
        """Whether the registry was shown one: then its answers are not anonymous."""
        self.transport = transport
        self.reach = Reach(registry, transport.trusted_hosts)
        self.watchdog = Watchdog()
        self.deadline = float("inf")
        """By time.monotonic: when all requests have to be done."""
        self.restart()
        self._sessions: dict[Origin, requests.Session] = {}
        self._lock = threading.Lock()
        self._agent = f"enroot-slurm/{__version__}"

    def restart(self) -> None:
        """Let the time of an import begin now."""
        limit = self.transport.import_timeout
        self.deadline = time.monotonic() + limit if limit else float("inf")

    def close(self) -> None:
        """Close all connections."""
        with self._lock:
            for session in self._sessions.values():
                session.close()
            self._sessions.clear()
        self.watchdog.close()

    def time_left(self, seconds: float | None) -> float | None:
        """*seconds*, or fewer when the deadline is nearer; None is no limit.

        Raises: NetworkError when the deadline is over.
        """
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise NetworkError(
                f"{self.registry.netloc}: not all came within {self.transport.import_timeout:g} s",
                hint="The setting import_timeout says how long an image may take; 0 is for ever.",
            )
        return min(seconds or left, left) if left != float("inf") else seconds

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
            try:
                url = followed(url, location)
                target = self.reach.target(url, allow_http=self.transport.allow_http)
            except RefusedTarget as error:
                raise AccessDenied(
                    f"{origin} redirects to {shown(url)}, which is refused: {error}",
                    hint="The registry, or the store behind it, is set up wrongly or hostile. "
                    "If the site trusts that host, name it in trusted_hosts.",
                ) from None
            if target != origin:
                authorization, left = "", True
            origin = target
        raise NetworkError(f"{self.registry} redirects more than {_MAX_REDIRECTS} times")

    def prepare(self, url: str) -> None:
        """Make what requests to the host of *url* need, but for a connection."""
        self._session(Origin.of(url))

    def send(
        self, method: str, url: str, headers: Mapping[str, str], authorization: str = "", body: bytes | None = None
    ) -> Response:
        """The answer to one request; redirects are not followed.

        Raises: Passing or NetworkError.
        """
        fixed = {"User-Agent": self._agent, "Accept-Encoding": "identity"}
        if authorization:
            fixed["Authorization"] = authorization
        origin = Origin.of(url)
        session = self._session(origin)
        proxy = proxy_for(url) if self.transport.proxies_from_env else NO_PROXY
        stall = self.transport.stall_timeout or None
        if self.transport.transfer_timeout:
            stall = min(stall or self.transport.transfer_timeout, self.transport.transfer_timeout)
        kept = self.transport.max_connections if method in _SILENTLY else 0
        while True:
            try:
                response = session.request(
                    method,
                    url,
                    headers={**headers, **fixed},
                    data=body,
                    auth=_leave_alone,
                    proxies={"http": proxy.url, "https": proxy.url} if proxy.url else {},
                    timeout=(self.time_left(self.transport.connect_timeout or None), self.time_left(stall)),
                    allow_redirects=False,
                    stream=True,
                    verify=self.transport.verify or not self._is_own(origin),
                )
            except (
                requests.RequestException,
                urllib3.exceptions.HTTPError,
                RefusedTarget,
                OSError,
                ValueError,
            ) as error:
                if kept and _was_kept(error):
                    kept -= 1  # each of those that are kept may have been closed
                    continue
                self._tally.answered(self.registry.netloc, 0)
                raise failure(error, url, proxy.name) from None
            answer = Response(
                response,
                proxy,
                stall,
                min_rate=self.transport.min_rate,
                watchdog=self.watchdog,
                time_left=self.time_left,
            )
            self._tally.answered(self.registry.netloc, answer.status)
            if answer.status == 407 and proxy.url:
                from enroot_slurm.registry.causes import proxy_refusal  # noqa: PLC0415 - of failures alone

                raise proxy_refusal(407, words_of(answer.error_body()).text, answer.host, proxy.name)
            return answer

    def _is_own(self, origin: Origin) -> bool:
        return origin[1:] == self.registry[1:]

    def _session(self, origin: Origin) -> requests.Session:
        with self._lock:
            if origin not in self._sessions:
                context, certificate = None, False
                if origin.scheme == "https":
                    context, certificate = client_context(
                        origin, self.transport.ca_file, self.transport.certs_dirs, DEFAULT_CA_BUNDLE_PATH
                    )
                own = self._is_own(origin)
                if context and own and not self.transport.verify:
                    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
                    urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)
                self.client_certificate |= certificate and own
                session = _Session()
                session.trust_env = False
                session.headers.clear()
                session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
                surroundings = Surroundings(self.reach, self.watchdog, own)
                session.mount(f"{origin.scheme}://", _Adapter(context, self.transport.max_connections, surroundings))
                self._sessions[origin] = session
            return self._sessions[origin]


def _leave_alone(request: requests.PreparedRequest) -> requests.PreparedRequest:
    """Requests' hook for authentication; with one given, it looks for no other."""
    return request


def _was_kept(error: BaseException) -> bool:
    """Whether *error* says no more than that a kept connection had been closed meanwhile."""
    from enroot_slurm.registry.causes import is_kept_connection  # noqa: PLC0415 - of failures alone

    return is_kept_connection(error)
