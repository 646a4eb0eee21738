"""Origins of URLs, and which ones a registry may send us to.

A registry names other hosts twice: the realm (where to log in) and redirects (where a blob is).  A hostile one names
what it can't reach itself: the loopback interface, a cloud's metadata service, a neighbour (oras-go CVE-2026-48978,
distribution CVE-2026-33540).  These rules look at names and literals; `transport` looks at the connected address too.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import urlsplit

from enroot_slurm.errors import printable

__all__ = ["Origin", "RefusedTarget", "check_realm", "check_redirect", "forbidden_address", "same_site"]

_PORTS = {"http": 80, "https": 443}
_METADATA_NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "metadata.tencentyun.com", "instance-data"}
_METADATA = {"100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"}
# Where two labels are a public suffix, three are a registrable domain.  A wrong guess costs a line in the file.
_SECOND_LEVEL = {"ac", "co", "com", "edu", "gob", "gov", "gouv", "mil", "ne", "net", "or", "org"}
_SHARED = {  # registrable by anyone, one label deeper (from publicsuffix.org, private section)
    "amazonaws.com", "azurecr.io", "azurewebsites.net", "cloudapp.net", "cloudfront.net", "duckdns.org", "fly.dev",
    "github.io", "gitlab.io", "herokuapp.com", "ngrok.io", "ngrok-free.app", "nip.io", "pages.dev", "run.app",
    "sslip.io", "vercel.app", "web.app", "windows.net", "workers.dev", "appspot.com", "jfrog.io", "pkg.dev",
}  # fmt: skip


class RefusedTarget(ValueError):
    """A URL that a registry must not send us to; the message is the reason."""


class Origin(NamedTuple):
    """Scheme, host and port: what credentials are bound to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """The origin of the absolute http or https *url*.

        Raises: RefusedTarget, also for what parsers read differently (userinfo, backslashes, control characters).
        """
        if not re.fullmatch(r"[!-~]+", url) or "\\" in url:
            raise RefusedTarget("there are characters in it that a URL can't have")
        try:
            parts = urlsplit(url)
            port = parts.port
            if ":" in (parts.hostname or ""):
                ipaddress.IPv6Address(parts.hostname)  # urlsplit does it since Python 3.11.4
        except ValueError:
            raise RefusedTarget("it is malformed") from None
        if parts.scheme not in _PORTS or not parts.hostname:
            raise RefusedTarget("it is not an absolute http or https URL")
        if "@" in parts.netloc:
            raise RefusedTarget("it holds a login")
        if "%" in parts.netloc:
            raise RefusedTarget("its host is malformed")
        return cls(parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme])

    @property
    def address(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        """The host, if it is an address: in any form that a resolver takes for one."""
        try:
            return _plain(ipaddress.ip_address(self.host))
        except ValueError:
            pass
        if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", self.host.rpartition(".")[2]):
            try:  # 127.1, 2130706433, 0x7f.1
                return ipaddress.IPv4Address(socket.inet_aton(self.host))
            except OSError:
                return None
        return None

    @property
    def loopback(self) -> bool:
        """Whether this names the own machine."""
        address = self.address
        return address.is_loopback if address else self.host == "localhost" or self.host.endswith(".localhost")

    @property
    def netloc(self) -> str:
        """``HOST[:PORT]``, as in a reference; without the scheme's usual port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{printable(self.netloc)}"


def forbidden_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> str:
    """Why nobody may send us to *address*, or empty: link-local ones, multicast, a cloud's metadata service."""
    address = _plain(address)
    if str(address) in _METADATA or str(address) == "169.254.169.254":
        return "a cloud's metadata service is there"
    if address.is_link_local or address.is_multicast or address.is_unspecified:
        return "it is a link-local or otherwise special address"
    return ""


def check_realm(url: str, registry: Origin) -> Origin:
    """The origin of *url*, where *registry* says to log in.

    Raises: RefusedTarget.
    """
    realm = Origin.of(url)
    _check(realm, registry)
    address = realm.address
    if address and address.is_private and not _beside(realm, registry):
        raise RefusedTarget("it is a private address")
    return realm


def check_redirect(url: str, registry: Origin, *, allow_http: bool) -> Origin:
    """The origin of *url*, to which *registry* or a host behind it redirects.

    Raises: RefusedTarget.
    """
    target = Origin.of(url)
    _check(target, registry, allow_http=allow_http)
    return target


def _check(target: Origin, registry: Origin, *, allow_http: bool = False) -> None:
    if target.scheme == "http" and registry.scheme == "https" and not allow_http:
        raise RefusedTarget("it is not https")
    if target[1:] == registry[1:]:
        return
    address = target.address
    if target.host in _METADATA_NAMES or target.host.startswith("instance-data."):
        raise RefusedTarget("a cloud's metadata service is there")
    if address and (why := forbidden_address(address)):
        raise RefusedTarget(why)
    if target.loopback and not registry.loopback:
        raise RefusedTarget("it is this machine")
    if address is None and re.fullmatch(r"0x[0-9a-f]*|[0-9]+", target.host.rpartition(".")[2]):
        raise RefusedTarget("its host is malformed")


def _beside(realm: Origin, registry: Origin) -> bool:
    return realm[1:] == registry[1:] or (realm.loopback and registry.loopback)


def same_site(one: str, other: str) -> bool:
    """Whether two host names have one owner: the same name, or the same registrable domain."""
    return one == other or (_registrable(one) == _registrable(other) != "")


def _registrable(host: str) -> str:
    labels = host.split(".")
    if len(labels) < 2 or ":" in host or labels[-1].isdecimal():
        return ""
    deep = ".".join(labels[-2:]) in _SHARED or (len(labels[-1]) == 2 and labels[-2] in _SECOND_LEVEL)
    if deep and (len(labels) < 3 or ".".join(labels[-2:]) in _SHARED):
        # Below a shared suffix there may be regions and accounts: only the very same host is surely the same owner.
        return ""
    return ".".join(labels[-3:] if deep else labels[-2:])


def _plain(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """*address* without an IPv6 wrapper around an IPv4 address."""
    if isinstance(address, ipaddress.IPv6Address):
        return address.ipv4_mapped or address
    return address
