"""What goes wrong on nodes: signals, full and read-only disks, races, damaged caches, hostile images."""

from __future__ import annotations

import functools
import gzip
import hashlib
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command import Running, enroot_slurm, processes_of, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import LAYER, MTIME, Blob, Image, Layer, digest, pack
from support.tools import require_root, require_tools
from support.tree import read_tree

import enroot_slurm as enroot_slurm_package

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.registry import Registry

SIGNALS = [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]
MEGABYTE = 1_000_000
STRANGER = 54321


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


@pytest.fixture
def faulty() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture
def environment(import_environment: dict[str, str], tmp_path: Path) -> dict[str, str]:
    (tmp_path / "out").mkdir()
    return import_environment


@pytest.fixture
def output(tmp_path: Path, environment: dict[str, str]) -> Path:
    """The output file, in a directory of its own."""
    return tmp_path / "out" / "image.sqsh"


def packed(*layers: Layer | bytes, compression: str = "zstd") -> Image:
    """An image whose layers are compressed once, and not whenever they are looked at."""
    return Image([pack(layer, compression) for layer in layers])


@functools.cache
def small() -> Image:
    return packed(Layer().dir("a/").file("a/f", noise(200_000)), Layer().file("top", b"top"), compression="gzip")


def assert_small(path: Path) -> None:
    tree = read_tree(path)
    assert (tree[b"a/f"].size, tree[b"top"].size) == (200_000, 3)
    assert b"etc/rc" in tree


def big_member(name: str, size: int) -> bytes:
    """The header of a file whose data follow."""
    header = bytearray(Layer().file(name).tar(end=b""))
    header[124:136] = b"%011o\0" % size
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


@functools.cache
def slow_layer(gibibytes: int = 6) -> Blob:
    """A layer that is quickly fetched and takes long to convert; its diff_id is wrong, but nobody gets that far."""
    header = big_member("zeros", gibibytes << 30)
    data = gzip.compress(header, mtime=0) + gzip.compress(bytes(32 << 20), mtime=0) * (gibibytes << 5)
    return Blob(data, LAYER["docker", "gzip"], digest(b""))


def left_over(environment: dict[str, str], output: Path) -> list[Path]:
    """Files beside the output, and unfinished ones in the cache."""
    return [
        *output.parent.iterdir(),
        *unfinished_layers(environment),
        *Path(environment["ENROOT_CACHE_PATH"]).glob("tmp/*"),
    ]


def unfinished_layers(environment: dict[str, str]) -> list[Path]:
    return list(Path(environment["ENROOT_CACHE_PATH"]).glob("layers/*/.*"))


def assert_nothing_left(running: Running, environment: dict[str, str], output: Path) -> None:
    assert left_over(environment, output) == []
    wait_for(lambda: not processes_of(running.pid), 5)  # what read from a pipe of ours sees its end
    assert left_over(environment, output) == []


# Signals.


@contextmanager
def at_phase(
    phase: str, faulty: FaultRegistry, environment: dict[str, str], output: Path, tmp_path: Path
) -> Iterator[Running]:
    """An import that has come to *phase* and stays there: with layer images, but for "converting" without gzip."""

    def begun() -> bool:
        return len(list(output.parent.iterdir())) == 1 or bool(unfinished_layers(environment))

    release = threading.Event()
    image, gzip_program = packed(Layer().file("a", noise(3 * MEGABYTE)), Layer().file("top", b"top")), ""
    if phase == "converting":
        image = Image([slow_layer()])
    elif phase == "converting with gzip":
        image, gzip_program = Image([slow_layer()]), "gzip"
    uri = serve(faulty, image)
    if phase == "resolving":
        faulty.fault("/manifests/", stall=release)
    elif phase == "downloading":
        faulty.fault(image.blobs()[0].digest, stall=release, after=MEGABYTE)
    layers = "no" if phase == "converting" else "yes"
    environment = {**environment, "ENROOT_GZIP_PROGRAM": gzip_program, "ENROOT_SLURM_LAYER_CACHE": layers}
    try:
        with Running("import", "-o", output, uri, environment=environment, log=tmp_path / "log") as running:
            cache = Path(environment["ENROOT_CACHE_PATH"])
            if phase == "resolving":
                wait_for(lambda: faulty.connections)
            elif phase == "downloading":
                wait_for(lambda: any(p.stat().st_size > MEGABYTE // 2 for p in cache.glob("tmp/*")))
                wait_for(begun)
            else:
                wait_for(begun)
                names = {phase.removeprefix("converting").removeprefix(" with ")} - {""}
                wait_for(lambda: names <= set(processes_of(running.pid).values()))
            yield running
    finally:
        release.set()


@pytest.mark.parametrize(
    ("phase", "signum"),
    [(p, s) for p in ("resolving", "downloading", "converting with gzip") for s in SIGNALS]
    + [("converting", signal.SIGTERM)],
)
def test_a_signal_leaves_nothing(phase, signum, faulty, environment, output, tmp_path) -> None:
    """A signal at any phase: its exit status, a message, no file, no process; and the next import works."""
    with at_phase(phase, faulty, environment, output, tmp_path) as running:
        os.kill(running.pid, signum)
        assert running.wait(30) == 128 + signum
        assert f"interrupted by signal {signum:d}" in running.said
        assert "Traceback" not in running.said
        assert_nothing_left(running, environment, output)
    faulty.heal()
    result = enroot_slurm("import", "-o", output, serve(faulty, small(), "small"), environment=environment)
    assert result.returncode == 0, result.stderr
    assert_small(output)


@pytest.mark.parametrize("phase", ["downloading", "converting with gzip"])
def test_more_signals_do_not_disturb_the_clean_up(phase, faulty, environment, output, tmp_path) -> None:
    """Ctrl-C on a terminal, which all processes get, and again and again: as one signal."""
    with at_phase(phase, faulty, environment, output, tmp_path) as running:
        os.killpg(running.pid, signal.SIGINT)
        with pytest.raises(ProcessLookupError):
            for signum in SIGNALS * 1000:
                os.kill(running.pid, signum)
                time.sleep(0.001)
                running.process.poll()
                if running.process.returncode is not None:
                    raise ProcessLookupError
        # When all is cleaned up, the last signals may meet a process that is on its way out.
        assert running.wait(30) in {130, *(-s for s in SIGNALS)}
        assert_nothing_left(running, environment, output)


def test_nohup(faulty, environment, output, tmp_path) -> None:
    """A signal that was ignored when the command was started stays ignored."""
    release = threading.Event()
    uri = serve(faulty, small())
    faulty.fault("/manifests/", stall=release)
    prefix = ("env", "--ignore-signal=HUP,INT")
    arguments = ("import", "-o", output, uri)
    with Running(*arguments, environment=environment, log=tmp_path / "log", prefix=prefix) as running:
        wait_for(lambda: faulty.connections)
        os.kill(running.pid, signal.SIGHUP)
        os.kill(running.pid, signal.SIGINT)
        release.set()
        assert running.wait() == 0, running.said
    assert_small(output)


def test_a_signal_while_publishing(push, environment, output, tmp_path) -> None:
    """A signal when the file gets its name: it is there and complete, or not at all; nothing else is."""
    uri = push(small())
    for number in range(4):
        with Running("import", "-o", output, uri, environment=environment, log=tmp_path / "log") as running:
            running.wait_until_says("publishing")
            time.sleep(number * 0.001)
            os.kill(running.pid, signal.SIGTERM)
            status = running.wait(30)
            assert status in {0, 128 + signal.SIGTERM, -signal.SIGTERM}
            if output.exists():
                assert_small(output)
                output.unlink()
            else:
                assert status == 128 + signal.SIGTERM
            assert_nothing_left(running, environment, output)


def test_signals_at_random_times(push, environment, output, tmp_path) -> None:
    """A signal at any time: as above."""
    chance = random.Random(7)
    uri = push(packed(*(Layer().file(f"f{n}", noise(MEGABYTE, n)) for n in range(4))))
    started = time.monotonic()
    assert enroot_slurm("import", "-o", output, uri, environment=environment).returncode == 0
    usual = time.monotonic() - started
    output.unlink()
    for number in range(12):
        shutil.rmtree(environment["ENROOT_CACHE_PATH"])
        signum = SIGNALS[number % 3]
        with Running("import", "-o", output, uri, environment=environment, log=tmp_path / "log") as running:
            running.wait_until_says("resolving")  # while Python itself starts, signals are its own matter
            time.sleep(chance.uniform(0, usual))
            os.kill(running.pid, signum)
            status = running.wait(30)
            assert status in {0, 128 + signum, -signum}, running.said  # the last one when all is done
            if status == 128 + signum:
                assert f"interrupted by signal {signum:d}" in running.said
            if output.exists():  # the signal came after the file had its name
                assert len(read_tree(output)) > 4
                output.unlink()
            else:
                assert status == 128 + signum
            assert_nothing_left(running, environment, output)
        Path(environment["ENROOT_CACHE_PATH"]).mkdir(exist_ok=True)
    assert enroot_slurm("import", "-o", output, uri, environment=environment).returncode == 0


def test_kill_9(faulty, environment, output, tmp_path) -> None:
    """Killed without mercy: nothing under the final name, no process; the next import has the complete blobs."""
    release = threading.Event()
    image = packed(Layer().file("lower", noise(3 * MEGABYTE)), Layer().file("top", noise(MEGABYTE)))
    lower, top = (blob.digest for blob in image.blobs())
    uri = serve(faulty, image)
    faulty.fault(lower, stall=release, after=MEGABYTE)
    blobs = Path(environment["ENROOT_CACHE_PATH"], "blobs/sha256")
    with Running("import", "-o", output, uri, environment=environment, log=tmp_path / "log") as running:
        wait_for((blobs / top.partition(":")[2]).exists)
        wait_for(lambda: unfinished_layers(environment))
        os.kill(running.pid, signal.SIGKILL)
        running.wait()
        wait_for(lambda: not processes_of(running.pid), 10)
    release.set()
    assert not output.exists()
    faulty.heal()
    result = enroot_slurm("import", "-o", output, uri, environment=environment)
    assert result.returncode == 0, result.stderr
    assert read_tree(output)[b"lower"].size == 3 * MEGABYTE
    assert (faulty.count(top), faulty.count(lower)) == (1, 2)


def test_what_killed_processes_left_goes(push, environment, output) -> None:
    """Unfinished files that nobody has written to for a day are removed from the cache; others stay."""
    uri = push(small())
    directory = Path(environment["ENROOT_CACHE_PATH"], "tmp")
    directory.mkdir(parents=True)
    old, new, foreign = (directory / n for n in ("ab12.node.1.cd34", "ab12.node.2.cd34", "notes"))
    for path in (old, new, foreign):
        path.write_text("x")
    for path in (old, foreign):
        os.utime(path, (time.time() - 100_000,) * 2)
    assert enroot_slurm("import", "-o", output, uri, environment=environment).returncode == 0
    assert sorted(directory.iterdir()) == sorted([new, foreign])


# Disks and permissions.


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """A function that mounts a tmpfs of so many KiB, and returns its directory."""
    require_root("mounts a small file system")
    mounted: list[Path] = []

    def make(kibibytes: int) -> Path:
        directory = tmp_path / f"disk{len(mounted)}"
        directory.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={kibibytes}k", "none", str(directory)]
        if subprocess.run(command, check=False, capture_output=True).returncode:
            pytest.skip("can't mount a tmpfs here")
        mounted.append(directory)
        return directory

    yield make
    for directory in mounted:
        subprocess.run(["umount", "-l", str(directory)], check=True)


def assert_storage_error(result: subprocess.CompletedProcess[str], *words: str) -> None:
    assert result.returncode == 7, result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    for word in words:
        assert word in result.stderr


@functools.cache
def big() -> Image:
    return packed(Layer().file("f", noise(5 * MEGABYTE)), Layer().file("top"))


def test_read_only_cache(mount, push, environment, output) -> None:
    """A cache that can't be written serves what it has, and is an error where something is missing."""
    cache = mount(20 << 10)
    cached = {**environment, "ENROOT_CACHE_PATH": str(cache)}
    uri, other = push(small()), push(big())
    assert enroot_slurm("import", "-o", output, uri, environment=cached).returncode == 0
    subprocess.run(["mount", "-o", "remount,ro", cache], check=True)
    assert enroot_slurm("import", "-f", "-o", output, uri, environment=cached).returncode == 0
    result = enroot_slurm("import", "-f", "-o", output, other, environment=cached)
    assert_storage_error(result, str(cache), "Read-only", "ENROOT_CACHE_PATH")
    assert_small(output)


def test_read_only_output(mount, push, environment) -> None:
    """A directory that can't be written is an error before anything is asked of the registry."""
    disk = mount(1024)
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    result = enroot_slurm("import", "-o", disk / "x.sqsh", "docker://127.0.0.1:1/x", environment=environment)
    assert_storage_error(result, f"can't write to the directory {disk}", "--output")


def test_places_that_are_none(environment, tmp_path) -> None:
    """A missing directory, a directory, a device: errors before anything is asked of the registry, even by force."""
    (tmp_path / "directory").mkdir()
    os.mkfifo(tmp_path / "fifo")
    cases = [("no/x.sqsh", "there is no directory"), ("directory", "is a directory"), ("fifo", "not a regular file")]
    for name, words in cases:
        result = enroot_slurm("import", "-f", "-o", tmp_path / name, "docker://127.0.0.1:1/x", environment=environment)
        assert_storage_error(result, words)
    assert (tmp_path / "fifo").is_fifo()


@pytest.fixture
def commons() -> Iterator[Path]:
    """A directory that everyone can enter."""
    with tempfile.TemporaryDirectory(prefix="commons.") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture
def stranger(commons: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs the command as a user whose number is in no passwd file."""
    require_root("runs the command as another user")
    identity = {"user": STRANGER, "group": STRANGER, "extra_groups": [], "cwd": commons}
    # The tests' interpreter may be in a home that is closed to others; then another one of the same version may do.
    packages = {"PYTHONPATH": os.pathsep.join([str(Path(enroot_slurm_package.__file__).parents[1]), *sys.path])}
    for python in (sys.executable, f"/usr/bin/python3.{sys.version_info.minor}"):
        try:
            found = subprocess.run(
                [python, "-c", "import enroot_slurm.importing.to_file"],
                check=True,
                env=packages,
                capture_output=True,
                **identity,
            )
        except (OSError, subprocess.CalledProcessError):
            continue
        assert not found.stdout

        return functools.partial(_run_as, python, packages, identity)
    pytest.skip("no other user can run this Python")


def _run_as(
    python: str, packages: dict[str, str], identity: dict[str, Any], *arguments: object, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    command = [python, "-m", "enroot_slurm", *map(str, arguments)]
    variables = {**environment, **packages}
    return subprocess.run(command, check=False, env=variables, capture_output=True, text=True, **identity)


def test_as_another_user(push, environment, commons, stranger) -> None:
    """Who is not root: another's cache and another's directory are errors; with an own home it works."""
    uri = push(small())
    own, other, closed = commons / "own", commons / "other", commons / "closed"
    for directory, mode in ((own, 0o700), (other, 0o755), (closed, 0o700)):
        directory.mkdir(mode=mode)
    os.chown(own, STRANGER, STRANGER)
    environment = {**environment, "HOME": str(own), "TMPDIR": "/tmp"}
    del environment["ENROOT_CONFIG_PATH"]

    def run(output: Path, cache: Path) -> subprocess.CompletedProcess[str]:
        return stranger("import", "-o", output, uri, environment={**environment, "ENROOT_CACHE_PATH": str(cache)})

    assert_storage_error(run(other / "x.sqsh", own / "cache"), f"can't write to the directory {other}")
    assert_storage_error(run(closed / "x.sqsh", own / "cache"), f"can't write to the directory {closed}")
    assert_storage_error(run(closed / "deep" / "x.sqsh", own / "cache"), str(closed))
    for cache in (other / "cache", closed / "cache", other, closed):
        assert_storage_error(run(own / "x.sqsh", cache), str(cache), "Permission denied", "ENROOT_CACHE_PATH")
    result = run(own / "x.sqsh", own / "cache")
    assert result.returncode == 0, result.stderr
    assert_small(own / "x.sqsh")


def test_without_home(push, environment, commons, stranger) -> None:
    """Where there is neither HOME nor a passwd entry, the message names it; with all paths set none is needed."""
    uri = push(small())
    commons.chmod(0o777)
    bare = {k: environment[k] for k in ("PATH", "ENROOT_ALLOW_HTTP", "ENROOT_SQUASH_OPTIONS")}
    result = stranger("import", "-o", commons / "x.sqsh", uri, environment=bare)
    assert result.returncode == 2, result.stderr
    assert "HOME" in result.stderr
    paths = {"ENROOT_CACHE_PATH": str(commons / "cache"), "ENROOT_CONFIG_PATH": str(commons / "config")}
    paths |= {"ENROOT_SLURM_CERTS_DIRS": str(commons / "certs")}
    result = stranger("import", "-o", commons / "x.sqsh", uri, environment={**bare, **paths})
    assert result.returncode == 0, result.stderr
    assert_small(commons / "x.sqsh")


# Several at once, and damage.


def test_four_at_once_share_a_cache(registry: Registry, repository, environment, tmp_path) -> None:
    """Four imports of one image into one cache: each blob is asked for once, and all images are right."""
    image = packed(*(Layer().file(f"f{n}", noise(MEGABYTE, n)) for n in range(4)))
    pushed = registry.push(repository, "t", image)
    uri = registry.uri(repository, "t")
    outputs = [tmp_path / "out" / f"{n}.sqsh" for n in range(4)]
    logs = [tmp_path / f"log{n}" for n in range(4)]
    everyone = [
        Running("import", "-o", output, uri, environment=environment, log=log)
        for output, log in zip(outputs, logs, strict=True)
    ]
    try:
        assert [each.wait() for each in everyone] == [0] * 4, [each.said for each in everyone]
    finally:
        for each in everyone:
            each.__exit__()
    assert [registry.count("GET", f"/{repository}/blobs/{layer}") for layer in pushed.layers] == [1] * 4
    trees = [read_tree(output) for output in outputs]
    assert [sorted(t)[:6] for t in trees] == [sorted(trees[0])[:6]] * 4
    assert {t[b"f3"].sha256 for t in trees} == {hashlib.sha256(noise(MEGABYTE, 3)).hexdigest()}
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == [f"{n}.sqsh" for n in range(4)]


def test_four_at_once_with_one_output(push, environment, output, tmp_path) -> None:
    """Four imports to one file: one succeeds, the others are told that it is there."""
    uri = push(big())
    everyone = [
        Running("import", "-o", output, uri, environment=environment, log=tmp_path / f"log{n}") for n in range(4)
    ]
    try:
        assert sorted(each.wait() for each in everyone) == [0, 7, 7, 7], [each.said for each in everyone]
    finally:
        for each in everyone:
            each.__exit__()
    assert sum("file already exists" in each.said for each in everyone) == 3
    assert list(output.parent.iterdir()) == [output]
    assert read_tree(output)[b"f"].size == 5 * MEGABYTE


@pytest.mark.parametrize(
    ("damage", "layer"),
    [("cut", 0), ("longer", 1), ("a bit", 0), ("a bit", 1), ("symlink", 0), ("empty", 0), ("fifo", 1)],
)
def test_a_damaged_blob_is_fetched_again(damage, layer, registry, repository, environment, output, tmp_path) -> None:
    """A blob in the cache that is not what it was is found before the image is published, and replaced."""
    environment = {**environment, "ENROOT_SLURM_LAYER_CACHE": "no"}  # else blobs are not looked at any more
    pushed = registry.push(repository, "t", small())
    uri = registry.uri(repository, "t")
    assert enroot_slurm("import", "-q", "-o", output, uri, environment=environment).returncode == 0
    output.unlink()
    wanted = pushed.layers[layer]
    blob = Path(environment["ENROOT_CACHE_PATH"], "blobs/sha256", wanted.partition(":")[2])
    content = bytearray(blob.read_bytes())
    precious = tmp_path / "precious"
    precious.write_bytes(content)
    if damage in {"symlink", "fifo"}:
        blob.unlink()
        blob.symlink_to(precious) if damage == "symlink" else os.mkfifo(blob)
    elif damage == "a bit":
        content[-20] ^= 1
        blob.write_bytes(content)
    else:
        blob.write_bytes({"cut": content[:-1], "longer": content + b"x", "empty": b""}[damage])
    registry.reset()
    result = enroot_slurm("import", "-o", output, uri, environment=environment)
    assert result.returncode == 0, result.stderr
    assert_small(output)
    assert registry.count("GET", f"/{repository}/blobs/{wanted}") == 1
    assert not blob.is_symlink()
    assert digest(blob.read_bytes()) == wanted
    assert digest(precious.read_bytes()) == wanted


def test_a_directory_in_place_of_a_blob(push, registry, repository, environment, output) -> None:
    """What can't be replaced is named, and no image is made."""
    uri = push(small())
    blob = Path(environment["ENROOT_CACHE_PATH"], "blobs/sha256", small().blobs()[0].digest.partition(":")[2])
    (blob / "sub").mkdir(parents=True)
    result = enroot_slurm("import", "-o", output, uri, environment=environment)
    assert_storage_error(result, str(blob), "s a directory", "ENROOT_CACHE_PATH")
    assert left_over(environment, output) == []


# The same bytes; memory; programs.


def test_source_date_epoch(push, environment, output, tmp_path) -> None:
    """With SOURCE_DATE_EPOCH, an import tomorrow gives the same bytes: also from another cache."""
    uri = push(Image([Layer().dir("d/").file(f"d/{n}", noise(30_000, n)) for n in range(20)]))
    images = []
    for number in range(2):
        variables = {"SOURCE_DATE_EPOCH": "1700000000", "ENROOT_CACHE_PATH": str(tmp_path / f"cache{number}")}
        result = enroot_slurm("import", "-f", "-o", output, uri, environment={**environment, **variables})
        assert result.returncode == 0, result.stderr
        images.append(output.read_bytes())
        if not number:
            time.sleep(1.01)  # times in images are whole seconds
    assert images[0] == images[1]
    assert {entry.mtime for entry in read_tree(output).values()} == {1_700_000_000}


def peak_of(running: Running) -> int:
    """Wait for the end; the peak of the process's resident memory, in bytes."""
    peak = 0
    status = Path(f"/proc/{running.pid}/status")
    while running.process.poll() is None:
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                peak = max(peak, int(line.split()[1]) << 10)
        time.sleep(0.02)
    assert running.process.returncode == 0, running.said
    assert peak
    return peak


def test_memory_with_many_files(push, environment, output, tmp_path) -> None:
    """300,000 small files in two layers: below 200 MB."""
    template = bytearray(Layer().file("d000/" + "x" * 20 + "000000", b"x", mtime=MTIME).tar(end=b""))
    usual = sum(template[:512]) - sum(template[148:156]) + 8 * 32
    zeros = sum(template[:5]) + sum(template[25:31])

    def layer(numbers: range) -> bytes:
        members = []
        for number in numbers:
            directory, name = b"d%03d/" % (number % 500), b"%06d" % number
            member = template.copy()
            member[:5], member[25:31] = directory, name
            checksum = usual - zeros + sum(directory) + sum(name)
            member[148:156] = b"%06o\0 " % checksum
            members.append(member)
        return b"".join(members) + bytes(1024)

    uri = push(packed(layer(range(150_000)), layer(range(150_000, 300_000))))
    with Running("import", "-o", output, uri, environment=environment, log=tmp_path / "log") as running:
        assert peak_of(running) < 200 * MEGABYTE
    with output.open("rb") as file:
        assert int.from_bytes(file.read(8)[4:], "little") > 300_000  # inodes in the superblock


def test_bomb(push, environment, output, tmp_path) -> None:
    """2 GiB of zeros in a file, in a layer of some MiB: it is a file as any other, and needs no memory."""
    size = 2 << 30
    header = big_member("zeros", size)
    piece = bytes(64 << 20)
    hasher = hashlib.sha256(header)
    for _ in range(size // len(piece)):
        hasher.update(piece)
    hasher.update(bytes(1024))
    parts = [gzip.compress(part, 1, mtime=0) for part in (header, piece, bytes(1024))]
    data = parts[0] + parts[1] * (size // len(piece)) + parts[2]
    uri = push(Image([Blob(data, LAYER["docker", "gzip"], f"sha256:{hasher.hexdigest()}")]))
    with Running("import", "-o", output, uri, environment=environment, log=tmp_path / "log") as running:
        assert peak_of(running) < 200 * MEGABYTE
    listing = subprocess.run(["unsquashfs", "-lls", output, "zeros"], capture_output=True, text=True, check=True).stdout
    assert str(size) in listing
    assert output.stat().st_size < MEGABYTE


def test_gzip_program(push, environment, output) -> None:
    """ENROOT_GZIP_PROGRAM is used; one that is missing is an error that names the variable."""
    require_tools("pigz")
    uri = push(small())
    pigz = {**environment, "ENROOT_GZIP_PROGRAM": "pigz"}
    assert enroot_slurm("import", "-o", output, uri, environment=pigz).returncode == 0
    assert_small(output)
    missing = {**environment, "ENROOT_GZIP_PROGRAM": "nonexistent", "ENROOT_SLURM_LAYER_CACHE": "no"}
    result = enroot_slurm("import", "-f", "-o", output, uri, environment=missing)
    assert result.returncode == 8
    assert "nonexistent: no such program" in result.stderr
    assert "ENROOT_GZIP_PROGRAM" in result.stderr
    assert_small(output)


# Hostile images.


def huge_pax_header() -> bytes:
    record = b"comment=" + b"x" * (10 << 20) + b"\n"
    length = len(record) + 1 + len(str(len(record) + 9))
    data = b"%d %s" % (length, record)
    return Layer().member("pax", b"x", data).file("f").tar()


HOSTILE = {
    "not a tar": (b"this is no archive" * 1000, 6),
    "cut": (Layer().file("f", noise(100_000)).tar()[:50_000], 6),
    "xz": (b"\xfd7zXZ\x00" + noise(1000), 6),
    "huge PAX header": (huge_pax_header(), 6),
    "whiteout of ..": (Layer().file(".wh...", b"").tar(), 6),
    "link to nowhere": (Layer().hardlink("a", "nowhere").tar(), 6),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_refused_layers(name, push, environment, output) -> None:
    """What is no layer is refused with a message of one line and a hint, and leaves nothing."""
    content, status = HOSTILE[name]
    compression = "none" if name == "xz" else "gzip"
    result = enroot_slurm(
        "import", "-o", output, push(Image([content], compression=compression)), environment=environment
    )
    assert result.returncode == status, result.stderr
    assert "Traceback" not in result.stderr
    assert "unexpected" not in result.stderr
    assert left_over(environment, output) == []


def test_hostile_names(push, environment, output, tmp_path) -> None:
    """Names out of the image stay in it; control characters reach no terminal; nothing is made on the host."""
    layer = Layer().file("../../escape", b"1").file("/absolute", b"2").file("a/../../../up", b"3").dir("d/")
    layer.file(b"d/\x1b]0;title\x07\n\xff", b"4").symlink("out", "../../../../tmp").file("out/through", b"5")
    layer.symlink("root", "/").file("root/etc/through", b"6")
    before = sorted(p.name for p in tmp_path.iterdir())
    result = enroot_slurm("import", "-v", "-o", output, push(Image([layer])), environment=environment)
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != "cache") == [n for n in before if n != "cache"]
    assert not Path("/tmp/through").exists()
    assert not Path("/etc/through").exists()
    assert result.returncode == 0, result.stderr
    tree = read_tree(output)
    assert {b"absolute", b"up", b"escape", b"tmp/through", b"etc/through", b"d/\x1b]0;title\x07\n\xff"} <= tree.keys()


def test_control_characters_in_messages(push, environment, output) -> None:
    """A hostile name in an error message is escaped."""
    uri = push(Image([Layer().hardlink(b"a\x1b[31m\nred", "nowhere\x9b")]))
    result = enroot_slurm("import", "-o", output, uri, environment=environment)
    assert result.returncode == 6
    assert "\\x1b" in result.stderr
    assert "\x1b" not in result.stderr
    assert "\x9b" not in result.stderr


def test_a_thousand_layers_deep(push, environment, output) -> None:
    """Deeply nested directories are an image or a clean error, and no recursion runs wild."""
    for depth in (500, 3000):
        uri = push(Image([Layer().file("d/" * depth + "f", b"x")]))
        result = enroot_slurm("import", "-f", "-o", output, uri, environment=environment)
        assert result.returncode in {0, 6, 8}, result.stderr
        assert "Traceback" not in result.stderr
        assert "unexpected" not in result.stderr
