"""Several endpoints for one repository: their order, what makes the next one be asked, and what they are told."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from support.fault_registry import FaultRegistry

from enroot_slurm.errors import AccessDenied, NetworkError, NotFound, PlatformNotFound
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import Reference
from enroot_slurm.registry.client import Repository
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.endpoints import Mirror, Table, endpoints_of
from enroot_slurm.registry.tally import PASSED
from tests.registry.conftest import QUICK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.fault_registry import Image

    Open = Callable[..., Repository]

AMD64 = Platform("amd64")
LAYER = b"0123456789" * 300_000


@pytest.fixture
def primary(faulty) -> FaultRegistry:
    return faulty()


@pytest.fixture
def mirror(faulty) -> FaultRegistry:
    return faulty()


@pytest.fixture
def opened(primary, warnings) -> Iterator[Open]:
    """A function that opens team/app:1 of the primary, behind these mirrors, each a registry or a `Mirror`."""
    made: list[Repository] = []

    def run(*mirrors: FaultRegistry | Mirror, uri: str = "", table: dict[str, Any] | None = None, **options: Any):
        entries = tuple(m if isinstance(m, Mirror) else Mirror(f"{m.host}/hub") for m in mirrors)
        said = Table(primary.host, primary.host, mirrors=entries, **(table or {}))
        reference = Reference.parse(f"docker://{uri or f'{primary.host}#team/app:1'}")
        transport = QUICK._replace(**{"allow_http": True, **options.pop("transport", {})})
        credentials = options.pop("credentials", Credentials())
        endpoints = endpoints_of(reference, [said])
        made.append(Repository(reference, credentials, transport, warn=warnings.append, endpoints=endpoints, **options))
        return made[-1]

    yield run
    for each in made:
        each.close()


def add(*registries: FaultRegistry, mirrors: tuple[FaultRegistry, ...] = (), **options: Any) -> Image:
    """The same image at the primary and at mirrors."""
    options = {"layers": [LAYER, b"small"], **options}
    for each in mirrors:
        image = each.add_image("hub/team/app", "1", **options)
    for each in registries:
        image = each.add_image("team/app", "1", **options)
    return image


def pull(repository: Repository) -> list[bytes]:
    manifest = repository.resolve(AMD64, repository.head())
    return [b"".join(repository.blob(each)) for each in manifest.layers]


def test_a_mirror_serves_all(primary, mirror, opened) -> None:
    """The primary is not asked for anything; no blob is asked for with HEAD."""
    add(mirrors=(mirror,))
    repository = opened(mirror)
    assert pull(repository) == [LAYER, b"small"]
    assert primary.requests == []
    assert not [r for r in mirror.requests if r.method == "HEAD" and "/blobs/" in r.path]
    assert repository.served_by == f"{mirror.host}/hub/team/app"
    assert repository.anonymous


def test_order(faulty, primary, opened) -> None:
    """Mirrors in the order written, the primary last."""
    first, second, third = (faulty() for _ in range(3))
    add(primary, mirrors=(second, third))
    assert pull(opened(first, second, third)) == [LAYER, b"small"]
    assert (len(first.requests) > 0, len(second.requests) > 0) == (True, True)
    assert third.requests == primary.requests == []


@pytest.mark.parametrize("fault", ["404", "401", "403", "429", "503", "page", "wrong", "garbage", "hang_up"])
def test_fallback(fault, primary, mirror, opened) -> None:
    """Whatever a mirror answers that is of no use, the primary has the image; the mirror is not asked again."""
    image = add(primary, mirrors=(mirror,))
    options: dict[str, Any] = {
        "page": {"body": b"<html>", "headers": {"Content-Type": "text/html"}},
        "wrong": {"body": image.content + b" "},
        "garbage": {"body": b"{}"},
        "hang_up": {"hang_up": True},
    }.get(fault) or {"status": int(fault) if fault.isdecimal() else 0, "body": b""}
    mirror.fault("/manifests/", **options)
    counted: Counter[tuple[str, str]] = Counter()
    repository = opened(mirror, counted=lambda host, answer, count: counted.update({(host, answer): count}))
    assert pull(repository) == [LAYER, b"small"]
    repository.close()
    assert counted[mirror.host, PASSED] == 1
    answer = {"page": "2xx", "wrong": "2xx", "garbage": "2xx", "hang_up": "error", "503": "5xx"}.get(fault, fault)
    assert counted[mirror.host, answer] > 0
    if fault != "hang_up":  # a connection that was closed meanwhile is no answer
        assert counted[primary.host, "2xx"] == len(primary.requests)
    assert mirror.count("/manifests/") <= 3
    assert mirror.count("/blobs/") == 0
    assert repository.served_by == ""


def test_a_mirror_that_is_down(primary, opened) -> None:
    """No attempt is repeated there, and its failure is no warning to wait for."""
    add(primary)
    with FaultRegistry() as gone:
        pass
    repository = opened(gone)
    assert pull(repository) == [LAYER, b"small"]


def test_another_digest_of_a_tag(primary, mirror, opened) -> None:
    """What the mirror says of a tag counts, and it is the mirror that has it."""
    old = add(mirrors=(mirror,), layers=[b"old"])
    add(primary)
    repository = opened(mirror)
    assert repository.resolve(AMD64, repository.head()).digest == old.digest


def test_digest_only(primary, mirror, opened) -> None:
    """The primary says what a tag means; the mirror has the bytes."""
    image = add(primary, mirrors=(mirror,))
    repository = opened(Mirror(f"{mirror.host}/hub", pull="digest-only"))
    assert pull(repository) == [LAYER, b"small"]
    assert [r.path.rpartition("/")[2] for r in primary.requests] == ["1"]
    assert mirror.count(f"/manifests/{image.digest}") == 1


def test_tag_only(primary, mirror, opened) -> None:
    """With a digest in the reference it is not asked."""
    image = add(primary, mirrors=(mirror,))
    entry = Mirror(f"{mirror.host}/hub", pull="tag-only")
    assert pull(opened(entry)) == [LAYER, b"small"]
    assert primary.requests == []
    mirror.requests.clear()
    assert opened(entry, uri=f"{primary.host}#team/app:1@{image.digest}").resolve(AMD64).digest == image.digest
    assert mirror.requests == []


@pytest.mark.parametrize("status", [404, 403, 500])
def test_a_blob_that_is_missing(status, primary, mirror, opened) -> None:
    """It is taken from the next endpoint; the manifest is not asked for again."""
    image = add(primary, mirrors=(mirror,))
    mirror.fault(str(image.layers[0].digest), status=status, body=b"")
    repository = opened(mirror)
    assert pull(repository) == [LAYER, b"small"]
    assert [r.path.rpartition("/")[2] for r in primary.requests] == [str(image.layers[0].digest)]
    names = {f"{mirror.host}/hub/team/app", f"{primary.host}/team/app"}
    assert set(repository.served_by.split(", ")) == names


def test_a_blob_that_breaks_off(primary, mirror, opened) -> None:
    """What came is not fetched again: a mirror that went on is asked for the rest, else the next endpoint."""
    image = add(primary, mirrors=(mirror,))
    mirror.fault(str(image.layers[0].digest), times=1, cut=2_000_000)
    assert pull(opened(mirror)) == [LAYER, b"small"]
    assert primary.requests == []
    mirror.fault(str(image.layers[0].digest), cut=1000)
    assert pull(opened(mirror)) == [LAYER, b"small"]
    assert primary.requests[0].headers["Range"] == "bytes=1000-"


def test_errors_tell_of_all(primary, mirror, faulty, opened) -> None:
    """The primary's error, and a line for each mirror with its status and words."""
    other = faulty()
    body = b'{"errors":[{"code":"MANIFEST_UNKNOWN","message":"not cached"}]}'
    mirror.fault("/manifests/", status=404, body=body)
    other.fault("/manifests/", status=503, body=b"")
    with pytest.raises(NotFound) as caught:
        opened(mirror, other).resolve(AMD64)
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"there is no repository {primary.host}/team/app") or "has no tag 1" in first
    assert lines[0].startswith(f"  mirror {mirror.host}/hub/team/app: status 404: ")
    assert "not cached" in lines[0]
    assert lines[1] == f"  mirror {other.host}/hub/team/app: status 503: {other.host} answers 503"
    assert caught.value.message == str(caught.value)


def test_blob_errors_tell_of_all(primary, mirror, opened) -> None:
    image = add(primary, mirrors=(mirror,))
    for each in (mirror, primary):
        each.fault(str(image.layers[0].digest), status=404, body=b"")
    with pytest.raises(NotFound) as caught:
        pull(opened(mirror))
    assert len(str(caught.value).splitlines()) == 2


def test_mirrors_are_asked_when_the_primary_fails(primary, mirror, opened) -> None:
    """One that was of no use is no reason to refuse: it is asked last, once more."""
    image = add(primary, mirrors=(mirror,))
    mirror.fault("/manifests/1", times=2, status=500, body=b"")
    repository = opened(mirror)
    manifest = repository.resolve(AMD64, repository.head())
    assert manifest.digest == image.digest
    primary.fault("/blobs/", status=500, body=b"")
    assert b"".join(repository.blob(image.layers[1])) == b"small"
    assert mirror.count("/blobs/") == 1


def test_an_index_without_the_platform(primary, mirror, opened) -> None:
    """A mirror that has copied other platforms alone is of no use."""
    image = add(primary)
    other = mirror.add_image("hub/team/app", "x", platform="linux/arm64")
    mirror.add_index("hub/team/app", "1", [("linux/arm64", other.digest, "")])
    assert opened(mirror).resolve(AMD64).digest == image.digest
    primary.add_index("team/app", "1", [("linux/arm64", other.digest, "")])
    with pytest.raises(PlatformNotFound):
        opened(mirror).resolve(AMD64)


def test_credentials_stay(faulty, primary, opened, load) -> None:
    """The primary's login, the name in the reference and a default never reach a mirror, even one that asks."""
    primary.auth, primary.users = "basic", {"ann": "secret"}
    mirror = faulty(auth="basic", users={"bob": "pw"})
    add(primary, mirrors=(mirror,))
    credentials = load(f"machine {primary.host} login ann password secret\ndefault login ann password secret\n")
    uri = f"ann@{primary.host}#team/app:1"
    repository = opened(mirror, uri=uri, credentials=credentials)
    assert pull(repository) == [LAYER, b"small"]
    assert mirror.requests
    assert not [r for r in mirror.requests if r.authorization]
    assert not repository.anonymous


def test_a_mirrors_own_login(faulty, primary, opened, load) -> None:
    """It is looked up by the mirror's name; then the image is not anonymous."""
    mirror = faulty(auth="basic", users={"bob": "pw"})
    add(mirrors=(mirror,))
    names: list[str] = []

    def logins(repository: str) -> Credentials:
        names.append(repository)
        return load(f"machine {mirror.host} login bob password pw")

    repository = opened(mirror, logins=logins)
    assert pull(repository) == [LAYER, b"small"]
    assert names == ["hub/team/app"]
    assert primary.requests == []
    assert not repository.anonymous


def test_a_redirect_of_a_mirror(faulty, primary, opened, load) -> None:
    """Neither its own login nor the primary's goes where a mirror leads to."""
    mirror, store = faulty(auth="basic", users={"bob": "pw"}), faulty()
    image = add(primary, mirrors=(mirror,))
    store.add_image("hub/team/app", "1", layers=[LAYER, b"small"])
    mirror.fault("/blobs/", redirect=f"{store.url}/store/{{digest}}")
    logins = load(f"machine {mirror.host} login bob password pw\nmachine {store.host} login c password d")
    assert pull(opened(mirror, logins=lambda _: logins)) == [LAYER, b"small"]
    assert store.count("/store/") == len(image.layers)
    assert not [r for r in store.requests if r.authorization]
    mirror.fault("/manifests/", redirect=f"{primary.url}/v2/team/app/manifests/1")
    primary.auth, primary.users = "basic", {"ann": "secret"}
    with pytest.raises(AccessDenied):
        opened(mirror, logins=lambda _: load(f"machine {primary.host} login ann password secret")).resolve(AMD64)
    assert not [r for r in primary.requests if r.authorization]


def test_ns(primary, mirror, opened) -> None:
    """It is sent with each request to the mirror that wants it, and to nobody else."""
    image = add(primary, mirrors=(mirror,))
    mirror.fault(str(image.layers[0].digest), status=404, body=b"")
    assert pull(opened(Mirror(f"{mirror.host}/hub", ns="docker.io"))) == [LAYER, b"small"]
    assert {tuple(r.query.get("ns", ())) for r in mirror.requests} == {("docker.io",)}
    assert {tuple(r.query.get("ns", ())) for r in primary.requests} == {()}
    mirror.requests.clear()
    pull(opened(mirror))
    assert {tuple(r.query.get("ns", ())) for r in mirror.requests} == {()}


def test_insecure(faulty, authority, opened, primary) -> None:
    """``insecure`` is https without a check, and http where https is not spoken; by itself neither is done."""
    tls, plain = faulty(ca=authority), faulty()
    image = add(primary, mirrors=(tls, plain))
    primary.fault("/manifests/", status=404, body=b"")
    secure = {"transport": {"allow_http": False, "insecure_registries": frozenset({primary.host})}}
    for each in (tls, plain):
        repository = opened(Mirror(f"{each.host}/hub", insecure=True), **secure)
        assert repository.resolve(AMD64).digest == image.digest
        with pytest.raises(NotFound) as caught:
            opened(Mirror(f"{each.host}/hub"), **secure).resolve(AMD64)
        assert f"mirror {each.host}/hub/team/app: " in str(caught.value)


def test_an_insecure_primary(faulty, authority, warnings) -> None:
    registry = faulty(ca=authority)
    image = registry.add_image("team/app", "1")
    reference = Reference.parse(f"docker://{registry.host}#team/app:1")
    endpoints = endpoints_of(reference, [Table(registry.host, registry.host, insecure=True)])
    with Repository(reference, Credentials(), QUICK, warn=warnings.append, endpoints=endpoints) as repository:
        assert repository.head() == image.digest
        assert repository.resolve(AMD64).digest == image.digest


def test_signatures_are_asked_everywhere(primary, mirror, opened) -> None:
    """The mirror's first; then the primary's, which may have more. A tag is none of a digest-only mirror's business."""
    digest = Digest.of(b"x")
    tag = f"sha256-{digest.hex}.sig"
    old, new = mirror.add_image("hub/team/app", tag, layers=[b"old"]), primary.add_image("team/app", tag)
    repository = opened(mirror)
    found = repository.each_document(tag)
    assert next(found) == old.content
    assert primary.requests == []
    assert list(found) == [new.content]
    assert list(opened(Mirror(f"{mirror.host}/hub", pull="digest-only")).each_document(tag)) == [new.content]
    mirror.fault("/manifests/", status=500, body=b"")
    assert list(opened(mirror).each_document(tag)) == [new.content]
    primary.fault("/manifests/", status=404, body=b"")
    assert list(opened(mirror).each_document(tag)) == []
    primary.fault("/manifests/", status=500, body=b"")


def test_no_answer_is_not_no_signature(primary, mirror, opened) -> None:
    """A mirror without signatures says nothing about the primary's."""
    mirror.fault("/manifests/", status=404, body=b"")
    primary.fault("/manifests/", status=500, body=b"")
    repository = opened(mirror)
    with pytest.raises(NetworkError):
        list(repository.each_document(f"sha256-{'0' * 64}.sig"))
    primary.fault("/referrers/", status=500, body=b"")
    with pytest.raises(NetworkError):
        list(repository.referrers(Digest.of(b"x")))
