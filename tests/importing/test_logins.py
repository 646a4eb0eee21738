"""Where logins are looked for: as a user, in hooks, in the site's name."""

from __future__ import annotations

import base64
import json
import os
import pwd
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.tools import require_root

from enroot_slurm.errors import AccessDenied
from enroot_slurm.importing import logins
from enroot_slurm.importing.logins import auth_paths, credentials_of, node_local
from enroot_slurm.registry import helpers
from enroot_slurm.settings.config import Config
from enroot_slurm.system.privilege import Identity, run

if TYPE_CHECKING:
    from collections.abc import Mapping

VARIABLES = ("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "DOCKER_CONFIG", "REGISTRY_AUTH_FILE", "DOCKER_AUTH_CONFIG")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home, and none of the variables that lead elsewhere."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def load(*, trusted: bool = False, **overrides: object) -> Config:
    return Config.load(site_file=None, user_file=None, enroot_conf=None, trusted=trusted, overrides=overrides)


def document(login: str) -> str:
    return json.dumps({"auths": {"h": {"auth": base64.b64encode(f"{login}:pw".encode()).decode()}}})


def write(file: Path, text: str) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o600)
    return file


@pytest.mark.parametrize(
    ("variables", "paths"),
    [
        ({}, ["/run/containers/{uid}/auth.json", ".config/containers/auth.json", ".docker/config.json", ".dockercfg"]),
        ({"XDG_RUNTIME_DIR": "{home}"}, ["containers/auth.json", "", "", ""]),
        ({"XDG_CONFIG_HOME": "/c", "DOCKER_CONFIG": "/d"}, ["", "/c/containers/auth.json", "/d/config.json", ""]),
        ({"REGISTRY_AUTH_FILE": "/x"}, ["/x"]),
    ],
)
def test_paths(home: Path, monkeypatch, variables: Mapping[str, str], paths: list[str]) -> None:
    """podman's places, then docker's; a file that is named is the only one."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(home=home))
    found = [each.path for each in auth_paths(load())]
    assert len(found) == len(paths)
    for path, expected in zip(found, paths, strict=True):
        assert not expected or path == home / expected.format(uid=os.geteuid())
    assert [each.path for each in auth_paths(load(auth_file="/named"))] == [Path("/named")]


def test_a_directory_of_roots_podman(monkeypatch) -> None:
    """podman of root makes /run/containers for root alone: no other user has a file in it, and nothing is wrong."""
    require_root("another user looks")
    nobody = Identity("nobody", 65534, 65534, (), "/")
    with tempfile.TemporaryDirectory(dir="/var/tmp") as closed:  # 0700
        monkeypatch.setattr(logins, "_PODMANS", closed)
        found = run(lambda: [str(each.path) for each in auth_paths(load(trusted=True))], nobody)
        assert not [path for path in found if path.startswith(closed)]
        monkeypatch.setenv("XDG_RUNTIME_DIR", f"{closed}/1000")
        config = load()
        try:
            os.seteuid(nobody.uid)
            doubt = auth_paths(config)[0].doubt
        finally:
            os.seteuid(0)
        assert "which is not here" in doubt
        assert f"{closed}/0/auth.json" in [str(each.path) for each in auth_paths(load(trusted=True))]


def test_a_runtime_directory_that_is_gone(home: Path, monkeypatch) -> None:
    """A job that has the login node's variable is told that the file is not here, and the next one is read."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(home / "gone"))
    write(home / ".docker/config.json", document("ann"))
    warnings: list[str] = []
    credentials = credentials_of("", load(), warnings.append, public=False)
    assert warnings == []
    assert credentials.find("h")
    assert len(warnings) == 1
    assert "gone, which is not here" in warnings[0]
    assert node_local(home / "gone/containers/auth.json")
    assert node_local(Path("/run/containers/5/auth.json"))
    assert not node_local(home / ".docker/config.json")


def test_hooks_see_no_environment(home: Path, monkeypatch) -> None:
    """A hook reads the files of the user that it runs as, whatever the variables say, and none of their texts."""
    for name in VARIABLES:
        monkeypatch.setenv(name, document("environment") if name == "DOCKER_AUTH_CONFIG" else str(home))
    config = load(trusted=True, credential_commands=False)
    real = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    assert [each.path for each in auth_paths(config)] == [
        Path(f"/run/containers/{os.geteuid()}/auth.json"),
        real / ".config/containers/auth.json",
        real / ".docker/config.json",
        real / ".dockercfg",
    ]
    named = load(trusted=True, auth_file=home / "empty", credential_commands=False)
    write(home / "empty", "{}")
    assert credentials_of("", named, lambda _: None, public=False).find("h") is None


@pytest.mark.parametrize("commands", [False, True])
def test_hooks_run_no_helpers(home: Path, monkeypatch, commands: bool) -> None:
    """Unless the site says so."""
    monkeypatch.setattr(helpers, "_answers", {})
    answer = json.dumps({"Username": "ann", "Secret": "s"})
    program = write(home / "bin/docker-credential-x", f"#!/bin/sh\necho '{answer}'; touch {home}/ran\n")
    program.chmod(0o700)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")
    file = write(home / "named", '{"credsStore": "x"}')
    config = load(trusted=True, auth_file=file, credential_commands=commands)
    credentials = credentials_of("", config, lambda _: None, public=False)
    if commands:
        assert credentials.find("h")
    else:
        with pytest.raises(AccessDenied, match="is not asked"):
            credentials.find("h")
    assert (home / "ran").exists() == commands


@pytest.mark.parametrize(
    ("listed", "login"),
    [
        ('["x"]', "x"),
        ('["none", "x", "y"]', "x"),
        ('["containers-auth.json", "x"]', "file"),
        ('["none", "containers-auth.json", "x"]', "file"),
        ('["none"]', "file"),
        ("[]", "file"),
    ],
)
def test_helpers_of_registries_conf(home: Path, monkeypatch, listed: str, login: str) -> None:
    """They are asked in their order, before the files of docker and podman, or after them, as the list says."""
    monkeypatch.setattr(helpers, "_answers", {})
    monkeypatch.setenv("PATH", f"{home}/bin:{os.environ['PATH']}")
    for name in ("x", "y"):
        answer = json.dumps({"Username": name, "Secret": "s"})
        write(home / f"bin/docker-credential-{name}", f"#!/bin/sh\necho '{answer}'\n").chmod(0o700)
    none = write(
        home / "bin/docker-credential-none", "#!/bin/sh\necho credentials not found in native keychain; exit 1\n"
    )
    none.chmod(0o700)
    write(home / ".docker/config.json", document("file"))
    conf = write(home / "registries.conf", f"credential-helpers = {listed}\n")
    credential = credentials_of("", load(registries_conf=conf), pytest.fail, public=False).find("h")
    assert credential
    assert credential.login == login
    if login == "x":
        assert credential.source == f"{conf} (credential-helpers, docker-credential-x)"


@pytest.mark.parametrize("text", [document("site"), "machine h login site password pw"])
def test_the_site(home: Path, text: str) -> None:
    """In the site's name, only the file that it names counts, in either form."""
    write(home / ".docker/config.json", document("user"))
    write(home / ".config/enroot/.credentials", "default login user password pw")
    config = load(site_credentials=write(home / "site", text), shared_cache=home / "cache")
    credential = credentials_of("", config, lambda _: None, public=True).find("h")
    assert credential
    assert credential.login == "site"
    assert credentials_of("", load(), lambda _: None, public=True).find("h") is None


@pytest.mark.parametrize(
    ("sources", "login"), [(["netrc"], "line"), (["docker"], "docker"), (["docker", "netrc"], "line"), ([], None)]
)
def test_families(home: Path, sources: Any, login: str | None) -> None:
    """credential_sources turns each of them off; the order stays."""
    write(home / ".docker/config.json", document("docker"))
    write(home / ".config/enroot/.credentials", "machine h login line password pw")
    credential = credentials_of("", load(credential_sources=sources), lambda _: None, public=False).find("h")
    assert (credential and credential.login) == login
