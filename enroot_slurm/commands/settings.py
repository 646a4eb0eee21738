"""``config`` and ``version``."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.commands.common import EXIT_CODES, tell
from enroot_slurm.errors import UsageError
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.settings.config import Config

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    config = commands.add("config", _config, "print the settings in force, and where each is from")
    config.add_argument("--check", metavar="FILE", type=Path, help="report the problems of a YAML file or enroot.conf")
    config.add_argument(
        "--endpoints", metavar="IMAGE", help="print who would be asked for an image, in order, and with which login"
    )
    config.add_argument("--json", action="store_true", help="print JSON")
    config.format_help = partial(_help, config, config.format_help)  # type: ignore[method-assign]
    commands.add("version", _version, "print the version")


def _help(parser: argparse.ArgumentParser, format_help: Callable[[], str]) -> str:
    """The help, with the meaning of each setting; made only when it is asked for."""
    import textwrap  # noqa: PLC0415

    from enroot_slurm.settings.meanings import MEANINGS, plain  # noqa: PLC0415

    meanings = "\n".join(
        textwrap.fill(f"{plain(text)}.", 96, initial_indent=f"  {key}\n      ", subsequent_indent="      ")
        for key, text in MEANINGS.items()
    )
    parser.epilog = f"settings (docs/configuration.md):\n{meanings}\n\n{EXIT_CODES}"
    return format_help()


def _config(options: argparse.Namespace) -> int:
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    if options.check is not None:
        from enroot_slurm.settings.registries_conf import problems_of  # noqa: PLC0415

        problems = problems_of(options.check)
        if problems is None:
            problems = Config.check(options.check)
        for problem in problems:
            tell(str(problem))
        if not problems and not options.quiet:
            print(f"{options.check}: no problems")
        return UsageError.exit_code if problems else 0
    loaded = Config.load()
    if options.endpoints is not None:
        return _endpoints(options, loaded)
    rows = loaded.rows()
    for text in loaded.doubts:
        tell(f"enroot-slurm: {text}")
    if options.json:
        print(json.dumps({row.key: row._asdict() for row in rows}, indent=2))
        return 0
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for row in rows:
        print(f"{row.key:{widths[0]}}  {row.value or '-'}  [{row.source}]")
    return 0


def _endpoints(options: argparse.Namespace, config: Config) -> int:
    from enroot_slurm.importing.endpoints import route_of  # noqa: PLC0415

    uri = options.endpoints if "://" in options.endpoints else f"docker://{options.endpoints}"
    route = route_of(uri, config)
    for text in route.doubts:
        tell(f"enroot-slurm: {text}")
    if options.json:
        print(json.dumps({**route._asdict(), "stops": [stop._asdict() for stop in route.stops]}, indent=2))
        return 0
    print(f"image    {route.image}")
    print(f"table    {route.prefix} [{route.source}]" if route.prefix else "table    -")
    print(f"allowed  {f'no: {route.refusal}' if route.refusal else 'yes'}")
    for number, stop in enumerate(route.stops, 1):
        words = [
            "mirror" if stop.mirror else "primary",
            stop.scheme,
            *([] if stop.tags else ["only for digests"]),
            *([f"ns={stop.ns}"] if stop.ns else []),
            f"login of {stop.login}" if stop.login else "no login",
            *([stop.state] if stop.state else []),
        ]
        print(f"{number}. {stop.name}: {', '.join(words)}")
    return 0


def _version(_options: argparse.Namespace) -> int:
    print(f"enroot-slurm {__version__}")
    return 0
