"""Facts about an image that is not used yet: whether it may be used, its signers, and its attachments."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import NotFound, UsageError
from enroot_slurm.importing.admission import Admission
from enroot_slurm.importing.lookup import Lookup
from enroot_slurm.importing.resolution import Resolution
from enroot_slurm.trust.attachments import attachments, sbom_in
from enroot_slurm.trust.files import reader
from enroot_slurm.trust.gate import Demand, demand
from enroot_slurm.trust.identity import SignedIdentity
from enroot_slurm.trust.names import name_of
from enroot_slurm.trust.policy import MAX_POLICY
from enroot_slurm.trust.requirements import Material, Rule, SigstoreSigned

if TYPE_CHECKING:
    from enroot_slurm.progress import Progress
    from enroot_slurm.settings.config import Config
    from enroot_slurm.trust.attachments import Attachment
    from enroot_slurm.trust.verdict import Verdict

__all__ = ["attachments_of", "sbom_of", "verify_image"]


def verify_image(uri: str, arch: str | None, config: Config, progress: Progress, key: Path | None = None) -> Verdict:
    """The verdict on the image *uri* now: of the settings' policies and verifiers or, with *key*, of that key alone.

    Raises: ImageRefused; UsageError, when there is neither; ConfigError; what resolving raises.
    """
    lookup = Lookup.of(uri, arch, config, strict=False)
    name = name_of(lookup.reference)
    if key is not None:
        path = str(Path.cwd() / key)
        material = Material(path).bound(reader(MAX_POLICY))
        signed = SigstoreSigned(keys=(material,), identity=SignedIdentity("matchRepository"))
        wish = Demand(name, (Rule("--key", path, (signed,)),), ())
    elif lookup.policies or lookup.verifiers:
        wish = demand(name, lookup.policies, lookup.verifiers)
    else:
        raise UsageError(
            "no policy says which images may be used, so any may",
            hint="Name the key that should have signed it with --key FILE, or set signature_policy.",
        )
    with Resolution(lookup._replace(policies=(), verifiers=()), config, progress) as resolution:
        return resolution.verify(Admission(wish, lookup.caches, lookup.own), resolution.resolve())


def attachments_of(uri: str, arch: str | None, config: Config, progress: Progress) -> list[Attachment]:
    """The attachments of the image *uri*.  Raises: what resolving raises."""
    lookup = Lookup.of(uri, arch, config, strict=False)._replace(policies=(), verifiers=())
    with Resolution(lookup, config, progress) as resolution:
        digest = resolution.resolve()
        return attachments(resolution.repository, digest, resolution.named())


def sbom_of(uri: str, arch: str | None, config: Config, progress: Progress) -> bytes:
    """The first bill of materials that is attached to the image *uri*: SPDX or CycloneDX, as JSON.

    Nobody has verified what it says, nor who has written it.

    Raises: NotFound, when there is none; what resolving raises.
    """
    lookup = Lookup.of(uri, arch, config, strict=False)._replace(policies=(), verifiers=())
    with Resolution(lookup, config, progress) as resolution:
        digest = resolution.resolve()
        for each in attachments(resolution.repository, digest, resolution.named()):
            if each.is_sbom and (content := sbom_in(each, resolution.repository)) is not None:
                return content
    raise NotFound(f"{lookup.shown} has no bill of materials attached", hint="'show --attestations' lists what it has.")
