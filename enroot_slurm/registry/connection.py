"""Connections for urllib3 that refuse special addresses and limit how long response headers may take.

Trailers are limited, too.  `enroot_slurm.registry.reach` says which addresses are refused.
"""

from __future__ import annotations

import http.client
import socket
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING, Any, NamedTuple

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, NameResolutionError, NewConnectionError

from enroot_slurm.registry.dialing import address_of, dial

if TYPE_CHECKING:
    from urllib3.response import HTTPResponse

    from enroot_slurm.registry.origin import Address
    from enroot_slurm.registry.reach import Reach
    from enroot_slurm.registry.watchdog import Watchdog

__all__ = ["POOLS", "KeptConnectionClosed", "Surroundings", "pool_classes"]

_HEAD = 1.5  # times the timeout of a connection that the head of an answer may take
_MAX_TRAILERS = 64 << 10  # bytes
_GONE = (http.client.RemoteDisconnected, ConnectionResetError, BrokenPipeError)


class KeptConnectionClosed(ConnectionError):
    """The server has closed a connection that was kept for the next request, as it may."""


class Surroundings(NamedTuple):
    """Shared by the connections of one session."""

    reach: Reach
    watchdog: Watchdog
    own: bool
    """Whether they lead to the registry's own origin."""


class _Head:
    """A file that remembers whether it ended while lines were read."""

    def __init__(self, file: Any) -> None:
        self.file = file
        self.ended = False

    def readline(self, limit: int) -> bytes:
        line: bytes = self.file.readline(limit)
        self.ended |= not line.endswith(b"\n") and len(line) < limit
        return line

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


class _Answer(http.client.HTTPResponse):
    """An answer whose head is whole, and whose trailers end."""

    def begin(self) -> None:
        file = self.fp
        head: Any = _Head(file)
        self.fp = head
        super().begin()
        if head.ended:
            self.close()
            raise http.client.IncompleteRead(b"")
        if self.fp is not None:
            self.fp = file

    def _read_and_discard_trailer(self) -> None:
        left = _MAX_TRAILERS
        while (line := self.fp.readline(left + 1)) not in {b"\r\n", b"\n", b""}:
            left -= len(line)
            if left < 0:
                raise http.client.LineTooLong("trailers")


class _Watched:
    """The common part of connections by http and https, with and without a proxy."""

    response_class = _Answer
    surroundings: Surroundings
    sock: socket.socket | None
    timeout: float | None
    answers = 0
    """How many came over this connection."""

    connecting: ExitStack
    """The making of a connection: a proxy's tunnel and the TLS handshake, which a peer could drag out."""

    def connect(self) -> None:
        self.answers = 0
        with ExitStack() as self.connecting:
            super().connect()  # type: ignore[misc]  # of HTTPConnection

    def request(self, *arguments: Any, **more: Any) -> None:
        try:
            super().request(*arguments, **more)  # type: ignore[misc]
        except _GONE as error:
            if self.answers:
                raise KeptConnectionClosed from error
            raise

    def getresponse(self) -> HTTPResponse:
        sock, seconds = self.sock, _HEAD * self.timeout if self.timeout else None
        with self.surroundings.watchdog.guard(sock, seconds) as guard:
            try:
                response: HTTPResponse = super().getresponse()  # type: ignore[misc]
            except (*_GONE, http.client.HTTPException) as error:
                if guard and guard.fired:
                    raise TimeoutError from error
                if self.answers and isinstance(error, _GONE):
                    raise KeptConnectionClosed from error
                raise
        self.answers += 1
        response.read_from = sock  # type: ignore[attr-defined]  # for who watches over the body
        return response


class _Dialed(_Watched):
    """A connection that is made here, and not by a library for SOCKS."""

    _dns_host: str
    host: str
    port: int
    proxy: Any
    socket_options: Any

    def _new_conn(self) -> socket.socket:
        try:
            sock = dial(self._dns_host, self.port, self.timeout, self._refusal, self.socket_options or ())
        except socket.gaierror as error:
            raise NameResolutionError(self.host, self, error) from error  # type: ignore[arg-type]
        except TimeoutError as error:
            raise ConnectTimeoutError(self, "no connection in time") from error
        except OSError as error:
            raise NewConnectionError(self, "no connection") from error  # type: ignore[arg-type]
        twin = self.connecting.enter_context(closing(sock.dup()))  # TLS takes the socket itself away
        seconds = _HEAD * self.timeout if self.timeout else None
        self.connecting.enter_context(self.surroundings.watchdog.guard(twin, seconds))
        if self.surroundings.own and not self.proxy:
            self.surroundings.reach.reached(address_of(sock.getpeername()))
        return sock

    def _refusal(self, address: Address) -> str:
        # A proxy is the site's choice, and what it may reach is the proxy's business.
        return "" if self.proxy else self.surroundings.reach.refusal(self._dns_host, address)


POOLS = {"http": HTTPConnectionPool, "https": HTTPSConnectionPool}


def pool_classes(pools: dict[str, Any], surroundings: Surroundings) -> dict[str, Any]:
    """*pools* (classes by scheme: urllib3's, or those for SOCKS) whose connections know their *surroundings*."""
    made = {}
    for scheme, pool in pools.items():
        plain = pool.ConnectionCls in {HTTPConnection, HTTPSConnection}
        bases = (_Dialed if plain else _Watched, pool.ConnectionCls)
        connection = type(f"Watched{pool.ConnectionCls.__name__}", bases, {"surroundings": surroundings})
        made[scheme] = type(f"Watched{pool.__name__}", (pool,), {"ConnectionCls": connection})
    return made
