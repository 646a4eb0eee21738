"""The findings of checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import printable

if TYPE_CHECKING:
    from enroot_slurm.errors import EnrootSlurmError

__all__ = ["ERROR", "OK", "SKIPPED", "STATUSES", "WARNING", "Finding", "error", "failed", "ok", "skipped", "warning"]

OK, SKIPPED, WARNING, ERROR = "ok", "skipped", "warning", "error"
STATUSES = (OK, SKIPPED, WARNING, ERROR)

_LONGEST = 2000


class Finding(NamedTuple):
    """One line for people.

    check    ``GROUP.NAME``, for scripts; several findings may have the same
    status   one of `STATUSES`
    message  what is so
    hint     what to run or to set; or why it matters
    """

    check: str
    status: str
    message: str
    hint: str = ""

    @property
    def group(self) -> str:
        """The first part of `check`."""
        return self.check.partition(".")[0]


def ok(check: str, message: str) -> Finding:
    """Nothing is wrong."""
    return Finding(check, OK, _one_line(message))


def skipped(check: str, why: str) -> Finding:
    """It could not be checked, or need not be."""
    return Finding(check, SKIPPED, _one_line(why))


def warning(check: str, message: str, hint: str = "") -> Finding:
    """It works, but slowly, or not always, or not for everyone."""
    return Finding(check, WARNING, _one_line(message), _one_line(hint))


def error(check: str, message: str, hint: str = "") -> Finding:
    """Imports or jobs fail because of it."""
    return Finding(check, ERROR, _one_line(message), _one_line(hint))


def failed(check: str, cause: EnrootSlurmError) -> Finding:
    """The error *cause*, which ended a check."""
    return error(check, str(cause), cause.hint)


def _one_line(text: str) -> str:
    """*text* in one line; what comes from outside in it can't do anything to a terminal."""
    return printable(" ".join(text.split()), _LONGEST)
