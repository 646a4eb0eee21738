"""Signatures in a registry: what `support.signing.Repository` holds, served by a registry of the tests."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from support.images import put_blob, put_manifest
from support.signing import INDEX, MANIFEST, Repository, Signer

if TYPE_CHECKING:
    from pathlib import Path

    from support.fault_registry import FaultRegistry
    from support.registry import Registry

    from enroot_slurm.oci.digest import Digest

__all__ = ["attach", "push", "write_policy"]


def attach(signatures: Repository, registry: FaultRegistry, name: str) -> None:
    """Let the repository *name* of *registry* have *signatures*, with the referrers API for those that have pages."""
    for content in signatures.blobs.values():
        registry.add_blob(content)
    for target, content in signatures.documents.items():
        tag = "" if ":" in target else target
        registry.add_manifest(name, tag, content, json.loads(content)["mediaType"])
    for digest, pages in signatures.pages.items():
        for number, page in enumerate(pages):
            path = f"/v2/{name}/referrers/{digest}"
            here = f"{path}[?]page={number}$" if number else f"{path}$"
            link = {"Link": f'<{path}?page={number + 1}>; rel="next"'} if number + 1 < len(pages) else {}
            registry.fault(here, status=200, body=page, headers={"Content-Type": INDEX, **link})


def push(signatures: Repository, registry: Registry, name: str) -> None:
    """Push *signatures* to a real registry; lists of referrers become fallback tags, as cosign makes them."""
    for content in signatures.blobs.values():
        put_blob(registry, name, content)
    for target, content in signatures.documents.items():
        put_manifest(registry, name, target, content, MANIFEST)
    for digest, (page,) in signatures.pages.items():
        put_manifest(registry, name, digest.replace(":", "-"), page, INDEX)


def write_policy(path: Path, scope: str, signer: Signer | None, identity: str = "matchRepository") -> Path:
    """A policy that refuses all but *scope*, where a signature by *signer* is asked for, or nothing."""
    requirement: dict[str, object] = {"type": "insecureAcceptAnything"}
    if signer:
        key = path.with_suffix(".pub")
        key.write_bytes(signer.pem)
        key.chmod(0o644)
        requirement = {"type": "sigstoreSigned", "keyPath": str(key), "signedIdentity": {"type": identity}}
    document = {"default": [{"type": "reject"}], "transports": {"docker": {scope: [requirement]}}}
    path.write_text(json.dumps(document))
    path.chmod(0o644)
    return path


def digests_asked(registry: FaultRegistry, digest: Digest) -> int:
    """How many requests there were for what is attached to *digest*."""
    return registry.count(f"{digest.hex}.sig|referrers/{digest}|sha256-{digest.hex}")
