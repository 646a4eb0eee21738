"""The ``cache`` commands on real caches: what real imports leave, and what collecting beside them costs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.cache import DAY, checksum_of, files_of, set_age
from support.command import COMMAND, Running, enroot_slurm, processes_of, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack
from support.installation import Installation
from support.tools import require_root, require_tools
from support.tree import read_tree
from support.users import users

from enroot_slurm.cache.leases import Leases
from enroot_slurm.housekeeping.inventory import inventory
from enroot_slurm.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.users import User


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


@pytest.fixture
def faulty() -> Iterator[FaultRegistry]:
    with FaultRegistry() as registry:
        yield registry


@pytest.fixture
def cache(import_environment: dict[str, str]) -> Path:
    return Path(import_environment["ENROOT_CACHE_PATH"])


@pytest.fixture
def run(import_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs ``enroot-slurm cache`` and checks its status; *environment* has more variables."""

    def run(
        *arguments: object, status: int = 0, environment: dict[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        done = enroot_slurm("cache", *arguments, environment={**import_environment, **(environment or {})})
        assert done.returncode == status, done.stderr
        return done

    return run


@pytest.fixture
def read(run: Callable[..., subprocess.CompletedProcess[str]]) -> Callable[..., Any]:
    """A function that runs a command with ``--json`` and reads what it prints."""

    def read(*arguments: object, **options: Any) -> Any:
        return json.loads(run(*arguments, "--json", **options).stdout)

    return read


def image(*seeds: int, size: int = 30_000) -> Image:
    return Image([pack(Layer().file(f"f{seed}", noise(size, seed)), "gzip") for seed in seeds])


def make_older(path: Path, seconds: float = DAY) -> None:
    """Let a file of a cache, with what belongs to it, have been made and used *seconds* ago."""
    set_age(path, seconds)
    if path.suffix == ".sqsh":
        sidecar = path.with_suffix(".json")
        known = json.loads(sidecar.read_bytes())
        sidecar.chmod(0o600)
        sidecar.write_text(json.dumps({**known, "mtime_ns": path.stat().st_mtime_ns}))
        set_age(sidecar, seconds)


def make_all_older(cache: Path, seconds: float = DAY) -> None:
    """Let everything in *cache* be that old."""
    for path in cache.rglob("*"):
        if (path.is_file() and not path.with_suffix(".sqsh").exists()) or path.suffix == ".sqsh":
            make_older(path, seconds)


def prefetch(run: Callable[..., Any], file: Path, *uris: str, status: int = 0) -> subprocess.CompletedProcess[str]:
    file.write_text("".join(f"- {uri}\n" for uri in uris))
    done: subprocess.CompletedProcess[str] = run("prefetch", file, status=status)
    return done


# Looking, pinning, removing.


def test_what_is_in_a_cache(push, run, read, cache, tmp_path) -> None:
    """Tables for people, and the same as JSON: images, layers, blobs, manifests; sizes are those of the files."""
    assert read("list") == []
    assert run("list").stdout.split() == ["IMAGE", "DIGEST", "PLATFORM", "SIZE", "CREATED", "USED", "STATE"]
    assert read("du")[0]["size"] == 0
    assert not cache.exists()
    uris = [push(image(1, 2)), push(image(1, 3))]
    prefetch(run, tmp_path / "list.yaml", *uris)
    found = {each["uri"]: each for each in read("list")}
    assert set(found) == set(uris)
    first = found[uris[0]]
    [path] = cache.glob(f"images/*/*/sha256-{first['digest'][7:]}.sqsh")
    assert first["path"] == str(path.relative_to(cache))
    assert first["checksum"] == checksum_of(path)
    assert (first["image_size"], first["pinned"], first["leases"]) == (path.stat().st_size, False, [])
    table = run("list").stdout.splitlines()
    assert len(table) == 3
    assert all(uri in " ".join(table) for uri in uris)
    kinds = [each["kind"] for each in read("list", "--all")]
    assert {kind: kinds.count(kind) for kind in kinds} == {"image": 2, "layer": 3, "blob": 5, "manifest": 2}
    assert "layer" in run("list", "--all").stdout
    [usage] = read("du")
    assert usage["size"] == sum(p.stat().st_size for p in cache.rglob("*") if p.is_file())
    assert usage["kinds"]["blob"]["size"] == sum(p.stat().st_size for p in cache.glob("blobs/sha256/*"))
    assert usage["file_system"]["size"] > usage["file_system"]["used"] > 0
    assert "Blobs" in run("du").stdout

    Leases(cache).lease(path, "12.0", "n7")
    for word in (uris[0], uris[0].removeprefix("docker://"), first["digest"], first["digest"][7:13], path):
        [shown] = read("show", word)
        assert (shown["digest"], shown["leases"][0]["job"]) == (first["digest"], "12.0")
    text = run("show", uris[0]).stdout
    assert str(path) in text
    assert "12.0 on n7" in text
    assert len(read("show", *uris)) == 2
    assert "no image" in run("show", uris[0] + "x", status=3).stderr
    run("show", "zz", status=3)


def test_pins_and_leases_against_removal(push, run, read, cache, tmp_path) -> None:
    """What is pinned or leased is removed by force only; a dry run removes nothing; removed images can be had again."""
    uris = [push(image(1)), push(image(2))]
    prefetch(run, tmp_path / "list.yaml", *uris)
    assert "pinned" in run("pin", uris[0]).stdout
    assert [each["changed"] for each in read("pin", *uris)] == [False, True]
    assert [each["pinned"] for each in read("list")] == [True, True]
    before = files_of(cache)
    assert f"{uris[0]} is pinned" in run("rm", *uris, status=7).stderr
    run("rm", "--dry-run", "--force", *uris)
    assert files_of(cache) == before
    run("unpin", uris[0])
    [path] = (cache / each["path"] for each in read("show", uris[0]))
    Leases(cache).lease(path, "12.0", "n7")
    assert "job 12.0" in run("rm", uris[0], status=7).stderr
    run("gc", "--high", "16MiB", "--idle", "1h")
    assert "soon is no time such as 3600" in run("gc", "--idle", "soon", status=2).stderr
    run("gc", "--high", "16MiB", "--idle", "0")
    run("rm", "-f", *uris)
    assert read("list") == []
    assert list(cache.glob("images/*/*/*")) == []
    prefetch(run, tmp_path / "list.yaml", *uris)
    assert len(read("list")) == 2


# Verifying.


def test_a_flipped_byte_of_a_layer_is_found_in_what_was_joined_from_it(push, run, read, cache, tmp_path) -> None:
    """An image that was joined from a damaged layer image is just what its sidecar says; it goes with the layer."""
    base, other = push(image(1)), push(image(3))
    prefetch(run, tmp_path / "list.yaml", base, other)
    layers = sorted(cache.glob("layers/*/*.sqsh"), key=lambda path: path.stat().st_mtime_ns)
    victim, status = layers[0], layers[0].stat()
    content = bytearray(victim.read_bytes())
    content[len(content) // 3] ^= 1
    victim.chmod(0o600)
    victim.write_bytes(content)
    os.utime(victim, ns=(status.st_atime_ns, status.st_mtime_ns))
    joined = push(image(1, 2))
    prefetch(run, tmp_path / "list.yaml", joined)
    damaged = read("verify", status=6)["damaged"]
    assert sorted(each["kind"] for each in damaged) == ["image", "image", "layer"]
    assert all(str(victim.relative_to(cache)) in each["what"] for each in damaged if each["kind"] == "image")
    run("verify", "--repair")
    assert not victim.exists()
    assert len(list(cache.glob("images/*/*/*.sqsh"))) == 1
    assert read("verify")["damaged"] == []


def test_verify_finds_and_repairs(push, run, read, cache, tmp_path) -> None:
    """A changed byte in an image, blob, manifest or layer is found; what is damaged is removed, and made again."""
    uri = push(image(1, 2))
    prefetch(run, tmp_path / "list.yaml", uri)
    assert read("verify") == {"cache": str(cache), "checked": 7, "damaged": []}
    damaged = [next(cache.glob(f"{kind}/*")) for kind in ("blobs/sha256", "manifests/sha256")]
    damaged += [next(cache.glob("images/*/*/*.sqsh")), next(cache.glob("layers/*/*.sqsh"))]
    for path in damaged:
        status, data = path.stat(), bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.chmod(0o600)
        path.write_bytes(data)
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    expected = sorted(str(path.relative_to(cache)) for path in damaged)
    before = files_of(cache)
    for arguments in ([], ["--repair", "--dry-run"]):
        assert sorted(each["path"] for each in read("verify", *arguments, status=6)["damaged"]) == expected
    assert read("verify", uri, status=6)["damaged"][0]["kind"] == "image"
    assert files_of(cache) == before
    assert f"{len(expected)} damaged" in run("verify", "--repair").stdout
    assert [path for path in damaged if path.exists()] == []
    assert list(cache.glob("images/*/*/*")) == []
    assert read("verify")["damaged"] == []
    prefetch(run, tmp_path / "list.yaml", uri)
    assert {b"f1", b"f2"} <= read_tree(next(cache.glob("images/*/*/*.sqsh"))).keys()


# Collecting.


def test_collecting_what_real_imports_made(push, run, read, cache, tmp_path) -> None:
    """Blobs go before layers, layers before images, the ones used least recently first; leased and pinned ones stay."""
    uris = [push(image(n)) for n in range(4)]
    prefetch(run, tmp_path / "list.yaml", *uris)
    make_all_older(cache)
    paths = {uri: cache / read("show", uri)[0]["path"] for uri in uris}
    for age, uri in zip((30, 20, 10, 5), uris, strict=True):
        make_older(paths[uri], age * DAY)
    Leases(cache).lease(paths[uris[0]], "12.0", "n7")
    run("pin", uris[2])
    before = files_of(cache)
    told = read("gc", "--dry-run", "--high", "1%", "--low", "1%", "--idle", "0")
    assert files_of(cache) == before
    done = read("gc", "--high", "1%", "--low", "1%", "--idle", "0")
    assert [each["path"] for each in told["removed"]] == [each["path"] for each in done["removed"]]
    kinds = [each["kind"] for each in done["removed"]]
    assert kinds == ["blob"] * 8 + ["layer"] * 4 + ["image"] * 2
    assert [each["path"] for each in done["removed"][-2:]] == [str(paths[uris[n]].relative_to(cache)) for n in (1, 3)]
    assert {each["uri"] for each in read("list")} == {uris[0], uris[2]}
    assert done["above"] > 0
    assert "can't be freed" in run("gc", "--high", "1%").stdout
    assert "freed" in run("gc").stdout


def test_settings_of_a_collection(run, cache) -> None:
    """What does not fit is refused before anything is looked at."""
    for arguments in (["--high", "5"], ["--high", "101%"], ["--max-age", "soon"], ["--high", "50%", "--low", "60%"]):
        run("gc", *arguments, status=2)
    assert not cache.exists()


def fake_squeue(directory: Path, script: str) -> dict[str, str]:
    """A squeue for PATH that runs *script*, and notes each call."""
    directory.mkdir(exist_ok=True)
    program = directory / "squeue"
    program.write_text(f"#!/bin/sh\necho called >> {directory}/calls\n{script}\n")
    program.chmod(0o755)
    return {"PATH": f"{directory}:/usr/bin:/bin"}


@pytest.mark.parametrize(
    ("script", "left"),
    [
        ("printf '%s\\n' 13 14 15", ["13.0"]),
        ("exit 1", ["12.0", "13.0"]),
        ("echo 13; echo 'slurm_load_jobs error: Unable to contact slurm controller'", ["12.0", "13.0"]),
        ("kill -9 $$", ["12.0", "13.0"]),
        ("exit 0", []),
    ],
    ids=["13 runs", "fails", "says something else", "dies", "no jobs"],
)
def test_leases_of_jobs_that_have_gone(push, run, read, cache, tmp_path, script, left) -> None:
    """One call of squeue tells for all; when it fails, leases stay."""
    uri = push(image(1))
    prefetch(run, tmp_path / "list.yaml", uri)
    [path] = cache.glob("images/*/*/*.sqsh")
    for job in ("12.0", "13.0"):
        for node in ("n1", "n2"):
            Leases(cache).lease(path, job, node)
    environment = fake_squeue(tmp_path / "bin", script)
    assert read("gc", environment=environment)["removed"] == []  # they are young
    assert not (tmp_path / "bin/calls").exists()
    make_all_older(cache)
    report = read("gc", environment=environment)
    assert (tmp_path / "bin/calls").read_text() == "called\n"
    assert sorted({each.job for each in inventory(cache).leases}) == left
    assert bool(report["warnings"]) == (left == ["12.0", "13.0"])
    assert path.exists()


def test_without_squeue_leases_stay(push, run, read, cache, tmp_path) -> None:
    """And it is said why."""
    prefetch(run, tmp_path / "list.yaml", push(image(1)))
    Leases(cache).lease(next(cache.glob("images/*/*/*.sqsh")), "12.0", "n1")
    make_all_older(cache)
    (tmp_path / "bin").mkdir()
    report = read("gc", environment={"PATH": str(tmp_path / "bin")})
    assert report["warnings"] == ["what jobs have leased stays, for there is no squeue on PATH"]
    assert len(list(inventory(cache).leases)) == 1


# Beside imports.


def unfinished(cache: Path) -> list[Path]:
    return [p for pattern in ("**/.*.tmp", "tmp/*") for p in cache.glob(pattern)]


def test_what_a_killed_import_leaves(faulty, run, read, cache, tmp_path, import_environment) -> None:
    """Is collected once it is old; what a running one writes is not, however old it looks, for its locks are held."""
    wanted, event = image(1, 2, size=200_000), threading.Event()
    uri = serve(faulty, wanted)
    for blob in wanted.blobs():
        faulty.fault(Digest.of(blob.data).hex, stall=event, after=100_000)
    with Running("get", uri, environment=import_environment, log=tmp_path / "log") as running:
        wait_for(lambda: [len(list(cache.glob(each))) for each in ("tmp/*", "layers/*/.*.tmp")] == [2, 2])
        for path in unfinished(cache):
            set_age(path, 2 * DAY)
        working = set(unfinished(cache))
        assert read("gc")["removed"] == []
        # All at once, as a node that loses its power: a mksquashfs whose input ends early removes its file itself.
        for signum in (signal.SIGSTOP, signal.SIGKILL):
            for pid in processes_of(running.pid):
                os.kill(pid, signum)
        running.wait()
    event.set()
    assert set(unfinished(cache)) == working
    for path in working:
        set_age(path, 200)
    assert read("gc")["removed"] == []  # too young
    for path in working:
        set_age(path, 2000)
    report = read("gc")
    paths = {cache / each["path"] for each in report["removed"] if each["kind"] == "temporary"}
    assert paths == working
    assert unfinished(cache) == []
    faulty.heal()
    assert enroot_slurm("get", uri, environment=import_environment).returncode == 0


# Collects until it is told to stop, everything that nobody holds and that is not new.
COLLECT = """
import os, sys
from pathlib import Path
from enroot_slurm.housekeeping.collector import Collector, CollectorLimits
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.directory import CacheDirectory
place = CacheDirectory(Path(sys.argv[1]))
removed = []
while not os.path.exists(sys.argv[2]):
    collector = Collector(place, Locks(place), jobs=frozenset)
    removed += collector.run(CollectorLimits(high=2, low=1, max_age=1e-3, idle=0)).removed
print(*(each.path for each in removed))
"""
# What a hook does: gets an image, and leases it, until it has both.
LEASE = """
import sys
from enroot_slurm import Config, get_image
from enroot_slurm.cache.leases import Leases
from enroot_slurm.oci.digest import Digest
config = Config.load()
while True:
    image = get_image(sys.argv[1], config=config, job=sys.argv[2])
    try:
        Leases(config.cache_path).lease(image.path, sys.argv[2], "n1")
        break
    except FileNotFoundError:
        print("again", file=sys.stderr)
print(image.path, image.checksum)
"""


@pytest.mark.parametrize("joined", ["yes", "no"])
def test_verify_finds_any_flipped_byte(joined, push, run, cache, import_environment) -> None:
    """In the first block, in the data and in the tables, of an image that was joined or streamed; also if it is old."""
    import_environment["ENROOT_SLURM_LAYER_CACHE"] = joined
    uri = push(image(1, 2, size=1_500_000))
    result = enroot_slurm("get", uri, environment=import_environment)
    assert result.returncode == 0, result.stderr
    path = Path(result.stdout.strip())
    sidecar = path.with_suffix(".json")
    known = json.loads(sidecar.read_bytes())
    assert known["checksum"] == checksum_of(path)
    old = {name: value for name, value in known.items() if name != "checksum"}
    old["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    status, size = path.stat(), path.stat().st_size
    path.chmod(0o600)
    for says in (known, old):
        sidecar.write_text(json.dumps(says))
        run("verify", uri)
        for at in (700, size // 2, size - 5000):
            with path.open("r+b") as file:
                for status_wanted in (6, 0):
                    byte = os.pread(file.fileno(), 1, at)[0]
                    os.pwrite(file.fileno(), bytes([byte ^ 0x10]), at)
                    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
                    run("verify", uri, status=status_wanted)


def test_collecting_while_others_import(push, run, cache, tmp_path, import_environment) -> None:
    """A collection in a loop beside ten imports, under whose eyes one thing after the other gets old: all succeed.

    Five make files, which are whole; five lease what they get, and that stays.
    """
    uris = [push(image(n, n + 1, size=300_000)) for n in range(5)]
    prefetch(run, tmp_path / "list.yaml", *uris)
    run("rm", *uris)
    names = [*cache.glob("layers/*/*.sqsh"), *cache.glob("*/sha256/*")]
    stop = tmp_path / "stop"
    collector = subprocess.Popen(
        [sys.executable, "-c", COLLECT, cache, stop], stdout=subprocess.PIPE, text=True, env=import_environment
    )
    with collector:
        importing = [[*COMMAND, "import", "-o", tmp_path / f"{n}.sqsh", uri] for n, uri in enumerate(uris)]
        leasing = [[sys.executable, "-c", LEASE, uri, f"{n}.0"] for n, uri in enumerate(uris)]
        processes = [
            subprocess.Popen(each, env=import_environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
            for each in (*importing, *leasing)
        ]
        for name in names:  # each once, so that no import meets more losses than it has layers
            time.sleep(0.05)
            with contextlib.suppress(OSError):
                make_older(name)
        outputs = [process.communicate(timeout=120) for process in processes]
        stop.touch()
        removed = collector.communicate(timeout=60)[0].split()
    assert [process.returncode for process in processes] == [0] * 10, outputs
    assert len(removed) > len(names) / 2
    assert len(set(removed)) == len(removed)
    for seed in range(5):
        assert {b"f%d" % n for n in (seed, seed + 1)} <= read_tree(tmp_path / f"{seed}.sqsh").keys()
        path, checksum = outputs[5 + seed][0].split()
        assert checksum_of(Path(path)) == checksum
    assert unfinished(cache) == []


# Lists of images.


def test_a_list_of_images(push, run, read, cache, tmp_path) -> None:
    """All are imported, whatever becomes of the others; the status is the highest; twice costs nothing."""
    uris = [push(image(1)), push(Image(image(2).layers, architecture="arm64"))]
    file = tmp_path / "list.yaml"
    file.write_text(
        f"# what we use\n- {uris[0]}-typo\n- uri: {uris[0]}\n  arch: [x86_64, amd64]\n"
        f"- {{uri: '{uris[1]}', arch: aarch64}}\n- {uris[0]}-typo\n- docker://127.0.0.1:1#x\n"
    )
    environment = {"ENROOT_TRANSFER_RETRIES": "0"}
    done = run("prefetch", file, status=5, environment=environment)
    assert done.stdout.splitlines()[-1] == "5 images, 2 failed"
    assert f"{file}:2: " in done.stderr
    outcomes = read("prefetch", file, status=5, environment=environment)
    assert [each["status"] for each in outcomes] == [3, 0, 0, 0, 5]
    assert [each.get("reused") for each in outcomes] == [None, True, True, True, None]
    assert {each["platform"] for each in read("list")} == {"linux/amd64", "linux/arm64"}
    file.write_text(f"- {uris[0]}\n")
    assert run("prefetch", "-q", file).stdout == ""
    assert run("prefetch", file).stdout.splitlines()[-1] == "1 image, 0 failed"
    file.write_text("")
    assert run("prefetch", file).stdout == "0 images, 0 failed\n"


@pytest.mark.parametrize(
    ("text", "problems"),
    [
        ("docker://a", ["1:1: expected a list of images"]),
        ("- a\n- docker://a b", ["1:3: invalid image reference", "2:3: invalid image reference"]),
        ("- uri: docker://a\n  arch: z80\n", ["2:9: unknown architecture: 'z80'"]),
        (
            "- uri: docker://a\n  ach: x\n- arch: x86_64",
            ["2:3: expected 'uri' or 'arch', got 'ach'", "3:3: there is no 'uri'"],
        ),
        ("- uri: docker://a\n  uri: docker://b", ["2:3: 'uri' is here twice"]),
        ("- uri: [docker://a]\n- [docker://a]", ["1:8: expected a URI", "2:3: expected a URI, or a mapping"]),
        ("- uri: docker://a\n  arch: {a: b}", ["2:9: expected an architecture"]),
        ("- uri: docker://a\n  [x]: y", ["2:3: expected 'uri' or 'arch', got 'a list'"]),
        ("- 'a", ["1:5: not valid YAML"]),
        ("- docker://user:secret@host/image", ["1:3: invalid image reference"]),
        ("[" * 5000, ["not valid YAML"]),
    ],
)
def test_lists_that_are_wrong(run, cache, tmp_path, text, problems) -> None:
    """All problems are told at once, each with its place, and nothing is imported."""
    file = tmp_path / "list.yaml"
    file.write_text(text)
    said = run("prefetch", file, status=2).stderr.removeprefix("enroot-slurm: ").splitlines()
    for line, problem in zip(said, problems, strict=False):
        assert line.startswith(str(file)), said
        assert problem in line
    assert len(said) == len(problems) + 1
    assert "secret" not in "".join(said)
    assert not cache.exists()


@pytest.mark.parametrize("content", [None, b"\xff", b"#" * (1 << 20) + b"##"])
def test_lists_that_can_not_be_read(run, tmp_path, content) -> None:
    """Missing, not UTF-8, or too long."""
    file = tmp_path / "list.yaml"
    if content is not None:
        file.write_bytes(content)
    assert str(file) in run("prefetch", file, status=2).stderr


# The site's cache.


class Site(NamedTuple):
    """A shared cache, its user and another one, and the program where they can run it."""

    cache: Path
    owner: User
    other: User
    program: Path
    config: Path

    def run(self, *arguments: object, user: User | None = None, **variables: str) -> subprocess.CompletedProcess[str]:
        """``enroot-slurm cache ARGUMENTS...`` as *user*, or root."""
        environment = {
            "HOME": str(user.home) if user else "/nonexistent",
            "PATH": os.environ["PATH"],
            "ENROOT_SLURM_SITE_CONFIG": str(self.config),
            **variables,
        }
        command = [self.program / "enroot-slurm", "cache", *map(str, arguments)]
        identity = user.identity if user else {"cwd": "/"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, **identity)


@pytest.fixture(scope="module")
def site(registry) -> Iterator[Site]:
    require_root("works as several users")
    with tempfile.TemporaryDirectory(prefix="house.", dir="/var/tmp") as name, contextlib.ExitStack() as stack:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "homes").mkdir(mode=0o755)
        owner, other = stack.enter_context(users(2, directory / "homes"))
        installed = Installation.make()
        stack.callback(installed.remove)
        cache, config = directory / "cache", directory / "config.yaml"
        cache.mkdir(mode=0o755)
        os.chown(cache, owner.uid, owner.uid)
        config.write_text(
            f"shared_cache: {cache}\ncache_user: {owner.name}\ninsecure_registries: ['{registry.host}']\n"
            "squash_options: -comp zstd -Xcompression-level 1\n"
        )
        yield Site(cache, owner, other, installed.program(), config)


def test_root_works_as_the_owner_of_the_cache(site, push, tmp_path) -> None:
    """What root asks for, the cache's user does: imports, pins, verifies, collects; nothing there is root's."""
    file = tmp_path / "list.yaml"
    file.write_text(f"- {push(image(1))}\n- {push(image(2))}\n")
    done = site.run("prefetch", file)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "2 images, 0 failed"), done.stderr
    images = json.loads(site.run("list", "--json").stdout)
    assert [each["cache"] for each in images] == [str(site.cache)] * 2
    assert site.run("pin", images[0]["digest"]).returncode == 0
    blob = next(site.cache.glob("blobs/sha256/*"))
    blob.chmod(0o644)
    blob.write_bytes(b"damaged")
    assert site.run("verify").returncode == 6
    assert site.run("verify", "--repair").returncode == 0
    make_all_older(site.cache)
    Leases(site.cache).lease(site.cache / images[1]["path"], "77.0", "n1")  # as the hooks would, were they root
    subprocess.run(["chown", "-R", f"{site.owner.uid}:{site.owner.uid}", site.cache], check=True)
    fake = fake_squeue(tmp_path / "bin", "echo 77")
    (tmp_path / "bin").chmod(0o755)
    done = site.run("gc", "--json", "--high", "1%", "--idle", "0", **fake)
    assert done.returncode == 0, done.stderr
    kinds = [each["kind"] for each in json.loads(done.stdout)["removed"]]
    assert kinds == ["blob"] * 3 + ["layer"] * 2
    assert {path.stat().st_uid for path in [site.cache, *site.cache.rglob("*")]} == {site.owner.uid}
    assert site.run("rm", "--force", images[0]["digest"], images[1]["digest"]).returncode == 0
    assert list(site.cache.glob("images/*/*/*")) == []
    Leases(site.cache).release("77.0", "n1")


def test_others_only_look(site, push, tmp_path) -> None:
    """A user lists the site's cache beside the own one, and is refused whatever would change it."""
    file = tmp_path / "list.yaml"
    uri = push(image(3))
    file.write_text(f"- {uri}\n")
    assert site.run("prefetch", file).returncode == 0
    found = json.loads(site.run("list", "--json", user=site.other).stdout)
    assert [(each["cache"], each["uri"]) for each in found] == [(str(site.cache), uri)]
    assert "site" in site.run("list", user=site.other).stdout
    assert len(json.loads(site.run("du", "--json", user=site.other).stdout)) == 2
    assert site.run("verify", "--shared", user=site.other).returncode == 0
    before = files_of(site.cache)
    for arguments in (["gc"], ["gc", "-n"], ["pin", uri], ["unpin", uri], ["rm", uri], ["verify", "--repair"]):
        done = site.run(arguments[0], "--shared", *arguments[1:], user=site.other)
        assert (done.returncode, f"belongs to {site.owner.name}" in done.stderr) == (7, True), done
    assert site.run("rm", uri, user=site.other).returncode == 3  # it is not in the own one
    assert files_of(site.cache) == before
    assert site.run("gc", user=site.other).returncode == 0
    assert site.run("rm", uri, user=site.owner).returncode == 0  # whose cache it is


def test_jobs_that_are_hidden_from_the_owner(site, push, tmp_path) -> None:
    """Where users are shown their own jobs only, the cache's user can't tell which jobs have gone; root can."""
    (tmp_path / "list.yaml").write_text(f"- {push(image(4))}\n")
    assert site.run("prefetch", tmp_path / "list.yaml").returncode == 0
    [path] = site.cache.glob("images/*/*/*.sqsh")
    Leases(site.cache).lease(path, "78.0", "n1")
    subprocess.run(["chown", "-R", f"{site.owner.uid}:{site.owner.uid}", site.cache], check=True)
    make_all_older(site.cache)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        programs = Path(name)
        programs.chmod(0o777)
        fake = fake_squeue(programs, "true")
        for scontrol, removed in (
            ("false", 0),
            ("echo 'PrivateData = accounts,jobs'", 0),
            ("echo 'PrivateData = none'", 1),
        ):
            (programs / "scontrol").write_text(f"#!/bin/sh\n{scontrol}\n")
            (programs / "scontrol").chmod(0o755)
            report = json.loads(site.run("gc", "--json", "--dry-run", user=site.owner, **fake).stdout)
            assert (len(report["removed"]), len(report["warnings"])) == (removed, 1 - removed)
        (programs / "scontrol").unlink()
        assert len(json.loads(site.run("gc", "--json", **fake).stdout)["removed"]) == 1
    assert list(site.cache.glob("jobs/*")) == []
