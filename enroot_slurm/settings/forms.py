"""The forms of values: a text becomes a value, or ValueError; and a value becomes a text that says the same.

A parser raises ConfigError where it can say more than the schema's "expected" does.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import ConfigError, InvalidReference, printable
from enroot_slurm.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "OFF",
    "absolute",
    "age",
    "age_text",
    "boolean",
    "boolean_text",
    "choice",
    "connections",
    "image_prefix",
    "imports",
    "integer",
    "mirror",
    "number_text",
    "optional_path",
    "path",
    "policy",
    "processors",
    "program",
    "quoted",
    "registry",
    "seconds",
    "size",
    "size_text",
    "trusted",
    "user_name",
    "watermark",
    "watermark_text",
]

OFF = frozenset({"no", "n", "false", "f"})
"""Values that enroot takes for unset, in lower case (enroot.in, config::fini)."""
_ON = frozenset({"yes", "y", "true"})
_MAX_CONNECTIONS = 64
_MAX_IMPORTS = 1024
_MIN_MEMORY = 16 << 20  # what -mem of mksquashfs takes at least
_INTEGER = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII)
_SECONDS = re.compile(r"(?:0|[1-9][0-9]{0,8})(?:\.[0-9]{1,6})?", re.ASCII)
_SIZE = re.compile(r"([1-9][0-9]{0,17}) ?(|[KMGT])(?:iB|B)?", re.ASCII | re.IGNORECASE)
_PERCENT = re.compile(r"([1-9][0-9]?|100) ?%", re.ASCII)
_AGE = re.compile(r"([1-9][0-9]{0,8}) ?([smhdw]?)", re.ASCII)
_UNITS = {"w": 604800, "d": 86400, "h": 3600, "m": 60, "s": 1}  # seconds
_DECIMAL_SIZE = re.compile(r"[0-9]+ ?[KMGT]B", re.ASCII | re.IGNORECASE)
_PROGRAM = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+-]*|/[^\s\0]*[^\s\0/]", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}\$?", re.ASCII)


def quoted(text: str) -> str:
    """*text* as messages show it."""
    return f"'{printable(text, 80)}'" if text else "nothing"


def boolean(text: str) -> bool:
    """``yes``, ``no`` and what enroot takes for them."""
    if text.lower() in _ON:
        return True
    if text.lower() in OFF:
        return False
    raise ValueError(text)


def integer(text: str) -> int:
    """A whole number of at most nine digits, without leading zeros."""
    if not _INTEGER.fullmatch(text):
        raise ValueError(text)
    return int(text)


def seconds(text: str) -> float:
    """Seconds, with a fraction if need be."""
    if not _SECONDS.fullmatch(text):
        raise ValueError(text)
    return float(text)


def processors(text: str) -> int:
    """A number of processors; 0: all that this process may use."""
    return integer(text) or len(os.sched_getaffinity(0))


def imports(text: str) -> int:
    """A number of imports at once."""
    return min(integer(text), _MAX_IMPORTS)


def connections(text: str) -> int:
    """A number of connections; 0: the most."""
    return min(integer(text) or _MAX_CONNECTIONS, _MAX_CONNECTIONS)


def size(text: str) -> int:
    """Bytes, of ``512MiB`` and the like."""
    if _DECIMAL_SIZE.fullmatch(text):
        raise ConfigError(
            f"expected a size such as 512MiB or 1GiB, got {quoted(text)}",
            hint=f"Sizes are powers of two: write {printable(text)[:-1]}iB.",
        )
    match = _SIZE.fullmatch(text)
    if not match:
        raise ValueError(text)
    size = int(match[1]) << (10 * " KMGT".index(match[2].upper() or " "))
    if not _MIN_MEMORY <= size < 1 << 50:
        raise ConfigError(f"expected a size of at least 16MiB, got {quoted(text)}")
    return size


def size_text(size: int) -> str:
    """*size* bytes as a text that `size` takes."""
    for unit, shift in (("TiB", 40), ("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if not size % (1 << shift):
            return f"{size >> shift}{unit}"
    return str(size)


def watermark(text: str) -> float:
    """Bytes, or a share between 0 and 1 of ``85%``; 0: none."""
    if not text or text.lower() in OFF:
        return 0.0
    match = _PERCENT.fullmatch(text)
    return int(match[1]) / 100 if match else float(size(text))


def watermark_text(value: float) -> str:
    """The text that `watermark` takes."""
    if value > 1:
        return size_text(int(value))
    return f"{value * 100:.0f}%" if value else ""


def age(text: str) -> float:
    """Seconds, of ``30d`` and the like; 0: none."""
    if not text or text.lower() in OFF:
        return 0.0
    match = _AGE.fullmatch(text)
    if not match:
        raise ValueError(text)
    return float(int(match[1]) * _UNITS[match[2] or "s"])


def age_text(value: float) -> str:
    """The text that `age` takes."""
    unit = next((unit for unit, seconds in _UNITS.items() if not value % seconds), "s")
    return f"{value / _UNITS[unit]:.0f}{unit}" if value else ""


def absolute(text: str) -> str:
    """An absolute path, as a text."""
    if not text.startswith("/"):
        raise ValueError(text)
    return text


def path(text: str) -> Path:
    """An absolute path."""
    return Path(absolute(text))


def optional_path(text: str) -> str:
    """An absolute path as a text, or empty."""
    return "" if not text or text.lower() in OFF else absolute(text)


def program(text: str) -> str:
    """A program's name or absolute path, or empty."""
    if not text or text.lower() in OFF:
        return ""
    if not _PROGRAM.fullmatch(text):
        raise ValueError(text)
    return text


def user_name(text: str) -> str:
    """A user's name, or empty."""
    if text and not _USER.fullmatch(text):
        raise ValueError(text)
    return text


def choice(*choices: str) -> Callable[[str], str]:
    """A parser that takes one of *choices*."""

    def parse(text: str) -> str:
        if text not in choices:
            raise ValueError(text)
        return text

    return parse


def registry(text: str) -> str:
    """A registry, as `Reference.registry` has it."""
    # The parser of image references decides what a registry is, and how it is spelled inside the program.
    if any(c in text for c in "@#/"):
        raise ValueError(text)
    try:
        return Reference.parse(f"docker://{text}#image").registry
    except InvalidReference:
        raise ValueError(text) from None


def image_prefix(text: str) -> str:
    """A prefix of images' full names, as `enroot_slurm.oci.names` takes it."""
    from enroot_slurm.oci.names import prefix_form  # noqa: PLC0415 - few sites have any

    host = text.partition("/")[0]
    if not any(c in host for c in ".:*") and host != "localhost":
        raise ConfigError(
            f"expected a full name, with its registry, got {quoted(text)}",
            hint=f"An image on Docker Hub is docker.io/{printable(text, 80)}.",
        )
    try:
        return prefix_form(text)
    except ValueError as error:
        raise ConfigError(f"{quoted(text)}: {error}") from None


def mirror(text: str) -> str:
    """``PREFIX=LOCATION``, with ``?ns=HOST`` behind it where a cache wants to be told for which registry it works.

    ``?ns`` alone stands for the prefix' own registry.
    """
    from enroot_slurm.oci.names import prefix_form  # noqa: PLC0415 - few sites have any

    prefix, equals, rest = text.partition("=")
    location, question, query = rest.partition("?")
    key, _, ns = query.partition("=")
    if not equals or (question and key != "ns"):
        raise ValueError(text)
    try:
        prefix = prefix_form(prefix.strip())
        location = prefix_form(location.strip(), domains=False)
        ns = prefix_form(ns or prefix.partition("/")[0], domains=False) if question else ""
        if "/" in ns:
            raise ValueError("ns is not HOST[:PORT]")  # noqa: TRY301 - told as those of prefix_form
    except ValueError as error:
        raise ConfigError(f"{quoted(text)}: {error}") from None
    return f"{prefix}={location}" + (f"?ns={ns}" if ns else "")


def trusted(text: str) -> str:
    """A host, domain or network, as `enroot_slurm.registry.reach` takes it."""
    from enroot_slurm.registry.reach import trusted_form  # noqa: PLC0415 - few sites have any

    return trusted_form(text)


def boolean_text(value: object) -> str:
    """``yes`` or ``no``."""
    return "yes" if value else "no"


def number_text(value: float) -> str:
    """A number without needless zeros."""
    return f"{value:f}".rstrip("0").rstrip(".")


def policy(text: str) -> str:
    """``off``, ``auto`` or an absolute path."""
    return text if text in {"off", "auto"} else absolute(text)
