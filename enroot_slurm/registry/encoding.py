"""Documents that a proxy has compressed on their way, although nobody had asked for it."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from enroot_slurm.errors import NetworkError, printable

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["decoded"]

_GZIP = {"gzip", "x-gzip"}


def decoded(content: bytes, headers: Mapping[str, str], limit: int) -> bytes:
    """*content* as it was before the encoding that *headers* state; of more than *limit* bytes only one more.

    What is labelled so but is plain JSON is left as it is: digests are of the plain document.

    Raises: NetworkError when the encoding is not known, or is not that of the content.
    """
    encoding = headers.get("Content-Encoding", "").strip().lower()
    if encoding in {"", "identity"} or content.lstrip()[:1] == b"{":
        return content
    if encoding in _GZIP or encoding == "deflate":
        engine = zlib.decompressobj(31 if encoding in _GZIP else 15)
        try:
            return engine.decompress(content, limit + 1)
        except zlib.error:
            pass
    raise NetworkError(
        f"the answer is encoded as {printable(encoding, 40)}, which was not asked for and can't be read",
        hint="A proxy on the way may have compressed it.",
    )
