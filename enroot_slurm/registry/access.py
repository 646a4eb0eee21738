"""A registry's answer to a client that only asks for access."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["Access"]


class Access(NamedTuple):
    """The answer of a registry to its credentials."""

    source: str
    """FILE:LINE of the credentials that were tried, or empty."""
    name: str
    """The login name in them."""
    used: bool
    """Whether they were accepted."""
    problem: str
    """The reason why they were not accepted; or empty."""
    unasked: str
    """FILE:LINE of credentials that the registry did not ask for, or empty."""
    certificate: bool
    """Whether a client certificate was shown."""
    date: str
    """The registry's clock: the header Date, or empty."""
