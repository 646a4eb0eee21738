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

__all__ = ["add_commands"]


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    config = commands.add("config", _config, "print the settings in force, and where each is from")
    config.add_argument("--check", metavar="FILE", type=Path, help="report the problems of a YAML file or enroot.conf")
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
        problems = Config.check(options.check)
        for problem in problems:
            tell(str(problem))
        if not problems and not options.quiet:
            print(f"{options.check}: no problems")
        return UsageError.exit_code if problems else 0
    loaded = Config.load()
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


def _version(_options: argparse.Namespace) -> int:
    print(f"enroot-slurm {__version__}")
    return 0
