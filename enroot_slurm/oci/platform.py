"""Platforms: operating system, architecture and variant (OCI image-spec, image-index.md, "platform").

The names of ``uname -m`` and Docker's are both understood:

    uname            OCI          |  uname             OCI
    x86_64, x86-64   amd64        |  armv7l, armhf     arm/v7
    aarch64          arm64        |  armv6l, armel     arm/v6
    ppc64le          ppc64le      |  armv5l            arm/v5
    riscv64          riscv64      |  i386, i486, i586, i686, x86   386
    s390x            s390x        |  loongarch64       loong64

An explicit variant may follow after a slash (``arm/v7``, ``amd64/v3``), and ``linux/`` may stand before.
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
_BASE_LEVEL = {"amd64": 1, "arm64": 8, "arm": 7}  # what a missing variant means (containerd/platforms, database.go)
_LEVEL = re.compile(r"v([1-9])(?:\.\d+)?", re.ASCII)
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
        return cls(architecture, explicit or variant)

    @classmethod
    def host(cls) -> Platform:
        """The platform of this node, from uname(2)."""
        return cls.parse(os.uname().machine)

    @classmethod
    def of_document(cls, architecture: str, variant: str = "", os_name: str = "linux") -> Platform:
        """The platform that a manifest or an image config states; foreign text, which need not be known."""
        named, implied = _UNAME.get(architecture.lower(), (architecture, ""))
        return cls(named, variant or implied, os_name or "linux")

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
        if offered <= wanted:
            return wanted - offered
        return None if self.variant else 100 + offered

    def best(self, candidates: Iterable[Platform]) -> int | None:
        """The index of the candidate that fits best (the first of equals), or None."""
        ranked = [(rank, i) for i, c in enumerate(candidates) if (rank := self.rank(c)) is not None]
        return min(ranked)[1] if ranked else None

    def _level(self) -> int | None:
        if not self.variant:
            return _BASE_LEVEL.get(self.architecture)
        match = _LEVEL.fullmatch(self.variant)
        return int(match[1]) if match else None

    @property
    def directory(self) -> str:
        """The platform as one safe path component."""
        return "-".join(p for p in (self.os, self.architecture, self.variant) if _WORD.fullmatch(p))

    def __str__(self) -> str:
        return "/".join(p for p in (self.os, self.architecture, self.variant) if p)
