"""Which hosts and addresses an answer of a registry may lead to.

A hostile registry names what it can't reach itself: this machine, a cloud's metadata service, a neighbour in the site's
network (oras-go CVE-2026-48978, distribution CVE-2026-33540).  One rule, for realms and redirects, for names and for
addresses, in whatever form they are written:

    the registry's own host, on any port; the address at which it was reached    yes
    what the setting trusted_hosts names                                         yes
    a cloud's metadata service, multicast, no address at all                     no, not even as the registry itself
    link-local addresses                                                         no
    this machine, by any of its addresses                                        if the registry is on it
    private and other addresses that are not of the Internet                     if the registry has such a one
    all others                                                                   yes

Names are judged by the addresses that they lead to, where a connection is about to be made.
"""

from __future__ import annotations

import ipaddress
import re
import socket
from typing import TYPE_CHECKING

from enroot_slurm.registry.origin import Address, Origin, RefusedTarget, followed, plain

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Reach", "trusted_form"]

_METADATA_NAMES = {"metadata", "metadata.google.internal", "metadata.goog", "metadata.tencentyun.com", "instance-data"}
_METADATA = {
    ipaddress.ip_address(text)
    for text in ("169.254.169.254", "100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254")
}
_HOST = re.compile(r"(?:\*\.)?[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,250}[A-Za-z0-9_])?", re.ASCII)
_LOOPBACK = ipaddress.IPv4Address("127.0.0.1")


class Reach:
    """Hosts and addresses that a *registry* may lead to; *trusted* are HOST, ``*.DOMAIN``, ADDRESS or ADDRESS/BITS."""

    def __init__(self, registry: Origin, trusted: Sequence[str] = ()) -> None:
        self._registry = registry
        self._peers = frozenset({registry.address} if registry.address else ())
        self._networks = [network for network in map(_network, trusted) if network]
        self._names = [name for name in trusted if not _network(name)]

    def reached(self, address: Address) -> None:
        """Note that the registry's own host was reached at *address*."""
        self._peers |= {plain(address)}  # a new set: another thread may be looking through the old one

    def realm(self, url: str) -> Origin:
        """The origin of *url*, where the registry says to log in.

        Raises: RefusedTarget.
        """
        return self.target(url, allow_http=False)

    def target(self, url: str, *, allow_http: bool) -> Origin:
        """The origin of *url*, to which the registry, or a host behind it, leads.

        Raises: RefusedTarget.
        """
        target = Origin.of(url)
        if target.scheme == "http" and self._registry.scheme == "https" and not allow_http:
            raise RefusedTarget("it is not https")
        if self._own(target.host) or self._trusted_name(target.host):
            return target
        if target.host in _METADATA_NAMES or target.host.startswith("instance-data."):
            raise RefusedTarget("a cloud's metadata service is there")
        local = target.host == "localhost" or target.host.endswith(".localhost")
        address = _LOOPBACK if local else target.address
        if address and (why := self.refusal(target.host, address)):
            raise RefusedTarget(why)
        if address is None and re.fullmatch(r"0x[0-9a-f]*|[0-9]+", target.host.rpartition(".")[2]):
            raise RefusedTarget("its host is malformed")
        return target

    def absolute_realm(self, realm: str) -> str:
        """*realm* as an absolute URL; a relative one is the registry's own.

        Raises: RefusedTarget.
        """
        if not realm:
            raise RefusedTarget("there is none")
        return followed(f"{self._registry}/v2/", realm)

    def refusal(self, host: str, address: Address) -> str:  # noqa: PLR0911 - the table above, in order
        """Why *address*, which *host* leads to, is not to be connected to; or empty."""
        address = plain(address)
        if self._trusted_name(host) or any(address in network for network in self._networks):
            return ""
        if address in _METADATA:
            return "a cloud's metadata service is there"
        if address.is_multicast or address.is_unspecified:
            return "it is a special address, where no registry can be"
        if self._own(host) or address in self._peers:
            return ""
        if address.is_link_local:
            return "it is a link-local address"
        if _is_own(address):
            return "" if any(_is_own(peer) for peer in self._peers) else "it is this machine"
        if not address.is_global and all(peer.is_global and not _is_own(peer) for peer in self._peers):
            return "it is a private address"
        return ""

    def _own(self, host: str) -> bool:
        return host.rstrip(".") == self._registry.host

    def _trusted_name(self, host: str) -> bool:
        host = host.rstrip(".")
        return any(host.endswith(name[1:]) if name.startswith("*.") else host == name for name in self._names)


def _is_own(address: Address) -> bool:
    """Whether *address* is one of this machine's: only those can be bound to."""
    if address.is_loopback:
        return True
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    try:
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            probe.bind((str(address), 0))
    except OSError:
        return False
    return True


def trusted_form(text: str) -> str:
    """*text*, of the setting trusted_hosts, in the form that `Reach` takes.

    Raises: ValueError.
    """
    if network := _network(text):
        return str(network)
    if not _HOST.fullmatch(text) or re.fullmatch(r"[0-9.]+", text):
        raise ValueError(text)
    return text.lower()


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    try:
        return ipaddress.ip_network(text.strip("[]"), strict=False)
    except ValueError:
        return None
