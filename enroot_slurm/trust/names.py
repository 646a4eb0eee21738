"""Names of images as policies and signatures spell them: in full, ``docker.io/library/busybox:latest``.

    name    = host [ ":" port ] "/" repository
    image   = name [ ":" tag ] [ "@" digest ]

A short name (``busybox``, ``ns/app``) is one on Docker Hub, as Docker reads it: the first component is a host if it
has a dot or a colon, or is ``localhost``.

Source: distribution/reference, normalize.go.
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.oci.local import LocalImage
from enroot_slurm.oci.names import host_name
from enroot_slurm.oci.reference import DOCKER_HUB, DOCKER_HUB_NAMES

if TYPE_CHECKING:
    from enroot_slurm.oci.reference import Reference

__all__ = ["ArchiveName", "ImageName", "name_of", "path_scopes"]

_HUB = "docker.io"
_COMPONENT = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[0-9a-fA-F:]+\])(?::[0-9]+)?"
_PATH = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = rf"(?:({_HOST})/)?({_PATH}(?:/{_PATH})*)"
_IMAGE = rf"{_NAME}(?::(\w[\w.-]{{0,127}}))?(?:@(sha256:[0-9a-f]{{64}}|sha512:[0-9a-f]{{128}}))?"
_MAX = 2048


class ImageName(NamedTuple):
    """One image's name, of which tag and digest may be empty."""

    repository: str
    """With the host in front: ``docker.io/library/busybox``."""
    tag: str = ""
    digest: str = ""

    @classmethod
    def of(cls, reference: Reference) -> ImageName:
        """The name that the user wrote; where there is a digest, it is what counts, and the tag is left out."""
        host = _HUB if reference.registry == DOCKER_HUB else reference.registry
        repository = f"{host}/{reference.repository}"
        if reference.digest:
            return cls(repository, "", str(reference.digest))
        return cls(repository, reference.tag)

    @classmethod
    def parse(cls, text: str) -> ImageName:
        """The name that *text* spells.  Raises: ValueError."""
        match = re.fullmatch(_IMAGE, text, re.ASCII) if len(text) <= _MAX else None
        if match is None:
            raise ValueError("not the name of an image")
        host, path = match[1] or "", match[2]
        if host and not any(c in host for c in ".:") and host != "localhost" and host == host.lower():
            host, path = "", f"{host}/{path}"
        if host in DOCKER_HUB_NAMES or not host:
            host = _HUB
            path = path if "/" in path else f"library/{path}"
        return cls(f"{host}/{path}", match[3] or "", match[4] or "")

    @property
    def transport(self) -> str:
        """Of which transport's scopes a policy has for it."""
        return "docker"

    @property
    def is_repository(self) -> bool:
        """Whether it has neither tag nor digest."""
        return not (self.tag or self.digest)

    @property
    def scopes(self) -> list[str]:
        """Where a policy may speak of it, the most precise place first (containers-policy.json(5), "docker:").

        What is said of a registry holds as well for one that is written with the port of https.
        """
        host, _, path = self.repository.partition("/")
        scopes = []
        for each in dict.fromkeys((host, host_name(host))):
            name = f"{each}/{path}"
            scopes += [name] if self.is_repository else [str(self._replace(repository=name)), name]
            while "/" in name:
                name = name.rpartition("/")[0]
                scopes.append(name)
        host = name if name.startswith("[") else name.partition(":")[0]
        while "." in host and not host.startswith("["):
            host = host.partition(".")[2]
            scopes.append(f"*.{host}")
        return scopes

    def __str__(self) -> str:
        return self.repository + (f":{self.tag}" if self.tag else "") + (f"@{self.digest}" if self.digest else "")


class ArchiveName(NamedTuple):
    """An image that is in no registry: nothing that a signature could name."""

    image: LocalImage

    @property
    def transport(self) -> str:
        """Of which transport's scopes a policy has for it."""
        return {"dockerd": "docker-daemon", "podman": "containers-storage"}.get(
            self.image.transport, self.image.transport
        )

    @property
    def scopes(self) -> list[str]:
        """Where a policy may speak of it, the most precise place first; ``docker-archive`` has no places."""
        if self.image.transport in {"oci", "oci-archive"}:
            return path_scopes(os.path.realpath(self.image.place))
        if self.image.transport == "dockerd":
            try:
                name = ImageName.parse(self.image.place)
            except ValueError:
                return [self.image.place]
            return (name._replace(tag="latest") if name.is_repository else name).scopes
        return []

    def __str__(self) -> str:
        return str(self.image)


def name_of(reference: Reference | LocalImage) -> ImageName | ArchiveName:
    """What a policy is asked about."""
    return ArchiveName(reference) if isinstance(reference, LocalImage) else ImageName.of(reference)


def path_scopes(path: str) -> list[str]:
    """The scopes of an archive or directory at *path*, absolute and without links: itself and its parents."""
    scopes = []
    while path not in {"", "/"}:
        scopes.append(path)
        path = path.rpartition("/")[0]
    return scopes
