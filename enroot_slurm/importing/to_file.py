"""Importing an image to a file: `import_image` is the whole program on a page; read it first."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from enroot_slurm.errors import UsageError, public_errors
from enroot_slurm.importing.image_builder import ImageBuilder
from enroot_slurm.importing.lookup import Lookup
from enroot_slurm.importing.output import Output
from enroot_slurm.importing.resolution import Resolution
from enroot_slurm.oci.reference import Reference
from enroot_slurm.progress import Progress
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from pathlib import Path

    from enroot_slurm.importing.client import Client
    from enroot_slurm.oci.digest import Digest

__all__ = ["ImportResult", "import_image", "resolve_digest"]


@dataclass(frozen=True, kw_only=True)
class ImportResult:
    """The result of an import."""

    path: Path
    """The file, as an absolute path."""
    digest: Digest
    """Of the manifest for the platform."""
    size: int
    """Bytes of the squashfs image."""
    layers_fetched: int
    layers_reused: int
    """Layers that were in the cache; one that is in the image twice counts once."""
    seconds: Mapping[str, float]
    """Wall time by phase: ``resolve``, ``convert`` (downloads included, for they overlap) and ``publish``."""
    endpoint: str = ""
    """The mirror, or mirrors and others, that served it; empty: the registry that its name says, or the cache."""


@public_errors()
def import_image(
    uri: str,
    *,
    output: str | os.PathLike[str] | None = None,
    arch: str | None = None,
    config: Config | None = None,
    force: bool = False,
    progress: Progress | None = None,
    client: Client | None = None,
) -> ImportResult:
    """Import the image that *uri* names to a squashfs file.

    A URI is ``docker://[USER@][REGISTRY#]IMAGE[:TAG][@DIGEST]``, ``docker-archive:PATH[:NAME]``,
    ``oci-archive:PATH[:NAME]``, ``oci:DIRECTORY[:NAME]``, ``dockerd://IMAGE`` or ``podman://IMAGE``.

    output    the file to write; by default enroot's name, ``IMAGE+TAG.sqsh``, in the current directory
    arch      a platform in the words of ``uname -m`` or of Docker; by default this node's
    config    the settings; by default those of `Config.load`
    force     replace an existing file
    progress  hears how far the import is
    client    what several calls share; its settings count unless *config* is given

    The file appears complete or not at all.  Raises: the errors of `enroot_slurm.errors`.
    """
    config = config or (client.config if client else Config.load())
    progress = progress or Progress()
    lookup = Lookup.of(uri, arch, config, strict=False)
    named = output or (None if lookup.local else Reference.default_filename(uri))
    target = Output(named, force=force) if named else None  # an archive says later what it holds
    seconds = _Seconds()
    with Resolution(lookup, config, progress, client.connections if client else None) as resolution:
        builder = ImageBuilder(resolution)
        digest = resolution.resolve()
        manifest = resolution.manifest(digest)
        seconds.lap("resolve")
        target = target or Output(_own_name(resolution), force=force)
        image = lookup.image(digest)
        with target.draft() as file:
            # The name by which an image was imported first stands in its /etc/rc, and is a part of what enroot makes.
            if image is not None and image.uri == resolution.provenance and target.copy(image.path, file):
                progress.phase(f"copying {digest.short}")
            else:
                builder.convert(manifest, file)
            seconds.lap("convert")

            progress.phase(f"publishing {target.path.name}")
            size = target.publish(file)
            seconds.lap("publish")
    digests = {descriptor.digest for descriptor in manifest.layers}
    fetched = len(builder.fetched)
    return ImportResult(
        path=target.path,
        digest=digest,
        size=size,
        layers_fetched=fetched,
        layers_reused=len(digests) - fetched,
        seconds=seconds,
        endpoint=resolution.repository.served_by,
    )


@public_errors()
def resolve_digest(
    uri: str,
    *,
    arch: str | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
    client: Client | None = None,
) -> Digest:
    """The digest of the manifest that *uri* names now, for the platform *arch* (by default this node's).

    Raises: the errors of `enroot_slurm.errors`.
    """
    config = config or (client.config if client else Config.load())
    lookup, connections = Lookup.of(uri, arch, config, strict=False), client.connections if client else None
    with Resolution(lookup, config, progress or Progress(), connections) as resolution:
        return resolution.resolve()


def _own_name(resolution: Resolution) -> str:
    """The default output for an image that has told its own name, or has none."""
    if not resolution.filename:
        raise UsageError("the image has no name of which a file's could be made", hint="Choose one with --output.")
    return resolution.filename


class _Seconds(dict[str, float]):
    """Wall time between laps."""

    def __init__(self) -> None:
        super().__init__()
        self._last = time.monotonic()

    def lap(self, phase: str) -> None:
        """Note the time since the last lap as that of *phase*."""
        now = time.monotonic()
        self[phase], self._last = now - self._last, now
