"""The source of images where nobody may be asked (setting offline): only what is in a cache is there."""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import NetworkError
from enroot_slurm.oci.selection import select
from enroot_slurm.oci.source import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.image_config import ImageConfig
    from enroot_slurm.oci.manifest import Descriptor, Index, Manifest
    from enroot_slurm.oci.platform import Platform

__all__ = ["Nobody"]


class Nobody(Source):
    """A `enroot_slurm.oci.source.Source` of the image *name* that has nothing but what is known."""

    anonymous = False

    def __init__(self, name: str) -> None:
        self._name = name

    def head(self) -> Digest | None:
        """Raises: NetworkError."""
        raise self._error(self._name)

    def resolve(
        self,
        platform: Platform,
        digest: Digest | None = None,
        *,
        known: Callable[[Digest], Manifest | Index | None] = lambda _: None,
        known_config: Callable[[Digest], ImageConfig | None] = lambda _: None,
        keep: Callable[[bytes], None] = lambda _: None,  # noqa: ARG002 - as `Source` has it
        named: Callable[[Digest], None] = lambda _: None,  # noqa: ARG002
    ) -> Manifest:
        """As `Source` says, of what is known.  Raises: NetworkError; PlatformNotFound."""
        if digest is None:
            raise self._error(self._name)

        def read(wanted: Digest) -> Manifest | Index:
            found = known(wanted)
            if found is None:
                raise self._error(f"manifest {wanted} of {self._name}")
            return found

        def platform_of(manifest: Manifest) -> Platform | None:
            config = known_config(manifest.config.digest)
            if config is None:
                raise self._error(f"the config of {self._name}")
            return config.platform

        return select(read(digest), platform, read, self._name, platform_of=platform_of)

    def blob(self, descriptor: Descriptor) -> Iterator[bytes]:
        """Raises: NetworkError."""
        raise self._error(f"blob {descriptor.digest} of {self._name}")

    def document(self, target: str) -> bytes | None:
        """Raises: NetworkError."""
        raise self._error(f"{target} of {self._name}")

    def small_blob(self, digest: Digest, size: int) -> bytes:  # noqa: ARG002
        """Raises: NetworkError."""
        raise self._error(f"blob {digest} of {self._name}")

    def referrers(self, digest: Digest) -> Iterable[bytes]:
        """Raises: NetworkError."""
        raise self._error(f"what refers to {digest}")

    def close(self) -> None:
        """Nothing is open."""

    def _error(self, what: str) -> NetworkError:
        return NetworkError(
            f"{what} is not in the cache, and nobody is asked for it (setting offline)",
            hint="Bring it with 'enroot-slurm cache export' and 'cache import', or set offline: no.",
        )
