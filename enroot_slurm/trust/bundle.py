"""Signatures as cosign 3 attaches them: Sigstore bundles, each a referrer of the image.

What is signed is a DSSE envelope with an in-toto statement, whose subjects are digests.  There is no name in it: who
holds a signed image can offer it by any name for which the same key is asked for.

Sources: cosign's specs/BUNDLE_SPEC.md; sigstore's protobuf-specs, sigstore_bundle.proto; secure-systems-lab/dsse,
protocol.md; in-toto/attestation, spec/v1/statement.md.
"""

from __future__ import annotations

import re
from contextlib import suppress
from typing import Any

from enroot_slurm.errors import IntegrityError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust.signature import Claim, LogEntry, Malformed, Signature, decoded, loaded, member
from enroot_slurm.trust.simple_signing import log_entry

__all__ = ["MAX_BUNDLE", "MEDIA_TYPE", "pae", "predicate_of", "read_statement", "signature"]

MEDIA_TYPE = "application/vnd.dev.sigstore.bundle"
MAX_BUNDLE = 16 << 20
_VERSION = r"application/vnd\.dev\.sigstore\.bundle(?:\.v0\.3\+json|\+json;version=0\.3)"
_STATEMENTS = {"https://in-toto.io/Statement/v1", "https://in-toto.io/Statement/v0.1"}
_PAYLOAD = "application/vnd.in-toto+json"
_SIGN = "https://sigstore.dev/cosign/sign/v1"
_MAX_SUBJECTS = 1024
_MAX_ENTRIES = 32


def signature(content: bytes, place: str) -> Signature:
    """The signature in the bundle *content*.  Raises: Malformed."""
    document = loaded(content, "bundle", MAX_BUNDLE)
    if not re.fullmatch(_VERSION, member(document, "mediaType", str)):
        raise Malformed("it is a bundle of another version than 0.3")
    if "messageSignature" in document:
        raise Malformed("it signs a file, not an image")
    payload = decoded(member(document, "dsseEnvelope.payload", str), "payload")
    kind = member(document, "dsseEnvelope.payloadType", str)
    signatures = member(document, "dsseEnvelope.signatures", list)
    if len(signatures) != 1 or not isinstance(signatures[0], dict):
        raise Malformed(f"its envelope has {len(signatures)} signatures instead of one")
    if kind != _PAYLOAD:
        raise Malformed("its payload is no in-toto statement")
    material = member(document, "verificationMaterial", dict)
    first, *others = _certificates(material) or [b""]
    return Signature(
        place,
        signed=pae(kind, payload),
        payload=payload,
        value=decoded(signatures[0].get("sig"), "signature"),
        read=read_statement,
        certificate=first,
        chain=tuple(others),
        log=_log(material),
    )


def pae(kind: str, payload: bytes) -> bytes:
    """The bytes of a *payload* that are signed: the pre-authentication encoding of DSSE."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(payload), payload)


def predicate_of(content: bytes) -> str:
    """The kind of statement in the bundle *content*, not verified; empty where there is none."""
    with suppress(Malformed):
        document = loaded(content, "bundle", MAX_BUNDLE)
        statement = loaded(decoded(member(document, "dsseEnvelope.payload", str), "payload"), "statement", MAX_BUNDLE)
        return str(member(statement, "predicateType", str))
    return ""


def read_statement(payload: bytes) -> Claim:
    """The digests that the statement *payload* approves.

    An attestation, of what is in an image or how it was built, is no approval, whoever has signed it.
    Raises: Malformed.
    """
    statement = loaded(payload, "statement", MAX_BUNDLE)
    if member(statement, "_type", str) not in _STATEMENTS:
        raise Malformed("its payload is no in-toto statement")
    if member(statement, "predicateType", str) != _SIGN:
        raise Malformed("it is an attestation, not a signature of the image")
    subjects = member(statement, "subject", list)
    if len(subjects) > _MAX_SUBJECTS:
        raise Malformed(f"it has more than {_MAX_SUBJECTS} subjects")
    digests = set()
    for subject in subjects:
        with suppress(Malformed, IntegrityError):
            digests.add(Digest.parse(f"sha256:{member(subject, 'digest.sha256', str)}"))
    return Claim(frozenset(digests), None)


def _certificates(material: dict[str, Any]) -> list[bytes]:
    if "certificate" in material:
        return [decoded(member(material, "certificate.rawBytes", str), "certificate")]
    if "x509CertificateChain" in material:
        chain = member(material, "x509CertificateChain.certificates", list)
        return [decoded(member({"c": each}, "c.rawBytes", str), "certificate") for each in chain]
    return []


def _log(material: dict[str, Any]) -> LogEntry | None:
    """The first entry with a promise of its log; those of Rekor 2 have none, and no time."""
    entries = material.get("tlogEntries")
    for entry in entries[:_MAX_ENTRIES] if isinstance(entries, list) else []:
        with suppress(Malformed, ValueError):
            whole = {"entry": entry}
            return log_entry(
                member(whole, "entry.inclusionPromise.signedEntryTimestamp", str),
                {
                    "body": member(whole, "entry.canonicalizedBody", str),
                    # 64-bit numbers are texts in protobuf's JSON, but 0 and small ones from some writers.
                    "integratedTime": _number(entry.get("integratedTime")),
                    "logIndex": _number(entry.get("logIndex", "0")),
                    "logID": decoded(member(whole, "entry.logId.keyId", str), "log's name").hex(),
                },
            )
    return None


def _number(value: object) -> int:
    if type(value) is int:
        return value
    if not isinstance(value, str) or not re.fullmatch("[0-9]{1,19}", value, re.ASCII):
        raise Malformed("a number is expected")
    return int(value)
