"""Shared by all commands: their declaration, their output, and the place of their progress."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from enroot_slurm.progress import Progress

__all__ = ["EXIT_CODES", "Commands", "add_progress", "mute", "print_table", "progress", "tell"]

EXIT_CODES = """\
exit status:
  0  success                                5  the registry can't be reached, or fails
  1  an unexpected error                    6  data is damaged, or of an unknown kind
  2  wrong usage, reference or settings     7  a local file: it exists, no space, no permission
  3  no such image, tag or platform         8  a library or program is missing or failed
  4  the registry denies access             9  the doctor has found an error
                                            128+N  ended by signal N (130: Ctrl-C)
"""


class Commands:
    """Where commands declare themselves: ``enroot-slurm NAME``, or ``enroot-slurm GROUP NAME`` of a `group`."""

    def __init__(self, subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
        self._subparsers = subparsers
        self.common = argparse.ArgumentParser(add_help=False)
        """A parent that each command has: ``--quiet`` and ``--verbose``."""
        self.common.add_argument("-q", "--quiet", action="store_true", help="print errors only")
        self.common.add_argument("-v", "--verbose", action="store_true", help="print more, and tracebacks of errors")
        self.image = argparse.ArgumentParser(add_help=False)
        """A parent of commands that take ``[-a ARCH] URI``."""
        self.image.add_argument(
            *("-a", "--arch"),
            metavar="ARCH",
            help="x86_64 or amd64, aarch64 or arm64, ... (default: this node's, from uname)",
        )
        self.image.add_argument(
            "uri",
            metavar="URI",
            help="docker://[USER@][REGISTRY#]IMAGE[:TAG][@DIGEST], docker-archive:FILE[:NAME], ...",
        )

    def add(
        self,
        name: str,
        run: Callable[[argparse.Namespace], int],
        help_text: str,
        *,
        parents: Sequence[argparse.ArgumentParser] = (),
        description: str = "",
    ) -> argparse.ArgumentParser:
        """The parser of the new command *name*; *run* takes what it has parsed, and returns the exit status."""
        command = self._parser(name, help_text, [*parents, self.common], description)
        command.set_defaults(run=run)
        return command

    def wrap(
        self,
        name: str,
        run: Callable[[list[str]], int],
        help_text: str,
        *,
        usage: str,
        description: str,
    ) -> None:
        """Declare a command all of whose words are for another program; *run* takes them, and returns the status.

        Only ``-h`` or ``--help`` as the first of them is ours.
        """
        command = self._subparsers.add_parser(
            name,
            help=help_text,
            usage=usage,
            description=description,
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            prefix_chars="\0",  # no word is an option
            add_help=False,
        )
        command.add_argument("words", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)

        def run_or_help(options: argparse.Namespace) -> int:
            if options.words[:1] in (["-h"], ["--help"]):
                command.print_help()
                return 0
            return run(options.words)

        command.set_defaults(run=run_or_help, verbose=False)

    def group(self, name: str, help_text: str, description: str = "") -> Commands:
        """The place for commands of a common first word, such as ``cache``."""
        command = self._parser(name, help_text, [], description)
        return Commands(command.add_subparsers(metavar="COMMAND", required=True))

    def _parser(
        self, name: str, help_text: str, parents: Sequence[argparse.ArgumentParser], description: str
    ) -> argparse.ArgumentParser:
        return self._subparsers.add_parser(
            name,
            help=help_text,
            description=description or help_text[0].upper() + help_text[1:] + ".",
            parents=list(parents),
            epilog=EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )


def add_progress(command: argparse.ArgumentParser) -> None:
    """Give *command*, which imports, the option ``--progress``."""
    command.add_argument(
        "--progress",
        choices=("auto", "json"),
        default="auto",
        help="json: tell how far it is by a line of JSON per second, on stderr",
    )


@contextlib.contextmanager
def progress(options: argparse.Namespace) -> Iterator[Progress]:
    """The progress of the command: on stderr, unless ``--quiet`` was given."""
    from enroot_slurm.commands.display import Display, JsonLines  # noqa: PLC0415
    from enroot_slurm.progress import Progress  # noqa: PLC0415

    if getattr(options, "progress", "auto") == "json":
        with JsonLines(details=options.verbose) as lines:
            yield lines
    elif options.quiet:
        yield Progress()
    else:
        with Display(details=options.verbose) as display:
            yield display


def print_table(rows: Sequence[Sequence[str]]) -> None:
    """Print *rows* with their columns aligned; the first row has the titles."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        print("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip())


def tell(text: str) -> None:
    """Print *text* for people; when nobody can read it, that is no error."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        mute(sys.stderr)


def mute(stream: TextIO) -> None:
    """Let what could not be written go nowhere; Python would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())
