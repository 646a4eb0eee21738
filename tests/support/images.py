"""Images for tests: layers written by hand member by member, pushed over plain HTTP, and images of real tools."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from support.tools import require_tools

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from support.registry import Registry

__all__ = [
    "MTIME",
    "Blob",
    "Image",
    "Index",
    "Layer",
    "Pushed",
    "buildah_push",
    "busybox_layout",
    "compress",
    "decompress",
    "pack",
    "push",
    "put_blob",
    "put_manifest",
    "skopeo_copy",
]

MTIME = 1_700_000_000
"""Modification time of members, unless another is given."""
END = bytes(1024)

MANIFEST = {
    "docker": "application/vnd.docker.distribution.manifest.v2+json",
    "oci": "application/vnd.oci.image.manifest.v1+json",
}
INDEX = {
    "docker": "application/vnd.docker.distribution.manifest.list.v2+json",
    "oci": "application/vnd.oci.image.index.v1+json",
}
CONFIG = {
    "docker": "application/vnd.docker.container.image.v1+json",
    "oci": "application/vnd.oci.image.config.v1+json",
}
LAYER = {
    ("docker", "none"): "application/vnd.docker.image.rootfs.diff.tar",
    ("docker", "gzip"): "application/vnd.docker.image.rootfs.diff.tar.gzip",
    ("docker", "zstd"): "application/vnd.docker.image.rootfs.diff.tar.zstd",
    ("oci", "none"): "application/vnd.oci.image.layer.v1.tar",
    ("oci", "gzip"): "application/vnd.oci.image.layer.v1.tar+gzip",
    ("oci", "zstd"): "application/vnd.oci.image.layer.v1.tar+zstd",
}

_Name = str | bytes


class Layer:
    """A layer's tar archive, member by member, with nothing added or checked; calls can be chained.

    Names may be bytes; text is encoded as UTF-8.  Directories get no trailing slash unless they are given one.
    """

    def __init__(self, form: int = tarfile.PAX_FORMAT, *, mtime: int = MTIME, uid: int = 1000, gid: int = 1000) -> None:
        self.form = form
        self.mtime = mtime
        self.uid = uid
        self.gid = gid
        self._content = bytearray()

    def member(
        self,
        name: _Name,
        kind: bytes = tarfile.REGTYPE,
        data: bytes = b"",
        *,
        mode: int = 0o644,
        link: _Name = "",
        mtime: int | None = None,
        device: tuple[int, int] = (0, 0),
        pax: Mapping[str, str] | None = None,
        form: int | None = None,
    ) -> Self:
        """Any member; *pax* holds records of an extended header, *form* overrides the layer's tar format."""
        info = tarfile.TarInfo(os.fsdecode(name))
        info.type, info.size, info.mode, info.linkname = kind, len(data), mode, os.fsdecode(link)
        info.mtime = self.mtime if mtime is None else mtime
        info.uid, info.gid = self.uid, self.gid
        info.devmajor, info.devminor = device
        info.pax_headers = dict(pax or {})
        self._content += info.tobuf(self.form if form is None else form, "utf-8", "surrogateescape")
        return self.raw(data + bytes(-len(data) % 512))

    def file(self, name: _Name, data: bytes = b"", mode: int = 0o644, **more: Any) -> Self:
        return self.member(name, tarfile.REGTYPE, data, mode=mode, **more)

    def dir(self, name: _Name, mode: int = 0o755, **more: Any) -> Self:
        return self.member(name, tarfile.DIRTYPE, mode=mode, **more)

    def dirs(self, *names: _Name) -> Self:
        for name in names:
            self.dir(name)
        return self

    def symlink(self, name: _Name, target: _Name, mode: int = 0o777, **more: Any) -> Self:
        return self.member(name, tarfile.SYMTYPE, mode=mode, link=target, **more)

    def hardlink(self, name: _Name, target: _Name, mode: int = 0o644, **more: Any) -> Self:
        return self.member(name, tarfile.LNKTYPE, mode=mode, link=target, **more)

    def char(self, name: _Name, device: tuple[int, int] = (1, 3), mode: int = 0o666, **more: Any) -> Self:
        return self.member(name, tarfile.CHRTYPE, mode=mode, device=device, **more)

    def block(self, name: _Name, device: tuple[int, int] = (8, 300), mode: int = 0o660, **more: Any) -> Self:
        return self.member(name, tarfile.BLKTYPE, mode=mode, device=device, **more)

    def fifo(self, name: _Name, mode: int = 0o600, **more: Any) -> Self:
        return self.member(name, tarfile.FIFOTYPE, mode=mode, **more)

    def whiteout(self, path: str) -> Self:
        """``.wh.NAME`` beside where *path* is in a lower layer."""
        parent, _, name = path.rpartition("/")
        return self.file(f"{parent}/.wh.{name}" if parent else f".wh.{name}", mode=0)

    def opaque(self, directory: str) -> Self:
        """``.wh..wh..opq`` in *directory*."""
        return self.file(f"{directory}/.wh..wh..opq" if directory else ".wh..wh..opq", mode=0)

    def sparse(self, name: str, size: int, segments: Mapping[int, bytes], variant: str) -> Self:
        """A sparse file as GNU tar archives it; *variant* is ``gnu``, ``oldgnu`` or a PAX version: 0.0, 0.1, 1.0."""
        form = ["--format=pax", f"--sparse-version={variant}"] if variant[0].isdigit() else [f"--format={variant}"]
        owner = [f"--mtime=@{self.mtime}", f"--owner=:{self.uid}", f"--group=:{self.gid}", "--mode=0644"]
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for offset, data in segments.items():
                    file.seek(offset)
                    file.write(data)
                file.truncate(size)
            # Without atime and ctime the archive is the same every time.
            times = ["--pax-option=delete=atime,delete=ctime"] if variant[0].isdigit() else []
            command = ["tar", "-C", directory, "-b1", "-cSf", "-", *form, *times, *owner, "--", name]
            archive = subprocess.run(command, capture_output=True, check=True).stdout
        assert len(archive) < size + 512, "the file system of the temporary directory knows no holes"
        assert archive.endswith(END)
        return self.raw(archive[: -len(END)])

    def raw(self, content: bytes) -> Self:
        """Bytes as they are: a header made elsewhere, padding, nonsense."""
        self._content += content
        return self

    def tar(self, *, end: bytes = END) -> bytes:
        """The archive."""
        return bytes(self._content) + end


class Blob(NamedTuple):
    """A layer as it is stored: *data* is compressed; *diff_id* is the digest of what it was before."""

    data: bytes
    media_type: str
    diff_id: str

    @property
    def digest(self) -> str:
        return digest(self.data)


@dataclass(frozen=True)
class Image:
    """An image to push: layers (the lowest first) and what else the registry is told.

    layers       `Layer`, the bytes of a tar, or a ready `Blob`
    family       whose media types: ``docker`` or ``oci``
    compression  ``gzip``, ``zstd`` or ``none``; one for all layers or one each
    config       the runtime part of the image config: Env, Cmd, WorkingDir, ...
    diff_ids     wrong ones, for tests of their verification
    document     more fields of the manifest; annotations, say
    """

    layers: Sequence[Layer | bytes | Blob] = ()
    family: str = "docker"
    compression: str | Sequence[str] = "gzip"
    config: Mapping[str, Any] = field(default_factory=dict)
    architecture: str = "amd64"
    variant: str = ""
    os: str = "linux"
    diff_ids: Sequence[str] | None = None
    document: Mapping[str, Any] = field(default_factory=dict)

    def blobs(self) -> list[Blob]:
        """The layers as they will be stored."""
        each = [self.compression] * len(self.layers) if isinstance(self.compression, str) else self.compression
        return [
            layer if isinstance(layer, Blob) else pack(layer, how, self.family)
            for layer, how in zip(self.layers, each, strict=True)
        ]

    def config_document(self) -> bytes:
        """The image config."""
        blobs = self.blobs()
        document: dict[str, Any] = {
            "created": "2024-01-01T00:00:00Z",
            "architecture": self.architecture,
            "os": self.os,
            "config": dict(self.config),
            "rootfs": {"type": "layers", "diff_ids": list(self.diff_ids or [b.diff_id for b in blobs])},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "test"} for _ in blobs],
        }
        if self.variant:
            document["variant"] = self.variant
        return _json(document)

    def manifest(self) -> bytes:
        """The manifest."""
        config = self.config_document()
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST[self.family],
            "config": _descriptor(CONFIG[self.family], config),
            "layers": [_descriptor(b.media_type, b.data) for b in self.blobs()],
        }
        return _json({**document, **self.document})

    def on(self, architecture: str, variant: str = "") -> Image:
        """The same for another platform."""
        return replace(self, architecture=architecture, variant=variant)


@dataclass(frozen=True)
class Index:
    """An image of several platforms; *attestations* adds an entry as buildx does, for platform unknown/unknown."""

    images: Sequence[Image]
    family: str = "oci"
    attestations: bool = False

    def document(self) -> bytes:
        """The index."""
        manifests = []
        for image in self.images:
            platform = {"architecture": image.architecture, "os": image.os}
            if image.variant:
                platform["variant"] = image.variant
            manifests.append({**_descriptor(MANIFEST[image.family], image.manifest()), "platform": platform})
        if self.attestations:
            subject = manifests[0]
            manifests.append(
                {
                    **_descriptor(MANIFEST["oci"], self.attestation().manifest()),
                    "platform": {"architecture": "unknown", "os": "unknown"},
                    "annotations": {
                        "vnd.docker.reference.type": "attestation-manifest",
                        "vnd.docker.reference.digest": subject["digest"],
                    },
                }
            )
        return _json({"schemaVersion": 2, "mediaType": INDEX[self.family], "manifests": manifests})

    def attestation(self) -> Image:
        statement = Blob(b'{"_type":"https://in-toto.io/Statement/v0.1"}', "application/vnd.in-toto+json", digest(b""))
        return Image([statement], "oci", architecture="unknown", os="unknown")


class Pushed(NamedTuple):
    """What the registry now has: the digest of the manifest or index, of the config and of the layers."""

    digest: str
    config: str = ""
    layers: tuple[str, ...] = ()
    images: tuple[Pushed, ...] = ()
    """Of an index: its images."""


def push(registry: Registry, name: str, tag: str, image: Image | Index) -> Pushed:
    """Push *image* as *name*:*tag*."""
    if isinstance(image, Image):
        return _push_image(registry, name, tag, image)
    pushed = tuple(_push_image(registry, name, digest(i.manifest()), i) for i in image.images)
    if image.attestations:
        extra = image.attestation()
        _push_image(registry, name, digest(extra.manifest()), extra)
    return Pushed(put_manifest(registry, name, tag, image.document(), INDEX[image.family]), images=pushed)


def _push_image(registry: Registry, name: str, reference: str, image: Image) -> Pushed:
    layers = tuple(put_blob(registry, name, b.data) for b in image.blobs())
    config = put_blob(registry, name, image.config_document())
    return Pushed(put_manifest(registry, name, reference, image.manifest(), MANIFEST[image.family]), config, layers)


def put_blob(registry: Registry, name: str, data: bytes) -> str:
    """Store *data* unless the registry has it; returns its digest."""
    wanted = digest(data)
    if registry.request("HEAD", f"/v2/{name}/blobs/{wanted}")[0] == 200:
        return wanted
    status, headers, body = registry.request("POST", f"/v2/{name}/blobs/uploads/", b"")
    assert status == 202, (status, body, registry.logs())
    location = headers["Location"]
    location = location[location.index("/v2/") :]
    location += f"{'&' if '?' in location else '?'}digest={wanted}"
    status, _, body = registry.request("PUT", location, data, {"Content-Type": "application/octet-stream"})
    assert status == 201, (status, body, registry.logs())
    return wanted


def put_manifest(registry: Registry, name: str, reference: str, content: bytes, media_type: str) -> str:
    """Store a manifest or index under a tag or its digest; returns its digest."""
    path = f"/v2/{name}/manifests/{reference}"
    status, _, body = registry.request("PUT", path, content, {"Content-Type": media_type})
    assert status == 201, (status, body, registry.logs())
    return digest(content)


def pack(layer: Layer | bytes, compression: str = "gzip", family: str = "docker") -> Blob:
    """A layer as it is stored."""
    tar = layer.tar() if isinstance(layer, Layer) else layer
    return Blob(compress(tar, compression), LAYER[family, compression], digest(tar))


def compress(data: bytes, compression: str) -> bytes:
    """*data* as gzip or zstd, the same bytes every time, or as it is (``none``)."""
    if compression == "gzip":
        return gzip.compress(data, 1, mtime=0)
    if compression == "zstd":
        return zstd.compress(data, 1)
    assert compression == "none", compression
    return data


def decompress(data: bytes) -> bytes:
    """The opposite, by what *data* begins with."""
    if data.startswith(b"\x1f\x8b"):
        return gzip.decompress(data)
    return zstd.decompress(data) if data.startswith(b"\x28\xb5\x2f\xfd") else data


def digest(data: bytes) -> str:
    """``sha256:`` and the hash of *data*."""
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _descriptor(media_type: str, data: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(data), "size": len(data)}


def _json(document: object) -> bytes:
    return json.dumps(document, indent=1).encode()


# Images of real tools.


def busybox_layout(directory: Path, tag: str = "latest", config: Iterable[str] = ("--config.cmd=/bin/sh",)) -> Path:
    """An OCI layout in *directory* with a busybox image of two layers, made by umoci."""
    require_tools("umoci", "busybox")
    layout, bundle = directory / "layout", directory / "bundle"
    image = f"{layout}:{tag}"
    rootless = [] if os.geteuid() == 0 else ["--rootless"]
    _run("umoci", "init", "--layout", str(layout))
    _run("umoci", "new", "--image", image)
    _run("umoci", "unpack", *rootless, "--image", image, str(bundle))
    rootfs = bundle / "rootfs"
    for name in ("usr/bin", "usr/sbin", "etc", "tmp", "dev", "proc", "var/lib"):
        (rootfs / name).mkdir(parents=True)
    (rootfs / "tmp").chmod(0o1777)
    (rootfs / "bin").symlink_to("usr/bin")
    busybox = rootfs / "usr/bin/busybox"
    busybox.write_bytes(Path("/bin/busybox").read_bytes())
    busybox.chmod(0o755)
    for applet in ("sh", "ls", "cat", "true"):
        (rootfs / "usr/bin" / applet).symlink_to("busybox")
    (rootfs / "usr/bin/env").hardlink_to(busybox)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\n")
    _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
    # A second layer: something new, something changed, something gone.
    (rootfs / "var/lib/data").write_bytes(b"data\n" * 1000)
    (rootfs / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n")
    (rootfs / "usr/bin/true").unlink()
    _run("umoci", "repack", "--refresh-bundle", "--image", image, str(bundle))
    _run("umoci", "config", "--image", image, *config)
    return layout


def skopeo_copy(source: str, destination: str, *options: str) -> None:
    """``skopeo copy`` of one reference to another, such as ``oci:DIR:TAG`` and ``docker://HOST/NAME:TAG``.

    To recompress layers (``--dest-compress-format zstd``), name a repository that doesn't have them yet: skopeo
    prefers what is there.
    """
    require_tools("skopeo")
    common = ["--insecure-policy", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
    with tempfile.TemporaryDirectory(prefix="skopeo.") as directory:
        # As root, skopeo keeps its memory of blobs in /var/lib/containers; so it neither reads nor writes there.
        apart = {"_CONTAINERS_ROOTLESS_UID": "1000", "XDG_DATA_HOME": directory, "HOME": directory}
        _run("skopeo", *common, *options, source, destination, environment=apart)


def buildah_push(directory: Path, destination: str, *, layers: int = 2, form: str = "oci") -> None:
    """Build an image of *layers* layers from scratch with buildah and push it to ``HOST/NAME:TAG``."""
    require_tools("buildah")
    state = ["--root", str(directory / "root"), "--runroot", str(directory / "run"), "--storage-driver", "vfs"]
    # As in skopeo_copy; "buildah push" has no other way to keep its memory of blobs out of /var/lib/containers.
    own = dict.fromkeys(("HOME", "TMPDIR", "XDG_DATA_HOME", "XDG_RUNTIME_DIR"), str(directory))
    # Some releases want to see their network's program, although nothing here has a network.
    unused = directory / "programs/netavark"
    unused.parent.mkdir()
    unused.write_text("#!/bin/false\n")
    unused.chmod(0o755)
    settings = directory / "containers.conf"
    settings.write_text(f'[engine]\nhelper_binaries_dir = ["{unused.parent}"]\n')
    apart = {**own, "_CONTAINERS_ROOTLESS_UID": "1000", "CONTAINERS_CONF": str(settings)}

    def buildah(command: str, *arguments: str) -> str:
        environment = {**apart, "BUILDAH_ISOLATION": "chroot", "_CONTAINERS_USERNS_CONFIGURED": "done"}
        return _run("buildah", *state, command, *arguments, environment=environment).strip()

    policy = directory / "policy.json"
    policy.write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    source = directory / "source"
    source.mkdir()
    base = "scratch"
    for number in range(layers):
        (source / f"file{number}").write_bytes(b"content %d\n" % number)
        container = buildah("from", "--pull-never", "--signature-policy", str(policy), base)
        buildah("add", container, str(source / f"file{number}"), f"/opt/layer{number}/file")
        if number == layers - 1:
            buildah("config", "--cmd", '["/bin/sh", "-l"]', "--env", "A=b c", "--workingdir", "/opt/work", container)
            buildah("config", "--label", "k=v", "--volume", "/data", container)
        base = f"localhost/layer{number}"
        commit = ["--signature-policy", str(policy), "--format", form, "--timestamp", str(MTIME)]
        buildah("commit", *commit, container, base)
        buildah("rm", container)
    buildah("push", "--signature-policy", str(policy), "--tls-verify=false", base, f"docker://{destination}")
    buildah("rmi", "--all", "--force")


def _run(*command: str, environment: Mapping[str, str] | None = None) -> str:
    result = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, **(environment or {})}
    )
    assert result.returncode == 0, f"{' '.join(command)}: exit code {result.returncode}\n{result.stderr}"
    return result.stdout
