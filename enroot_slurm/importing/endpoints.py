"""Who would be asked for an image, in order, and with which login: for `config --endpoints` and the doctor."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ImageRefused
from enroot_slurm.importing.logins import credentials_of
from enroot_slurm.importing.lookup import own_cache
from enroot_slurm.importing.permission import permit
from enroot_slurm.importing.resolution import notes_of
from enroot_slurm.importing.tables import tables_of
from enroot_slurm.oci.names import full_name
from enroot_slurm.oci.reference import Reference
from enroot_slurm.registry.endpoints import Endpoint, endpoints_of, table_of
from enroot_slurm.registry.limits import HostLimits, Left
from enroot_slurm.registry.retry import come_back

if TYPE_CHECKING:
    from enroot_slurm.registry.endpoints import Table
    from enroot_slurm.settings.config import Config

__all__ = ["Route", "Stop", "left_of", "mirrored", "route_of"]


class Stop(NamedTuple):
    """One endpoint."""

    name: str
    """Its registry and the repository there."""
    mirror: bool
    scheme: str
    """``https``, ``http``, or ``https unchecked, else http``."""
    ns: str
    tags: bool
    """Whether it is asked what a tag means."""
    login: str
    """Where the login is written that it would get if it asks for one; empty: none is known, without its helpers."""
    state: str
    """Why it is not asked just now, or only last; or empty."""


class Route(NamedTuple):
    """All endpoints of an image."""

    image: str
    """The full name."""
    refusal: str
    """Why it may not be used; or empty."""
    prefix: str
    """Of the table that is about it; empty: there is none."""
    source: str
    """Where that is written."""
    stops: tuple[Stop, ...]
    doubts: tuple[str, ...]
    """What is doubtful in the files, for people."""


def route_of(uri: str, config: Config) -> Route:
    """The route of the image *uri*; nobody is asked.

    Raises: InvalidReference; ConfigError, for a file that can't be understood; StorageError.
    """
    reference = Reference.parse(uri).checked()
    place = own_cache(config)
    tables, doubts = tables_of(config, public=place.public)
    table = table_of(reference, tables)
    refusal = ""
    try:
        permit(reference, config)
    except ImageRefused as error:
        refusal = error.message
    notes = notes_of(place, reference, config, public=place.public)
    stops = []
    for each in endpoints_of(reference, tables):
        physical = each.reference
        logins = credentials_of(
            physical.repository, config, lambda _: None, public=place.public, defaults=not each.is_mirror
        )
        limits = HostLimits(_host(physical), notes, lambda _: None)
        state = "it did not answer within the last minute: it is asked last" if limits.is_down else ""
        held = limits.held_until
        if held > time.time():
            state = f"it is not asked before {come_back(held - time.time())}: it was asked too often"
        login = logins.place(physical.registry, physical.user)
        stops.append(Stop(each.name, each.is_mirror, _scheme(each, config), each.ns, each.tags, login, state))
    name, prefix, source = full_name(reference), "", ""
    if table is not None:
        prefix, source = table.prefix, table.source
    return Route(name, refusal, prefix, source, tuple(stops), tuple(doubts))


def mirrored(config: Config) -> tuple[list[Table], list[str]]:
    """The tables that have mirrors, for this user; and what is doubtful in the files.  Raises: ConfigError."""
    tables, doubts = tables_of(config, public=own_cache(config).public)
    return [table for table in tables if table.mirrors], doubts


def left_of(reference: Reference, config: Config) -> str:
    """What the registry of *reference* has said last of its limit, for people; or empty."""
    place = own_cache(config)
    notes = notes_of(place, reference, config, public=place.public)
    left = Left.of(notes.read("left", _host(reference)))
    return str(left) if left else ""


def _host(reference: Reference) -> str:
    return Endpoint(reference._replace(repository="")).name


def _scheme(endpoint: Endpoint, config: Config) -> str:
    if config.allow_http or endpoint.reference.registry in config.insecure_registries:
        return "http"
    return "https unchecked, else http" if endpoint.insecure else "https"
