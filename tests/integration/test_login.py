"""``enroot-slurm login``: what it asks real registries, and what it says."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import enroot_slurm
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.registry import TokenAuth
from support.token_server import TokenServer

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from support.registry import Registry

SECRET = "canary-5e1f0c7a"
WRONG = "canary-wrong-9b2d"


def write(environment: dict[str, str], *lines: str) -> Path:
    """The credentials file with *lines*."""
    file = Path(environment["ENROOT_CONFIG_PATH"], ".credentials")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(0o600)
    return file


def check(
    *arguments: str, environment: dict[str, str], status: int, command: str = "login"
) -> subprocess.CompletedProcess[str]:
    """Run ``login --check``: it ends with *status*, and no secret is in what it says."""
    result = enroot_slurm(command, "--check", *arguments, environment=environment)
    assert result.returncode == status, result.stderr
    assert "canary" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


@pytest.fixture
def basic(make_registry: Callable[..., Registry]) -> Registry:
    """A registry that asks everyone for a password, with the image app:1."""
    made = make_registry(users={"ann": SECRET})
    made.push("app", "1", Image([Layer().file("f", b"1")]))
    return made


@pytest.fixture
def token(make_registry: Callable[..., Registry], tmp_path: Path) -> Iterator[tuple[Registry, TokenServer]]:
    """A registry with a token service: public/app is anyone's, private/app is ann's."""
    storage = make_registry()
    for name in ("public/app", "private/app"):
        storage.push(name, "1", Image([Layer().file("f", name.encode())]))
    with TokenServer(
        tmp_path, users={"ann": SECRET, "bob": SECRET}, rights={"ann": ["private/*"], "": ["public/*"]}
    ) as service:
        auth = TokenAuth(service.realm, service.service, service.issuer, service.bundle)
        yield make_registry(storage=storage.storage, token=auth), service


def test_an_accepted_password(basic, import_environment) -> None:
    """The registry takes it: the login and its line are named."""
    file = write(import_environment, "# mine", f"machine {basic.host} login ann password {SECRET}")
    said = check(basic.host, environment=import_environment, status=0).stdout
    assert said == f"{basic.host}: accepted the login 'ann' of {file}:2\n"
    said = check(f"{basic.host}/app", environment=import_environment, status=0).stdout
    assert said == f"{basic.host}/app: accepted the login 'ann' of {file}:2\n"


def test_a_wrong_password(basic, import_environment) -> None:
    """The registry refuses it: status 4, and the line to correct."""
    file = write(import_environment, f"machine {basic.host} login ann password {WRONG}")
    said = check(basic.host, environment=import_environment, status=4).stderr
    assert f"{basic.host} does not let us in" in said
    assert f"Check the login and password in {file}:1." in said


def test_no_line(basic, import_environment) -> None:
    """Where credentials are needed and there are none, the line to add is shown."""
    said = check(basic.host, environment=import_environment, status=4).stderr
    assert "without credentials" in said
    assert f"machine {basic.host} login USER password ..." in said


def test_the_login_that_is_named(basic, import_environment) -> None:
    """``USER@`` picks the line, as in an image's URI; another user's is not taken instead."""
    file = write(
        import_environment,
        f"machine {basic.host} login bob password {WRONG}",
        f"machine {basic.host} login ann password {SECRET}",
    )
    check(basic.host, environment=import_environment, status=4)
    said = check(f"ann@{basic.host}", environment=import_environment, status=0).stdout
    assert f"'ann' of {file}:2" in said
    check(f"carol@{basic.host}", environment=import_environment, status=4)


def test_an_open_registry(registry, import_environment) -> None:
    """Anyone is let in; a line that was not asked for is named, and never sent."""
    said = check(registry.host, environment=import_environment, status=0).stdout
    assert said == f"{registry.host}: lets anyone in; there is no line for it\n"
    file = write(import_environment, f"machine {registry.host} login ann password {SECRET}")
    said = check(registry.host, environment=import_environment, status=0).stdout
    assert said == f"{registry.host}: lets anyone in; it did not ask for the login of {file}:1\n"


def test_a_token_service(token, import_environment) -> None:
    """The login is sent to the registry's token service; the repository decides whether it may read."""
    registry, service = token
    file = write(import_environment, f"machine {registry.host} login ann password {SECRET}")
    for name in (registry.host, f"{registry.host}/private/app"):
        said = check(name, environment=import_environment, status=0).stdout
        assert f"accepted the login 'ann' of {file}:1" in said
    write(import_environment, f"machine {registry.host} login bob password {SECRET}")
    said = check(f"{registry.host}/private/app", environment=import_environment, status=4).stderr
    assert "private/app" in said
    assert {request.user for request in service.requests} == {"ann", "bob", ""}


def test_a_token_service_that_rejects(token, import_environment) -> None:
    """A wrong password is an error even where anyone is let in: whoever has written it wants to be known."""
    registry, _ = token
    file = write(import_environment, f"machine {registry.host} login ann password {WRONG}")
    for name in (registry.host, f"{registry.host}/public/app"):
        result = check(name, environment=import_environment, status=4)
        assert f"rejects the credentials of {file}:1" in result.stderr
        assert result.stdout == ""


def test_json(token, import_environment) -> None:
    """For scripts: what was used, and what became of it."""
    registry, _ = token
    file = write(import_environment, f"machine {registry.host} login ann password {SECRET}")
    fields = json.loads(
        check("--json", f"{registry.host}/private/app", environment=import_environment, status=0).stdout
    )
    assert fields == {
        "registry": registry.host,
        "repository": "private/app",
        "accepted": True,
        "anonymous": False,
        "source": f"{file}:1",
        "login": "ann",
        "client_certificate": False,
        "problem": "",
    }
    write(import_environment, f"machine {registry.host} login ann password {WRONG}")
    fields = json.loads(check("--json", registry.host, environment=import_environment, status=4).stdout)
    assert not fields["accepted"]


def test_a_repository_that_is_not_there(registry, import_environment) -> None:
    """Status 3, as for an import."""
    said = check(f"{registry.host}/no/such", environment=import_environment, status=3).stderr
    assert f"there is no repository {registry.host}/no/such" in said


def test_nobody_answers(import_environment) -> None:
    """Status 5, with the reason."""
    environment = {**import_environment, "ENROOT_TRANSFER_RETRIES": "0"}
    said = check("127.0.0.1:1", environment=environment, status=5).stderr
    assert "the connection was refused" in said


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        ({}, "is no registry: it has no /v2/"),
        ({"status": 200, "body": b"<html>", "headers": {"Content-Type": "text/html"}}, "answers with a web page"),
        ({"status": 503}, "answers 503"),
        ({"status": 429, "headers": {"Retry-After": "1000"}}, "too many requests"),
    ],
)
def test_what_answers_is_no_registry(import_environment, fault, said) -> None:
    """A web site, a login page, a registry that is down or busy: status 5, whatever it is."""
    environment = {**import_environment, "ENROOT_TRANSFER_RETRIES": "0"}
    with FaultRegistry() as registry:
        registry.fault("^/v2/$", **fault)
        assert said in check(registry.host, environment=environment, status=5).stderr


def test_a_password_that_is_a_command(basic, import_environment) -> None:
    """It is run as an import would run it, or said that it is not."""
    file = write(import_environment, f"machine {basic.host} login ann password $(echo {SECRET})")
    check(basic.host, environment=import_environment, status=0)
    environment = {**import_environment, "ENROOT_SLURM_CREDENTIAL_COMMANDS": "no"}
    said = check(basic.host, environment=environment, status=4).stderr
    assert f"{file}:1: the password has to be evaluated" in said


def test_without_check(import_environment) -> None:
    """``login`` alone stores nothing, and says what to write into which file instead."""
    for arguments in ([], ["nvcr.io"]):
        result = enroot_slurm("login", *arguments, environment=import_environment)
        assert result.returncode == 2
        assert f"machine {(arguments or ['REGISTRY'])[0]} login USER password SECRET" in result.stderr
        assert f"{import_environment['ENROOT_CONFIG_PATH']}/.credentials" in result.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [("library/ubuntu", "docker.io/ubuntu"), ("a:b@nvcr.io", "password"), ("nvcr.io:x", "not a registry")],
)
def test_what_is_no_registry(import_environment, text, said) -> None:
    """A mistake in the name is shown, with what would be right."""
    assert said in check(text, environment=import_environment, status=2).stderr
