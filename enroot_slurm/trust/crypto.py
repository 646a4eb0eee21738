"""Keys and certificates: the only module that imports ``cryptography``, which is an extra.

Keys are PEM files with ``PUBLIC KEY``, as ``cosign generate-key-pair`` and ``cosign public-key`` write them: ECDSA over
P-256, P-384 or P-521, RSA of 2048 bits or more (PKCS #1 v1.5, SHA-256), Ed25519.  Of the two hashes that cosign's
releases take with the larger curves, both are tried.

Sources: RFC 5280; Fulcio's docs/oid-info.md.
"""

from __future__ import annotations

import hashlib
from contextlib import suppress
from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple, Self

from enroot_slurm.errors import ConfigError, ImageRefused

try:
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.x509.oid import ExtendedKeyUsageOID
    from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError
except ImportError as missing:
    raise ImageRefused(
        f"the policy asks for a signature, but signatures can't be verified here: {missing}",
        hint="Packages and the archive of enroot-slurm have what is needed for that: install them again. "
        "Where pip has installed it: pip install 'enroot-slurm[signatures]'.",
    ) from None

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes

__all__ = ["Certificate", "Key", "certificates"]

_MIN_RSA = 2048
_CURVES: dict[str, tuple[type[hashes.HashAlgorithm], ...]] = {
    "secp256r1": (hashes.SHA256,),
    "secp384r1": (hashes.SHA384, hashes.SHA256),
    "secp521r1": (hashes.SHA512, hashes.SHA256),
}
_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8")
_OLD_ISSUER = x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1")
_UTF8 = 0x0C  # the tag of an UTF8String in DER
_MAX_CHAIN = 4


class Key(NamedTuple):
    """A public key, and where it is from."""

    public: PublicKeyTypes
    name: str

    @classmethod
    def load(cls, pem: bytes, name: str) -> Self:
        """The key in *pem*, known to people as *name*.  Raises: ConfigError."""
        try:
            return cls(_supported(serialization.load_pem_public_key(pem)), name)
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:
            raise ConfigError(
                f"{name} is not a public key that signatures can be verified with: {error}",
                hint="A PEM file with PUBLIC KEY is expected; 'cosign public-key' writes one.",
            ) from None

    @property
    def der(self) -> bytes:
        """The SubjectPublicKeyInfo."""
        return self.public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)

    @property
    def text(self) -> str:
        """Where it is from, and the first digits of its SHA-256."""
        return f"{self.name} (SHA256:{hashlib.sha256(self.der).hexdigest()[:16]})"

    def is_in(self, pem: bytes) -> bool:
        """Whether *pem* holds this very key, or a certificate of it."""
        with suppress(ValueError, TypeError, UnsupportedAlgorithm):
            return Key(serialization.load_pem_public_key(pem), "").der == self.der
        with suppress(ValueError, TypeError, UnsupportedAlgorithm):
            return Key(x509.load_pem_x509_certificate(pem).public_key(), "").der == self.der
        return False

    def verifies(self, signature: bytes, data: bytes) -> bool:
        """Whether *signature* over *data* was made with the private half of this key."""
        key = self.public
        tries = _CURVES[key.curve.name] if isinstance(key, ec.EllipticCurvePublicKey) else (hashes.SHA256,)
        for algorithm in tries:
            with suppress(InvalidSignature, ValueError):
                if isinstance(key, ec.EllipticCurvePublicKey):
                    key.verify(signature, data, ec.ECDSA(algorithm()))
                elif isinstance(key, rsa.RSAPublicKey):
                    key.verify(signature, data, padding.PKCS1v15(), algorithm())
                elif isinstance(key, ed25519.Ed25519PublicKey):
                    key.verify(signature, data)
                else:
                    return False
                return True
        return False


def _supported(key: PublicKeyTypes) -> PublicKeyTypes:
    if isinstance(key, rsa.RSAPublicKey) and key.key_size < _MIN_RSA:
        raise ValueError(f"RSA keys have {_MIN_RSA} bits at least")
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name not in _CURVES:
        raise ValueError(f"the curve {key.curve.name} is not known")
    if not isinstance(key, rsa.RSAPublicKey | ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise ValueError("it is neither ECDSA, RSA nor Ed25519")  # noqa: TRY004 - it is the content that is wrong
    return key


def certificates(pem: bytes, name: str) -> list[Certificate]:
    """The certificates in *pem*, which the administrator knows as *name*.  Raises: ConfigError."""
    try:
        return [Certificate(each) for each in x509.load_pem_x509_certificates(pem)]
    except (ValueError, TypeError) as error:
        raise ConfigError(f"{name} holds no certificates: {error}") from None


class Certificate(NamedTuple):
    """A certificate that says whose a key is.  What reads it raises ValueError where it can't be understood."""

    raw: x509.Certificate

    @classmethod
    def load(cls, data: bytes) -> list[Certificate]:
        """Those in *data*: PEM, or one in DER.  Raises: ValueError."""
        if b"-----BEGIN" in data:
            return [cls(each) for each in x509.load_pem_x509_certificates(data)]
        return [cls(x509.load_der_x509_certificate(data))]

    @property
    def key(self) -> Key:
        """Its key.  Raises: ValueError."""
        try:
            return Key(_supported(self.raw.public_key()), "certificate")
        except UnsupportedAlgorithm as error:
            raise ValueError(str(error)) from None

    @property
    def emails(self) -> list[str]:
        """The e-mail addresses it is for."""
        return self._alternative(x509.RFC822Name)

    @property
    def hostnames(self) -> list[str]:
        """The hosts it is for."""
        return self._alternative(x509.DNSName)

    @property
    def issuers(self) -> set[str]:
        """Which OpenID Connect providers have vouched, after Fulcio's two extensions.  Raises: ValueError."""
        found = set()
        for extension in self.raw.extensions:
            if not isinstance(extension.value, x509.UnrecognizedExtension):
                continue
            value = extension.value.value
            if extension.oid == _OLD_ISSUER:
                found.add(value.decode())
            elif extension.oid == _ISSUER:
                found.add(_utf8_string(value))
        return found

    def is_trusted(self, roots: Iterable[Certificate], between: Iterable[Certificate], at: int | None) -> str:
        """Why no chain of certificates leads from this one to one of *roots* at the time *at*; empty: one does.

        *at* is in seconds since 1970; None: now.
        """
        leaf = ExtensionPolicy.permit_all().require_present(x509.SubjectAlternativeName, Criticality.AGNOSTIC, None)
        above = ExtensionPolicy.permit_all().require_present(x509.BasicConstraints, Criticality.AGNOSTIC, None)
        try:
            time = datetime.now(UTC) if at is None else datetime.fromtimestamp(at, UTC)
            verifier = (
                PolicyBuilder()
                .store(Store([each.raw for each in roots]))
                .time(time)
                .max_chain_depth(_MAX_CHAIN)
                .extension_policies(ca_policy=above, ee_policy=leaf)
                .build_client_verifier()
            )
            verifier.verify(self.raw, [each.raw for each in between])
        except (VerificationError, ValueError, OverflowError, OSError) as error:
            return f"its certificate is not one of the CA's: {error}"
        return ""

    @property
    def signs_code(self) -> bool:
        """Whether it says that it is for signing code."""
        with suppress(x509.ExtensionNotFound, ValueError):
            uses = self.raw.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
            return ExtendedKeyUsageOID.CODE_SIGNING in uses
        return False

    def _alternative(self, kind: type[x509.RFC822Name | x509.DNSName]) -> list[str]:
        with suppress(x509.ExtensionNotFound):
            names = self.raw.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
            return names.get_values_for_type(kind)
        return []


def _utf8_string(der: bytes) -> str:
    """The text in *der*, an UTF8String of less than 64 KiB.  Raises: ValueError."""
    if len(der) < 2 or der[0] != _UTF8:
        raise ValueError("not an UTF8String")
    length, start = der[1], 2
    if length > 0x80:
        start += length - 0x80
        length = int.from_bytes(der[2:start]) if start <= 4 else -1
    if length != len(der) - start:
        raise ValueError("not an UTF8String")
    return der[start:].decode()
