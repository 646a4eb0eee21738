"""policy.json: what is read from it, what is refused, and which scope counts (containers-policy.json(5))."""

from __future__ import annotations

import base64
import json

import pytest

from enroot_slurm.errors import ConfigError, ImageRefused
from enroot_slurm.oci.reference import Reference
from enroot_slurm.trust.gate import demand
from enroot_slurm.trust.names import ImageName, path_scopes
from enroot_slurm.trust.policy import Policy
from enroot_slurm.trust.requirements import AcceptAnything, Reject, SignedBy, SigstoreSigned

ACCEPT = [{"type": "insecureAcceptAnything"}]
REJECT = [{"type": "reject"}]
SIGNED = {"type": "sigstoreSigned", "keyPath": "/k.pub"}
DIGEST = f"sha256:{'a' * 64}"


def parse(document: object) -> Policy:
    """The policy of *document*."""
    return Policy.parse("/p.json", json.dumps(document).encode())


def requirement(**fields: object) -> object:
    """The one requirement that *fields* make."""
    return parse({"default": [fields]}).default[0]


@pytest.mark.parametrize(
    "scope",
    [
        "registry.site:5000/prod/app:1",
        "registry.site:5000/prod/app",
        "registry.site:5000/prod",
        "registry.site:5000",
        "*.site",
        "",
    ],
)
def test_scopes_of_every_level_hold(scope) -> None:
    """Each place that an image has is a scope."""
    policy = parse({"default": ACCEPT, "transports": {"docker": {scope: REJECT, "registry.other": ACCEPT}}})
    name = ImageName.of(Reference.parse("docker://registry.site:5000/prod/app:1"))
    assert policy.rule("docker", name.scopes).requirements == (Reject(),)
    other = ImageName.of(Reference.parse("docker://registry.other/prod/app:1"))
    assert policy.rule("docker", other.scopes).requirements == (AcceptAnything(),)


def test_the_most_precise_scope_counts_alone() -> None:
    """The lists of wider scopes are not added, even if they are stricter."""
    scopes = ImageName.parse("a.b.c/ns/app:1").scopes
    assert scopes == ["a.b.c/ns/app:1", "a.b.c/ns/app", "a.b.c/ns", "a.b.c", "*.b.c", "*.c"]
    for i, scope in enumerate(scopes):
        wider = dict.fromkeys([*scopes[i + 1 :], ""], REJECT)
        policy = parse({"default": REJECT, "transports": {"docker": {scope: ACCEPT, **wider}}})
        assert policy.rule("docker", scopes).requirements == (AcceptAnything(),)


def test_the_port_of_https_leaves_no_scope() -> None:
    """Who writes the port, or an alias with it, is under the rules of the same registry without it."""
    names = ("registry-1.docker.io:443#library/x", "index.docker.io:0443/library/x", "docker.io:443#library/x")
    for each in names:
        assert {"docker.io/library/x", "docker.io", "*.io"} <= set(
            ImageName.of(Reference.parse(f"docker://{each}")).scopes
        )
    assert ImageName.parse("a.b:443/x:1").scopes == [
        "a.b:443/x:1",
        "a.b:443/x",
        "a.b:443",
        "a.b/x:1",
        "a.b/x",
        "a.b",
        "*.b",
    ]


@pytest.mark.parametrize(
    ("uri", "scopes"),
    [
        ("docker://busybox", ["docker.io/library/busybox:latest", "docker.io/library/busybox", "docker.io/library"]),
        ("docker://registry-1.docker.io/a/b:1", ["docker.io/a/b:1", "docker.io/a/b", "docker.io/a"]),
        (f"docker://h.x/a:1@{DIGEST}", [f"h.x/a@{DIGEST}", "h.x/a", "h.x"]),
        ("docker://me@h.x/a:1", ["h.x/a:1", "h.x/a", "h.x"]),
        ("docker://[::1]:5000#a:1", ["[::1]:5000/a:1", "[::1]:5000/a", "[::1]:5000"]),
    ],
)
def test_names_are_in_full(uri, scopes) -> None:
    """Docker Hub is docker.io, whatever the user wrote; a login is no part of the name."""
    assert ImageName.of(Reference.parse(uri)).scopes[: len(scopes)] == scopes


def test_names_that_begin_alike_are_others() -> None:
    """A scope ends where a component of the name does."""
    policy = parse({"default": REJECT, "transports": {"docker": {"h.x/prod": ACCEPT}}})
    assert policy.rule("docker", ImageName.parse("h.x/production:1").scopes).requirements == (Reject(),)
    assert policy.rule("docker", ImageName.parse("h.x.evil.org/prod:1").scopes).requirements == (Reject(),)


def test_archives_have_scopes_of_paths() -> None:
    """An archive's scope is its path, or a directory above it."""
    policy = parse({"default": REJECT, "transports": {"oci-archive": {"/data/images": ACCEPT, "": REJECT}}})
    assert policy.rule("oci-archive", path_scopes("/data/images/a/b.tar")).requirements == (AcceptAnything(),)
    assert policy.rule("oci-archive", path_scopes("/data/images2/b.tar")).requirements == (Reject(),)
    assert policy.rule("docker-archive", []).scope == "default"


KEY_DATA = base64.b64encode(b"pem").decode()
FULCIO = {"caPath": "/ca", "oidcIssuer": "https://i", "subjectEmail": "a@b"}
PKI = {"caRootsPath": "/ca", "subjectEmail": "a@b"}


@pytest.mark.parametrize(
    "fields",
    [
        {"keyPath": "/k"},
        {"keyPaths": ["/k", "/l"]},
        {"keyData": KEY_DATA},
        {"keyDatas": [KEY_DATA]},
        {"keyPath": "/k", "rekorPublicKeyPath": "/r"},
        {"keyPath": "/k", "rekorPublicKeyDatas": [KEY_DATA]},
        {"fulcio": FULCIO, "rekorPublicKeyPaths": ["/r"]},
        {"pki": PKI},
        {"pki": {**PKI, "caIntermediatesData": KEY_DATA, "subjectHostname": "h"}},
        {"keyPath": "/k", "signedIdentity": {"type": "matchExact"}},
        {"keyPath": "/k", "signedIdentity": {"type": "exactReference", "dockerReference": "h.x/a:1"}},
        {"keyPath": "/k", "signedIdentity": {"type": "exactRepository", "dockerRepository": "h.x/a"}},
        {
            "keyPath": "/k",
            "signedIdentity": {"type": "remapIdentity", "prefix": "h.x", "signedPrefix": "docker.io/library"},
        },
    ],
)
def test_every_form_of_sigstore_signed_is_read(fields) -> None:
    """All forms of the manual page."""
    assert isinstance(requirement(type="sigstoreSigned", **fields), SigstoreSigned)


@pytest.mark.parametrize("keys", [{"keyPath": "/k"}, {"keyPaths": ["/k"]}, {"keyData": KEY_DATA}])
def test_signed_by_is_read(keys) -> None:
    """It is understood, so that it can be refused."""
    assert isinstance(requirement(type="signedBy", keyType="GPGKeys", **keys), SignedBy)


@pytest.mark.parametrize(
    ("document", "why"),
    [
        ({}, "'default' is missing"),
        ({"default": []}, "one at least"),
        ({"default": {}}, "a list of requirements"),
        ({"default": ACCEPT, "more": 1}, "'more' is not known"),
        ({"default": ["x"]}, "an object is expected"),
        ({"default": [{}]}, "'type' is missing"),
        ({"default": [{"type": "accept"}]}, "the type accept is not known"),
        ({"default": [{"type": "reject", "x": 1}]}, "'x' is not known"),
        ({"default": ACCEPT, "transports": []}, "an object is expected"),
        ({"default": ACCEPT, "transports": {"docker": []}}, "an object is expected"),
        ({"default": ACCEPT, "transports": {"docker": {"h.x": []}}}, "one at least"),
        ({"default": ACCEPT, "transports": {"docker": {"*.h.x/a": REJECT}}}, "DOMAIN"),
        ({"default": ACCEPT, "transports": {"docker": {"h.*": REJECT}}}, "DOMAIN"),
        ({"default": ACCEPT, "transports": {"docker-archive": {"/a": REJECT}}}, "the only scope"),
        ({"default": ACCEPT, "transports": {"oci": {"/": REJECT}}}, "absolute path"),
        ({"default": ACCEPT, "transports": {"oci": {"a/b": REJECT}}}, "absolute path"),
        ({"default": ACCEPT, "transports": {"oci": {"/a/../b": REJECT}}}, "absolute path"),
        ({"default": [{"type": "signedBy", "keyPath": "/k"}]}, "'keyType' is missing"),
        ({"default": [{"type": "signedBy", "keyType": "x", "keyPath": "/k"}]}, "keyType is not known"),
        ({"default": [{"type": "signedBy", "keyType": "GPGKeys"}]}, "no key is named"),
        ({"default": [{"type": "sigstoreSigned"}]}, "no key is named"),
        ({"default": [{**SIGNED, "keyData": KEY_DATA}]}, "exclude each other"),
        ({"default": [{**SIGNED, "keyPath": "k"}]}, "not an absolute path"),
        ({"default": [{**SIGNED, "keyPath": ""}]}, "with something in it"),
        ({"default": [{**SIGNED, "keyPath": 1}]}, "with something in it"),
        ({"default": [{"type": "sigstoreSigned", "keyPaths": []}]}, "not a list"),
        ({"default": [{"type": "sigstoreSigned", "keyData": "!"}]}, "not base64"),
        ({"default": [{"type": "sigstoreSigned", "fulcio": FULCIO}]}, "needs a rekorPublicKey"),
        ({"default": [{"type": "sigstoreSigned", "pki": PKI, "rekorPublicKeyPath": "/r"}]}, "exclude each other"),
        ({"default": [{"type": "sigstoreSigned", "pki": {"caRootsPath": "/c"}}]}, "subjectHostname is missing"),
        (
            {"default": [{"type": "sigstoreSigned", "fulcio": {"caPath": "/c"}, "rekorPublicKeyPath": "/r"}]},
            "'oidcIssuer' is missing",
        ),
        ({"default": [{**SIGNED, "signedIdentity": {"type": "any"}}]}, "the type any is not known"),
        ({"default": [{**SIGNED, "signedIdentity": {"type": "matchExact", "x": 1}}]}, "'x' is not known"),
        (
            {"default": [{**SIGNED, "signedIdentity": {"type": "exactReference", "dockerReference": "h.x/a"}}]},
            "a tag or a digest",
        ),
        (
            {"default": [{**SIGNED, "signedIdentity": {"type": "exactRepository", "dockerRepository": "h.x/a:1"}}]},
            "no tag and no digest",
        ),
        (
            {
                "default": [
                    {**SIGNED, "signedIdentity": {"type": "remapIdentity", "prefix": "busybox", "signedPrefix": "h.x"}}
                ]
            },
            "in full",
        ),
    ],
)
def test_anything_unknown_makes_the_whole_policy_wrong(document, why) -> None:
    """A mistyped word must not open what it was to close."""
    with pytest.raises(ConfigError, match=why) as caught:
        parse(document)
    assert str(caught.value).startswith("/p.json: ")


@pytest.mark.parametrize(
    "text",
    [
        '{"default": [{"type": "reject"}], "default": [{"type": "insecureAcceptAnything"}]}',
        '{"default": [{"type": "reject", "type": "insecureAcceptAnything"}]}',
        '{"default": [{"type": "insecureAcceptAnything"}]} {}',
        '{"default": [{"type": "insecureAcceptAnything"}]} // comment',
        "",
        "[]",
        "\ufeff{}",
    ],
)
def test_only_json_without_repeated_keys_is_a_policy(text) -> None:
    """Readers would differ on anything else."""
    with pytest.raises(ConfigError):
        Policy.parse("/p.json", text.encode())


def write(path, document) -> str:
    """*document* as a file that only this user can write."""
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    return str(path)


def test_signed_by_refuses_its_images_only(tmp_path) -> None:
    """A policy may have GPG keys for other places."""
    gpg = [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": "/k"}]
    file = write(tmp_path / "p", {"default": ACCEPT, "transports": {"docker": {"h.x": gpg}}})
    assert demand(ImageName.parse("h.y/a:1"), [file], []).is_met
    with pytest.raises(ImageRefused, match="GPG") as caught:
        demand(ImageName.parse("h.x/a:1"), [file], [])
    assert file in str(caught.value)
    assert caught.value.exit_code == 4


def test_a_second_policy_can_only_be_stricter(tmp_path) -> None:
    """All policies have to agree, in any order."""
    site = write(tmp_path / "site", {"default": REJECT, "transports": {"docker": {"h.x": ACCEPT}}})
    user = write(tmp_path / "user", {"default": ACCEPT, "transports": {"docker": {"h.x/bad": REJECT}}})
    for files in ([site, user], [user, site]):
        assert demand(ImageName.parse("h.x/a:1"), files, []).is_met
        for refused in ("h.y/a:1", "h.x/bad:1"):
            with pytest.raises(ImageRefused, match="reject"):
                demand(ImageName.parse(refused), files, [])


def test_a_policy_that_cannot_be_read_lets_nothing_pass(tmp_path) -> None:
    """It is missing, no file, or others could have written it."""
    name = ImageName.parse("h.x/a:1")
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(ConfigError):
            demand(name, [str(path)], [])
    file = write(tmp_path / "p", {"default": ACCEPT})
    (tmp_path / "p").chmod(0o666)
    with pytest.raises(ConfigError, match="others than root can write"):
        demand(name, [file], [])


def test_the_key_is_a_part_of_what_is_asked(tmp_path) -> None:
    """Another key in the same file makes a new demand; a change for other images does not."""
    key = tmp_path / "k"
    key.write_bytes(b"1")
    signed = [{"type": "sigstoreSigned", "keyPath": str(key)}]
    name = ImageName.parse("h.x/a:1")
    file = write(tmp_path / "p", {"default": REJECT, "transports": {"docker": {"h.x": signed}}})
    first = demand(name, [file], [])
    write(tmp_path / "p", {"default": ACCEPT, "transports": {"docker": {"h.x": signed, "h.z": REJECT}}})
    assert demand(name, [file], []).fingerprint == first.fingerprint
    key.write_bytes(b"2")
    assert demand(name, [file], []).fingerprint != first.fingerprint
    key.unlink()
    with pytest.raises(ConfigError, match="can't be read"):
        demand(name, [file], [])
