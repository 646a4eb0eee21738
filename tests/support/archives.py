"""Archives with images, written by hand: as old and new Dockers wrote them, and as nobody should."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import tarfile
from typing import TYPE_CHECKING, Any

from support.images import MANIFEST, Image

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

__all__ = ["compressed", "docker_members", "layout_members", "made_tar", "sha256", "write_directory"]

Members = list[tuple[str, "bytes | str"]]
"""Names with contents; a text is a symlink's target."""


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def made_tar(members: Iterable[tuple[str, bytes | str]], *, prefix: str = "", form: int = tarfile.PAX_FORMAT) -> bytes:
    """A tar archive of *members*, in their order."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, content in members:
            info = tarfile.TarInfo(prefix + name)
            if isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
                archive.addfile(info)
            else:
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def docker_members(
    image: Image, tags: Sequence[str] | None = ("app:1",), *, style: str = "modern", compression: str = "none"
) -> Members:
    """What ``docker save`` of *image* has in it.

    style  ``modern``: HEX.json and ID/layer.tar; ``symlinks``: a layer that is there already is a symlink to it;
           ``blobs``: blobs/sha256/HEX, as since Docker 25 with its own store
    """
    plain = [Image([layer], compression=compression).blobs()[0] for layer in image.layers]
    config = Image(image.layers, config=image.config, architecture=image.architecture).config_document()
    members: Members = []
    names: list[str] = []
    first: dict[str, str] = {}
    for number, blob in enumerate(plain):
        identity = sha256(b"%d" % number)
        if style == "blobs":
            name = f"blobs/sha256/{sha256(blob.data)}"
        else:
            name = f"{identity}/layer.tar"
            members += [(f"{identity}/VERSION", b"1.0"), (f"{identity}/json", b"{}")]
        if style == "blobs" and name in names:
            pass
        elif style == "symlinks" and blob.diff_id in first:
            members.append((name, f"../{first[blob.diff_id]}"))
        else:
            members.append((name, blob.data))
        first.setdefault(blob.diff_id, name)
        names.append(name)
    config_name = f"blobs/sha256/{sha256(config)}" if style == "blobs" else f"{sha256(config)}.json"
    members.append((config_name, config))
    entry = {"Config": config_name, "RepoTags": list(tags) if tags is not None else None, "Layers": names}
    members += [("manifest.json", json.dumps([entry]).encode()), ("repositories", b"{}")]
    return members


def layout_members(images: Sequence[tuple[Image, dict[str, Any]]], *, version: str = "1.0.0") -> Members:
    """An OCI layout of *images*, each with more fields of its entry in index.json."""
    members: dict[str, bytes] = {"oci-layout": json.dumps({"imageLayoutVersion": version}).encode()}
    entries = []
    for image, fields in images:
        manifest = image.manifest()
        for content in (image.config_document(), manifest, *(blob.data for blob in image.blobs())):
            members[f"blobs/sha256/{sha256(content)}"] = content
        kind = MANIFEST[image.family]
        entries.append({"mediaType": kind, "digest": f"sha256:{sha256(manifest)}", "size": len(manifest), **fields})
    members["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    return list(members.items())


def write_directory(root: Path, members: Iterable[tuple[str, bytes | str]]) -> Path:
    """The *members* as files below *root*."""
    for name, content in members:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        assert isinstance(content, bytes)
        path.write_bytes(content)
    return root


def compressed(content: bytes, program: str) -> bytes:
    """*content* as ``gzip``, ``zstd``, ``xz`` or ``bzip2`` packs it."""
    return subprocess.run([program, "-c"], input=content, capture_output=True, check=True).stdout
