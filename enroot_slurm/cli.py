"""The command line: arguments in, exit status out; everything else is the library's."""

from __future__ import annotations

import argparse
import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

from enroot_slurm.commands import cache, doctor, images, login, metrics, settings, slurm, status, trust
from enroot_slurm.commands.common import EXIT_CODES, Commands, mute, tell
from enroot_slurm.errors import EnrootSlurmError, Interrupted, StorageError, machine_error
from enroot_slurm.system.interrupts import interruptible
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["main", "make_parser"]

_CLEAN_UP = 5.0  # seconds in which a second signal does not interrupt what the first one began


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (by default the process's); the exit status."""
    _open_missing_streams()
    verbose = False
    try:
        options = make_parser().parse_args(arguments)
        verbose = options.verbose
        with interruptible(again=_CLEAN_UP):
            status = int(options.run(options))
        _flush()
    except KeyboardInterrupt as interrupt:
        return _report(Interrupted(*(interrupt.args or (signal.SIGINT,))))
    except EnrootSlurmError as error:
        if verbose:
            import traceback  # noqa: PLC0415 - a start needs none

            traceback.print_exc()
        return _report(error)
    except BrokenPipeError:
        return 1  # who reads our output has gone; nothing is to be told any more
    except Exception as error:  # the last line of defence: no traceback for users
        if (explained := _machine_error(error)) is not None:
            return _report(explained)
        if verbose:
            raise
        tell(f"enroot-slurm: unexpected error: {type(error).__name__}: {error}")
        tell("  Please report it, with the output of the same command with --verbose.")
        return 1
    else:
        return status
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except OSError:
                mute(stream)
        gc.freeze()  # at its end the interpreter would look for cycles, among all modules, in memory that goes anyway


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; manual pages and completion are made from it, too."""
    parser = argparse.ArgumentParser(
        prog="enroot-slurm",
        description="Import container images for Slurm jobs into enroot squashfs images.",
        epilog=EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"enroot-slurm {__version__}")
    commands = Commands(parser.add_subparsers(metavar="COMMAND", required=True))
    for module in (images, cache, slurm, status, doctor, metrics, login, settings, trust):
        module.add_commands(commands)
    return parser


def _open_missing_streams() -> None:
    """Give a process that was started with closed standard streams /dev/null, before files get their numbers.

    Output that nobody can read is an error, as for coreutils: what is the standard output then, can't be written to.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            fd = os.open(os.devnull, os.O_WRONLY if name == "stderr" else os.O_RDONLY)
            setattr(sys, name, open(fd, mode, encoding="utf-8"))  # noqa: PTH123, SIM115


def _flush() -> None:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        raise
    except OSError as error:
        raise StorageError(f"can't write to the standard output: {error.strerror}") from None


def _machine_error(error: Exception) -> EnrootSlurmError | None:
    if isinstance(error, OSError):
        try:
            _flush()  # what could not be written is still there
        except StorageError as cause:
            return cause
    return machine_error(error)


def _report(error: EnrootSlurmError) -> int:
    tell(f"enroot-slurm: {error}")
    if error.hint:
        tell(f"  {error.hint}")
    return error.exit_code


if __name__ == "__main__":
    raise SystemExit(main())
