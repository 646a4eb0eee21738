"""Manifests, indexes and image configs: parsed once, strictly, into immutable values.

Sources: OCI image-spec manifest.md, image-index.md, config.md; Docker's "Image Manifest V 2, Schema 2".
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import IntegrityError, UnsupportedImage, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = [
    "ACCEPT",
    "MAX_DOCUMENT",
    "Descriptor",
    "Index",
    "IndexEntry",
    "Manifest",
    "fields",
    "index_entries",
    "load_json",
    "load_list",
    "parse_document",
]

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
ACCEPT = (DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX)
"""To be sent, all four, with every manifest request: registries rewrite or hide what is not asked for."""

MAX_DOCUMENT = 4 << 20
"""Bytes that a manifest or index may have."""
MAX_LAYERS = 500
_MAX_LAYER = 1 << 40  # bytes of one blob: a size beyond this is a mistake or an attack

_MANIFESTS = {DOCKER_MANIFEST, OCI_MANIFEST}
_INDEXES = {DOCKER_LIST, OCI_INDEX}
_SCHEMA1 = "application/vnd.docker.distribution.manifest.v1+"
_LAYERS = (
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
)
_PACKINGS = {"", "+gzip", ".gzip", "+zstd", ".zstd"}
_IMAGES = {"application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"}
# What old registries and tools write instead (moby, distribution/registry.go, ImageTypes).
_CONFIGS = _IMAGES | {"application/octet-stream", "application/json", "text/html", ""}


class Descriptor(NamedTuple):
    """A descriptor of a blob: its media type, digest and size in bytes."""

    media_type: str
    digest: Digest
    size: int
    urls: tuple[str, ...] = ()
    """Where else it is said to be, of layers that may not be distributed; foreign text, and not asked there."""


class Manifest(NamedTuple):
    """One image for one platform: its config and its layers, the lowest layer first."""

    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]


class Index(NamedTuple):
    """One image for several platforms: what can be picked from."""

    digest: Digest
    entries: tuple[tuple[Platform | None, Descriptor], ...]
    """Manifests with the platforms they state (None: nothing is stated) and nested indexes, without attestations."""


class IndexEntry(NamedTuple):
    """An image in an index."""

    number: int
    """Its place in the index's list, from 0."""
    platform: Platform | None
    """What is stated."""
    descriptor: Descriptor
    annotations: Mapping[str, str]


def parse_document(content: bytes, content_type: str) -> Manifest | Index:
    """The manifest or index in *content*, which a registry sent as *content_type*.

    Raises: IntegrityError when it is malformed or ambiguous; UnsupportedImage when it is of another kind.
    """
    header = content_type.partition(";")[0].strip().lower()
    document = fields(load_json(content, "manifest"), "manifest")
    digest = Digest.of(content)
    stated = document.get("mediatype", "")
    if not isinstance(stated, str):
        raise IntegrityError("the manifest's mediaType is not a string")
    if document.get("schemaversion") == 1 or (stated or header).startswith(_SCHEMA1):
        raise UnsupportedImage(
            "the image has Docker's old schema 1 manifest, which can't be verified",
            hint="Push it again with a current tool, for example: skopeo copy docker://OLD docker://NEW",
        )
    known = _MANIFESTS | _INDEXES
    if stated in known and header in known and stated != header:
        raise IntegrityError(f"the manifest calls itself {printable(stated)} but was sent as {printable(header)}")
    kind = stated or header
    has_layers, has_manifests = "layers" in document or "config" in document, "manifests" in document
    if has_layers and has_manifests:
        raise IntegrityError("the manifest has both layers and manifests: it could be read in two ways")
    if kind not in known:
        # Old registries send application/json or text/plain: then the shape decides, and only one shape fits.
        if stated or document.get("schemaversion") != 2 or not (has_layers or has_manifests):
            raise UnsupportedImage(
                f"not a container image: its media type is {printable(kind) or 'missing'}",
                hint="Only Docker schema 2 and OCI images (and lists of them) can be imported.",
            )
        kind = OCI_INDEX if has_manifests else OCI_MANIFEST
    if kind in _INDEXES:
        return _index(document, digest)
    return _manifest(document, digest)


def _manifest(document: Mapping[str, Any], digest: Digest) -> Manifest:
    config = _descriptor(fields(document.get("config"), "manifest's config"), "config")
    if config.media_type not in _CONFIGS:
        raise UnsupportedImage(
            f"not a container image: its config is {printable(config.media_type)}",
            hint="The reference names another kind of artifact (a Helm chart, a signature, a model).",
        )
    layers = document.get("layers", [])
    if not isinstance(layers, list):
        raise IntegrityError("the manifest's layers are not a list")
    if len(layers) > MAX_LAYERS:
        raise UnsupportedImage(f"the image has {len(layers)} layers; {MAX_LAYERS} are the most")
    parsed = tuple(_descriptor(fields(layer, f"manifest's layer {i}"), f"layer {i}") for i, layer in enumerate(layers))
    for layer in parsed:
        base = next((b for b in _LAYERS if layer.media_type.startswith(b)), None)
        if base is None or layer.media_type[len(base) :] not in _PACKINGS:
            raise UnsupportedImage(
                f"layer {layer.digest} has the media type {printable(layer.media_type)}, which is not known",
                hint="Layers can be tar archives, plain or compressed with gzip or zstd.",
            )
    return Manifest(digest, config, parsed)


def _index(document: Mapping[str, Any], digest: Digest) -> Index:
    return Index(digest, tuple((entry.platform, entry.descriptor) for entry in index_entries(document)))


def index_entries(document: Mapping[str, Any]) -> list[IndexEntry]:
    """The images and nested indexes in the `fields` of an index: neither attestations nor other artifacts.

    Raises: IntegrityError.
    """
    manifests = document.get("manifests", [])
    if not isinstance(manifests, list):
        raise IntegrityError("the image index's manifests are not a list")
    entries = []
    for i, value in enumerate(manifests):
        entry = fields(value, f"index's manifest {i}")
        descriptor = _descriptor(entry, f"manifest {i}")
        annotations = entry.get("annotations", {})
        annotations = annotations if isinstance(annotations, dict) else {}
        artifact = entry.get("artifacttype", "")
        if not isinstance(artifact, str):
            raise IntegrityError(f"the artifactType of manifest {i} in the image index is not a string")
        if artifact not in {*_IMAGES, ""}:
            continue  # another artifact
        if annotations.get("vnd.docker.reference.type") is not None:
            continue  # an attestation, which refers to an image
        if descriptor.media_type not in _MANIFESTS | _INDEXES:
            continue
        texts = {key: text for key, text in annotations.items() if isinstance(text, str)}
        entries.append(IndexEntry(i, _platform(entry.get("platform", {}), i), descriptor, texts))
    return entries


def _platform(value: object, i: int) -> Platform | None:
    stated = fields(value, f"platform of manifest {i}")
    words = [stated.get(k, "") for k in ("architecture", "variant", "os")]
    if not all(isinstance(w, str) for w in words):
        raise IntegrityError(f"the platform of manifest {i} is malformed")
    return Platform.of_document(*words) if words[0] else None


def _descriptor(value: Mapping[str, Any], what: str) -> Descriptor:
    size, media_type = value.get("size"), value.get("mediatype", "")
    if type(size) is not int or not 0 <= size <= _MAX_LAYER:
        raise IntegrityError(f"the size of the manifest's {what} is not a number of bytes")
    if not isinstance(media_type, str):
        raise IntegrityError(f"the media type of the manifest's {what} is not a string")
    urls = value.get("urls")
    others = tuple(u for u in urls if isinstance(u, str)) if isinstance(urls, list) else ()
    return Descriptor(media_type, Digest.parse(value.get("digest")), size, others)


def fields(value: object, what: str) -> dict[str, Any]:
    """The fields of the object *value* by their names in lower case, without those that are null.

    So does Go's encoding/json read them, and with it all registries and engines: a name's case does not count.  Of two
    that differ in nothing else it takes the last, and other readers the one that is spelled right.

    Raises: IntegrityError, when there are two such names, or *value*, which people know as *what*, is no object.
    """
    if not isinstance(value, dict):
        raise IntegrityError(f"the {what} is not an object")
    found: dict[str, Any] = {}
    for name, content in value.items():
        if name.casefold() in found:
            raise IntegrityError(f"the {what} has {printable(name, 60)!r} twice, in two spellings")
        found[name.casefold()] = content
    return {name: content for name, content in found.items() if content is not None}


def load_json(content: bytes, what: str, limit: int = MAX_DOCUMENT) -> dict[str, Any]:
    """The JSON object in *content*, of *limit* bytes at most; text that is not Unicode has U+FFFD, as Go reads it.

    Raises: IntegrityError when it is not JSON, not an object, or has a key twice (readers would differ on it).
    """
    document = _json(content, what, limit)
    if not isinstance(document, dict):
        raise IntegrityError(f"the {what} is not a JSON object")
    return document


def load_list(content: bytes, what: str, limit: int = MAX_DOCUMENT) -> list[Any]:
    """Likewise, a JSON list."""
    document = _json(content, what, limit)
    if not isinstance(document, list):
        raise IntegrityError(f"the {what} is not a JSON list")
    return document


def _json(content: bytes, what: str, limit: int) -> Any:
    if len(content) > limit:
        raise IntegrityError(f"the {what} is larger than {limit >> 20} MiB")
    try:
        text = content.decode("utf-8", "replace")
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse)
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"the {what} is not valid JSON: {printable(str(error))}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a number")
