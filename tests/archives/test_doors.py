"""Who may use an archive's image, and whose cache it goes into."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest
from support.archives import docker_members, layout_members, made_tar, write_directory
from support.command import enroot_slurm
from support.images import Image, Layer
from support.tools import require_tools

from enroot_slurm import Config, get_image
from enroot_slurm.errors import ImageRefused, UsageError
from enroot_slurm.oci.local import parse_name
from enroot_slurm.trust.names import name_of

if TYPE_CHECKING:
    from pathlib import Path

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
IMAGE = Image([Layer().file("one", b"1")], architecture=HERE)
ANY, NONE = [{"type": "insecureAcceptAnything"}], [{"type": "reject"}]
SIGNED = [{"type": "sigstoreSigned", "keyPath": "/etc/hostname"}]


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


@pytest.fixture
def places(tmp_path: Path) -> dict[str, str]:
    """The URIs of an image in all forms, in directories of their own."""
    for name, members in (("docker", docker_members(IMAGE)), ("oci", layout_members([(IMAGE, {})]))):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.tar").write_bytes(made_tar(members))
    write_directory(tmp_path / "oci" / "layout", layout_members([(IMAGE, {})]))
    (tmp_path / "link").symlink_to(tmp_path / "oci")
    return {
        "docker-archive": f"docker-archive:{tmp_path}/docker/a.tar",
        "oci-archive": f"oci-archive:{tmp_path}/oci/a.tar",
        "oci": f"oci:{tmp_path}/oci/layout",
        "linked": f"oci-archive:{tmp_path}/link/a.tar",
    }


def loaded(environment: dict[str, str], **overrides: Any) -> Config:
    return Config.load(environ=environment, site_file=None, user_file=None, enroot_conf=None, overrides=overrides)


def test_scopes_of_policies(places, import_environment, tmp_path) -> None:
    """Each transport has its own; paths are those without links; an image that must be signed is refused."""

    def allowed(transports: dict[str, Any], default: Any = NONE) -> set[str]:
        policy = tmp_path / "policy.json"
        policy.write_text(json.dumps({"default": default, "transports": transports}))
        config = loaded(import_environment, signature_policy=[str(policy)])
        found = set()
        for name, uri in places.items():
            try:
                get_image(uri, config=config)
            except ImageRefused:
                continue
            found.add(name)
        return found

    assert allowed({}) == set()
    assert allowed({}, ANY) == set(places)
    assert allowed({"docker": {"": ANY}}) == set()
    assert allowed({"docker-archive": {"": ANY}}) == {"docker-archive"}
    assert allowed({"oci-archive": {"": ANY}}) == {"oci-archive", "linked"}
    assert allowed({"oci-archive": {f"{tmp_path}/link": ANY}}) == set()
    assert allowed({"oci-archive": {f"{tmp_path}/oci": ANY}, "oci": {f"{tmp_path}/o": ANY}}) == {
        "oci-archive",
        "linked",
    }
    assert allowed({"oci": {str(tmp_path): ANY, f"{tmp_path}/oci": NONE}}) == set()
    pytest.importorskip("cryptography")
    key = tmp_path / "key.pub"
    key.write_bytes(_public_key())
    signed = [{"type": "sigstoreSigned", "keyPath": str(key)}]
    assert allowed({name: {"": signed} for name in ("docker-archive", "oci-archive", "oci")}, ANY) == set()


def _public_key() -> bytes:
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    public = ec.generate_private_key(ec.SECP256R1()).public_key()
    return public.public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize(
    ("uri", "transport", "scopes"),
    [
        ("docker-archive:/a/b.tar:x", "docker-archive", []),
        ("oci:/nothing/b:x", "oci", ["/nothing/b", "/nothing"]),
        ("podman://app", "containers-storage", []),
        ("dockerd://h.x/a", "docker-daemon", ["h.x/a:latest", "h.x/a", "h.x", "*.x"]),
        ("dockerd://sha256:abc", "docker-daemon", None),
    ],
)
def test_names_of_policies(uri, transport, scopes) -> None:
    name = name_of(parse_name(uri))
    assert name.transport == transport
    assert scopes is None or name.scopes == scopes


def test_cache_import_is_a_door(import_environment, places, tmp_path) -> None:
    """The file has to be allowed, and each name in it."""
    file = tmp_path / "named.tar"
    named = {"annotations": {"org.opencontainers.image.ref.name": "registry.site/app:1"}}
    file.write_bytes(made_tar(layout_members([(IMAGE, named)])))
    policy = tmp_path / "policy.json"
    environment = {**import_environment, "ENROOT_SLURM_SIGNATURE_POLICY": str(policy)}
    for transports, status in (
        ({"docker": {"registry.site": ANY}}, 4),
        ({"oci-archive": {"": ANY}}, 4),
        ({"oci-archive": {"": ANY}, "docker": {"registry.site": ANY}}, 0),
    ):
        policy.write_text(json.dumps({"default": NONE, "transports": transports}))
        done = enroot_slurm("cache", "import", file, environment=environment)
        assert done.returncode == status, done.stderr
    assert places


def test_the_site_s_cache_is_for_what_is_shared(import_environment, places, tmp_path) -> None:
    """Its owner's archives go into the owner's own cache, unless that is said to be for all."""
    site = tmp_path / "site"
    site.mkdir(mode=0o755)
    config = loaded(import_environment, shared_cache=str(site))
    for uri in places.values():
        image = get_image(uri, config=config)
        assert image.path.is_relative_to(config.cache_path)
        assert not image.public
    assert not list(site.rglob("*.sqsh"))
    with pytest.raises(UsageError, match="does not go into the site's cache"):
        get_image(places["oci"], config=config._replace(cache_path=site))
    shared = get_image(places["oci"], config=config, shared=True)
    assert shared.path.is_relative_to(site)
    assert shared.public
    assert shared.path.stat().st_mode & 0o777 == 0o444
    environment = {**import_environment, "ENROOT_SLURM_SHARED_CACHE": str(site)}
    named = {"annotations": {"org.opencontainers.image.ref.name": "registry.site/app:1"}}
    file = tmp_path / "named.tar"
    file.write_bytes(made_tar(layout_members([(IMAGE, named)])))
    refused = enroot_slurm("cache", "import", file, environment=environment)
    assert (refused.returncode, "Say --shared" in refused.stderr) == (2, True)
    assert enroot_slurm("cache", "import", "--shared", file, environment=environment).returncode == 0
    (tmp_path / "list.yaml").write_text(f"- {places['docker-archive']}\n")
    refused = enroot_slurm("cache", "prefetch", tmp_path / "list.yaml", environment=environment)
    assert refused.returncode == 2
    done = enroot_slurm("cache", "prefetch", "--shared", tmp_path / "list.yaml", environment=environment)
    assert done.returncode == 0, done.stdout + done.stderr
