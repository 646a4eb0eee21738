"""Signatures with a key: of cosign 1 and 2 (an image of the tag sha256-HEX.sig), and of cosign 3 (bundles)."""

from __future__ import annotations

import base64
import json
import subprocess
import sys

import pytest
from support.signing import (
    BUNDLE,
    SCHEMA2,
    SIMPLE,
    Signer,
    b64,
    bundle,
    dumps,
    payload,
    statement,
)
from support.signing import (
    INDEX as INDEX_TYPE,
)

from enroot_slurm.errors import ConfigError, ImageRefused, NetworkError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust.identity import SignedIdentity
from enroot_slurm.trust.requirements import Material, SigstoreSigned

NAME = "registry.site/prod/app"
INDEX, MANIFEST, OTHER = (Digest.of(text) for text in (b"index", b"manifest", b"other"))


def refused(bench, why: str) -> ImageRefused:
    """The error, which says *why*."""
    with pytest.raises(ImageRefused) as caught:
        bench.judge()
    assert why in f"{caught.value}\n{caught.value.hint}"
    return caught.value


@pytest.mark.parametrize("kind", ["p256", "p384", "p521", "rsa", "ed25519"])
@pytest.mark.parametrize("way", ["sign", "refer_signature"])
def test_a_signature_by_the_key_counts(bench, kind, way) -> None:
    """Each kind of key, in both formats."""
    bench.keys = [Signer(kind)]
    if way == "sign":
        bench.repository.sign(INDEX, NAME, bench.keys[0])
    else:
        bench.repository.refer_signature(INDEX, bench.keys[0])
    (approval,) = bench.judge()
    assert approval.by.startswith("/etc/pki/site/cosign.pub (SHA256:")
    assert approval.signed == INDEX


@pytest.mark.parametrize("kind", ["p384", "p521"])
def test_earlier_cosign_took_sha256_with_any_curve(bench, kind) -> None:
    """So that is tried as well."""
    signer = bench.keys[0] = Signer(kind)
    content = payload(INDEX, NAME)
    layer = bench.repository.layer(content, signer.sign(content, always_sha256=True))
    bench.repository.attach_layers(INDEX, [layer])
    assert bench.judge()


def test_an_image_without_signature_is_refused(bench) -> None:
    """The message says what is asked for, by which file, and where was looked."""
    error = refused(bench, "is not signed")
    assert "/etc/containers/policy.json (docker scope x) asks for one by /etc/pki/site/cosign.pub" in str(error)
    assert f"sha256-{INDEX.hex}.sig" in error.hint
    assert f"sha256-{MANIFEST.hex}.sig" in error.hint
    assert error.exit_code == 4


@pytest.mark.parametrize("way", ["sign", "refer_signature"])
def test_a_signature_by_another_key_does_not_count(bench, way) -> None:
    """Whoever may push can attach one."""
    stranger = Signer()
    if way == "sign":
        bench.repository.sign(INDEX, NAME, stranger)
    else:
        bench.repository.refer_signature(INDEX, stranger)
    error = refused(bench, "it is by another key")
    assert "has a signature, but none that is good by /etc/pki/site/cosign.pub (1 signature looked at)" in str(error)


def test_one_good_signature_among_others_is_enough(bench) -> None:
    """Keys are rotated; whoever wants can add what is broken."""
    content = payload(INDEX, NAME)
    repository = bench.repository
    layers = [
        repository.add_blob(b"x", "text/plain", {}),
        repository.add_blob(b"y", SIMPLE),
        repository.add_blob(b"z", SIMPLE, {"dev.cosignproject.cosign/signature": "!"}),
        repository.layer(content, Signer().sign(content)),
        repository.layer(content, bench.signer.sign(content)),
    ]
    repository.attach_layers(INDEX, layers)
    assert bench.judge()
    repository.attach_layers(INDEX, layers[:-1])
    refused(bench, "4 signatures looked at")


def test_one_of_several_keys_is_enough(bench) -> None:
    """keyPaths: any of them."""
    bench.keys = [Signer(), bench.signer, Signer("ed25519")]
    bench.repository.sign(INDEX, NAME, bench.signer)
    assert bench.judge()


def test_two_requirements_are_both_to_be_met(bench) -> None:
    """Two teams that both have to sign."""
    second = Signer()
    both = [
        SigstoreSigned(keys=(Material("/k", signer.pem),), identity=bench.identity) for signer in (bench.signer, second)
    ]
    bench.repository.sign(INDEX, NAME, bench.signer)
    with pytest.raises(ImageRefused):
        bench.judge(*both)
    bench.repository.sign(INDEX, NAME, bench.signer, second)
    assert len(bench.judge(*both)) == 2


def test_every_byte_of_the_payload_is_signed(bench) -> None:
    """Even one that JSON ignores."""
    content = payload(INDEX, NAME)
    value = bench.signer.sign(content)
    for changed in (content + b" ", content.replace(b"null", b"1234"), content[:-1]):
        bench.repository.attach_layers(INDEX, [bench.repository.layer(changed, value)])
        refused(bench, "what it signs was changed")


def test_the_signature_of_another_image_does_not_count(bench) -> None:
    """A good signature, moved to this image's tag."""
    content = payload(OTHER, NAME)
    bench.repository.attach_layers(INDEX, [bench.repository.layer(content, bench.signer.sign(content))])
    refused(bench, "the signature of another image")


def test_the_platforms_signature_counts_as_well(bench) -> None:
    """cosign sign --recursive, or one who signs a platform only; the index' comes first."""
    bench.repository.sign(MANIFEST, NAME, bench.signer)
    assert bench.judge()[0].signed == MANIFEST
    bench.repository.sign(INDEX, NAME, bench.signer)
    assert bench.judge()[0].signed == INDEX


def test_the_platforms_signature_does_not_cover_the_index_tag(bench) -> None:
    """At the place of the index' signature, only what signs the index counts."""
    content = payload(MANIFEST, NAME)
    bench.repository.attach_layers(INDEX, [bench.repository.layer(content, bench.signer.sign(content))])
    refused(bench, "the signature of another image")


def test_another_repositorys_name_does_not_fit(bench) -> None:
    """The same image, signed for another place."""
    bench.repository.sign(INDEX, "registry.site/test/app", bench.signer)
    refused(bench, "it is signed as registry.site/test/app")


@pytest.mark.parametrize("kind", ["matchRepoDigestOrExact", "matchExact"])
def test_cosigns_names_do_not_fit_exact_rules(bench, kind) -> None:
    """As with podman; the reason says what to write."""
    bench.identity = SignedIdentity(kind)
    bench.repository.sign(INDEX, NAME, bench.signer)
    refused(bench, "matchRepository may")


def test_a_schema_2_manifest_holds_signatures_too(bench) -> None:
    """Some registries have no OCI."""
    content = payload(INDEX, NAME)
    layer = bench.repository.layer(content, bench.signer.sign(content))
    bench.repository.attach_layers(INDEX, [layer], SCHEMA2)
    assert bench.judge()
    bench.repository.attach_layers(INDEX, [layer], INDEX_TYPE)
    refused(bench, "it is no manifest")


@pytest.mark.parametrize(
    "content",
    [
        payload(INDEX, NAME, more=1),
        payload(INDEX, NAME, type="atomic container signature"),
        payload(INDEX, NAME, type="x"),
        payload(INDEX, NAME, identity={"docker-reference": NAME, "more": 1}),
        payload(INDEX, NAME, identity={}),
        payload(INDEX, NAME, identity={"docker-reference": 1}),
        payload(INDEX, NAME, image={"docker-manifest-digest": str(INDEX), "more": 1}),
        payload(INDEX, NAME, image={"docker-manifest-digest": INDEX.hex}),
        payload(INDEX, NAME, image=str(INDEX)),
        payload(INDEX, NAME)[:-1] + b', "critical": {}}',
        b"[]",
        b"\xff",
        b"[" * 100_000,
        dumps({"optional": None}),
    ],
)
def test_a_payload_of_another_form_does_not_count(bench, content) -> None:
    """Even one that the key has signed: it may mean something else."""
    bench.repository.attach_layers(INDEX, [bench.repository.layer(content, bench.signer.sign(content))])
    refused(bench, "1 signature looked at")


def test_optional_may_be_anything(bench) -> None:
    """Nobody here believes it."""
    for optional in (None, {}, {"creator": "x", "timestamp": 1}, [1]):
        document = {**json.loads(payload(INDEX, NAME)), "optional": optional}
        content = dumps(document)
        bench.repository.attach_layers(INDEX, [bench.repository.layer(content, bench.signer.sign(content))])
        assert bench.judge()


def test_no_more_than_64_signatures_are_looked_at(bench) -> None:
    """Who may push can attach thousands."""
    content = payload(INDEX, NAME)
    bad = bench.repository.layer(content, b"x")
    good = bench.repository.layer(content, bench.signer.sign(content))
    bench.repository.attach_layers(INDEX, [*[bad] * 63, good])
    assert bench.judge()
    bench.repository.attach_layers(INDEX, [*[bad] * 64, good])
    refused(bench, "64 signatures looked at")


def test_large_payloads_are_not_fetched(bench) -> None:
    """A size is only a claim until then."""
    layer = {"mediaType": SIMPLE, "digest": str(OTHER), "size": (4 << 20) + 1, "annotations": {}}
    bench.repository.attach_layers(INDEX, [layer])
    refused(bench, "larger than")


def refer(bench, made: dict, **more: str) -> None:
    """Attach the bundle *made* to the index."""
    bench.repository.refer(INDEX, dumps(made), **more)


def test_bundles_are_found_among_other_referrers_and_on_later_pages(bench) -> None:
    """An SBOM, another tool's signature, one that calls itself by its config, two pages."""
    repository = bench.repository
    repository.refer(INDEX, b"{}", "application/spdx+json", "application/spdx+json")
    repository.refer(INDEX, b"{}", "application/jose+json", "application/vnd.cncf.notary.signature")
    repository.refer(INDEX, b"not json")
    repository.pages[str(INDEX)].append(dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []}))
    made = dumps(bundle(bench.signer, statement(INDEX)))
    repository.refer(INDEX, made, artifact="application/vnd.oci.empty.v1+json")
    assert bench.judge()


def test_an_attestation_is_no_approval(bench) -> None:
    """An SBOM that the same key has signed says what is in the image, not that it may run."""
    refer(bench, bundle(bench.signer, statement(INDEX, "https://spdx.dev/Document")))
    refused(bench, "an attestation, not a signature")


def test_a_bundle_with_another_subject_does_not_count(bench) -> None:
    """A good bundle, attached to another image."""
    refer(bench, bundle(bench.signer, statement(OTHER)))
    refused(bench, "the signature of another image")


def test_a_bundle_whose_manifest_refers_to_another_image_does_not_count(bench) -> None:
    """The list of referrers is the registry's word only."""
    bench.repository.refer_signature(OTHER, bench.signer)
    bench.repository.pages[str(INDEX)] = bench.repository.pages[str(OTHER)]
    refused(bench, "that of another image")


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"mediaType": "application/vnd.dev.sigstore.bundle+json;version=0.2"}, "another version"),
        ({"mediaType": "application/vnd.dev.sigstore.bundle.v0.4+json"}, "another version"),
        ({"mediaType": None}, "no mediaType"),
        ({"messageSignature": {"messageDigest": {}, "signature": ""}}, "signs a file"),
        ({"dsseEnvelope": None}, "no dsseEnvelope.payload"),
        ({"verificationMaterial": []}, "no verificationMaterial"),
    ],
)
def test_other_bundles_do_not_count(bench, changes, why) -> None:
    """Version 0.3 with an envelope, nothing else."""
    refer(bench, bundle(bench.signer, statement(INDEX), **changes))
    refused(bench, why)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda e: e["signatures"].append(dict(e["signatures"][0])), "2 signatures instead of one"),
        (lambda e: e["signatures"].clear(), "0 signatures instead of one"),
        (lambda e: e["signatures"].__setitem__(0, "x"), "1 signatures instead of one"),
        (lambda e: e["signatures"][0].update(sig="!"), "not base64"),
        (lambda e: e.update(payloadType="text/plain"), "no in-toto statement"),
        (lambda e: e.update(payload=b64(base64.b64decode(e["payload"]) + b" ")), "was changed"),
    ],
)
def test_a_changed_envelope_does_not_count(bench, change, why) -> None:
    """One signature, over type and payload."""
    made = bundle(bench.signer, statement(INDEX))
    change(made["dsseEnvelope"])
    refer(bench, made)
    refused(bench, why)


@pytest.mark.parametrize(
    "kind", ["matchExact", "matchRepoDigestOrExact", "exactReference", "exactRepository", "remapIdentity"]
)
def test_bundles_name_no_image(bench, kind) -> None:
    """So no rule that asks for a name can hold; matchRepository has the scope alone."""
    bench.repository.refer_signature(INDEX, bench.signer)
    bench.identity = SignedIdentity(kind, f"{NAME}:1" if kind == "exactReference" else NAME, "h.x", "h.y")
    refused(bench, "only matchRepository can")


def test_a_transparency_log_is_asked_for_where_the_policy_says_so(bench) -> None:
    """A key's signature without a log entry is not enough then; test_keyless.py has the entries."""
    bench.rekor = [Signer()]
    bench.repository.sign(INDEX, NAME, bench.signer)
    refused(bench, "no promise of a transparency log")


@pytest.mark.parametrize("kind", ["empty", "text", "short", "cut"])
def test_a_key_that_is_none_lets_nothing_pass(bench, kind) -> None:
    """The administrator's mistake, said so."""
    short = Signer("rsa1024").pem
    pem = {"empty": b"", "text": b"x", "short": short, "cut": short[:100]}[kind]
    bench.repository.sign(INDEX, NAME, bench.signer)
    with pytest.raises(ConfigError, match="/k is not a public key"):
        bench.judge(SigstoreSigned(keys=(Material("/k", pem),)))


def test_no_answer_is_not_no_signature(bench) -> None:
    """An error of the registry comes through; the image is not judged without its signatures."""

    def fail(_: Digest) -> list[bytes]:
        raise NetworkError("down")

    bench.repository.referrers = fail
    with pytest.raises(NetworkError):
        bench.judge()


def test_without_the_extra_a_signature_cannot_be_verified() -> None:
    """The image is refused, with the package to install."""
    code = """
import sys
sys.modules["cryptography"] = None
from enroot_slurm.errors import ImageRefused
try:
    import enroot_slurm.trust.crypto
except ImageRefused as error:
    print(error.hint)
"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'enroot-slurm[signatures]'" in said


def test_bundles_by_their_older_name_are_read() -> None:
    """Writers of 0.3 use either media type."""
    from enroot_slurm.trust.bundle import signature

    made = bundle(Signer(), statement(INDEX), mediaType="application/vnd.dev.sigstore.bundle+json;version=0.3")
    assert signature(dumps(made), "x").payload == statement(INDEX)
    assert BUNDLE.endswith("v0.3+json")
