"""``enroot-slurm login``: what it asks real registries, and what it says."""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.registry import TokenAuth
from support.token_server import TokenServer
from support.tools import require_tools

if TYPE_CHECKING:
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
    assert said == f"{registry.host}: lets anyone in; there is no login for it\n"
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
        "limit": "",
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
        ({"status": 404}, "is no registry: it has no /v2/"),
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


def log_in(
    *arguments: object, environment: dict[str, str], given: str = SECRET, status: int = 0
) -> subprocess.CompletedProcess[str]:
    """Run ``login`` with a password from standard input; no secret is in what it says."""
    result = enroot_slurm("login", *arguments, "--password-stdin", environment=environment, input=given)
    assert result.returncode == status, result.stderr
    assert "canary" not in result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    return result


def test_a_login_is_stored(basic, import_environment) -> None:
    """It is tried, then put into a file of the user's alone; an import and ``--check`` find it."""
    file = Path(import_environment["ENROOT_CONFIG_PATH"], ".credentials")
    said = log_in(basic.host, "-u", "ann", environment=import_environment, given=f"{SECRET}\n").stdout
    assert said == f"{basic.host}: added the login 'ann' in {file}\n"
    assert file.read_text() == f"machine {basic.host} login ann password {SECRET}\n"
    assert file.stat().st_mode & 0o777 == 0o600
    assert f"{file}:1" in check(basic.host, environment=import_environment, status=0).stdout
    output = file.with_name("x.sqsh")
    uri = f"docker://{basic.host}/app:1"
    assert enroot_slurm("import", "-o", output, uri, environment=import_environment).returncode == 0
    said = log_in(f"ann@{basic.host}", environment=import_environment).stdout
    assert "replaced the login 'ann'" in said
    assert file.read_text().count("machine") == 1


def test_a_login_that_is_refused(basic, token, import_environment) -> None:
    """Nothing is stored, and it is said why."""
    file = write(import_environment, "# mine")
    for host in (basic.host, token[0].host):
        said = log_in(host, "-u", "ann", environment=import_environment, given=WRONG, status=4).stderr
        assert "the new login" in said
        assert "Check both." in said
    assert file.read_text() == "# mine\n"


def test_what_else_is_in_the_file_stays(basic, import_environment) -> None:
    """Comments, other lines, several lines of one entry, a link to the file, its odd bytes."""
    file = write(import_environment)
    target = file.with_name("real")
    others = b"\xef\xbb\xbf# mine\nmachine a login b password \xff # c\n\n"
    mine = f"machine {basic.host}\n  login ann\n  account x password old # and this\n"
    target.write_bytes(others + mine.encode() + b"default login x password y")
    file.unlink()
    file.symlink_to("real")
    log_in(basic.host, "-u", "ann", environment=import_environment)
    line = f"machine {basic.host} login ann password {SECRET}"
    assert target.read_bytes() == others + f"{line} # and this\ndefault login x password y".encode()
    log_in(basic.host, "-u", "ann", environment=import_environment)
    assert target.read_bytes() == others + f"{line} # and this\ndefault login x password y".encode()
    result = enroot_slurm("logout", basic.host, environment=import_environment)
    assert result.returncode == 0, result.stderr
    assert target.read_bytes() == others + b"# and this\ndefault login x password y"
    assert file.is_symlink()
    assert sorted(p.name for p in file.parent.iterdir()) == [".credentials", "real"]


@pytest.mark.parametrize("text", ['machine a login b password "', '{"auths": {}}', "machine a\0", "#" * 70_000])
def test_files_that_can_not_be_understood(basic, import_environment, text) -> None:
    """They are left as they are."""
    file = write(import_environment, text)
    before = file.read_bytes()
    result = enroot_slurm(
        "login", basic.host, "-u", "ann", "--password-stdin", environment=import_environment, input=SECRET
    )
    assert result.returncode in {2, 7}
    assert str(file) in result.stderr
    assert file.read_bytes() == before
    assert [p.name for p in file.parent.iterdir()] == [".credentials"]


@pytest.mark.parametrize(
    ("arguments", "given", "said"),
    [
        (["h.example"], "x", "needs a login"),
        (["h.example", "-u", "ann"], "", "the password is empty"),
        (["h.example", "-u", "ann"], "a\nb\n", "more than one line"),
        (["bob@h.example", "-u", "ann"], "x", "two logins"),
        (["h.example", "-u", "ann", "--json"], "x", "go with --check"),
    ],
)
def test_wrong_calls(import_environment, arguments, given, said) -> None:
    """A call that can't be meant is status 2, and no registry is asked."""
    assert said in log_in(*arguments, environment=import_environment, given=given, status=2).stderr
    result = enroot_slurm("login", "h.example", environment=import_environment, stdin=subprocess.DEVNULL)
    assert result.returncode == 2
    assert "--password-stdin" in result.stderr


def test_a_file_that_can_not_be_written(basic, import_environment) -> None:
    """Status 7, with the reason, and no piece is left."""
    file = write(import_environment)
    file.unlink()
    file.mkdir()
    said = log_in(basic.host, "-u", "ann", environment=import_environment, status=7).stderr
    assert f"{file}: can't be" in said
    assert [p.name for p in file.parent.iterdir()] == [".credentials"]


def test_logout(import_environment) -> None:
    """Only what is named goes: this registry's, or this login's; Docker Hub's names are one."""
    lines = [
        "machine h.example login a password x",
        "machine h.example login b password x",
        "machine h.example:5 login a password x",
        "machine docker.io login a password x",
        "machine auth.docker.io login b password x",
    ]
    file = write(import_environment, *lines)

    def logout(*arguments: str, status: int = 0) -> str:
        result = enroot_slurm("logout", *arguments, environment=import_environment)
        assert result.returncode == status, result.stderr
        return result.stdout + result.stderr

    assert "removed 2 logins" in logout("index.docker.io")
    assert file.read_text().splitlines() == lines[:3]
    assert "removed 1 login " in logout("h.example", "-u", "b")
    assert file.read_text().splitlines() == [lines[0], lines[2]]
    assert "has no login for h.example" in logout("b@h.example", status=3)
    assert "removed 1 login " in logout("h.example")
    assert "has no login for other" in logout("other", status=3)
    assert file.read_text() == f"{lines[2]}\n"


# The files of others.


def docker(environment: dict[str, str], document: object, name: str = ".docker/config.json") -> Path:
    file = Path(environment["HOME"], name)
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(document))
    file.chmod(0o600)
    return file


def entry(login: str, secret: str = SECRET) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{login}:{secret}".encode()).decode()}


@pytest.mark.parametrize("tool", ["skopeo", "buildah"])
def test_what_podman_writes(basic, import_environment, tmp_path, tool) -> None:
    """The logins of skopeo and buildah (and podman) are found in all places where these put them."""
    require_tools(tool)
    runtime = tmp_path / "runtime"
    runtime.mkdir(mode=0o700)
    environment = {**import_environment, "XDG_RUNTIME_DIR": str(runtime), "BUILDAH_ISOLATION": "chroot"}
    command = [tool, "login", "--tls-verify=false", "-u", "ann", "--password-stdin"]
    own = Path(environment["HOME"], "own.json")
    files = {runtime / "containers/auth.json": {}, own: {"REGISTRY_AUTH_FILE": str(own)}}
    for file, variables in files.items():
        subprocess.run([*command, "--authfile", file, basic.host], input=SECRET, env=environment, text=True, check=True)
        before = file.read_bytes()
        result = check(basic.host, environment={**environment, **variables}, status=0)
        assert f"accepted the login 'ann' of {file} ({basic.host})" in result.stdout
        assert ("on this node only" in result.stderr) == (file != own)
        assert file.read_bytes() == before
        file.unlink()
    check(basic.host, environment=environment, status=4)


def test_files_in_their_order(make_registry, import_environment, tmp_path) -> None:
    """Each place is looked at when none before it has a login; ``USER@`` picks among all of them."""
    logins = ["netrc", "variable", "runtime", "config", "docker", "old", "any"]
    basic = make_registry(users=dict.fromkeys(logins, SECRET))
    runtime = tmp_path / "runtime"
    environment = {
        **import_environment,
        "XDG_RUNTIME_DIR": str(runtime),
        "DOCKER_AUTH_CONFIG": json.dumps({"auths": {basic.host: entry("variable")}}),
        "DOCKER_CONFIG": f"{import_environment['HOME']}/dc",
    }
    line = write(environment, f"machine {basic.host} login netrc password {SECRET}", "default login any password x")
    home = Path(environment["HOME"])
    document = {login: {"auths": {basic.host: entry(login)}} for login in ("runtime", "config", "docker")}
    places = {
        "netrc": line,
        "variable": None,
        "runtime": runtime / "containers/auth.json",
        "config": docker(environment, document["config"], ".config/containers/auth.json"),
        "docker": docker(environment, document["docker"], "dc/config.json"),
        "old": docker(environment, {f"https://{basic.host}/v1/": entry("old")}, ".dockercfg"),
    }
    docker({"HOME": str(runtime)}, document["runtime"], "containers/auth.json")
    docker(environment, {"auths": {basic.host: entry("unused")}})
    for login in places:
        assert f"'{login}'" in check(f"{login}@{basic.host}", environment=environment, status=0).stdout
    for login, file in places.items():
        assert f"accepted the login '{login}'" in check(basic.host, environment=environment, status=0).stdout
        if file is line:
            write(environment, f"default login any password {SECRET}")
        elif file is None:
            del environment["DOCKER_AUTH_CONFIG"]
        else:
            assert file.is_relative_to(home) or file.is_relative_to(runtime)
            file.unlink()
    assert "accepted the login 'any'" in check(basic.host, environment=environment, status=0).stdout


def test_a_file_that_is_named(basic, import_environment) -> None:
    """``--authfile``, the setting and REGISTRY_AUTH_FILE leave no other file of this kind, and it has to be there."""
    docker(import_environment, {"auths": {basic.host: entry("ann")}})
    named = docker(import_environment, {"auths": {basic.host: entry("ann")}}, "named.json")
    uri = f"docker://{basic.host}/app:1"
    for variable in ("REGISTRY_AUTH_FILE", "ENROOT_SLURM_AUTH_FILE"):
        said = check(basic.host, environment={**import_environment, variable: str(named)}, status=0).stdout
        assert f"{named} (" in said
    assert f"{named} (" in check("--authfile", str(named), basic.host, environment=import_environment, status=0).stdout
    for command in ("digest", "get"):
        assert enroot_slurm(command, "--authfile", named, uri, environment=import_environment).returncode == 0
    missing = f"{named}.gone"
    said = check("--authfile", missing, basic.host, environment=import_environment, status=4).stderr
    assert f"{missing}: the credentials can't be read" in said
    off = {**import_environment, "ENROOT_SLURM_CREDENTIAL_SOURCES": "netrc"}
    check(basic.host, environment=off, status=4)


def test_a_helper_in_path(basic, import_environment, tmp_path) -> None:
    """A program on PATH is asked by the command line, and by nobody when commands are off."""
    helper = tmp_path / "bin/docker-credential-test"
    helper.parent.mkdir()
    document = json.dumps({"Username": "ann", "Secret": SECRET})
    helper.write_text(f"#!/bin/sh\necho x >> {tmp_path}/asked\necho '{document}'\n")
    helper.chmod(0o755)
    environment = {**import_environment, "PATH": f"{helper.parent}:{import_environment['PATH']}"}
    file = docker(environment, {"auths": {basic.host: {}}, "credsStore": "test"})
    said = check(basic.host, environment=environment, status=0).stdout
    assert f"accepted the login 'ann' of {file} (credsStore, docker-credential-test)" in said
    assert (tmp_path / "asked").read_text() == "x\n"
    off = {**environment, "ENROOT_SLURM_CREDENTIAL_COMMANDS": "no"}
    assert "is not asked" in check(basic.host, environment=off, status=4).stderr
    assert (tmp_path / "asked").read_text() == "x\n"


def test_broken_files_stop_no_public_image(import_environment, tmp_path) -> None:
    """They are warned of when a registry asks for a login; one that does not ask makes nobody look."""
    write(import_environment, 'machine x login y password "')
    docker(import_environment, {}, ".dockercfg").write_text("{")
    docker(import_environment, {}).write_text("[]")
    with FaultRegistry() as open_to_all:
        uri = serve(open_to_all, Image([Layer().file("f", b"1")]))
        result = enroot_slurm("import", "-o", tmp_path / "1", uri, environment=import_environment)
        assert result.returncode == 0, result.stderr
        assert "credentials" not in result.stderr
    with FaultRegistry(auth="bearer", users={"ann": SECRET}, public=["app"]) as asking:
        uri = serve(asking, Image([Layer().file("f", b"1")]))
        result = enroot_slurm("import", "-o", tmp_path / "2", uri, environment=import_environment)
        assert result.returncode == 0, result.stderr
        for words in (".credentials:1: the double quote", ".docker/config.json: not a JSON", ".dockercfg:1: not valid"):
            assert result.stderr.count(words) == 1


def test_identity_tokens(import_environment) -> None:
    """An identity token is exchanged by POST; where that is not known, by GET."""
    with FaultRegistry(auth="bearer", users={"zero": "token-canary"}) as registry:
        uri = serve(registry, Image([Layer().file("f", b"1")]))
        registry.refresh_tokens["token-canary"] = "zero"
        docker(import_environment, {"auths": {registry.host: {**entry("zero", ""), "identitytoken": "token-canary"}}})
        assert enroot_slurm("digest", uri, environment=import_environment).returncode == 0
        (request,) = [r for r in registry.requests if r.path == "/token"]
        assert (request.method, request.authorization) == ("POST", "")
        registry.fault("^/token", method="POST", status=404)
        assert enroot_slurm("digest", uri, environment=import_environment).returncode == 0
        *_, request = [r for r in registry.requests if r.path == "/token"]
        assert (request.method, request.scheme) == ("GET", "Basic")


def test_a_token_for_the_registry(import_environment) -> None:
    """A ready token is sent to the registry, and its token service is not asked."""
    with FaultRegistry(auth="bearer", users={"ann": SECRET}) as registry:
        uri = serve(registry, Image([Layer().file("f", b"1")]))
        registry.tokens["ready-canary"] = "ann"
        docker(import_environment, {"auths": {registry.host: {"registrytoken": "ready-canary"}}})
        result = enroot_slurm("digest", uri, environment=import_environment)
        assert result.returncode == 0, result.stderr
        assert not [r for r in registry.requests if r.path == "/token"]


def test_logout_leaves_others_files(basic, import_environment) -> None:
    """A login of docker's is docker's to remove."""
    file = docker(import_environment, {"auths": {basic.host: entry("ann")}})
    before = file.read_bytes()
    result = enroot_slurm("logout", basic.host, environment=import_environment)
    assert result.returncode == 3
    assert f"There is one in {file} ({basic.host})" in result.stderr
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("text", "said"),
    [("library/ubuntu", "docker.io/ubuntu"), ("a:b@nvcr.io", "password"), ("nvcr.io:x", "not a registry")],
)
def test_what_is_no_registry(import_environment, text, said) -> None:
    """A mistake in the name is shown, with what would be right."""
    assert said in check(text, environment=import_environment, status=2).stderr
