"""The interface to which the members of layers are written: an image."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Content", "Sink"]


class Content(Protocol):
    """Takes the content of a file, piece by piece."""

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        """The content goes on with ``chunk[start:stop]``."""

    def zeros(self, count: int) -> None:
        """The content goes on with *count* zeros."""


class Sink(Content, Protocol):
    """Takes members in any order, but hard links after their targets; all belong to root.

    Modes are the twelve permission bits, times are seconds since 1970 (32 bits), paths are relative and clean.
    """

    def file(self, path: bytes, mode: int, mtime: int, size: int) -> None:
        """A regular file; its content follows."""

    def directory(self, path: bytes, mode: int, mtime: int) -> None:
        """A directory."""

    def symlink(self, path: bytes, mtime: int, target: bytes) -> None:
        """A symbolic link."""

    def device(self, path: bytes, kind: str, mode: int, mtime: int, device: tuple[int, int]) -> None:
        """A device (*kind* ``b`` or ``c``) with its major and minor number, or a fifo (``p``)."""

    def hardlink(self, path: bytes, target: bytes) -> None:
        """Another name of what is at *target*."""
