"""Logging in: the dance with challenges and tokens, and who gets which credentials."""

from __future__ import annotations

import json
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

import pytest

from enroot_slurm.errors import AccessDenied, ConfigError, NetworkError, NotFound
from enroot_slurm.oci.platform import Platform
from enroot_slurm.registry.auth import Login, TokenAnswer
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.registry.origin import Origin
from enroot_slurm.registry.reach import Reach

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.fault_registry import FaultRegistry

    from enroot_slurm.registry.client import Repository

    Faulty = Callable[..., FaultRegistry]
    Open = Callable[..., Repository]
    Load = Callable[..., Credentials]

AMD64 = Platform("amd64")
USERS = {"ann": "hunter2"}


def line(registry: FaultRegistry, password: str = "hunter2") -> str:
    return f"machine {registry.host} login ann password {password}\n"


def test_open_registry(faulty: Faulty, open_repository: Open):
    """Who asks for nothing is sent nothing."""
    registry = faulty()
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app")
    repository.resolve(AMD64)
    assert repository.anonymous
    assert not registry.requests[0].authorization


def test_basic(faulty: Faulty, open_repository: Open, load: Load):
    """Basic is answered with the registry's credentials, from then on at once."""
    registry = faulty(auth="basic", users=USERS)
    image = registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    assert repository.anonymous
    manifest = repository.resolve(AMD64)
    assert not repository.anonymous
    b"".join(repository.blob(manifest.config))
    assert [r.scheme for r in registry.requests] == ["", "Basic", "Basic"]
    assert manifest.digest == image.digest


def test_basic_without_credentials(faulty: Faulty, open_repository: Open):
    """Without credentials the error names the line to add."""
    registry = faulty(auth="basic", users=USERS)
    registry.add_image("team/app")
    with pytest.raises(AccessDenied, match="does not let us read team/app") as caught:
        open_repository(f"bob@{registry.host}#team/app").resolve(AMD64)
    assert f"machine {registry.host} login bob password ..." in caught.value.hint
    assert len(registry.requests) == 1


def test_basic_wrong_password(faulty: Faulty, open_repository: Open, load: Load):
    """With wrong credentials it names their source, and never the secret."""
    registry = faulty(auth="basic", users=USERS)
    registry.add_image("team/app")
    with pytest.raises(AccessDenied, match=r"with the credentials of .*\.credentials:1") as caught:
        open_repository(f"{registry.host}#team/app", load(line(registry, "sesame"))).resolve(AMD64)
    assert "sesame" not in f"{caught.value} {caught.value.hint}"
    assert len(registry.requests) == 2


def test_token(faulty: Faulty, open_repository: Open, load: Load):
    """A token is got once, with service, scope and account, and used for all that follows."""
    registry = faulty(auth="bearer", users=USERS)
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    b"".join(repository.blob(repository.resolve(AMD64).config))
    (asked,) = registry.matching("/token")
    assert asked.query == {"service": ["test"], "scope": ["repository:team/app:pull"], "account": ["ann"]}
    assert asked.scheme == "Basic"
    assert [r.scheme for r in registry.matching("/v2/")] == ["", "Bearer", "Bearer"]
    assert not repository.anonymous


def test_anonymous_token(faulty: Faulty, open_repository: Open):
    """Public images need a token, too, but no credentials (Docker Hub)."""
    registry = faulty(auth="bearer", public=["team/app"])
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app")
    repository.resolve(AMD64)
    (asked,) = registry.matching("/token")
    assert asked.query == {"service": ["test"], "scope": ["repository:team/app:pull"]}
    assert not asked.authorization
    assert repository.anonymous


@pytest.mark.parametrize(
    ("challenges", "query"),
    [
        (['Bearer realm="{realm}"'], {"scope": ["repository:team/app:pull"]}),
        (
            ['Bearer realm="{realm}?tenant=1",service=s'],
            {"tenant": ["1"], "service": ["s"], "scope": ["repository:team/app:pull"]},
        ),
        (["Negotiate", 'Basic realm="x"', 'bearer Realm="{realm}"'], {"scope": ["repository:team/app:pull"]}),
        (['Basic realm="x", Bearer realm="{realm}"'], {"scope": ["repository:team/app:pull"]}),
        (['Bearer realm="http://169.254.169.254/", Bearer realm="{realm}"'], {"scope": ["repository:team/app:pull"]}),
        (['Bearer realm="{realm}",scope="registry:catalog:*"'], {"scope": ["repository:team/app:pull"]}),
        (['Bearer realm="{realm}",scope="repository:victim/app:pull,push"'], {"scope": ["repository:team/app:pull"]}),
        (
            ['Bearer realm="{realm}?Scope=repository:victim/app:pull&service=x&account=eve&tenant=1",service=s'],
            {"tenant": ["1"], "service": ["s"], "scope": ["repository:team/app:pull"]},
        ),
        (['Bearer realm="/token",service=s'], {"service": ["s"], "scope": ["repository:team/app:pull"]}),
    ],
)
def test_challenges(faulty: Faulty, open_repository: Open, challenges: list[str], query: dict[str, list[str]]):
    """Scope and service may be missing; the realm may have a query; Bearer goes before Basic, wherever it stands."""
    registry = faulty(auth="bearer", public=["team/app"], challenges=challenges)
    registry.add_image("team/app")
    open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert registry.matching("/token")[0].query == query


@pytest.mark.parametrize("challenges", [["Negotiate"], ["Digest realm=x", "NTLM"]])
def test_unsupported_challenges(faulty: Faulty, open_repository: Open, challenges: list[str]):
    """Other schemes are named in the error."""
    registry = faulty(auth="basic", challenges=challenges)
    registry.add_image("team/app")
    with pytest.raises(AccessDenied, match=r"none is supported") as caught:
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert caught.value.hint == "Supported are Basic and Bearer. Ask whoever runs it."


def test_no_challenge_at_all(faulty: Faulty, open_repository: Open):
    """A line of credentials would not help, so none is proposed."""
    registry = faulty()
    registry.add_image("team/app")
    registry.fault("/v2/", status=401)
    with pytest.raises(AccessDenied, match=r"team/app to be read.*, and how to log in it does not say") as caught:
        open_repository(f"{registry.host}#team/app").resolve(AMD64)
    assert "machine" not in caught.value.hint


@pytest.mark.parametrize("realm", ["http://169.254.169.254/x", "", "file:///etc/passwd", "http://u:p@127.0.0.1/"])
def test_refused_realm(faulty: Faulty, open_repository: Open, load: Load, realm: str):
    """Nothing is sent to a realm that is refused."""
    registry = faulty(auth="bearer", challenges=[f'Bearer realm="{realm}"'])
    registry.add_image("team/app")
    with pytest.raises(AccessDenied, match="names a place to log in that is refused"):
        open_repository(f"{registry.host}#team/app", load(line(registry))).resolve(AMD64)


@pytest.mark.parametrize("answer", [{"token": None, "access_token": ""}, {"access_token": ""}, {"expires_in": None}])
def test_token_answers(faulty: Faulty, open_repository: Open, answer: dict[str, object]):
    """`access_token` is as good as `token`; `expires_in` may be missing."""
    registry = faulty(auth="bearer", public=["team/app"], token_answer=answer)
    registry.add_image("team/app")
    assert open_repository(f"{registry.host}#team/app").resolve(AMD64)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"token": 5}',
        b'{"token": "a\\r\\nX: y"}',
        b"[" * 100_000,
        b'{"token":"x"}' + b" " * (1 << 20),
    ],
)
def test_bad_token_answers(faulty: Faulty, open_repository: Open, body: bytes):
    """What is not a token, or larger than 1 MiB, is refused."""
    registry = faulty(auth="bearer", public=["team/app"])
    registry.add_image("team/app")
    registry.fault("/token", body=body)
    with pytest.raises(NetworkError, match="not a token"):
        open_repository(f"{registry.host}#team/app").resolve(AMD64)


def test_token_service_fails(faulty: Faulty, open_repository: Open):
    """A token service that fails is asked again; one that has no such page is named."""
    registry = faulty(auth="bearer", public=["team/app"])
    registry.add_image("team/app")
    registry.fault("/token", times=2, status=503)
    assert open_repository(f"{registry.host}#team/app").resolve(AMD64)
    registry.fault("/token", status=404)
    with pytest.raises(AccessDenied, match="where to log in, answers 404"):
        open_repository(f"{registry.host}#team/app").resolve(AMD64)


def test_expiry_in_mid_download(faulty: Faulty, open_repository: Open, load: Load):
    """A token that expires between two attempts is renewed, once."""
    registry = faulty(auth="bearer", users=USERS)
    content = bytes(2_000_000)
    image = registry.add_image("team/app", layers=[content])
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    repository.resolve(AMD64)
    registry.fault("/blobs/", times=1, cut=1_500_000)
    pieces = repository.blob(image.layers[0])
    first = next(pieces)
    registry.tokens.clear()
    assert first + b"".join(pieces) == content
    assert registry.count("/token") == 2


def test_many_threads_renew_once(faulty: Faulty, open_repository: Open, load: Load):
    """Threads that find the token expired get one new token together."""
    registry = faulty(auth="bearer", users=USERS)
    image = registry.add_image("team/app", layers=[bytes([i]) * 50_000 for i in range(8)])
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    repository.resolve(AMD64)
    registry.tokens.clear()
    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(lambda d: b"".join(repository.blob(d)), image.layers))
    assert registry.count("/token") == 2


def test_short_lived_token_is_renewed_in_time(faulty: Faulty, open_repository: Open):
    """A token is not used beyond the time that its service has stated."""
    registry = faulty(auth="bearer", public=["team/app"], token_answer={"expires_in": 1e-9})
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app")
    repository.resolve(AMD64)
    repository.resolve(AMD64)
    assert registry.count("/manifests/", status=401) == 1
    assert registry.count("/token") >= 2


def test_rejected_login_but_public(faulty: Faulty, open_repository: Open, load: Load, warnings: list[str]):
    """Credentials that the token service rejects don't keep anyone from a public image; a warning says so."""
    registry = faulty(auth="bearer", users=USERS, public=["team/app"])
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", load(line(registry, "sesame")))
    repository.resolve(AMD64)
    assert repository.anonymous
    (warning,) = warnings
    assert "rejects the credentials of" in warning
    assert ".credentials:1" in warning
    assert "sesame" not in warning


def test_rejected_login_and_private(faulty: Faulty, open_repository: Open, load: Load, warnings: list[str]):
    """For a private one they are the error."""
    registry = faulty(auth="bearer", users=USERS)
    registry.add_image("team/app")
    with pytest.raises(AccessDenied, match=r"rejects the credentials of .*\.credentials:1"):
        open_repository(f"{registry.host}#team/app", load(line(registry, "sesame"))).resolve(AMD64)
    assert not warnings


@pytest.mark.parametrize("status", [401, 403])
def test_login_without_rights_but_public(faulty: Faulty, open_repository: Open, load: Load, status: int):
    """A token that the registry does not accept is followed by one try without credentials."""
    registry = faulty(auth="bearer", users=USERS, public=["team/app"])
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))

    registry.fault("/manifests/", times=1, status=401, headers={"WWW-Authenticate": f'Bearer realm="{registry.realm}"'})
    registry.fault(
        "/manifests/", times=1, status=status, headers={"WWW-Authenticate": f'Bearer realm="{registry.realm}"'}
    )
    repository.resolve(AMD64)
    assert repository.anonymous
    assert [r.scheme for r in registry.matching("/token")] == ["Basic", ""]


@pytest.mark.parametrize("error", ["", ',error="insufficient_scope"'])
def test_only_the_own_scope(faulty: Faulty, open_repository: Open, load: Load, error: str):
    """Whatever the registry asks for, a token is got for the repository that the user has named, to be pulled."""
    registry = faulty(auth="bearer", users=USERS)
    registry.add_image("team/app")
    wants = f'Bearer realm="{registry.realm}",scope="repository:base/x:pull"{error}'
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    registry.fault("/manifests/", times=1, status=401, headers={"WWW-Authenticate": wants})
    registry.fault("/manifests/", times=1, status=403, headers={"WWW-Authenticate": wants})
    with pytest.raises(AccessDenied):
        repository.resolve(AMD64)
    assert {s for r in registry.matching("/token") for s in r.query["scope"]} == {"repository:team/app:pull"}


def test_endless_refusal(faulty: Faulty, open_repository: Open, load: Load):
    """A registry that is never content is not asked for ever."""
    registry = faulty(auth="bearer", users=USERS, public=["team/app"])
    registry.add_image("team/app")
    registry.fault("/manifests/", status=401, headers={"WWW-Authenticate": f'Bearer realm="{registry.realm}"'})
    with pytest.raises(AccessDenied):
        open_repository(f"{registry.host}#team/app", load(line(registry))).resolve(AMD64)
    assert len(registry.requests) < 10


@pytest.mark.parametrize("status", [0, 404, 405])
def test_identity_token(faulty: Faulty, open_repository: Open, load: Load, status: int):
    """The login `<token>` marks a refresh token (az acr login): POST, or GET where there is no POST."""
    registry = faulty(auth="bearer", users={"<token>": "refresh"})
    registry.refresh_tokens["refresh"] = "ann"
    registry.add_image("team/app")
    if status:
        registry.fault("/token", method="POST", status=status)
    open_repository(
        f"{registry.host}#team/app", load(f"machine {registry.host} login <token> password refresh")
    ).resolve(AMD64)
    (posted,) = registry.matching("/token", method="POST")
    assert dict(p.split("=") for p in posted.body.decode().split("&")) == {
        "grant_type": "refresh_token",
        "service": "test",
        "scope": "repository%3Ateam%2Fapp%3Apull",
        "client_id": "enroot-slurm",
        "refresh_token": "refresh",
    }
    assert registry.count("/token") == bool(status)


def test_commands_off_but_public(faulty: Faulty, open_repository: Open, load: Load):
    """A password that may not be evaluated is no obstacle to a public image."""
    registry = faulty(auth="bearer", users=USERS, public=["team/app"])
    registry.add_image("team/app")
    registry.add_image("team/private")
    credentials = load(line(registry, "$(echo hunter2)"))
    assert open_repository(f"{registry.host}#team/app", credentials).resolve(AMD64)
    with pytest.raises(AccessDenied, match="credential_commands"):
        open_repository(f"{registry.host}#team/private", credentials).resolve(AMD64)


def test_command_evaluated(faulty: Faulty, open_repository: Open, load: Load):
    """With commands on, the command's output logs in; a command that fails is the error."""
    registry = faulty(auth="basic", users=USERS)
    registry.add_image("team/app")
    good = load(line(registry, "$(echo hunter2)"), run_commands=True)
    assert open_repository(f"{registry.host}#team/app", good).resolve(AMD64)
    bad = open_repository(f"{registry.host}#team/app", load(line(registry, "$(exit 1)"), run_commands=True))
    with pytest.raises(ConfigError, match="ended with status 1"):
        bad.resolve(AMD64)


# Logins that nobody has asked for, and those at another registry.


@pytest.mark.parametrize("hidden", [403, 404])
@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_hidden(faulty: Faulty, open_repository: Open, load: Load, auth: str, hidden: int):
    """Where strangers are told that there is nothing, the challenge of /v2/ is taken, once, if there is a login."""
    registry = faulty(auth=auth, users=USERS, hidden=hidden)
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    digest = repository.head()
    manifest = repository.resolve(AMD64)
    assert manifest.digest == digest
    b"".join(repository.blob(manifest.config))
    assert registry.count("/v2/$") == 1
    assert not repository.anonymous


def test_rule_after_a_login(faulty: Faulty, open_repository: Open, load: Load):
    """A refusal after the login was accepted is not the password's fault."""
    registry = faulty(auth="basic", users=USERS)
    config = registry.add_image("team/app").config
    repository = open_repository(f"{registry.host}#team/app", load(line(registry)))
    repository.resolve(AMD64)
    registry.fault("/blobs/", status=403, body=b'{"message":"quarantined"}')
    with pytest.raises(AccessDenied, match=r"\(quarantined\), although it has accepted the login of") as caught:
        list(repository.blob(config))
    assert "password" not in caught.value.hint


def test_hidden_and_wrong(faulty: Faulty, open_repository: Open, load: Load):
    """A wrong password is the error then; without a login, nothing is asked for at /v2/."""
    registry = faulty(auth="basic", users=USERS, hidden=404)
    registry.add_image("team/app")
    with pytest.raises(AccessDenied, match=r"\.credentials:1"):
        open_repository(f"{registry.host}#team/app", load(line(registry, "sesame"))).resolve(AMD64)
    registry.requests.clear()
    with pytest.raises(NotFound):
        open_repository(f"{registry.host}#team/app", load(ENTRY.format("other.example"))).resolve(AMD64)
    assert not registry.count("/v2/$")


def test_missing_although_logged_in(faulty: Faulty, open_repository: Open, load: Load):
    """What is not there is not there, and is not looked for again and again."""
    registry = faulty(auth="bearer", users=USERS, hidden=404)
    registry.add_image("team/app")
    with pytest.raises(NotFound):
        open_repository(f"{registry.host}#team/app:2", load(line(registry))).resolve(AMD64)
    assert [r.path for r in registry.requests] == [
        "/v2/team/app/manifests/2",
        "/v2/",
        "/token",
        "/v2/team/app/manifests/2",
    ]


@pytest.mark.parametrize("auth", ["basic", "bearer"])
def test_moved_registry(faulty: Faulty, open_repository: Open, load: Load, auth: str):
    """A registry that redirects to another one leads to a login there, with the line for that host."""
    moved, here = faulty(), faulty(auth=auth, users=USERS)
    image = here.add_image("team/app")
    moved.move_to = here.url
    repository = open_repository(f"{moved.host}#team/app", load(line(here)))
    manifest = repository.resolve(AMD64)
    assert manifest.digest == image.digest
    assert b"".join(repository.blob(manifest.layers[0])) == b"layer"
    assert not any(r.authorization for r in moved.requests)
    assert not repository.anonymous
    if auth == "bearer":
        assert {s for r in here.matching("/token") for s in r.query["scope"]} == {"repository:team/app:pull"}


def test_moved_registry_without_a_login(faulty: Faulty, open_repository: Open, load: Load):
    """The error names the host that wants it; the first one's login is not sent there."""
    moved, here = faulty(), faulty(auth="bearer", users=USERS)
    here.add_image("team/app")
    moved.move_to = here.url
    with pytest.raises(AccessDenied, match=f"{here.host} does not let us read team/app .*{moved.host}") as caught:
        open_repository(f"{moved.host}#team/app", load(line(moved))).resolve(AMD64)
    assert f"machine {here.host} login" in caught.value.hint
    assert not any(r.scheme == "Basic" for r in here.requests)


def test_moved_to_another_repository(faulty: Faulty, open_repository: Open, load: Load):
    """A redirect does not choose what is read with a login: only anyone's to read, if the name is another one."""
    moved, here = faulty(), faulty(auth="bearer", users=USERS, public=["open/app"])
    here.add_image("secret/app")
    image = here.add_image("open/app")
    repository = open_repository(f"{moved.host}#team/app", load(line(here)))
    moved.fault("/v2/team/app/manifests/latest", redirect=f"{here.url}/v2/open/app/manifests/latest")
    assert repository.resolve(AMD64).digest == image.digest
    assert repository.anonymous
    moved.heal()
    moved.fault("/v2/team/app/manifests/latest", redirect=f"{here.url}/v2/secret/app/manifests/latest")
    with pytest.raises(AccessDenied):
        repository.resolve(AMD64)
    assert {r.scheme for r in here.requests} <= {"", "Bearer"}
    assert not any(r.scheme == "Basic" for r in here.matching("/token"))


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"details":"personal access token is expired"}', "personal access token is expired"),
        (b'{"error":"invalid_grant","error_description":"user is locked"}', "user is locked"),
        (b'{"message":"two-factor is wanted"}', "two-factor is wanted"),
        (b'{"errors":[{"code":"DENIED","message":"no seat"}]}', "DENIED: no seat"),
        (b'{"message":"hunter2 is wrong, YW5uOmh1bnRlcjI= too"}', r"\*\*\* is wrong, \*\*\* too"),
    ],
)
def test_words_of_a_token_service(faulty: Faulty, open_repository: Open, load: Load, body: bytes, words: str):
    """What a token service says is told, but for a secret that it repeats."""
    registry = faulty(auth="bearer", users=USERS)
    registry.add_image("team/app")
    registry.fault("/token", status=401, body=body)
    with pytest.raises(AccessDenied, match=rf"rejects the credentials of .*\({words}\)") as caught:
        open_repository(f"{registry.host}#team/app", load(line(registry))).resolve(AMD64)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"


def test_site_credentials_are_exact(load: Load, tmp_path: Path):
    """In the site's name a line is for its port, and `default` for nobody: a job's user chooses the host."""
    load("default login ann password pw\nmachine r.example login ann password pw\n")
    site = Credentials.load(tmp_path / ".credentials", run_commands=False, strict=True)
    assert site.has("r.example")
    assert not site.has("r.example:5000")
    assert not site.has("other.example")


# Who gets which credentials: without a network.


def sent(
    registry: str, realm: str, text: str, load: Load, user: str = ""
) -> tuple[list[tuple[str, str]], list[str], Login]:
    """The (URL, login) pairs that go to the token service of *realm*, the warnings, and the login."""
    asked: list[tuple[str, str]] = []
    warned: list[str] = []

    def ask(url: str, authorization: str, form: bytes | None) -> TokenAnswer:
        asked.append((url, authorization))
        return TokenAnswer(200, {}, json.dumps({"token": f"t{len(asked)}"}).encode())

    origin = Origin.of(f"https://{registry}")
    login = Login(origin, "team/app", user, load(text), reach=Reach(origin), ask=ask, warn=warned.append)
    assert login.renew("", [f'Bearer realm="{realm}",service="s",scope="repository:victim/app:pull"'])
    assert all("scope=repository%3Ateam%2Fapp%3Apull" in url and "victim" not in url for url, _ in asked)
    return asked, warned, login


ENTRY = "machine {} login ann password pw\n"
BASIC = "Basic YW5uOnB3"


@pytest.mark.parametrize(
    ("registry", "realm", "machine"),
    [
        ("nvcr.io", "https://authn.nvidia.com/token", "nvcr.io"),
        ("nvcr.io", "https://authn.nvidia.com/token", "authn.nvidia.com"),
        ("nvcr.io", "https://nvcr.io/proxy_auth", "nvcr.io"),
        ("registry-1.docker.io", "https://auth.docker.io/token", "docker.io"),
        ("registry-1.docker.io", "https://auth.docker.io/token", "auth.docker.io"),
        ("registry.gitlab.com", "https://gitlab.com/jwt/auth", "registry.gitlab.com"),
        ("ghcr.io", "https://ghcr.io/token", "ghcr.io"),
        ("quay.io", "https://quay.io/v2/auth", "quay.io"),
        ("registry.git.example", "https://git.example/jwt/auth", "registry.git.example"),
        ("registry.corp.example:5000", "https://registry.corp.example/jwt", "registry.corp.example:5000"),
        ("registry.corp.example:5000", "https://registry.corp.example/jwt", "registry.corp.example"),
    ],
)
def test_credentials_go_to(registry: str, realm: str, machine: str, load: Load):
    """A token service gets its own entry if it is the registry's host or its known pair, or its registry's."""
    asked, warned, _ = sent(registry, realm, ENTRY.format(machine), load)
    assert [a for _, a in asked] == [BASIC]
    assert not warned


@pytest.mark.parametrize(
    ("registry", "realm", "machines"),
    [
        ("registry.corp.example", "https://evil.example/token", ["registry.corp.example"]),
        ("registry.corp.example", "https://git.corp.example/token", ["registry.corp.example"]),
        ("evil.example", "https://auth.docker.io/token", ["docker.io"]),
        ("evil.example", "https://authn.nvidia.com/token", ["authn.nvidia.com"]),
        ("evil.example", "https://harbor.example/service/token", ["harbor.example"]),
        ("evil.pages.git.example", "https://git.example/jwt/auth", ["git.example"]),
        ("mine.azurecr.io", "https://evil.azurecr.io/token", ["mine.azurecr.io"]),
        ("a.me.uk", "https://b.me.uk/token", ["a.me.uk"]),
        ("registry.corp.example", "https://corp.example.evil.org/token", ["registry.corp.example"]),
    ],
)
def test_credentials_do_not_go_to(registry: str, realm: str, machines: list[str], load: Load):
    """Another owner gets none, nor does a registry get the token of another one's service (CVE-2020-15157)."""
    asked, _, _ = sent(registry, realm, "".join(ENTRY.format(m) for m in machines), load)
    assert [a for _, a in asked] == [""]


def test_two_lines_make_a_pair(load: Load):
    """Who has given both hosts the same login and password has told both already; with two logins, it is no pair."""
    both = "".join(ENTRY.format(m) for m in ("registry.corp.example", "sso.example"))
    asked, warned, _ = sent("registry.corp.example", "https://sso.example/t", both, load)
    assert [a for _, a in asked] == [BASIC]
    assert not warned
    for other in (ENTRY.format("sso.example").replace("pw", "pw2"), ENTRY.format("sso.example").replace("ann", "bob")):
        text = ENTRY.format("registry.corp.example") + other
        asked, warned, login = sent("registry.corp.example", "https://sso.example/t", text, load)
        assert [a for _, a in asked] == [""]
        assert "same login and password" in warned[0]
        assert "another owner" in login.problem


def test_missing_machine_line(load: Load):
    """The warning names the lines that would allow it."""
    for have, lack in (("r.corp.example", "sso.other.example"), ("sso.other.example", "r.corp.example")):
        _, warned, login = sent("r.corp.example", "https://sso.other.example/t", ENTRY.format(have), load)
        assert "machine r.corp.example ... and machine sso.other.example ..." in warned[0]
        assert login.machine == lack


def test_default_goes_to_no_other_owner(load: Load):
    """The `default` entry is for the registry that the user names, not for hosts that it names."""
    text = "default login ann password pw"
    asked, _, _ = sent("r.corp.example", "https://evil.example/t", text, load)
    assert [a for _, a in asked] == [""]
    asked, _, _ = sent("r.git.example", "https://git.example/t", text, load)
    assert [a for _, a in asked] == [BASIC]


def test_service_of_oauth_alone(faulty: Faulty, open_repository: Open, load: Load):
    """A token service that knows no GET is sent the password by POST, as containerd does."""
    registry = faulty(auth="bearer", users=USERS)
    registry.refresh_tokens[""] = "ann"  # the grant is not looked at here
    registry.add_image("team/app")
    registry.fault("/token", status=405)
    open_repository(f"{registry.host}#team/app", load(line(registry))).resolve(AMD64)
    (posted,) = registry.matching("/token", method="POST")
    assert parse_qs(posted.body.decode()) == {
        "grant_type": ["password"],
        "service": ["test"],
        "scope": ["repository:team/app:pull"],
        "client_id": ["enroot-slurm"],
        "username": ["ann"],
        "password": ["hunter2"],
    }


def test_user_chooses(load: Load):
    """The login in the reference chooses the entry."""
    text = ENTRY.format("quay.io") + "machine quay.io login bob password pw2"
    asked, _, _ = sent("quay.io", "https://quay.io/v2/auth", text, load, "bob")
    assert "account=bob" in asked[0][0]
    asked, _, _ = sent("quay.io", "https://quay.io/v2/auth", text, load, "carol")
    assert asked[0][1] == ""


def test_second_challenge_does_not_inherit(load: Load):
    """Each realm is judged by itself: a second challenge does not get what is meant for the first."""
    asked: list[str] = []

    def ask(url: str, authorization: str, form: bytes | None) -> TokenAnswer:
        asked.append(url)
        return TokenAnswer(200, {}, b'{"token":"t"}')

    origin = Origin.of("https://r.example.com")
    entry = load(ENTRY.format("r.example.com"))
    login = Login(origin, "a", "", entry, reach=Reach(origin), ask=ask, warn=print)
    headers = ['Bearer realm="https://auth.example.com/token"', 'Bearer realm="https://evil.example.net/token"']
    assert login.renew("", headers)
    assert len(asked) == 1
    assert asked[0].startswith("https://auth.example.com/")


def test_renew_is_serialised(load: Load):
    """A thread that comes with an old header finds the new one there."""
    calls = threading.Semaphore(1)

    def ask(url: str, authorization: str, form: bytes | None) -> TokenAnswer:
        assert calls.acquire(blocking=False)
        return TokenAnswer(200, {}, b'{"token":"t"}')

    origin = Origin.of("https://r.example.com")
    login = Login(origin, "a", "", Credentials(), reach=Reach(origin), ask=ask, warn=print)
    for _ in range(3):
        assert login.renew("", ['Bearer realm="https://r.example.com/token"'])
    assert login.authorization() == "Bearer t"
