"""Names of images in full, and the prefixes that lists and tables of registries are written with.

    name    = host [ ":" port ] "/" repository ( ":" tag / "@" digest )       docker.io/library/busybox:1.37
    prefix  = host [ ":" port ] [ "/" path ] [ ":" tag / "@" digest ] / "*." domain

A prefix ends where a part of the name does: ``docker.io/nvidia`` covers ``docker.io/nvidia/cuda``, and not
``docker.io/nvidiaa/x``.  A host without a port covers no other port than that of https, which names the same registry.
``*.example.com`` covers all hosts below that domain, on any port, and not ``example.com`` itself.

Source: containers-registries.conf(5), which lets a host cover its other ports as well.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from enroot_slurm.oci.reference import DOCKER_HUB_NAMES

if TYPE_CHECKING:
    from enroot_slurm.oci.reference import Reference

__all__ = ["HUB", "covered", "covers", "full_name", "host_name", "longest", "prefix_form"]

HUB = "docker.io"
"""Docker Hub's host in names and prefixes."""
_MAX = 512
_COMPONENT = r"[A-Za-z0-9](?:[A-Za-z0-9_-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?"
_PATH = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_PREFIX = re.compile(
    rf"({_HOST})((?:/{_PATH})*)((?::\w[\w.-]{{0,127}})?(?:@sha(?:256|512):[0-9a-f]{{64,128}})?)", re.ASCII
)
_PORT_OF_HTTPS = re.compile(r":0*443", re.ASCII)
_DOMAIN = re.compile(rf"\*\.{_COMPONENT}(?:\.{_COMPONENT})*", re.ASCII)


def full_name(reference: Reference) -> str:
    """The name of *reference*; where there is a digest, it is what counts, and the tag is left out."""
    host = host_name(reference.registry)
    end = f"@{reference.digest}" if reference.digest else f":{reference.tag}"
    return f"{host}/{reference.repository}{end}"


def host_name(registry: str) -> str:
    """The one spelling of *registry* that rules are written for: without the port of https, and one of Docker Hub's."""
    host, colon, port = registry.rpartition(":")
    if not (host and _PORT_OF_HTTPS.fullmatch(colon + port)):
        host = registry
    return HUB if host in DOCKER_HUB_NAMES else host


def prefix_form(text: str, *, domains: bool = True) -> str:
    """The prefix *text*, with its host in lower case and Docker Hub's names as one; *domains*: whether ``*.`` may be.

    Raises: ValueError, with the reason.
    """
    if len(text) > _MAX:
        raise ValueError(f"longer than {_MAX} characters")
    if "://" in text:
        raise ValueError("it has a scheme: write HOST[:PORT][/PATH] alone")
    text = text.rstrip("/")
    if text.startswith("*") or "*" in text:
        if not domains:
            raise ValueError("a '*' can't be here")
        if not _DOMAIN.fullmatch(text):
            raise ValueError("a '*' can only stand for the first parts of a host: *.DOMAIN, without port and path")
        return text.lower()
    match = _PREFIX.fullmatch(text)
    if not match or (match[3] and not match[2]):
        raise ValueError("not HOST[:PORT][/PATH]")
    host = match[1].lower()
    port = re.search(r":(\d+)$", host)
    if port and not 0 < int(port[1]) < 65536:
        raise ValueError("a port is a number from 1 to 65535")
    return (HUB if host in DOCKER_HUB_NAMES else host) + match[2] + match[3]


def covers(prefix: str, name: str) -> bool:
    """Whether *prefix* (in the form of `prefix_form`) covers *name* (in that of `full_name`)."""
    return covered(prefix, name) > 0


def covered(prefix: str, name: str) -> int:
    """How many characters of *name* the *prefix* stands for; 0: it does not cover it."""
    host = name.partition("/")[0]
    prefix = _plain(prefix)
    if prefix.startswith("*."):
        bare = re.sub(r":\d+$", "", host)
        return len(bare) if bare.endswith(prefix[1:]) and len(bare) >= len(prefix) else 0
    if "/" not in prefix:
        return len(host) if host == prefix else 0
    ends = name.startswith(prefix) and name[len(prefix) : len(prefix) + 1] in {"", "/", ":", "@"}
    return len(prefix) if ends else 0


def longest(prefixes: list[str], name: str) -> str | None:
    """The longest one of *prefixes* that covers *name*; a host goes before a domain that is as long."""
    found = [each for each in prefixes if covers(each, name)]
    return max(found, key=lambda each: (len(_plain(each)), each[:1] != "*"), default=None)


def _plain(prefix: str) -> str:
    """*prefix* with its host as in `full_name`."""
    registry, slash, path = prefix.partition("/")
    return host_name(registry) + slash + path
