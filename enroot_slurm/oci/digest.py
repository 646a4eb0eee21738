"""Content digests (OCI image-spec, descriptor.md, "Digests")."""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash

__all__ = ["Digest", "hash_of_text"]

_DIGEST = re.compile(r"(sha256):([0-9a-f]{64})|(sha512):([0-9a-f]{128})", re.ASCII)


class Digest(NamedTuple):
    """An algorithm and the lower-case hexadecimal hash; only ever a valid one when made by `parse` or `of`.

    The form is checked where text enters the program, since a digest becomes a file name and a part of URLs.
    """

    algorithm: str
    hex: str

    @classmethod
    def parse(cls, text: object) -> Digest:
        """The digest that *text* spells, such as ``sha256:`` and 64 hexadecimal digits.

        Raises: IntegrityError, for any other form or algorithm.
        """
        match = _DIGEST.fullmatch(text) if isinstance(text, str) else None
        if match is None:
            raise IntegrityError(f"not a sha256 or sha512 digest: {printable(str(text), 80)!r}")
        return cls(match[1] or match[3], match[2] or match[4])

    @classmethod
    def of(cls, content: bytes, algorithm: str = "sha256") -> Digest:
        """The digest of *content*."""
        import hashlib  # noqa: PLC0415 - see `hash_of_text`

        return cls(algorithm, hashlib.new(algorithm, content).hexdigest())

    def hasher(self) -> _Hash:
        """A new hash object of this digest's algorithm."""
        import hashlib  # noqa: PLC0415

        return hashlib.new(self.algorithm)

    @property
    def short(self) -> str:
        """Twelve hexadecimal digits, for people."""
        return self.hex[:12]

    def __str__(self) -> str:
        return f"{self.algorithm}:{self.hex}"


def hash_of_text(text: str, digits: int) -> str:
    """The first *digits* hexadecimal digits of the SHA-256 of a short *text*: for names of files."""
    return str(_sha256()(text.encode()).hexdigest()[:digits])


@cache
def _sha256() -> Callable[[bytes], _Hash]:
    """SHA-256 without hashlib, which loads OpenSSL: that takes longer than all else of a hit in the cache.

    Looked for once: a failed import searches all of sys.path each time.
    """
    try:
        from _sha2 import sha256  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415 - Python 3.12
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415
        except ImportError:
            from hashlib import sha256  # noqa: PLC0415
    return sha256  # type: ignore[no-any-return,unused-ignore]
