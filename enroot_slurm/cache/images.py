"""Images by the digest of their manifest: complete or absent, and handed out only as they were published.

    ROOT/images/RECIPE/PLATFORM/sha256-HEX.sqsh   HEX is the digest of the manifest for that platform
    ROOT/images/RECIPE/PLATFORM/sha256-HEX.json   the description of that file: its `Sidecar`
    ROOT/locks/image-RECIPE-PLATFORM-HEX.lock     held by the process that makes it

The sidecar gets its name before the image does.  In between, other processes find no image.  Two processes may make the
same image because locks do nothing; then the process that names its sidecar first names the image.
"""

from __future__ import annotations

import contextlib
import json
import os
import stat
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.trust import MAX_SIDECAR, Untrusted, open_trusted, read_trusted
from enroot_slurm.errors import EnrootSlurmError, StorageError
from enroot_slurm.oci.digest import hash_of_text

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.system.publish import Draft

__all__ = ["ImageFile", "Sidecar", "Unusable", "image_file", "make_images_directory", "recipe_of"]

_FORMAT = 1
"""To be raised when images are made differently, so that older ones are not used any more."""
_RECIPE_LENGTH = 16
_FIRST = 4096  # bytes of an image that a hit reads
_PUBLISHING = 1.0  # seconds between the names of a sidecar and of its image at most, unless the process was killed


class Unusable(StorageError):
    """An image in the cache is not what was published, or others could have written it."""


class Sidecar(NamedTuple):
    """The description of an image."""

    uri: str
    """The image's name as its /etc/rc has it."""
    digest: str
    platform: str
    options: str
    """How it was squashed."""
    size: int
    """Bytes."""
    mtime_ns: int
    checksum: str
    """``crc32:HEX`` as `system.checksum` has it; ``sha256:HEX`` for images of earlier versions."""
    created: int
    """Seconds since 1970."""
    public: bool
    """Whether it was fetched without credentials, or with the site's."""
    version: str
    """Of the program that has made it."""
    endpoint: str = ""
    """The mirror, or mirrors and others, that served it, where it was not the registry that its name says."""

    @classmethod
    def parse(cls, content: bytes) -> Sidecar:
        """The sidecar in *content*.  Raises: ValueError."""
        fields = json.loads(content)
        if isinstance(fields, dict) and "sha256" in fields:  # of an earlier version
            fields["checksum"] = f"sha256:{fields.pop('sha256')}"
        if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT:
            raise ValueError("not a sidecar of this version")
        if set(fields) | {"endpoint"} != set(cls._fields):
            raise ValueError("not a sidecar of this version")
        sidecar = cls(**fields)
        if not all(isinstance(value, type(like)) for value, like in zip(sidecar, _LIKE, strict=True)):
            raise ValueError("a field is of another type")
        return sidecar

    def __bytes__(self) -> bytes:
        fields = self._asdict()
        if not self.endpoint:
            del fields["endpoint"]  # as versions that know of no mirrors read it
        return json.dumps({"format": _FORMAT, **fields}, indent=1).encode() + b"\n"


_LIKE = Sidecar("", "", "", "", 0, 0, "", 0, False, "", "")


def recipe_of(options: str, epoch: int | None) -> str:
    """The name of the directory for images whose bytes *options* shape, and SOURCE_DATE_EPOCH if that is set."""
    text = f"{_FORMAT} {options}" + (f" {epoch}" if epoch is not None else "")
    return hash_of_text(text, _RECIPE_LENGTH)


def image_file(root: Path, recipe: str, platform: str, digest: Digest) -> ImageFile:
    """The place of an image below *root*, whether or not it is there."""
    name = f"{digest.algorithm}-{digest.hex}"
    directory = root / "images" / recipe / platform
    return ImageFile(directory / f"{name}.sqsh", directory / f"{name}.json")


def make_images_directory(place: CacheDirectory, recipe: str, platform: str) -> None:
    """Make the directories of images, and in the site's cache the one for leases of users.

    On Lustre, images are spread over servers from the first one on.  Raises: OSError.
    """
    if place.public:
        from enroot_slurm.cache.leases import open_to_visitors  # noqa: PLC0415 - a hit makes no directories

        open_to_visitors(place)
    if not (place.root / "images").is_dir():
        from enroot_slurm.system import lustre  # noqa: PLC0415 - once in the life of a cache

        images = place.directory("images")
        lustre.stripe(images, lustre=lustre.is_lustre(images))
    place.directory("images", recipe, platform)


class ImageFile(NamedTuple):
    """The place of one image."""

    path: Path
    sidecar: Path

    @property
    def lock(self) -> str:
        """The name of the lock that is held by whoever makes the image."""
        platform, recipe = self.path.parts[-2], self.path.parts[-3]
        return f"image-{recipe}-{platform}-{self.path.stem.partition('-')[2]}"

    def look(self, owners: set[int], check: Callable[[bytes, int], object]) -> Sidecar | None:
        """The image's record if the image is there, unchanged, and nobody but *owners* can have changed it.

        *check* looks at its first bytes, and at how many it has.

        Raises: Unusable, when something is there that must not be used; Untrusted, when that is so for its directory.
        """
        try:
            for directory in self.path.parents[:3]:
                _check_directory(directory, owners)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise Untrusted(
                f"{error.filename} can't be used: {error.strerror}",
                hint="Set ENROOT_CACHE_PATH to a directory of yours, or correct the permissions.",
            ) from None
        try:
            sidecar = Sidecar.parse(read_trusted(self.sidecar, owners, MAX_SIDECAR))
            with open_trusted(self.path, owners) as file:
                if not _is_of(file.status, sidecar):
                    raise Unusable(f"{self.path} is not the file that was published: it has another size or time")
                check(os.read(file.descriptor, _FIRST), file.status.st_size)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, EnrootSlurmError) as error:
            raise Unusable(f"the cached image can't be used: {error}") from None
        return sidecar

    def draft(self, place: CacheDirectory) -> contextlib.AbstractContextManager[Draft]:
        """The image without its name, in its directory; what is left there at the end is removed."""
        return place.draft(self.path, self.path.name[7:19])

    def publish(self, file: Draft, place: CacheDirectory, like: Sidecar) -> Sidecar:
        """Give the complete image *file* its name; what *like* says of it, with its size and time.

        Raises: OSError.
        """
        # 0444 for everybody's, since the owner writes it no more either.
        os.fchmod(file.fd, 0o444 if place.public else 0o400)
        with contextlib.suppress(OSError):
            os.fsync(file.fd)  # before its time is read, which a server may set when it gets the data
        status = os.fstat(file.fd)
        sidecar = like._replace(size=status.st_size, mtime_ns=status.st_mtime_ns, created=int(time.time()))
        deadline = time.monotonic() + _PUBLISHING
        while True:
            late = time.monotonic() > deadline
            if (late or not os.path.lexists(self.sidecar)) and place.write(self.sidecar, bytes(sidecar), replace=late):
                break
            # Somebody else's sidecar: its image comes now, or that process was killed.
            if (found := self._published()) is not None:
                return found
            time.sleep(0.02)
        file.publish(self.path, replace=True)
        return sidecar

    def _published(self) -> Sidecar | None:
        with contextlib.suppress(OSError, ValueError):
            sidecar = Sidecar.parse(self.sidecar.read_bytes())
            status = self.path.lstat()
            if stat.S_ISREG(status.st_mode) and _is_of(status, sidecar):
                return sidecar
        return None

    def discard(self) -> None:
        """Remove what is there.  Raises: OSError, when that is not possible."""
        for path in (self.path, self.sidecar):
            path.unlink(missing_ok=True)


def _is_of(status: os.stat_result, sidecar: Sidecar) -> bool:
    return (status.st_size, status.st_mtime_ns) == (sidecar.size, sidecar.mtime_ns)


def _check_directory(path: Path, owners: set[int]) -> None:
    status = path.lstat()
    if not stat.S_ISDIR(status.st_mode):
        raise Untrusted(f"{path} is not a directory")
    if status.st_uid not in owners:
        raise Untrusted(f"{path} belongs to user {status.st_uid}", hint=f"Run: chown {max(owners)} {path}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Untrusted(f"{path} is writable by others", hint=f"Run: chmod go-w {path}")
