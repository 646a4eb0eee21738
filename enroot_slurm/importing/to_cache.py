"""Images in the cache: `get_image` brings one there, `find_image` looks for it without asking anybody."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import public_errors
from enroot_slurm.importing.lookup import CachedImage, Lookup
from enroot_slurm.progress import Progress
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from enroot_slurm.importing.client import Client
    from enroot_slurm.importing.lock_file import LockFile

__all__ = ["CachedImage", "find_image", "get_image"]


@public_errors()
def find_image(uri: str, *, arch: str | None = None, config: Config | None = None, job: str = "") -> CachedImage | None:
    """The image that *uri* names, if it is in a cache; nobody is asked, and nothing is written.

    Found are digest URIs, and tags that the *job* (``JOBID.RESTART``) has resolved before.

    arch    a platform in the words of ``uname -m`` or of Docker; by default this node's
    config  the settings; by default those of `Config.load`

    Raises: UsageError, for a wrong reference, platform or setting; StorageError, when others can change the cache.
    """
    return Lookup.of(uri, arch, config or Config.load(), job).find()


@public_errors()
def get_image(
    uri: str,
    *,
    arch: str | None = None,
    config: Config | None = None,
    progress: Progress | None = None,
    job: str = "",
    user: str = "",
    client: Client | None = None,
    lock: LockFile | None = None,
    shared: bool = False,
) -> CachedImage:
    """The image that *uri* names, imported into the cache unless it is there.

    However many processes ask for it, on all nodes that share the cache, one imports it; the others wait and tell
    *progress* for whom.  A *job* (``JOBID.RESTART``) resolves a tag once, for all its nodes, and learns of failures
    that other processes have met up to ``failure_ttl`` seconds before.  *user* is the user for whom the image is, where
    one user imports for all: nobody has all slots of a node (``max_imports``).  Calls can share a *client*; its
    settings count unless *config* is given.  What *lock* has is taken by its digest; what it has not is noted there.
    What is in no registry goes into the user's own cache unless *shared* is true.

    Raises: the errors of `enroot_slurm.errors`.
    """
    config = config or (client.config if client else Config.load())
    pin = lock.digest(uri, arch) if lock else None
    lookup = Lookup.of(uri, arch, config, job, shared=shared, pin=pin)
    found = lookup.find() or _imported(lookup, config, progress, client, user)
    if lock:
        lock.note(uri, arch, found.digest)
    return found


def _imported(
    lookup: Lookup, config: Config, progress: Progress | None, client: Client | None, user: str
) -> CachedImage:
    from enroot_slurm.importing.resolution import Resolution  # noqa: PLC0415  a hit needs no HTTP client

    with Resolution(lookup, config, progress or Progress(), client.connections if client else None, user) as resolution:
        digest = resolution.resolve()
        found = lookup.image(digest)
        if found is None:
            from enroot_slurm.importing.image_builder import ImageBuilder  # noqa: PLC0415  nor does a hit by tag convert anything

            found = ImageBuilder(resolution).make(digest)
    return found
