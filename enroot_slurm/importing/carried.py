"""Bringing images of an OCI layout into a cache, by the names that they have in it: `cache import`.

Afterwards a name leads to its image as if its registry had been asked, until it is.
"""

from __future__ import annotations

import hashlib
import os
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.archives.image import ArchivedImage
from enroot_slurm.archives.layout import Layout, blob_name, full_name
from enroot_slurm.archives.members import read
from enroot_slurm.cache.directory import unwritable
from enroot_slurm.cache.images import Sidecar, image_file, make_images_directory, recipe_of
from enroot_slurm.cache.trust import MAX_SIDECAR
from enroot_slurm.errors import EnrootSlurmError, IntegrityError, NotFound, UsageError
from enroot_slurm.importing.archived import Opener
from enroot_slurm.importing.exporting import SQUASHFS
from enroot_slurm.importing.image_builder import ImageBuilder
from enroot_slurm.importing.lookup import CachedImage, Lookup, cached_image
from enroot_slurm.importing.resolution import Resolution
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import MAX_DOCUMENT, load_json
from enroot_slurm.oci.platform import Platform
from enroot_slurm.squashfs.format.superblock import Superblock
from enroot_slurm.system.checksum import Checksum
from enroot_slurm.system.publish import write_all

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.archives.members import Members
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config
    from enroot_slurm.system.publish import Draft

__all__ = ["Carried", "carry_images"]


class Carried(NamedTuple):
    """The result for one name."""

    name: str
    image: CachedImage | None
    error: EnrootSlurmError | None


def carry_images(
    local: LocalImage, *, arch: str | None, config: Config, squashfs: bool, shared: bool, progress: Progress
) -> Iterator[Carried]:
    """Bring each named image of the layout *local* into the cache; what becomes of it.

    squashfs  take finished images as they are: nobody can tell whether they are what their manifests say
    shared    whether it may be the site's cache, which this user owns

    Raises: the errors of `enroot_slurm.errors`, for the whole file.
    """
    whole = Lookup.of(str(local), arch, config, shared=shared)
    admission = whole.admission()
    members = Opener(local, whole, config, progress)()
    try:
        layout = Layout(members)
        finished = _finished(members) if squashfs else {}
        found = False
        for entry in layout.entries:
            reference = full_name(entry)
            if reference is None:
                continue
            found = True
            name = str(reference)
            image = ArchivedImage(local._replace(selector=f"@{entry.number}"), lambda: members, keeps_open=True)
            try:
                lookup = Lookup.of(name, arch, config)._replace(own=whole.own, shared=whole.shared)
                with Resolution(lookup, config, progress, archive=image) as resolution:
                    digest = resolution.resolve()
                    if admission is not None and not admission.is_known(digest):
                        resolution.verify(admission, digest)
                    made = lookup.image(digest)
                    if made is None and digest in finished:
                        made = _take(members, finished[digest], digest, lookup)
                    yield Carried(name, made or ImageBuilder(resolution).make(digest), None)
            except EnrootSlurmError as error:
                if isinstance(error, NotFound) and not squashfs and _finished(members):
                    error.hint = "The file has finished images, which can't be verified: --squashfs takes them."
                yield Carried(name, None, error)
        if not found:
            raise NotFound(
                f"{members.title} has no image with a full name",
                hint="'enroot-slurm cache export' writes them, and skopeo copy docker://NAME oci-archive:FILE:NAME.",
            )
    finally:
        members.close()


def _finished(members: Members) -> dict[Digest, dict[str, Any]]:
    """The manifests of finished images, by the digests of the images' own."""
    found = {}
    index = load_json(read(members, "index.json", MAX_DOCUMENT), "index.json")
    manifests = index.get("manifests")
    for entry in manifests if isinstance(manifests, list) else []:
        if isinstance(entry, dict) and entry.get("artifactType") == SQUASHFS:
            digest = Digest.parse(entry.get("digest"))
            content = read(members, blob_name(digest), MAX_DOCUMENT)
            if Digest.of(content, digest.algorithm) != digest:
                raise IntegrityError(f"{members.title} is damaged: {digest} has another content")
            document = load_json(content, "manifest of a finished image")
            try:
                found[Digest.parse(document["subject"]["digest"])] = document
            except (KeyError, TypeError):
                raise IntegrityError(f"{members.title}: the manifest {digest} has no subject") from None
    return found


def _take(members: Members, document: dict[str, Any], digest: Digest, lookup: Lookup) -> CachedImage:
    """The finished image that *document* describes, copied into the cache.  Raises: IntegrityError, UsageError."""
    try:
        config = Digest.parse(document["config"]["digest"])
        (layer,) = document["layers"]
        content = read(members, blob_name(config), MAX_SIDECAR)
        sidecar = Sidecar.parse(content)
        wanted = Digest.parse(layer["digest"])
    except (ValueError, KeyError, TypeError):
        raise IntegrityError(f"{members.title} has a finished image whose description is not understood") from None
    if Digest.of(content, config.algorithm) != config:
        raise IntegrityError(f"{members.title} is damaged: the description of {digest} has another content")
    if sidecar.digest != str(digest) or Platform.parse(sidecar.platform).directory != lookup.platform.directory:
        raise IntegrityError(f"{members.title} has a finished image of {sidecar.digest[:80]!a} in place of {digest}")
    if recipe_of(sidecar.options, lookup.epoch) != lookup.recipe:
        raise UsageError(
            "the finished image was made with other options than those of this cluster",
            hint="Set squash_options to those of the other one, or export the blobs (without --squashfs).",
        )
    place = lookup.own
    file = image_file(place.root, lookup.recipe, lookup.platform.directory, digest)
    try:
        make_images_directory(place, lookup.recipe, lookup.platform.directory)
        with file.draft(place) as draft:
            _copy(members, wanted, draft, sidecar.checksum)
            published = file.publish(draft, place, sidecar._replace(public=place.public, endpoint=""))
    except OSError as error:
        raise unwritable(place.root, error) from None
    return cached_image(file.path, digest, published, reused=False)


def _copy(members: Members, digest: Digest, draft: Draft, stated: str) -> None:
    hasher, checksum = hashlib.sha256(), Checksum()
    for chunk in members.chunks(blob_name(digest)):
        hasher.update(chunk)
        checksum.add(chunk)
        write_all(draft.fd, chunk)
    if hasher.hexdigest() != digest.hex or stated not in {str(checksum), f"sha256:{digest.hex}"}:
        raise IntegrityError(f"{members.title} is damaged: {digest} has another content")
    with os.fdopen(os.dup(draft.fd), "rb") as image:
        Superblock.read(image)
