"""Limits of a user, full devices and directories that are gone: an error that says so, and what to do."""

from __future__ import annotations

import errno
import os
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.command import COMMAND, enroot_slurm, serve
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack
from support.installation import Installation
from support.tools import require_root, require_tools
from support.users import User, users

from enroot_slurm.errors import machine_error

if TYPE_CHECKING:
    from collections.abc import Iterator

MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


def image() -> Image:
    return Image([pack(Layer().file(f"f{number}", noise(MEGABYTE, number)), "gzip") for number in range(4)])


class Other(NamedTuple):
    """A user with limits of his own, and the program as he can run it."""

    user: User
    program: Path

    def run(self, *arguments: object, limits: str, **settings: str) -> subprocess.CompletedProcess[str]:
        command = ["prlimit", *limits.split(), str(self.program), *map(str, arguments)]
        environment = {"HOME": str(self.user.home), "PATH": os.environ["PATH"], "ENROOT_ALLOW_HTTP": "yes", **settings}
        options = {**self.user.identity, "cwd": self.user.home}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **options)


@pytest.fixture(scope="module")
def other() -> Iterator[Other]:
    require_root("another user, for root has no limits")
    require_tools("prlimit")
    installed = Installation.make()
    try:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as homes:
            Path(homes).chmod(0o755)
            with users(1, Path(homes)) as [user]:
                yield Other(user, installed.program() / "enroot-slurm")
    finally:
        installed.remove()


def assert_explained(done: subprocess.CompletedProcess[str]) -> None:
    """The error has a line for the cause and one for what to do."""
    lines = done.stderr.splitlines()
    told = [number for number, line in enumerate(lines) if line.startswith("enroot-slurm: ")]
    assert told, done.stderr
    assert "unexpected" not in done.stderr
    assert "Traceback" not in done.stderr
    assert len(lines) > told[-1] + 1, done.stderr


@pytest.mark.parametrize("layers", ["yes", "no"])
def test_few_processes(other, registry, layers) -> None:
    """With any number of threads, an import works or says what is too little."""
    uri, seen = serve(registry, image()), set()
    for number in (1, 2, 3, 4, 6, 9, 20):
        done = other.run(
            *("import", "-f", "-o", "x.sqsh", uri), limits=f"--nproc={number}", ENROOT_SLURM_LAYER_CACHE=layers
        )
        seen.add(done.returncode)
        if done.returncode:
            assert done.returncode == 7, done.stderr
            assert_explained(done)
            assert "ulimit -u" in done.stderr
        assert {path.name for path in other.user.home.iterdir() if path.name != ".cache"} <= {"x.sqsh"}
    assert seen == {0, 7}


def test_little_memory(other, registry) -> None:
    """Once Python itself has started, likewise."""
    uri = serve(registry, image())
    for megabytes in (*range(40, 120, 8), 150, 200, 300, 500):
        done = other.run("import", "-f", "-o", "x.sqsh", uri, limits=f"--as={megabytes << 20}")
        if done.returncode and "enroot-slurm: " in done.stderr:
            assert_explained(done)


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        SystemError("error return without exception set"),
        ImportError("libssl.so.3: failed to map segment from shared object"),
        ImportError("_ssl.cpython-311-x86_64-linux-gnu.so: cannot allocate memory in static TLS block"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_names_of_little_memory(error: Exception) -> None:
    """Where it happens decides how Python says it; users read the same words."""
    told = machine_error(error)
    assert told is not None
    assert told.message == "Cannot allocate memory"
    assert "ulimit" in told.hint


@pytest.mark.parametrize("layers", ["yes", "no"])
def test_small_files(other, registry, layers) -> None:
    """``ulimit -f``: in the cache, and in the output."""
    uri = serve(registry, image())
    for size in (4096, MEGABYTE // 2, 2 * MEGABYTE):
        subprocess.run(["rm", "-rf", other.user.home / ".cache"], check=True)
        settings = {"ENROOT_SLURM_LAYER_CACHE": layers}
        done = other.run("import", "-f", "-o", "x.sqsh", uri, limits=f"--fsize={size}", **settings)
        assert done.returncode == 7, done.stderr
        assert_explained(done)
        assert "ulimit -f" in done.stderr
        assert "Errno" not in done.stderr


def test_few_open_files(other, registry) -> None:
    uri = serve(registry, image())
    for number in (8, 10, 12, 16):
        done = other.run("import", "-f", "-o", "x.sqsh", uri, limits=f"--nofile={number}")
        if done.returncode and "enroot-slurm: " in done.stderr:
            assert_explained(done)


@pytest.mark.parametrize("arguments", [["get"], ["config"], ["digest"]], ids=lambda words: words[0])
def test_standard_output_is_full(registry, import_environment, arguments) -> None:
    if arguments != ["config"]:
        arguments = [*arguments, serve(registry, image())]
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = subprocess.run(
            [*COMMAND, *arguments], env=import_environment, stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 7, done.stderr
    assert "can't write to the standard output: No space left on device" in done.stderr
    assert "unexpected" not in done.stderr


@pytest.mark.parametrize("arguments", [["import"], ["import", "-o", "x.sqsh"]], ids=["default", "relative"])
def test_no_current_directory(registry, import_environment, tmp_path, arguments) -> None:
    """Nothing is asked for; an absolute output, and a cache, work from there."""
    uri = serve(registry, image())
    gone = tmp_path / "gone"

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        gone.mkdir()
        script = 'cd "$1" && rmdir "$1" && shift && exec "$@"'
        command = ["sh", "-c", script, "sh", gone, Path(COMMAND[0]).with_name("enroot-slurm"), *words]
        return subprocess.run(command, env=import_environment, capture_output=True, text=True, check=False)

    before = len(registry.requests)
    done = run(*arguments, uri)
    assert done.returncode == 7, done.stderr
    assert_explained(done)
    assert "current directory" in done.stderr
    assert len(registry.requests) == before
    assert run("import", "-o", tmp_path / "x.sqsh", uri).returncode == 0
    assert run("get", uri).returncode == 0


@pytest.mark.parametrize("name", ["n" * 256, "\N{SNAKE}" * 64])
def test_a_name_that_is_too_long(registry, import_environment, tmp_path, name) -> None:
    """It is looked at before anything is fetched."""
    before = len(registry.requests)
    done = enroot_slurm("import", "-o", tmp_path / name, serve(registry, image()), environment=import_environment)
    assert done.returncode == 7
    assert "256 bytes" in done.stderr
    assert "--output" in done.stderr
    assert len(registry.requests) == before


def test_a_default_name_that_is_too_long(registry, import_environment, tmp_path) -> None:
    uri = serve(registry, image()).rpartition(":")[0] + "/" + "x" * 200 + ":" + "t" * 100
    done = enroot_slurm("import", uri, environment=import_environment, cwd=tmp_path)
    assert done.returncode == 7
    assert "--output" in done.stderr


@pytest.mark.parametrize("output", ["newdir/", "newdir/.", "newdir//"])
def test_a_directory_that_is_not_there(registry, import_environment, tmp_path, output) -> None:
    """A name that ends with a slash is a directory's: no file gets it."""
    done = enroot_slurm("import", "-o", output, serve(registry, image()), environment=import_environment, cwd=tmp_path)
    assert done.returncode == 7
    assert "there is no directory" in done.stderr
    assert "newdir/NAME.sqsh" in done.stderr
    assert not (tmp_path / "newdir").exists()


@pytest.mark.parametrize("value", ["yesterday", "-1", "4294967296", "1700000000000", "1.5", " 1", "0x10", "9" * 30])
@pytest.mark.parametrize("command", ["import", "get", "digest"])
def test_source_date_epoch(registry, import_environment, value, command) -> None:
    """What is no time of 32 bits is an error, before anything is fetched."""
    before = len(registry.requests)
    environment = {**import_environment, "SOURCE_DATE_EPOCH": value}
    done = enroot_slurm(command, serve(registry, image()), environment=environment)
    assert done.returncode == 2
    assert "SOURCE_DATE_EPOCH" in done.stderr
    assert len(registry.requests) == before
