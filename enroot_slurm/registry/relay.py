"""Endpoints one after the other: for a transfer that goes on at the next one, and for errors that tell of all."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import EnrootSlurmError, NetworkError, printable
from enroot_slurm.registry.retry import Passing, Retries

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enroot_slurm.registry.server import Server

__all__ = ["BlobRelay", "with_mirrors"]


class BlobRelay(Retries):
    """The attempts at one blob, of which each of *servers* has the bytes: the primary is asked again, mirrors are not.

    But a mirror that has sent a part, and broken off, is asked for the rest.  *failed* is told of each server that is
    left.
    """

    def __init__(
        self, servers: Sequence[Server], retries: Retries, failed: Callable[[Server, EnrootSlurmError], None]
    ) -> None:
        self._servers = servers
        self._retries = retries
        self._failed = failed
        self._at = 0
        self._moved = False
        self._failures: list[tuple[Server, EnrootSlurmError]] = []

    @property
    def server(self) -> Server:
        """Whose turn it is."""
        return self._servers[self._at]

    def progress(self) -> None:
        """Count from anew: the last attempt was not in vain."""
        self._moved = True
        self._retries.progress()

    def wait(self, error: Passing) -> None:
        """Wait for the next attempt after *error*, or go on at the next server.

        Raises: the primary's error, when there is no next one.
        """
        moved, self._moved = self._moved, False
        if self.server.is_mirror and not moved:
            self.advance(error)
            return
        try:
            self._retries.wait(error)
        except NetworkError as last:
            self.advance(last)

    def advance(self, error: EnrootSlurmError) -> None:
        """Go on at the next server.  Raises: the primary's error, when there is none."""
        self._failures.append((self.server, error))
        self._failed(self.server, error)
        if self._at + 1 == len(self._servers):
            raise with_mirrors(self._failures)
        self._at += 1


def with_mirrors(failures: Sequence[tuple[Server, EnrootSlurmError]]) -> EnrootSlurmError:
    """The primary's error, or the last one, with a line for each mirror that has failed."""
    error = next((error for server, error in failures if not server.is_mirror), failures[-1][1])
    lines = []
    for server, other in failures:
        if server.is_mirror and other is not error:
            status = f"{other.__notes__[0]}: " if getattr(other, "__notes__", ()) else ""
            line = f"\n  mirror {printable(server.name)}: {status}{other.message.partition(chr(10))[0]}"
            lines += [line] if line not in error.message else []
    if lines:
        error.message += "".join(lines)
        error.args = (error.message,)
    return error
