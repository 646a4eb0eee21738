"""Which images were joined from which images of layers, as far as a cache knows: by manifest, image config and options.

A byte of a layer image that flips goes into each image that is joined from it afterwards.  Such an image is just what
its sidecar says, so only its origin tells.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from enroot_slurm.cache.blobs import blob_path
from enroot_slurm.cache.layers import layer_path
from enroot_slurm.cache.manifests import read_document
from enroot_slurm.cache.trust import read_trusted
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import MAX_CONFIG, ImageConfig, chain_ids
from enroot_slurm.oci.manifest import Manifest, parse_document
from enroot_slurm.squashfs.options import SquashOptions

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.housekeeping.inventory import Item

__all__ = ["layers_of"]


def layers_of(root: Path, image: Item) -> set[str]:
    """The layer images, as paths below the cache *root*, of which the complete *image* may be made; none if unknown."""
    with contextlib.suppress(EnrootSlurmError, OSError):
        assert image.sidecar is not None
        content = read_document(root, Digest.parse(image.digest))
        manifest = parse_document(content or b"", "")
        if isinstance(manifest, Manifest):
            digest = manifest.config.digest
            config = read_document(root, digest)
            if config is None:
                path = blob_path(root, digest)
                config = read_trusted(path, {path.lstat().st_uid}, MAX_CONFIG)
            if Digest.of(config, digest.algorithm) == digest:
                recipe = SquashOptions.parse(image.sidecar.options).for_layers.recipe
                layers = ImageConfig.parse(config).diff_ids
                return {str(layer_path(root, recipe, each).relative_to(root)) for each in (*layers, *chain_ids(layers))}
    return set()
