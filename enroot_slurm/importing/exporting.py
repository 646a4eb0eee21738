"""Images of a cache as one file for another cache: an OCI layout in a tar archive, which skopeo reads, too.

index.json                entries with full names: the index or manifest that a name leads to, and, of finished
                          images, a manifest of the type `SQUASHFS`: its config is the image's sidecar, its layer the
                          squashfs file, its subject the image's manifest
blobs/sha256/HEX          manifests, configs and layers; of an index, those for one platform
"""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.archives.layout import FULL_NAME, REF_NAME, blob_name
from enroot_slurm.archives.writer import TarWriter
from enroot_slurm.cache.blobs import BlobStore
from enroot_slurm.cache.fetch import Fetch
from enroot_slurm.cache.manifests import read_document
from enroot_slurm.cache.trust import MAX_SIDECAR, read_trusted
from enroot_slurm.errors import IntegrityError, StorageError, UsageError, machine_error
from enroot_slurm.importing.image_builder import ImageBuilder
from enroot_slurm.importing.lookup import Lookup
from enroot_slurm.importing.output import Output
from enroot_slurm.importing.resolution import Resolution
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.local import with_scheme
from enroot_slurm.oci.manifest import (
    DOCKER_LIST,
    DOCKER_MANIFEST,
    OCI_INDEX,
    OCI_MANIFEST,
    Descriptor,
    Index,
    load_json,
    parse_document,
)
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.system.checksum import Checksum
from enroot_slurm.system.publish import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from enroot_slurm.importing.lookup import CachedImage
    from enroot_slurm.oci.manifest import Manifest
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config

__all__ = ["SQUASHFS", "Exported", "export_images"]

SQUASHFS = "application/vnd.enroot-slurm.image.v1"
"""The artifactType of a finished image."""
_SIDECAR = "application/vnd.enroot-slurm.sidecar.v1+json"
_IMAGE = "application/vnd.enroot-slurm.squashfs.v1"
_READ = 1 << 20


class Exported(NamedTuple):
    """What was written."""

    path: Path
    size: int
    """Bytes."""
    images: tuple[tuple[str, str], ...]
    """Their names and the digests of their manifests."""


class _ArchivePart(NamedTuple):
    """A blob that is to be written: its bytes, or the file that has them."""

    size: int
    content: bytes | None = None
    path: Path | None = None


def export_images(
    uris: Sequence[str],
    output: Path,
    *,
    arch: str | None,
    config: Config,
    force: bool,
    squashfs: bool,
    progress: Progress,
) -> Exported:
    """Write the images *uris* to *output*: manifests and blobs or, with *squashfs*, manifests and finished images.

    What is not in the cache is got, as by an import.  Raises: the errors of `enroot_slurm.errors`.
    """
    target = Output(output, force=force)
    entries: list[dict[str, Any]] = []
    parts: dict[Digest, _ArchivePart] = {}
    names = []
    for uri in uris:
        lookup = Lookup.of(with_scheme(uri), arch, config)
        if lookup.local is not None:
            raise UsageError(f"{lookup.shown} is a file already", hint="Name an image of a registry.")
        with Resolution(lookup, config, progress) as resolution:
            digest = resolution.resolve()
            manifest = resolution.manifest(digest)
            named = resolution.named() or digest
            name = _full_name(lookup.reference)  # type: ignore[arg-type]
            names.append((name, str(digest)))
            entries.append(_entry(lookup, named, name, parts))
            if digest != named:
                parts[digest] = _document(lookup, digest)
            if squashfs:
                entries.append(_finished(resolution, digest, parts))
            else:
                _blobs(resolution, manifest, parts)
    progress.phase(f"writing {target.path.name}")
    index = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": _once(entries)}
    with target.draft() as file:
        try:
            writer = TarWriter(lambda piece: write_all(file.fd, piece))
            for small, content in (("oci-layout", {"imageLayoutVersion": "1.0.0"}), ("index.json", index)):
                text = json.dumps(content, indent=1).encode()
                writer.add(small, len(text), [text])
            for digest, part in parts.items():
                writer.add(blob_name(digest), part.size, _verified(digest, part))
            writer.finish()
        except OSError as error:
            raise machine_error(error) or StorageError(f"can't write {target.path}: {error.strerror}") from None
        size = target.publish(file)
    return Exported(target.path, size, tuple(names))


def _entry(lookup: Lookup, named: Digest, name: str, parts: dict[Digest, _ArchivePart]) -> dict[str, Any]:
    """The entry of index.json for what *name* leads to, which becomes a part."""
    part = parts[named] = _document(lookup, named)
    assert part.content is not None
    stated = load_json(part.content, "manifest").get("mediaType")
    is_index = isinstance(parse_document(part.content, ""), Index)
    known = {DOCKER_LIST, OCI_INDEX} if is_index else {DOCKER_MANIFEST, OCI_MANIFEST}
    kind = stated if stated in known else (OCI_INDEX if is_index else OCI_MANIFEST)
    entry = {
        "mediaType": kind,
        "digest": str(named),
        "size": part.size,
        "annotations": {REF_NAME: name, FULL_NAME: name},
    }
    if not is_index:
        platform = {"os": "linux", "architecture": lookup.platform.architecture}
        entry["platform"] = platform | ({"variant": lookup.platform.variant} if lookup.platform.variant else {})
    return entry


def _document(lookup: Lookup, digest: Digest) -> _ArchivePart:
    for root, _ in lookup.caches:
        content = read_document(root, digest)
        if content is not None:
            return _ArchivePart(len(content), content)
    raise StorageError(
        f"the manifest {digest} of {lookup.shown} is not in the cache",
        hint="Import the image again: 'enroot-slurm cache rm' it first.",
    )


def _blobs(resolution: Resolution, manifest: Manifest, parts: dict[Digest, _ArchivePart]) -> None:
    """Let the blobs of *manifest* be parts; those that are not in a cache are fetched."""
    lookup, config, progress = resolution.lookup, resolution.config, resolution.progress
    store = BlobStore(lookup.own, resolution.locks, shared=lookup.shared)
    store.prepare()
    resolution.hand_over(manifest, store)
    wanted = {each.digest: store.blob(each) for each in (manifest.config, *manifest.layers)}
    missing = [blob for blob in wanted.values() if not blob.reused]
    progress.expect(sum(blob.descriptor.size for blob in missing))
    with Fetch(
        missing,
        resolution.repository.blob,
        connections=config.max_connections,
        lock_timeout=config.lock_timeout,
        received=progress.received,
    ) as fetch:
        fetch.wait()
    for digest, blob in wanted.items():
        parts[digest] = _ArchivePart(blob.descriptor.size, None, blob.path)


def _finished(resolution: Resolution, digest: Digest, parts: dict[Digest, _ArchivePart]) -> dict[str, Any]:
    """The entry of index.json for the finished image, whose files become parts."""
    image = resolution.lookup.image(digest) or ImageBuilder(resolution).make(digest)
    sidecar_path = image.path.with_suffix(".json")
    sidecar = read_trusted(sidecar_path, {sidecar_path.lstat().st_uid}, MAX_SIDECAR)
    config = Descriptor(_SIDECAR, Digest.of(sidecar), len(sidecar))
    layer = Descriptor(_IMAGE, _digest(image), image.size)
    parts[config.digest] = _ArchivePart(config.size, sidecar)
    parts[layer.digest] = _ArchivePart(layer.size, None, image.path)
    document = parts[digest].content
    assert document is not None
    content = json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": SQUASHFS,
            "config": _descriptor(config),
            "layers": [_descriptor(layer)],
            "subject": _descriptor(Descriptor(OCI_MANIFEST, digest, len(document))),
        }
    ).encode()
    made = Descriptor(OCI_MANIFEST, Digest.of(content), len(content))
    parts[made.digest] = _ArchivePart(made.size, content)
    return {**_descriptor(made), "artifactType": SQUASHFS}


def _digest(image: CachedImage) -> Digest:
    """The SHA-256 of a finished image, which is compared with its checksum.  Raises: IntegrityError."""
    hasher, checksum = hashlib.sha256(), Checksum()
    for chunk in _read(image.path):
        hasher.update(chunk)
        checksum.add(chunk)
    if image.checksum not in {str(checksum), f"sha256:{hasher.hexdigest()}"}:
        raise _damaged(image.path, image.digest)
    return Digest("sha256", hasher.hexdigest())


def _damaged(path: Path | None, digest: Digest) -> IntegrityError:
    return IntegrityError(
        f"what the cache has for {digest} is damaged: {path}",
        hint="Run: enroot-slurm cache verify --repair, then try again.",
    )


def _descriptor(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def _once(entries: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """*entries* without those that say the same."""
    return list({json.dumps(entry, sort_keys=True): entry for entry in entries}.values())


def _verified(digest: Digest, part: _ArchivePart) -> Iterator[bytes]:
    """The bytes of *part*.  Raises: IntegrityError, when they are not those of *digest*."""
    hasher, size = digest.hasher(), 0
    for chunk in [part.content] if part.content is not None else _read(part.path):
        hasher.update(chunk)
        size += len(chunk)
        yield chunk
    if size != part.size or hasher.hexdigest() != digest.hex:
        raise _damaged(part.path, digest)


def _read(path: Path | None) -> Iterator[bytes]:
    assert path is not None
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(_READ):
            yield chunk


def _full_name(reference: Reference) -> str:
    host = "docker.io" if reference.registry == DOCKER_HUB else reference.registry
    pin = f"@{reference.digest}" if reference.digest else ""
    return f"{host}/{reference.repository}:{reference.tag}{pin}"
