"""What was chosen in an archive, and the errors for what can't be."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import InvalidReference, NotFound, UsageError, printable
from enroot_slurm.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Index, Manifest

__all__ = ["Choice", "absent", "ambiguous", "reference_of"]

_MAX_LISTED = 20


class Choice(NamedTuple):
    """One image, maybe for several platforms."""

    root: Manifest | Index
    """What the name leads to."""
    name: Reference | None
    """The image's own name, if it has one."""
    documents: Mapping[Digest, bytes]
    """That are no blobs of the archive: index.json, or a manifest that was made for it."""
    places: Mapping[Digest, str]
    """The members of blobs that are not called ``blobs/ALGORITHM/HEX``."""


def reference_of(name: str) -> Reference | None:
    """The reference that *name* is, normalised as Docker does it; None: it is none."""
    try:
        reference = Reference.parse(f"docker://{name}")
    except InvalidReference:
        return None
    return None if reference.user else reference


def ambiguous(title: str, listed: Sequence[tuple[int, str]], example: str) -> UsageError:
    """The error for several images (number and name) of which none was named."""
    return UsageError(
        f"{title} holds {len(listed)} images:{_list(listed)}", hint=f"Choose one: {example}:NAME or {example}:@N."
    )


def absent(title: str, selector: str, listed: Sequence[tuple[int, str]]) -> NotFound:
    """The error for a name or number that is not there."""
    return NotFound(
        f"{title} has no image {printable(selector)}", hint=f"It holds:{_list(listed)}" if listed else "It holds none."
    )


def _list(listed: Sequence[tuple[int, str]]) -> str:
    lines = [f"\n  @{number} {printable(name or '(no name)')}" for number, name in listed[:_MAX_LISTED]]
    return "".join(lines) + (f"\n  ... and {len(listed) - _MAX_LISTED} more" if len(listed) > _MAX_LISTED else "")
