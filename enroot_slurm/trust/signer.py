"""By whom a signature is: one of the policy's keys, or a certificate that one of its CAs has given somebody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.trust.crypto import Certificate, Key, certificates
from enroot_slurm.trust.rekor import recorded_at
from enroot_slurm.trust.signature import Malformed

if TYPE_CHECKING:
    from enroot_slurm.trust.requirements import Fulcio, Material, Pki, SigstoreSigned
    from enroot_slurm.trust.signature import Signature

__all__ = ["Signers"]


class Signers:
    """Those whose signatures fulfil a requirement, which is bound.

    Raises: ConfigError, when a key or certificate of the policy can't be read.
    """

    def __init__(self, requirement: SigstoreSigned) -> None:
        self._requirement = requirement
        self._keys = [Key.load(each.content, each.name) for each in requirement.keys]
        self._logs = [Key.load(each.content, each.name) for each in requirement.rekor]
        ca = requirement.fulcio.ca if requirement.fulcio else requirement.pki.roots if requirement.pki else None
        self._roots = _certificates(ca)
        self._between = _certificates(requirement.pki.intermediates) if requirement.pki else []

    def of(self, signature: Signature) -> str:
        """By whom *signature* is, for people.  Raises: Malformed, when it is by nobody who counts."""
        if self._requirement.fulcio:
            return self._of_fulcio(signature, self._requirement.fulcio)
        if self._requirement.pki:
            return self._of_pki(signature, self._requirement.pki)
        key = next((key for key in self._keys if key.verifies(signature.value, signature.signed)), None)
        if key is None:
            raise Malformed("it is by another key, or what it signs was changed")
        if self._logs:
            recorded_at(signature, key, self._logs)
        return key.text

    def _of_fulcio(self, signature: Signature, wish: Fulcio) -> str:
        leaf, between = _chain(signature)
        key = self._key_of(leaf, signature)
        at = recorded_at(signature, key, self._logs)
        if problem := leaf.is_trusted(self._roots, between, at):
            raise Malformed(problem)
        if not leaf.signs_code:
            raise Malformed("its certificate is not for signing")
        try:
            emails, issuers = leaf.emails, leaf.issuers
        except ValueError:
            raise Malformed("its certificate can't be understood") from None
        if issuers != {wish.issuer}:
            raise Malformed("its certificate is by another oidcIssuer")
        if wish.email not in emails:
            raise Malformed("its certificate is for another e-mail address")
        return wish_text(wish.email, wish.issuer)

    def _of_pki(self, signature: Signature, wish: Pki) -> str:
        leaf, between = _chain(signature)
        self._key_of(leaf, signature)
        if problem := leaf.is_trusted(self._roots, [*self._between, *between], None):
            raise Malformed(problem)
        try:
            emails, hostnames = leaf.emails, leaf.hostnames
        except ValueError:
            raise Malformed("its certificate can't be understood") from None
        if wish.email and wish.email not in emails:
            raise Malformed("its certificate is for another e-mail address")
        if wish.hostname and wish.hostname.lower() not in {name.lower() for name in hostnames}:
            raise Malformed("its certificate is for another host")
        return wish_text(wish.email or wish.hostname, wish.roots.name)

    @staticmethod
    def _key_of(leaf: Certificate, signature: Signature) -> Key:
        try:
            key = leaf.key
        except ValueError as error:
            raise Malformed(f"the key of its certificate: {error}") from None
        if not key.verifies(signature.value, signature.signed):
            raise Malformed("it is by another key than its certificate's, or what it signs was changed")
        return key


def wish_text(name: str, issuer: str) -> str:
    """*name* as *issuer* knows it."""
    return f"{name} ({issuer})"


def _certificates(material: Material | None) -> list[Certificate]:
    return certificates(material.content, material.name) if material else []


def _chain(signature: Signature) -> tuple[Certificate, list[Certificate]]:
    """The certificate of *signature*, and those between it and a root."""
    if not signature.certificate:
        raise Malformed("it has no certificate")
    try:
        leaf, *others = Certificate.load(signature.certificate)
        return leaf, others + [each for data in signature.chain for each in Certificate.load(data)]
    except ValueError:
        raise Malformed("its certificate can't be understood") from None
