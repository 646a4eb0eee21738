"""Manifests that refer to an image: the registry's list, or the index that clients keep under a tag in place of it.

Source: OCI distribution-spec 1.1, "Listing Referrers" and "Unavailable Referrers API".
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import urljoin

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.oci.digest import Digest

__all__ = ["pages"]

_MAX_PAGES = 10
_NEXT = re.compile(r"\s*<([^<>]{1,2048})>\s*;.*\brel=\"?next\b", re.ASCII | re.IGNORECASE)


def pages(
    digest: Digest,
    read: Callable[[str], tuple[str, bytes] | None],
    document: Callable[[str], bytes | None],
    base: str,
) -> Iterator[bytes]:
    """The indexes that list what refers to *digest*, ten at most.

    read      the header Link and the content of the answer at a path below *base*, None where it has no such thing
    document  the manifest or index of a tag
    """
    path = f"/referrers/{digest}"
    for number in range(_MAX_PAGES):
        page = read(path)
        if page is None:
            fallback = document(f"{digest.algorithm}-{digest.hex}") if number == 0 else None
            if fallback is not None:
                yield fallback
            return
        link, content = page
        yield content
        following = _NEXT.match(link)
        where = urljoin(base + path, following[1]) if following else ""
        if not where.startswith(f"{base}/referrers/"):  # nothing leads out of the repository
            return
        path = where.removeprefix(base)
