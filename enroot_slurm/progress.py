"""Reports of a running import: a library call is silent unless it is given a `Progress`.

Nothing is imported here: a hook that finds its image in the cache has nothing to tell, and loads this all the same.
"""

from __future__ import annotations

__all__ = ["Progress", "duration_text", "size_text"]


class Progress:
    """Hears how far an import is, and does nothing with it: override what you want to hear.

    Any thread may call any method, so a method of yours must not wait for long.
    """

    def phase(self, name: str) -> None:
        """A new phase begins, such as "resolving"."""

    def waiting(self, text: str) -> None:
        """Another process does the work; *text* says which, and how far it is.  Called about once a second."""

    def expect(self, size: int) -> None:
        """*size* bytes will be downloaded in all."""

    def received(self, count: int) -> None:
        """*count* more bytes have been downloaded."""

    def converted(self, total: int) -> None:
        """*total* bytes of the root file system have been decoded up to now."""

    def warn(self, text: str) -> None:
        """A person should know *text*, but the import goes on."""


def size_text(size: int) -> str:
    """*size* bytes for people: ``1.5 GiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration_text(seconds: float) -> str:
    """*seconds* for people: ``2 min 05 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"
