"""Why a request got no answer: the errors that requests and urllib3 wrap, in words that name their cause."""

from __future__ import annotations

import errno
import http.client
import re
import socket
import ssl

import requests
import urllib3

from enroot_slurm.errors import AccessDenied, EnrootSlurmError, NetworkError, printable
from enroot_slurm.registry.connection import KeptConnectionClosed
from enroot_slurm.registry.origin import Origin, RefusedTarget
from enroot_slurm.registry.retry import RETRIED, Passing
from enroot_slurm.registry.tls import describe_failure

__all__ = ["failure_of", "is_kept_connection", "proxy_refusal"]

_UNREACHABLE = {errno.EHOSTUNREACH, errno.ENETUNREACH, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EHOSTDOWN}
_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3}) ?(.{0,200})", re.DOTALL)
_TLS_ERRORS = (ssl.SSLError, urllib3.exceptions.SSLError)
_NO_CONNECTION = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)
_VARIABLES = "https_proxy, http_proxy and no_proxy"


def is_kept_connection(error: BaseException) -> bool:
    """Whether *error* says no more than that a kept connection had been closed meanwhile."""
    return any(isinstance(cause, KeptConnectionClosed) for cause in _causes(error))


def failure_of(error: BaseException, url: str, proxy: str = "") -> EnrootSlurmError:  # noqa: PLR0911 - a table, in order
    """The cause of *error*, which a request to *url* (through *proxy*, HOST:PORT) raised.

    Its own text may hold a proxy's password and is not used.
    """
    host = Origin.of(url).netloc
    causes = _causes(error)
    if refused := next((c for c in causes if isinstance(c, RefusedTarget)), None):
        return AccessDenied(
            f"{host} is refused: {refused}",
            hint="If the site has a registry or a store there, name it in trusted_hosts.",
        )
    if proxy and (told := _of_proxy(causes, host, proxy)):
        return told
    where = f"{host} (through the proxy {proxy})" if proxy else host
    if tls := next((c for kind in _TLS_ERRORS for c in causes if isinstance(c, kind)), None):
        message, hint, passing = describe_failure(tls)
        return (Passing if passing else NetworkError)(f"{where}: {message}", hint=hint)
    before = any(isinstance(c, _NO_CONNECTION) for c in causes)
    if away := next((c for c in causes if isinstance(c, OSError) and c.errno in _UNREACHABLE), None):
        return Passing(f"{where}: {printable(str(away.strerror))}", before=before)
    if name := next((c for c in causes if isinstance(c, socket.gaierror)), None):
        if name.errno == socket.EAI_AGAIN:
            return Passing(f"{where}: the DNS does not answer", before=True)
        return NetworkError(
            f"{where}: the host name is not known", hint="Check the registry's name, or this node's DNS."
        )
    for kinds, words, hint in _PASSING:
        if cause := next((c for c in causes if isinstance(c, kinds)), None):
            text = words or getattr(cause, "strerror", "") or "the connection broke"
            return Passing(f"{where}: {printable(text)}", hint=hint, before=before)
    return NetworkError(f"{where}: {type(error).__name__}")


_Kinds = tuple[type[BaseException], ...]
_PASSING: tuple[tuple[_Kinds, str, str], ...] = (
    # kinds of errors (the first that fits counts), what to say, what to do
    ((ConnectionRefusedError,), "the connection was refused", "Check the registry's name and port."),
    (
        (urllib3.exceptions.ConnectTimeoutError,),
        "no connection in time",
        "A firewall may be in between: does this node need https_proxy?",
    ),
    ((urllib3.exceptions.ReadTimeoutError, TimeoutError), "it stopped to answer", ""),
    ((urllib3.exceptions.ProtocolError, http.client.HTTPException, OSError), "", ""),
)


def proxy_refusal(status: int, words: str, host: str, proxy: str) -> NetworkError:
    """The error for a *status* with which *proxy* itself refuses to pass a request on to *host*."""
    said = f" ({words})" if words else ""
    if status == 407:
        return NetworkError(
            f"the proxy {proxy} wants a login before it leads to {host}{said}",
            hint="Write the login into https_proxy (and http_proxy): http://USER:PASSWORD@HOST:PORT.",
        )
    text = f"the proxy {proxy} does not lead to {host}: it answers {status}{said}"
    if status in RETRIED:
        return Passing(text, hint=f"See {_VARIABLES}.", before=True)
    return NetworkError(
        text,
        hint=f"Ask the proxy's administrator to allow it. If no proxy is needed, name the host in no_proxy ({proxy}).",
    )


def _of_proxy(causes: list[BaseException], host: str, proxy: str) -> NetworkError | None:  # noqa: PLR0911 - likewise
    """The error, if it is the proxy's."""
    hint = f"See {_VARIABLES}."
    if tunnel := next((m for c in causes if isinstance(c, OSError) and (m := _TUNNEL.match(str(c)))), None):
        return proxy_refusal(int(tunnel[1]), printable(tunnel[2].strip(), 100), host, proxy)
    if any(isinstance(c, requests.exceptions.InvalidSchema) for c in causes):
        return NetworkError(
            f"the proxy {proxy} speaks SOCKS, for which a part is missing",
            hint="Packages and the archive of enroot-slurm have PySocks: install them again. "
            "Where pip has installed it: pip install 'enroot-slurm[socks]'.",
        )
    if socks := [c for c in causes if type(c).__module__ == "socks"]:
        return _of_socks(socks, host, proxy)
    if any(isinstance(c, socket.gaierror) for c in causes):
        return NetworkError(f"the proxy {proxy}, on the way to {host}, is not known to the DNS", hint=hint)
    if any(isinstance(c, ConnectionRefusedError) for c in causes):
        return Passing(f"the proxy {proxy}, on the way to {host}, refuses connections", hint=hint, before=True)
    if any(isinstance(c, _NO_CONNECTION) for c in causes):
        return Passing(f"the proxy {proxy}, on the way to {host}, can't be reached", hint=hint, before=True)
    if any(isinstance(c, urllib3.exceptions.ProxyError) for c in causes) and not any(
        isinstance(c, _TLS_ERRORS) for c in causes
    ):
        return Passing(f"the proxy {proxy} breaks the connection to {host}", hint=hint, before=True)
    return None


def _of_socks(errors: list[BaseException], host: str, proxy: str) -> NetworkError:
    kinds, hint = {type(e).__name__ for e in errors}, f"See {_VARIABLES}."
    if any(isinstance(getattr(e, "socket_err", None), socket.gaierror) for e in errors):
        return NetworkError(f"{host} or the proxy {proxy} is not known to the DNS", hint=hint)
    if "ProxyConnectionError" in kinds:
        return Passing(f"the proxy {proxy}, on the way to {host}, can't be reached", hint=hint, before=True)
    if "SOCKS5AuthError" in kinds:
        return NetworkError(
            f"the proxy {proxy} (SOCKS) refuses the login",
            hint="Write the login into all_proxy or https_proxy: socks5h://USER:PASSWORD@HOST:PORT.",
        )
    # PySocks' own words, such as "0x02: Connection not allowed by ruleset": the login is not in them
    words = printable(str(getattr(errors[-1], "msg", "")), 100)
    return Passing(f"the proxy {proxy} (SOCKS) does not lead to {host}: {words}", hint=hint, before=True)


def _causes(error: BaseException) -> list[BaseException]:
    """*error* and all that it wraps, through the ways in which requests and urllib3 wrap."""
    found: list[BaseException] = []
    queue: list[object] = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            queue += [
                getattr(item, "reason", None),
                getattr(item, "socket_err", None),
                *item.args,
                item.__cause__,
                item.__context__,
            ]
    return found
