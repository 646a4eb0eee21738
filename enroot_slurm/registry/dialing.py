"""A connection to the first address of a host that answers (RFC 8305, "Happy Eyeballs").

A node whose IPv6 leads nowhere would wait for each address in turn, a whole time limit long, and say nothing.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import selectors
import socket
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from enroot_slurm.registry.origin import Address, RefusedTarget

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["dial"]

_NEXT = 0.25
"""Seconds after which the next address is tried beside those that have not answered (RFC 8305, 5)."""

_Info = tuple[int, int, int, str, tuple[Any, ...]]
_worked: dict[str, int] = {}
"""The family of the address that answered last, by host: the next connection begins with it."""


def dial(
    host: str,
    port: int,
    timeout: float | None,
    refusal: Callable[[Address], str],
    options: Sequence[tuple[int, int, int | bytes]] = (),
) -> socket.socket:
    """A socket, with the *timeout*, that is connected to *host*.

    *refusal* says why an address may not be connected to, or nothing; such addresses are left out.

    Raises: RefusedTarget when none is left; TimeoutError; OSError: of the first address that failed.
    """
    infos: Sequence[_Info] = socket.getaddrinfo(host.strip("[]"), port, 0, socket.SOCK_STREAM)
    refused, wanted = "", list[_Info]()
    for info in infos:
        if why := refusal(address_of(info[4])):
            refused = refused or why
        else:
            wanted.append(info)
    if refused and not wanted:
        raise RefusedTarget(refused)
    sock = _first(_mixed(wanted, _worked.get(host)), timeout, options)
    _worked[host] = sock.family
    sock.settimeout(timeout)
    return sock


def address_of(name: tuple[Any, ...]) -> Address:
    """The address in a socket's *name*."""
    return ipaddress.ip_address(str(name[0]).partition("%")[0])


def _mixed(infos: Sequence[_Info], first: int | None) -> list[_Info]:
    """*infos* with the two families by turns, beginning with *first*, or with whose comes first."""
    first = infos[0][0] if infos and first not in {i[0] for i in infos} else first
    one, other = [i for i in infos if i[0] == first], [i for i in infos if i[0] != first]
    shorter = min(len(one), len(other))
    pairs = [info for pair in zip(one, other, strict=False) for info in pair]
    return pairs + one[shorter:] + other[shorter:]


def _first(infos: list[_Info], timeout: float | None, options: Sequence[tuple[int, int, int | bytes]]) -> socket.socket:
    deadline = time.monotonic() + timeout if timeout else None
    failure: OSError | None = None
    left = list(infos)
    with selectors.DefaultSelector() as selector:
        try:
            while left or selector.get_map():
                if left:
                    try:
                        selector.register(_begin(left.pop(0), options), selectors.EVENT_WRITE)
                    except OSError as error:
                        failure = failure or error
                        continue
                remaining = None if deadline is None else deadline - time.monotonic()
                if remaining is not None and remaining <= 0:
                    raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))
                wait = min(w for w in (remaining, _NEXT if left else None, 3600.0) if w is not None)
                for key, _ in selector.select(wait):
                    sock = key.fileobj
                    assert isinstance(sock, socket.socket)
                    selector.unregister(sock)
                    if not (code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
                        return sock
                    sock.close()
                    failure = failure or OSError(code, os.strerror(code))
            raise failure or OSError(errno.EADDRNOTAVAIL, os.strerror(errno.EADDRNOTAVAIL))
        finally:
            for key in list(selector.get_map().values()):
                assert isinstance(key.fileobj, socket.socket)
                key.fileobj.close()


def _begin(info: _Info, options: Sequence[tuple[int, int, int | bytes]]) -> socket.socket:
    sock = socket.socket(*info[:3])
    try:
        for option in options:
            with suppress(OSError):
                sock.setsockopt(*option)
        sock.setblocking(False)
        with suppress(BlockingIOError):  # as it should be
            sock.connect(info[4])
    except BaseException:
        sock.close()
        raise
    return sock
