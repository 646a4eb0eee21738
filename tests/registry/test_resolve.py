"""Tags, digests and indexes: from a reference to the manifest of one platform."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enroot_slurm.errors import (
    AccessDenied,
    IntegrityError,
    InvalidReference,
    NetworkError,
    NotFound,
    PlatformNotFound,
    UnsupportedImage,
)
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.image_config import ImageConfig
from enroot_slurm.oci.manifest import ACCEPT, DOCKER_MANIFEST, MAX_DOCUMENT, OCI_INDEX, OCI_MANIFEST
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import DOCKER_HUB, Reference
from enroot_slurm.registry import refusals
from enroot_slurm.registry.client import Repository, Transport
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.origin import Origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.fault_registry import FaultRegistry, Image

    Open = Callable[..., Repository]

AMD64 = Platform("amd64")


@pytest.fixture
def registry(faulty: Callable[..., FaultRegistry]) -> FaultRegistry:
    return faulty()


@pytest.fixture
def repository(registry: FaultRegistry, open_repository: Open) -> Repository:
    return open_repository(f"{registry.host}#team/app")


def test_tag(repository: Repository, registry: FaultRegistry):
    """A tag becomes the manifest with the digest of the bytes that came."""
    image = registry.add_image("team/app", layers=[b"a", b"b", b"a"])
    manifest = repository.resolve(AMD64)
    assert manifest.digest == image.digest == Digest.of(image.content)
    assert manifest.layers == image.layers
    assert manifest.config == image.config


def test_accept(registry: FaultRegistry, open_repository: Open, load):
    """All four media types are asked for, in every request for a manifest, also the one that is told to log in."""
    registry.auth, registry.users = "bearer", {"ann": "pw"}
    image = registry.add_image("team/app")
    registry.add_index("team/app", "multi", [("linux/amd64", image.digest, "")])
    credentials = load(f"machine {registry.host} login ann password pw")
    open_repository(f"{registry.host}#team/app:multi", credentials).resolve(AMD64)
    requests = registry.matching("/manifests/")
    assert len(requests) == 3
    assert all(r.headers["Accept"].split(", ") == list(ACCEPT) for r in requests)


@pytest.mark.parametrize("header", ["", "sha256:" + "0" * 64, "nonsense"])
def test_content_digest_header(repository: Repository, registry: FaultRegistry, header: str):
    """Docker-Content-Digest may be missing or wrong: it is no evidence."""
    image = registry.add_image("team/app")
    registry.fault(
        "/manifests/", remove=["Docker-Content-Digest"], headers={"Docker-Content-Digest": header} if header else {}
    )
    assert repository.resolve(AMD64).digest == image.digest


def test_pinned(registry: FaultRegistry, open_repository: Open):
    """With a digest the tag is not asked for, and the bytes have to fit."""
    image = registry.add_image("team/app", "1")
    name = f"{registry.host}#team/app:gone@{image.digest}"
    assert open_repository(name).resolve(AMD64).digest == image.digest
    assert registry.requests[-1].path.endswith(str(image.digest))
    registry.fault("/manifests/", body=image.content + b"\n", headers={"Docker-Content-Digest": str(image.digest)})
    with pytest.raises(IntegrityError, match=f"the registry sent sha256:.* for {image.digest}"):
        open_repository(name).resolve(AMD64)


def test_index_entries_are_verified(repository: Repository, registry: FaultRegistry):
    """What an index names by digest has to have it."""
    image = registry.add_image("team/app", "1")
    registry.add_index("team/app", "latest", [("linux/amd64", image.digest, "")])
    registry.fault(str(image.digest), body=image.content + b" ")
    with pytest.raises(IntegrityError, match="the registry sent"):
        repository.resolve(AMD64)


def test_media_type(repository: Repository, registry: FaultRegistry):
    """Without mediaType the Content-Type counts, without its parameters; both together must agree."""
    registry.add_image("team/app", mediaType=None)
    registry.fault("/manifests/", times=1, headers={"Content-Type": f"{OCI_MANIFEST}; charset=utf-8"})
    assert repository.resolve(AMD64)
    registry.add_image("team/app")
    registry.fault("/manifests/", times=1, headers={"Content-Type": OCI_INDEX})
    with pytest.raises(IntegrityError, match="calls itself"):
        repository.resolve(AMD64)
    registry.fault("/manifests/", times=1, headers={"Content-Type": DOCKER_MANIFEST})
    with pytest.raises(IntegrityError, match="calls itself"):
        repository.resolve(AMD64)


def test_schema1(repository: Repository, registry: FaultRegistry):
    """Docker's first schema is refused with what to do."""
    registry.fault(
        "/manifests/",
        status=200,
        body=b'{"schemaVersion": 1, "signatures": []}',
        headers={"Content-Type": "application/vnd.docker.distribution.manifest.v1+prettyjws"},
    )
    with pytest.raises(UnsupportedImage, match="schema 1"):
        repository.resolve(AMD64)


def test_huge_manifest(repository: Repository, registry: FaultRegistry):
    """A manifest is read up to 4 MiB."""
    registry.fault("/manifests/", status=200, body=b" " * (MAX_DOCUMENT + 5), headers={"Content-Type": OCI_MANIFEST})
    with pytest.raises(IntegrityError, match="larger than 4 MiB"):
        repository.resolve(AMD64)


def test_cut_manifest(repository: Repository, registry: FaultRegistry):
    """A connection that breaks within a manifest is made again."""
    registry.add_image("team/app")
    registry.fault("/manifests/", times=1, cut=100)
    registry.fault("/manifests/", times=1, hang_up=True)
    assert repository.resolve(AMD64)
    assert registry.count("/manifests/") == 3


def test_redirected_manifest(registry: FaultRegistry, repository: Repository, faulty: Callable[..., FaultRegistry]):
    """Manifests are redirected, too (GitLab's dependency proxy)."""
    store = faulty()
    image = registry.add_image("team/app")
    store.fault("/store/", status=200, body=image.content, headers={"Content-Type": OCI_MANIFEST})
    registry.fault("/manifests/", redirect=f"{store.url}/store/x")
    assert repository.resolve(AMD64).digest == image.digest


def test_web_page(repository: Repository, registry: FaultRegistry):
    """A captive portal is not a registry."""
    registry.fault("/manifests/", status=200, body=b"<html>", headers={"Content-Type": "text/html"})
    with pytest.raises(NetworkError, match="web page"):
        repository.resolve(AMD64)


def test_warning_header(repository: Repository, registry: FaultRegistry, warnings: list[str]):
    """A registry's Warning is passed on, once, without control characters."""
    registry.add_image("team/app")
    registry.fault("/manifests/", headers={"Warning": '299 - "this repository moves\x1b[31m"'})
    repository.resolve(AMD64)
    repository.resolve(AMD64)
    assert warnings == [f"{registry.host} says: this repository moves\\x1b[31m"]


# Platforms.


@pytest.fixture
def images(registry: FaultRegistry) -> dict[str, Image]:
    """Images that differ, by platform."""
    return {
        p: registry.add_image("team/app", p.replace("/", "-"), layers=[p.encode()])
        for p in ("linux/amd64", "linux/amd64/v3", "linux/arm64/v8", "linux/arm/v6", "linux/arm/v7", "windows/amd64")
    }


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("amd64", "linux/amd64"),
        ("amd64/v3", "linux/amd64/v3"),
        ("amd64/v4", "linux/amd64/v3"),
        ("arm64", "linux/arm64/v8"),
        ("arm/v7", "linux/arm/v7"),
        ("arm/v6", "linux/arm/v6"),
    ],
)
def test_choice(repository: Repository, registry: FaultRegistry, images: dict[str, Image], wanted: str, chosen: str):
    """The best variant of the architecture is taken, whatever the order."""
    registry.add_index("team/app", "latest", [(p, i.digest, "") for p, i in reversed(images.items())])
    assert repository.resolve(Platform.parse(wanted)).digest == images[chosen].digest


def test_platform_missing(repository: Repository, registry: FaultRegistry, images: dict[str, Image]):
    """What is there is named."""
    registry.add_index("team/app", "latest", [(p, i.digest, "") for p, i in images.items()])
    with pytest.raises(PlatformNotFound, match="is not there for linux/s390x") as caught:
        repository.resolve(Platform("s390x"))
    assert "linux/amd64, linux/amd64/v3, linux/arm64/v8" in caught.value.hint


def test_attestations(repository: Repository, registry: FaultRegistry, images: dict[str, Image]):
    """Attestations (unknown/unknown) are no images."""
    amd64 = images["linux/amd64"]
    entry = {
        "mediaType": OCI_MANIFEST,
        "digest": str(images["linux/arm/v6"].digest),
        "size": 5,
        "platform": {"os": "unknown", "architecture": "unknown"},
        "annotations": {"vnd.docker.reference.type": "attestation-manifest"},
    }
    real = {"mediaType": OCI_MANIFEST, "digest": str(amd64.digest), "size": len(amd64.content)}
    registry.add_index("team/app", "latest", [], manifests=[entry, real])
    assert repository.resolve(AMD64).digest == amd64.digest


def test_no_platform(repository: Repository, registry: FaultRegistry, images: dict[str, Image]):
    """An entry without a platform is taken if it is the only one; of several, by their configs."""
    first, second = images["linux/amd64"], images["linux/arm/v6"]
    registry.add_index("team/app", "latest", [(None, first.digest, "")])
    assert repository.resolve(AMD64).digest == first.digest
    registry.add_index("team/app", "latest", [(None, first.digest, ""), (None, second.digest, "")])
    assert repository.resolve(AMD64).digest == first.digest


def test_platforms_by_config(repository: Repository, registry: FaultRegistry):
    """Where nothing stated fits, configs tell what entries are for; none is asked for otherwise, or twice."""
    made = {
        arch: registry.add_image("team/app", arch, layers=[arch.encode()], architecture=arch)
        for arch in ("arm64", "s390x", "amd64")
    }
    kept: list[bytes] = []
    stated = registry.add_image("team/app", "r", layers=[b"r"]).digest
    entries = [(None, image.digest, "") for image in made.values()]
    registry.add_index("team/app", "latest", [("linux/riscv64", stated, ""), *entries])
    assert repository.resolve(AMD64, keep=kept.append).digest == made["amd64"].digest
    assert registry.count("/blobs/") == 3
    configs = {Digest.of(content): ImageConfig.parse(content) for content in kept if b"rootfs" in content}
    assert repository.resolve(AMD64, known_config=configs.get).digest == made["amd64"].digest
    assert registry.count("/blobs/") == 3
    assert repository.resolve(Platform.parse("riscv64")).digest == stated
    assert registry.count("/blobs/") == 3
    with pytest.raises(PlatformNotFound) as caught:
        repository.resolve(Platform.parse("ppc64le"))
    assert "linux/riscv64, linux/arm64, linux/s390x, linux/amd64. Choose" in caught.value.hint


@pytest.mark.parametrize(
    ("platforms", "hint"),
    [
        (["unknown/unknown", "windows/amd64"], "It is there for unknown/unknown, windows/amd64 only."),
        (["unknown/unknown", "linux/arm64"], "It is there for: linux/arm64. Choose one with --arch."),
        ([], "Its index names no image at all."),
    ],
)
def test_hints_name_what_works(repository: Repository, registry: FaultRegistry, platforms, hint):
    """What --arch would refuse is not to be chosen."""
    digest = registry.add_image("team/app", "x", layers=[b"x"]).digest
    registry.add_index("team/app", "latest", [(platform, digest, "") for platform in platforms])
    with pytest.raises(PlatformNotFound) as caught:
        repository.resolve(AMD64)
    assert caught.value.hint == hint


def test_single_manifest(repository: Repository, registry: FaultRegistry):
    """An image without an index is what it is; its config's architecture is for others to check."""
    image = registry.add_image("team/app", architecture="arm64")
    assert repository.resolve(AMD64).digest == image.digest


def nest(registry: FaultRegistry, image: Image, depth: int) -> None:
    digest, platform = image.digest, "linux/amd64"
    for _ in range(depth):
        digest, platform = registry.add_index("team/app", "latest", [(platform, digest, "")]), None


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_nested(repository: Repository, registry: FaultRegistry, images: dict[str, Image], depth: int):
    """Indexes may be in indexes, four deep."""
    nest(registry, images["linux/amd64"], depth)
    assert repository.resolve(AMD64).digest == images["linux/amd64"].digest


def test_nested_too_deep(repository: Repository, registry: FaultRegistry, images: dict[str, Image]):
    """But not deeper."""
    nest(registry, images["linux/amd64"], 6)
    with pytest.raises(UnsupportedImage, match="more than 4 inside of each other"):
        repository.resolve(AMD64)


def test_wide_and_nested(repository: Repository, registry: FaultRegistry, images: dict[str, Image]):
    """Many indexes at one level are not followed for ever."""
    inner = [registry.add_index("team/app", "", [], annotations={"n": str(i)}) for i in range(60)]
    registry.add_index("team/app", "latest", [(None, d, OCI_INDEX) for d in inner])
    with pytest.raises(UnsupportedImage, match="more than 32 indexes"):
        repository.resolve(AMD64)
    assert len(registry.requests) < 40


def test_lying_entry(repository: Repository, registry: FaultRegistry, images: dict[str, Image]):
    """An index that is called a manifest is refused."""
    inner = registry.add_index("team/app", "", [("linux/amd64", images["linux/amd64"].digest, "")])
    registry.add_index("team/app", "latest", [("linux/amd64", inner, OCI_MANIFEST)])
    with pytest.raises(IntegrityError, match="calls it a manifest"):
        repository.resolve(AMD64)


# What is missing.


def test_missing_tag(registry: FaultRegistry, open_repository: Open):
    """A missing tag and a missing repository are told apart, as far as the registry does."""
    registry.add_image("team/app", "1")
    with pytest.raises(NotFound, match=f"{registry.host}/team/app has no tag 2 "):
        open_repository(f"{registry.host}#team/app:2").resolve(AMD64)
    with pytest.raises(NotFound, match="has no tag latest") as caught:
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert "Name a tag" in caught.value.hint
    with pytest.raises(NotFound, match=f"there is no repository {registry.host}/team/other"):
        open_repository(f"{registry.host}#team/other:1").resolve(AMD64)
    with pytest.raises(NotFound, match=r"has no manifest sha256:0000"):
        open_repository(f"{registry.host}#team/app@sha256:{'0' * 64}").resolve(AMD64)


class _Nobody:
    source = problem = ""
    good = unsupported = False
    machine = DOCKER_HUB
    registry = Origin.of(f"https://{DOCKER_HUB}")


class _Response:
    host, proxy = DOCKER_HUB, ""

    def __init__(self, status: int, body: bytes = b"") -> None:
        self.status, self._body = status, body
        self.headers = {"WWW-Authenticate": "Basic"} if status == 401 else {}

    def error_body(self) -> bytes:
        return self._body


@pytest.mark.parametrize("status", [401, 404])
def test_cut_by_sbatch(status: int):
    """`docker://nvcr.io#nvidia/x` in an #SBATCH line asks Docker Hub for an image nvcr.io: the hint says so."""
    error = refusals.refusal(_Response(status), Reference.parse("docker://nvcr.io"), "", _Nobody(), "")
    assert "the unescaped '#' cut the rest off" in error.hint


def test_docker_hub_denial():
    """Docker Hub says of missing and of private images the same."""
    body = b'{"errors":[{"code":"UNAUTHORIZED","message":"authentication required","detail":[{"Type":"secret"}]}]}'
    error = refusals.refusal(
        _Response(401, body), Reference.parse("docker://ann/app"), "", _Nobody(), "/h/.credentials"
    )
    assert isinstance(error, AccessDenied)
    assert str(error) == (
        f"{DOCKER_HUB} does not let us read ann/app (UNAUTHORIZED: authentication required), without credentials"
    )
    assert error.hint.startswith("The image does not exist or is private.")
    assert f"add a line to /h/.credentials: machine {DOCKER_HUB} login USER password ..." in error.hint


@pytest.mark.parametrize("body", [b"", b"[]", b"{}", b'{"errors":[]}', b'{"errors":["x"]}', b'{"errors":{}}', b"\xff"])
def test_odd_error_bodies(body: bytes):
    """A body of another form is left out."""
    error = refusals.refusal(_Response(418, body), Reference.parse("docker://a/b"), "", _Nobody(), "")
    assert str(error) == f"{DOCKER_HUB} answers 418"


def test_error_body_is_cut():
    """Of a registry's words 200 characters are shown."""
    body = b'{"errors":[{"code":"X","message":"%s"}]}' % (b"y" * 5000)
    assert len(str(refusals.refusal(_Response(418, body), Reference.parse("docker://a/b"), "", _Nobody(), ""))) < 260


def test_impossible_registry():
    """A registry in brackets that is no IPv6 address is the reference's fault."""
    with pytest.raises(InvalidReference):
        Repository(Reference.parse("docker://[1::2::3]/a"), Credentials(), Transport(), warn=print)
