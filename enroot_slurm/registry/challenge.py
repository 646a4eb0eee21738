"""``WWW-Authenticate``: the challenge of a registry (RFC 9110, 11.6.1), read as leniently as registries write."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Challenge", "parse_challenges"]

_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (the RFC's token, not a secret)
_PARAMETER = re.compile(
    rf"""[\s,]*"?({_TOKEN})"?\s*=\s*(?:"((?:[^"\\]|\\.)*)"|([^\s,"]*))(?=[\s,]|$)""",
    re.ASCII | re.DOTALL,
)
_SCHEME = re.compile(rf"""[\s,]*"?({_TOKEN})"?(?=[\s,]|$)""", re.ASCII)
_ALONE = {"basic", "bearer", "kerberos", "negotiate", "ntlm"}  # else a lone word is a parameter that lost its value
_MAX_HEADER = 8192


class Challenge(NamedTuple):
    """One way to log in: a scheme in lower case, and its parameters with names in lower case."""

    scheme: str
    params: dict[str, str]


def parse_challenges(headers: Sequence[str]) -> list[Challenge]:
    """All challenges in the values of the *headers* WWW-Authenticate, in order.

    What can't be read ends its header; the challenges before it hold.
    """
    return [challenge for header in headers for challenge in _parse(header[:_MAX_HEADER])]


def _parse(header: str) -> list[Challenge]:
    challenges: list[Challenge] = []
    at = 0
    while at < len(header):
        if challenges and (match := _PARAMETER.match(header, at)):
            quoted, plain = match[2], match[3]
            value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
            challenges[-1].params.setdefault(match[1].lower(), value)
        elif match := _SCHEME.match(header, at):
            scheme, alone = (
                match[1].lower(),
                not header[match.end() :].strip() or header[match.end() :].lstrip()[0] == ",",
            )
            if not (challenges and alone) or scheme in _ALONE:
                challenges.append(Challenge(scheme, {}))
        else:
            break
        at = match.end()
    return challenges
