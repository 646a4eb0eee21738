"""All checks in their order, each group as the user that it concerns: checks of a cache run as the cache's owner."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.doctor.cache import caches_of, check_cache, check_squash
from enroot_slurm.doctor.finding import ERROR, Finding, error, failed, skipped
from enroot_slurm.doctor.registries import check_registries, check_tables
from enroot_slurm.doctor.settings import check_credentials, check_settings, load
from enroot_slurm.doctor.sharing import Traces, check_node_readers, check_nodes, check_team
from enroot_slurm.doctor.slurm import check_slurm
from enroot_slurm.doctor.team import Team
from enroot_slurm.doctor.tools import check_tools
from enroot_slurm.errors import ConfigError, EnrootSlurmError, WorkerFailed
from enroot_slurm.housekeeping.as_owner import owner_identity
from enroot_slurm.importing.probe import write_probe
from enroot_slurm.system.privilege import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.doctor.cache import Cache
    from enroot_slurm.settings.config import Config
    from enroot_slurm.system.privilege import Identity

__all__ = ["Scope", "examine"]

_DEADLINE = 120.0  # seconds for a group of checks


class Scope(NamedTuple):
    """Further things to examine."""

    nodes: str = ""
    """A number of nodes or a list, as srun takes them; empty: none."""
    registries: tuple[str, ...] = ()
    """Registries, perhaps with a repository; without any, those that the settings name."""
    network: bool = True
    """Whether any registry is asked."""


def examine(wanted: Scope) -> Iterator[Finding]:
    """All findings, as they come."""
    config, found = load()
    yield from found
    yield from check_settings(config, found)
    if config is None:
        yield from check_tools(None)
        yield skipped("cache.cache", "the settings are wrong: caches, registries and Slurm are not looked at")
        return
    caches, owner, trouble = _caches(config)
    # What goes into the site's cache is imported by its owner, with the site's credentials and nobody's own.
    site = bool(config.shared_cache) and len(caches) < 2
    if not site:
        yield from check_credentials(config)
    yield from _apart("tools.tools", partial(check_tools, config), owner)
    yield from trouble
    for cache in caches:
        if owner:
            yield from _apart("cache.root_squash", partial(check_squash, cache), None)
        yield from _apart("cache.cache", partial(check_cache, cache), owner)
    if wanted.nodes and caches:
        yield from _on_nodes(caches[-1], owner, wanted.nodes)
    if not wanted.network:
        if not trouble:
            yield from _apart("registry.mirrors", partial(check_tables, config), owner)
        yield skipped("registry.access", "registries are not asked (--no-network)")
    elif trouble:
        yield skipped("registry.access", "registries are not asked, because the user who would ask them is not known")
    else:
        yield from _apart("registry.access", partial(check_registries, config, wanted.registries), owner)
    yield from check_slurm(config)


def _caches(config: Config) -> tuple[list[Cache], Identity | None, list[Finding]]:
    """The caches; whom root has to become for the only one that it looks at; and what is wrong if there is none."""
    try:
        caches = caches_of(config)
        return caches, owner_identity(caches[-1].root, caches[-1].config.cache_user if caches[-1].shared else ""), []
    except WorkerFailed as cause:
        return [], None, [_no_answer("cache.cache", f"shared_cache: {cause}")]
    except ConfigError as cause:
        hint = cause.hint or "Correct the setting cache_user, or make that user on all nodes."
        return [], None, [error("cache.cache", str(cause), hint)]
    except EnrootSlurmError as cause:
        return [], None, [failed("cache.cache", cause)]


def _apart(name: str, check: Callable[[], Iterator[Finding]], identity: Identity | None) -> Iterator[Finding]:
    """The findings of *check*, called *name*, in an own process, which may hang, as *identity* (None: this user)."""
    try:
        yield from _found(check, identity)
    except WorkerFailed as cause:
        yield _no_answer(name, str(cause))
    except EnrootSlurmError as cause:
        yield failed(name, cause)


def _found(check: Callable[[], Iterator[Finding]], identity: Identity | None) -> Iterator[Finding]:
    for fields in run(lambda: list(check()), identity, deadline=_DEADLINE):
        yield Finding(*fields)


def _no_answer(check: str, what: str) -> Finding:
    return error(
        check,
        what,
        "Either a file system or a server hangs, or the program is not installed where that user can read it "
        "(the system's log may say more).",
    )


def _on_nodes(cache: Cache, identity: Identity | None, nodes: str) -> Iterator[Finding]:
    """The findings of processes on *nodes* that use *cache* together.  Root starts them; each becomes the owner."""
    try:
        traces = Traces(*_call(identity, lambda: Traces.make(cache.root)))
    except EnrootSlurmError as cause:
        yield failed("nodes.nodes", cause)
        return
    try:
        with Team.on_nodes(nodes, cache.root, identity.name if identity else "") as team:
            team.greet(traces.marker)
            yield from (found := list(check_nodes(team, cache.root.stat().st_uid)))
            blind = any(finding.check == "nodes.shared" and finding.status != "ok" for finding in found)
            if not blind and not any(finding.status == ERROR for finding in found):
                yield from check_team(team, traces, "nodes", locks=cache.config.locks)
            if not blind:
                _call(identity, partial(_write_probe, cache.config, traces))
                yield from check_node_readers(team, traces, cache.config.squash_options)
    except EnrootSlurmError as cause:
        yield failed("nodes.nodes", cause)
    finally:
        _call(identity, traces.remove)


def _write_probe(config: Config, traces: Traces) -> None:
    write_probe(config, Path(traces.root, traces.image))


def _call(identity: Identity | None, function: Callable[[], Any]) -> Any:
    """The result of *function*, called as *identity*; None: as this user."""
    return run(function, identity, deadline=_DEADLINE) if identity else function()
