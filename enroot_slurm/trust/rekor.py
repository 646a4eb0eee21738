"""The transparency log: its signed promise that it recorded a signature, and when.

The promise (SignedEntryTimestamp) is a signature over the entry's body, time, index and log in canonical JSON.  It is
verified with the log's key of the policy, without asking the log.

Sources: sigstore/rekor, openapi.yaml (LogEntry) and pkg/types (hashedrekord 0.0.1, dsse 0.0.1); RFC 8785.
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING

from enroot_slurm.trust.signature import Malformed, decoded, loaded, member

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from enroot_slurm.trust.crypto import Key
    from enroot_slurm.trust.signature import Signature

__all__ = ["recorded_at"]

_MAX_BODY = 4 << 20


def recorded_at(signature: Signature, key: Key, logs: Iterable[Key]) -> int:
    """When one of *logs* recorded *signature*, which *key* has verified: seconds since 1970.

    Raises: Malformed, with the reason why that is not so.
    """
    entry = signature.log
    if entry is None:
        raise Malformed("there is no promise of a transparency log with it")
    # Canonical, since there are only texts of base64 and hexadecimal digits and whole numbers.
    content = {"body": entry.body, "integratedTime": entry.time, "logID": entry.log_id, "logIndex": entry.number}
    promised = json.dumps(content, separators=(",", ":"), sort_keys=True).encode()
    if not any(log.verifies(entry.promise, promised) for log in logs):
        raise Malformed("the promise of a transparency log with it is not by a log of the policy")
    body = loaded(decoded(entry.body, "log entry"), "log entry", _MAX_BODY)
    kind = (body.get("kind"), body.get("apiVersion"))
    if kind == ("hashedrekord", "0.0.1"):
        fits = _is_of_hash(body, signature, key)
    elif kind == ("dsse", "0.0.1"):
        fits = _is_of_envelope(body, signature, key)
    else:
        raise Malformed("its log entry is of a kind that is not known")
    if not fits:
        raise Malformed("its log entry is that of another signature")
    return entry.time


def _is_of_hash(body: dict[str, Any], signature: Signature, key: Key) -> bool:
    value = decoded(member(body, "spec.signature.content", str), "log entry")
    pem = decoded(member(body, "spec.signature.publicKey.content", str), "log entry")
    algorithm = member(body, "spec.data.hash.algorithm", str)
    if algorithm not in {"sha256", "sha384", "sha512"}:
        return False
    expected = hashlib.new(algorithm, signature.signed).hexdigest()
    return member(body, "spec.data.hash.value", str) == expected and value == signature.value and key.is_in(pem)


def _is_of_envelope(body: dict[str, Any], signature: Signature, key: Key) -> bool:
    signatures = member(body, "spec.signatures", list)
    if len(signatures) != 1 or member(body, "spec.payloadHash.algorithm", str) != "sha256":
        return False
    one = {"one": signatures[0]}
    return (
        member(body, "spec.payloadHash.value", str) == hashlib.sha256(signature.payload).hexdigest()
        and decoded(member(one, "one.signature", str), "log entry") == signature.value
        and key.is_in(decoded(member(one, "one.verifier", str), "log entry"))
    )
