"""Signatures as cosign 1 and 2 attach them: an image ``sha256-HEX.sig`` whose layers are "simple signing" payloads.

Each layer is one signature: the blob is the payload, annotations have the signature and what belongs to it.

Sources: cosign's specs/SIGNATURE_SPEC.md; containers/image's docs/containers-signature.5.md for the payload.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from enroot_slurm.errors import IntegrityError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust.signature import Claim, LogEntry, Malformed, Signature, decoded, loaded, member

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["LAYER", "MAX_PAYLOAD", "log_entry", "read_payload", "signature"]

LAYER = "application/vnd.dev.cosign.simplesigning.v1+json"
MAX_PAYLOAD = 4 << 20
_TYPE = "cosign container image signature"
_SIGNATURE = "dev.cosignproject.cosign/signature"
_CERTIFICATE = "dev.sigstore.cosign/certificate"
_CHAIN = "dev.sigstore.cosign/chain"
_BUNDLE = "dev.sigstore.cosign/bundle"


def signature(payload: bytes, annotations: Mapping[str, Any], place: str) -> Signature:
    """The signature that a layer with *annotations* and the blob *payload* is.  Raises: Malformed."""
    texts = {name: annotations.get(name) or "" for name in (_SIGNATURE, _CERTIFICATE, _CHAIN, _BUNDLE)}
    if not all(isinstance(text, str) for text in texts.values()):
        raise Malformed("an annotation is no text")
    chain = texts[_CHAIN].encode("utf-8", "replace")
    return Signature(
        place,
        signed=payload,
        payload=payload,
        value=decoded(texts[_SIGNATURE], "signature"),
        read=read_payload,
        certificate=texts[_CERTIFICATE].encode("utf-8", "replace"),
        chain=(chain,) if chain else (),
        log=_log(texts[_BUNDLE]) if texts[_BUNDLE] else None,
    )


def read_payload(content: bytes) -> Claim:
    """The statement in the payload *content*, whose signature has been verified.

    ``critical`` has to have just the three members that are understood.  Raises: Malformed.
    """
    critical = member(loaded(content, "payload", MAX_PAYLOAD), "critical", dict)
    shape = {name: set(value) if isinstance(value, dict) else value for name, value in critical.items()}
    if shape != {"identity": {"docker-reference"}, "image": {"docker-manifest-digest"}, "type": _TYPE}:
        raise Malformed("its payload is not that of an image's signature")
    name = member(critical, "identity.docker-reference", str)
    try:
        digest = Digest.parse(critical["image"]["docker-manifest-digest"])
    except IntegrityError as error:
        raise Malformed(str(error)) from None
    return Claim(frozenset({digest}), name)


def _log(text: str) -> LogEntry | None:
    """The annotation of the transparency log."""
    try:
        document = json.loads(text)
        return log_entry(document["SignedEntryTimestamp"], document["Payload"])
    except (ValueError, LookupError, TypeError, RecursionError, Malformed):
        return None


def log_entry(promise: object, payload: Mapping[str, Any]) -> LogEntry:
    """The entry that *payload* (body, integratedTime, logIndex, logID) describes.  Raises: Malformed."""
    return LogEntry(
        body=member(payload, "body", str),
        time=member(payload, "integratedTime", int),
        number=member(payload, "logIndex", int),
        log_id=member(payload, "logID", str),
        promise=decoded(promise, "log's signature"),
    )
