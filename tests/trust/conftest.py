"""An image, somebody who signs it, and a policy that asks for the signature."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.signing import Repository, Signer

from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust.identity import SignedIdentity
from enroot_slurm.trust.judge import JudgedImage, judge
from enroot_slurm.trust.names import ImageName
from enroot_slurm.trust.requirements import Material, Rule, SigstoreSigned

if TYPE_CHECKING:
    from enroot_slurm.trust.judge import Approval

NAME = "registry.site/prod/app"
INDEX, MANIFEST, OTHER = (Digest.of(text) for text in (b"index", b"manifest", b"other"))


class Bench:
    """What is attached to an image, and what is asked of it."""

    def __init__(self) -> None:
        self.repository = Repository()
        self.signer = Signer()
        self.identity = SignedIdentity("matchRepository")
        self.keys = [self.signer]
        self.rekor: list[Signer] = []
        self.digests = (INDEX, MANIFEST)

    @property
    def requirement(self) -> SigstoreSigned:
        """sigstoreSigned, with the keys of the bench."""
        return SigstoreSigned(
            keys=tuple(Material("/etc/pki/site/cosign.pub", key.pem) for key in self.keys),
            rekor=tuple(Material("/etc/pki/site/rekor.pub", key.pem) for key in self.rekor),
            identity=self.identity,
        )

    def judge(self, *requirements: SigstoreSigned, tag: str = "1") -> list[Approval]:
        """What the policy says."""
        rule = Rule("/etc/containers/policy.json", "docker scope x", requirements or (self.requirement,))
        return judge(rule, JudgedImage(ImageName(NAME, tag), self.digests, f"{NAME}:{tag}"), self.repository)


@pytest.fixture
def bench() -> Bench:
    """A new one."""
    return Bench()
