"""Origins of URLs, and the forms of addresses in them.

A registry names other hosts twice: the realm (where to log in) and redirects (where a blob is).  Which ones it may name
is `enroot_slurm.registry.reach`'s business.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import NamedTuple
from urllib.parse import quote, urljoin, urlsplit

from enroot_slurm.errors import printable

__all__ = ["Address", "Origin", "RefusedTarget", "followed", "plain", "same_owner", "shown"]

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_PORTS = {"http": 80, "https": 443}
_PRINTABLE = "".join(map(chr, range(0x21, 0x7F)))
_EMBEDDED = tuple(ipaddress.IPv6Network(n) for n in ("64:ff9b::/96", "64:ff9b:1::/48", "::/96"))
"""Whose last four bytes are an IPv4 address: RFC 6052, RFC 8215 (as far as it is so used), RFC 4291 2.5.5.1."""


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
        if port == 0:
            raise RefusedTarget("its port is 0")
        if parts.scheme not in _PORTS or not parts.hostname:
            raise RefusedTarget("it is not an absolute http or https URL")
        if "@" in parts.netloc:
            raise RefusedTarget("it holds a login")
        if "%" in parts.netloc:
            raise RefusedTarget("its host is malformed")
        return cls(parts.scheme, parts.hostname.rstrip("."), port or _PORTS[parts.scheme])

    @property
    def address(self) -> Address | None:
        """The host, if it is an address: in any form that a resolver takes for one."""
        try:
            return plain(ipaddress.ip_address(self.host))
        except ValueError:
            pass
        if re.fullmatch(r"0x[0-9a-f]*|[0-9]+", self.host.rpartition(".")[2]):
            try:  # 127.1, 2130706433, 0x7f.1
                return ipaddress.IPv4Address(socket.inet_aton(self.host))
            except OSError:
                return None
        return None

    @property
    def netloc(self) -> str:
        """``HOST[:PORT]``, as in a reference; without the scheme's usual port."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{printable(self.netloc)}"


def plain(address: Address) -> Address:
    """*address* without the IPv6 forms that hide an IPv4 one: what is judged is where the bytes may end.

    Those forms: IPv4-mapped, IPv4-compatible, NAT64, 6to4, Teredo, ISATAP.
    """
    if isinstance(address, ipaddress.IPv4Address):
        return address
    number = int(address)
    if number >> 32 == 0 and number <= 1:  # :: and ::1 are themselves
        return address
    if inner := address.ipv4_mapped or address.sixtofour or (address.teredo or (None, None))[1]:
        return inner
    if any(address in network for network in _EMBEDDED) or number >> 32 & 0xFDFFFFFF == 0x5EFE:
        return ipaddress.IPv4Address(number & 0xFFFFFFFF)
    return address


def followed(base: str, location: str) -> str:
    """The absolute URL of *location*, as a header of an answer to *base* has it.

    Blanks and characters beyond ASCII, which should have been encoded, are encoded here (http.client reads bytes as
    Latin-1).  It is not checked.  Raises: RefusedTarget when it can't be read at all.
    """
    raw = location.strip(" \t").encode("latin-1", "surrogatepass" if location.isascii() else "backslashreplace")
    try:
        return urljoin(base, quote(raw, safe=_PRINTABLE))
    except ValueError:
        raise RefusedTarget("it is malformed") from None


def shown(url: str) -> str:
    """*url* for people: without login, query and fragment, which may hold secrets."""
    text = re.split(r"[?#]", url, maxsplit=1)[0]
    before, at, after = text.rpartition("@")
    scheme = re.match(r"[a-z]+://", before, re.IGNORECASE)
    return printable(f"{scheme[0] if scheme else ''}{after}" if at else text)


def same_owner(realm: str, registry: str) -> bool:
    """Whether the host *realm* surely belongs to the owner of the host *registry*: it is that host, or above it.

    The owner of a domain decides about all names in it, so `gitlab.example` may see what is meant for
    `registry.gitlab.example`.  Nothing is concluded from a common suffix: it takes the public suffix list to know where
    owners differ, and no maintained package brings one that stays up to date on a node without a network.
    """
    above = "." in realm and registry.endswith(f".{realm}") and not registry[-1].isdecimal()  # of names, not addresses
    return realm == registry or above
