"""A tag becomes a digest: HEAD saves work where it can, and never decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 404, "body": b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}'},
        {"status": 403, "body": b""},
        {"body": b'{"schemaVersion":2}'},
    ],
)
def test_digest_of_head_is_not_there(import_environment: dict[str, str], tmp_path: Path, fault: dict[str, object]):
    """Where the digest that HEAD has claimed is not to be had, or is something else, the tag is asked for by GET."""
    with FaultRegistry() as registry:
        uri = serve(registry, Image([Layer().file("f", b"1")]))
        registry.fault("/manifests/sha256:", **fault)
        done = enroot_slurm("import", "-q", "-o", tmp_path / "o", uri, environment=import_environment)
        assert done.returncode == 0, done.stderr
        assert registry.count("/manifests/1$") == 1
        assert registry.count("/manifests/sha256:") == 1


def test_digest_that_is_not_there(import_environment: dict[str, str], tmp_path: Path):
    """A digest that the user has named is not replaced by anything."""
    with FaultRegistry() as registry:
        uri = serve(registry, Image([Layer().file("f", b"1")]))
        named = f"{uri.rpartition(':')[0]}@sha256:{'0' * 64}"
        done = enroot_slurm("import", "-q", "-o", tmp_path / "o", named, environment=import_environment)
        assert done.returncode == 3, done.stderr
        assert not registry.count("/manifests/1$")
