"""Which proxy a request goes through, by the environment."""

from __future__ import annotations

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from requests.utils import get_environ_proxies, select_proxy

from enroot_slurm.errors import ConfigError, printable

__all__ = ["NO_PROXY", "Proxy", "proxy_for"]

_SCHEMES = {"http", "https", "socks4", "socks4a", "socks5", "socks5h"}


class Proxy(NamedTuple):
    """A proxy's *url*, which may hold a password, and its *name* for people: HOST:PORT."""

    url: str
    name: str


NO_PROXY = Proxy("", "")


def proxy_for(url: str) -> Proxy:
    """The proxy that the environment names for *url* (http_proxy, https_proxy, all_proxy, no_proxy), or `NO_PROXY`.

    Raises: ConfigError when what is there is no proxy's URL; it does not quote what may be a password.
    """
    text = (select_proxy(url, get_environ_proxies(url)) or "").strip()
    if not text:
        return NO_PROXY
    whole = text if re.match(r"[A-Za-z0-9+.-]+://", text) else f"http://{text}"
    try:
        parts = urlsplit(whole)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    scheme, host = parts.scheme.lower(), parts.hostname or ""
    if scheme not in _SCHEMES or port == 0 or not re.fullmatch(r"[A-Za-z0-9._-]+|[0-9A-Fa-f:.]+", host):
        variable = f"{urlsplit(url).scheme}_proxy or all_proxy"
        _, login, place = whole.rpartition("@")
        got = printable(f"{whole.partition('://')[0]}://***@{place}" if login else whole, 80)
        raise ConfigError(
            f"{variable}: expected a proxy's URL, such as http://HOST:PORT, got '{got}'",
            hint="A '@', ':' or '/' in its login or password is written as %40, %3A or %2F.",
        )
    name = f"[{host}]" if ":" in host else host
    return Proxy(whole, f"{name}:{port}" if port else name)
