"""Requirements that a policy can have for an image, as values; `policy` reads them from JSON.

Keys and certificates are named by files or written down in base64.  `bound` reads the files, so that what a rule asks
for is all in it, and its fingerprint changes with each of its keys.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ImageRefused
from enroot_slurm.oci.digest import hash_of_text
from enroot_slurm.trust.identity import SignedIdentity

if TYPE_CHECKING:
    from collections.abc import Callable

    Read = Callable[[str], bytes]
    """The content of a file of the administrator's.  Raises: ConfigError."""

__all__ = [
    "AcceptAnything",
    "Fulcio",
    "Material",
    "Pki",
    "Read",
    "Reject",
    "Requirement",
    "Rule",
    "SignedBy",
    "SigstoreSigned",
]


class Material(NamedTuple):
    """PEM text: of a file, whose content is there once it has been read, or written in the policy itself."""

    path: str
    """Empty: it is written in the policy."""
    content: bytes = b""

    @property
    def name(self) -> str:
        """For people."""
        return self.path or "the key written in the policy"

    def bound(self, read: Read) -> Material:
        """This with its content."""
        return self._replace(content=read(self.path)) if self.path else self


class AcceptAnything(NamedTuple):
    """``insecureAcceptAnything``."""

    def bound(self, _: Read) -> AcceptAnything:
        """Itself: there is nothing to read."""
        return self


class Reject(NamedTuple):
    """``reject``."""

    def bound(self, _: Read) -> Reject:
        """Itself."""
        return self


class SignedBy(NamedTuple):
    """``signedBy``: simple signing with GPG, which is not verified here, so never fulfilled."""

    def bound(self, _: Read) -> SignedBy:
        """Itself."""
        return self


class Fulcio(NamedTuple):
    """The signer that a policy allows, by a certificate of a Fulcio CA."""

    ca: Material
    issuer: str
    email: str


class Pki(NamedTuple):
    """The signer that a policy allows, by a certificate of the site's own CA."""

    roots: Material
    intermediates: Material | None
    email: str
    hostname: str


class SigstoreSigned(NamedTuple):
    """``sigstoreSigned``: a signature as cosign makes it, by one of `keys`, or by a certificate."""

    keys: tuple[Material, ...] = ()
    fulcio: Fulcio | None = None
    pki: Pki | None = None
    rekor: tuple[Material, ...] = ()
    """Keys of transparency logs, one of which must have recorded the signature; none: that is not asked for."""
    identity: SignedIdentity = SignedIdentity()

    def bound(self, read: Read) -> SigstoreSigned:
        """This with the contents of all files.  Raises: ConfigError."""
        fulcio, pki = self.fulcio, self.pki
        if fulcio:
            fulcio = fulcio._replace(ca=fulcio.ca.bound(read))
        if pki:
            between = pki.intermediates.bound(read) if pki.intermediates else None
            pki = pki._replace(roots=pki.roots.bound(read), intermediates=between)
        return self._replace(
            keys=tuple(key.bound(read) for key in self.keys),
            fulcio=fulcio,
            pki=pki,
            rekor=tuple(key.bound(read) for key in self.rekor),
        )

    @property
    def wish(self) -> str:
        """By whom the signature has to be, for people."""
        if self.fulcio:
            return f"{self.fulcio.email} ({self.fulcio.issuer})"
        if self.pki:
            return " and ".join(filter(None, (self.pki.email, self.pki.hostname)))
        return " or ".join(key.name for key in self.keys)


Requirement = AcceptAnything | Reject | SignedBy | SigstoreSigned


class Rule(NamedTuple):
    """One policy's rule for one image: all of `requirements`."""

    file: str
    scope: str
    """The place in the policy, for people: ``docker scope registry.site/prod``."""
    requirements: tuple[Requirement, ...]

    def refuse_by_name(self, text: str) -> None:
        """Raises: ImageRefused, when the image, known to people as *text*, is refused whatever is signed."""
        for requirement in self.requirements:
            if isinstance(requirement, Reject):
                raise ImageRefused(
                    f"{text} must not be used here: {self.place} says 'reject'",
                    hint="Use an image from a place that the policy names, or ask your administrator.",
                )
            if isinstance(requirement, SignedBy):
                raise ImageRefused(
                    f"{text} must be signed with GPG (signedBy), says {self.place}, and that is not verified here",
                    hint="Ask your administrator for a rule with sigstoreSigned, which cosign's signatures fulfil.",
                )

    def bound(self, read: Read) -> Rule:
        """This with the contents of all files that it names.  Raises: ConfigError."""
        return self._replace(requirements=tuple(each.bound(read) for each in self.requirements))

    @property
    def needs_signatures(self) -> bool:
        """Whether more than the name is needed to judge."""
        return any(isinstance(each, SigstoreSigned) for each in self.requirements)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits, of a rule that is bound: another key, another fingerprint."""
        return hash_of_text("\n".join(f"{type(r).__name__} {r!r}" for r in self.requirements), 32)

    @property
    def place(self) -> str:
        """The file and the place in it."""
        return f"{self.file} ({self.scope})"
