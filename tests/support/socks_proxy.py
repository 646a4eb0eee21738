"""A SOCKS 5 proxy (RFC 1928, RFC 1929), for the time of a ``with`` block."""

from __future__ import annotations

import socket
import struct
import threading
from contextlib import closing, suppress
from socketserver import StreamRequestHandler, ThreadingTCPServer
from typing import Any, Self

__all__ = ["SocksProxy"]


class SocksProxy:
    """A proxy on 127.0.0.1.

    login   USER:PASSWORD that it wants, or empty
    answer  the reply code to all requests, instead of a connection (2: not allowed by the ruleset)
    """

    def __init__(self, login: str = "", answer: int = 0) -> None:
        self.names: list[str] = []
        """Hosts that it was asked for, as they were written."""
        self._server = _Server(("127.0.0.1", 0), _handler(self, login, answer))
        self.host = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are nobody's concern."""


def _handler(proxy: SocksProxy, login: str, answer: int) -> type[StreamRequestHandler]:
    class Handler(StreamRequestHandler):
        def handle(self) -> None:
            _, count = self.rfile.read(2)
            methods = self.rfile.read(count)
            if login and 2 not in methods:
                self.wfile.write(b"\x05\xff")
                return
            self.wfile.write(b"\x05\x02" if login else b"\x05\x00")
            if login and not self._logged_in():
                return
            kind = self.rfile.read(4)[3]
            size = {1: 4, 4: 16}.get(kind) or self.rfile.read(1)[0]
            raw = self.rfile.read(size)
            (port,) = struct.unpack("!H", self.rfile.read(2))
            family = {1: socket.AF_INET, 4: socket.AF_INET6}.get(kind)
            name = socket.inet_ntop(family, raw) if family else raw.decode()
            proxy.names.append(name)
            self.wfile.write(bytes([5, answer, 0, 1, 0, 0, 0, 0, 0, 0]))
            if not answer:
                with closing(socket.create_connection(("127.0.0.1", port))) as other:
                    back = threading.Thread(target=_copy, args=(other, self.connection), daemon=True)
                    back.start()
                    _copy(self.connection, other)
                    back.join()

        def _logged_in(self) -> bool:
            user = self.rfile.read(self.rfile.read(2)[1]).decode()
            password = self.rfile.read(self.rfile.read(1)[0]).decode()
            good = f"{user}:{password}" == login
            self.wfile.write(b"\x01\x00" if good else b"\x01\x01")
            return good

    return Handler


def _copy(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
        other.shutdown(socket.SHUT_WR)
