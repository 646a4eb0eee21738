"""Certificates: of Fulcio with the promise of a transparency log, and of one's own CA; all offline."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.signing import TIME, Authority, Rekor, Signer, b64, bundle, dumps, payload, pem_of, statement

from enroot_slurm.errors import ImageRefused
from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust.identity import SignedIdentity
from enroot_slurm.trust.requirements import Fulcio, Material, Pki, SigstoreSigned

NAME = "registry.site/prod/app"
INDEX = Digest.of(b"index")
ISSUER, EMAIL = "https://accounts.site", "ci@site"
REPOSITORY = SignedIdentity("matchRepository")


class Keyless:
    """A CA, a log and somebody who signs."""

    def __init__(self) -> None:
        self.authority, self.rekor, self.signer = Authority(), Rekor(), Signer()

    def wish(self, **changes: Any) -> SigstoreSigned:
        """The requirement."""
        fulcio = Fulcio(Material("/ca", self.authority.pem), ISSUER, EMAIL)._replace(**changes)
        return SigstoreSigned(fulcio=fulcio, rekor=(Material("/rekor", self.rekor.signer.pem),), identity=REPOSITORY)

    def legacy(self, bench, *, email: str = EMAIL, issuer: str = ISSUER, at: int = TIME, **more: Any) -> None:
        """Sign as cosign 2 does; *more* goes to the certificate."""
        content = payload(INDEX, NAME)
        value = self.signer.sign(content)
        leaf = pem_of(self.authority.leaf(self.signer, email, issuer, **more))
        annotations = {
            "dev.sigstore.cosign/certificate": leaf.decode(),
            "dev.sigstore.cosign/chain": self.authority.chain.decode(),
            "dev.sigstore.cosign/bundle": json.dumps(self.rekor.of_payload(content, value, leaf, at)),
        }
        bench.repository.attach_layers(INDEX, [bench.repository.layer(content, value, **annotations)])

    def bundle(self, bench, **changes: Any) -> dict[str, Any]:
        """Sign as cosign 3 does with Rekor 1."""
        made = bundle(self.signer, statement(INDEX))
        leaf = self.authority.leaf(self.signer, EMAIL, ISSUER)
        certificates = [
            {"rawBytes": b64(each.public_bytes(serialization.Encoding.DER))}
            for each in (leaf, self.authority.intermediate)
        ]
        made["verificationMaterial"] = {
            "x509CertificateChain": {"certificates": certificates},
            "tlogEntries": [self.rekor.of_envelope(made, pem_of(leaf))],
            **changes,
        }
        bench.repository.refer(INDEX, dumps(made))
        return made


@pytest.fixture
def keyless() -> Keyless:
    """A new one."""
    return Keyless()


def refused(bench, wish: SigstoreSigned, why: str) -> None:
    """The error says *why*."""
    with pytest.raises(ImageRefused) as caught:
        bench.judge(wish)
    assert why in f"{caught.value}\n{caught.value.hint}"


@pytest.mark.parametrize("way", ["legacy", "bundle"])
def test_a_certificate_of_the_right_person_counts(bench, keyless, way) -> None:
    """It was valid when the log recorded the signature; today it is not any more."""
    getattr(keyless, way)(bench)
    (approval,) = bench.judge(keyless.wish())
    assert approval.by == f"{EMAIL} ({ISSUER})"


@pytest.mark.parametrize(
    ("signed", "why"),
    [
        ({"email": "mallory@site"}, "another e-mail"),
        ({"issuer": "https://evil"}, "another oidcIssuer"),
        ({"issuer": ""}, "another oidcIssuer"),
        ({"issuer": "", "old_issuer": ISSUER}, ""),
        ({"old_issuer": "https://evil"}, "another oidcIssuer"),
        ({"old_issuer": ISSUER}, ""),
        ({"at": TIME + 3600}, "not one of the CA's"),
        ({"at": TIME - 3600}, "not one of the CA's"),
        ({"at": 1 << 62}, "not one of the CA's"),
        ({"use": ExtendedKeyUsageOID.EMAIL_PROTECTION}, "not for signing"),
    ],
)
def test_person_provider_and_time_have_to_fit(bench, keyless, signed, why) -> None:
    """Each of them; both extensions for the provider, if both are there."""
    keyless.legacy(bench, **signed)
    if why:
        refused(bench, keyless.wish(), why)
    else:
        assert bench.judge(keyless.wish())


def test_another_ca_does_not_count(bench, keyless) -> None:
    """One with the same names."""
    keyless.legacy(bench)
    refused(bench, keyless.wish(ca=Material("/ca", Authority().pem)), "not one of the CA's")


def test_another_log_does_not_count(bench, keyless) -> None:
    """The promise is verified with the policy's key."""
    keyless.legacy(bench)
    wish = keyless.wish()._replace(rekor=(Material("/rekor", Signer().pem),))
    refused(bench, wish, "not by a log of the policy")


def test_a_leaf_cannot_be_a_ca(bench, keyless) -> None:
    """A certificate for a person signs no further ones, and the signature is by the leaf's key."""
    keyless.legacy(bench)
    keyless.signer = Signer()
    content = payload(INDEX, NAME)
    layer = json.loads(bench.repository.documents[f"sha256-{INDEX.hex}.sig"])["layers"][0]
    layer["annotations"]["dev.cosignproject.cosign/signature"] = b64(keyless.signer.sign(content))
    bench.repository.attach_layers(INDEX, [layer])
    refused(bench, keyless.wish(), "another key than its certificate's")


@pytest.mark.parametrize("which", ["content", "value", "pem", "kind"])
def test_the_log_entry_has_to_be_that_of_the_signature(bench, keyless, which) -> None:
    """Not that of another one, which the same log has recorded."""
    content = payload(INDEX, NAME)
    value = keyless.signer.sign(content)
    leaf = pem_of(keyless.authority.leaf(keyless.signer, EMAIL, ISSUER))
    said = {"content": content, "value": value, "pem": leaf}
    if which == "kind":
        entry = keyless.rekor.promise(dumps({"kind": "rpm", "apiVersion": "0.0.1", "spec": {}}))
    else:
        said[which] = Signer().pem if which == "pem" else b"x"
        entry = keyless.rekor.of_payload(said["content"], said["value"], said["pem"])
    annotations = {
        "dev.sigstore.cosign/certificate": leaf.decode(),
        "dev.sigstore.cosign/chain": keyless.authority.chain.decode(),
        "dev.sigstore.cosign/bundle": json.dumps(entry),
    }
    bench.repository.attach_layers(INDEX, [bench.repository.layer(content, value, **annotations)])
    refused(bench, keyless.wish(), "log entry is")


def test_a_bundle_without_a_promise_has_no_time(bench, keyless) -> None:
    """As those of Rekor 2: refused, never taken for valid now."""
    made = keyless.bundle(bench)
    del made["verificationMaterial"]["tlogEntries"][0]["inclusionPromise"]
    bench.repository.pages.clear()
    bench.repository.refer(INDEX, dumps(made))
    refused(bench, keyless.wish(), "no promise of a transparency log")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"SignedEntryTimestamp": 1, "Payload": {}}', "[" * 100_000])
def test_a_broken_log_entry_is_none(bench, keyless, text) -> None:
    """Whatever stands in the annotation."""
    keyless.legacy(bench)
    layer = json.loads(bench.repository.documents[f"sha256-{INDEX.hex}.sig"])["layers"][0]
    layer["annotations"]["dev.sigstore.cosign/bundle"] = text
    bench.repository.attach_layers(INDEX, [layer])
    refused(bench, keyless.wish(), "no promise of a transparency log")


@pytest.mark.parametrize("kind", ["p256", "ed25519"])
def test_a_key_with_a_log(bench, keyless, kind) -> None:
    """keyPath and rekorPublicKeyPath: both count."""
    signer = Signer(kind)
    bench.keys, bench.rekor = [signer], [keyless.rekor.signer]
    content = payload(INDEX, NAME)
    value = signer.sign(content)
    entry = json.dumps(keyless.rekor.of_payload(content, value, signer.pem))
    layer = bench.repository.layer(content, value, **{"dev.sigstore.cosign/bundle": entry})
    bench.repository.attach_layers(INDEX, [layer])
    assert bench.judge()
    bench.rekor = [Signer()]
    with pytest.raises(ImageRefused):
        bench.judge()


@pytest.mark.parametrize(
    ("pki", "why"),
    [
        ({"email": "a@b"}, ""),
        ({"hostname": "build.site"}, ""),
        ({"email": "a@b", "hostname": "BUILD.site"}, ""),
        ({"email": "x@b"}, "another e-mail"),
        ({"hostname": "other.site"}, "another host"),
        ({"email": "a@b", "hostname": "other.site"}, "another host"),
        ({"email": "a@b", "intermediates": None, "chain": False}, "not one of the CA's"),
        ({"email": "a@b", "chain": False}, ""),
        ({"email": "a@b", "seconds": 1}, "not one of the CA's"),
    ],
)
def test_ones_own_ca(bench, keyless, pki, why) -> None:
    """pki: a certificate that is valid now; intermediates from the policy or the signature."""
    has_chain, seconds = pki.pop("chain", True), pki.pop("seconds", 1 << 31)
    wish = Pki(
        Material("/roots", keyless.authority.pem),
        Material("/between", pem_of(keyless.authority.intermediate)),
        pki.pop("email", ""),
        pki.pop("hostname", ""),
    )._replace(**pki)
    content = payload(INDEX, NAME)
    start = int(time.time()) - 86400
    leaf = keyless.authority.leaf(keyless.signer, "a@b", "", host="build.site", start=start, seconds=seconds)
    annotations = {"dev.sigstore.cosign/certificate": pem_of(leaf).decode()}
    if has_chain:
        annotations["dev.sigstore.cosign/chain"] = keyless.authority.chain.decode()
    layer = bench.repository.layer(content, keyless.signer.sign(content), **annotations)
    bench.repository.attach_layers(INDEX, [layer])
    requirement = SigstoreSigned(pki=wish, identity=REPOSITORY)
    if why:
        refused(bench, requirement, why)
    else:
        assert bench.judge(requirement)


@pytest.mark.parametrize("certificate", ["", "x", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_a_broken_certificate_does_not_count(bench, keyless, certificate) -> None:
    """The reason says so; nothing crashes."""
    content = payload(INDEX, NAME)
    annotations = {"dev.sigstore.cosign/certificate": certificate}
    layer = bench.repository.layer(content, keyless.signer.sign(content), **annotations)
    bench.repository.attach_layers(INDEX, [layer])
    refused(bench, keyless.wish(), "certificate")
