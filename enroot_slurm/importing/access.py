"""Whether a registry lets this user in, and by which credentials: those that an import would use."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import InvalidReference, printable
from enroot_slurm.importing.lookup import Lookup
from enroot_slurm.importing.resolution import open_repository
from enroot_slurm.oci.reference import DOCKER_HUB, DOCKER_HUB_NAMES, Reference

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.registry.client import Access
    from enroot_slurm.settings.config import Config

__all__ = ["Checked", "check_access", "parse_registry"]

_ALONE = re.compile(r"(?:docker://)?((?:[^@/#]*@)?[^@/#]+)[/#]?", re.ASCII)


class Checked(NamedTuple):
    """What came of a check."""

    reference: Reference
    access: Access
    site: bool
    """Whether the site's credentials count for this user, who owns the shared cache."""

    @property
    def name(self) -> str:
        """The registry, or the repository with it."""
        return "/".join(part for part in (self.reference.registry, self.reference.repository) if part)

    @property
    def refused(self) -> bool:
        """Whether there are credentials that were of no use, although anyone is let in."""
        return bool(self.access.problem)


def parse_registry(text: str) -> Reference:
    """The reference that ``[docker://][USER@]REGISTRY[/REPOSITORY]`` means; without a repository, that part is empty.

    Raises: InvalidReference.
    """
    alone = _ALONE.fullmatch(text)
    reference = Reference.parse(f"docker://{alone[1]}#x" if alone else f"docker://{text.removeprefix('docker://')}")
    if alone:
        return reference._replace(repository="")
    first = re.split("[/#]", text.removeprefix("docker://").rpartition("@")[2])[0]
    if reference.registry == DOCKER_HUB and first.lower() not in DOCKER_HUB_NAMES:
        raise InvalidReference(
            f"{printable(first)} is not a registry: it has neither a dot nor a port",
            hint=f"For the image on Docker Hub, write docker.io/{reference.familiar_name}.",
        )
    return reference


def check_access(reference: Reference, config: Config, warn: Callable[[str], None]) -> Checked:
    """Ask the registry of *reference* (see `parse_registry`) whether it lets this user in.

    Raises: NotFound, AccessDenied, NetworkError; ConfigError, when the credentials can't be read; StorageError.
    """
    public = Lookup.of("docker://x", None, config, strict=False).own.public
    with open_repository(reference, config, warn, public=public) as repository:
        return Checked(reference, repository.check(), public)
