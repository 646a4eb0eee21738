"""All that stands between a name and its use: policies and verifiers, each of which has to agree.

Several policies come from several settings files: a user's adds to the site's, so that it can only be stricter.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError
from enroot_slurm.oci.digest import hash_of_text
from enroot_slurm.trust.files import reader
from enroot_slurm.trust.names import ImageName
from enroot_slurm.trust.policy import MAX_POLICY, Policy
from enroot_slurm.trust.verdict import Verdict, key_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.trust.evidence import EvidenceSource
    from enroot_slurm.trust.names import ArchiveName
    from enroot_slurm.trust.requirements import Read, Rule
    from enroot_slurm.trust.verifiers import Verifiers

__all__ = ["AUTO", "SYSTEM_POLICIES", "Demand", "demand"]

AUTO = "auto"
"""The first of `SYSTEM_POLICIES` that is there."""
SYSTEM_POLICIES = ("/etc/containers/policy.json", "/usr/share/containers/policy.json")


class Demand(NamedTuple):
    """The rules for one image."""

    name: ImageName | ArchiveName
    rules: tuple[Rule, ...]
    """Bound."""
    verifiers: tuple[Verifiers, ...]

    @property
    def is_met(self) -> bool:
        """Whether the name is enough."""
        return not self._asking and not any(each.programs for each in self.verifiers)

    @property
    def fingerprint(self) -> str:
        """32 hexadecimal digits: the same, where the same is asked for."""
        return hash_of_text(
            "\n".join([*(r.fingerprint for r in self._asking), *(v.fingerprint for v in self.verifiers)]), 32
        )

    def key(self, digest: Digest) -> str:
        """The key of the verdict that allows the image whose manifest is *digest*."""
        return key_of(str(self.name), str(digest), self.fingerprint)

    def accepts(self, verdict: Verdict, digest: Digest) -> bool:
        """Whether *verdict* answers just this for the manifest *digest*."""
        return verdict[:3] == (str(self.name), str(digest), self.fingerprint)

    def decide(self, digests: tuple[Digest, ...], document: bytes, source: EvidenceSource) -> Verdict:
        """The verdict on the image, whose manifest is the last of *digests*; before it is the index it was taken from.

        *document* is that of the first one.

        Raises: ImageRefused; ConfigError; what *source* raises.
        """
        from enroot_slurm.trust.judge import JudgedImage, judge  # noqa: PLC0415 - a hit judges nothing

        image = JudgedImage(self.name if isinstance(self.name, ImageName) else None, digests, str(self.name))
        by: list[str] = []
        for rule in self.rules:
            by += [each.by for each in judge(rule, image, source)]
        for verifiers in self.verifiers:
            verifiers.ask(str(self.name), digests[0], document)
            by += verifiers.programs
        files = (*(rule.place for rule in self._asking), *(each.directory for each in self.verifiers))
        return Verdict(str(self.name), str(digests[-1]), self.fingerprint, tuple(by), files, int(time.time()))

    @property
    def _asking(self) -> list[Rule]:
        return [rule for rule in self.rules if rule.needs_signatures]


def demand(name: ImageName | ArchiveName, policies: Sequence[str], directories: Sequence[str]) -> Demand:
    """The rules for the image *name*: the files *policies* (or `AUTO`) and the programs of *directories*.

    Nobody but root and this user may be able to write any of them.

    Raises: ImageRefused, when the name is enough to say no; ConfigError.
    """
    read = reader(MAX_POLICY)
    rules = []
    for file in policies:
        path, content = _system_policy(read) if file == AUTO else (file, read(file))
        rule = Policy.parse(path, content).rule(name.transport, name.scopes)
        rule.refuse_by_name(str(name))
        rules.append(rule.bound(read))
    if not directories:
        return Demand(name, tuple(rules), ())
    from enroot_slurm.trust.verifiers import Verifiers  # noqa: PLC0415 - few sites have any

    return Demand(name, tuple(rules), tuple(Verifiers.of(each) for each in directories))


def _system_policy(read: Read) -> tuple[str, bytes]:
    for path in SYSTEM_POLICIES:
        if os.path.lexists(path):
            return path, read(path)
    raise ConfigError(
        f"signature_policy is 'auto', but there is neither {' nor '.join(SYSTEM_POLICIES)}",
        hint="Write one, or name a file.",
    )
