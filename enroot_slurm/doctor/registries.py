"""Checks of registries: whether they answer, give access, and have the same time."""

from __future__ import annotations

import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from enroot_slurm.doctor.finding import error, failed, ok, warning
from enroot_slurm.errors import AccessDenied, EnrootSlurmError
from enroot_slurm.importing.access import check_access, parse_registry
from enroot_slurm.importing.endpoints import mirrored
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry.endpoints import Endpoint

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.importing.access import Checked
    from enroot_slurm.settings.config import Config

__all__ = ["check_registries", "check_tables"]

_SKEW = 60.0  # seconds; tokens and certificates hold for minutes at least
_CONNECT = 10.0  # seconds; a diagnosis is not worth waiting longer for


def check_registries(config: Config, names: Sequence[str]) -> Iterator[Finding]:
    """Ask the registries *names*; without any Docker Hub, and those that the settings name."""
    timeout = min(config.connect_timeout or _CONNECT, _CONNECT)
    config = config._replace(transfer_retries=0, connect_timeout=timeout)
    for name in names or (DOCKER_HUB, *config.insecure_registries):
        yield from _check(name, config, wanted=bool(names))
    for host, endpoint in (yield from check_tables(config)).items():
        if host not in names:
            yield from _check(host, config, wanted=False, endpoint=endpoint)


def check_tables(config: Config) -> Generator[Finding, None, dict[str, Endpoint]]:
    """What the tables say; nobody is asked.  Returns the mirrors' hosts."""
    try:
        tables, doubts = mirrored(config)
    except EnrootSlurmError as cause:
        hint = cause.hint or "Correct the file: enroot-slurm config --check FILE."
        yield error("registry.mirrors", str(cause), hint)
        return {}
    for text in doubts:
        yield warning("registry.mirrors", text, "Correct the key, or remove it.")
    hosts: dict[str, Endpoint] = {}
    for table in tables:
        shown = ", ".join(each.location for each in table.mirrors)
        yield ok("registry.mirrors", f"{table.prefix} is asked for at {shown} first ({table.source})")
        for each in table.mirrors:
            host = each.location.partition("/")[0]
            alone = parse_registry(host)
            hosts.setdefault(host, Endpoint(alone, is_mirror=True, insecure=each.insecure, ns=each.ns))
    return hosts


def _check(name: str, config: Config, *, wanted: bool, endpoint: Endpoint | None = None) -> Iterator[Finding]:
    warnings: list[str] = []
    try:
        reference = parse_registry(name)
        checked = check_access(reference, config, warnings.append, endpoint)
    except AccessDenied as denied:
        yield failed("registry.access", denied) if wanted else warning("registry.access", str(denied), denied.hint)
        return
    except EnrootSlurmError as cause:
        if wanted:
            yield failed("registry.reach", cause)
        else:
            why = "The mirror is passed over meanwhile." if endpoint else "Ignore this if you do not use it."
            yield warning("registry.reach", str(cause), f"{cause.hint} {why}".strip())
        return
    if checked.refused:
        yield error("registry.access", f"{checked.name}: {checked.access.problem}", "Correct that line, or remove it.")
    else:
        yield ok("registry.access", f"{checked.name} {_way(checked)}")
    if checked.left:
        yield ok("registry.limit", f"{checked.name}: {checked.left}")
    yield from _clock(checked)
    if reference.registry in config.insecure_registries or config.allow_http:
        which = "insecure_registries" if reference.registry in config.insecure_registries else "allow_http"
        source = config.origins[which]
        yield warning(
            "registry.tls",
            f"{reference.registry} is asked over http (setting {which} [{source}]): "
            "others on the network can change images",
            "Digests protect only images that are named by digest. Give the registry a certificate.",
        )


def _way(checked: Checked) -> str:
    access = checked.access
    if access.used:
        return f"lets '{access.name}' in, by {access.source}"
    return "lets anyone in" + (f"; the login of {access.unasked} is not asked for" if access.unasked else "")


def _clock(checked: Checked) -> Iterator[Finding]:
    try:
        date = parsedate_to_datetime(checked.access.date)
    except ValueError:
        return
    skew = time.time() - (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    if abs(skew) > _SKEW:
        yield warning(
            "registry.clock",
            f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} that of {checked.name}",
            "Run an NTP client: tokens and certificates are good for some time only.",
        )
