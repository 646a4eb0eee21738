"""Shared by all repositories of a process that imports many images: connections, accepted logins, a tally of requests.

All of it is in memory.  A token is used again for the registry, the repository and the login name that it was given
for, and for nothing else.  Of another repository of the same registry it is known how to log in: its first request
carries a token already.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, NamedTuple, Protocol, Self, TypeVar, cast

from enroot_slurm.registry.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.registry.credentials import Credential
    from enroot_slurm.registry.origin import Origin

__all__ = ["Connections", "Token"]


_HOUR = 3600.0  # seconds


class _Closable(Protocol):
    def close(self) -> None:
        """Close all connections."""


_Http = TypeVar("_Http", bound=_Closable)


class Token(NamedTuple):
    """The value of Authorization, the login that gave it, and until when (by time.monotonic) it serves."""

    authorization: str
    credential: Credential | None
    expires: float


class Connections:
    """Safe for several threads.  Close it, or use it in a ``with``."""

    def __init__(self) -> None:
        self.tally = Tally()
        """What all of them were asked, and have answered."""
        self._lock = threading.Lock()
        self._https: dict[tuple[Origin, bool], _Closable] = {}
        self._tokens: dict[tuple[Origin, str, str], Token] = {}
        self._challenges: dict[Origin, tuple[str, ...]] = {}
        self._whole: dict[Origin, float] = {}

    def http(self, registry: Origin, make: Callable[[], _Http], *, verified: bool = True) -> _Http:
        """The client for *registry*, whose certificates are *verified* or not; *make* makes one if there is none."""
        key = registry, verified
        with self._lock:
            if key not in self._https:
                self._https[key] = make()
            return cast("_Http", self._https[key])

    def token(self, registry: Origin, repository: str, user: str) -> Token | None:
        """The token that *registry* has accepted for *repository* and the login name *user*, if there is one."""
        return self._tokens.get((registry, repository, user))

    def accept(self, registry: Origin, repository: str, user: str, token: Token) -> None:
        """Keep *token*, which *registry* has accepted."""
        self._tokens[registry, repository, user] = token

    def challenge(self, registry: Origin) -> tuple[str, ...]:
        """The WWW-Authenticate headers that *registry* has answered last."""
        return self._challenges.get(registry, ())

    def challenged(self, registry: Origin, headers: tuple[str, ...]) -> None:
        """Keep the WWW-Authenticate *headers* of *registry*."""
        self._challenges[registry] = headers

    def sends_parts(self, registry: Origin) -> bool:
        """Whether *registry* may send parts of blobs, as far as is known."""
        return time.monotonic() - self._whole.get(registry, -_HOUR) >= _HOUR

    def sends_no_parts(self, registry: Origin) -> None:
        """Remember for an hour that *registry* sends whole blobs only."""
        self._whole[registry] = time.monotonic()

    def close(self) -> None:
        """Close all connections, and forget all logins."""
        with self._lock:
            for http in self._https.values():
                http.close()
            self._https.clear()
            self._tokens.clear()
            self._challenges.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
