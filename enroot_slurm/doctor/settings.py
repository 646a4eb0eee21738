"""Checks of the settings: the errors in each file, and whether hooks will see the same settings as users."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.doctor.finding import error, failed, ok, skipped, warning
from enroot_slurm.errors import ConfigError, EnrootSlurmError
from enroot_slurm.housekeeping.keeper import limits_of
from enroot_slurm.importing.logins import auth_paths, netrc_path, node_local, read_auths
from enroot_slurm.registry.credentials import read_logins
from enroot_slurm.registry.helpers import needs_desktop
from enroot_slurm.settings.config import SITE_FILE, Config

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.registry.credentials import LoginFile

__all__ = ["check_credentials", "check_settings", "load"]

_COMMON = ("shared_cache", "cache_user", "squash_options", "run_path")
"""Settings on which hooks and users have to agree."""
_REFERENCE = "docs/configuration.md has all settings, and what they may be."


def load() -> tuple[Config | None, list[Finding]]:
    """The settings in force, and a finding for each problem: then there are none in force."""
    try:
        config = Config.load()
    except ConfigError as wrong:
        return None, _problems("settings.files", wrong)
    try:
        limits_of(config)
    except ConfigError as wrong:
        return config, [failed("settings.watermarks", wrong)]
    doubts = [warning("settings.variables", doubt, "Correct it, or unset it.") for doubt in config.doubts]
    changed = sorted({source.rpartition(":")[0] or source for source in config.origins.values()} - {"", "default"})
    named = ", ".join(changed) if changed else "all have their defaults"
    return config, [
        *doubts,
        ok("settings.files", f"no problems; set by: {named}" if changed else f"no problems; {named}"),
    ]


def _problems(check: str, wrong: ConfigError) -> list[Finding]:
    """A finding for each problem of *wrong*, whose hint is for all of them."""
    *lines, last = wrong.message.split("\n")
    return [*(error(check, line, _REFERENCE) for line in lines), error(check, last, wrong.hint or _REFERENCE)]


def check_settings(config: Config | None, known: list[Finding]) -> Iterator[Finding]:
    """The settings that hooks of root will see: the site's file alone; *known* problems are not repeated."""
    told = {finding.message for finding in known}
    named = os.environ.get("ENROOT_SLURM_SITE_CONFIG")
    if named and Path(named) != SITE_FILE:
        yield warning(
            "settings.site",
            f"the environment names {named} as the site's file, but hooks read {SITE_FILE}",
            "Unset ENROOT_SLURM_SITE_CONFIG, unless this is a trial.",
        )
    try:
        trusted = Config.load(trusted=True)
    except ConfigError as wrong:
        yield from (problem for problem in _problems("settings.site", wrong) if problem.message not in told)
        return
    if SITE_FILE.exists():
        yield ok("settings.site", f"{SITE_FILE}: hooks can read it, and trust it")
    else:
        yield skipped("settings.site", f"there is no {SITE_FILE}: hooks have the defaults")
    if config is not None and (config.shared_cache or trusted.shared_cache):
        yield from _differences(config, trusted)


def _differences(config: Config, trusted: Config) -> Iterator[Finding]:
    for key in _COMMON:
        mine, theirs = getattr(config, key), getattr(trusted, key)
        if mine != theirs:
            yield warning(
                f"settings.{key}",
                f"{key} is '{mine}' here [{config.origins[key]}], but '{theirs}' for hooks [{trusted.origins[key]}]",
                "Set it in the site's file only; else what hooks import is not what you find.",
            )


def check_credentials(config: Config) -> Iterator[Finding]:
    """The files with the user's logins; their secrets stay in them."""
    found = False
    if "netrc" in config.credential_sources:
        file, commands = netrc_path(config), config.credential_commands
        found = yield from _logins(file, partial(read_logins, file, run_commands=commands))
    if "docker" in config.credential_sources:
        for each in auth_paths(config):
            if each.doubt:
                yield warning("settings.credentials", each.doubt, "Unset it, or log in on this node.")
            else:
                found |= yield from _logins(each.path, partial(read_auths, each, config))
    if not found:
        yield skipped(
            "settings.credentials", f"there is no {netrc_path(config)}: everything is asked for without a login"
        )


def _logins(file: Path, read: Callable[[], LoginFile | None]) -> Generator[Finding, None, bool]:
    """The findings about one *file*; returns whether it is there."""
    try:
        logins = read()
    except EnrootSlurmError as wrong:
        yield error("settings.credentials", str(wrong), wrong.hint or "docs/credentials.md has the form of the file.")
        return True
    if logins is None:
        return False
    for text in logins.warnings:
        problem, _, command = text.partition("; run: ")
        hint = (
            f"Run: {command or f'chown $USER {file}'}" if text in logins.doubts else "docs/credentials.md has its form."
        )
        yield warning("settings.credentials", problem, hint)
    if node_local(file):
        yield warning(
            "settings.credentials",
            f"{file} is on this node only, and only while you are logged in: jobs will not see it",
            "Log in with --authfile ~/.config/containers/auth.json, or by: enroot-slurm login REGISTRY",
        )
    for helper in filter(needs_desktop, logins.helpers):
        yield warning(
            "settings.credentials",
            f"{file} leaves logins to docker-credential-{helper}, which needs a desktop or an agent",
            "Jobs have neither: log in by enroot-slurm login REGISTRY",
        )
    if not logins.warnings:
        yield ok("settings.credentials", f"{file} can be read, by you alone")
    return True
