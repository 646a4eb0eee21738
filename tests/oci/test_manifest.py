"""Manifests, indexes and image configs: read strictly, or refused by name."""

from __future__ import annotations

import json
import time

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
        (image(layers={}), m.OCI_MANIFEST, "not a list"),
        (index(manifests={}), m.OCI_INDEX, "not a list"),
        (image(Layers=[]), m.OCI_MANIFEST, "'Layers' twice"),
        (image(Config={}), m.OCI_MANIFEST, "'Config' twice"),
        (image() | {"layer\u017f": []}, m.OCI_MANIFEST, "twice"),
        (image(Manifests=[]), m.OCI_MANIFEST, "read in two ways"),
        (image(config=descriptor("", Digest=D)), m.OCI_MANIFEST, "'Digest' twice"),
        (index(entry("amd64", ArtifactType="", artifactType="application/x")), m.OCI_INDEX, "twice"),
        (index(entry("amd64", artifactType=[])), m.OCI_INDEX, "not a string"),
        (index(entry("amd64", artifactType={"a": 1})), m.OCI_INDEX, "not a string"),
        (index(entry(platform={"os": "linux", "architecture": "amd64", "OS": "windows"})), m.OCI_INDEX, "'OS' twice"),
        (b'{"schemaVersion":2,"x":NaN}', m.OCI_MANIFEST, "NaN"),
        (json.dumps(image()).encode("utf-16"), m.OCI_MANIFEST, "not valid JSON"),
        (image(layers=[descriptor()] * 501), m.OCI_MANIFEST, "501 layers"),
        (image(layers=[descriptor(size=-1)]), m.OCI_MANIFEST, "number of bytes"),
        (image(layers=[descriptor(size="3")]), m.OCI_MANIFEST, "number of bytes"),
        (image(layers=[descriptor(size=True)]), m.OCI_MANIFEST, "number of bytes"),
        (image(layers=[descriptor(digest="sha256:../../etc")]), m.OCI_MANIFEST, "not a sha256"),
        (image(layers=[descriptor(digest=D.upper())]), m.OCI_MANIFEST, "not a sha256"),
        (image(config=None), m.OCI_MANIFEST, "not an object"),
        (index(3), m.OCI_INDEX, "not an object"),
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


@pytest.mark.parametrize("kind", ["application/octet-stream", "application/json", "text/html", "", None])
def test_configs_of_old_registries(kind):
    """What moby takes for an image's config is one."""
    config = {k: v for k, v in descriptor(kind).items() if v is not None}
    assert parse(image(config=config)).config.media_type == (kind or "")


def test_nothing_is_absent():
    """A null is as good as no key, and no layers as an empty list."""
    bare = json.dumps({**image(), "layers": None, "manifests": None, "mediaType": None, "annotations": None}).encode()
    assert parse(bare).layers == ()
    assert parse(json.dumps({k: v for k, v in image().items() if k != "layers"}).encode()).layers == ()
    nothing = dict.fromkeys(("platform", "annotations", "artifactType"))
    (stated, _), *others = parse(index({**entry("arm64"), **nothing}), m.OCI_INDEX).entries
    assert stated is None
    assert not others
    assert parse(index(manifests=None), m.OCI_INDEX).entries == ()


def test_case_of_names():
    """Go reads a name in any case, and so do all that are written in it."""
    odd = json.dumps({"SchemaVersion": 2, "CONFIG": image()["config"], "Layers": [descriptor()]}).encode()
    assert len(parse(odd, "application/json").layers) == 1
    assert ImageConfig.parse(b'{"config": {"env": ["A=1"]}}').env == ("A=1",)
    assert dict(ImageConfig.parse(b'{"config": {"Labels": {"a": "1", "A": "2"}}}').labels) == {"a": "1", "A": "2"}
    with pytest.raises(IntegrityError, match="twice"):
        ImageConfig.parse(b'{"rootfs": {"diff_ids": [], "DIFF_IDS": []}}')


def test_artifact_types_of_images():
    """An index entry whose artifact type is an image's, or empty, is an image."""
    kinds = ("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json", "", None)
    entries = [entry("amd64", artifactType=kind) for kind in kinds]
    assert len(parse(index(*entries), m.OCI_INDEX).entries) == len(kinds)


@pytest.mark.parametrize("platform", [{}, {"architecture": "", "os": ""}, {"os": "linux"}])
def test_platforms_that_say_nothing(platform):
    """Without an architecture no platform is stated."""
    assert parse(index(entry(platform=platform)), m.OCI_INDEX).entries[0][0] is None


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2023-11-14T22:13:20Z", 1_700_000_000),
        ("2023-11-14T22:13:20.5+00:00", 1_700_000_000),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000),
        ("2023-11-14 22:13:20", 1_700_000_000),
        ("1969-12-31T23:59:59", 0),
        ("0001-01-01T00:00:00", 0),
        ("9999-12-31T23:59:59-23:59", 0),
        ("yesterday", 0),
        (5, 0),
    ],
)
def test_times(monkeypatch, text, seconds):
    """A time without a zone is UTC, on every node."""
    for zone in ("UTC", "America/New_York", "XYZ-14"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        assert ImageConfig.parse(json.dumps({"created": text}).encode()).created == seconds
    monkeypatch.undo()
    time.tzset()


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
