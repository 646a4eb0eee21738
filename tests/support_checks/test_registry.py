"""The real registry as a fixture: its kinds, its log, and images of real tools in it."""

from __future__ import annotations

import json

import pytest
from support.images import Image, Index, Layer, buildah_push, busybox_layout, skopeo_copy
from support.tools import require_root

ACCEPT = {"Accept": "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"}


def manifest_of(registry, name, tag):
    status, headers, body = registry.request("GET", f"/v2/{name}/manifests/{tag}", headers=ACCEPT)
    assert status == 200
    return headers["Content-Type"], json.loads(body)


def test_requests_are_recorded(registry, repository):
    """Foreign requests are counted with their status, our own are not, and `reset` forgets."""
    pushed = registry.push(repository, "t", Image([Layer().file("f")]))
    registry.reset()
    other = {"User-Agent": "other"}
    registry.request("GET", f"/v2/{repository}/blobs/{pushed.layers[0]}", headers=other)
    registry.request("GET", f"/v2/{repository}/manifests/none", headers=other)
    assert (registry.count("GET", "blobs"), registry.count("GET", pushed.layers[0], status=200)) == (1, 1)
    assert [(r.method, r.status, r.user_agent) for r in registry.requests()] == [
        ("GET", 200, "other"),
        ("GET", 404, "other"),
    ]
    registry.reset()
    assert registry.requests() == []


@pytest.mark.parametrize("options", [{"tls": True}, {"users": {"user": "pass word"}}], ids=["tls", "htpasswd"])
def test_kinds_of_registries(make_registry, options):
    """TLS and passwords work, and are needed."""
    registry = make_registry(**options)
    pushed = registry.push("a/b", "t", Image([Layer()]))
    assert manifest_of(registry, "a/b", "t")[1]["layers"][0]["digest"] == pushed.layers[0]
    assert registry.url.startswith("https" if "tls" in options else "http:")
    assert registry.request("GET", "/v2/", headers={"Authorization": ""})[0] == (200 if "tls" in options else 401)


def test_storage_can_be_shared(registry, repository, make_registry):
    """What was pushed to the open registry is in one with a password."""
    pushed = registry.push(repository, "t", Image([Layer()]))
    closed = make_registry(storage=registry.storage, users={"u": "p"})
    assert manifest_of(closed, repository, "t")[1]["config"]["digest"] == pushed.config


@pytest.mark.parametrize("family", ["docker", "oci"])
def test_hand_made_images(registry, repository, family):
    """Media types and digests fit; an index leads to its images."""
    image = Image([Layer().file("f"), Layer().file("g"), Layer()], family, ["gzip", "zstd", "none"], {"Cmd": ["x"]})
    pushed = registry.push(
        repository, "i", Index([image, image.on("arm64", "v8")], family, attestations=family == "oci")
    )
    registry.push(repository, "t", image)
    media_type, manifest = manifest_of(registry, repository, "t")
    assert media_type == manifest["mediaType"]
    assert family in media_type
    assert tuple(x["digest"] for x in manifest["layers"]) == pushed.images[0].layers
    assert [x["mediaType"].rpartition("tar")[2][1:] for x in manifest["layers"]] == ["gzip", "zstd", ""]
    assert pushed.images[1].layers == pushed.images[0].layers
    assert pushed.images[1].config != pushed.images[0].config


def test_images_of_real_tools(registry, repository, tmp_path):
    """umoci, skopeo and buildah make images of two layers, in both formats and with zstd."""
    layout = busybox_layout(tmp_path)
    for form in ("oci", "v2s2"):
        skopeo_copy(f"oci:{layout}:latest", f"docker://{registry.host}/{repository}:{form}", "--format", form)
        assert len(manifest_of(registry, repository, form)[1]["layers"]) == 2
    zstd = f"{repository}-zstd"
    skopeo_copy(f"oci:{layout}:latest", f"docker://{registry.host}/{zstd}:t", "--dest-compress-format", "zstd")
    assert {x["mediaType"][-4:] for x in manifest_of(registry, zstd, "t")[1]["layers"]} == {"zstd"}
    require_root("buildah with its own storage")
    (tmp_path / "buildah").mkdir()
    buildah_push(tmp_path / "buildah", f"{registry.host}/{repository}:buildah")
    assert len(manifest_of(registry, repository, "buildah")[1]["layers"]) == 2
