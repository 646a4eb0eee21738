"""Layer images by what is in them: made once, and joined into every image that has the layer.

    ROOT/layers/RECIPE/sha256-HEX.sqsh    one layer as squashfs; HEX is its diff_id
    ROOT/layers/RECIPE/sha256-HEX.json    the size and time of that file, written before it gets its name
    ROOT/locks/layer-RECIPE-HEX.lock      who makes it

A layer is known by its diff_id, not by its blob's digest: what it is compressed with makes no difference here.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import stat
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enroot_slurm.oci.digest import Digest

__all__ = ["CachedLayer", "LayerStore"]

_FORMAT = 1
"""To be raised when layer images are made differently, so that older ones are not used any more."""
_RECIPE_LENGTH = 16


class LayerStore:
    """The layer images below *root* that are made by *recipe*, a text that holds all that shapes their bytes."""

    def __init__(self, root: Path, recipe: str) -> None:
        self._root = root
        self._recipe = hashlib.sha256(f"{_FORMAT} {recipe}".encode()).hexdigest()[:_RECIPE_LENGTH]
        self._directory = root / "layers" / self._recipe

    def layer(self, diff_id: Digest) -> CachedLayer:
        """The layer image of *diff_id*, whether or not it is here."""
        name = f"{diff_id.algorithm}-{diff_id.hex}"
        lock = self._root / "locks" / f"layer-{self._recipe}-{diff_id.hex}.lock"
        return CachedLayer(diff_id, self._directory / f"{name}.sqsh", self._directory / f"{name}.json", lock)

    def prepare(self) -> None:
        """Make the directories.  Raises: OSError."""
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        (self._root / "locks").mkdir(mode=0o700, parents=True, exist_ok=True)


class CachedLayer(NamedTuple):
    """The place of one layer image."""

    diff_id: Digest
    path: Path
    sidecar: Path
    lock: Path

    @property
    def name(self) -> str:
        """The layer for people."""
        return f"layer {self.diff_id}"

    @property
    def ready(self) -> bool:
        """Whether the image is there and is the file that was published."""
        try:
            status = self.path.lstat()
            expected = json.loads(self.sidecar.read_bytes())
        except (OSError, ValueError):
            return False
        return stat.S_ISREG(status.st_mode) and expected == _identity(status)

    @contextlib.contextmanager
    def temporary(self) -> Iterator[Path]:
        """A name in the directory of the image, unique over nodes and processes; removed at the end if still there."""
        unique = f"{os.uname().nodename}.{os.getpid()}.{secrets.token_hex(4)}"
        path = self.path.with_name(f".{self.diff_id.short}.{unique}.tmp")
        try:
            yield path
        finally:
            with contextlib.suppress(FileNotFoundError):
                path.unlink()

    def publish(self, temporary: Path) -> None:
        """Give the complete image at *temporary* its name.  Raises: OSError."""
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
            identity = _identity(os.fstat(file.fileno()))
        sidecar = temporary.with_suffix(".json")
        try:
            sidecar.write_text(json.dumps(identity))
            # Whoever looks between the two renames finds a file that is not the one described, and makes it again.
            sidecar.replace(self.sidecar)
            temporary.replace(self.path)
        finally:
            sidecar.unlink(missing_ok=True)

    def discard(self) -> None:
        """Remove the image from the cache."""
        for path in (self.path, self.sidecar):
            with contextlib.suppress(OSError):
                path.unlink()


def _identity(status: os.stat_result) -> dict[str, int]:
    return {"size": status.st_size, "mtime_ns": status.st_mtime_ns}
