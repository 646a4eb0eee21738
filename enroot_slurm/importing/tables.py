"""What the site's and the user's files say of registries: `Table`s, and only those that count for what is done.

The site's are root's files in /etc and /usr/share, and the setting mirrors in the site's YAML.  A user's files never
count in hooks, nor for what goes into the site's cache: a mirror that a user has chosen could answer another digest for
a tag.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.importing.permission import files_of, of_site
from enroot_slurm.registry.endpoints import Mirror, Table
from enroot_slurm.settings.registries_conf import tables_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enroot_slurm.settings.config import Config

__all__ = ["tables_of", "warn_once"]

_TOLD: set[str] = set()


def tables_of(config: Config, *, public: bool) -> tuple[list[Table], list[str]]:
    """The tables for an import, of the site alone if what comes is to be *public*; and what is doubtful, for people.

    Raises: ConfigError.
    """
    site = public or config.trusted
    tables, doubts = tables_in(files_of(config, site=site))
    by_prefix = {table.prefix: table for table in tables}
    mirrors, source = _mirrors(config, site=site)
    for prefix, each in mirrors.items():
        table = by_prefix.get(prefix) or Table(prefix, "" if prefix.startswith("*.") else prefix, source=source)
        by_prefix[prefix] = table._replace(mirrors=tuple(each), source=source)
    return list(by_prefix.values()), doubts


def warn_once(text: str, warn: Callable[[str], None]) -> None:
    """Let *warn* have *text*, if this process has not told it before."""
    if text not in _TOLD:
        _TOLD.add(text)
        warn(text)


def _mirrors(config: Config, *, site: bool) -> tuple[dict[str, list[Mirror]], str]:
    """The setting mirrors: by prefix, in order; and where it is from."""
    values: Sequence[str] = of_site(config, "mirrors", ()) if site else config.mirrors
    found: dict[str, list[Mirror]] = {}
    for each in values:
        prefix, _, rest = each.partition("=")
        location, _, ns = rest.partition("?ns=")
        found.setdefault(prefix, []).append(Mirror(location, ns=ns))
    said = [each.source for each in config.said.get("mirrors", ()) if each.site or not site]
    return found, f"the setting mirrors, {said[0] if said else config.origins['mirrors']}"
