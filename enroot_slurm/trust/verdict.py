"""A finding about an image, kept so that nobody has to look again while the rules are the same."""

from __future__ import annotations

import json
from typing import NamedTuple

from enroot_slurm.oci.digest import hash_of_text

__all__ = ["Verdict", "key_of"]

_FORMAT = 1


class Verdict(NamedTuple):
    """An image that was found good."""

    image: str
    """Its name, as the policy knows it."""
    digest: str
    """Of the manifest that is used."""
    asked: str
    """The fingerprint of all that was asked for."""
    by: tuple[str, ...]
    """The approvers: keys, people, programs."""
    files: tuple[str, ...]
    """The policies and directories that asked."""
    time: int
    """Seconds since 1970."""

    @classmethod
    def parse(cls, content: bytes) -> Verdict:
        """The verdict in *content*.  Raises: ValueError."""
        fields = json.loads(content)
        if not isinstance(fields, dict) or fields.pop("format", None) != _FORMAT or set(fields) != set(cls._fields):
            raise ValueError("not a verdict of this version")
        for name in ("by", "files"):
            if not isinstance(fields[name], list) or not all(isinstance(each, str) for each in fields[name]):
                raise ValueError("a field is of another type")
            fields[name] = tuple(fields[name])
        verdict = cls(**fields)
        if not all(type(value) is type(like) for value, like in zip(verdict, _LIKE, strict=True)):
            raise ValueError("a field is of another type")
        return verdict

    @property
    def key(self) -> str:
        """32 hexadecimal digits, for the name of a file."""
        return key_of(self.image, self.digest, self.asked)

    def __bytes__(self) -> bytes:
        return json.dumps({"format": _FORMAT, **self._asdict()}, indent=1).encode() + b"\n"


def key_of(image: str, digest: str, asked: str) -> str:
    """The key of the verdict on *image*, whose manifest is *digest*, for what is *asked*."""
    return hash_of_text(f"{image}\n{digest}\n{asked}", 32)


_LIKE = Verdict("", "", "", (), (), 0)
