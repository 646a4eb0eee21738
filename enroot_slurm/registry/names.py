"""The names that one registry goes by in files of logins."""

from __future__ import annotations

from enroot_slurm.oci.reference import DOCKER_HUB, DOCKER_HUB_NAMES

__all__ = ["HUB_KEY", "aliases", "one_name", "without_port"]

HUB_KEY = "https://index.docker.io/v1/"
"""Docker Hub, as Docker's own files and helpers call it."""
_HUB = DOCKER_HUB_NAMES | {"auth.docker.io"}


def one_name(host: str) -> str:
    """*host* in lower case; Docker Hub's names, and that of its token service, are one."""
    host = host.lower()
    return DOCKER_HUB if host in _HUB else host


def aliases(host: str) -> list[str]:
    """All names of *host* that a key can be, the usual one first."""
    name = one_name(host)
    return ["docker.io", *sorted(_HUB - {"docker.io"})] if name == DOCKER_HUB else [name]


def without_port(host: str) -> str:
    """*host* (``HOST[:PORT]``) without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host.partition("]")[0].lstrip("[")
    bare, _, port = host.rpartition(":")
    return bare if port.isdecimal() and host.count(":") == 1 else host
