"""``verify``, ``show`` and ``cache show``, and a site whose verifier has a say for users who read its cache."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.attached import attach, digests_asked, write_policy
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import INDEX, MANIFEST, Image, Index, Layer
from support.signing import Repository, Signer, b64, bundle, dumps, statement
from support.users import users

from enroot_slurm import Config, ImageRefused, get_image
from enroot_slurm.oci.digest import Digest
from enroot_slurm.system.privilege import Identity, run

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = Image([Layer().file("f", b"1")], "oci")
DIGEST = Digest.of(IMAGE.manifest())
SPDX = "https://spdx.dev/Document"


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    """One of the tests' own."""
    with FaultRegistry() as running:
        yield running


def test_verify_says_yes_or_no_for_a_key(registry, import_environment, tmp_path) -> None:
    """No layer is fetched; without a key or a policy there is nothing to be said."""
    signer = Signer()
    uri = serve(registry, IMAGE)
    signatures = Repository()
    signatures.sign(DIGEST, f"{registry.host}/app", signer)
    attach(signatures, registry, "app")
    (tmp_path / "good.pub").write_bytes(signer.pem)
    (tmp_path / "other.pub").write_bytes(Signer().pem)
    good = enroot_slurm("verify", "--key", "good.pub", uri, environment=import_environment, cwd=tmp_path)
    assert good.returncode == 0, good.stderr
    assert good.stdout.startswith(f"{registry.host}/app:1 may be used\n  manifest: {DIGEST}\n  approved by: {tmp_path}")
    said = enroot_slurm("verify", "--json", "--key", tmp_path / "good.pub", uri, environment=import_environment)
    assert json.loads(said.stdout)["digest"] == str(DIGEST)
    other = enroot_slurm("verify", "--key", tmp_path / "other.pub", uri, environment=import_environment)
    assert other.returncode == 4
    assert "1 signature looked at" in other.stderr
    nothing = enroot_slurm("verify", uri, environment=import_environment)
    assert nothing.returncode == 2
    assert "set signature_policy" in nothing.stderr
    assert registry.count("/blobs/") == registry.count(str(Digest.of(signatures_payload(signatures))))


def signatures_payload(signatures: Repository) -> bytes:
    """The one payload in *signatures*."""
    return next(content for content in signatures.blobs.values() if b"critical" in content)


def test_verify_asks_anew_and_cache_show_names_the_verdict(registry, import_environment, tmp_path) -> None:
    """What was found is kept, and shown with the image."""
    signer = Signer()
    policy = write_policy(tmp_path / "p.json", registry.host, signer)
    uri = serve(registry, IMAGE)
    signatures = Repository()
    signatures.sign(DIGEST, f"{registry.host}/app", signer)
    attach(signatures, registry, "app")
    environment = {**import_environment, "ENROOT_SLURM_SIGNATURE_POLICY": str(policy)}
    assert enroot_slurm("get", uri, environment=environment).returncode == 0
    asked = digests_asked(registry, DIGEST)
    assert enroot_slurm("verify", uri, environment=environment).returncode == 0
    assert digests_asked(registry, DIGEST) == asked + 1
    shown = enroot_slurm("cache", "show", DIGEST, environment=environment).stdout
    assert f"verdict   {registry.host}/app:1: {tmp_path}/p.pub (SHA256:" in shown
    (fields,) = json.loads(enroot_slurm("cache", "show", "--json", DIGEST, environment=environment).stdout)
    assert [each["image"] for each in fields["verdicts"]] == [f"{registry.host}/app:1"]
    assert enroot_slurm("cache", "verify", environment=environment).returncode == 0
    assert enroot_slurm("cache", "gc", environment=environment).returncode == 0


def test_show_lists_what_buildkit_and_cosign_attach(registry, import_environment) -> None:
    """By the index, the tag .att and the referrers; a bill of materials is printed from each of these places."""
    index = Index([IMAGE, IMAGE.on("arm64")], attestations=True)
    sbom = {"spdxVersion": "SPDX-2.3"}

    def of(predicate: str) -> bytes:
        return dumps({**json.loads(statement(DIGEST, predicate)), "predicate": sbom})

    uri = serve(registry, IMAGE)
    top = registry.add_manifest("app", "1", index.document(), INDEX["oci"])
    registry.add_manifest("app", "", index.attestation().manifest(), MANIFEST["oci"])
    registry.add_blob(index.attestation().blobs()[0].data)
    signatures = Repository()
    made = bundle(Signer(), of(SPDX))
    signatures.refer(DIGEST, dumps(made))
    signatures.refer(top, b'{"bomFormat": "CycloneDX"}', "application/vnd.cyclonedx+json", "application/vnd.cyclonedx")
    envelope = dumps({"payload": b64(of("https://slsa.dev/provenance/v1")), "payloadType": "x", "signatures": []})
    layer = signatures.add_blob(envelope, "application/vnd.dsse.envelope.v1+json", {"predicateType": "slsa\x1b[2J"})
    signatures.attach_layers(DIGEST, [layer])
    signatures.documents[f"sha256-{DIGEST.hex}.att"] = signatures.documents.pop(f"sha256-{DIGEST.hex}.sig")
    attach(signatures, registry, "app")
    said = enroot_slurm("show", "--attestations", "-a", "amd64", uri, environment=import_environment)
    assert said.returncode == 0, said.stderr
    rows = [line.split() for line in said.stdout.splitlines()]
    assert rows[0] == ["KIND", "SIGNED", "SIZE", "DIGEST"]
    assert [row[:2] for row in rows[1:]] == [
        ["slsa\\x1b[2J", "yes"],
        [SPDX, "yes"],
        ["application/vnd.cyclonedx", "no"],
        ["application/vnd.in-toto+json", "no"],
    ]
    bom = enroot_slurm("show", "--sbom", "-a", "amd64", uri, environment=import_environment)
    assert json.loads(bom.stdout) == sbom
    signatures.pages.pop(str(DIGEST))
    registry.heal()
    attach(signatures, registry, "app")
    bom = enroot_slurm("show", "--sbom", "-a", "amd64", uri, environment=import_environment)
    assert json.loads(bom.stdout) == {"bomFormat": "CycloneDX"}
    registry.heal()
    none = enroot_slurm("show", "--sbom", "-a", "amd64", uri, environment=import_environment)
    assert none.returncode == 3


@pytest.mark.skipif(os.geteuid() != 0, reason="makes users")
def test_a_verifier_is_asked_once_by_the_owner_of_the_sites_cache(registry) -> None:
    """Users find its verdict in the site's cache; when the site changes it, each user's own import asks again."""
    base = Path(tempfile.mkdtemp())
    base.chmod(0o755)
    try:
        with users(2, base) as (owner, user):
            programs, cache, log = base / "verifiers", base / "cache", base / "log"
            programs.mkdir(mode=0o755)
            cache.mkdir(mode=0o755)
            os.chown(cache, owner.uid, owner.uid)
            log.touch()
            log.chmod(0o666)
            check = programs / "check"
            check.write_text(f'#!/bin/sh\nid -un >> {log}\ncase "$*" in *:bad*) echo "CVE-1"; exit 1;; esac\n')
            check.chmod(0o755)
            site = base / "site.yaml"
            site.write_text(
                f"shared_cache: {cache}\nverifier_dir: {programs}\ninsecure_registries: [{registry.host}]\n"
            )

            def get(who, uri: str) -> str:
                def work() -> str:
                    environ = {"HOME": str(who.home), "ENROOT_CACHE_PATH": str(who.home / "cache")}
                    if who is owner:
                        environ["ENROOT_CACHE_PATH"] = str(cache)
                    config = Config.load(environ=environ, site_file=site, user_file=None, enroot_conf=None)
                    return str(get_image(uri, config=config).path)

                return run(work, Identity.of(who.name))

            uri, bad = serve(registry, IMAGE), serve(registry, IMAGE, tag="bad")
            path = get(owner, uri)
            assert path.startswith(f"{cache}/")
            assert get(user, uri) == path
            assert log.read_text().split() == [owner.name]
            for each in (owner, user):
                with pytest.raises(ImageRefused, match=r"check says no \(exit status 1\): CVE-1"):
                    get(each, bad)
            check.write_text(check.read_text() + "# new\n")
            assert get(user, uri) == path
            assert get(user, uri) == path
            assert log.read_text().split() == [owner.name, owner.name, user.name, user.name]
            check.chmod(0o777)
            with pytest.raises(Exception, match="others than root can write"):
                get(user, uri)
    finally:
        shutil.rmtree(base)
