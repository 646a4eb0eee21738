"""Manifests, indexes and image configs: read strictly, or refused by name."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.errors import IntegrityError, UnsupportedImage
from enroot_slurm.oci import manifest as m
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import ImageConfig

D = "sha256:" + "0" * 64


def descriptor(media_type="application/vnd.oci.image.layer.v1.tar+gzip", **more):
    return {"mediaType": media_type, "digest": D, "size": 3} | more


def image(**changes):
    document = {
        "schemaVersion": 2,
        "mediaType": m.OCI_MANIFEST,
        "config": descriptor("application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor()],
    }
    return {k: v for k, v in (document | changes).items() if v is not None}


def index(*entries, **changes):
    document = {"schemaVersion": 2, "mediaType": m.OCI_INDEX, "manifests": list(entries)}
    return {k: v for k, v in (document | changes).items() if v is not None}


def entry(architecture=None, media_type=m.OCI_MANIFEST, **more):
    platform = {"platform": {"architecture": architecture, "os": "linux"}} if architecture else {}
    return descriptor(media_type) | platform | more


def parse(document, content_type=m.OCI_MANIFEST):
    return m.parse_document(document if isinstance(document, bytes) else json.dumps(document).encode(), content_type)


def test_manifests_of_docker_and_oci():
    """Both kinds are read, with or without a mediaType of their own and parameters in the header."""
    for kind in (m.OCI_MANIFEST, m.DOCKER_MANIFEST):
        for stated, sent in ((kind, kind), (None, f"{kind}; charset=utf-8"), (kind, "application/json")):
            found = parse(image(mediaType=stated), sent)
            assert isinstance(found, m.Manifest)
            assert found.layers[0].digest == Digest.parse(D)


@pytest.mark.parametrize(
    "base",
    [
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
    ],
)
def test_layers_of_all_kinds(base):
    """Plain, gzip and zstd layers in the spellings of both are known."""
    for packing in ("", "+gzip", ".gzip", "+zstd", ".zstd"):
        assert parse(image(layers=[descriptor(base + packing)])).layers[0].media_type == base + packing


@pytest.mark.parametrize(
    ("document", "content_type", "message"),
    [
        (image(schemaVersion=1), m.OCI_MANIFEST, "schema 1"),
        (image(mediaType=None), "application/vnd.docker.distribution.manifest.v1+prettyjws", "schema 1"),
        (image(manifests=[]), m.OCI_MANIFEST, "read in two ways"),
        (index(config={}), m.OCI_INDEX, "read in two ways"),
        (image(mediaType=m.DOCKER_MANIFEST), m.OCI_MANIFEST, "but was sent as"),
        (image(mediaType="application/x"), m.OCI_MANIFEST, "not a container image"),
        (
            image(config=descriptor("application/vnd.cncf.helm.config.v1+json")),
            m.OCI_MANIFEST,
            "another kind|not a con",
        ),
        (image(layers=[descriptor("application/vnd.oci.image.layer.v1.tar+lzma")]), m.OCI_MANIFEST, "not known"),
        (image(layers=[descriptor("application/octet-stream")]), m.OCI_MANIFEST, "not known"),
        (image(layers=None), m.OCI_MANIFEST, "no list of layers"),
        (image(layers=[descriptor()] * 501), m.OCI_MANIFEST, "501 layers"),
        (image(layers=[descriptor(size=-1)]), m.OCI_MANIFEST, "number of bytes"),
        (image(layers=[descriptor(size="3")]), m.OCI_MANIFEST, "number of bytes"),
        (image(layers=[descriptor(size=True)]), m.OCI_MANIFEST, "number of bytes"),
        (image(layers=[descriptor(digest="sha256:../../etc")]), m.OCI_MANIFEST, "not a sha256"),
        (image(layers=[descriptor(digest=D.upper())]), m.OCI_MANIFEST, "not a sha256"),
        (image(config=None), m.OCI_MANIFEST, "not a descriptor"),
        (index(3), m.OCI_INDEX, "not a descriptor"),
        (b"[]", m.OCI_MANIFEST, "not a JSON object"),
        (b"<html>", m.OCI_MANIFEST, "not valid JSON"),
        (b'{"schemaVersion":2,"layers":[],"layers":[1]}', m.OCI_MANIFEST, "occurs twice"),
        (b"[" * 100_000, m.OCI_MANIFEST, "not valid JSON"),
        (b" " * (m.MAX_DOCUMENT + 1), m.OCI_MANIFEST, "larger than 4 MiB"),
    ],
)
def test_what_is_wrong_is_refused(document, content_type, message):
    """Each malformed, ambiguous or foreign document has its own error."""
    with pytest.raises(IntegrityError, match=message):
        parse(document, content_type)


def test_attestations_and_artifacts_are_left_out():
    """An index offers images only."""
    attestation = entry("unknown", annotations={"vnd.docker.reference.type": "attestation-manifest"})
    artifact = entry("amd64", artifactType="application/x")
    other = entry("amd64", "application/vnd.oci.descriptor.v1+json")
    found = parse(index(attestation, entry("arm64"), artifact, other), m.OCI_INDEX)
    assert [str(p) for p, _ in found.entries] == ["linux/arm64"]


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda s: (
            st.lists(s)
            | st.dictionaries(
                st.sampled_from(
                    ["mediaType", "schemaVersion", "config", "layers", "manifests", "digest", "size", "platform"]
                ),
                s,
            )
        ),
    )
)
def test_any_json_is_read_or_refused(document):
    """No JSON value makes the parser fail in another way."""
    try:
        parse({"schemaVersion": 2, "layers": document}, m.OCI_MANIFEST)
        parse(json.dumps(document).encode())
    except IntegrityError:
        pass


def test_image_configs():
    """The fields that an import needs are read; Docker's nulls are empty."""
    config = ImageConfig.parse(
        json.dumps(
            {
                "architecture": "amd64",
                "os": "linux",
                "config": {
                    "Env": ["A=1"],
                    "Cmd": None,
                    "Entrypoint": "/bin/sh",
                    "Volumes": {"/v": {}},
                    "Labels": {"k": "v"},
                },
                "rootfs": {"diff_ids": [D]},
            }
        ).encode()
    )
    assert (config.env, config.cmd, config.entrypoint) == (("A=1",), (), ("/bin/sh",))
    assert (config.volumes, config.labels) == (("/v",), (("k", "v"),))
    assert str(config.platform) == "linux/amd64"
    assert ImageConfig.parse(b"{}").platform is None


@pytest.mark.parametrize(
    "inner",
    [
        {"Env": "A\0B"},
        {"Env": [1]},
        {"WorkingDir": "/a/../b"},
        {"WorkingDir": "/a\nb"},
        {"Volumes": {"/a\nb": {}}},
        {"Volumes": ["/a"]},
        {"Labels": {"a\nb": "c"}},
        {"Cmd": ["a\0"]},
    ],
)
def test_configs_that_files_can_not_hold_are_refused(inner):
    """NUL, line breaks where a line is an entry, and `..` are errors."""
    with pytest.raises(IntegrityError, match="image config"):
        ImageConfig.parse(json.dumps({"config": inner}).encode())


def test_what_files_can_not_hold_is_dropped():
    """A variable with a line break, and a volume that is no absolute path, are left out, and that is told."""
    inner = {"Env": ["A=1", "PS1=a\nb", "K=-----BEGIN\rsecret", "B=2"], "Volumes": {"/v": {}, "": {}, "rel": {}}}
    config = ImageConfig.parse(json.dumps({"config": inner}).encode())
    assert (config.env, config.volumes) == (("A=1", "B=2"), ("/v",))
    said = "\n".join(config.dropped)
    assert len(config.dropped) == 4
    assert all(word in said for word in ("variable PS1", "variable K", "volume ''", "volume 'rel'"))
    assert "BEGIN" not in said


def test_media_types_that_pretend_are_refused_as_unsupported():
    """A kind that is refused on purpose is told apart from damage."""
    with pytest.raises(UnsupportedImage) as caught:
        parse(image(mediaType="application/vnd.in-toto+json"))
    assert caught.value.exit_code == 6
