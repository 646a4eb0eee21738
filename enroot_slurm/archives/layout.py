"""OCI image layouts (image-spec, image-layout.md): index.json, and blobs by their digests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from enroot_slurm.archives.choice import Choice, absent, ambiguous, reference_of
from enroot_slurm.archives.members import read
from enroot_slurm.archives.tar_archive import not_an_image
from enroot_slurm.errors import IntegrityError, NotFound, UnsupportedImage, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import (
    MAX_DOCUMENT,
    OCI_INDEX,
    Manifest,
    fields,
    index_entries,
    load_json,
    parse_document,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from enroot_slurm.archives.members import Members
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.oci.manifest import Index, IndexEntry
    from enroot_slurm.oci.reference import Reference

__all__ = ["FULL_NAME", "REF_NAME", "Layout", "blob_name", "full_name"]

FULL_NAME = "io.containerd.image.name"
REF_NAME = "org.opencontainers.image.ref.name"
_MAX_MANIFESTS = 256  # that are read to find out what they are
_MARKER = 1 << 16


class Layout:
    """The layout in *members*.  Raises: IntegrityError; UnsupportedImage, for another version and for what is none."""

    def __init__(self, members: Members) -> None:
        self._members = members
        self._title = members.title
        if members.size("index.json") is None:
            if members.size("manifest.json") is not None and members.size("version") is not None:
                raise UnsupportedImage(
                    f"{self._title} is no OCI layout, but what skopeo calls dir: and podman docker-dir",
                    hint=f"Make a layout of it: skopeo copy dir:{self._title} oci:NEW",
                )
            if members.size("manifest.json") is not None:
                raise UnsupportedImage(
                    f"{self._title} is a Docker archive, and no OCI layout",
                    hint="Write docker-archive: before its path, in place of oci-archive:.",
                )
            raise not_an_image(self._title, "no index.json")
        marker = fields(load_json(read(members, "oci-layout", _MARKER), "file oci-layout"), "file oci-layout")
        version = str(marker.get("imagelayoutversion", ""))
        if version.partition(".")[0] != "1":
            raise UnsupportedImage(f"{self._title} is an OCI layout of version {printable(version, 40) or 'unknown'}")
        self._index = fields(load_json(read(members, "index.json", MAX_DOCUMENT), "index.json"), "index.json")
        self.entries: list[IndexEntry] = index_entries(self._index)

    def choose(self, image: LocalImage) -> Choice:
        """The image that *image* names.

        Raises: NotFound; UsageError, when there are several; IntegrityError.
        """
        listed = [(entry.number, _shown(entry)) for entry in self.entries]
        if image.number is not None:
            found = [entry for entry in self.entries if entry.number == image.number]
        elif image.selector:
            found = [entry for entry in self.entries if image.selector in _names(entry)]
            wanted = reference_of(image.selector)
            if not found and wanted is not None:
                found = [e for e in self.entries if wanted in [reference_of(name) for name in _names(e)]]
        else:
            found = self._images()
            listed = [(entry.number, _shown(entry)) for entry in found]
        if not found:
            raise absent(self._title, image.selector or "at all", listed)
        choice = self._choice(found)
        if choice is None:
            raise ambiguous(self._title, listed, f"{image.transport}:{printable(image.place)}")
        return choice

    def leading_to(self, configs: set[Digest], name: Reference | None) -> Choice | None:
        """The one entry whose images have just these *configs*, or more, if all that they need is here."""
        for entry in self.entries:
            try:
                found = {m.config.digest for m in self._manifests(entry.descriptor.digest) if self._is_whole(m)}
            except (IntegrityError, NotFound):
                continue
            if configs <= found:
                choice = self._choice([entry])
                return choice._replace(name=name or choice.name) if choice else None
        return None

    def document(self, digest: Digest) -> tuple[Manifest | Index, bytes]:
        """The manifest or index *digest*, verified.  Raises: NotFound, IntegrityError."""
        if self._members.size(blob_name(digest)) is None:
            raise NotFound(
                f"{self._title} has no blob {digest}",
                hint="It may hold some of the image's platforms only, or be incomplete.",
            )
        content = read(self._members, blob_name(digest), MAX_DOCUMENT)
        if Digest.of(content, digest.algorithm) != digest:
            raise IntegrityError(f"{blob_name(digest)} in {self._title} has another content than its name says")
        document = parse_document(content, "")
        return document._replace(digest=digest), content

    def _choice(self, entries: Sequence[IndexEntry]) -> Choice | None:
        """The image that *entries* are: one, by several names or for several platforms."""
        name = next((full for entry in entries if (full := full_name(entry))), None)
        if len({entry.descriptor.digest for entry in entries}) == 1:
            root, content = self.document(entries[0].descriptor.digest)
            return Choice(root, name, {root.digest: content}, {})
        platforms = [entry.platform for entry in entries]
        if None in platforms or len(set(platforms)) < len(entries) or len({_shown(e) for e in entries}) > 1:
            return None
        # What tools call one image for several platforms: an index of its own, with these alone.
        manifests = [self._index["manifests"][entry.number] for entry in entries]
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests}
        content = json.dumps(document, separators=(",", ":")).encode()
        root = parse_document(content, "")
        return Choice(root, name, {root.digest: content}, {})

    def _images(self) -> list[IndexEntry]:
        """The entries that are images, where several might be: signatures and the like are beside them."""
        if len({entry.descriptor.digest for entry in self.entries}) < 2:
            return self.entries
        found = []
        for entry in self.entries[:_MAX_MANIFESTS]:
            try:
                self.document(entry.descriptor.digest)
            except UnsupportedImage:
                continue
            except (IntegrityError, NotFound):
                pass  # whoever uses it is told
            found.append(entry)
        return found

    def _manifests(self, digest: Digest, depth: int = 0) -> Iterator[Manifest]:
        document, _ = self.document(digest)
        if isinstance(document, Manifest):
            yield document
        elif depth < 2:
            for _, descriptor in document.entries[:_MAX_MANIFESTS]:
                if self._members.size(blob_name(descriptor.digest)) is not None:
                    yield from self._manifests(descriptor.digest, depth + 1)

    def _is_whole(self, manifest: Manifest) -> bool:
        blobs = (manifest.config, *manifest.layers)
        return all(self._members.size(blob_name(each.digest)) == each.size for each in blobs)


def blob_name(digest: Digest) -> str:
    """Where a layout has the blob *digest*."""
    return f"blobs/{digest.algorithm}/{digest.hex}"


def _names(entry: IndexEntry) -> list[str]:
    return [entry.annotations[key] for key in (FULL_NAME, REF_NAME) if entry.annotations.get(key)]


def _shown(entry: IndexEntry) -> str:
    return next(iter(_names(entry)), "")


def full_name(entry: IndexEntry) -> Reference | None:
    """The entry's name, if it is one of a whole image: a tag alone, which tools write as well, is none."""
    return next((r for name in _names(entry) if ("/" in name or ":" in name) and (r := reference_of(name))), None)
