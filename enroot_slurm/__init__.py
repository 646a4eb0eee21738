"""Import container images for Slurm jobs into enroot squashfs images.

    from enroot_slurm import Config, import_image

    result = import_image("docker://nvcr.io/nvidia/pytorch:25.06-py3", output="pytorch.sqsh")
    print(result.path, result.digest)

The names below, and those of `enroot_slurm.slurm`, are the library; docs/python.md has an example of each.  All else is
private, and may change with any version.  A name is loaded when it is used: a hook that needs none starts in a few
milliseconds.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from enroot_slurm.errors import (
        AccessDenied,
        ConfigError,
        ConversionError,
        EnrootSlurmError,
        ImageRefused,
        IntegrityError,
        Interrupted,
        InvalidPlatform,
        InvalidReference,
        NetworkError,
        NotFound,
        OutputExists,
        PlatformNotFound,
        RateLimited,
        StorageError,
        UnsupportedImage,
        UsageError,
        WorkerFailed,
    )
    from enroot_slurm.importing.client import Client
    from enroot_slurm.importing.lock_file import LockFile
    from enroot_slurm.importing.to_cache import CachedImage, find_image, get_image
    from enroot_slurm.importing.to_file import ImportResult, import_image, resolve_digest
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config

__all__ = [
    "AccessDenied",
    "CachedImage",
    "Client",
    "Config",
    "ConfigError",
    "ConversionError",
    "EnrootSlurmError",
    "ImageRefused",
    "ImportResult",
    "IntegrityError",
    "Interrupted",
    "InvalidPlatform",
    "InvalidReference",
    "LockFile",
    "NetworkError",
    "NotFound",
    "OutputExists",
    "PlatformNotFound",
    "Progress",
    "RateLimited",
    "StorageError",
    "UnsupportedImage",
    "UsageError",
    "WorkerFailed",
    "__version__",
    "find_image",
    "get_image",
    "import_image",
    "resolve_digest",
]

_HOMES = {
    "CachedImage": "importing.to_cache",
    "Client": "importing.client",
    "Config": "settings.config",
    "ImportResult": "importing.to_file",
    "LockFile": "importing.lock_file",
    "Progress": "progress",
    "find_image": "importing.to_cache",
    "get_image": "importing.to_cache",
    "import_image": "importing.to_file",
    "resolve_digest": "importing.to_file",
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module  # noqa: PLC0415

    return getattr(import_module(f"{__name__}.{_HOMES.get(name, 'errors')}"), name)
