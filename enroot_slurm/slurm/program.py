"""A program that Slurm starts, as a whole: its signals, its errors, and an environment that may lack a home."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError, Interrupted, UsageError, machine_error
from enroot_slurm.system.interrupts import raise_interrupts

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["complete_environment", "one_line", "run_program", "say"]


def run_program(main: Callable[..., int], words: list[str], tell: Callable[[EnrootSlurmError], None]) -> int:
    """Return the status of ``main(*words)``, or that of the error it raises; *tell* gets the error.

    The signals that end a process raise KeyboardInterrupt in it, once, so that everything is cleaned up.
    """
    raise_interrupts()
    try:
        return main(*words)
    except EnrootSlurmError as error:
        failure = error
    except KeyboardInterrupt as interrupt:
        failure = Interrupted(*(interrupt.args or (signal.SIGINT,)))
    except BrokenPipeError:
        return 1  # who reads our output has gone
    except Exception as error:  # noqa: BLE001 - the last line of defence: no traceback for users
        failure = machine_error(error) or EnrootSlurmError(f"unexpected error: {type(error).__name__}: {error}")
    tell(failure)
    return failure.exit_code


def say(error: EnrootSlurmError) -> None:
    """Tell people of *error*: the cause on the first lines, what to do about it on the last one."""
    hint = f"\n  {error.hint}" if error.hint else ""
    print(f"enroot-slurm: {error}{hint}", file=sys.stderr, flush=True)  # noqa: T201 - Slurm shows it to the user


def one_line(error: EnrootSlurmError) -> str:
    """*error* with its hint, for places that have one line; without markers, which need two."""
    lines = (line.strip() for line in str(error).split("\n"))
    message = " ".join(line for line in lines if line.strip("^"))
    return f"{message}. {error.hint}" if error.hint else message


def complete_environment() -> None:
    """Set HOME and USER if they are missing, as with ``srun --export=NONE``.

    Raises: UsageError, when this user has no entry in the password file.
    """
    if os.environ.get("HOME") and os.environ.get("USER"):
        return
    import pwd  # noqa: PLC0415 - it may ask a server

    try:
        entry = pwd.getpwuid(os.getuid())
    except KeyError:
        raise UsageError(f"there is no user {os.getuid()} on {os.uname().nodename}") from None
    os.environ.setdefault("HOME", entry.pw_dir)
    os.environ.setdefault("USER", entry.pw_name)
    os.environ.setdefault("LOGNAME", entry.pw_name)
