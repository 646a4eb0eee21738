"""Checks whether a registry gives access, and by which login: the one that an import would use, or a new one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import AccessDenied, InvalidReference, printable
from enroot_slurm.importing.endpoints import left_of
from enroot_slurm.importing.login_lines import line_of
from enroot_slurm.importing.logins import netrc_path, node_local
from enroot_slurm.importing.lookup import own_cache
from enroot_slurm.importing.resolution import open_repository
from enroot_slurm.oci.reference import DOCKER_HUB, DOCKER_HUB_NAMES, Reference
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.helpers import needs_desktop
from enroot_slurm.registry.netrc_file import NetrcFile

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.registry.access import Access
    from enroot_slurm.registry.endpoints import Endpoint
    from enroot_slurm.registry.secret import Secret
    from enroot_slurm.settings.config import Config

__all__ = ["Checked", "check_access", "parse_registry", "try_login"]

_ALONE = re.compile(r"(?:docker://)?((?:[^@/#]*@)?[^@/#]+)[/#]?", re.ASCII)


class Checked(NamedTuple):
    """The result of a check."""

    reference: Reference
    access: Access
    site: bool
    """Whether the site's credentials count for this user, who owns the shared cache."""
    left: str = ""
    """What the registry has said last of its limit, for people; or empty."""

    @property
    def name(self) -> str:
        """The registry, or the repository with it."""
        return "/".join(part for part in (self.reference.registry, self.reference.repository) if part)

    @property
    def doubt(self) -> str:
        """Why jobs may not have the login that was found; or empty."""
        place = self.access.source or self.access.unasked
        if not place or self.site:
            return ""
        if node_local(Path(place.partition(" (")[0])):
            return f"{place} is on this node only, and only while you are logged in: jobs will not see it"
        helper = place.partition("docker-credential-")[2].rstrip(")")
        if needs_desktop(helper):
            return f"docker-credential-{helper} needs a desktop or an agent, which jobs lack"
        return ""

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


def check_access(
    reference: Reference, config: Config, warn: Callable[[str], None], endpoint: Endpoint | None = None
) -> Checked:
    """Ask the registry of *reference* (see `parse_registry`), as *endpoint* if that is given, if it lets this user in.

    Raises: NotFound, AccessDenied, NetworkError; StorageError.
    """
    place = own_cache(config)
    endpoints = (endpoint,) if endpoint else ()
    with open_repository(reference, config, warn, public=place.public, place=place, endpoints=endpoints) as repository:
        return Checked(reference, repository.check(), place.public, left_of(reference, config))


def try_login(reference: Reference, login: str, secret: Secret, config: Config, warn: Callable[[str], None]) -> Checked:
    """Ask the registry of *reference* whether it takes *login* and *secret*.

    Raises: NotFound, AccessDenied, NetworkError.
    """
    line = line_of(reference.registry, login, secret)
    credentials = Credentials([lambda: NetrcFile(line, "the new login")], name=str(netrc_path(config)))
    hint = "Check both. Many registries want a token in place of the password."
    with open_repository(reference, config, warn, public=False, credentials=credentials) as repository:
        try:
            checked = Checked(reference, repository.check(), site=False)
        except AccessDenied as error:
            raise AccessDenied(error.message.replace("the new login:1", "the new login"), hint=hint) from None
    if checked.refused:
        raise AccessDenied(checked.access.problem.replace("the new login:1", "the new login"), hint=hint)
    return checked
