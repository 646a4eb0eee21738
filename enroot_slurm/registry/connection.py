"""Connections that reach no address that is nobody's business, and wait for the head of an answer no longer than that.

A host that is ``foreign``, which an answer has named and not the user, may not be this machine either.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

from enroot_slurm.registry.origin import RefusedTarget, forbidden_address

if TYPE_CHECKING:
    from collections.abc import Iterator

    from urllib3.response import HTTPResponse

__all__ = ["ForeignHttpPool", "ForeignHttpsPool", "HttpPool", "HttpsPool", "Vetted"]

_HEAD = 1.5  # times the timeout of a connection that the head of an answer may take


class Vetted:
    """A connection that is closed again, before a request is sent, when it has reached a special address.

    Checked where the bytes go and not in the DNS, whose next answer may differ.
    """

    sock: socket.socket | None
    timeout: float | None
    own_machine = True

    def vet(self) -> None:
        """Raise RefusedTarget when the peer is nobody's business."""
        name: tuple[Any, ...] = self.sock.getpeername() if self.sock else ()
        if len(name) < 2:
            return
        address = ipaddress.ip_address(str(name[0]).partition("%")[0])
        why = forbidden_address(address)
        if not self.own_machine and address.is_loopback:
            why = "it is this machine"
        if why and self.sock:
            self.sock.close()
            raise RefusedTarget(why)

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Break the connection when this takes too long: its timeout is for each byte, and a head may come in bytes."""
        sock = self.sock
        timeout = self.timeout
        if sock is None or not timeout:
            yield
            return
        timer = threading.Timer(_HEAD * timeout, _break, [sock])
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()


def _break(sock: socket.socket) -> None:
    with suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)  # a TLS socket's own would disturb who reads


class _Http(HTTPConnection, Vetted):
    def connect(self) -> None:
        super().connect()
        self.vet()

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        with self.hurried():
            return super().getresponse()


class _Https(HTTPSConnection, Vetted):
    def connect(self) -> None:
        super().connect()
        self.vet()

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]  # as in urllib3
        with self.hurried():
            return super().getresponse()


class _ForeignHttp(_Http):
    own_machine = False


class _ForeignHttps(_Https):
    own_machine = False


class HttpPool(HTTPConnectionPool):
    """Of connections to a host that the user has named."""

    ConnectionCls = _Http


class HttpsPool(HTTPSConnectionPool):
    """Of connections to a host that the user has named."""

    ConnectionCls = _Https


class ForeignHttpPool(HTTPConnectionPool):
    """Of connections to a host that an answer has named."""

    ConnectionCls = _ForeignHttp


class ForeignHttpsPool(HTTPSConnectionPool):
    """Of connections to a host that an answer has named."""

    ConnectionCls = _ForeignHttps
