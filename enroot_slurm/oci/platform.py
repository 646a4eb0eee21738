"""Platforms: operating system, architecture and variant (OCI image-spec, image-index.md, "platform").

The names of ``uname -m`` and Docker's are both understood:

    uname            OCI          |  uname             OCI
    x86_64, x86-64   amd64        |  armv7l, armhf     arm/v7
    aarch64          arm64        |  armv6l, armel     arm/v6
    ppc64le          ppc64le      |  armv5l            arm/v5
    riscv64          riscv64      |  i386, i486, i586, i686, x86   386
    s390x            s390x        |  loongarch64       loong64

An explicit variant may follow after a slash (``arm/v7``, ``amd64/v3``, ``arm64/v8.2``), and ``linux/`` may stand
before.  Case does not count, and a variant's "v" may be missing (containerd/platforms, database.go).
"""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import InvalidPlatform, printable

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Platform"]

_UNAME = {
    "x86_64": ("amd64", ""),
    "x86-64": ("amd64", ""),
    "x64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv8l": ("arm", "v7"),
    "armv7l": ("arm", "v7"),
    "armhf": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "armel": ("arm", "v6"),
    "armv5l": ("arm", "v5"),
    "armv5tel": ("arm", "v5"),
    "i386": ("386", ""),
    "i486": ("386", ""),
    "i586": ("386", ""),
    "i686": ("386", ""),
    "x86": ("386", ""),
    "loongarch64": ("loong64", ""),
}
_KNOWN = {"386", "amd64", "arm", "arm64", "loong64", "mips64le", "ppc64", "ppc64le", "riscv64", "s390x"}
_BASE = {"amd64": "v1", "arm64": "v8", "arm": "v7"}  # what a missing variant means (containerd/platforms, database.go)
_LEVEL = re.compile(r"v?([1-9])(?:\.(\d))?", re.ASCII)
_ARM_9 = 5  # v9.N has what v8.N+5 has (containerd/platforms, compare.go)
_LAST = 1000  # ranks from here on are guesses
_WORD = re.compile(r"[A-Za-z0-9._-]+", re.ASCII)


class Platform(NamedTuple):
    """An architecture in Docker's names with an optional variant; *os* is ``linux`` for all that runs here."""

    architecture: str
    variant: str = ""
    os: str = "linux"

    @classmethod
    def parse(cls, text: str) -> Platform:
        """The platform that *text* names, in uname's or Docker's words.

        Raises: InvalidPlatform.
        """
        parts = text.strip().lower().removeprefix("linux/").split("/")
        architecture, variant = _UNAME.get(parts[0], (parts[0], ""))
        explicit = parts[1] if len(parts) == 2 else ""
        if len(parts) > 2 or architecture not in _KNOWN or (len(parts) == 2 and not _LEVEL.fullmatch(explicit)):
            raise InvalidPlatform(
                f"unknown architecture: {printable(text, 60)!r}",
                hint="Names are uname's or Docker's: x86_64 (amd64), aarch64 (arm64), ppc64le, riscv64, s390x, arm/v7.",
            )
        return cls(architecture, _normal(explicit) or variant)

    @classmethod
    def host(cls) -> Platform:
        """The platform of this node, from uname(2)."""
        return cls.parse(os.uname().machine)

    @classmethod
    def of_document(cls, architecture: str, variant: str = "", os_name: str = "linux") -> Platform:
        """The platform that a manifest or an image config states; foreign text, which need not be known."""
        lower = architecture.lower()
        named, implied = _UNAME.get(lower, (lower if lower in _KNOWN else architecture, ""))
        return cls(named, _normal(variant) or implied, os_name.lower() or "linux")

    @property
    def runnable(self) -> bool:
        """Whether there can be a node for it, so that ``--arch`` takes its name."""
        return self.os == "linux" and self.architecture in _KNOWN and (not self.variant or self._level() is not None)

    def rank(self, candidate: Platform) -> int | None:
        """How well *candidate*, an image's platform, runs on this one: 0 is best, None is not at all.

        The same variant is best, then lower ones in falling order (they run everywhere above).  Where this platform
        states no variant, a higher one is the last choice: the CPU may have it.
        """
        if (candidate.os, candidate.architecture) != (self.os, self.architecture):
            return None
        if candidate.variant == self.variant:
            return 0
        wanted, offered = self._level(), candidate._level()
        if wanted is None or offered is None:
            return None
        if self.architecture == "arm64" and (wanted[0], offered[0]) == (9, 8):
            runs = offered[1] <= wanted[1] + _ARM_9
        else:
            runs = offered <= wanted
        distance = 10 * wanted[0] + wanted[1] - 10 * offered[0] - offered[1]
        if runs:
            return 1 + distance
        return None if self.variant else _LAST - distance

    def best(self, candidates: Iterable[Platform]) -> int | None:
        """The index of the candidate that fits best (the first of equals), or None."""
        ranked = [(rank, i) for i, c in enumerate(candidates) if (rank := self.rank(c)) is not None]
        return min(ranked)[1] if ranked else None

    def _level(self) -> tuple[int, int] | None:
        """The variant's number, and the minor one behind its dot."""
        match = _LEVEL.fullmatch(self.variant or _BASE.get(self.architecture, ""))
        return (int(match[1]), int(match[2] or 0)) if match else None

    @property
    def directory(self) -> str:
        """The platform as one safe path component."""
        return "-".join(p for p in (self.os, self.architecture, self.variant) if _WORD.fullmatch(p))

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)


def _normal(variant: str) -> str:
    """*variant* in lower case, with the "v" that some leave out, and without a minor number of 0."""
    match = _LEVEL.fullmatch(variant.lower())
    if match is None:
        return variant.lower()
    return f"v{match[1]}" + (f".{match[2]}" if match[2] not in {None, "0"} else "")
