"""Docker archives and OCI layouts: what real tools write, what old ones wrote, what is broken, and what is hostile."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support.archives import compressed, docker_members, layout_members, made_tar, sha256, write_directory
from support.command import enroot_slurm
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, buildah_push, busybox_layout, skopeo_copy
from support.tools import require_tools
from support.tree import read_tree

from enroot_slurm import Config, get_image, import_image, resolve_digest
from enroot_slurm.errors import (
    EnrootSlurmError,
    IntegrityError,
    InvalidReference,
    NotFound,
    PlatformNotFound,
    StorageError,
    UnsupportedImage,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.registry import Registry

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
IMAGE = Image(
    [Layer().file("one", b"1" * 5000), Layer().file("two", b"2"), Layer().whiteout("one").file("three", b"3")],
    config={"Env": ["A=b"], "Cmd": ["/bin/sh"]},
    architecture=HERE,
)
OTHER = Image([Layer().file("other", b"o")], architecture=HERE)


@pytest.fixture
def config(import_environment: dict[str, str]) -> Config:
    require_tools("mksquashfs", "unsquashfs")
    return Config.load(environ=import_environment, site_file=None, user_file=None, enroot_conf=None)


def names(path: Path) -> set[bytes]:
    return {name for name in read_tree(path) if b"/" not in name.strip(b"/")} - {b"etc", b"."}


@pytest.fixture
def take(config: Config, tmp_path: Path) -> Callable[..., Path]:
    """A function that imports a URI to a file."""

    def run(uri: str, **more: Any) -> Path:
        return import_image(uri, output=more.pop("output", tmp_path / "x.sqsh"), config=config, force=True, **more).path

    return run


def put(tmp_path: Path, members: Any, name: str = "a.tar", **more: Any) -> Path:
    path = tmp_path / name
    path.write_bytes(members if isinstance(members, bytes) else made_tar(members, **more))
    return path


# What tools write.


@pytest.mark.parametrize("transport", ["docker-archive", "oci-archive", "oci"])
def test_what_skopeo_writes_is_what_the_registry_has(
    transport, config, tmp_path, take, registry: Registry, repository
) -> None:
    """The tree is the registry's, no layer is converted twice, and with the same manifest all bytes are the same."""
    registry.push(repository, "1", IMAGE)
    source = f"docker://{registry.host}/{repository}:1"
    place = f"{transport}:{tmp_path / 'saved'}"
    name = f"{registry.host}/{repository}:1"
    skopeo_copy(source, f"{place}:{name}")
    remote = import_image(registry.uri(repository, "1"), output=tmp_path / "remote.sqsh", config=config)
    layers = sorted((config.cache_path / "layers").rglob("*"))
    path = take(place, output=tmp_path / "local.sqsh")
    assert sorted((config.cache_path / "layers").rglob("*")) == layers
    assert read_tree(path) == read_tree(remote.path)
    assert path.read_bytes() == remote.path.read_bytes()
    by_name = take(f"{place}:{name}", output=tmp_path / "named.sqsh")
    assert by_name.read_bytes() == path.read_bytes()
    shutil.rmtree(config.cache_path)
    assert take(place, output=tmp_path / "alone.sqsh").read_bytes() == remote.path.read_bytes()


def test_the_registry_s_manifest_in_a_layout_is_the_same_image(config, tmp_path, registry: Registry, repository):
    """By its digest: the image is there, and nothing is made again."""
    image = Image(IMAGE.layers, family="oci", architecture=HERE)
    registry.push(repository, "1", image)
    skopeo_copy(f"docker://{registry.host}/{repository}:1", f"oci-archive:{tmp_path}/a.tar")
    remote = get_image(registry.uri(repository, "1"), config=config)
    local = get_image(f"oci-archive:{tmp_path}/a.tar", config=config)
    assert (local.path, local.digest, local.reused) == (remote.path, remote.digest, True)


def test_digests_of_docker_archives_are_skopeo_s(config, tmp_path) -> None:
    """The manifest that is made for an archive without one is, byte for byte, skopeo's."""
    require_tools("skopeo")
    path = put(tmp_path, docker_members(IMAGE))
    raw = subprocess.run(["skopeo", "inspect", "--raw", f"docker-archive:{path}"], capture_output=True, check=True)
    assert resolve_digest(f"docker-archive:{path}", config=config).hex == sha256(raw.stdout)


@pytest.mark.parametrize("kind", ["directory", "tar"])
def test_what_umoci_writes(kind, tmp_path, take) -> None:
    """umoci's layouts have names that are tags alone."""
    layout = busybox_layout(tmp_path / "umoci")
    uri = f"oci:{layout}"
    if kind == "tar":
        path = put(
            tmp_path, [(p.relative_to(layout).as_posix(), p.read_bytes()) for p in layout.rglob("*") if p.is_file()]
        )
        uri = f"oci-archive:{path}"
    assert b"bin" in names(take(uri))


def test_what_buildah_writes(tmp_path, take, registry: Registry, repository) -> None:
    """buildah push to all three transports gives one image."""
    (tmp_path / "b").mkdir()
    buildah_push(tmp_path / "b", f"{registry.host}/{repository}:1")
    for transport in ("docker-archive", "oci-archive", "oci"):
        skopeo_copy(f"docker://{registry.host}/{repository}:1", f"{transport}:{tmp_path}/{transport}")
        assert b"opt" in names(take(f"{transport}:{tmp_path}/{transport}"))


# What old and new Dockers write.


@pytest.mark.parametrize("style", ["modern", "symlinks", "blobs"])
@pytest.mark.parametrize("compression", ["none", "gzip", "zstd"])
@pytest.mark.parametrize("prefix", ["", "./"])
def test_docker_archives_of_all_ages(style, compression, prefix, tmp_path, take) -> None:
    """A layer that is there twice, as a copy or a symlink; compressed layers; names with ``./`` in front."""
    twice = Image([*IMAGE.layers, IMAGE.layers[1]], architecture=HERE)
    path = put(tmp_path, docker_members(twice, style=style, compression=compression), prefix=prefix)
    assert names(take(f"docker-archive:{path}")) == {b"two", b"three"}


def test_one_member_for_equal_layers(tmp_path, take) -> None:
    """manifest.json may name one member twice."""
    members = dict(docker_members(Image([IMAGE.layers[0]] * 2, architecture=HERE)))
    manifest = json.loads(members["manifest.json"])
    manifest[0]["Layers"] = [manifest[0]["Layers"][0]] * 2
    members["manifest.json"] = json.dumps(manifest).encode()
    assert names(take(f"docker-archive:{put(tmp_path, members.items())}")) == {b"one"}


@pytest.mark.parametrize("name", ["app:1", "docker.io/library/app:1", None])
def test_the_true_manifest_is_preferred(name, config, tmp_path, registry: Registry, repository) -> None:
    """Docker with containerd's store writes a layout with the registry's own blobs: the image has the same digest."""
    image = Image(IMAGE.layers, family="oci", architecture=HERE)
    layout = layout_members([(image, {"annotations": {"io.containerd.image.name": "docker.io/library/app:1"}})])
    entry = {
        "Config": f"blobs/sha256/{sha256(image.config_document())}",
        "RepoTags": [name] if name else None,
        "Layers": [f"blobs/sha256/{sha256(blob.data)}" for blob in image.blobs()],
    }
    path = put(tmp_path, [*layout, ("manifest.json", json.dumps([entry]).encode())])
    pushed = registry.push(repository, "1", image)
    assert str(resolve_digest(f"docker-archive:{path}", config=config)) == f"sha256:{sha256(image.manifest())}"
    assert get_image(registry.uri(repository, "1"), config=config).digest == resolve_digest(
        f"docker-archive:{path}" + (":app:1" if name else ""), config=config
    )
    assert pushed


# Names.


def test_default_outputs(config, tmp_path, monkeypatch) -> None:
    """The image's own name, as for a registry; else the file's, without what says that it is an archive."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path, docker_members(IMAGE, ["nvcr.io/nvidia/app:2"]), "n.tar")
    put(tmp_path, docker_members(IMAGE, None), "my-app.tar")
    put(tmp_path, compressed(made_tar(docker_members(IMAGE, None)), "gzip"), "zipped.tar.gz")
    write_directory(tmp_path / "layout", layout_members([(IMAGE, {})]))
    for uri, name in (
        ("docker-archive:n.tar", "nvidia+app+2.sqsh"),
        ("docker-archive:./my-app.tar", "my-app.sqsh"),
        ("docker-archive:zipped.tar.gz", "zipped.sqsh"),
        ("oci:layout", "layout.sqsh"),
    ):
        assert import_image(uri, config=config).path == tmp_path / name


def test_several_images_need_a_selector(tmp_path, take, config) -> None:
    """The error lists them; a name, normalised as by Docker, or a number chooses one."""
    first, second = dict(docker_members(IMAGE, ["app:1"])), dict(docker_members(OTHER, ["x.y/z:2", "z"]))
    manifests = json.loads(first["manifest.json"]) + json.loads(second["manifest.json"])
    manifests[1]["Layers"] = [f"second/{name}" for name in manifests[1]["Layers"]]
    second = {(f"second/{n}" if "/" in n else n): c for n, c in second.items()}
    members = {**first, **second, "manifest.json": json.dumps(manifests).encode()}
    uri = f"docker-archive:{put(tmp_path, members.items())}"
    with pytest.raises(UsageError, match="holds 2 images") as caught:
        take(uri)
    assert "@0 app:1" in caught.value.message
    assert "@1 x.y/z:2, z" in caught.value.message
    for selector in ("app:1", "docker.io/app:1", "docker.io/library/app:1", "@0"):
        assert names(take(f"{uri}:{selector}")) == {b"two", b"three"}
    for selector in ("x.y/z:2", "z", "z:latest", "@1"):
        assert names(take(f"{uri}:{selector}")) == {b"other"}
    for selector in ("app", "@2", "nothing:1"):
        with pytest.raises(NotFound, match="has no image"):
            take(f"{uri}:{selector}")


def test_names_in_layouts(tmp_path, take) -> None:
    """Both annotations count; what is no image does not."""
    ref, full = "org.opencontainers.image.ref.name", "io.containerd.image.name"
    artifact = Image(
        [Layer().file("x")],
        architecture=HERE,
        document={"config": {"mediaType": "application/vnd.x.y", "digest": f"sha256:{'0' * 64}", "size": 1}},
    )
    images = [
        (IMAGE, {"annotations": {ref: "1", full: "docker.io/library/app:1"}}),
        (OTHER, {"annotations": {ref: "2"}}),
    ]
    layout = write_directory(tmp_path / "l", layout_members(images))
    for selector, found in (
        ("1", {b"two", b"three"}),
        ("app:1", {b"two", b"three"}),
        ("2", {b"other"}),
        ("@1", {b"other"}),
    ):
        assert names(take(f"oci:{layout}:{selector}")) == found
    with pytest.raises(UsageError, match="holds 2 images"):
        take(f"oci:{layout}")
    signed = write_directory(tmp_path / "s", layout_members([images[0], (artifact, {})]))
    assert names(take(f"oci:{signed}")) == {b"two", b"three"}


def test_platforms_in_layouts(tmp_path, take, config) -> None:
    """A nested index, or entries that differ in their platforms only, are one image; a sparse layout will do."""
    arm = Image(OTHER.layers, family="oci", architecture="arm64")
    amd = Image(IMAGE.layers, family="oci", architecture="amd64")
    platform = {"platform": {"os": "linux", "architecture": "arm64"}}
    flat = layout_members([(arm, platform), (amd, {"platform": {"os": "linux", "architecture": "amd64"}})])
    members = dict(flat)
    index = members.pop("index.json")
    del members[f"blobs/sha256/{sha256(arm.manifest())}"]
    kind = "application/vnd.oci.image.index.v1+json"
    entry = {"mediaType": kind, "digest": f"sha256:{sha256(index)}", "size": len(index)}
    members |= {
        f"blobs/sha256/{sha256(index)}": index,
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    uri = f"oci-archive:{put(tmp_path, members.items(), 'sparse.tar')}"
    assert names(take(uri, arch="amd64")) == {b"two", b"three"}
    with pytest.raises(NotFound, match="has no manifest"):
        take(uri, arch="arm64")
    uri = f"oci-archive:{put(tmp_path, flat)}"
    assert names(take(uri, arch="arm64")) == {b"other"}
    assert names(take(uri, arch="amd64")) == {b"two", b"three"}
    with pytest.raises(PlatformNotFound, match="is not there for"):
        take(uri, arch="s390x")


def test_another_platform_is_refused(tmp_path, take) -> None:
    other = "s390x"
    path = put(tmp_path, docker_members(Image(OTHER.layers, architecture=other)))
    with pytest.raises(PlatformNotFound, match="says that it is for linux/s390x"):
        take(f"docker-archive:{path}")
    assert take(f"docker-archive:{path}", arch=other)


# What they can't be, what is broken, and what is hostile.

ROOTFS = [("bin/sh", b"x"), ("etc/passwd", b"x"), ("usr/lib/x", b"x")]


def changed(**members: bytes | str | None) -> list[tuple[str, bytes | str]]:
    """A Docker archive with other members."""
    found = {**dict(docker_members(OTHER)), **{k.replace("__", "/").replace("_", "."): v for k, v in members.items()}}
    return [(k, v) for k, v in found.items() if v is not None]


def with_manifest(**fields: Any) -> list[tuple[str, bytes | str]]:
    manifest = json.loads(dict(docker_members(OTHER))["manifest.json"])
    return changed(manifest_json=json.dumps([{**manifest[0], **fields}]).encode())


LAYER = next(name for name, _ in docker_members(OTHER) if name.endswith("layer.tar"))
CONFIG = next(
    name for name, _ in docker_members(OTHER) if name.endswith(".json") and "/" not in name and len(name) > 60
)
DOCKER = docker_members(OTHER)
CASES: dict[str, tuple[Any, type[EnrootSlurmError], str]] = {
    "docker export": (ROOTFS, UnsupportedImage, "a root file system, as 'docker export' writes it"),
    "before Docker 1.10": (changed(manifest_json=None), UnsupportedImage, "before 1.10"),
    "no manifest": (changed(manifest_json=None, repositories=None), UnsupportedImage, "no manifest.json"),
    "an OCI layout": (layout_members([(OTHER, {})]), UnsupportedImage, "is an OCI layout"),
    "a squashfs image": (b"hsqs" + bytes(600), UnsupportedImage, "is a squashfs image already"),
    "empty": (b"", UnsupportedImage, "is empty"),
    "text": (b"<html>" + b" " * 600, UnsupportedImage, "is a text"),
    "noise": (bytes(range(1, 256)) * 9, IntegrityError, "not a tar archive"),
    "cut off": (made_tar(docker_members(OTHER))[:3000], IntegrityError, "cut short"),
    "a manifest that is none": (changed(manifest_json=b"{}"), IntegrityError, "not a JSON list"),
    "no images": (changed(manifest_json=b"[]"), NotFound, "has no image at all"),
    "no config": (with_manifest(Config="nothing.json"), IntegrityError, "has no nothing.json"),
    "a config outside": (with_manifest(Config="../../etc/passwd"), IntegrityError, "leads out of the archive"),
    "an absolute layer": (with_manifest(Layers=["/etc/passwd"]), IntegrityError, "leads out of the archive"),
    "fewer layers": (with_manifest(Layers=[]), IntegrityError, "names 0 layers"),
    "layers that are no list": (with_manifest(Layers={"a": 1}), IntegrityError, "not a list of names"),
    "another config": ([(n, c + b" " if n == CONFIG else c) for n, c in DOCKER], IntegrityError, "content"),
    "another layer": (
        [(n, c[:-1024] + bytes(2048) if n == LAYER else c) for n, c in DOCKER], IntegrityError, "sha256:"),
    "a member twice": (
        [*DOCKER, (LAYER, b"x" * 512)], IntegrityError, "it is there twice"),
    "manifest.json twice": (
        [*DOCKER, ("manifest.json", b"[]")], IntegrityError, "it is there twice"),
    "a symlink out of it": (
        [(n, "../../../../etc/passwd" if n == LAYER else c) for n, c in DOCKER], IntegrityError, "symlink to"),
    "an absolute symlink": (
        [(n, "/etc/passwd" if n == LAYER else c) for n, c in DOCKER], IntegrityError, "symlink to"),
    "a symlink to itself": (
        [(n, "layer.tar" if n == LAYER else c) for n, c in DOCKER], IntegrityError, "no regular file"),
    "a huge manifest": (changed(manifest_json=b"[" + b" " * (9 << 20) + b"]"), UnsupportedImage, "are the most"),
    "deep nesting": (changed(manifest_json=b"[" * 100000), IntegrityError, "not valid JSON"),
}  # fmt: skip


@pytest.mark.parametrize("door", ["file", "stream"])
@pytest.mark.parametrize("case", CASES)
def test_bad_docker_archives(case, door, tmp_path, take, config) -> None:
    """Each gets an error that says what it is, as a file and as a stream; and nothing is left."""
    content, kind, text = CASES[case]
    if door == "stream" and case in {"a squashfs image", "empty", "text"}:
        kind, text = EnrootSlurmError, "."
    path = put(tmp_path, content)
    if door == "stream":
        path = put(tmp_path, compressed(path.read_bytes(), "gzip"), "b.tar.gz")
    with pytest.raises(kind, match=text) as caught:
        take(f"docker-archive:{path}")
    assert "layer" not in caught.value.message or text != "cut short"
    assert not (tmp_path / "x.sqsh").exists()
    assert not list((config.cache_path / "tmp").glob("*"))


def broken_layout(name: str, **changes: Any) -> list[tuple[str, bytes]]:
    members = dict(layout_members([(OTHER, changes.pop("entry", {}))], **changes))
    manifest, layer = sha256(OTHER.manifest()), sha256(OTHER.blobs()[0].data)
    if name == "blob":
        members[f"blobs/sha256/{layer}"] = members[f"blobs/sha256/{layer}"][:-1] + b"x"
    elif name == "size":
        members[f"blobs/sha256/{layer}"] += b"x"
    elif name == "manifest":
        members[f"blobs/sha256/{manifest}"] += b" "
    elif name in members:
        del members[name]
    elif name == "missing":
        del members[f"blobs/sha256/{layer}"]
    return list(members.items())


LAYOUTS: dict[str, tuple[Any, type[EnrootSlurmError], str]] = {
    "version": (broken_layout("", version="2.0.0"), UnsupportedImage, "layout of version 2.0.0"),
    "no index": (broken_layout("index.json"), UnsupportedImage, "no index.json"),
    "no marker": (broken_layout("oci-layout"), IntegrityError, "has no oci-layout"),
    "wrong blob": (broken_layout("blob"), IntegrityError, "damaged: blob sha256:"),
    "wrong size": (broken_layout("size"), IntegrityError, "bytes, and not"),
    "wrong manifest": (broken_layout("manifest"), IntegrityError, "another content than its name"),
    "missing blob": (broken_layout("missing"), NotFound, "has no blob"),
    "sha1": (broken_layout("", entry={"digest": "sha1:" + "0" * 40}), IntegrityError, "not a sha256 or sha512"),
    "no path": (broken_layout("", entry={"digest": "sha256:../../x"}), IntegrityError, "not a sha256 or sha512"),
    "a docker archive": (docker_members(OTHER), UnsupportedImage, "is a Docker archive"),
}


@pytest.mark.parametrize("door", ["file", "directory", "stream"])
@pytest.mark.parametrize("case", LAYOUTS)
def test_bad_layouts(case, door, tmp_path, take, config) -> None:
    content, kind, text = LAYOUTS[case]
    if door == "directory":
        uri = f"oci:{write_directory(tmp_path / 'layout', content)}"
    else:
        path = put(tmp_path, content)
        if door == "stream":
            path = put(tmp_path, compressed(path.read_bytes(), "zstd"), "b")
        uri = f"oci-archive:{path}"
    with pytest.raises(kind, match=text):
        take(uri)
    assert not list((config.cache_path / "tmp").glob("*"))


def test_sha512_layouts(tmp_path, take) -> None:
    """Blobs may be named by SHA-512."""
    members = dict(layout_members([(OTHER, {})]))
    config, blob = OTHER.config_document(), OTHER.blobs()[0]
    by512 = {f"sha512:{hashlib.sha512(c).hexdigest()}": c for c in (config, blob.data)}
    manifest = json.loads(OTHER.manifest())
    manifest["config"]["digest"], manifest["layers"][0]["digest"] = by512
    content = json.dumps(manifest).encode()
    by512[digest := f"sha512:{hashlib.sha512(content).hexdigest()}"] = content
    entry = {"mediaType": manifest["mediaType"], "digest": digest, "size": len(content)}
    members = {
        "oci-layout": members["oci-layout"],
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
    }
    members |= {f"blobs/{name.replace(':', '/')}": c for name, c in by512.items()}
    assert names(take(f"oci-archive:{put(tmp_path, members.items())}")) == {b"other"}
    zipped = put(tmp_path, compressed(made_tar(members.items()), "gzip"), "z")
    assert names(take(f"oci-archive:{zipped}")) == {b"other"}


@pytest.mark.parametrize("program", ["gzip", "zstd"])
@pytest.mark.parametrize("style", ["modern", "blobs"])
def test_compressed_archives(program, style, tmp_path, take, config) -> None:
    """The archive as a whole may be compressed; it is read once, and leaves nothing but blobs."""
    path = put(tmp_path, compressed(made_tar(docker_members(IMAGE, style=style)), program), "b")
    plain = put(tmp_path, docker_members(IMAGE, style=style))
    zipped = take(f"docker-archive:{path}", output=tmp_path / "1").read_bytes()
    assert take(f"docker-archive:{plain}", output=tmp_path / "2").read_bytes() == zipped
    assert not list((config.cache_path / "tmp").glob("*"))


@pytest.mark.parametrize("program", ["xz", "bzip2"])
def test_other_compressions_are_named(program, tmp_path, take) -> None:
    if not shutil.which(program):
        pytest.skip(program)
    path = put(tmp_path, compressed(made_tar(docker_members(IMAGE)), program), "b")
    with pytest.raises(UnsupportedImage, match=f"is compressed with {program}"):
        take(f"docker-archive:{path}")


def test_limits(tmp_path, config) -> None:
    """A stream is given up when it has more than max_download."""
    big = Image([Layer().file("x", os.urandom(1 << 20))], architecture=HERE)
    path = put(tmp_path, compressed(made_tar(docker_members(big)), "gzip"), "b")
    small = config._replace(max_download=1 << 19)
    with pytest.raises(UnsupportedImage, match="more than 524288 bytes"):
        import_image(f"docker-archive:{path}", output=tmp_path / "o", config=small)
    assert not list((config.cache_path / "tmp").glob("*"))


@pytest.mark.parametrize(
    ("uri", "kind", "text"),
    [
        ("docker-archive:", InvalidReference, "the path is missing"),
        ("docker-archive://x/y", InvalidReference, "'//' is before the path"),
        ("oci:~/x", InvalidReference, "'~' is not replaced"),
        ("docker-archive:/x:UPPER", InvalidReference, "not a name with a tag"),
        ("docker-archive:/x:a@sha256:" + "0" * 64, InvalidReference, "not a name with a tag"),
        ("docker-archive:/x:@1x", InvalidReference, "not a name with a tag"),
        ("oci:/x:@-1", InvalidReference, "not a number"),
        ("dockerd://", InvalidReference, "not the name of an image"),
        ("podman://--help", InvalidReference, "not the name of an image"),
        ("docker-archive:/nothing/here", NotFound, "there is no file /nothing/here"),
        ("oci:/nothing/here", NotFound, "there is no directory"),
        (f"oci:/{'a' * 300}", StorageError, "File name too long"),
        ("docker-archive:/etc", UsageError, "is a directory"),
        ("oci:/etc/passwd", UsageError, "is a file"),
        ("docker-archive:/proc/self/mem", EnrootSlurmError, "."),
    ],
)
def test_uris_that_name_nothing(uri, kind, text, take) -> None:
    with pytest.raises(kind, match=text):
        take(uri)


def test_a_directory_in_skopeos_own_form(tmp_path, take) -> None:
    """It has a name of its own, and a way to a form that is read."""
    directory = tmp_path / "d"
    directory.mkdir()
    (directory / "manifest.json").write_text("{}")
    (directory / "version").write_text("Directory Transport Version: 1.1\n")
    with pytest.raises(UnsupportedImage, match="skopeo calls dir:") as caught:
        take(f"oci:{directory}")
    assert caught.value.hint == f"Make a layout of it: skopeo copy dir:{directory} oci:NEW"


def test_unreadable_files(tmp_path, import_environment) -> None:
    """Somebody else's file is an error of storage, with the file's name."""
    path = put(tmp_path, docker_members(OTHER))
    path.chmod(0)
    if os.geteuid() == 0:
        pytest.skip("root reads all")
    done = enroot_slurm("get", f"docker-archive:{path}", environment=import_environment)
    assert done.returncode == StorageError.exit_code


def test_pyxis_prefix(tmp_path, take, config) -> None:
    """pyxis puts docker:// before all; a registry called oci, with a port, is one."""
    path = put(tmp_path, docker_members(OTHER))
    assert names(take(f"docker://docker-archive:{path}")) == {b"other"}
    with FaultRegistry() as registry, pytest.raises(EnrootSlurmError) as caught:
        assert registry
        take("docker://oci:1/app:1")
    assert not isinstance(caught.value, InvalidReference)


def test_a_changed_archive_is_another_image(tmp_path, config) -> None:
    """Outside of jobs nothing is remembered of a file."""
    uri = f"docker-archive:{put(tmp_path, docker_members(IMAGE))}"
    first = get_image(uri, config=config._replace(tag_ttl=1e6))
    assert get_image(uri, config=config).reused
    put(tmp_path, docker_members(OTHER))
    second = get_image(uri, config=config._replace(tag_ttl=1e6))
    assert (first.digest != second.digest, second.reused) == (True, False)
    in_job = get_image(uri, config=config, job="1.0")
    put(tmp_path, docker_members(IMAGE))
    assert get_image(uri, config=config, job="1.0").digest == in_job.digest  # one digest for all nodes of a job
    assert not in_job.public
    assert not list(config.cache_path.glob("tags/*"))
