"""Whether a rule holds for an image: every requirement has to.

Of a signature, in this order: its bytes are verified with a key of the policy; only then they are parsed; the digest in
them has to be one of the image's that we have hashed ourselves, and the name has to fit ``signedIdentity``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ImageRefused
from enroot_slurm.trust.evidence import Evidence
from enroot_slurm.trust.requirements import SigstoreSigned
from enroot_slurm.trust.signature import Malformed

if TYPE_CHECKING:
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.trust.evidence import EvidenceSource
    from enroot_slurm.trust.names import ImageName
    from enroot_slurm.trust.requirements import Rule
    from enroot_slurm.trust.signature import Signature
    from enroot_slurm.trust.signer import Signers

__all__ = ["Approval", "JudgedImage", "judge"]

_SHOWN = 5  # reasons in a message


class JudgedImage(NamedTuple):
    """The image that is judged."""

    name: ImageName | None
    """None: an archive, whose images have no name that could be checked."""
    digests: tuple[Digest, ...]
    """Of the manifest that is used, and before it of the index that names it, if there is one; all hashed by us."""
    text: str
    """For people."""


class Approval(NamedTuple):
    """Which signature fulfilled a requirement."""

    by: str
    signed: Digest
    """The index, or the manifest in it."""


def judge(rule: Rule, image: JudgedImage, source: EvidenceSource) -> list[Approval]:
    """The signatures because of which *image* fulfils *rule*, which is bound; none where none is asked for.

    Raises: ImageRefused; ConfigError, when a key of the policy is none; what *source* raises.
    """
    rule.refuse_by_name(image.text)
    evidence = Evidence(source)
    return [
        _signed(requirement, rule, image, evidence)
        for requirement in rule.requirements
        if isinstance(requirement, SigstoreSigned)
    ]


def _signed(requirement: SigstoreSigned, rule: Rule, image: JudgedImage, evidence: Evidence) -> Approval:
    from enroot_slurm.trust.signer import Signers  # noqa: PLC0415 - it needs the extra

    signers = Signers(requirement)
    reasons, count = [], 0
    for digest in image.digests:
        for found in evidence.of(digest):
            count += 1
            if found.signature is None:
                reasons.append(found.reason)
                continue
            try:
                return Approval(_approved(found.signature, digest, image, requirement, signers), digest)
            except Malformed as error:
                reasons.append(f"{found.signature.place}: {error}")
    wish = requirement.wish
    asked = f"{rule.place} asks for one by {wish}"
    if not count:
        raise ImageRefused(
            f"{image.text} is not signed: {asked}",
            hint=f"Looked for: {', '.join(evidence.places)}. 'cosign sign' makes a signature.",
        )
    what = "a signature" if count == 1 else f"{count} signatures"
    looked = f"{count} signature{'s' if count > 1 else ''} looked at"
    raise ImageRefused(
        f"{image.text} has {what}, but none that is good by {wish} ({looked}): {asked}",
        hint="\n".join([*reasons[:_SHOWN], *(["..."] if len(reasons) > _SHOWN else [])]),
    )


def _approved(
    signature: Signature, digest: Digest, image: JudgedImage, requirement: SigstoreSigned, signers: Signers
) -> str:
    """By whom *signature* approves *image*, whose manifest or index *digest* is.  Raises: Malformed."""
    by = signers.of(signature)
    claim = signature.read(signature.payload)
    if digest not in claim.digests:
        raise Malformed("it is the signature of another image")
    identity = requirement.identity
    if claim.name is not None:
        if mismatch := identity.mismatch(claim.name, image.name):
            raise Malformed(mismatch)
    elif identity.kind != "matchRepository":
        raise Malformed(f"it names no image, so {identity.kind} can't hold; only matchRepository can")
    return by
