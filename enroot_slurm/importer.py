"""Importing an image: `import_image` is the whole program on a page; read it first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.blobs import BlobStore
from enroot_slurm.config import Config
from enroot_slurm.conversion import Conversion
from enroot_slurm.errors import IntegrityError, PlatformNotFound
from enroot_slurm.oci.image_config import ImageConfig
from enroot_slurm.oci.manifest import MAX_DOCUMENT
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import Reference
from enroot_slurm.output import Output
from enroot_slurm.progress import Silent
from enroot_slurm.registry.client import Repository, Transport
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.sources import Layer

if TYPE_CHECKING:
    import os

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.manifest import Manifest
    from enroot_slurm.progress import Progress

__all__ = ["ImportResult", "import_image", "resolve_digest"]


class ImportResult(NamedTuple):
    """What an import has made."""

    path: Path
    digest: Digest
    """Of the manifest for the platform."""
    size: int
    """Bytes of the squashfs image."""
    layers_fetched: int
    layers_reused: int
    """Layers that were in the cache; one that is in the image twice counts once."""
    seconds: dict[str, float]
    """Wall time by phase: ``resolve``, ``convert`` (downloads included, for they overlap) and ``publish``."""


def import_image(
    uri: str,
    *,
    output: str | os.PathLike[str] | None = None,
    arch: str | None = None,
    config: Config | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> ImportResult:
    """Import the image that *uri* names (``docker://[USER@][REGISTRY#]IMAGE[:TAG][@DIGEST]``) to a squashfs file.

    output    the file to write; by default enroot's name, ``IMAGE+TAG.sqsh``, in the current directory
    arch      a platform in the words of ``uname -m`` or of Docker; by default this node's
    config    the settings; by default those of `Config.load`
    force     replace an existing file
    progress  whom to tell; by default nobody

    The file appears complete or not at all.  Raises: the errors of `enroot_slurm.errors`.
    """
    reference = Reference.parse(uri)
    platform = Platform.parse(arch) if arch else Platform.host()
    config = config or Config.load()
    progress = progress or Silent()
    seconds = _Seconds()
    target = Output(Path(output) if output else Path(reference.default_filename), force=force)
    with _open_repository(reference, config, progress) as repository:
        progress.phase(f"resolving {reference}")
        manifest = repository.resolve(platform)
        image = ImageConfig.parse(repository.read_blob(manifest.config, MAX_DOCUMENT))
        _check(image, manifest, platform)
        seconds.lap("resolve")

        progress.phase(f"importing {manifest.digest.short}")
        rc = RcLayer.of(
            reference.provenance,
            env=image.env,
            entrypoint=image.entrypoint,
            cmd=image.cmd,
            working_dir=image.working_dir,
            volumes=image.volumes,
            labels=image.labels,
        )
        layers = [Layer(*pair) for pair in zip(manifest.layers, image.diff_ids, strict=True)]
        store = BlobStore(config.cache_path)
        store.prepare()
        conversion = Conversion(
            layers, rc, image.created, config=config, store=store, download=repository.blob, progress=progress
        )
        with target.temporary() as temporary:
            conversion.run(temporary)
            seconds.lap("convert")

            progress.phase(f"publishing {target.path.name}")
            size = target.publish(temporary)
            seconds.lap("publish")
    digests = {descriptor.digest for descriptor in manifest.layers}
    fetched = len(conversion.fetched)
    return ImportResult(target.path, manifest.digest, size, fetched, len(digests) - fetched, seconds)


def resolve_digest(
    uri: str, *, arch: str | None = None, config: Config | None = None, progress: Progress | None = None
) -> Digest:
    """The digest of the manifest that *uri* names now, for the platform *arch* (by default this node's).

    Raises: the errors of `enroot_slurm.errors`.
    """
    reference = Reference.parse(uri)
    platform = Platform.parse(arch) if arch else Platform.host()
    with _open_repository(reference, config or Config.load(), progress or Silent()) as repository:
        return repository.resolve(platform).digest


def _open_repository(reference: Reference, config: Config, progress: Progress) -> Repository:
    credentials = Credentials.load(config.config_path / ".credentials", run_commands=config.credential_commands)
    transport = Transport(
        connect_timeout=config.connect_timeout,
        transfer_timeout=config.transfer_timeout,
        retries=config.transfer_retries,
        max_connections=config.max_connections,
        allow_http=config.allow_http,
        insecure_registries=frozenset(config.insecure_registries),
        ca_file=config.ca_file,
        certs_dirs=tuple(Path(d) for d in config.certs_dirs),
    )
    for warning in credentials.warnings:
        progress.warn(warning)
    return Repository(reference, credentials, transport, warn=progress.warn)


def _check(image: ImageConfig, manifest: Manifest, platform: Platform) -> None:
    """Refuse an image that is for another platform, or contradicts its manifest."""
    if image.platform and platform.rank(image.platform) is None:
        raise PlatformNotFound(
            f"the image is for {image.platform}, not for {platform}",
            hint=f"Import it nevertheless with --arch {image.platform.architecture}.",
        )
    if len(image.diff_ids) != len(manifest.layers):
        raise IntegrityError(
            f"the image's manifest has {len(manifest.layers)} layers, its config {len(image.diff_ids)}"
        )


class _Seconds(dict[str, float]):
    """Wall time between laps."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """Note the time since the last lap as that of *phase*."""
        now = time.monotonic()
        self[phase], self._last = now - self._last, now
