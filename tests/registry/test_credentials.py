"""The credentials file: netrc as enroot and curl read it, and what it must never do."""

from __future__ import annotations

import copy
import os
import pickle
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.errors import AccessDenied, ConfigError
from enroot_slurm.registry import credentials as module
from enroot_slurm.registry import netrc
from enroot_slurm.registry.credentials import Credential, Credentials, Secret

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    Load = Callable[..., Credentials]


def pair(credential: Credential | None) -> tuple[str, str] | None:
    return credential and (credential.login, credential.secret.reveal())


def test_secret_hides():
    """A secret shows itself in no text, and can't be stored."""
    secret = Secret("hunter2")
    assert {repr(secret), str(secret), f"{secret}", f"{secret:s}", "%s" % secret, f"{secret!r}"} == {"***"}  # noqa: UP031
    assert "hunter2" not in repr(Credential("ann", secret, "f:1"))
    assert secret == Secret("hunter2") != Secret("other")
    assert secret != "hunter2"
    assert secret.reveal() == "hunter2"
    with pytest.raises(TypeError):
        pickle.dumps(secret)
    with pytest.raises(TypeError):
        copy.deepcopy(secret)
    with pytest.raises(AttributeError):
        secret.__dict__


def test_entries_hide(load: Load):
    """Nor does the file's content by way of the parser's values."""
    entries = netrc.parse("machine h login ann password hunter2", "f")
    assert "hunter2" not in repr(entries)
    assert "hunter2" not in repr(load("machine h login ann password hunter2"))


@pytest.mark.parametrize(
    "text",
    [
        "machine nvcr.io login $oauthtoken password abc#d",
        "machine nvcr.io\n  login $oauthtoken\n  password abc#d\n",
        "# comment\n\nmachine nvcr.io login $oauthtoken # mine\n\tpassword abc#d # and this\n",
        "machine\tnvcr.io\r\nlogin $oauthtoken\r\npassword abc#d\r\n",
        'machine nvcr.io login "$oauthtoken" password "abc#d"',
        "machine nvcr.io password abc#d account x login $oauthtoken",
        "machine NVCR.IO login $oauthtoken password abc#d",
        "macdef init\ncd /x\nmachine nvcr.io login x password x\n\nmachine nvcr.io login $oauthtoken password abc#d",
    ],
)
def test_forms(load: Load, text: str):
    """The ways in which people and tools write an entry."""
    assert pair(load(text).find("nvcr.io")) == ("$oauthtoken", "abc#d")


def test_quotes(load: Load):
    """Double quotes hold spaces and, after backslashes, anything (curl 7.84)."""
    text = r'machine h login "a b" password "q\"\\x\n\t\y$(no)#"'
    assert pair(load(text).find("h")) == ("a b", 'q"\\x\n\ty$(no)#')


def test_long_password(load: Load):
    """Tokens may be long: ECR's have more than 4096 characters."""
    assert pair(load(f"machine h login AWS password {'x' * 9000}").find("h")) == ("AWS", "x" * 9000)


def test_missing_file(tmp_path: Path):
    """No file, no credentials."""
    assert Credentials.load(tmp_path / "none", run_commands=True).find("h") is None
    assert Credentials.load(tmp_path / "none" / "x", run_commands=True).find("h") is None


@pytest.mark.parametrize(
    ("host", "user", "login"),
    [
        ("h.example", "", "first"),
        ("H.Example", "", "first"),
        ("h.example", "second", "second"),
        ("h.example", "nobody", None),
        ("h.example:5000", "", "port"),
        ("h.example:5001", "", "first"),
        ("h.example:5000", "first", "first"),
        ("example", "", "any"),
        ("x.h.example", "", "any"),
        ("[::1]:5000", "", "six"),
        ("[::1]", "", "six"),
        ("incomplete", "", "any"),
    ],
)
def test_choice(load: Load, host: str, user: str, login: str | None):
    """Hosts are compared exactly; a port is more specific; `default` is the last resort."""
    text = """
    default login any password p
    machine incomplete login x
    machine h.example login first password p
    machine h.example login second password p
    machine h.example:5000 login port password p
    machine ::1 login six password p
    """
    found = load(text).find(host, user)
    assert (found and found.login) == login


def test_exact_leaves_default_out(load: Load):
    """`default` is never meant for a host that a registry names."""
    credentials = load("machine a login x password p\ndefault login any password p")
    assert credentials.find("b", exact=True) is None
    assert pair(credentials.find("b")) == ("any", "p")
    assert credentials.has("b")
    assert not credentials.has("b", "other")


@pytest.mark.parametrize(
    "name", ["docker.io", "registry-1.docker.io", "index.docker.io", "auth.docker.io", "registry.hub.docker.com"]
)
def test_docker_hub_is_one(load: Load, name: str):
    """An entry for any of Docker Hub's names is for all of them."""
    assert pair(load(f"machine {name} login ann password pw").find("registry-1.docker.io")) == ("ann", "pw")
    assert pair(load(f"machine {name} login ann password pw").find("auth.docker.io")) == ("ann", "pw")


def test_source(load: Load, tmp_path: Path):
    """A credential knows its file and line."""
    found = load("\n# x\nmachine h\nlogin ann\npassword pw").find("h")
    assert found
    assert found.source == f"{tmp_path}/.credentials:3"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("machine h login ann password two words", 1),
        ("\nlogin ann password hunter2", 2),
        ("machine h\nlogin ann\npassword", 3),
        ('machine h\nlogin ann\npassword "hunter2', 3),
        ("machine h\npassword $(hunter2 (x)", 2),
        ("machine h login hunter2\nbogus hunter2", 2),
        ("machine h login \x00hunter2", 1),
        ("machine", 1),
    ],
)
def test_errors(load: Load, text: str, line: int):
    """Mistakes are shown with file and line, never with content."""
    with pytest.raises(ConfigError, match=rf"\.credentials:{line}: ") as caught:
        load(text)
    assert "hunter2" not in f"{caught.value} {caught.value.hint}"
    assert "words" not in str(caught.value)


def test_odd_files(tmp_path: Path):
    """Only a regular text file of a sensible size is read, and a fifo does not block."""
    path = tmp_path / "c"
    path.mkdir()
    with pytest.raises(ConfigError, match=r"not a regular file|can't be read"):
        Credentials.load(path, run_commands=False)
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with pytest.raises(ConfigError, match="not a regular file"):
        Credentials.load(fifo, run_commands=False)
    large = tmp_path / "large"
    large.write_bytes(b"#" * (65 << 10))
    with pytest.raises(ConfigError, match="larger than 64 KiB"):
        Credentials.load(large, run_commands=False)
    binary = tmp_path / "binary"
    binary.write_bytes(b"\n\xff")
    with pytest.raises(ConfigError, match="binary:2: not UTF-8"):
        Credentials.load(binary, run_commands=False)


def test_symbolic_link(load: Load, tmp_path: Path):
    """People link their dotfiles."""
    load("machine h login ann password pw")
    (tmp_path / "link").symlink_to(".credentials")
    assert pair(Credentials.load(tmp_path / "link", run_commands=False).find("h")) == ("ann", "pw")


@pytest.mark.parametrize(
    ("mode", "words"), [(0o600, ""), (0o400, ""), (0o640, "read"), (0o604, "read"), (0o620, "write")]
)
def test_mode(tmp_path: Path, mode: int, words: str):
    """A file that others can read or write is used, with a warning."""
    path = tmp_path / "c"
    path.write_text("machine h login ann password pw")
    path.chmod(mode)
    credentials = Credentials.load(path, run_commands=False)
    assert len(credentials.warnings) == bool(words)
    assert all(words in w and "chmod 600" in w for w in credentials.warnings)
    assert pair(credentials.find("h")) == ("ann", "pw")


COMMAND = (
    "machine other login x password $(touch RAN)\nmachine h login AWS password $(printf '%s' \"a (b\"; echo ' c')\n"
)


def test_command(load: Load, tmp_path: Path, monkeypatch):
    """`$(...)` may hold spaces, quotes and parentheses; it is run for the chosen entry alone, once."""
    monkeypatch.chdir(tmp_path)
    credentials = load(COMMAND, run_commands=True)
    assert pair(credentials.find("h")) == ("AWS", "a (b c")
    assert not (tmp_path / "RAN").exists()
    counted = load("machine h login x password $(echo x >> COUNT; echo pw)", run_commands=True)
    assert pair(counted.find("h")) == pair(counted.find("h")) == ("x", "pw")
    assert (tmp_path / "COUNT").read_text() == "x\n"


@pytest.mark.parametrize("password", ["$(touch RAN)", "$HOME", "${HOME}"])
def test_commands_off(load: Load, tmp_path: Path, monkeypatch, password: str):
    """Nothing is evaluated unless that is turned on; the hint says how."""
    monkeypatch.chdir(tmp_path)
    credentials = load(f"machine h login x password {password}")
    assert credentials.has("h")
    with pytest.raises(AccessDenied, match=r"\.credentials:1: ") as caught:
        credentials.find("h")
    assert "credential_commands" in caught.value.hint
    assert not (tmp_path / "RAN").exists()


@pytest.mark.parametrize("mode", [0o620, 0o602])
def test_commands_of_others(tmp_path: Path, mode: int):
    """Commands that others could have written are not run."""
    path = tmp_path / "c"
    path.write_text(f"machine h login x password $(touch {tmp_path}/RAN; echo pw)")
    path.chmod(mode)
    with pytest.raises(AccessDenied, match="other users may write"):
        Credentials.load(path, run_commands=True).find("h")
    assert not (tmp_path / "RAN").exists()


def test_variable(load: Load, monkeypatch):
    """`$NAME` and `${NAME}` are variables of the environment; a login is never evaluated."""
    monkeypatch.setenv("MY_TOKEN", "a  *b")
    for password in ("$MY_TOKEN", "${MY_TOKEN}"):
        assert pair(load(f"machine h login $MY_TOKEN password {password}", run_commands=True).find("h")) == (
            "$MY_TOKEN",
            "a  *b",
        )
    assert pair(load('machine h login x password "$MY_TOKEN"', run_commands=True).find("h")) == ("x", "$MY_TOKEN")
    assert pair(load("machine h login x password $ome!pa$$word", run_commands=True).find("h")) == ("x", "$ome!pa$$word")
    monkeypatch.delenv("MY_TOKEN")
    with pytest.raises(ConfigError, match="variable that is not set"):
        load("machine h login x password $MY_TOKEN", run_commands=True).find("h")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("$(echo hunter2; exit 3)", "ended with status 3"),
        ("$(true)", "printed no password"),
        ("$(printf 'a\\033b')", "printed no password"),
        ("$(yes hunter2 | head -c 100000)", "more than 64 KiB"),
    ],
)
def test_command_fails(load: Load, command: str, words: str):
    """A command that fails is an error that does not show what it printed."""
    credentials = load(f"machine h login x password {command}", run_commands=True)
    with pytest.raises(ConfigError, match=words) as caught:
        credentials.find("h")
    assert "hunter2" not in str(caught.value)


def test_command_timeout(load: Load, monkeypatch):
    """A command that hangs is ended, with all that it started."""
    monkeypatch.setattr(module, "_COMMAND_TIMEOUT", 0.2)
    credentials = load("machine h login x password $(sleep 60; echo pw)", run_commands=True)
    with pytest.raises(ConfigError, match=r"took longer than 0\.2 s"):
        credentials.find("h")


@given(st.text(), st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_quoting_law(noise: str, password: str):
    """Whatever is quoted comes back; whatever the file holds ends in entries or a ConfigError."""
    escaped = password.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    (entry,) = netrc.parse(f'machine h password "{escaped}"', "f")
    assert entry.password == netrc.NetrcWord(password)
    with suppress(ConfigError):
        netrc.parse(noise, "f")
