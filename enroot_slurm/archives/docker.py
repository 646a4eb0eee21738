"""Docker archives, as ``docker save`` writes them: manifest.json names each image's config and layers.

Since Docker 25 there is an OCI layout in the same archive.  Where it has the image, its manifest counts: it is the one
that the registry has, if Docker keeps images in containerd.  Otherwise a manifest is made here, byte for byte as skopeo
makes it, with layers as they are stored: mostly plain.

Source: moby, image/tarexport; containers/image, docker/archive.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.archives.choice import Choice, absent, ambiguous, reference_of
from enroot_slurm.archives.layout import Layout
from enroot_slurm.archives.members import read
from enroot_slurm.archives.tar_archive import not_an_image
from enroot_slurm.errors import IntegrityError, UnsupportedImage, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import MAX_CONFIG, ImageConfig
from enroot_slurm.oci.manifest import DOCKER_MANIFEST, MAX_LAYERS, fields, load_list, parse_document

if TYPE_CHECKING:
    from enroot_slurm.archives.members import Members
    from enroot_slurm.oci.local import LocalImage

__all__ = ["choose"]

_CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
_LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"  # skopeo's, whatever the compression
_MAX_IMAGES = 4096
_NAMED_BY_DIGEST = re.compile(r"(?:blobs/sha256/|sha256:)?([0-9a-f]{64})(?:\.json)?", re.ASCII)
_COMPRESSED = (b"\x1f\x8b", b"\x28\xb5\x2f\xfd")


class _Saved(NamedTuple):
    """One image of manifest.json."""

    number: int
    config: str
    tags: tuple[str, ...]
    layers: tuple[str, ...]


def choose(members: Members, image: LocalImage) -> Choice:
    """The image in the Docker archive *members* that *image* names.

    Raises: NotFound; UsageError, when there are several; IntegrityError, UnsupportedImage.
    """
    saved = _saved(members)
    listed = [(each.number, ", ".join(each.tags)) for each in saved]
    name = None
    if image.number is not None:
        found = [each for each in saved if each.number == image.number]
    elif image.selector and not image.is_daemon:
        name = reference_of(image.selector)
        found = [each for each in saved if name in [reference_of(tag) for tag in each.tags]]
    else:
        found = saved
    if not found:
        raise absent(members.title, image.selector or "at all", listed)
    name = name or next((each for tag in found[0].tags if (each := reference_of(tag))), None)
    configs = {each.config: read(members, each.config, MAX_CONFIG) for each in found}
    for path, content in configs.items():
        match = _NAMED_BY_DIGEST.fullmatch(path)
        if match and Digest.of(content).hex != match[1]:
            raise IntegrityError(f"{printable(path)} in {members.title} has another content than its name says")
    if members.size("index.json") is not None and members.size("oci-layout") is not None:
        choice = Layout(members).leading_to({Digest.of(content) for content in configs.values()}, name)
        if choice is not None:
            return choice
    if len({(each.config, each.layers) for each in found}) > 1:
        raise ambiguous(members.title, listed, f"{image.transport}:{printable(image.place)}")
    return _made(members, found[0], configs[found[0].config])._replace(name=name)


def _saved(members: Members) -> list[_Saved]:
    if members.size("manifest.json") is None:
        if members.size("repositories") is not None:
            raise UnsupportedImage(
                f"{members.title} was written by a Docker before 1.10: it has no manifest.json",
                hint="Load it and save it again with a current one: docker load -i FILE && docker save IMAGE.",
            )
        if members.size("index.json") is not None:
            raise UnsupportedImage(
                f"{members.title} is an OCI layout, and no Docker archive",
                hint="Write oci-archive: before its path, in place of docker-archive:.",
            )
        raise not_an_image(members.title, "no manifest.json")
    documents = load_list(read(members, "manifest.json", MAX_CONFIG), "manifest.json", MAX_CONFIG)
    if len(documents) > _MAX_IMAGES:
        raise UnsupportedImage(f"{members.title} holds {len(documents)} images; {_MAX_IMAGES} are the most")
    saved = []
    for number, document in enumerate(documents):
        image = fields(document, f"image {number} of manifest.json")
        config = image.get("config")
        if not isinstance(config, str) or not config:
            raise IntegrityError(f"image {number} of manifest.json has no Config")
        tags = _strings(image.get("repotags", []), f"RepoTags of image {number}")
        layers = _strings(image.get("layers", []), f"Layers of image {number}")
        if len(layers) > MAX_LAYERS:
            raise UnsupportedImage(f"the image has {len(layers)} layers; {MAX_LAYERS} are the most")
        saved.append(_Saved(number, _clean(config), tags, tuple(map(_clean, layers))))
    return saved


def _strings(value: Any, what: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
        raise IntegrityError(f"the {what} in manifest.json are not a list of names")
    return tuple(value)


def _clean(name: str) -> str:
    """The name of a member, as manifest.json has it.  Raises: IntegrityError."""
    if name.startswith("/") or ".." in name.split("/"):
        raise IntegrityError(f"manifest.json has a name that leads out of the archive: {printable(name)}")
    return "/".join(part for part in name.split("/") if part not in {"", "."})


def _made(members: Members, image: _Saved, config: bytes) -> Choice:
    """The image with a manifest that is made for it."""
    diff_ids = ImageConfig.parse(config).diff_ids
    if len(diff_ids) != len(image.layers):
        raise IntegrityError(
            f"manifest.json in {members.title} names {len(image.layers)} layers, the image's config {len(diff_ids)}"
        )
    used: dict[str, Digest] = {}
    for name, diff_id in zip(image.layers, diff_ids, strict=True):
        if used.setdefault(name, diff_id) != diff_id:
            raise IntegrityError(f"{printable(name)} in {members.title} is used for two different layers")
    layers, places = [], {Digest.of(config): image.config}
    for name, diff_id in zip(image.layers, diff_ids, strict=True):
        size = members.size(name)
        if size is None:
            raise IntegrityError(f"{members.title} has no {printable(name)}, which manifest.json names")
        digest = _digest(members, name, diff_id)
        places[digest] = name
        layers.append(_descriptor(_LAYER_TYPE, size, digest))
    document = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": _descriptor(_CONFIG_TYPE, len(config), Digest.of(config)),
        "layers": layers,
    }
    content = json.dumps(document, separators=(",", ":")).encode()
    root = parse_document(content, DOCKER_MANIFEST)
    return Choice(root, None, {root.digest: content}, places)


def _digest(members: Members, name: str, diff_id: Digest) -> Digest:
    """The digest of the member *name* as it is stored: of a plain layer, that of its content."""
    known = members.digest(name)
    first = b""
    for chunk in members.chunks(name):
        first += chunk
        if len(first) >= len(_COMPRESSED[1]):
            break
    if first.startswith(_COMPRESSED):
        return known or _hashed(members, name)
    if known is not None and diff_id.algorithm == known.algorithm and known != diff_id:
        raise IntegrityError(f"the layer {printable(name)} in {members.title} is {known}, and not {diff_id}")
    return diff_id


def _hashed(members: Members, name: str) -> Digest:
    hasher = Digest("sha256", "").hasher()
    for chunk in members.chunks(name):
        hasher.update(chunk)
    return Digest("sha256", hasher.hexdigest())


def _descriptor(kind: str, size: int, digest: Digest) -> dict[str, object]:
    return {"mediaType": kind, "size": size, "digest": str(digest)}
