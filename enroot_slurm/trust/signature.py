"""One signature as it was found, and what it says of an image, whatever the format it came in."""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import IntegrityError, printable
from enroot_slurm.oci.manifest import load_json

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enroot_slurm.oci.digest import Digest

__all__ = ["Claim", "LogEntry", "Malformed", "Signature", "decoded", "loaded", "member"]


class Malformed(Exception):
    """A signature, or what is around it, is not of the form that it should have; the message is for people."""


class Claim(NamedTuple):
    """A signer's statement."""

    digests: frozenset[Digest]
    """The manifests that are approved."""
    name: str | None
    """The image's name as the signer knew it; None: this format says none."""


class LogEntry(NamedTuple):
    """A transparency log's promise of what it has recorded."""

    body: str
    """In base64, as it was recorded."""
    time: int
    """Seconds since 1970."""
    number: int
    """Its place in the log."""
    log_id: str
    """In hexadecimal digits."""
    promise: bytes
    """The log's signature over the four above (the SignedEntryTimestamp)."""


class Signature(NamedTuple):
    """A signature.  Nothing in it is to be believed before `value` has been verified over `signed`."""

    place: str
    """Where it was found, for people."""
    signed: bytes
    """The bytes that were signed."""
    payload: bytes
    value: bytes
    read: Callable[[bytes], Claim]
    """The statement in `payload`.  Raises: Malformed."""
    certificate: bytes = b""
    """PEM or DER."""
    chain: tuple[bytes, ...] = ()
    """Certificates between that one and a root."""
    log: LogEntry | None = None
    """Raises nothing: an entry that can't be understood is None."""


def decoded(text: object, what: str) -> bytes:
    """The bytes that *text* has in base64.  Raises: Malformed."""
    try:
        if isinstance(text, str):
            return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        pass
    raise Malformed(f"its {what} is not base64")


def member(document: Mapping[str, Any], path: str, kind: type) -> Any:
    """The member at *path*, names with dots between, which is of *kind*.  Raises: Malformed."""
    value: Any = document
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    if type(value) is not kind:
        raise Malformed(f"it has no {path}")
    return value


def loaded(content: bytes, what: str, limit: int) -> dict[str, Any]:
    """The JSON object in *content*.  Raises: Malformed."""
    try:
        return load_json(content, what, limit)
    except IntegrityError as error:
        raise Malformed(printable(str(error))) from None
