"""Policies at work: asked at every door, once for each image, and again when they change."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.attached import attach, digests_asked, push, write_policy
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import INDEX as INDEXES
from support.images import Image, Index, Layer
from support.signing import INDEX as INDEX_TYPE
from support.signing import Repository, Signer, bundle, dumps, statement
from support.tools import require_tools

from enroot_slurm import Config, ImageRefused, NetworkError, find_image, get_image, import_image, resolve_digest
from enroot_slurm.errors import ConfigError
from enroot_slurm.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

IMAGE = Image([Layer().file("f", b"1")], "oci", config={"Cmd": ["sh"]})
DIGEST = Digest.of(IMAGE.manifest())


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    """One of the tests' own."""
    with FaultRegistry() as running:
        yield running


@pytest.fixture
def load(import_environment, tmp_path) -> Callable[..., Config]:
    """A function that loads the settings: those given are the site's."""

    def run(*, user: str = "", environment: dict[str, str] | None = None, **site: Any) -> Config:
        site_file, user_file = tmp_path / "site.yaml", tmp_path / "user.yaml"
        site_file.write_text("".join(f"{key}: {value}\n" for key, value in site.items()))
        user_file.write_text(user)
        environ = {**import_environment, **(environment or {})}
        return Config.load(environ=environ, site_file=site_file, user_file=user_file, enroot_conf=None)

    return run


def sign(registry: FaultRegistry, digest: Digest, signer: Signer, *, new: bool = False, name: str = "app") -> None:
    """Attach a signature."""
    signatures = Repository()
    if new:
        signatures.refer_signature(digest, signer)
    else:
        signatures.sign(digest, f"{registry.host}/{name}", signer)
    attach(signatures, registry, name)


def images(config: Config) -> list[Path]:
    """The images in the cache."""
    return sorted(config.cache_path.glob("images/*/*/*.sqsh"))


@pytest.mark.parametrize("new", [False, True])
def test_a_signed_image_is_verified_once(registry, load, tmp_path, new) -> None:
    """By tag, by digest, found and imported: no signature is asked for again."""
    signer = Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", f"{registry.host}/app", signer))
    uri = serve(registry, IMAGE)
    sign(registry, DIGEST, signer, new=new)
    assert not get_image(uri, config=config).reused
    asked = digests_asked(registry, DIGEST)
    assert 1 <= asked <= 3
    assert get_image(uri, config=config).reused
    import_image(uri, config=config, output=tmp_path / "file")
    resolve_digest(uri, config=config)
    assert digests_asked(registry, DIGEST) == asked
    (verdict,) = (config.cache_path / "verdicts").iterdir()
    said = json.loads(verdict.read_bytes())
    assert said["image"] == f"{registry.host}/app:1"
    assert said["digest"] == str(DIGEST)
    assert said["by"][0].startswith(f"{tmp_path}/p.pub (SHA256:")
    assert said["files"] == [f"{tmp_path}/p.json (docker scope {registry.host}/app)"]


def test_a_hit_by_digest_asks_nobody(registry, load, tmp_path) -> None:
    """Neither for the image nor for signatures."""
    signer = Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, signer))
    uri = f"{serve(registry, IMAGE)}@{DIGEST}"
    sign(registry, DIGEST, signer)
    get_image(uri, config=config)
    before = len(registry.requests)
    found = find_image(uri, config=config)
    assert found is not None
    assert found.reused
    assert len(registry.requests) == before


@pytest.mark.parametrize("with_policy", [False, True])
def test_a_hit_loads_little(registry, load, import_environment, tmp_path, with_policy) -> None:
    """Neither what verifies signatures nor what asks registries; without a policy, nothing of trust/ at all."""
    signer = Signer()
    policy = str(write_policy(tmp_path / "p.json", registry.host, signer)) if with_policy else "off"
    uri = f"{serve(registry, IMAGE)}@{DIGEST}"
    sign(registry, DIGEST, signer)
    get_image(uri, config=load(signature_policy=policy))
    code = "import sys\nfrom enroot_slurm import Config, get_image\n"
    code += "assert get_image(sys.argv[1], config=Config.load(user_file=None, enroot_conf=None)).reused\n"
    code += "print(*sys.modules)"
    environment = {**import_environment, "ENROOT_SLURM_SIGNATURE_POLICY": policy}
    said = subprocess.run(
        [sys.executable, "-c", code, uri], capture_output=True, text=True, env=environment, check=True
    )
    modules = set(said.stdout.split())
    heavy = {"requests", "urllib3", "cryptography", "yaml", "filelock", "subprocess", "dataclasses", "hashlib"}
    assert modules & heavy == set()
    trust = {m.rpartition(".")[2] for m in modules if m.startswith("enroot_slurm.trust.")}
    expected = {"files", "gate", "identity", "names", "policy", "requirements", "verdict"}
    assert trust == (expected if with_policy else set())


def test_nothing_is_asked_or_loaded_without_a_policy(registry, load) -> None:
    """The default: no request for a signature, nothing kept."""
    config = load()
    assert config.signature_policy == ("off",)
    get_image(serve(registry, IMAGE), config=config)
    assert digests_asked(registry, DIGEST) == 0
    assert not (config.cache_path / "verdicts").exists()


@pytest.mark.parametrize("door", ["get", "import", "digest"])
def test_a_refused_image_is_not_fetched(registry, load, tmp_path, door) -> None:
    """Not a byte of a layer, at any door; neither an unsigned one nor one of another place."""
    uri = serve(registry, IMAGE)
    act = {
        "get": lambda config: get_image(uri, config=config),
        "import": lambda config: import_image(uri, config=config, output=tmp_path / "file"),
        "digest": lambda config: resolve_digest(uri, config=config),
    }[door]
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, Signer()))
    with pytest.raises(ImageRefused, match="is not signed"):
        act(config)
    before = len(registry.requests)
    config = load(signature_policy=write_policy(tmp_path / "q.json", "elsewhere.site", None))
    with pytest.raises(ImageRefused, match=r"must not be used here: .*q.json \(default\) says 'reject'"):
        act(config)
    assert len(registry.requests) == before
    assert registry.count("/blobs/") == 0
    assert not (tmp_path / "file").exists()


def test_a_policy_edited_between_two_gets(registry, load, tmp_path) -> None:
    """A stricter one refuses the cached image, whose file stays; the former one finds it again without a request."""
    uri = serve(registry, IMAGE)
    signer = Signer()
    sign(registry, DIGEST, signer)
    policy = write_policy(tmp_path / "p.json", registry.host, None)
    config = load(signature_policy=policy)
    get_image(uri, config=config)
    (file,) = images(config)
    write_policy(policy, registry.host, Signer())
    with pytest.raises(ImageRefused, match="none that is good by"):
        get_image(uri, config=config)
    assert find_image(f"{uri}@{DIGEST}", config=config) is None
    assert images(config) == [file]
    write_policy(policy, registry.host, signer)
    assert get_image(uri, config=config).reused
    asked = digests_asked(registry, DIGEST)
    write_policy(policy, "elsewhere.site", None)
    for look in (get_image, find_image):
        with pytest.raises(ImageRefused, match="reject"):
            look(uri, config=config)
    write_policy(policy, registry.host, None)
    assert get_image(uri, config=config).reused
    (tmp_path / "p.pub").write_bytes(signer.pem)
    assert digests_asked(registry, DIGEST) == asked
    assert images(config) == [file]


def test_another_name_is_another_question(registry, load, tmp_path) -> None:
    """The same image under a name that the policy does not know is refused, although it is cached and verified."""
    signer = Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", f"{registry.host}/app", signer))
    sign(registry, DIGEST, signer)
    get_image(f"{serve(registry, IMAGE)}@{DIGEST}", config=config)
    with pytest.raises(ImageRefused):
        get_image(f"{serve(registry, IMAGE, 'other')}@{DIGEST}", config=config)


@pytest.mark.parametrize("signed", ["index", "platform", "neither"])
def test_the_index_or_the_platforms_manifest(registry, load, tmp_path, signed) -> None:
    """Either covers the image; by the tag, the index' digest and the platform's."""
    signer = Signer()
    index = Index([IMAGE, Image([Layer().file("f", b"2")], "oci", architecture="arm64")])
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, signer))
    uri = serve(registry, IMAGE)
    registry.add_manifest("app", "1", index.document(), INDEXES["oci"])
    top = Digest.of(index.document())
    if signed != "neither":
        sign(registry, top if signed == "index" else DIGEST, signer)
    for each in (uri, f"{uri}@{top}"):
        if signed == "neither":
            with pytest.raises(ImageRefused):
                get_image(each, config=config, arch="amd64")
        else:
            get_image(each, config=config, arch="amd64")
    if signed == "index":  # whoever names the platform's manifest alone has no index that would vouch for it
        with pytest.raises(ImageRefused):
            get_image(f"{uri}@{DIGEST}", config=config, arch="amd64")
    for verdict in (config.cache_path / "verdicts").glob("*"):
        assert json.loads(verdict.read_bytes())["digest"] == str(DIGEST)


def test_a_registry_that_does_not_answer_lets_nothing_pass(registry, load, tmp_path) -> None:
    """The signatures can't be asked for: that is an error of the network, not a verdict."""
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, Signer()), transfer_retries="0")
    uri = serve(registry, IMAGE)
    registry.fault(r"\.sig$", status=500)
    with pytest.raises(NetworkError):
        get_image(uri, config=config)
    registry.heal()
    registry.fault("/referrers/", status=500)
    with pytest.raises(NetworkError):
        get_image(uri, config=config)
    assert images(config) == []


@pytest.mark.parametrize("status", [400, 404, 405])
def test_registries_without_the_referrers_api_have_a_tag(registry, load, tmp_path, status) -> None:
    """Whatever they say to a path that they don't know."""
    signer = Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, signer))
    uri = serve(registry, IMAGE)
    signatures = Repository()
    signatures.refer_signature(DIGEST, signer)
    (page,) = signatures.pages.pop(str(DIGEST))
    attach(signatures, registry, "app")
    registry.add_manifest("app", f"sha256-{DIGEST.hex}", page, INDEX_TYPE)
    registry.fault("/referrers/", status=status, body=b"what?")
    get_image(uri, config=config)


def test_referrers_on_several_pages(registry, load, tmp_path) -> None:
    """Ten at most; a page that leads out of the repository is not followed."""
    signer = Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, signer))
    uri = serve(registry, IMAGE)
    empty = dumps({"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": []})

    def serve_pages(count: int) -> None:
        registry.heal()
        signatures = Repository()
        signatures.pages[str(DIGEST)] = [empty] * count
        signatures.refer(DIGEST, dumps(bundle(signer, statement(DIGEST))))
        attach(signatures, registry, "app")

    serve_pages(11)
    with pytest.raises(ImageRefused):
        get_image(uri, config=config)
    assert registry.count("/referrers/") == 10
    registry.heal()
    links = {"Content-Type": INDEX_TYPE, "Link": '<http://127.0.0.1:9/v2/app/referrers/x>; rel="next"'}
    registry.fault("/referrers/", status=200, body=empty, headers=links)
    with pytest.raises(ImageRefused):
        get_image(uri, config=config)
    serve_pages(10)
    get_image(uri, config=config)


def test_a_real_registry_has_both(registry, make_registry, load, tmp_path) -> None:
    """Debian's has no referrers API: the bundle is found by the fallback tag."""
    require_tools("docker-registry")
    real, signer = make_registry(), Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", real.host, signer))
    for name in ("old", "new", "none"):
        pushed = real.push(name, "1", IMAGE)
        signatures = Repository()
        if name == "old":
            signatures.sign(Digest.parse(pushed.digest), f"{real.host}/{name}", signer)
        elif name == "new":
            signatures.refer_signature(Digest.parse(pushed.digest), signer)
        push(signatures, real, name)
        if name == "none":
            with pytest.raises(ImageRefused, match="is not signed"):
                get_image(real.uri(name, "1"), config=config)
        else:
            get_image(real.uri(name, "1"), config=config)


def test_what_skopeo_signs_is_refused(make_registry, load, tmp_path) -> None:
    """signedBy: a real GPG signature by a real key, which we don't verify, so the image does not pass."""
    require_tools("docker-registry", "skopeo", "gpg")
    real = make_registry()
    real.push("app", "1", IMAGE)
    home = tmp_path / "gnupg"
    home.mkdir(mode=0o700)
    environment = {**os.environ, "GNUPGHOME": str(home)}

    def run(*command: str) -> bytes:
        return subprocess.run(command, check=True, env=environment, capture_output=True).stdout

    run("gpg", "--batch", "--passphrase", "", "--quick-generate-key", "site@example.org", "ed25519", "sign")
    key, manifest = tmp_path / "key.gpg", tmp_path / "manifest"
    key.write_bytes(run("gpg", "--export", "site@example.org"))
    manifest.write_bytes(IMAGE.manifest())
    name = f"{real.host}/app:1"
    run("skopeo", "standalone-sign", "-o", str(tmp_path / "signature"), str(manifest), name, "site@example.org")
    assert (tmp_path / "signature").stat().st_size > 100
    policy = {
        "default": [{"type": "reject"}],
        "transports": {"docker": {real.host: [{"type": "signedBy", "keyType": "GPGKeys", "keyPath": str(key)}]}},
    }
    (tmp_path / "p.json").write_text(json.dumps(policy))
    config = load(signature_policy=tmp_path / "p.json")
    with pytest.raises(ImageRefused, match="signedBy"):
        get_image(real.uri("app", "1"), config=config)
    run("gpgconf", "--kill", "all")


def test_a_users_policy_adds_to_the_sites(registry, load, tmp_path) -> None:
    """Neither "off" nor a file that accepts anything, in any source, takes away what the site asks for."""
    uri = serve(registry, IMAGE)
    strict = write_policy(tmp_path / "strict.json", "elsewhere.site", None)
    lax = write_policy(tmp_path / "lax.json", registry.host, None)
    for config in (
        load(signature_policy=strict, user="signature_policy: off\n"),
        load(signature_policy=strict, user=f"signature_policy: {lax}\n"),
        load(signature_policy=strict, environment={"ENROOT_SLURM_SIGNATURE_POLICY": "off"}),
        load(signature_policy=strict, environment={"ENROOT_SLURM_SIGNATURE_POLICY": "no"}),
        load(signature_policy=lax, user=f"signature_policy: {strict}\n"),
        load(user=f"signature_policy: {strict}\n"),
    ):
        with pytest.raises(ImageRefused):
            get_image(uri, config=config)
    get_image(uri, config=load(signature_policy=lax, user="signature_policy: off\n"))


def test_a_wrong_policy_lets_nothing_pass(registry, load, tmp_path) -> None:
    """Not even an image in the cache."""
    uri = serve(registry, IMAGE)
    get_image(uri, config=load())
    wrong = tmp_path / "wrong.json"
    wrong.write_text("{}")
    for path in (wrong, tmp_path / "none.json"):
        with pytest.raises(ConfigError, match=str(path)):
            get_image(uri, config=load(signature_policy=path))


def test_a_verdict_of_another_user_does_not_count(registry, load, tmp_path) -> None:
    """It could have been written by anybody; a broken one is as good as none."""
    signer = Signer()
    config = load(signature_policy=write_policy(tmp_path / "p.json", registry.host, signer))
    uri = serve(registry, IMAGE)
    sign(registry, DIGEST, signer)
    get_image(uri, config=config)
    (verdict,) = (config.cache_path / "verdicts").iterdir()
    asked = digests_asked(registry, DIGEST)
    content = verdict.read_bytes()
    for spoiled in (b"", b"{", content.replace(b"app:1", b"app:2")):
        verdict.chmod(0o600)
        verdict.write_bytes(spoiled)
        get_image(uri, config=config)
        asked += 1
        assert digests_asked(registry, DIGEST) == asked
        assert verdict.read_bytes() != spoiled
    if os.geteuid() == 0:
        os.chown(verdict, 4711, -1)
        get_image(uri, config=config)
        assert digests_asked(registry, DIGEST) == asked + 1


def test_the_commands_exit_status_is_4(registry, import_environment, tmp_path) -> None:
    """The message says what was looked for, what was found, and which file says so."""
    policy = write_policy(tmp_path / "p.json", registry.host, Signer())
    sign(registry, DIGEST, Signer())
    environment = {**import_environment, "ENROOT_SLURM_SIGNATURE_POLICY": str(policy)}
    said = enroot_slurm("get", serve(registry, IMAGE), environment=environment)
    assert said.returncode == 4
    assert f"{registry.host}/app:1 has a signature, but none that is good by {tmp_path}/p.pub" in said.stderr
    assert f"{policy} (docker scope {registry.host})" in said.stderr
    assert "it is by another key" in said.stderr
