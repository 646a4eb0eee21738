"""One budget for a wish: what is asked again, how often, and what HEAD may cost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enroot_slurm.errors import AccessDenied, NetworkError, RateLimited
from enroot_slurm.oci.platform import Platform
from enroot_slurm.registry import retry

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.fault_registry import FaultRegistry

    from enroot_slurm.registry.client import Repository

    Faulty = Callable[..., FaultRegistry]
    Open = Callable[..., Repository]

AMD64 = Platform("amd64")


@pytest.mark.parametrize("retries", [0, 2, 5])
@pytest.mark.parametrize("status", [500, 503, 429])
def test_token_service(faulty: Faulty, open_repository: Open, retries: int, status: int):
    """A token service that fails is asked as often as a registry would be, by HEAD and GET together."""
    registry = faulty(auth="bearer", public=["team/app"])
    image = registry.add_image("team/app")
    registry.fault("/token", status=status)
    repository = open_repository(f"{registry.host}#team/app", retries=retries)
    for wish in (lambda: repository.head() or repository.resolve(AMD64), lambda: list(repository.blob(image.config))):
        registry.requests.clear()
        with pytest.raises(NetworkError, match=registry.host):
            wish()
        assert registry.count("/token") == retries + 1


def test_manifests_share_a_budget(faulty: Faulty, open_repository: Open):
    """HEAD, the index and the manifest that it leads to are one wish."""
    registry = faulty()
    digest = registry.add_image("team/app", "").digest
    registry.add_index("team/app", "latest", [("linux/amd64", digest, "")])
    registry.fault("/manifests/latest", times=2, status=502)
    registry.fault("/manifests/sha256", times=2, status=502)
    with pytest.raises(NetworkError, match="answers 502"):
        open_repository(f"{registry.host}#team/app", retries=3).resolve(AMD64)
    assert registry.count("/manifests/") == 5


def test_blobs_have_their_own(faulty: Faulty, open_repository: Open):
    """Each blob has as many attempts as its manifest, its login included."""
    registry = faulty(auth="bearer", public=["team/app"])
    image = registry.add_image("team/app", layers=[b"a", b"b"])
    repository = open_repository(f"{registry.host}#team/app", retries=2)
    repository.resolve(AMD64)
    for layer in image.layers:
        registry.tokens.clear()
        registry.fault("/token", times=1, status=503)
        registry.fault("/blobs/", times=2, status=503)
        with pytest.raises(NetworkError):
            list(repository.blob(layer))
        registry.heal()
        assert list(repository.blob(layer))


@pytest.mark.parametrize("status", [408, 425, 429, 499, 500, 502, 503, 504, 520, 522, 524, 530])
def test_passing_statuses(faulty: Faulty, open_repository: Open, status: int):
    """Statuses that may pass, of the RFC, of nginx and of Cloudflare."""
    registry = faulty()
    registry.add_image("team/app")
    registry.fault("/manifests/", times=1, status=status, body=b"")
    assert open_repository(f"{registry.host}#team/app", retries=1).resolve(AMD64)


@pytest.mark.parametrize("status", [400, 405, 410, 418, 451, 501, 505])
def test_lasting_statuses(faulty: Faulty, open_repository: Open, status: int):
    """Others do not."""
    registry = faulty()
    registry.add_image("team/app")
    registry.fault("/manifests/", status=status, body=b"")
    with pytest.raises(NetworkError, match=f"answers {status}"):
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert registry.count("/manifests/") == 1


@pytest.mark.parametrize(
    "fault",
    [
        {"status": 500},
        {"status": 503},
        {"status": 404},
        {"status": 405},
        {"status": 401, "headers": {"WWW-Authenticate": 'Basic realm="x"'}},
        {"status": 403},
        {"hang_up": True},
        {"redirect": "http://169.254.169.254/"},
        {"headers": {"Docker-Content-Digest": "nonsense"}},
        {"remove": ["Docker-Content-Digest"]},
    ],
)
def test_head_only_saves_work(faulty: Faulty, open_repository: Open, warnings: list[str], fault: dict[str, object]):
    """A HEAD that fails, in whatever way, costs nothing but itself: no retry, no wait, no word."""
    registry = faulty()
    digest = registry.add_image("team/app").digest
    registry.fault("/manifests/", method="HEAD", **fault)
    repository = open_repository(f"{registry.host}#team/app", retries=0)
    assert repository.head() is None
    assert repository.resolve(AMD64).digest == digest
    assert not warnings
    assert registry.count("/manifests/", method="HEAD") == 1


def test_head_is_told_to_wait(faulty: Faulty, open_repository: Open):
    """Who says "too many requests" is not asked at once in another way."""
    registry = faulty()
    registry.fault("/manifests/", method="HEAD", status=429, headers={"Retry-After": "3600"})
    with pytest.raises(RateLimited, match="come back at"):
        open_repository(f"{registry.host}#team/app").head()
    assert not registry.count("/manifests/")


def test_head_without_a_connection(open_repository: Open, warnings: list[str]):
    """Where there is no connection, GET would not get one either: the attempts are spent once."""
    repository = open_repository("127.0.0.1:1#team/app", retries=2)
    with pytest.raises(NetworkError, match="refused"):
        repository.head()
    assert len(warnings) == 2


# What a registry asks for.


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"Retry-After": "5"}, 5, 5),
        ({"Retry-After": " 5 "}, 5, 5),
        ({"Retry-After": "-3"}, 0, 0),
        ({"Retry-After": "٣"}, 0, 0),
        ({"Retry-After": "9" * 400}, 366 * 86400, 366 * 86400),
        ({"Retry-After": "1e9"}, 0, 0),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 -0100"}, 0, 366 * 86400),
        ({"Retry-After": "Fri, 31 Dec 9999 23:59:59 GMT"}, 366 * 86400, 366 * 86400),
        ({"Retry-After": "Mon, 01 Jan 0001 00:00:00 +0100"}, 0, 0),
        ({"Retry-After": "Thu, 32 Jan 2026 25:61:00 GMT"}, 0, 0),
        ({"Retry-After": "Thu, 01 Jan 2099 00:01:00 GMT", "Date": "Thu, 01 Jan 2099 00:00:00 GMT"}, 60, 60),
        ({"Retry-After": "Thu Jan  1 00:01:00 2099", "Date": "Thu, 01 Jan 2099 00:00:00 GMT"}, 60, 60),
        ({"Retry-After": "Thursday, 01-Jan-60 00:01:00 GMT", "Date": "Thu, 01 Jan 2060 00:00:00 GMT"}, 60, 60),
        ({"X-Retry-After": "{now+90}"}, 80, 90),
    ],
)
def test_retry_after(headers: dict[str, str], low: float, high: float):
    """Seconds, dates in each form by the answer's own clock, times since 1970; a year at most."""
    now = int(retry.time.time())
    headers = {k: v.replace("{now+90}", str(now + 90)) for k, v in headers.items()}
    assert low <= retry.retry_after(headers) <= high
    assert retry.come_back(retry.retry_after(headers)).endswith(" UTC")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("toomanyrequests: retry-after: 1.16ms, allowed: 44000/minute", 0.00116),
        ("retry-after: 333.939671ms, allowed: 44000/minute", 0.333939671),
        ("Retry-After: 1m30.5s", 90.5),
        ("retry-after: 2h", 7200),
        ("retry-after: 5µs", 5e-6),
        ("retry-after: 7", 0),
        ("retry-after: 7sx", 0),
        ("retry-after: soon", 0),
        (f"retry-after: {'9' * 13}h", 0),
        ("", 0),
    ],
)
def test_go_durations(text: str, seconds: float):
    """GHCR says in the message how long to wait, as Go writes it."""
    assert retry.go_duration(text) == pytest.approx(seconds)


def test_ghcr(faulty: Faulty, open_repository: Open, warnings: list[str]):
    """Such an answer is waited for and asked again."""
    registry = faulty()
    registry.add_image("team/app")
    message = "retry-after: 1.16ms, allowed: 44000/minute"
    body = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"%s"}]}' % message.encode()
    registry.fault("/manifests/", times=1, status=429, body=body)
    assert open_repository(f"{registry.host}#team/app", retries=1).resolve(AMD64)
    assert "44000/minute" in warnings[0]
    registry.fault("/manifests/", status=429, body=body.replace(b"1.16ms", b"1h"))
    with pytest.raises(RateLimited, match="come back at"):
        open_repository(f"{registry.host}#team/app", retries=1).resolve(AMD64)


PULLS = b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit. %s"}]}'


@pytest.mark.parametrize("remaining", ["", "0;w=21600"])
def test_pull_limit_of_docker_hub(faulty: Faulty, open_repository: Open, remaining: str):
    """The limit of pulls lasts for hours: no second request, and the message says whose it is and what helps."""
    registry = faulty()
    headers = {"ratelimit-limit": "100;w=21600", "docker-ratelimit-source": "192.0.2.7"}
    headers |= {"ratelimit-remaining": remaining} if remaining else {}
    body = PULLS % b"https://www.docker.com/increase-rate-limit"
    registry.fault("/manifests/", status=429, headers=headers, body=body)
    with pytest.raises(RateLimited, match=r"the pull limit of 100 in 6 h for 192\.0\.2\.7 is used up") as caught:
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert "Log in" in caught.value.hint
    assert "mirror" in caught.value.hint
    assert registry.count("/manifests/") == 1


def test_pull_limit_with_an_end(faulty: Faulty, open_repository: Open):
    """Where its end is stated, that is told."""
    registry = faulty()
    registry.fault("/manifests/", status=429, headers={"Retry-After": "3600"}, body=PULLS % b"")
    with pytest.raises(
        RateLimited, match=r"the pull limit is used up until \d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC"
    ) as caught:
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert str(caught.value).count("UTC") == 1
    assert registry.count("/manifests/") == 1


def test_abuse_limit_of_docker_hub(faulty: Faulty, open_repository: Open):
    """The limit of requests is another one: seconds help, a login does not."""
    registry = faulty()
    registry.add_image("team/app")
    registry.fault("/manifests/", times=2, status=429, body=b"Too Many Requests\n")
    assert open_repository(f"{registry.host}#team/app", retries=2).resolve(AMD64)
    registry.fault("/manifests/", status=429, body=b"Too Many Requests\n")
    with pytest.raises(RateLimited) as caught:
        open_repository(f"{registry.host}#team/app", retries=2).resolve(AMD64)
    assert "Log in" not in caught.value.hint


def test_refused_realm_is_not_retried(faulty: Faulty, open_repository: Open):
    """A place to log in that is refused is refused once."""
    registry = faulty(auth="bearer", challenges=['Bearer realm="http://169.254.169.254/"'])
    with pytest.raises(AccessDenied):
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert len(registry.requests) == 1
