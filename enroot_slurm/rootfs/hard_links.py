"""Hard links in a layer that name other hard links."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, printable

if TYPE_CHECKING:
    from collections.abc import Container, Mapping

__all__ = ["ends"]


def ends(targets: Mapping[bytes, bytes], directories: Container[bytes]) -> dict[bytes, bytes]:
    """By link: the first name that is no link, on the way that *targets* tell; each link is passed once.

    Raises: IntegrityError, for a circle, and for a link to one of the *directories*.
    """
    found: dict[bytes, bytes] = {}
    for path in targets:
        chain: dict[bytes, None] = {}
        at = path
        while at in targets and at not in found:
            if at in chain:
                raise IntegrityError(f"{printable(path)} is a hard link to itself in a layer")
            chain[at] = None
            at = targets[at]
        end = found.get(at, at)
        if end in directories:
            raise IntegrityError(f"{printable(path)} is a hard link to {printable(end)} in a layer, a directory")
        found.update(dict.fromkeys(chain, end))
    return found
