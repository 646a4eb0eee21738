"""An answer of a registry whose body is still to be read: as it was sent, and not slower than is allowed."""

from __future__ import annotations

import fcntl
import sys
import termios
import time
from typing import TYPE_CHECKING, Self

import urllib3

from enroot_slurm.errors import EnrootSlurmError, NetworkError
from enroot_slurm.registry.origin import Origin
from enroot_slurm.registry.retry import Passing

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator, Mapping

    import requests

    from enroot_slurm.registry.auth import Login
    from enroot_slurm.registry.proxies import Proxy
    from enroot_slurm.registry.watchdog import Watchdog

__all__ = ["Response", "failure"]

_MAX_ERROR = 64 << 10
_CHUNK = 256 << 10  # bytes: a connection that waits for its next piece holds so many
_RECORD = 32 << 10  # bytes: more than a record of TLS has (RFC 8446, 5.2), which is read as a whole
_BODY = 1.5  # times the stall timeout that one read of a body may take


class Response:
    """An answer whose body is still to be read, as it was sent; use it as a context manager."""

    def __init__(
        self,
        response: requests.Response,
        proxy: Proxy,
        stall: float | None,
        *,
        min_rate: int,
        watchdog: Watchdog,
        time_left: Callable[[float | None], float | None],
    ) -> None:
        self._response = response
        self._stall = stall
        self._min_rate = min_rate
        self._watchdog = watchdog
        self._time_left = time_left
        self.url: str = response.url
        self.host = Origin.of(response.url).netloc
        """Whose answer it is."""
        self.proxy = proxy.name
        """HOST:PORT through which it came, or empty."""
        self.status = response.status_code
        self.headers: Mapping[str, str] = response.headers
        self.redirected = False
        """Whether another host than the one that was asked has answered."""
        self.login: Login | None = None
        """The login with which it was asked for, for who explains a refusal."""
        self.waited = 0.0
        """Seconds for which the body was not there yet when it was read: those of the network, not of a busy node."""
        self._error_body: bytes | None = None
        self._first: bytes | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._response.close()

    def header_lines(self, name: str) -> list[str]:
        """The values of all headers called *name*, which may occur more than once."""
        return list(self._response.raw.headers.getlist(name))

    def chunks(self, wanted: int = _CHUNK) -> Iterator[bytes]:
        """The body, in pieces of up to 512 KiB, and but for the last of at least *wanted* bytes.

        Raises: Passing, after all bytes that had come were yielded.
        """
        waiting: list[bytes] = []
        wrong: EnrootSlurmError | None = None
        more, held = True, 0
        seconds, came = 0.0, 0  # of waiting, without what whoever takes the pieces needs for them
        while more:
            began = time.monotonic()
            data, wrong = self._piece(_CHUNK)
            seconds, came = seconds + time.monotonic() - began, came + len(data)
            if self._stall and seconds >= self._stall and not wrong:
                if data and came < self._min_rate * seconds:
                    wrong = Passing(f"{self.host}: slower than {self._min_rate} bytes a second")
                seconds, came = 0.0, 0
            more = bool(data) and not wrong
            waiting.append(data)
            held += len(data)
            # TLS gives 16 KiB at a time: too little for whoever hashes and writes.
            if not more or held >= wanted:
                if joined := b"".join(waiting):
                    yield joined
                waiting, held = [], 0
        if wrong:
            raise wrong

    def _piece(self, size: int) -> tuple[bytes, EnrootSlurmError | None]:
        """At most *size* bytes of the body (none: it has ended), or why there are no more."""
        if self._first is not None:
            first, self._first = self._first, None
            return first, None
        raw = self._response.raw
        sock = getattr(raw, "read_from", None)
        began = 0.0 if sock is None or _has_sent(sock) else time.monotonic()
        try:
            limit = self._time_left(_BODY * self._stall if self._stall else None)
            with self._watchdog.guard(sock, limit) as guard:
                data = raw.read1(size, decode_content=False)
            if began:
                self.waited += time.monotonic() - began
            if guard and guard.fired:
                self._time_left(None)
                return data, Passing(f"{self.host}: it stopped to answer")
        except NetworkError as error:
            return b"", error
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            return b"", failure(error, self.url)
        return data, None

    def begins_with(self, start: bytes) -> bool:
        """Whether the body begins with *start*, after white space; it can be read from its beginning after this."""
        self._first, wrong = self._piece(_CHUNK)
        if wrong:
            raise wrong
        return self._first.lstrip().startswith(start)

    def read(self, limit: int) -> bytes:
        """The body's first *limit* bytes, and one more if there are more."""
        content = bytearray()
        for chunk in self.chunks(min(_CHUNK, limit + 1)):
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


def _has_sent(sock: socket.socket) -> bool:
    """Whether more than a record of TLS has come from the other end of *sock* and is not read yet (ioctl_tty(2)).

    A read then does not wait.  It may wait for the rest of a record of which only the start has come.
    """
    try:
        count = fcntl.ioctl(sock, termios.FIONREAD, bytes(4))
    except (OSError, ValueError):  # it is closed
        return True
    return int.from_bytes(count, sys.byteorder) >= _RECORD


def failure(error: BaseException, url: str, proxy: str = "") -> EnrootSlurmError:
    """The error for *error*, which came while *url* was asked through *proxy*."""
    from enroot_slurm.registry.causes import failure_of  # noqa: PLC0415 - of failures alone

    return failure_of(error, url, proxy)
