"""The client with Debian's docker-registry and a token service: what a fake registry only imitates."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from support.registry import TokenAuth
from support.token_server import TokenServer

from enroot_slurm.errors import AccessDenied, NotFound
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import OCI_MANIFEST
from enroot_slurm.oci.platform import Platform
from enroot_slurm.registry import download as module

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.registry import Registry

    from enroot_slurm.registry.client import Repository

    Make = Callable[..., Registry]
    Open = Callable[..., Repository]

AMD64 = Platform("amd64")
CONTENT = bytes(range(256)) * 8000


def push(registry: Registry, name: str, tag: str, token: str = "") -> tuple[Digest, Digest]:
    """Push an image of one layer; returns the digests of manifest and layer."""
    headers = {"Authorization": f"Bearer {token}"} if token else {}

    def put(content: bytes) -> dict[str, object]:
        digest = Digest.of(content)
        status, answer, _ = registry.request("POST", f"/v2/{name}/blobs/uploads/", b"", headers)
        assert status == 202
        path = answer["Location"].removeprefix(registry.url)
        body = {"Content-Type": "application/octet-stream", **headers}
        status, _, _ = registry.request("PUT", f"{path}&digest={digest}", content, body)
        assert status == 201
        return {"digest": str(digest), "size": len(content)}

    config = json.dumps({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}})
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": {"mediaType": "application/vnd.oci.image.config.v1+json", **put(config.encode())},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", **put(CONTENT)}],
    }
    content = json.dumps(manifest).encode()
    status, _, _ = registry.request(
        "PUT", f"/v2/{name}/manifests/{tag}", content, {"Content-Type": OCI_MANIFEST, **headers}
    )
    assert status == 201
    return Digest.of(content), Digest.of(CONTENT)


def test_open(registry: Registry, open_repository: Open):
    """An OCI image of an open registry."""
    digest, _ = push(registry, "client/open", "1")
    repository = open_repository(f"{registry.host}#client/open:1")
    manifest = repository.resolve(AMD64)
    assert manifest.digest == digest
    assert b"".join(repository.blob(manifest.layers[0])) == CONTENT
    assert json.loads(b"".join(repository.blob(manifest.config)))["os"] == "linux"
    assert repository.anonymous
    with pytest.raises(NotFound, match="has no tag 2"):
        open_repository(f"{registry.host}#client/open:2").resolve(AMD64)


def test_basic_over_tls(make_registry: Make, open_repository: Open, load):
    """https, and a password of htpasswd."""
    registry = make_registry(tls=True, users={"ann": "pw"})
    digest, _ = push(registry, "client/basic", "1")
    options = {"allow_http": False, "ca_file": str(registry.ca_file)}
    repository = open_repository(
        f"{registry.host}#client/basic:1", load(f"machine {registry.host} login ann password pw"), **options
    )
    manifest = repository.resolve(AMD64)
    assert manifest.digest == digest
    assert b"".join(repository.blob(manifest.layers[0])) == CONTENT
    assert not repository.anonymous
    with pytest.raises(AccessDenied):
        open_repository(f"{registry.host}#client/basic:1", **options).resolve(AMD64)


def test_resume(registry: Registry, open_repository: Open, monkeypatch):
    """Distribution answers a Range request as the client wants it."""
    push(registry, "client/resume", "1")
    repository = open_repository(f"{registry.host}#client/resume:1")
    layer = repository.resolve(AMD64).layers[0]
    take = module.Download._take

    def cut(self, response, start):
        for i, piece in enumerate(take(self, response, start)):
            yield piece
            if i == 0 and start == 0:
                raise module.Passing("cut")

    monkeypatch.setattr(module.Download, "_take", cut)
    assert b"".join(repository.blob(layer)) == CONTENT
    assert registry.count("GET", f"blobs/{layer.digest}", status=206) == 1


def test_tokens(make_registry: Make, open_repository: Open, load, tmp_path: Path, warnings: list[str]):
    """Real tokens: public images without a login, private ones with it, and what is said otherwise."""
    with TokenServer(tmp_path / "tokens", users={"ann": "pw"}, rights={"ann": ["team/*"], "": ["public/*"]}) as service:
        service.rights["pusher"] = ["*"]
        auth = TokenAuth(service.realm, service.service, service.issuer, service.bundle)
        registry = make_registry(token=auth)
        for name in ("team/app", "public/app"):
            push(registry, name, "1", service.token("pusher", [f"repository:{name}:push,pull"]))

        public = open_repository(f"{registry.host}#public/app:1")
        assert b"".join(public.blob(public.resolve(AMD64).layers[0])) == CONTENT
        assert public.anonymous
        assert [r.user for r in service.requests] == [""]

        with pytest.raises(AccessDenied, match="without credentials"):
            open_repository(f"{registry.host}#team/app:1").resolve(AMD64)

        credentials = load(f"machine {registry.host} login ann password pw")
        private = open_repository(f"{registry.host}#team/app:1", credentials)
        assert b"".join(private.blob(private.resolve(AMD64).layers[0])) == CONTENT
        assert not private.anonymous
        assert service.requests[-1].query["account"] == ["ann"]

        with pytest.raises(AccessDenied, match=r"\.credentials:1"):
            open_repository(f"{registry.host}#other/app:1", credentials).resolve(AMD64)
        assert not warnings
        wrong = load(f"machine {registry.host} login ann password no")
        assert open_repository(f"{registry.host}#public/app:1", wrong).resolve(AMD64)
        assert "rejects the credentials" in warnings[0]
