"""The meaning of a layer's members: whiteouts (image-spec, layer.md), and the modes that enroot gives to files."""

from __future__ import annotations

__all__ = ["AUFS", "OPAQUE", "WHITEOUT", "readable"]

WHITEOUT = b".wh."
"""How the name of a whiteout begins; what follows is the name that it removes."""
OPAQUE = b".wh..wh..opq"
"""The whiteout of all that lower layers have in its directory."""
AUFS = b".wh..wh."
"""How names of aufs's own metadata begin: they are nobody's files, and remove nothing."""


def readable(mode: int) -> int:
    """*mode* as enroot sets it: readable by its owner, and executable if it is for anyone."""
    return mode | (0o500 if mode & 0o111 else 0o400)
