"""Why images may be used: what was verified once need not be again while the same is asked for.

ROOT/verdicts/HASH.json     `enroot_slurm.trust.verdict`, of one name, one manifest and one demand

Beside the images, not in their sidecars: a verdict is there before its image is made, so that processes that wait for
it ask nobody; and one image has as many as it has names and policies.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from enroot_slurm.cache.trust import Untrusted, read_trusted

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory

__all__ = ["all_verdicts", "read_verdict", "write_verdict"]

_MAX_VERDICT = 64 << 10


def read_verdict(root: Path, key: str, owners: set[int]) -> bytes | None:
    """The verdict *key* below *root*, if nobody but *owners* can have written it."""
    with contextlib.suppress(OSError, Untrusted):
        return read_trusted(_path(root, key), owners, _MAX_VERDICT)
    return None


def write_verdict(place: CacheDirectory, key: str, content: bytes) -> None:
    """Keep *content*.  A cache that can't be written is no reason to fail: then the image is verified again."""
    with contextlib.suppress(OSError):
        place.directory("verdicts")
        place.write(_path(place.root, key), content)


def all_verdicts(root: Path) -> Iterator[bytes]:
    """Those below *root* that its owner or root has written."""
    with contextlib.suppress(OSError):
        owners = {0, root.stat().st_uid}
        for path in sorted((root / "verdicts").iterdir()):
            content = read_verdict(root, path.name.removesuffix(".json"), owners)
            if content is not None:
                yield content


def _path(root: Path, key: str) -> Path:
    return root / "verdicts" / f"{key}.json"
