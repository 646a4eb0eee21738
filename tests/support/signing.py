"""Signatures by the public formats of cosign and Sigstore, made with ``cryptography``, and a place to attach them to.

Sources: cosign's specs/SIGNATURE_SPEC.md and specs/BUNDLE_SPEC.md; DSSE's protocol.md; rekor's openapi.yaml.
"""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import json
from typing import TYPE_CHECKING, Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from enroot_slurm.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
SCHEMA2 = "application/vnd.docker.distribution.manifest.v2+json"
SIMPLE = "application/vnd.dev.cosign.simplesigning.v1+json"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
SIGN = "https://sigstore.dev/cosign/sign/v1"
TIME = 1_780_000_000
"""When the log of the tests has recorded all that it has."""


def b64(data: bytes) -> str:
    """*data* in base64."""
    return base64.b64encode(data).decode()


def dumps(document: object) -> bytes:
    """*document* as JSON."""
    return json.dumps(document).encode()


def canonical(document: object) -> bytes:
    """*document*, of ASCII texts and whole numbers, after RFC 8785."""
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


class Signer:
    """A private key."""

    def __init__(self, kind: str = "p256") -> None:
        self.kind = kind
        self.private: Any = {
            "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
            "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
            "p521": lambda: ec.generate_private_key(ec.SECP521R1()),
            "rsa": lambda: rsa.generate_private_key(65537, 2048),
            "rsa1024": lambda: rsa.generate_private_key(65537, 1024),
            "ed25519": ed25519.Ed25519PrivateKey.generate,
        }[kind]()

    @property
    def pem(self) -> bytes:
        """The public key, as ``cosign public-key`` writes it."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    @property
    def der(self) -> bytes:
        """The public key in DER."""
        return self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )

    def sign(self, data: bytes, *, always_sha256: bool = False) -> bytes:
        """The signature over *data*."""
        if self.kind == "ed25519":
            return self.private.sign(data)
        if self.kind.startswith("rsa"):
            return self.private.sign(data, padding.PKCS1v15(), hashes.SHA256())
        own = {"p256": hashes.SHA256, "p384": hashes.SHA384, "p521": hashes.SHA512}[self.kind]
        return self.private.sign(data, ec.ECDSA(hashes.SHA256() if always_sha256 else own()))


def payload(digest: Digest, name: str, **changes: object) -> bytes:
    """A simple signing payload; *changes* are to its ``critical``."""
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": str(digest)},
        "type": "cosign container image signature",
        **changes,
    }
    return dumps({"critical": critical, "optional": None})


def statement(digest: Digest, predicate: str = SIGN) -> bytes:
    """An in-toto statement on *digest*."""
    subject = [{"name": "", "digest": {"sha256": digest.hex}}]
    return dumps(
        {"_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": predicate, "predicate": {}}
    )


def pae(kind: str, content: bytes) -> bytes:
    """DSSE's pre-authentication encoding."""
    return b" ".join([b"DSSEv1", b"%d" % len(kind), kind.encode(), b"%d" % len(content), content])


def bundle(signer: Signer, content: bytes, **changes: Any) -> dict[str, Any]:
    """A bundle of a signed statement; *changes* replace its members."""
    kind = "application/vnd.in-toto+json"
    return {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": b64(hashlib.sha256(signer.der).digest())}},
        "dsseEnvelope": {
            "payload": b64(content),
            "payloadType": kind,
            "signatures": [{"sig": b64(signer.sign(pae(kind, content))), "keyid": ""}],
        },
        **changes,
    }


class Rekor:
    """A transparency log."""

    def __init__(self) -> None:
        self.signer = Signer()

    @property
    def log_id(self) -> bytes:
        """Its name: the hash of its key."""
        return hashlib.sha256(self.signer.der).digest()

    def promise(self, body: bytes, time: int = TIME) -> dict[str, Any]:
        """The ``bundle`` annotation for an entry *body*."""
        entry = {"body": b64(body), "integratedTime": time, "logIndex": 7, "logID": self.log_id.hex()}
        return {"SignedEntryTimestamp": b64(self.signer.sign(canonical(entry))), "Payload": entry}

    def of_payload(self, content: bytes, signature: bytes, pem: bytes, time: int = TIME) -> dict[str, Any]:
        """The annotation for a legacy signature."""
        data = {"hash": {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()}}
        spec = {"data": data, "signature": {"content": b64(signature), "publicKey": {"content": b64(pem)}}}
        return self.promise(dumps({"kind": "hashedrekord", "apiVersion": "0.0.1", "spec": spec}), time)

    def of_envelope(self, made: dict[str, Any], pem: bytes, time: int = TIME) -> dict[str, Any]:
        """The entry of ``tlogEntries`` for the bundle *made*."""
        content = base64.b64decode(made["dsseEnvelope"]["payload"])
        spec = {
            "payloadHash": {"algorithm": "sha256", "value": hashlib.sha256(content).hexdigest()},
            "signatures": [{"signature": made["dsseEnvelope"]["signatures"][0]["sig"], "verifier": b64(pem)}],
        }
        said = self.promise(dumps({"kind": "dsse", "apiVersion": "0.0.1", "spec": spec}), time)
        return {
            "canonicalizedBody": said["Payload"]["body"],
            "integratedTime": str(time),
            "logIndex": "7",
            "logId": {"keyId": b64(self.log_id)},
            "inclusionPromise": {"signedEntryTimestamp": said["SignedEntryTimestamp"]},
        }


class Authority:
    """A CA with an intermediate, as Fulcio is one."""

    def __init__(self) -> None:
        self.root_key, self.key = Signer("p384"), Signer("p384")
        self.root = self._certificate("root", self.root_key, "root", self.root_key)
        self.intermediate = self._certificate("intermediate", self.key, "root", self.root_key)

    @property
    def pem(self) -> bytes:
        """The root."""
        return self.root.public_bytes(serialization.Encoding.PEM)

    @property
    def chain(self) -> bytes:
        """The intermediate and the root."""
        return self.intermediate.public_bytes(serialization.Encoding.PEM) + self.pem

    def leaf(
        self,
        signer: Signer,
        email: str,
        issuer: str,
        *,
        old_issuer: str | None = None,
        use: x509.ObjectIdentifier = ExtendedKeyUsageOID.CODE_SIGNING,
        start: int = TIME - 60,
        seconds: int = 600,
        host: str = "",
    ) -> x509.Certificate:
        """A certificate for *signer*, valid for ten minutes."""
        names = [x509.RFC822Name(email)] if email else []
        names += [x509.DNSName(host)] if host else []
        begin = dt.datetime.fromtimestamp(start, dt.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([]))
            .issuer_name(self.intermediate.subject)
            .public_key(signer.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + dt.timedelta(seconds=seconds))
            .add_extension(x509.SubjectAlternativeName(names), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
        )
        if issuer:
            value = bytes([0x0C, len(issuer)]) + issuer.encode()
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.8"), value), critical=False
            )
        if old_issuer:
            builder = builder.add_extension(
                x509.UnrecognizedExtension(x509.ObjectIdentifier("1.3.6.1.4.1.57264.1.1"), old_issuer.encode()),
                critical=False,
            )
        return builder.sign(self.key.private, hashes.SHA384())

    def _certificate(self, name: str, key: Signer, issuer: str, issuer_key: Signer) -> x509.Certificate:
        begin = dt.datetime.fromtimestamp(TIME - 86400, dt.UTC)
        usage = x509.KeyUsage(
            **{
                name: name in {"key_cert_sign", "crl_sign"}
                for name in (
                    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
                    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
                )
            }
        )
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
            .public_key(key.private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(begin + dt.timedelta(days=36500))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(usage, critical=True)
            .sign(issuer_key.private, hashes.SHA384())
        )


def pem_of(certificate: x509.Certificate) -> bytes:
    """*certificate* in PEM."""
    return certificate.public_bytes(serialization.Encoding.PEM)


class Repository:
    """Manifests, blobs and referrers of one repository, in memory or for a registry to serve."""

    def __init__(self) -> None:
        self.documents: dict[str, bytes] = {}
        self.blobs: dict[str, bytes] = {}
        self.pages: dict[str, list[bytes]] = {}
        self.asked: list[str] = []

    def document(self, target: str) -> bytes | None:
        """The manifest of a tag or digest."""
        self.asked.append(target)
        return self.documents.get(target)

    def each_document(self, target: str) -> Iterator[bytes]:
        """Likewise, for there is one place."""
        content = self.document(target)
        if content is not None:
            yield content

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """A blob."""
        content = self.blobs[str(digest)]
        assert len(content) == size
        return content

    def referrers(self, digest: Digest) -> Iterator[bytes]:
        """The pages of what refers to *digest*."""
        self.asked.append(f"referrers {digest}")
        yield from self.pages.get(str(digest), [])

    def add_blob(self, content: bytes, kind: str, annotations: dict[str, Any] | None = None) -> dict[str, Any]:
        """Its descriptor."""
        digest = str(Digest.of(content))
        self.blobs[digest] = content
        said = {"mediaType": kind, "digest": digest, "size": len(content)}
        return {**said, "annotations": annotations} if annotations is not None else said

    def add_document(self, document: dict[str, Any]) -> dict[str, Any]:
        """Keep a manifest; its descriptor."""
        content = dumps(document)
        self.documents[str(Digest.of(content))] = content
        return {"mediaType": document["mediaType"], "digest": str(Digest.of(content)), "size": len(content)}

    def attach_layers(self, digest: Digest, layers: list[dict[str, Any]], kind: str = MANIFEST) -> None:
        """Give *digest* the ``.sig`` image of *layers*."""
        config = self.add_blob(b"{}", "application/vnd.oci.image.config.v1+json")
        document = {"schemaVersion": 2, "mediaType": kind, "config": config, "layers": layers}
        self.add_document(document)
        self.documents[f"sha256-{digest.hex}.sig"] = dumps(document)

    def layer(self, content: bytes, signature: bytes, **annotations: str) -> dict[str, Any]:
        """The layer of a legacy signature."""
        return self.add_blob(content, SIMPLE, {"dev.cosignproject.cosign/signature": b64(signature), **annotations})

    def sign(self, digest: Digest, name: str, *signers: Signer) -> None:
        """Sign *digest* as cosign 2 does."""
        content = payload(digest, name)
        self.attach_layers(digest, [self.layer(content, signer.sign(content)) for signer in signers])

    def refer(self, digest: Digest, content: bytes, kind: str = BUNDLE, artifact: str | None = BUNDLE) -> None:
        """Attach *content* to *digest* as a referrer, on the last page."""
        layer = self.add_blob(content, kind)
        config = self.add_blob(b"{}", "application/vnd.oci.empty.v1+json")
        subject = {"mediaType": MANIFEST, "digest": str(digest), "size": 1}
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": artifact,
            "config": config,
            "layers": [layer],
            "subject": subject,
        }
        entry = {**self.add_document(document), "artifactType": artifact}
        pages = self.pages.setdefault(str(digest), [dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": []})])
        last = json.loads(pages[-1])
        last["manifests"].append(entry)
        pages[-1] = dumps(last)

    def refer_signature(self, digest: Digest, signer: Signer) -> None:
        """Sign *digest* as cosign 3 does."""
        self.refer(digest, dumps(bundle(signer, statement(digest))))
