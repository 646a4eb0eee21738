"""An image being made: its config, its blobs and layers, then the squashfs file, in a cache or somewhere else."""

from __future__ import annotations

import contextlib
import os
from functools import partial
from typing import TYPE_CHECKING

from enroot_slurm.cache.blobs import BlobStore, CachedBlobDamaged
from enroot_slurm.cache.fetch import Fetch
from enroot_slurm.cache.images import Sidecar, Unusable, make_images_directory
from enroot_slurm.cache.slots import Slots
from enroot_slurm.errors import IntegrityError, PlatformNotFound, StorageError, UnsupportedImage, printable
from enroot_slurm.importing.conversion import Conversion
from enroot_slurm.importing.layer_streams import Layer
from enroot_slurm.importing.lookup import cached_image
from enroot_slurm.importing.parts import parts_of
from enroot_slurm.importing.space import check_space
from enroot_slurm.oci.image_config import MAX_CONFIG, ImageConfig
from enroot_slurm.progress import size_text
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.squashfs.format.superblock import Superblock
from enroot_slurm.system.checksum import Checksum
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enroot_slurm.importing.lookup import CachedImage, Lookup
    from enroot_slurm.importing.resolution import Resolution
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Manifest
    from enroot_slurm.system.publish import Draft

__all__ = ["ImageBuilder"]

_MAX_REPAIRS = 3  # times that a damaged image config in the cache is fetched again


class ImageBuilder:
    """Makes the image of a *resolution*."""

    def __init__(self, resolution: Resolution) -> None:
        self._resolution = resolution
        self._store = BlobStore(resolution.lookup.own, resolution.locks, shared=resolution.lookup.shared)
        self._slots = Slots(
            resolution.locks,
            resolution.config.max_imports,
            user=resolution.user,
            timeout=resolution.config.lock_timeout,
            waits=partial(resolution.progress.phase, "waiting for other imports of this node (max_imports)"),
        )
        self.fetched: set[Digest] = set()
        """The layers that were downloaded."""

    def make(self, digest: Digest) -> CachedImage:
        """The image of the manifest *digest* in the own cache, made by this process or by another one meanwhile.

        Raises: IntegrityError, NetworkError, StorageError, ConversionError, AccessDenied.
        """
        resolution, lookup = self._resolution, self._resolution.lookup
        with resolution.turn(lookup.own_file(digest).lock, partial(lookup.image, digest)) as found:
            return found or resolution.remembering(partial(self._make, digest))

    def _make(self, digest: Digest) -> CachedImage:
        resolution, lookup, place = self._resolution, self._resolution.lookup, self._resolution.lookup.own
        file = lookup.own_file(digest)
        make_images_directory(place, lookup.recipe, lookup.platform.directory)
        with file.draft(place):
            pass  # NFS remembers for a while that a name was not there: a new one makes it look at the directory again
        if (found := lookup.image(digest)) is not None:
            return found
        try:
            file.look({0, os.geteuid()}, Superblock.parse)
        except Unusable as error:
            resolution.progress.warn(f"{error}; it is made again")
            file.discard()
        manifest = resolution.manifest(digest)
        with file.draft(place) as image:
            checksum = Checksum()
            self.convert(manifest, image, checksum)
            resolution.progress.phase(f"publishing {digest.short}")
            known = Sidecar(
                uri=resolution.provenance,
                digest=str(digest),
                platform=str(lookup.platform),
                options=resolution.config.squash_options.recipe,
                size=0,
                mtime_ns=0,
                checksum=str(checksum),
                created=0,
                public=place.public or resolution.repository.anonymous,
                version=__version__,
                endpoint=resolution.repository.served_by,
            )
            sidecar = file.publish(image, place, known)
        return cached_image(file.path, digest, sidecar, reused=False)

    def convert(self, manifest: Manifest, image: Draft, checksum: Checksum | None = None) -> None:
        """Make *image* of *manifest*, when it is this process' turn on this node; *checksum* becomes the file's.

        What is wrong may be a mirror's fault: then it is made again without the mirrors.

        Raises: IntegrityError, NetworkError, StorageError, ConversionError, AccessDenied.
        """
        try:
            self._convert(manifest, image, checksum)
        except IntegrityError as error:
            if (
                isinstance(error, UnsupportedImage | CachedBlobDamaged)
                or not self._resolution.repository.leave_mirrors()
            ):
                raise
            self._resolution.progress.warn(f"{error}; it is made again without the mirrors")
            self._convert(manifest, image, checksum)

    def _convert(self, manifest: Manifest, image: Draft, checksum: Checksum | None) -> None:
        resolution, lookup = self._resolution, self._resolution.lookup
        resolution.progress.phase(f"importing {manifest.digest.short}")
        _check_size(manifest, resolution.config.max_download)
        self._store.prepare()
        resolution.hand_over(manifest, self._store)
        config = self._image_config(manifest)
        _check(config, manifest, lookup, resolution.progress.warn)
        for sentence in config.dropped:
            resolution.progress.warn(sentence)
        rc = RcLayer.of(
            resolution.provenance,
            env=config.env,
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            working_dir=config.working_dir,
            volumes=config.volumes,
            labels=config.labels,
        )
        layers = [Layer(*pair) for pair in zip(manifest.layers, config.diff_ids, strict=True)]
        conversion = Conversion(
            layers,
            rc,
            config.created,
            epoch=lookup.epoch,
            config=resolution.config._replace(cache_path=lookup.own.root),
            store=self._store,
            download=resolution.repository.blob,
            progress=resolution.progress,
        )
        with contextlib.nullcontext(False) if self._can_join(layers) else self._slots.one() as waited:
            if waited:
                resolution.progress.phase(f"importing {manifest.digest.short}")
            check_space(
                layers,
                image.path.parent,
                lookup=lookup,
                store=self._store,
                config=resolution.config,
                warn=resolution.progress.warn,
            )
            try:
                conversion.run(image, checksum)
            finally:
                self.fetched |= conversion.fetched

    def _can_join(self, layers: Sequence[Layer]) -> bool:
        """Whether all layers have images, so that there is nothing to convert."""
        config = self._resolution.config
        images = self._store.layers(config.squash_options.for_layers.recipe)
        return config.layer_cache and all(part.ready for part in parts_of(layers, images))

    def _image_config(self, manifest: Manifest) -> ImageConfig:
        if manifest.config.size > MAX_CONFIG:
            raise IntegrityError(f"the image config has {manifest.config.size} bytes; {MAX_CONFIG} are the most")
        for _ in range(_MAX_REPAIRS):
            blob = self._store.blob(manifest.config)
            try:
                with Fetch(
                    [blob],
                    self._resolution.repository.blob,
                    connections=1,
                    lock_timeout=self._resolution.config.lock_timeout,
                    received=lambda _: None,
                ) as fetch:
                    fetch.wait()
                    return ImageConfig.parse(b"".join(blob.chunks()))
            except CachedBlobDamaged as error:
                self._resolution.progress.warn(f"{error}; it is fetched again")
        root = self._resolution.lookup.own.root
        raise StorageError(f"the image config in the cache {root} is damaged again and again")


def _check_size(manifest: Manifest, limit: int) -> None:
    size = sum({layer.digest: layer.size for layer in manifest.layers}.values())
    if size > limit:
        raise UnsupportedImage(
            f"the image has {size_text(size)} of layers; {size_text(limit)} are the most",
            hint="The setting max_download is the limit.",
        )


def _check(image: ImageConfig, manifest: Manifest, lookup: Lookup, warn: Callable[[str], None]) -> None:
    """Refuse an image that contradicts its manifest or, unless the platform was asked for by name, is for another."""
    if image.platform and lookup.platform.rank(image.platform) is None:
        message = f"the image says that it is for {printable(str(image.platform), 60)}, not for {lookup.platform}"
        if not lookup.asked:
            # The name by which it was found: whatever its config says, this one leads to it.
            name = str(lookup.platform).removeprefix("linux/")
            usable = image.platform.os != "windows"
            raise PlatformNotFound(message, hint=f"Import it nevertheless with --arch {name}." if usable else "")
        warn(message)
    if len(image.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"the image's manifest has {len(manifest.layers)} layers, its config {len(image.diff_ids)}"
        )
