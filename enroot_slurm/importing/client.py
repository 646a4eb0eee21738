"""The things that many imports of one process share."""

from __future__ import annotations

from typing import Self

from enroot_slurm.registry.connections import Connections
from enroot_slurm.settings.config import Config

__all__ = ["Client"]


class Client:
    """Connections and logins for several images, as a context manager: give it to each call as *client*.

    A registry is logged in to once, and its connections stay open.  A token service gives a token for each repository.
    Logins stay in memory until the end of the context.

    config  the settings; by default those of `Config.load`

    Raises: ConfigError.
    """

    def __init__(self, config: Config | None = None) -> None:
        self.config = config or Config.load()
        self.connections = Connections()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections, and forget all logins."""
        self.connections.close()
