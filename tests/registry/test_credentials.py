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
from enroot_slurm.registry import netrc, programs
from enroot_slurm.registry.credentials import Credential, Credentials, Secret, read_logins

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
        "Machine nvcr.io LOGIN $oauthtoken PassWord abc#d",
        "\ufeffmachine nvcr.io login $oauthtoken password abc#d",
        "account x machine nvcr.io port 443 login $oauthtoken protocol https password abc#d",
        "login early password early machine nvcr.io login $oauthtoken password abc#d machine",
        "machine nvcr.io login $oauthtoken password abc#d two words",
        '"machine" nvcr.io login $oauthtoken password abc#d password',
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


def test_spaces_in_words(load: Load):
    """Words end at blanks, tabs and line ends, and at nothing else that Unicode calls a space."""
    password = "a\u00a0b\u2003c\u3000d\x0b\x0ce\x85f\u2028g"
    assert pair(load(f"machine h login ann password {password}\n").find("h")) == ("ann", password)


def test_bytes(tmp_path: Path):
    """A password need not be UTF-8, and is sent as it stands."""
    path = tmp_path / "c"
    path.write_bytes(b"machine h login ann password p\xe4ss\xff")
    found = Credentials.load(path, run_commands=False).find("h")
    assert found
    assert found.secret.reveal().encode("utf-8", "surrogateescape") == b"p\xe4ss\xff"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('machine h\nlogin ann\npassword "hunter2', 3),
        ("machine h\npassword $(hunter2 (x)", 2),
        ("machine h login \x00hunter2", 1),
        ('# hunter2\n"hunter2', 2),
    ],
)
def test_errors(tmp_path: Path, load: Load, text: str, line: int):
    """What can't be read is a warning, with file and line and never with content, and there are no logins."""
    warnings: list[str] = []
    credentials = load(text, warn=warnings.append)
    assert credentials.find("h") is None
    assert credentials.find("h") is None
    (warning,) = warnings
    assert f"{tmp_path}/.credentials:{line}: " in warning
    with pytest.raises(ConfigError) as caught:
        read_logins(tmp_path / ".credentials", run_commands=False)
    told = f"{warning} {caught.value} {caught.value.hint}".replace(str(tmp_path), "")
    assert "hunter2" not in told


def test_odd_files(tmp_path: Path):
    """Only a regular file of a sensible size is read, and a fifo does not block; the rest is a warning."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "large").write_bytes(b"#" * (65 << 10))
    (tmp_path / "huge").write_bytes(b"{" + b" " * (1 << 20))
    words = {
        "directory": "not a regular file",
        "fifo": "not a regular file",
        "large": "larger than 64 KiB",
        "huge": "larger than 1024 KiB",
    }
    for name, said in words.items():
        warnings: list[str] = []
        credentials = Credentials.load(tmp_path / name, run_commands=False, warn=warnings.append)
        assert not warnings, "nothing is read before it is asked for"
        assert credentials.find("h") is None
        assert len(warnings) == 1
        assert said in warnings[0]


def test_machines_that_are_urls(load: Load, tmp_path: Path):
    """curl never finds them: a warning says what was meant."""
    warnings: list[str] = []
    text = "machine https://h.example/v2/ login a password hunter2\nmachine h/x login a password b"
    assert load(text, warn=warnings.append).find("h.example") is None
    assert warnings == [
        f"{tmp_path}/.credentials:1: a machine is a host, not a URL: write machine h.example",
        f"{tmp_path}/.credentials:2: a machine is a host, not a URL: write machine h",
    ]


def test_strict(tmp_path: Path):
    """In the site's name, a port that is not named gets nothing, and nobody gets the default."""
    path = tmp_path / "c"
    path.write_text("machine a login x password p machine b:5 login y password p default login any password p")
    path.chmod(0o600)
    credentials = Credentials.load(path, run_commands=False, strict=True)
    found = {host: bool(credentials.find(host)) for host in ("a", "a:5", "b", "b:5", "c")}
    assert found == {"a": True, "a:5": False, "b": False, "b:5": True, "c": False}


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
    warnings: list[str] = []
    credentials = Credentials.load(path, run_commands=False, warn=warnings.append)
    assert pair(credentials.find("h")) == ("ann", "pw")
    assert len(warnings) == bool(words)
    assert all(words in w and "chmod 600" in w for w in warnings)


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
    monkeypatch.setattr(programs, "TIMEOUT", 0.2)
    credentials = load("machine h login x password $(sleep 60; echo pw)", run_commands=True)
    with pytest.raises(ConfigError, match=r"took longer than 0\.2 s"):
        credentials.find("h")


@given(st.text(), st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"])))
def test_quoting_law(noise: str, password: str):
    """Whatever is quoted comes back; whatever the file holds ends in entries or a ConfigError."""
    escaped = password.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    (entry,) = netrc.parse(f'machine h password "{escaped}"', "f")
    assert entry.password == netrc.NetrcWord(password)
    written = f"machine h login {netrc.quoted(password)} password {netrc.quoted(password, password=True)} login"
    (entry,) = netrc.parse(written, "f")
    assert (entry.login, entry.password) == (password, netrc.NetrcWord(password))
    assert written[entry.start : entry.end] + " login" == written
    with suppress(ConfigError):
        netrc.parse(noise, "f")
