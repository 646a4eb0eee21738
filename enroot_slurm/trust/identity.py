"""``signedIdentity``: whether the name inside of a signature fits the name that the user wrote.

Source: containers-policy.json(5), "signedBy".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.trust.names import ImageName

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["DEFAULT", "SignedIdentity"]

DEFAULT = "matchRepoDigestOrExact"


class SignedIdentity(NamedTuple):
    """A policy's demand on the name in a signature."""

    kind: str = DEFAULT
    name: str = ""
    """Of ``exactReference`` and ``exactRepository``."""
    prefix: str = ""
    signed_prefix: str = ""
    """Of ``remapIdentity``: what the signature has in place of `prefix`."""

    @property
    def is_of_repository(self) -> bool:
        """Whether it is the repository alone that is asked for."""
        return self.kind in {"matchRepository", "exactRepository"}

    def mismatch(self, signed: str, name: ImageName | None) -> str:
        """Why the name *signed* is not that of the image *name* (None: it has no name); empty when it is."""
        try:
            stated = ImageName.parse(signed)
        except ValueError:
            return "the signature names no image"
        if name is None and not self.kind.startswith("exact"):
            return "an image without a name can't be compared with the name in the signature"
        if _RULES[self.kind](self, stated, name or ImageName("")):
            return ""
        hint = ""
        if stated.is_repository and not self.is_of_repository:
            hint = f"; cosign signs repositories, not tags: {self.kind} never holds then, matchRepository may"
        return f"it is signed as {stated}{hint}"

    def _remapped(self, name: ImageName) -> ImageName:
        full = name.repository
        if full == self.prefix or full.startswith(f"{self.prefix}/"):
            return name._replace(repository=self.signed_prefix + full[len(self.prefix) :])
        return name


def _exact(_: SignedIdentity, stated: ImageName, name: ImageName) -> bool:
    return not stated.is_repository and stated == name


def _default(_: SignedIdentity, stated: ImageName, name: ImageName) -> bool:
    if stated.is_repository:
        return False
    return stated.repository == name.repository if name.digest else stated == name


def _repository(_: SignedIdentity, stated: ImageName, name: ImageName) -> bool:
    return stated.repository == name.repository


_RULES: dict[str, Callable[[SignedIdentity, ImageName, ImageName], bool]] = {
    "matchExact": _exact,
    DEFAULT: _default,
    "matchRepository": _repository,
    "exactReference": lambda wish, stated, _: stated == ImageName.parse(wish.name) and not stated.is_repository,
    "exactRepository": lambda wish, stated, _: stated.repository == ImageName.parse(wish.name).repository,
    # Private on purpose: what is left after the prefix has been replaced is the default.
    "remapIdentity": lambda wish, stated, name: _default(wish, stated, wish._remapped(name)),  # noqa: SLF001
}
