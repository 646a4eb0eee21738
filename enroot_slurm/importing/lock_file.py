"""A lock file: what names led to when they were asked for first, so that a later run has the same images.

    {"version": 1,
     "images": [{"uri": "docker://REGISTRY#IMAGE:TAG", "platform": "linux/amd64", "digest": "sha256:..."}]}

An image that is in it is taken by its digest; one that is not is resolved, and noted.  To take what a tag is now,
remove its entry, or the file.
"""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enroot_slurm.errors import IntegrityError, StorageError, UsageError, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.local import LocalImage, parse_name
from enroot_slurm.oci.manifest import fields, load_json
from enroot_slurm.oci.platform import Platform
from enroot_slurm.system.publish import write_file

if TYPE_CHECKING:
    import os

__all__ = ["LockFile"]

_VERSION = 1
_MAX_FILE = 4 << 20


class LockFile:
    """The lock file *path*, which need not be there yet.

    Raises: UsageError, when it is none; StorageError, when it can't be read.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()
        self._known = self._read()

    def digest(self, uri: str, arch: str | None = None) -> Digest | None:
        """The digest of the manifest that *uri* is for the platform *arch* (by default this node's), if it is locked.

        Raises: InvalidReference, InvalidPlatform.
        """
        return self._known.get(_key(uri, arch))

    def note(self, uri: str, arch: str | None, digest: Digest) -> None:
        """Lock *uri*, unless it is locked.  Raises: StorageError."""
        key = _key(uri, arch)
        if key in self._known:
            return
        with contextlib.suppress(UsageError):  # somebody may have written it meanwhile, and noted others
            self._known = {**self._read(), **self._known}
        self._known.setdefault(key, digest)
        images = [{"uri": u, "platform": p, "digest": str(d)} for (u, p), d in sorted(self._known.items())]
        content = json.dumps({"version": _VERSION, "images": images}, indent=2).encode() + b"\n"
        try:
            write_file(self.path, content, mode=0o644)
        except OSError as error:
            raise StorageError(f"can't write the lock file {self.path}: {error.strerror}") from None

    def _read(self) -> dict[tuple[str, str], Digest]:
        try:
            with self.path.open("rb") as file:
                content = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise StorageError(f"can't read the lock file {self.path}: {error.strerror}") from None
        try:
            return self._entries(fields(load_json(content, "lock file", _MAX_FILE), "lock file"))
        except (IntegrityError, UsageError) as error:
            raise UsageError(
                f"{self.path} is no lock file: {printable(error.message, 500)}",
                hint="Remove it, and it is written again.",
            ) from None

    def _entries(self, document: dict[str, Any]) -> dict[tuple[str, str], Digest]:
        if document.get("version") != _VERSION or not isinstance(document.get("images"), list):
            raise IntegrityError("it has no version 1 and images")
        return dict(map(self._entry, document["images"]))

    def _entry(self, value: object) -> tuple[tuple[str, str], Digest]:
        entry = fields(value, "image")
        uri, platform = entry.get("uri"), entry.get("platform")
        if not isinstance(uri, str) or not isinstance(platform, str):
            raise IntegrityError("an image has no uri and platform")
        return _key(uri, platform), Digest.parse(entry.get("digest"))


def _key(uri: str, arch: str | None) -> tuple[str, str]:
    reference = parse_name(uri)
    shown = reference if isinstance(reference, LocalImage) else reference._replace(user="")
    return str(shown), str(Platform.parse(arch) if arch else Platform.host())
