"""Logins of docker and podman: their files, their helpers, and who goes first."""

from __future__ import annotations

import base64
import itertools
import json
import os
from typing import TYPE_CHECKING, Any

import pytest

from enroot_slurm.errors import AccessDenied, ConfigError, StorageError
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import DOCKER_HUB
from enroot_slurm.registry import helpers, programs
from enroot_slurm.registry.auth_file import AuthFile
from enroot_slurm.registry.credentials import Credentials, read_logins
from enroot_slurm.registry.netrc_file import NetrcFile

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Find = Callable[..., str | None]

HUB = "https://index.docker.io/v1/"


def auth(login: str, password: str = "pw") -> str:
    return base64.b64encode(f"{login}:{password}".encode("utf-8", "surrogateescape")).decode()


def found(source: Any, host: str, repository: str = "", user: str = "") -> str | None:
    """``LOGIN:SECRET`` that *source* has, or None."""
    credential = Credentials([lambda: source], repository=repository).find(host, user)
    return credential and f"{credential.login}:{credential.secret.reveal()}"


def auths(**entries: Any) -> AuthFile:
    return AuthFile(json.dumps({"auths": entries}), "f")


def keys(*names: str) -> AuthFile:
    """A file with a login for each of *names*, which is called so."""
    return AuthFile(json.dumps({"auths": {name: {"username": name, "password": "pw"} for name in names}}), "f")


@pytest.mark.parametrize(
    ("entry", "login"),
    [
        ({"auth": auth("ann", "a:b:c")}, "ann:a:b:c"),
        ({"auth": auth("ann", "pw\0\0")}, "ann:pw"),
        ({"auth": auth("ann", "pwd").rstrip("=")}, "ann:pwd"),
        ({"auth": auth("ann") + "\n"}, "ann:pw"),
        ({"auth": auth("ann"), "username": "bob", "password": "x"}, "ann:pw"),
        ({"username": "bob", "password": "x"}, "bob:x"),
        ({"auth": auth("ann", "")}, "ann:"),
        ({"auth": auth("zero", ""), "identitytoken": "t"}, "zero:t"),
        ({"identitytoken": "t"}, "<token>:t"),
        ({"registrytoken": "t"}, "<token>:t"),
        ({"auth": "", "email": "x@y", "other": [1]}, None),
        ({"auth": None}, None),
        ({}, None),
        (None, None),
        ({"auth": auth("_json_key", '{\n "a": "b c"}')}, '_json_key:{\n "a": "b c"}'),
        ({"auth": auth("ann", "p\udce4")}, "ann:p\udce4"),
    ],
)
def test_entries(entry: Any, login: str | None) -> None:
    """What an entry says, as docker, podman and go-containerregistry read it."""
    file = auths(h=entry)
    assert file.warnings == ()
    assert found(file, "h") == login


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"auth": base64.urlsafe_b64encode(b"ann:\xff\xfe\xfd?>").decode()}, "not base64"),
        ({"auth": "%%%"}, "not base64"),
        ({"auth": "\u00e4"}, "not base64"),
        ({"auth": base64.b64encode(b"hunter2").decode()}, "no colon"),
        ({"auth": auth("", "hunter2")}, "no login"),
        ({"password": "hunter2"}, "no login"),
        ({"auth": 5}, "auth is not a text"),
        ("hunter2", "not an object"),
        (["hunter2"], "not an object"),
    ],
)
def test_a_bad_entry_costs_itself(entry: Any, why: str) -> None:
    """It is named, with file and key and without its value; the others serve."""
    file = auths(**{"h\x1b": entry, "good": {"auth": auth("ann")}})
    (warning,) = file.warnings
    assert warning.startswith("f (h\\x1b): ")
    assert why in warning
    assert "hunter2" not in warning
    assert found(file, "h\x1b") is None
    assert found(file, "good") == "ann:pw"


@pytest.mark.parametrize("text", ["", "[]", "{", "null", "5", '{"auths": {}} {}', "[" * 100_000, "\ufffe"])
def test_no_document(text: str) -> None:
    """What is no JSON object is an error, which does not quote it."""
    with pytest.raises(ConfigError, match="not "):
        AuthFile(text, "f")


@pytest.mark.parametrize("document", [{"auths": [1]}, {"auths": 5}, {"credHelpers": "x"}, {"credsStore": "../x"}])
def test_parts_that_are_wrong(document: Any) -> None:
    """They are left out, with a warning."""
    file = AuthFile(json.dumps(document), "f")
    assert len(file.warnings) == 1
    assert found(file, "h") is None


@pytest.mark.parametrize(
    ("names", "host", "repository", "key"),
    [
        (["h", "h/ns", "h/ns/repo", "h/ns/repo/x"], "h", "ns/repo", "h/ns/repo"),
        (["h", "h/ns"], "h", "ns/repo", "h/ns"),
        (["h", "h/ns"], "h", "nsx/repo", "h"),
        (["h", "h/ns"], "h", "", "h"),
        (["h/ns"], "h", "", None),
        (["https://h", "h"], "h", "a", "h"),
        (["https://h/v1/"], "h", "a", "https://h/v1/"),
        (["http://H/v2"], "h", "a", "http://H/v2"),
        (["https://h/ns"], "h", "ns/a", "https://h/ns"),
        (["https://h/ns"], "h", "a", None),
        (["h/"], "h", "a", "h/"),
        (["h/v1"], "h", "a", None),
        (["h/v1/"], "h", "a", "h/v1/"),
        (["h"], "h:5000", "a", None),
        (["h:5000"], "h", "a", None),
        (["h:5000", "h"], "h:5000", "a", "h:5000"),
        (["H"], "h", "a", "H"),
        ([HUB], DOCKER_HUB, "library/a", HUB),
        (["docker.io"], DOCKER_HUB, "library/a", "docker.io"),
        (["docker.io/library", "docker.io"], DOCKER_HUB, "library/a", "docker.io/library"),
        (["index.docker.io/v1/"], DOCKER_HUB, "library/a", "index.docker.io/v1/"),
        (["https://registry-1.docker.io"], DOCKER_HUB, "library/a", "https://registry-1.docker.io"),
        ([f"{HUB}access-token", f"{HUB}refresh-token"], DOCKER_HUB, "library/a", None),
        ([HUB], "auth.docker.io", "", HUB),
        (["[::1]:5000"], "[::1]:5000", "a", "[::1]:5000"),
    ],
)
def test_keys(names: list[str], host: str, repository: str, key: str | None) -> None:
    """The longest part of the repository's name, then the host however it is written; other ports are others."""
    for order in itertools.permutations(names):
        assert found(keys(*order), host, repository) == (key and f"{key}:pw")


def test_dockercfg() -> None:
    """The old file is the mapping itself, and has no helpers."""
    file = AuthFile(json.dumps({HUB: {"auth": auth("ann")}, "credsStore": {"auth": auth("x")}}), "f", bare=True)
    assert found(file, DOCKER_HUB) == "ann:pw"
    assert file.helpers == ()


@pytest.mark.parametrize(
    ("document", "right"),
    [
        ({"auths": {"h": {"auth": auth("ann")}}}, True),
        ({"auths": {}}, True),
        ({"auths": {"h": {"auth": auth("ann")}}, "credsStore": "x"}, False),
        ({"auths": {"h": {"auth": auth("ann"), "email": ""}}}, False),
        ({"auths": {"h": {}}}, False),
        ({"auths": {"h": {"username": "ann", "password": "pw"}}}, False),
        ({}, False),
    ],
)
def test_the_variable(document: Any, right: bool) -> None:
    """DOCKER_AUTH_CONFIG is read as strictly as docker reads it."""
    if right:
        AuthFile(json.dumps(document), "DOCKER_AUTH_CONFIG", strict=True)
    else:
        with pytest.raises(ConfigError, match="DOCKER_AUTH_CONFIG: expected"):
            AuthFile(json.dumps(document), "DOCKER_AUTH_CONFIG", strict=True)


# Helpers.


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A function that puts ``docker-credential-NAME``, a shell script, into PATH; what it was asked is in a log."""
    directory = tmp_path / "bin"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    monkeypatch.setattr(helpers, "_answers", {})

    def make(name: str, script: str, mode: int = 0o755) -> Path:
        program = directory / f"docker-credential-{name}"
        log = tmp_path / f"{name}.log"
        program.write_text(f'#!/bin/sh\nread -r server\necho "$# $1 $server" >> {log}\n{script}\n')
        program.chmod(mode)
        return log

    return make


def says(login: str, secret: str = "s", **more: str) -> str:
    return f"echo '{json.dumps({'ServerURL': 'x', 'Username': login, 'Secret': secret, **more})}'"


def with_helpers(**document: Any) -> AuthFile:
    return AuthFile(json.dumps(document), "f", no_helpers="")


def test_a_helper_is_asked(helper) -> None:
    """By its protocol: one word, the host by a pipe; once for a process and host."""
    log = helper("good", says("ann", more="x"))
    file = with_helpers(credHelpers={"h": "good", "H2:5": "good"}, credsStore="good")
    for host in ("h", "h2:5", "other", "h", DOCKER_HUB):
        assert found(file, host, "ns/repo") == "ann:s"
    assert log.read_text().splitlines() == ["1 get h", "1 get h2:5", "1 get other", f"1 get {HUB}"]


@pytest.mark.parametrize("key", ["docker.io", "index.docker.io", HUB, "registry-1.docker.io"])
def test_a_helper_for_docker_hub(helper, key: str) -> None:
    """Docker Hub's names are one, and the helper is asked by the key."""
    log = helper("good", says("ann"))
    assert found(with_helpers(credHelpers={key: "good"}), DOCKER_HUB) == "ann:s"
    assert log.read_text() == f"1 get {key}\n"


def test_order_in_a_file(helper) -> None:
    """The host's own helper, then a secret in the file, then the store for all hosts."""
    helper("own", says("own"))
    helper("store", says("store"))
    helper("none", "echo credentials not found in native keychain; exit 1")
    entry = {"h": {"auth": auth("file")}}
    assert found(with_helpers(auths=entry, credHelpers={"h": "own"}, credsStore="store"), "h") == "own:s"
    assert found(with_helpers(auths=entry, credHelpers={"h": "none"}, credsStore="store"), "h") == "file:pw"
    assert found(with_helpers(auths=entry, credsStore="store"), "h") == "file:pw"
    assert found(with_helpers(auths={"h": {}}, credsStore="store"), "h") == "store:s"
    assert found(with_helpers(auths={"h": {}}, credsStore="none"), "h") is None
    assert (
        found(with_helpers(auths=entry, credHelpers={"h": "own"}, credsStore="store"), "h", user="store") == "store:s"
    )
    assert found(with_helpers(auths=entry, credHelpers={"h": "own"}, credsStore="store"), "h", user="file") == "file:pw"


def test_kinds_of_secrets(helper) -> None:
    """``<token>`` marks an identity token; two empty texts are nobody."""
    helper("token", says("<token>", "t"))
    helper("nobody", says("", ""))
    find = Credentials([lambda: with_helpers(credHelpers={"a": "token", "b": "nobody"})]).find
    credential = find("a")
    assert credential
    assert (credential.kind, credential.source) == ("identity", "f (credHelpers, docker-credential-token)")
    assert find("b") is None


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("echo 'not logged in: run gcloud auth login'; exit 1", "ended with status 1: not logged in: run gcloud"),
        ("printf 'a\\033[31m'; exit 3", "ended with status 3: a\\x1b[31m"),
        ("exit 7", "ended with status 7"),
        ("echo hunter2", "did not print a JSON object"),
        ("echo '[1]'", "did not print a JSON object"),
        ("echo '{\"Username\": 5}'", "printed no Username and Secret"),
        ('echo \'{"Username": "hunter2"}\'', "printed no Username and Secret"),
        ("yes hunter2 | head -c 1048576", "printed more than 64 KiB"),
        ("kill -9 $$", "ended with status -9"),
    ],
)
def test_a_helper_that_fails(helper, script: str, words: str) -> None:
    """It is told, with what it said; another login serves with a warning, and without one it is an error."""
    helper("bad", script)
    file = with_helpers(auths={"h": {"auth": auth("ann")}}, credHelpers={"h": "bad", "i": "bad"})
    warnings: list[str] = []
    credentials = Credentials([lambda: file], warn=warnings.append)
    credential = credentials.find("h")
    assert credential
    assert credential.login == "ann"
    assert len(warnings) == 1
    assert "f (h) serves instead" in warnings[0]
    with pytest.raises(AccessDenied, match="docker-credential-bad") as caught:
        credentials.find("i")
    assert words in warnings[0]
    assert words in str(caught.value)
    assert "hunter2" not in f"{warnings} {caught.value} {caught.value.hint}"
    assert not credentials.has("i")


def test_a_helper_that_hangs(helper, monkeypatch) -> None:
    """It is killed, with all that it started; what a desktop is needed for has a hint."""
    monkeypatch.setattr(programs, "TIMEOUT", 0.2)
    helper("secretservice", "sleep 60; :")
    with pytest.raises(AccessDenied, match=r"took longer than 0\.2 s") as caught:
        found(with_helpers(credsStore="secretservice"), "h")
    assert "needs a desktop" in caught.value.hint


def test_a_helper_that_leaves_a_service_behind(helper, tmp_path: Path) -> None:
    """A process that keeps the output open is not waited for."""
    helper("agent", f"setsid sh -c 'echo $$ > {tmp_path}/pid; exec sleep 60' &\nsleep 0.1\n{says('ann')}")
    try:
        assert found(with_helpers(credsStore="agent"), "h") == "ann:s"
    finally:
        os.kill(int((tmp_path / "pid").read_text()), 9)


def test_helpers_that_are_not_there(helper) -> None:
    """A missing program, one that can't be run, and a name that is a path."""
    helper("text", "", 0o644)
    for name in ("missing", "text"):
        with pytest.raises(AccessDenied, match=f"there is no program docker-credential-{name} in PATH"):
            found(with_helpers(credsStore=name), "h")
    for name in ("../x", "/bin/sh", "a b", "x\n", "", "$(x)"):
        assert found(with_helpers(credHelpers={"h": name}, credsStore=name), "h") is None


def test_helpers_that_are_off(helper) -> None:
    """They are not run: not where hooks forbid it, nor out of a file that others can write."""
    log = helper("good", says("ann"))
    file = AuthFile(json.dumps({"credsStore": "good"}), "f")
    with pytest.raises(AccessDenied, match="helpers are off") as caught:
        found(file, "h")
    assert "hook_credential_commands" in caught.value.hint
    assert not log.exists()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_helpers_of_others(helper, tmp_path: Path, mode: int) -> None:
    """Helpers that others could have named are not run."""
    log = helper("good", says("ann"))
    path = tmp_path / "config.json"
    path.write_text('{"credsStore": "good"}')
    path.chmod(mode)
    with pytest.raises(AccessDenied, match="other users may write the file"):
        Credentials.load(path, run_commands=True).find("h")
    assert not log.exists()
    path.chmod(0o600)
    assert Credentials.load(path, run_commands=True).find("h")


# All of them.


def test_order_of_sources() -> None:
    """netrc's lines, the others in their order, then netrc's default."""
    lines = NetrcFile("machine a login line password p default login any password p", "n")
    first, second = keys("a", "b"), keys("b", "c")
    credentials = Credentials([lambda: lines, lambda: first, lambda: None, lambda: second])
    logins = {host: (credential and credential.login) for host in "abcd" if (credential := credentials.find(host))}
    assert logins == {"a": "line", "b": "b", "c": "c", "d": "any"}
    assert credentials.find("d", exact=True) is None
    picked = credentials.find("a", "a")
    assert picked
    assert picked.source == "f (a)"
    assert credentials.find("a", "nobody") is None
    assert [credentials.place(host) for host in "ad"] == ["n:1", "n:1"]


def test_what_is_not_needed_is_not_read() -> None:
    """A source is read when all before it had nothing, and once."""
    asked: list[str] = []

    def source(name: str) -> Callable[[], AuthFile]:
        def read() -> AuthFile:
            asked.append(name)
            return keys(name)

        return read

    credentials = Credentials([source("a"), source("b"), source("c")])
    assert asked == []
    for _ in range(2):
        assert credentials.find("b")
        assert asked == ["a", "b"]
    assert not credentials.has("z")
    assert asked == ["a", "b", "c"]


def test_a_home_that_hangs() -> None:
    """It is waited for once: no other source is tried, and the search ends with a warning."""
    asked: list[str] = []

    def hang() -> AuthFile:
        asked.append("hangs")
        raise StorageError("the file system has not answered for 20 seconds")

    def never() -> AuthFile:
        raise AssertionError

    warnings: list[str] = []
    credentials = Credentials([hang, never], warn=warnings.append)
    assert credentials.find("h") is None
    assert not credentials.has("h")
    assert asked == ["hangs"]
    assert warnings == ["the file system has not answered for 20 seconds: logins are not looked for any further"]


def test_tokens_for_a_registry_alone() -> None:
    """A token that is the registry's goes to no service where a registry wants logins sent to."""
    credentials = Credentials([lambda: auths(h={"registrytoken": "t"})])
    assert credentials.find("h")
    assert credentials.find("h", exact=True) is None


def test_either_form(tmp_path: Path) -> None:
    """A file is read as what it is; one that has to be there, and is not, is an error."""
    path = tmp_path / "logins"
    for text in ("machine h login ann password pw", f'\ufeff \n{{"auths": {{"h": {{"auth": "{auth("ann")}"}}}}}}'):
        path.write_text(text)
        path.chmod(0o600)
        assert found(read_logins(path, run_commands=False), "h") == "ann:pw"
    assert read_logins(tmp_path / "none", run_commands=False) is None
    with pytest.raises(ConfigError, match="can't be read: No such file"):
        read_logins(tmp_path / "none", run_commands=False, required=True)


@pytest.mark.parametrize("status", [200, 405])
def test_secrets_that_are_not_utf8(faulty, open_repository, tmp_path: Path, status: int) -> None:
    """Their bytes are sent, by whatever way a token service takes them."""
    path = tmp_path / "c"
    path.write_bytes(b"default login \xe4nn password p\xff")
    path.chmod(0o600)
    registry = faulty(auth="bearer")
    registry.add_image("team/app")
    if status != 200:
        registry.fault("^/token", status=status)
    with pytest.raises(AccessDenied):
        open_repository(f"{registry.host}#team/app", Credentials.load(path, run_commands=False)).resolve(
            Platform("amd64")
        )
    asked = [r for r in registry.requests if r.path == "/token"]
    basic = base64.b64encode(b"\xe4nn:p\xff").decode()
    assert f"Basic {basic}" in {r.authorization for r in asked}
    assert status == 200 or any(b"username=%E4nn&password=p%FF" in r.body for r in asked)
