"""A cache filled by hand: images, layers, blobs and what killed processes leave, each of a chosen age."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.images import ImageFile, Sidecar, image_file
from enroot_slurm.cache.layers import LayerSidecar
from enroot_slurm.oci.digest import Digest
from enroot_slurm.system.checksum import Checksum
from enroot_slurm.system.publish import write_all

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["RECIPE", "FilledCache", "checksum_of", "files_of", "set_age"]

RECIPE = "0123456789abcdef"
DAY = 86400.0


def set_age(path: Path, seconds: float) -> None:
    """Let *path* have been written and read *seconds* ago."""
    then = time.time() - seconds
    os.utime(path, (then, then), follow_symlinks=False)


def files_of(root: Path) -> dict[str, tuple[int, int, int]]:
    """All that is below *root*, by relative path, with what a change would change."""
    found = {}
    for path in root.rglob("*"):
        status = path.lstat()
        found[str(path.relative_to(root))] = (status.st_ino, status.st_size, status.st_mtime_ns)
    return found


def checksum_of(path: Path) -> str:
    """What a sidecar says of the content of the file *path*."""
    checksum = Checksum()
    checksum.add(path.read_bytes())
    return str(checksum)


class FilledCache:
    """The cache *root*; methods put something into it, *age* seconds old."""

    def __init__(self, root: Path) -> None:
        self.place = CacheDirectory(root)
        self.root = root

    def image(self, name: str, age: float = DAY, size: int = 1000) -> Path:
        """An image as `ImageFile.publish` makes it; its manifest is the text *name*."""
        digest = Digest.of(name.encode())
        self.place.directory("images", RECIPE, "linux-amd64")
        file: ImageFile = image_file(self.root, RECIPE, "linux-amd64", digest)
        like = Sidecar(f"docker://reg#{name}:1", str(digest), "linux/amd64", "-comp zstd", 0, 0, "", 0, True, "1")
        checksum = Checksum()
        checksum.add(name.encode().ljust(size, b"."))
        like = like._replace(checksum=str(checksum))
        with file.draft(self.place) as draft:
            write_all(draft.fd, name.encode().ljust(size, b"."))
            set_age(draft.path, age)
            file.publish(draft, self.place, like)
        os.utime(file.path, ns=(file.path.stat().st_mtime_ns, file.path.stat().st_mtime_ns))
        set_age(file.sidecar, age)
        return file.path

    def layer(self, name: str, age: float = DAY, size: int = 1000) -> Path:
        digest = Digest.of(name.encode())
        path = self.place.directory("layers", RECIPE) / f"sha256-{digest.hex}.sqsh"
        content = name.encode().ljust(size, b".")
        path.write_bytes(content)
        set_age(path, age)
        status = path.stat()
        checksum = Checksum()
        checksum.add(content)
        known = LayerSidecar(str(digest), status.st_size, status.st_mtime_ns, checksum.hexdigest())
        path.with_suffix(".json").write_bytes(bytes(known))
        set_age(path.with_suffix(".json"), age)
        return path

    def blob(self, name: str, age: float = DAY, size: int = 1000, kind: str = "blobs") -> Path:
        content = name.encode().ljust(size, b".")
        path = self.place.directory(kind, "sha256") / Digest.of(content).hex
        path.write_bytes(content)
        set_age(path, age)
        return path

    def manifest(self, name: str, age: float = DAY) -> Path:
        return self.blob(name, age, 50, "manifests")

    def temporary(self, path: str, age: float = DAY, *, host: str = "elsewhere", pid: int = 1) -> Path:
        """A file that is not complete; *path* up to the unique part of its name."""
        directory, _, name = path.rpartition("/")
        end = "" if directory == "tmp" else ".tmp"
        full = self.place.directory(*filter(None, directory.split("/"))) / f"{name}.{host}.12.0.{pid}.0a1b2c3d{end}"
        full.write_bytes(b"half")
        set_age(full, age)
        return full

    def file(self, path: str, content: bytes = b"x", age: float = DAY) -> Path:
        """Any file."""
        directory, _, name = path.rpartition("/")
        full = self.place.directory(*filter(None, directory.split("/"))) / name
        full.write_bytes(content)
        set_age(full, age)
        return full
