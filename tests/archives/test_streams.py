"""Archives that come through a pipe: read once, without a temporary archive, and without much memory."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.archives import compressed, docker_members, layout_members, made_tar
from support.command import COMMAND, enroot_slurm
from support.images import Image, Layer
from support.tools import require_tools
from support.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
IMAGE = Image([Layer().file("one", b"1" * 500_000), Layer().file("two", b"2")], architecture=HERE)
ARCHIVE = made_tar(docker_members(IMAGE))
LAYOUT = made_tar(layout_members([(IMAGE, {})]))


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


def left(environment: dict[str, str]) -> list[Path]:
    """The temporary files in the cache and elsewhere."""
    tmp = Path(environment["TMPDIR"], "temporary")
    return [*Path(environment["ENROOT_CACHE_PATH"]).glob("tmp/*"), *tmp.glob("*")]


@pytest.fixture
def environment(import_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "temporary").mkdir()
    return {**import_environment, "TMPDIR": str(tmp_path / "temporary")}


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
@pytest.mark.parametrize("kind", ["docker-archive", "oci-archive"])
@pytest.mark.parametrize("order", ["as saved", "metadata first"])
def test_standard_input(packed, kind, order, environment, tmp_path) -> None:
    """An image through a pipe is the file's, byte for byte."""
    members = docker_members(IMAGE) if kind == "docker-archive" else layout_members([(IMAGE, {})])
    if order == "metadata first":
        members = members[::-1]
    content = made_tar(members)
    (tmp_path / "a.tar").write_bytes(content)
    done = enroot_slurm("import", "-o", tmp_path / "file", f"{kind}:{tmp_path}/a.tar", environment=environment)
    assert done.returncode == 0, done.stderr
    sent = compressed(content, packed) if packed else content
    arguments = ["import", "-o", str(tmp_path / "pipe"), f"{kind}:/dev/stdin"]
    piped = subprocess.run([*COMMAND, *arguments], input=sent, env=environment, capture_output=True, check=False)
    assert piped.returncode == 0, piped.stderr
    if kind == "docker-archive":
        assert (tmp_path / "file").read_bytes() == (tmp_path / "pipe").read_bytes()
    assert read_tree(tmp_path / "file") == read_tree(tmp_path / "pipe")
    assert not left(environment)


def feed(path: Path) -> None:
    with path.open("wb") as pipe:
        pipe.write(ARCHIVE)


@pytest.mark.parametrize("door", ["socket", "redirection", "fifo", "substitution"])
def test_other_streams(door, environment, tmp_path) -> None:
    """ssh may give a socket, a shell a file, a fifo or /dev/fd/63."""
    uri, stdin, threads = "docker-archive:/dev/stdin", None, []
    more: dict[str, object] = {}
    if door == "socket":
        ours, stdin = socket.socketpair()
        threads = [threading.Thread(target=lambda: (ours.sendall(ARCHIVE), ours.close()))]
    elif door == "redirection":
        (tmp_path / "a.tar").write_bytes(ARCHIVE)
        stdin = (tmp_path / "a.tar").open("rb")
    elif door == "fifo":
        os.mkfifo(tmp_path / "fifo")
        uri = f"docker-archive:{tmp_path}/fifo"
        threads = [threading.Thread(target=feed, args=(tmp_path / "fifo",))]
    else:
        reading, writing = os.pipe()
        uri, more = f"docker-archive:/dev/fd/{reading}", {"pass_fds": (reading,)}
        threads = [threading.Thread(target=lambda: feed(Path(f"/dev/fd/{writing}")))]
    for thread in threads:
        thread.start()
    command = [*COMMAND, "import", "-o", str(tmp_path / "x"), uri]
    process = subprocess.Popen(command, env=environment, stdin=stdin, stderr=subprocess.PIPE, **more)  # type: ignore[call-overload]
    if stdin is not None:
        stdin.close()
    for thread in threads:
        thread.join()
    if door == "substitution":
        os.close(writing)
    said = process.communicate()[1]
    assert process.returncode == 0, said
    assert {b"one", b"two"} <= read_tree(tmp_path / "x").keys()
    assert not left(environment)


def test_a_terminal_is_no_archive(environment) -> None:
    master, slave = pty.openpty()
    done = enroot_slurm("get", "docker-archive:/dev/stdin", environment=environment, stdin=slave)
    os.close(master)
    os.close(slave)
    assert done.returncode == 2
    assert "the standard input is a terminal" in done.stderr


@pytest.mark.parametrize("cut", [0, 300, 5000, len(ARCHIVE) - 12000])
def test_streams_that_end_early(cut, environment, tmp_path) -> None:
    """Nothing is left, and the error says so."""
    arguments = ["import", "-o", str(tmp_path / "x"), "docker-archive:/dev/stdin"]
    done = subprocess.run(
        [*COMMAND, *arguments], input=ARCHIVE[:cut], env=environment, capture_output=True, check=False
    )
    assert done.returncode == 6, done.stderr
    assert b"the standard input" in done.stderr
    assert not left(environment)
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("packed", ["", "gzip", "zstd"])
def test_a_stream_that_does_not_end(packed, environment, tmp_path) -> None:
    """What is passed over counts as well: zeros behind an archive, and members that are no blobs."""
    limited = {**environment, "ENROOT_SLURM_MAX_DOWNLOAD": "16MiB"}
    padding = bytes(200 << 20)
    for number, content in enumerate((padding, made_tar([("some/where/else", padding)]))):
        (tmp_path / str(number)).write_bytes(compressed(content, packed) if packed else content)
        with (tmp_path / str(number)).open("rb") as file:
            pipe = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
            done = enroot_slurm("digest", "docker-archive:/dev/stdin", environment=limited, stdin=pipe.stdout)
            assert pipe.stdout is not None
            pipe.stdout.close()
            pipe.wait()
        assert done.returncode == 6, done.stderr
        assert "more than 16777216 bytes" in done.stderr
        assert "max_download" in done.stderr
    assert not left(environment)


def test_a_device_that_does_not_end(environment) -> None:
    limited = {**environment, "ENROOT_SLURM_MAX_DOWNLOAD": "16MiB"}
    done = enroot_slurm("digest", "docker-archive:/dev/zero", environment=limited)
    assert done.returncode == 6, done.stderr


def test_an_empty_stream(environment) -> None:
    """A program before the pipe that has failed is why."""
    done = enroot_slurm("digest", "docker-archive:/dev/null", environment=environment)
    assert done.returncode == 6
    assert "/dev/null is empty\n  If a program writes it" in done.stderr


def test_a_stream_has_no_name(environment, tmp_path) -> None:
    """Where the archive has none either, the output has to be named."""
    content = made_tar(docker_members(IMAGE, None))
    done = subprocess.run(
        [*COMMAND, "import", "docker-archive:/dev/stdin"],
        input=content, env=environment, capture_output=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert b"Choose one with --output" in done.stderr
    assert not left(environment)


def test_each_stream_of_a_job_is_read(environment, tmp_path) -> None:
    """A job remembers tags and files, but not what came through a pipe before."""
    job = {"SLURM_JOB_ID": "7", "SLURM_JOB_UID": str(os.geteuid()), "ENROOT_SLURM_RUN_PATH": str(tmp_path / "run")}
    inside = {**environment, **job}
    found = []
    for image in (IMAGE, Image([Layer().file("x")], architecture=HERE)):
        done = subprocess.run(
            [*COMMAND, "get", "docker-archive:/dev/stdin"],
            input=made_tar(docker_members(image)), env=inside, capture_output=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        found.append(done.stdout)
    assert found[0] != found[1]


MEASURE = """
import json, sys
from enroot_slurm import import_image
import_image(sys.argv[1], output=sys.argv[2])
written = next(int(line.split()[1]) for line in open("/proc/self/io") if line.startswith("wchar"))
# not getrusage(2): it begins with what the process had that has become this one
memory = next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmHWM"))
print(json.dumps([written, memory]))
"""
SIZE = int(os.environ.get("STREAM_SIZE", str(96 << 20)))
"""Bytes of the large layer; a gigabyte shows no more."""


def large_archive() -> Iterator[bytes]:
    """A Docker archive with one layer of `SIZE` bytes that do not shrink, piece by piece."""
    piece = os.urandom(1 << 20)
    header = Layer().member("large", data=b"").tar(end=b"")
    # The size in the header of the layer's only file, and its checksum.
    raw = bytearray(header)
    raw[124:136] = b"%011o\0" % SIZE
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    hasher = hashlib.sha256(raw)
    pieces = [bytes((piece[0] ^ n % 251,)) + piece[1:] for n in range(SIZE >> 20)]
    for each in pieces:
        hasher.update(each)
    hasher.update(bytes(1024))
    rootfs = {"type": "layers", "diff_ids": [f"sha256:{hasher.hexdigest()}"]}
    config = json.dumps({"architecture": HERE, "os": "linux", "config": {}, "rootfs": rootfs}).encode()
    outer = bytearray(made_tar([("layer.tar", b"")])[:512])
    outer[124:136] = b"%011o\0" % (512 + SIZE + 1024)
    outer[148:156] = b" " * 8
    outer[148:156] = b"%06o\0 " % sum(outer)
    yield bytes(outer) + bytes(raw)
    yield from pieces
    yield bytes(1024)
    manifest = [{"Config": "config.json", "RepoTags": ["big:1"], "Layers": ["layer.tar"]}]
    yield made_tar([("config.json", config), ("manifest.json", json.dumps(manifest).encode())])


def test_one_pass_writes_each_byte_once(environment, tmp_path) -> None:
    """The blob, the layer's image and the output are written, nothing else; and memory does not grow with the image."""
    command = [sys.executable, "-c", MEASURE, "docker-archive:/dev/stdin", str(tmp_path / "x")]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    for piece in large_archive():
        process.stdin.write(piece)
    written, memory = json.loads(process.communicate()[0])
    assert process.returncode == 0
    assert written < 3 * SIZE + (8 << 20)
    assert memory < 160 << 20
    cache = Path(environment["ENROOT_CACHE_PATH"])
    kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    assert kept < 2 * SIZE + (8 << 20)
    assert not left(environment)
