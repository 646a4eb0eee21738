"""Logins and their secrets, which show themselves nowhere."""

from __future__ import annotations

from typing import NamedTuple, NoReturn

__all__ = ["Credential", "Secret"]


class Secret:
    """A string that is shown as ``***``; only `reveal` gives it away."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The string itself, for the one line that sends it; bytes that were not UTF-8 are surrogates."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __format__(self, spec: str) -> str:
        return format("***", spec)

    def __eq__(self, other: object) -> bool:
        return self._value == other._value if isinstance(other, Secret) else NotImplemented

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not to be stored or sent")


class Credential(NamedTuple):
    """A login with its secret, and where it is from."""

    login: str
    secret: Secret
    source: str
    """FILE:LINE, or a file and the key in it, for messages."""
    kind: str = "password"
    """The kind of secret: ``password``; ``identity``: a refresh token; ``registry``: a token for itself."""
