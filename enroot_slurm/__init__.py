"""Import container images for Slurm jobs into enroot squashfs images.

    from enroot_slurm import Config, import_image

    result = import_image("docker://nvcr.io/nvidia/pytorch:25.06-py3", output="pytorch.sqsh")
    print(result.path, result.digest)

The names below are loaded when they are used: a hook that needs none of them starts in a few milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from enroot_slurm.config import Config
    from enroot_slurm.errors import EnrootSlurmError
    from enroot_slurm.images import CachedImage, find_image, get_image
    from enroot_slurm.importer import ImportResult, import_image, resolve_digest
    from enroot_slurm.progress import Progress

__all__ = [
    "CachedImage",
    "Config",
    "EnrootSlurmError",
    "ImportResult",
    "Progress",
    "__version__",
    "find_image",
    "get_image",
    "import_image",
    "resolve_digest",
]

__version__ = "0.1.0"

_HOMES = {
    "CachedImage": "images",
    "Config": "config",
    "EnrootSlurmError": "errors",
    "ImportResult": "importer",
    "Progress": "progress",
    "find_image": "images",
    "get_image": "images",
    "import_image": "importer",
    "resolve_digest": "importer",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
