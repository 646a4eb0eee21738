"""Whether an image may be used here: what the policies and verifiers of the settings ask, and whether it is known.

Every door asks: `lookup.Lookup.find` before it hands out an image of a cache, which costs no request, and
`resolution.Resolution.resolve` before it says which manifest is meant.  Without a policy none of this is loaded.
"""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

from enroot_slurm.cache.manifests import read_document
from enroot_slurm.cache.verdicts import read_verdict, write_verdict
from enroot_slurm.errors import IntegrityError, NotFound
from enroot_slurm.trust.gate import Demand, demand
from enroot_slurm.trust.names import name_of
from enroot_slurm.trust.verdict import Verdict

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.trust.evidence import EvidenceSource

__all__ = ["Admission"]


class Admission:
    """The rules for an image, and the verdicts that the *caches* have; each with the users that can have written it."""

    def __init__(self, wish: Demand, caches: Sequence[tuple[Path, set[int]]], own: CacheDirectory) -> None:
        self._demand = wish
        self._caches = caches
        self._own = own
        """Where new verdicts go."""

    @classmethod
    def of(
        cls,
        reference: Reference | LocalImage,
        policies: Sequence[str],
        verifiers: Sequence[str],
        caches: Sequence[tuple[Path, set[int]]],
        own: CacheDirectory,
    ) -> Admission:
        """The rules for the image *reference*: the files *policies* and the programs of the directories *verifiers*.

        Raises: ImageRefused, when the name is enough to say no; ConfigError, when a policy is wrong or can't be read.
        """
        return cls(demand(name_of(reference), policies, verifiers), caches, own)

    def is_known(self, digest: Digest) -> bool:
        """Whether the image of the manifest *digest* may be used, as far as that can be said without asking anybody."""
        return self._demand.is_met or self._verdict(digest) is not None

    def verify(
        self, digest: Digest, index: Digest | None, manifest_of: Callable[[Digest], Digest], source: EvidenceSource
    ) -> Verdict:
        """The verdict on the image of the manifest *digest*, which is kept.

        index        what the reference names, of which the manifest was taken, if it is not the manifest itself
        manifest_of  the digest of the manifest for the platform that an index leads to, verified
        source       the repository

        Raises: ImageRefused; ConfigError; AccessDenied, NetworkError, when the registry hands out no signatures.
        """
        digests: tuple[Digest, ...] = (digest,)
        if index is not None and index != digest:
            with contextlib.suppress(NotFound, IntegrityError):  # a tag may have been moved meanwhile
                digests = (index, digest) if manifest_of(index) == digest else digests
        document = self._document(digests[0]) or source.document(str(digests[0])) or b"{}"
        verdict = self._demand.decide(digests, document, source)
        if not self._demand.is_met:
            write_verdict(self._own, verdict.key, bytes(verdict))
        return verdict

    def _verdict(self, digest: Digest) -> Verdict | None:
        for root, owners in self._caches:
            content = read_verdict(root, self._demand.key(digest), owners)
            if content is not None:
                with contextlib.suppress(ValueError, RecursionError):
                    verdict = Verdict.parse(content)
                    if self._demand.accepts(verdict, digest):
                        return verdict
        return None

    def _document(self, digest: Digest) -> bytes | None:
        return next((content for root, _ in self._caches if (content := read_document(root, digest))), None)
