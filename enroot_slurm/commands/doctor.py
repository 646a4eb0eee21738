"""``doctor``: finds problems, and says what to do about them."""

from __future__ import annotations

import json
import os
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING

from enroot_slurm.errors import UsageError
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Sequence

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.doctor.finding import Finding

__all__ = ["FOUND_ERRORS", "add_commands"]

FOUND_ERRORS = 9
"""Status when there is an error among the findings."""
_DOCTOR = """\
Look for what is wrong: settings, programs, caches and their file systems, registries and credentials, Slurm. Each line
has a status: ok, warning (it works, but not well, or not for everyone), error (imports or jobs fail because of it), or
skipped, with the reason. The status is 0 if there is no error, else 9.

Nothing is changed; what is tried in a cache is removed again. For root, and for the owner of the site's cache, that
cache is looked at, as its owner; for all others their own one too.
"""
_GROUPS = {
    "settings": "Settings",
    "tools": "Programs",
    "cache": "Cache",
    "nodes": "Nodes",
    "registry": "Registries",
    "slurm": "Slurm",
}
_COLOURS = {"warning": "\x1b[33m", "error": "\x1b[31m"}
_INDENT = " " * 11


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    doctor = commands.add("doctor", _doctor, "look for what is wrong, and say what to do", description=_DOCTOR)
    doctor.add_argument("--json", action="store_true", help="print JSON")
    doctor.add_argument(
        "--nodes",
        metavar="N|NODELIST",
        default="",
        help="try the cache between so many nodes, or these, by srun: locks, and how late files are seen",
    )
    doctor.add_argument(
        "--registry",
        metavar="REGISTRY[/REPOSITORY]",
        action="append",
        default=[],
        help="ask this registry instead of Docker Hub and insecure_registries; may be repeated",
    )
    doctor.add_argument("--no-network", action="store_true", help="ask no registry")


def _doctor(options: argparse.Namespace) -> int:
    from enroot_slurm.doctor.examination import Scope, examine  # noqa: PLC0415
    from enroot_slurm.importing.access import parse_registry  # noqa: PLC0415  each command loads what it needs

    if options.nodes.startswith("-") or options.nodes in {"0", "1"}:
        raise UsageError(
            "--nodes needs at least 2 nodes, or a list of them", hint="Such as --nodes 2 or --nodes n[1-3]."
        )
    for registry in options.registry:
        parse_registry(registry)
    found = examine(Scope(options.nodes, tuple(options.registry), not options.no_network))
    findings = list(found) if options.json else _print(found, quiet=options.quiet)
    errors, warnings, skipped = (
        sum(each.status == status for each in findings) for status in ("error", "warning", "skipped")
    )
    if options.json:
        fields = {
            "version": __version__,
            "host": os.uname().nodename,
            "errors": errors,
            "warnings": warnings,
            "findings": [each._asdict() for each in findings],
        }
        print(json.dumps(fields, indent=2))
    elif not options.quiet:
        good = len(findings) - errors - warnings - skipped
        print(f"\n{_count(errors, 'error')}, {_count(warnings, 'warning')}, {good} ok, {skipped} skipped")
    return FOUND_ERRORS if errors else 0


def _count(number: int, noun: str) -> str:
    return f"{number or 'no'} {noun}{'' if number == 1 else 's'}"


def _print(found: Iterable[Finding], *, quiet: bool) -> Sequence[Finding]:
    """Print the findings as they come, but with *quiet* only warnings and errors; all of them."""
    findings, group = [], ""
    colours = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for finding in found:
        findings.append(finding)
        if quiet and finding.status not in _COLOURS:
            continue
        if finding.group != group:
            print(f"{'' if not group else chr(10)}{_GROUPS[finding.group]}")
            group = finding.group
        colour = _COLOURS.get(finding.status, "") if colours else ""
        status = f"{colour}{finding.status:7}{chr(27) + '[0m' if colour else ''}"
        print(f"  {status}  {_wrapped(finding.message, width)}")
        if finding.hint:
            print(f"{_INDENT}> {_wrapped(finding.hint, width, 2)}")
        sys.stdout.flush()
    return findings


def _wrapped(text: str, width: int, more: int = 0) -> str:
    """*text* for a terminal of *width* columns, indented but for its first line; 0: in one line, for other programs."""
    indent = _INDENT + " " * more
    if width < len(indent) + 40:
        return text
    lines = textwrap.wrap(text, width - len(indent), break_long_words=False, break_on_hyphens=False)
    return f"\n{indent}".join(lines)
