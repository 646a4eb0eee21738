"""The command line as users and scripts meet it: exit status, what is on which stream, and what is told to nobody."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import Running, enroot_slurm, processes_of, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Index, Layer

import enroot_slurm as package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

COMMANDS = ["import", "digest", "config", "version"]


@pytest.fixture
def faulty() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture
def run(import_environment: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs the command; keyword arguments are variables, of which None unsets one."""
    (tmp_path / "work").mkdir()

    def run(*arguments: object, **variables: str | None) -> subprocess.CompletedProcess[str]:
        environment = {k: v for k, v in {**import_environment, **variables}.items() if v is not None}
        result = enroot_slurm(*arguments, environment=environment, cwd=tmp_path / "work")
        assert "Traceback" not in result.stderr
        return result

    return run


def image() -> Image:
    return Image([Layer().file("f", b"content")])


# Usage and help.


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["frobnicate"],
        ["import"],
        ["import", "--frobnicate", "docker://x"],
        ["import", "docker://x", "docker://y"],
        ["import", "-o"],
        ["digest"],
        ["config", "extra"],
        ["--verbose", "version"],
    ],
    ids=" ".join,
)
def test_wrong_usage(arguments, run) -> None:
    """What the command line can't mean is status 2, argparse's usage on stderr, and nothing on stdout."""
    result = run(*arguments)
    assert result.returncode == 2
    assert result.stdout == ""
    assert result.stderr.startswith("usage: enroot-slurm")
    assert "error: " in result.stderr


@pytest.mark.parametrize(
    ("uri", "words"),
    [
        ("ubuntu", "docker://"),
        ("docker://", "docker://"),
        ("", "docker://"),
        ("http://x/y", "docker://"),
        ("docker://UPPER/case", "lower"),
        pytest.param(
            *("docker://user:secret@host/x", ".credentials"),
        ),
        ("docker://x\x1b[31m", "\\x1b"),
        ("docker://x@sha256:12", "sha256"),
    ],
)
def test_wrong_references(uri, words, run) -> None:
    """A reference that names no image is status 2 and says what was expected; it is escaped, and no file is made."""
    result = run("import", "--", uri)
    assert result.returncode == 2, result.stderr
    assert words.lower() in result.stderr.lower()
    assert result.stderr.startswith("enroot-slurm: ")
    assert "\x1b" not in result.stderr
    assert "secret" not in result.stderr
    assert result.stdout == ""


def test_a_uri_after_two_dashes(faulty, run, tmp_path) -> None:
    """``--`` ends the options; one that looks like an option is then a (wrong) reference."""
    uri = serve(faulty, image())
    assert run("import", "-o", tmp_path / "x", "--", uri).returncode == 0
    result = run("import", "--", "-o")
    assert result.returncode == 2
    assert "usage:" not in result.stderr


@pytest.mark.parametrize("arguments", [[], *([c] for c in COMMANDS)], ids=" ".join)
def test_help(arguments, run) -> None:
    """Every command's help is on stdout and lists the exit status."""
    result = run(*arguments, "--help")
    assert (result.returncode, result.stderr) == (0, "")
    assert result.stdout.startswith("usage: enroot-slurm")
    assert "exit status:" in result.stdout
    assert "128+N" in result.stdout
    assert max(map(len, result.stdout.splitlines())) <= 120


def test_version(run) -> None:
    """The version, in both ways."""
    for arguments in (["version"], ["--version"]):
        result = run(*arguments)
        assert (result.returncode, result.stdout, result.stderr) == (0, f"enroot-slurm {package.__version__}\n", "")


def test_the_installed_script(import_environment) -> None:
    """The script that pip installs is the command."""
    script = Path(sys.executable).with_name("enroot-slurm")
    if not script.exists():
        pytest.skip("the package is not installed beside this Python")
    result = subprocess.run([script, "version"], capture_output=True, text=True, check=True, env=import_environment)
    assert result.stdout == f"enroot-slurm {package.__version__}\n"


# What goes to which stream.


def test_import_tells_on_stderr_only(faulty, run, tmp_path) -> None:
    """stdout stays empty; stderr has the phases and a summary; -v adds the digest; -q is silent."""
    uri = serve(faulty, image())
    result = run("import", "-o", tmp_path / "x", uri)
    assert (result.returncode, result.stdout) == (0, "")
    lines = result.stderr.splitlines()
    assert [line.split()[1] for line in lines[:3]] == ["resolving", "importing", "joining"]
    assert lines[3].split()[1] == "publishing"
    assert lines[4].startswith(f"{tmp_path / 'x'}: ")
    assert len(lines) == 5
    result = run("import", "-v", "-f", "-o", tmp_path / "x", uri)
    assert f"digest sha256:{digest_of(image())}" in result.stderr
    result = run("import", "-q", "-f", "-o", tmp_path / "x", uri)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def digest_of(image: Image) -> str:
    import hashlib

    return hashlib.sha256(image.manifest()).hexdigest()


def test_the_default_output(faulty, run, tmp_path) -> None:
    """Without --output, the file has enroot's name in the current directory."""
    assert run("import", serve(faulty, image(), "team/app", "1.0")).returncode == 0
    assert os.listdir(tmp_path / "work") == ["team+app+1.0.sqsh"]


def test_digest_prints_the_digest(faulty, run, tmp_path) -> None:
    """stdout is the digest and a newline, for scripts; it makes no file and needs no cache."""
    uri = serve(faulty, image())
    (tmp_path / "file").touch()
    for arguments in (["digest", uri], ["digest", "-q", uri]):
        result = run(*arguments, ENROOT_CACHE_PATH=str(tmp_path / "file" / "cache"))  # which root can't make, either
        assert (result.returncode, result.stdout) == (0, f"sha256:{digest_of(image())}\n")
    assert result.stderr == ""
    assert faulty.count("/blobs/") == 0


ARCHITECTURES = {
    "amd64": ["amd64", "x86_64", "x86-64", "linux/amd64", "AMD64", "amd64/v3"],
    "arm64": ["arm64", "aarch64", "linux/arm64", "arm64/v8"],
    "arm": ["armv7l", "armhf", "arm/v7"],
    "ppc64le": ["ppc64le"],
    "riscv64": ["riscv64"],
    "s390x": ["s390x"],
    "386": ["386", "i386", "i686", "x86"],
}


def test_architectures(push, run) -> None:
    """-a takes the names of uname and of Docker; an unknown one is status 2 and lists what is known."""
    images = {name: image().on(name, "v7" if name == "arm" else "") for name in ARCHITECTURES}
    uri = push(Index(list(images.values())))
    # One by the command, the others by the function behind it: a process each would take long.
    result = run("digest", "-q", "-a", "aarch64", uri)
    assert result.stdout == f"sha256:{digest_of(images['arm64'])}\n", result.stderr
    code = """if True:
        import sys
        from enroot_slurm import resolve_digest
        for arch in sys.argv[2:]:
            print(resolve_digest(sys.argv[1], arch=arch))
    """
    everything = [s for spellings in ARCHITECTURES.values() for s in spellings]
    found = subprocess.run(
        [sys.executable, "-c", code, uri, *everything],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "ENROOT_ALLOW_HTTP": "y"},
    ).stdout.split()
    wanted = [f"sha256:{digest_of(images[name])}" for name, spellings in ARCHITECTURES.items() for _ in spellings]
    assert found == wanted
    for wrong in ("vax", "windows/amd64"):
        result = run("digest", "-a", wrong, uri)
        assert result.returncode == 2, wrong
        assert "x86_64" in result.stderr


# Settings.


def test_config(run) -> None:
    """Every setting with its value and where that is from; with --json the same for programs."""
    result = run("config", ENROOT_MAX_CONNECTIONS="7")
    assert (result.returncode, result.stderr) == (0, "")
    rows = result.stdout.splitlines()
    assert any(row.split() == ["max_connections", "7", "[environment", "ENROOT_MAX_CONNECTIONS]"] for row in rows)
    document = json.loads(run("config", "--json", ENROOT_MAX_CONNECTIONS="7").stdout)
    assert len(document) == len(rows)
    assert document["max_connections"] == {
        "key": "max_connections",
        "variable": "ENROOT_MAX_CONNECTIONS",
        "value": "7",
        "source": "environment ENROOT_MAX_CONNECTIONS",
    }


def test_wrong_settings(run, tmp_path) -> None:
    """All problems of all sources at once, with status 2, before any request; each names its place."""
    file = tmp_path / "user.yaml"
    file.write_text("max_conections: 3\nallow_http: maybe\n")
    variables = {"ENROOT_SLURM_CONFIG": str(file), "ENROOT_CONNECT_TIMEOUT": "soon"}
    for arguments in (["config"], ["import", "-q", "docker://127.0.0.1:1/x"]):
        result = run(*arguments, **variables)
        assert result.returncode == 2
        assert f"{file}:1:1: " in result.stderr
        assert "did you mean 'max_connections'?" in result.stderr
        assert f"{file}:2:13: " in result.stderr
        assert "ENROOT_CONNECT_TIMEOUT" in result.stderr


def test_config_check(run, tmp_path) -> None:
    """A good file is status 0; a bad one 2, with FILE:LINE:COLUMN for each problem, also of enroot.conf."""
    good, bad, conf = (tmp_path / name for name in ("good.yaml", "bad.yaml", "enroot.conf"))
    good.write_text("max_connections: 4\ncache_path: /scratch/$USER\n")
    bad.write_text("max_connections: many\nallow_http: yes\nnonsense: 1\n")
    conf.write_text("ENROOT_MAX_CONNECTIONS 5\nENROOT_ALLOW_HTTP perhaps\n")
    result = run("config", "--check", good)
    assert (result.returncode, result.stderr) == (0, ""), result.stderr
    assert result.stdout == f"{good}: no problems\n"
    assert run("config", "-q", "--check", good).stdout == ""
    for file, place in ((bad, f"{bad}:3:"), (conf, f"{conf}:2:"), (tmp_path / "none.yaml", f"{tmp_path}/none.yaml: ")):
        result = run("config", "--check", file)
        assert (result.returncode, result.stdout) == (2, "")
        assert place in result.stderr
        assert all(line.startswith(str(file)) for line in result.stderr.splitlines())


# Exit status by what is wrong.


def test_connection_refused(run) -> None:
    """5, after the retries; the host and a hint are named."""
    result = run("import", "docker://127.0.0.1:1/x", ENROOT_TRANSFER_RETRIES="0")
    assert result.returncode == 5
    assert "127.0.0.1:1: the connection was refused" in result.stderr


def test_unknown_host(run) -> None:
    """5, at once: a name that does not exist won't in a moment."""
    result = run("import", "docker://registry.invalid/x", ENROOT_TRANSFER_RETRIES="0")
    assert result.returncode == 5
    assert "registry.invalid" in result.stderr


def test_not_found(faulty, run) -> None:
    """3 for a tag and a repository that are not there."""
    serve(faulty, image())
    for name in ("app:2", "other:1"):
        result = run("digest", f"docker://{faulty.host}#{name}")
        assert (result.returncode, result.stdout) == (3, "")
        assert name.partition(":")[0] in result.stderr


def test_denied(run) -> None:
    """4 without a login and with a wrong one; the message names the file where a login belongs."""
    with FaultRegistry(auth="basic", users={"ann": "x"}) as closed:
        result = run("digest", serve(closed, image()))
    assert result.returncode == 4
    assert ".credentials" in result.stderr


def test_platform_missing(push, run) -> None:
    """3, and the platforms that there are."""
    result = run("digest", "-a", "s390x", push(Index([image(), image().on("arm64", "v8")])))
    assert result.returncode == 3
    assert "linux/amd64" in result.stderr
    assert "linux/arm64" in result.stderr


def test_wrong_digests(faulty, run, tmp_path) -> None:
    """6 where a registry's bytes are not those of the digest: of a blob, and of a manifest."""
    uri = serve(faulty, image())
    faulty.fault(image().blobs()[0].digest, flip=5)
    result = run("import", uri)
    assert result.returncode == 6
    assert image().blobs()[0].digest.removeprefix("sha256:") in result.stderr
    assert os.listdir(tmp_path / "work") == []
    faulty.heal()
    shutil.rmtree(tmp_path / "cache/manifests")
    faulty.fault("/manifests/", flip=5)
    assert run("digest", f"{uri}@sha256:{digest_of(image())}").returncode == 6


def test_existing_file(run, tmp_path) -> None:
    """7 before any request, and the file is as it was; --force is named."""
    (tmp_path / "work" / "x").write_text("precious")
    result = run("import", "-o", "x", "docker://127.0.0.1:1/x")
    assert result.returncode == 7
    assert "file already exists" in result.stderr
    assert "--force" in result.stderr
    assert (tmp_path / "work" / "x").read_text() == "precious"


NO_LZO = """
import ctypes

class Library(ctypes.CDLL):
    def __init__(self, name, *more, **options):
        if name and "lzo" in name:
            raise OSError(f"{name}: cannot open shared object file")
        super().__init__(name, *more, **options)

ctypes.CDLL = Library
"""


def test_a_compressor_that_is_missing(faulty, run, tmp_path) -> None:
    """8 before a layer is fetched, with the package that lacks."""
    (tmp_path / "site").mkdir()
    (tmp_path / "site/sitecustomize.py").write_text(NO_LZO)
    options = {"ENROOT_SQUASH_OPTIONS": "-comp lzo", "PYTHONPATH": f"{tmp_path}/site:{Path.cwd()}"}
    result = run("import", serve(faulty, made := image()), **options)
    assert result.returncode == 8, result.stderr
    assert "'-comp lzo' needs a library" in result.stderr
    assert "liblzo2-2" in result.stderr
    assert faulty.count(f"/blobs/{made.blobs()[0].digest}") == 0
    assert os.listdir(tmp_path / "work") == []


# Streams that are not there.


def test_broken_pipe(faulty, import_environment, tmp_path) -> None:
    """A reader of stdout or stderr that has gone makes no noise, and does not hinder an import."""
    uri = serve(faulty, image())
    reading, writing = os.pipe()
    os.close(reading)
    try:
        for arguments in (["digest", "-q", uri], ["--help"], ["config"], ["version"]):
            result = enroot_slurm(
                *arguments, environment=import_environment, capture_output=False, stdout=writing, stderr=subprocess.PIPE
            )
            assert result.returncode == (0 if "--help" in arguments else 1), arguments
            assert result.stderr == ""
        result = enroot_slurm(
            *("import", "-o", tmp_path / "x", uri),
            environment=import_environment,
            capture_output=False,
            stdout=subprocess.PIPE,
            stderr=writing,
        )
        assert (result.returncode, result.stdout) == (0, "")
        assert (tmp_path / "x").exists()
    finally:
        os.close(writing)


def test_a_full_disk_behind_stdout(import_environment) -> None:
    """Output that can't be written is an error, told on stderr without a traceback."""
    with open("/dev/full", "w") as full:
        result = enroot_slurm(
            "version", environment=import_environment, capture_output=False, stdout=full, stderr=subprocess.PIPE
        )
    assert result.returncode == 7
    assert "No space left" in result.stderr
    assert "Traceback" not in result.stderr
    assert "Exception ignored" not in result.stderr


@pytest.mark.parametrize("how", [[], ["-q"], ["--progress=json"]], ids=str)
def test_a_full_disk_behind_stderr(faulty, import_environment, how) -> None:
    """Messages that nobody can read are no error: the image is there, and its path is told."""
    uri = serve(faulty, image())
    with open("/dev/full", "w") as full:
        result = enroot_slurm(
            "get", *how, uri, environment=import_environment, capture_output=False, stdout=subprocess.PIPE, stderr=full
        )
    assert result.returncode == 0
    assert Path(result.stdout.strip()).exists()


def test_closed_streams(faulty, import_environment, tmp_path) -> None:
    """A process that is started without standard streams works, and writes no message into a file of its own."""
    uri = serve(faulty, image())
    shell = f'exec "{sys.executable}" -m enroot_slurm import -o "$1" "$2" <&- >&- 2>&-'
    subprocess.run(["sh", "-c", shell, "sh", tmp_path / "x", uri], check=True, env=import_environment)
    listing = subprocess.run(["unsquashfs", "-ls", tmp_path / "x"], capture_output=True, text=True, check=True).stdout
    assert "squashfs-root/f" in listing
    for blob in Path(import_environment["ENROOT_CACHE_PATH"]).glob("blobs/*/*"):
        assert b"enroot-slurm" not in blob.read_bytes()


def test_a_result_that_nobody_can_read() -> None:
    """A command whose result is a text fails where its standard output is closed; there is no traceback."""
    shell = f'exec "{sys.executable}" -m enroot_slurm version >&-'
    result = subprocess.run(["sh", "-c", shell], check=False, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (
        7,
        "enroot-slurm: can't write to the standard output: Bad file descriptor\n",
    )


# Secrets.


@pytest.mark.parametrize("scheme", ["basic", "bearer"])
def test_secrets(scheme, import_environment, tmp_path) -> None:
    """A password and a token are in no message, no argument, no environment, and nowhere in the cache."""
    password = "CANARY+/'\"$pw"
    content = Image([Layer().file("f", noise(2_000_000))], compression="gzip")
    release = threading.Event()
    output, log = tmp_path / "x.sqsh", tmp_path / "log"
    credentials = Path(import_environment["ENROOT_CONFIG_PATH"], ".credentials")
    credentials.parent.mkdir(parents=True)
    escaped = password.replace('"', '\\"')
    credentials.write_text(f'machine 127.0.0.1 login ann password "{escaped}"\n')
    credentials.chmod(0o600)
    environment = {**import_environment, "ENROOT_GZIP_PROGRAM": "gzip"}
    with FaultRegistry(auth=scheme, users={"ann": password}) as closed:
        uri = serve(closed, content).replace("docker://", "docker://ann@")
        closed.fault(content.blobs()[0].digest, 1, stall=release, after=1_000_000)
        closed.fault(content.blobs()[0].digest, 1, status=500, body=b"oops")
        seen = b""
        with Running("import", "-v", "-o", output, uri, environment=environment, log=log) as running:
            wait_for(lambda: "gzip" in set(processes_of(running.pid).values()) or running.process.poll() is not None)
            for pid in processes_of(running.pid):
                for name in ("cmdline", "environ"):
                    seen += Path(f"/proc/{pid}/{name}").read_bytes()
            release.set()
            status = running.wait()
            assert status == 0, running.said
        seen += running.said.encode()
        for wrong in (password + "x",):  # and when it is refused
            credentials.write_text(
                f'machine 127.0.0.1 login ann password "{wrong.replace(chr(34), chr(92) + chr(34))}"\n'
            )
            result = enroot_slurm("import", "-v", "-f", "-o", output, uri, environment=environment)
            assert result.returncode == 4, result.stderr
            seen += (result.stdout + result.stderr).encode()
        secrets = [password.encode(), b"CANARY", base64.b64encode(f"ann:{password}".encode())]
        secrets += [token.encode() for token in closed.tokens]
        assert closed.tokens or scheme == "basic"
    for path in tmp_path.rglob("*"):
        if path.is_file() and path != credentials:
            seen += path.read_bytes()
    assert b"gzip" in seen
    assert [secret for secret in secrets if secret in seen] == []
