"""Other attachments of images: provenance, bills of materials, anything; listed, not verified.

    in the index, as a manifest for the platform unknown/unknown     BuildKit; not signed
    tag sha256-HEX.att                                               cosign 1 and 2; signed
    referrers of the digest                                          cosign 3 (bundles, signed), oras and others

Sources: BuildKit's docs/attestations/attestation-storage.md; cosign's specs/SIGNATURE_SPEC.md and BUNDLE_SPEC.md.
"""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import IntegrityError, NotFound
from enroot_slurm.trust import bundle
from enroot_slurm.trust.evidence import MAX_SIGNATURES, blobs_of, referrers_of
from enroot_slurm.trust.signature import Malformed, decoded, loaded, member

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.trust.evidence import BlobDescriptor, EvidenceSource

__all__ = ["MAX_SBOM", "Attachment", "attachments", "sbom_in"]

MAX_SBOM = 128 << 20
_SBOMS = (
    "https://spdx.dev/Document",
    "https://cyclonedx.org/bom",
    "application/spdx+json",
    "application/vnd.cyclonedx",
)
_ENVELOPE = "application/vnd.dsse.envelope.v1+json"
_STATEMENT = "application/vnd.in-toto+json"


class Attachment(NamedTuple):
    """One thing that is attached."""

    kind: str
    """The type of the statement or the artifact, such as ``https://spdx.dev/Document``."""
    digest: Digest
    """Of the blob."""
    size: int
    form: str
    """The blob's media type."""
    is_signed: bool
    """Whether a signature goes with it; by whom, and whether it is good, is another question."""

    @property
    def is_sbom(self) -> bool:
        """Whether it is a bill of materials in a form that is known."""
        return self.kind.startswith(_SBOMS)


def attachments(source: EvidenceSource, digest: Digest, index: Digest | None) -> list[Attachment]:
    """The attachments of the manifest *digest*, and of the *index* that it was taken from, if there is one.

    Raises: what *source* does when the registry does not answer.
    """
    found: dict[Digest, Attachment] = {}
    digests = dict.fromkeys((digest, index or digest))
    parts = [part for each in digests for part in (_by_tag(source, each), _referring(source, each))]
    if index is not None and index != digest:
        parts.append(_in_index(source, index, digest))
    for part in parts:
        with suppress(Malformed, IntegrityError, NotFound):  # what is broken does not hide the rest
            found.update((a.digest, a) for a in part)
    return list(found.values())


def sbom_in(attachment: Attachment, source: EvidenceSource) -> bytes | None:
    """The bill of materials that *attachment* is, as JSON; None where it can't be understood."""
    if attachment.size > MAX_SBOM:
        return None
    try:
        content = source.small_blob(attachment.digest, attachment.size)
        if attachment.form == _STATEMENT:
            return _predicate(content)
        if attachment.form == _ENVELOPE:
            return _predicate(decoded(member(loaded(content, "envelope", MAX_SBOM), "payload", str), "payload"))
        if attachment.form.startswith(bundle.MEDIA_TYPE):
            payload = member(loaded(content, "bundle", MAX_SBOM), "dsseEnvelope.payload", str)
            return _predicate(decoded(payload, "payload"))
        loaded(content, "document", MAX_SBOM)
    except (Malformed, IntegrityError, NotFound):
        return None
    return content


def _predicate(statement: bytes) -> bytes:
    predicate = loaded(statement, "statement", MAX_SBOM).get("predicate")
    if isinstance(predicate, dict) and set(predicate) == {"Data", "Timestamp"}:  # cosign's custom wrapping
        predicate = predicate["Data"]
    return json.dumps(predicate, indent=2).encode()


def _in_index(source: EvidenceSource, index: Digest, digest: Digest) -> Iterator[Attachment]:
    content = source.document(str(index))
    for entry in blobs_of(content, "manifests") if content else []:
        if (
            entry.annotations.get("vnd.docker.reference.type") == "attestation-manifest"
            and entry.annotations.get("vnd.docker.reference.digest") == str(digest)
            and (manifest := source.document(str(entry.digest)))
        ):
            for layer in blobs_of(manifest)[:MAX_SIGNATURES]:
                yield _attachment(layer, layer.annotations.get("in-toto.io/predicate-type"), is_signed=False)


def _by_tag(source: EvidenceSource, digest: Digest) -> Iterator[Attachment]:
    content = source.document(f"{digest.algorithm}-{digest.hex}.att")
    for layer in blobs_of(content)[:MAX_SIGNATURES] if content else []:
        yield _attachment(layer, layer.annotations.get("predicateType"), is_signed=True)


def _referring(source: EvidenceSource, digest: Digest) -> Iterator[Attachment]:
    for number, referrer in enumerate(referrers_of(source.referrers(digest))):
        if number == MAX_SIGNATURES:
            return
        content = source.document(str(referrer.digest))
        if content is None:
            continue
        with suppress(Malformed):
            annotations = loaded(content, "manifest", len(content)).get("annotations")
            stated = annotations.get("dev.sigstore.bundle.predicateType") if isinstance(annotations, dict) else None
            for layer in blobs_of(content)[:MAX_SIGNATURES]:
                is_signed = layer.kind.startswith(bundle.MEDIA_TYPE)
                kind = stated
                if is_signed and not stated and layer.size <= bundle.MAX_BUNDLE:
                    kind = bundle.predicate_of(source.small_blob(layer.digest, layer.size))
                yield _attachment(layer, kind or (None if is_signed else referrer.kind), is_signed=is_signed)


def _attachment(layer: BlobDescriptor, kind: Any, *, is_signed: bool) -> Attachment:
    kind = kind if isinstance(kind, str) and kind else layer.kind
    return Attachment(kind, layer.digest, layer.size, layer.kind, is_signed)
