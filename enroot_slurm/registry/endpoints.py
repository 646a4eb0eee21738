"""Where an image is asked for: the tables that a site writes, and the endpoints that they make of a reference.

    table       a prefix, where its images are (its location), and mirrors of that
    endpoint    one registry and the image's physical name there; the last one is the primary

The physical name is the location and what follows the prefix: with ``docker.io`` and the mirror
``harbor.site/dockerhub``, ``docker.io/library/busybox:1`` is asked for as ``harbor.site/dockerhub/library/busybox:1``.

Source: containers-registries.conf(5), version 2; containerd's docs/hosts.md (``ns``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError, InvalidReference, printable
from enroot_slurm.oci.names import HUB, covered, full_name, longest
from enroot_slurm.oci.reference import DOCKER_HUB, Reference

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["PULLS", "Endpoint", "Mirror", "Table", "endpoints_of", "table_of"]

PULLS = ("all", "digest-only", "tag-only")
"""What ``pull-from-mirror`` may be."""


class Mirror(NamedTuple):
    """Another place for what a table is about."""

    location: str
    insecure: bool = False
    pull: str = "all"
    """One of `PULLS`."""
    ns: str = ""
    """The registry that the query parameter of this name says; empty: none is sent."""


class Table(NamedTuple):
    """What is said of all images whose names begin with *prefix*."""

    prefix: str
    location: str
    """Empty: the name stays as it is."""
    insecure: bool = False
    """Whether it is asked by https without a check of its certificate, and else by http."""
    blocked: bool = False
    mirrors: tuple[Mirror, ...] = ()
    """In the order in which they are asked."""
    source: str = ""
    """The file, for people."""


class Endpoint(NamedTuple):
    """One registry that is asked for an image."""

    reference: Reference
    """The physical name."""
    is_mirror: bool = False
    insecure: bool = False
    ns: str = ""
    tags: bool = True
    """Whether it is asked what a tag means."""
    digests: bool = True
    """Whether it is asked for what has a digest."""

    @property
    def name(self) -> str:
        """The repository there: ``harbor.site/dockerhub/library/busybox``."""
        registry = HUB if self.reference.registry == DOCKER_HUB else self.reference.registry
        return f"{registry}/{self.reference.repository}".rstrip("/")


def table_of(reference: Reference, tables: Iterable[Table]) -> Table | None:
    """The one of *tables* that is about *reference*: the longest prefix counts."""
    by_prefix = {table.prefix: table for table in tables}
    found = longest(list(by_prefix), full_name(reference))
    return by_prefix[found] if found is not None else None


def endpoints_of(reference: Reference, tables: Sequence[Table]) -> tuple[Endpoint, ...]:
    """Who is asked for *reference*, in order: the mirrors, and last the primary.

    An image that is named by a tag is asked for at a mirror for tags as a whole, as others read the format.

    Raises: ConfigError, when a location makes no name.
    """
    table = table_of(reference, tables) if reference.repository else None
    if table is None:
        return (Endpoint(reference),)
    name = full_name(reference)
    rest = name[covered(table.prefix, name) :]
    mirrors = [
        Endpoint(
            _physical(reference, mirror.location, rest, table),
            is_mirror=True,
            insecure=mirror.insecure,
            ns=mirror.ns,
            tags=mirror.pull != "digest-only",
            digests=mirror.pull != "tag-only" or reference.digest is None,
        )
        for mirror in table.mirrors
        if mirror.pull != "tag-only" or reference.digest is None
    ]
    primary = reference
    if table.location and table.location != table.prefix:
        primary = _physical(reference, table.location, rest, table)
        if primary.registry == reference.registry:
            primary = primary._replace(user=reference.user)
    return (*mirrors, Endpoint(primary, insecure=table.insecure))


def _physical(reference: Reference, location: str, rest: str, table: Table) -> Reference:
    """The name below *location*; without the login, which is one at another place."""
    host, _, path = (location + rest).partition("/")
    try:
        made = Reference.parse(f"docker://{host}#{path}")
    except InvalidReference:
        raise ConfigError(
            f"{table.source}: the location {printable(location)} makes no image of {printable(full_name(reference))}"
        ) from None
    tagged = ":" in path.partition("@")[0]
    return made._replace(tag=made.tag if tagged else reference.tag, digest=made.digest or reference.digest)
