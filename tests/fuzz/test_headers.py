"""Whatever a registry writes into its headers: an answer is used, or refused by an error of ours."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from support.fault_registry import FaultRegistry

from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import Reference
from enroot_slurm.registry.auth import Login, TokenAnswer
from enroot_slurm.registry.challenge import parse_challenges
from enroot_slurm.registry.client import Repository, Transport
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.encoding import decoded
from enroot_slurm.registry.origin import Origin, RefusedTarget, followed, plain, shown
from enroot_slurm.registry.reach import Reach
from enroot_slurm.registry.retry import come_back, go_duration, retry_after
from enroot_slurm.registry.words import words_of

if TYPE_CHECKING:
    from collections.abc import Iterator

REGISTRY = Origin.of("https://registry.example")
LATIN = st.characters(max_codepoint=255)
TEXT = st.text(LATIN, max_size=200)
HEADER = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n\0"), max_size=100)
"""What can be in a header's line, as http.client gives it."""
HOSTS = st.sampled_from(
    [
        "registry.example",
        "169.254.169.254",
        "[::ffff:127.0.0.1]",
        "localhost",
        "0x7f.1",
        "u:hunter2@h",
        "[",
        "é",
        "a b",
        "",
    ]
)
URLS = st.one_of(
    TEXT,
    st.builds(
        lambda scheme, host, port, path: f"{scheme}{host}{port}{path}",
        st.sampled_from(["https://", "http://", "//", "file://", "https:\\\\", "HTTPS:", "", "/"]),
        HOSTS,
        st.sampled_from(["", ":0", ":443", ":99999", ":x", ":"]),
        TEXT,
    ),
)
CHALLENGES = st.lists(
    st.one_of(
        TEXT,
        st.builds(
            lambda scheme, realm, rest: f'{scheme} realm="{realm}",{rest}',
            st.sampled_from(["Bearer", "bearer", "Basic", "Negotiate", "Digest", ""]),
            URLS,
            TEXT,
        ),
    ),
    max_size=4,
)


@given(CHALLENGES)
def test_challenges(headers: list[str]):
    """Challenges are read in linear time, and a realm is a URL that may be reached, or refused."""
    for challenge in parse_challenges(headers):
        assert challenge.scheme == challenge.scheme.lower()
        with suppress(RefusedTarget):
            url = Reach(REGISTRY).absolute_realm(challenge.params.get("realm", ""))
            target = Reach(REGISTRY).realm(url)
            assert target.scheme == "https"
            assert not target.address or target.address.is_global


@given(CHALLENGES, st.binary(max_size=200), st.integers(100, 599), st.booleans())
@example(
    ['Bearer realm="https://registry.example/t?scope=repository:secret/x:pull&SERVICE=s&Account=a"'], b"", 200, False
)
def test_logins(headers: list[str], body: bytes, status: int, forbidden: bool):
    """Whatever is challenged and answered, only the own scope is asked for, and only of what may be reached."""
    asked: list[str] = []

    def ask(url: str, authorization: str, form: bytes | None) -> TokenAnswer:
        asked.append(url)
        return TokenAnswer(status, {}, body)

    login = Login(REGISTRY, "team/app", "", Credentials(), reach=Reach(REGISTRY), ask=ask, warn=lambda _: None)
    with suppress(EnrootSlurmError):
        login.renew("", headers, forbidden=forbidden)
    for url in asked:
        Reach(REGISTRY).realm(url)
        query = url.partition("?")[2].lower().split("&")
        assert [p for p in query if p.startswith("scope=")] == ["scope=repository%3ateam%2fapp%3apull"]
        assert not any(p.startswith("account=") for p in query)


@given(st.binary(max_size=300) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.sampled_from(["errors", "code", "message", "error", "details", "x"]), inner, max_size=4),
).map(lambda value: json.dumps(value).encode()))  # fmt: skip
def test_words(body: bytes):
    """Bodies of errors become one short line of plain text."""
    words = words_of(body)
    assert len(words.text) <= 1300
    assert words.text.isascii()
    assert not words.text or words.text.isprintable()


DATES = st.datetimes().map(lambda date: date.strftime("%a, %d %b %Y %H:%M:%S -0100"))
TIMES = TEXT | DATES | st.integers().map(str)


@given(st.dictionaries(st.sampled_from(["Retry-After", "X-Retry-After", "Date"]), TIMES))
def test_retry_after(headers: dict[str, str]):
    """A time to wait is no less than none, no more than a year, and can be shown."""
    seconds = retry_after(headers)
    assert 0 <= seconds <= 366 * 86400
    assert come_back(seconds)


@given(TEXT | st.text("0123456789.hmsnuµ", max_size=60).map(lambda t: f"retry-after: {t}"))
def test_go_durations(text: str):
    """Likewise, in words."""
    assert 0 <= go_duration(text) <= 366 * 86400


@given(URLS)
def test_locations(location: str):
    """A redirect is followed to what may be reached, or refused; a login in it is not shown."""
    with suppress(RefusedTarget):
        url = followed("https://registry.example/v2/x", location)
        assert url.isascii()
        assert "hunter2" not in shown(url) or "@" not in url
        target = Reach(REGISTRY).target(url, allow_http=False)
        assert "@" not in target.netloc
        assert 0 < target.port < 65536
    shown(location)


@given(st.ip_addresses(v=6))
def test_addresses(address: Any):
    """Unwrapping an address ends, and what it gives has nothing to unwrap."""
    inner = plain(address)
    assert inner.version == 4 or plain(inner) == inner


@given(st.binary(max_size=200), TEXT | st.sampled_from(["gzip", "deflate", "br", "identity"]))
def test_encodings(content: bytes, encoding: str):
    """A document is decoded, or refused."""
    with suppress(EnrootSlurmError):
        assert len(decoded(content, {"Content-Encoding": encoding}, 1000)) <= 1001 or content


@pytest.fixture(scope="module")
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


RANGES = HEADER | st.builds(
    lambda unit, first, last, size: f"{unit}{first}-{last}/{size}",
    st.sampled_from(["bytes ", "bytes=", "", "Bytes ", "bytes"]),
    *[st.integers(-5, 300) | st.just(10**30)] * 2,
    st.integers(0, 300).map(str) | st.sampled_from(["*", "200", "200", "x"]),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([200, 206, 416, 307, 401, 429, 503]),
    st.dictionaries(
        st.sampled_from(
            ["Content-Range", "Content-Type", "Content-Encoding", "Link", "Location", "Retry-After", "Warning",
             "WWW-Authenticate", "ratelimit-limit", "ratelimit-remaining", "Docker-Content-Digest"]
        ),
        HEADER | RANGES | st.just("text/html") | st.just("0;w=1"),
        max_size=4,
    ),
    st.integers(0, 250),
)  # fmt: skip
def test_answers(registry: FaultRegistry, status: int, headers: dict[str, str], cut: int):
    """Over a real connection: a blob comes whole and right, or not at all; no other error than ours."""
    registry.heal()
    content = bytes(range(200))
    blob = registry.add_blob(content)
    registry.add_image("team/app")
    if status == 307 and "Location" in headers:
        headers["Location"] = f"/{headers['Location']}"
    registry.fault("/v2/", times=2, status=status, headers=headers, cut=cut)
    registry.fault("/v2/", times=1, method="HEAD", status=status, headers=headers)
    transport = Transport(
        2, stall_timeout=2, import_timeout=0.5, retries=2, backoff=0, allow_http=True, proxies_from_env=False
    )
    reference = Reference.parse(f"docker://{registry.host}#team/app")
    with Repository(reference, Credentials(), transport, warn=lambda text: text.encode("ascii")) as repository:
        with suppress(EnrootSlurmError):
            assert b"".join(repository.blob(blob)) == content
        for ask in (repository.head, lambda: repository.resolve(Platform("amd64")), repository.check):
            with suppress(EnrootSlurmError):
                ask()
