"""Blobs over connections that break, and registries that answer something else than was asked for."""

from __future__ import annotations

import hashlib
import threading
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest

from enroot_slurm.errors import AccessDenied, IntegrityError, NetworkError, NotFound, RateLimited
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import Descriptor
from enroot_slurm.registry import retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.fault_registry import FaultRegistry, Reply

    from enroot_slurm.registry.client import Repository

    Faulty = Callable[..., FaultRegistry]
    Open = Callable[..., Repository]

CONTENT = bytes(i * 7 % 251 for i in range(3_000_000))


@pytest.fixture
def registry(faulty: Faulty) -> FaultRegistry:
    return faulty()


@pytest.fixture
def blob(registry: FaultRegistry) -> Descriptor:
    return registry.add_blob(CONTENT)


@pytest.fixture
def repository(registry: FaultRegistry, open_repository: Open) -> Repository:
    return open_repository(f"{registry.host}#team/app")


def fetch(repository: Repository, descriptor: Descriptor) -> bytes:
    return b"".join(repository.blob(descriptor))


def test_whole(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A blob arrives as it is, with one GET and no HEAD (public.ecr.aws refuses that)."""
    assert fetch(repository, blob) == CONTENT
    assert registry.count("/blobs/") == 1
    assert registry.count("", method="HEAD") == 0


def test_pieces_are_bounded(repository: Repository, blob: Descriptor):
    """No piece is larger than 1 MiB."""
    pieces = list(repository.blob(blob))
    assert b"".join(pieces) == CONTENT
    assert max(map(len, pieces)) <= 1 << 20


def test_empty(repository: Repository, registry: FaultRegistry):
    """A blob of no bytes needs no request."""
    assert fetch(repository, registry.add_blob(b"")) == b""


def test_identity_encoding(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Bodies are asked for as they are: a decoded one has another digest."""
    fetch(repository, blob)
    assert registry.requests[-1].headers.get_all("Accept-Encoding") == ["identity"]
    assert registry.requests[-1].headers["User-Agent"].startswith("enroot-slurm/")


def test_content_encoding_is_not_decoded(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """What is labelled gzip by a store that stored it so is left alone."""
    registry.fault("/blobs/", headers={"Content-Encoding": "gzip"})
    assert fetch(repository, blob) == CONTENT


@pytest.mark.parametrize("length", ["none", "chunked"])
def test_no_content_length(repository: Repository, registry: FaultRegistry, blob: Descriptor, length: str):
    """The descriptor's size decides when the registry states no length."""
    registry.fault("/blobs/", length=length)
    assert fetch(repository, blob) == CONTENT


@pytest.mark.parametrize("length", ["", "none", "chunked"])
def test_resume(repository: Repository, registry: FaultRegistry, blob: Descriptor, length: str):
    """After a cut the rest alone is asked for, from the first byte that is missing."""
    registry.fault("/blobs/", times=1, cut=1_234_567, length=length)
    assert fetch(repository, blob) == CONTENT
    first, second = registry.matching("/blobs/")
    assert first.headers["Range"] is None
    start = int(second.headers["Range"].removeprefix("bytes=").removesuffix("-"))
    assert 1_200_000 < start <= 1_234_567
    assert second.status == 206


def test_resume_many_times(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Attempts that bring a MiB or more don't count against the retries."""
    big = registry.add_blob(CONTENT * 4)
    registry.fault("/blobs/", times=8, cut=1_100_000)
    assert fetch(repository, big) == CONTENT * 4
    assert registry.count("/blobs/") == 9


def test_no_progress_gives_up(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Attempts without progress end after the retries, with how far it came."""
    registry.fault("/blobs/", cut=0)
    with pytest.raises(NetworkError):
        fetch(repository, blob)
    assert registry.count("/blobs/") == 4


def test_ignored_range_is_not_appended(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """An answer 200 to a Range request starts at the beginning, so what is known is skipped."""
    registry.fault("/blobs/", times=1, cut=1_000_000)
    registry.fault("/blobs/", ignore_range=True)
    assert fetch(repository, blob) == CONTENT


def test_waste_is_bounded(open_repository: Open, registry: FaultRegistry, blob: Descriptor, monkeypatch):
    """A registry that can't resume and always breaks is given up before too much was dropped."""
    monkeypatch.setattr("enroot_slurm.registry.download._SPARE", 0)
    cuts = iter(range(1_100_000, 9_000_000, 60_000))

    def cut(reply: Reply) -> None:
        reply.headers.append(("Content-Length", str(len(reply.body))))
        reply.body = reply.body[: next(cuts)]

    registry.fault("/blobs/", ignore_range=True, call=cut, cut=9_000_000)
    repository = open_repository(f"{registry.host}#team/app", retries=50)
    with pytest.raises(NetworkError, match="does not send the rest"):
        fetch(repository, blob)


@pytest.mark.parametrize("span", ["bytes 0-2999999/3000000", "bytes 5-2999999/3000000", "nonsense", ""])
def test_wrong_content_range_is_not_appended(
    repository: Repository, registry: FaultRegistry, blob: Descriptor, span: str
):
    """A part that does not begin where the last one ended is not used; the blob is asked for as a whole."""
    registry.fault("/blobs/", times=1, cut=1_000_000)
    registry.fault("/blobs/", times=1, headers={"Content-Range": span})
    assert fetch(repository, blob) == CONTENT
    assert registry.matching("/blobs/")[-1].headers["Range"] is None


@pytest.mark.parametrize("unit", ["bytes ", "bytes=", ""])
@pytest.mark.parametrize("status", [200, 206])
def test_odd_parts(repository: Repository, registry: FaultRegistry, blob: Descriptor, unit: str, status: int):
    """A part is one by its Content-Range, whatever the status says, and however the unit is written (Nexus: not)."""
    registry.fault("/blobs/", times=1, cut=1_000_000)
    headers = {"Content-Range": f"{unit}1000000-2999999/3000000"}
    registry.fault("/blobs/", times=1, status=status, headers=headers)
    assert fetch(repository, blob) == CONTENT
    assert registry.count("/blobs/") == 2


def test_part_in_place_of_all(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A 200 that has only the first part is continued where it ends."""
    headers = {"Content-Range": "bytes 0-999999/3000000"}
    registry.fault("/blobs/", times=1, body=CONTENT[:1_000_000], headers=headers)
    assert fetch(repository, blob) == CONTENT
    assert registry.matching("/blobs/")[-1].headers["Range"] == "bytes=1000000-"


def test_content_range_of_another_size(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A part of something that has another size is refused."""
    registry.fault("/blobs/", times=1, cut=1_000_000)
    registry.fault("/blobs/", headers={"Content-Range": "bytes 1000000-2999999/4000000"})
    with pytest.raises(IntegrityError, match="3000000 bytes, the registry has"):
        fetch(repository, blob)


def test_unasked_part(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A 206 that nobody asked for is no whole blob."""
    registry.fault("/blobs/", status=206, headers={"Content-Range": "bytes 7-2999999/3000000"})
    with pytest.raises(NetworkError, match="another part"):
        fetch(repository, blob)


def test_unsatisfiable_range_starts_over(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """416 is followed by one request for the whole."""
    registry.fault("/blobs/", times=1, cut=1_000_000)
    registry.fault("/blobs/", times=1, status=416, body=b"")
    assert fetch(repository, blob) == CONTENT
    assert registry.count("/blobs/") == 3


@pytest.mark.parametrize("length", ["", "none", "chunked"])
def test_too_many_bytes(repository: Repository, registry: FaultRegistry, blob: Descriptor, length: str):
    """More bytes than the manifest says are refused, not cut off."""
    registry.fault("/blobs/", extra=b"!", length=length)
    with pytest.raises(IntegrityError, match="3000000 bytes, the registry has"):
        fetch(repository, blob)


def test_too_few_bytes(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A blob that is shorter than the manifest says is refused."""
    longer = blob._replace(size=blob.size + 1)
    with pytest.raises(IntegrityError, match="3000001 bytes, the registry has fewer"):
        fetch(repository, longer)


def test_stalled_connection(open_repository: Open, registry: FaultRegistry, blob: Descriptor):
    """A connection on which nothing comes is given up and the blob resumed."""
    gate = threading.Event()
    registry.fault("/blobs/", times=1, stall=gate, after=500_000)
    repository = open_repository(f"{registry.host}#team/app", stall_timeout=0.2)
    try:
        assert fetch(repository, blob) == CONTENT
    finally:
        gate.set()
    assert registry.matching("/blobs/")[-1].headers["Range"] == "bytes=500000-"


def test_transfer_timeout(open_repository: Open, registry: FaultRegistry, blob: Descriptor):
    """A blob that takes too long in all is given up, whatever the retries."""
    gate = threading.Event()
    registry.fault("/blobs/", stall=gate, after=100)
    repository = open_repository(f"{registry.host}#team/app", transfer_timeout=0.3, retries=1000)
    try:
        with pytest.raises(NetworkError, match="not complete in time") as caught:
            fetch(repository, blob)
    finally:
        gate.set()
    assert "transfer_timeout" in caught.value.hint


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
def test_passing_status(repository: Repository, registry: FaultRegistry, blob: Descriptor, status: int):
    """Failures that may pass are tried again."""
    registry.fault("/blobs/", times=2, status=status, body=b"{}")
    assert fetch(repository, blob) == CONTENT
    assert registry.count("/blobs/") == 3


def test_lasting_status(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Other failures are not, and say what the registry said, without control characters."""
    body = b'{"errors":[{"code":"UNSUPPORTED","message":"no\\u001b[31m way"},{"code":"X"}]}'
    registry.fault("/blobs/", status=400, body=body)
    with pytest.raises(NetworkError, match=r"answers 400 \(UNSUPPORTED: no\\x1b\[31m way\)"):
        fetch(repository, blob)
    assert registry.count("/blobs/") == 1


def test_missing_blob(repository: Repository):
    """A blob that is gone is not found."""
    with pytest.raises(NotFound, match="does not have blob sha256:0000"):
        fetch(repository, Descriptor("x", Digest("sha256", "0" * 64), 5))


@pytest.mark.parametrize("form", ["seconds", "date"])
def test_retry_after(repository: Repository, registry: FaultRegistry, blob: Descriptor, form: str, monkeypatch):
    """Retry-After is waited for, in both of its forms."""
    waits: list[float] = []
    now = retry.time.time()
    monkeypatch.setattr(retry.time, "sleep", waits.append)
    monkeypatch.setattr(retry.time, "time", lambda: now + sum(waits))
    value = "7" if form == "seconds" else formatdate(retry.time.time() + 60, usegmt=True)
    registry.fault("/blobs/", times=1, status=429, headers={"Retry-After": value})
    assert fetch(repository, blob) == CONTENT
    assert len(waits) == 1
    assert waits[0] >= (7 if form == "seconds" else 50)


def test_retry_after_too_long(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Who asks to wait for more than two minutes is not waited for; the message says until when."""
    registry.fault("/blobs/", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(RateLimited, match=r"come back at \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC") as caught:
        fetch(repository, blob)
    assert "login" not in str(caught.value)
    assert registry.count("/blobs/") == 1


def test_nothing_left(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """With ratelimit-remaining 0 and no time stated, it is not asked again."""
    headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "0;w=21600"}
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your pull rate limit."}]}'
    registry.fault("/blobs/", status=429, headers=headers, body=body)
    with pytest.raises(
        RateLimited, match=r"the pull limit of 100 in 6 h is used up \(TOOMANYREQUESTS: You have"
    ) as caught:
        fetch(repository, blob)
    assert "credentials file" in caught.value.hint
    assert registry.count("/blobs/") == 1


def test_rate_limit_to_the_end(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A limit that does not pass within the retries ends as one."""
    registry.fault("/blobs/", status=429)
    with pytest.raises(RateLimited):
        fetch(repository, blob)
    assert registry.count("/blobs/") == 4


@pytest.mark.parametrize(
    ("text", "seconds"), [("5", 5), ("", 0), ("soon", 0), ("-3", 0), ("Thu, 01 Jan 1970 00:00:00 GMT", 0)]
)
def test_retry_after_values(text: str, seconds: float):
    """Values that can't be understood, or are past, ask for nothing."""
    assert retry.retry_after({"Retry-After": text}) == seconds


def test_full_jitter(monkeypatch):
    """Delays lie between none and a bound that doubles up to 30 s."""
    bounds: list[float] = []
    monkeypatch.setattr(retry.random, "uniform", lambda low, high: bounds.append(high) or low)
    monkeypatch.setattr(retry.time, "sleep", lambda seconds: None)
    told: list[str] = []
    retries = retry.Retries(7, 1.0, told.append)
    for _ in range(7):
        retries.wait(retry.Passing("x"))
    assert bounds == [1, 2, 4, 8, 16, 30, 30]
    assert told[0] == "x; trying again in 0.0 s (1 of 7)"
    assert len(told) == 7
    with pytest.raises(NetworkError):
        retries.wait(retry.Passing("x"))


def test_many_threads(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Threads share the connections, which are kept."""
    blobs = [registry.add_blob(bytes([i]) * 300_000) for i in range(24)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda d: hashlib.sha256(fetch(repository, d)).hexdigest(), blobs))
    assert results == [d.digest.hex for d in blobs]
    assert registry.connections <= 4


def test_abandoned(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """A blob that is not read to its end harms nobody."""
    pieces = repository.blob(blob)
    next(pieces)
    pieces.close()
    assert fetch(repository, blob) == CONTENT


def test_sha512(repository: Repository, registry: FaultRegistry):
    """A descriptor may be of another algorithm than sha256."""
    digest = Digest.of(b"config", "sha512")
    registry.fault("sha512", status=200, body=b"config")
    assert b"".join(repository.blob(Descriptor("x", digest, 6))) == b"config"


# Redirects.


def test_redirect_drops_authorization(faulty: Faulty, open_repository: Open, load):
    """Another port is another place: it gets no Authorization (S3 and Azure refuse requests that have one)."""
    store = faulty()
    registry = faulty(auth="basic", users={"ann": "pw"})
    registry.fault("/blobs/", redirect=f"{store.url}/store/{{digest}}?signed=1")
    registry.add_image("team/app")
    blob = store.add_blob(CONTENT)
    repository = open_repository(f"{registry.host}#team/app", load(f"machine {registry.host} login ann password pw"))
    assert fetch(repository, blob) == CONTENT
    assert registry.requests[-1].scheme == "Basic"
    assert [r.authorization for r in store.requests] == [""]


def test_redirect_within_keeps_authorization(faulty: Faulty, open_repository: Open, load):
    """A relative redirect stays at the registry, and logged in (Google's Artifact Registry)."""
    registry = faulty(auth="basic", users={"ann": "pw"})
    blob = registry.add_blob(CONTENT)
    registry.fault(rf"/team/app/blobs/{blob.digest}", redirect="/v2/team/other/blobs/{digest}")
    repository = open_repository(f"{registry.host}#team/app", load(f"machine {registry.host} login ann password pw"))
    assert fetch(repository, blob) == CONTENT
    assert registry.requests[-1].path.startswith("/v2/team/other/")


def test_resume_asks_the_registry_again(faulty: Faulty, open_repository: Open):
    """After a cut at the store, the registry is asked for a new link: the old one may have expired."""
    store, registry = faulty(), faulty()
    blob = store.add_blob(CONTENT)
    registry.fault("/blobs/", redirect=f"{store.url}/store/{{digest}}")
    store.fault("/store/", times=1, cut=1_000_000)
    assert fetch(open_repository(f"{registry.host}#team/app"), blob) == CONTENT
    assert registry.count("/blobs/") == 2
    assert store.requests[-1].headers["Range"].startswith("bytes=")


@pytest.mark.parametrize("status", [401, 403])
def test_expired_link(faulty: Faulty, open_repository: Open, status: int):
    """A store's refusal is answered with a new link, never with a login."""
    store, registry = faulty(), faulty()
    blob = store.add_blob(CONTENT)
    registry.fault("/blobs/", redirect=f"{store.url}/store/{{digest}}")
    store.fault("/store/", times=1, status=status, headers={"WWW-Authenticate": 'Basic realm="give"'})
    assert fetch(open_repository(f"{registry.host}#team/app"), blob) == CONTENT
    assert all(not r.authorization for r in store.requests)


def test_redirect_loop(repository: Repository, registry: FaultRegistry, blob: Descriptor):
    """Five redirects are followed, not more."""
    registry.fault("/blobs/", redirect="/v2/team/app/blobs/{digest}")
    with pytest.raises(NetworkError, match="redirects more than 5 times"):
        fetch(repository, blob)
    assert registry.count("/blobs/") == 6


@pytest.mark.parametrize(
    "target",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://[fe80::1]/",
        "http://[::ffff:169.254.169.254]/",
        "http://2852039166/",
        "http://metadata.google.internal/",
        "http://[fd00:ec2::254]/",
        "http://0.0.0.0/",
        "file:///etc/passwd",
        "http://user:pw@127.0.0.1/",
        "gopher://x/",
    ],
)
def test_refused_redirects(repository: Repository, registry: FaultRegistry, blob: Descriptor, target: str):
    """Nobody is sent to link-local addresses, metadata services and other schemes."""
    registry.fault("/blobs/", redirect=target)
    with pytest.raises(AccessDenied, match=r"redirects to .* which is refused"):
        fetch(repository, blob)
