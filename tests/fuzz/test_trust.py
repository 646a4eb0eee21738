"""Whatever is attached to an image, or stands in a policy: nothing but our own errors, and nothing passes by chance."""

from __future__ import annotations

import copy
import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from hypothesis import example, given, settings
from hypothesis import strategies as st
from support.signing import (
    INDEX as INDEX_TYPE,
)
from support.signing import (
    TIME,
    Authority,
    Rekor,
    Repository,
    Signer,
    b64,
    bundle,
    dumps,
    payload,
    pem_of,
    statement,
)

from enroot_slurm.errors import ConfigError, EnrootSlurmError, ImageRefused
from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust.attachments import attachments, sbom_in
from enroot_slurm.trust.bundle import read_statement, signature
from enroot_slurm.trust.identity import SignedIdentity
from enroot_slurm.trust.judge import JudgedImage, judge
from enroot_slurm.trust.names import ImageName
from enroot_slurm.trust.policy import Policy
from enroot_slurm.trust.requirements import Fulcio, Material, Rule, SigstoreSigned
from enroot_slurm.trust.signature import Malformed
from enroot_slurm.trust.simple_signing import read_payload
from enroot_slurm.trust.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = "registry.site/prod/app"
DIGEST = Digest.of(b"index")
SIGNER, REKOR, AUTHORITY = Signer(), Rekor(), Authority()
LEAF = pem_of(AUTHORITY.leaf(SIGNER, "a@b", "https://i"))

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)


def places(document: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths of all values in *document*."""
    found = [path] if path else []
    items = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    for key, value in items:
        found += places(value, (*path, key))
    return found


@st.composite
def mutations(draw: st.DrawFn, document: Any) -> Any:
    """*document* with one to three values removed, doubled or replaced."""
    changed = copy.deepcopy(document)
    for _ in range(draw(st.integers(1, 3))):
        every = places(changed)
        if not every:
            break
        *way, last = draw(st.sampled_from(every))
        parent = changed
        for key in way:
            parent = parent[key]
        if draw(st.booleans()):
            parent[last] = draw(json_values)
        elif draw(st.booleans()) and isinstance(parent, list):
            parent.append(copy.deepcopy(parent[last]))
        else:
            del parent[last]
    return changed


FULCIO = {"caPath": "/c", "oidcIssuer": "https://i", "subjectEmail": "a@b"}
POLICY = {
    "default": [{"type": "reject"}],
    "transports": {
        "docker": {
            "h.x": [{"type": "insecureAcceptAnything"}],
            "*.h.x": [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}],
            "h.x/a": [
                {
                    "type": "sigstoreSigned",
                    "keyDatas": [b64(SIGNER.pem)],
                    "rekorPublicKeyPath": "/r",
                    "signedIdentity": {"type": "remapIdentity", "prefix": "h.x", "signedPrefix": "h.y"},
                },
                {"type": "sigstoreSigned", "fulcio": FULCIO, "rekorPublicKeyPaths": ["/r"]},
            ],
        },
        "oci": {"/a/b": [{"type": "reject"}]},
    },
}


@given(mutations(POLICY) | json_values)
def test_policies(document) -> None:
    """A policy is read, or wrong as a whole."""
    with suppress(ConfigError):
        policy = Policy.parse("/p", json.dumps(document).encode())
        assert policy.default
        assert policy.rule("docker", ImageName.parse("h.x/a:1").scopes).requirements


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
@example(b"[" * 100_000)
@example(b'{"a":' * 50_000)
@example(b'{"default": 1' + b"0" * 5000 + b"}")
def test_any_bytes(content) -> None:
    """No reader raises anything but its own error."""
    for read, error in (
        (lambda data: Policy.parse("/p", data), ConfigError),
        (read_payload, Malformed),
        (read_statement, Malformed),
        (lambda data: signature(data, "x"), Malformed),
        (Verdict.parse, (ValueError, RecursionError)),
    ):
        with suppress(error):
            read(content)


def verdict_on(repository: Repository, requirement: SigstoreSigned) -> bool:
    """Whether the image passes; nothing but a refusal is raised."""
    rule = Rule("/p", "x", (requirement,))
    try:
        return bool(judge(rule, JudgedImage(ImageName(NAME, "1"), (DIGEST,), NAME), repository))
    except ImageRefused as error:
        said = f"{error}{error.hint}"
    assert all(" " <= c <= "~" or c == "\n" for c in said)
    return False


KEYED = SigstoreSigned(keys=(Material("/k", SIGNER.pem),), identity=SignedIdentity("matchRepository"))
KEYLESS = SigstoreSigned(
    fulcio=Fulcio(Material("/c", AUTHORITY.pem), "https://i", "a@b"),
    rekor=(Material("/r", REKOR.signer.pem),),
    identity=SignedIdentity("matchRepository"),
)
PAYLOAD = json.loads(payload(DIGEST, NAME))
STATEMENT = json.loads(statement(DIGEST))


@given(mutations(PAYLOAD))
def test_signed_payloads(document) -> None:
    """Even what the right key has signed passes only if it is the payload for this image."""
    repository = Repository()
    content = dumps(document)
    repository.attach_layers(DIGEST, [repository.layer(content, SIGNER.sign(content))])
    good = {**document, "optional": None} if isinstance(document, dict) else document
    assert verdict_on(repository, KEYED) is (good == PAYLOAD)


@given(mutations(STATEMENT))
def test_signed_statements(document) -> None:
    """Likewise in a bundle."""
    repository = Repository()
    repository.refer(DIGEST, dumps(bundle(SIGNER, dumps(document))))
    if verdict_on(repository, KEYED):
        assert document["predicateType"] == STATEMENT["predicateType"]
        assert {"sha256": DIGEST.hex}.items() <= dict(_digests(document["subject"])).items()


def _digests(subjects: list[Any]) -> Iterator[tuple[str, Any]]:
    """What the subjects of a statement say that is ours; others may be anything."""
    for subject in subjects:
        digest = subject.get("digest") if isinstance(subject, dict) else None
        if isinstance(digest, dict) and digest.get("sha256") == DIGEST.hex:
            yield "sha256", digest["sha256"]


def whole_bundle() -> dict[str, Any]:
    """A bundle with a certificate and a log entry."""
    made = bundle(SIGNER, statement(DIGEST))
    raw = [b64(each) for each in (LEAF, pem_of(AUTHORITY.intermediate))]
    made["verificationMaterial"] = {
        "x509CertificateChain": {"certificates": [{"rawBytes": each} for each in raw]},
        "tlogEntries": [REKOR.of_envelope(made, LEAF)],
    }
    return made


BUNDLE = whole_bundle()


@settings(deadline=None)
@given(mutations(BUNDLE))
@example(BUNDLE)
def test_bundles(document) -> None:
    """A changed bundle is refused, or the change was none that counts."""
    repository = Repository()
    repository.refer(DIGEST, dumps(document))
    passes = verdict_on(repository, KEYLESS)
    if document == BUNDLE:
        assert passes
    if passes:
        for member in ("payload", "payloadType", "signatures"):
            before, after = BUNDLE["dsseEnvelope"][member], document["dsseEnvelope"][member]
            assert before == after or (member == "signatures" and before[0]["sig"] == after[0]["sig"])


CONTENT = payload(DIGEST, NAME)
VALUE = SIGNER.sign(CONTENT)


def signature_image() -> tuple[Repository, dict[str, Any]]:
    """A legacy signature's image."""
    repository = Repository()
    entry = json.dumps(REKOR.of_payload(CONTENT, VALUE, LEAF, TIME))
    annotations = {
        "dev.sigstore.cosign/certificate": LEAF.decode(),
        "dev.sigstore.cosign/chain": AUTHORITY.chain.decode(),
        "dev.sigstore.cosign/bundle": entry,
    }
    repository.attach_layers(DIGEST, [repository.layer(CONTENT, VALUE, **annotations)])
    return repository, json.loads(repository.documents[f"sha256-{DIGEST.hex}.sig"])


REPOSITORY, DOCUMENT = signature_image()


class Anything(Repository):
    """A registry that says whatever it likes, and checks what it hands out by digest."""

    def small_blob(self, digest: Digest, size: int) -> bytes:
        """A blob, if it is there and so large."""
        content = self.blobs.get(str(digest), b"")
        if len(content) != size:
            raise EnrootSlurmErrorOfTest("not there")
        return content


class EnrootSlurmErrorOfTest(EnrootSlurmError):
    """What the registry's client would raise."""


@settings(deadline=None)
@given(mutations(DOCUMENT) | json_values)
@example(DOCUMENT)
def test_signature_images(document) -> None:
    """The manifest of the .sig tag is anybody's to write."""
    repository = Anything()
    repository.blobs = REPOSITORY.blobs
    repository.documents[f"sha256-{DIGEST.hex}.sig"] = json.dumps(document).encode()
    with suppress(EnrootSlurmErrorOfTest):
        assert verdict_on(repository, KEYLESS) or document != DOCUMENT


REFERRER = {
    "schemaVersion": 2,
    "mediaType": INDEX_TYPE,
    "manifests": [{"mediaType": INDEX_TYPE, "digest": str(DIGEST), "size": 3, "artifactType": "x"}],
}


@given(mutations(REFERRER) | json_values, mutations(DOCUMENT) | json_values)
def test_lists_of_referrers(index, manifest) -> None:
    """So are they."""
    repository = Anything()
    repository.pages[str(DIGEST)] = [json.dumps(index).encode()]
    repository.documents[str(DIGEST)] = json.dumps(manifest).encode()
    with suppress(EnrootSlurmErrorOfTest):
        assert not verdict_on(repository, KEYED)


@given(mutations(REFERRER) | json_values, mutations(DOCUMENT) | json_values, st.binary(max_size=40))
def test_attachments(index, manifest, blob) -> None:
    """They are listed as far as they can be understood."""
    repository = Anything()
    repository.pages[str(DIGEST)] = [json.dumps(index).encode()]
    for target in (str(DIGEST), f"sha256-{DIGEST.hex}.att"):
        repository.documents[target] = json.dumps(manifest).encode()
    repository.blobs = dict.fromkeys(REPOSITORY.blobs, blob)
    with suppress(EnrootSlurmErrorOfTest):
        for each in attachments(repository, DIGEST, Digest.of(b"other")):
            sbom_in(each, repository)


@given(st.text(max_size=60), st.sampled_from(["matchExact", "matchRepository", "matchRepoDigestOrExact"]))
def test_names_in_signatures(signed, kind) -> None:
    """A name fits if it is the same, in full."""
    name = ImageName(NAME, "1")
    if not SignedIdentity(kind).mismatch(signed, name):
        assert ImageName.parse(signed).repository == NAME
