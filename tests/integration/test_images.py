"""Images in the cache: what a hit costs, one import however many ask, and what is refused or survived."""

from __future__ import annotations

import contextlib
import getpass
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.cache import checksum_of
from support.calls import STRACE, calls_in
from support.command import COMMAND, Running, enroot_slurm, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Index, Layer, decompress, pack
from support.tools import require_root, require_tools
from support.tree import read_tree

from enroot_slurm import Config, find_image, get_image
from enroot_slurm.errors import AccessDenied, NetworkError, UnsupportedImage
from enroot_slurm.progress import Progress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

MEGABYTE = 1_000_000


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
def get(import_environment: dict[str, str]) -> Callable[..., subprocess.CompletedProcess[str]]:
    """A function that runs ``enroot-slurm get``; *environment* has more variables."""

    def run(*arguments: object, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
        return enroot_slurm("get", *arguments, environment={**import_environment, **(environment or {})})

    return run


@pytest.fixture
def config(import_environment: dict[str, str]) -> Config:
    return load(import_environment)


def load(environment: dict[str, str], **overrides: Any) -> Config:
    return Config.load(environ=environment, site_file=None, user_file=None, enroot_conf=None, overrides=overrides)


def image(*seeds: int, size: int = 10_000) -> Image:
    """An image with a layer for each of the *seeds*."""
    return Image([pack(Layer().file(f"f{seed}", noise(size, seed)), "gzip") for seed in seeds or (1, 2)])


def asked(registry: FaultRegistry, since: int = 0) -> list[tuple[str, str]]:
    """The requests: methods, and the last two parts of paths."""
    return [(r.method, "/".join(r.path.split("/")[-2:])) for r in registry.requests[since:]]


def unfinished(cache: Path) -> list[Path]:
    """What is in the cache but must not be there when nobody works."""
    return [*cache.rglob("*.tmp"), *cache.glob("tmp/*"), *cache.rglob("*.holder")]


def images_of(cache: Path) -> list[Path]:
    return sorted(cache.glob("images/*/*/*.sqsh"))


# What a hit costs.


def test_get_prints_the_path_and_asks_little(faulty, get, cache, import_environment) -> None:
    """The first get imports; the second sends one HEAD; by digest nothing is sent; the file is the image."""
    uri = serve(faulty, image())
    first = get(uri)
    assert first.returncode == 0, first.stderr
    path = Path(first.stdout.rstrip("\n"))
    assert first.stdout == f"{path}\n"
    assert path == images_of(cache)[0]
    assert {b"f1", b"f2", b"etc/rc"} <= read_tree(path).keys()
    assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o400, 0o700)
    status, before = path.stat(), len(faulty.requests)
    second = get("--json", uri)
    assert asked(faulty, before) == [("HEAD", "manifests/1")]
    known = json.loads(second.stdout)
    assert (known["path"], known["size"], known["reused"]) == (str(path), status.st_size, True)
    assert known["checksum"] == checksum_of(path)
    before = len(faulty.requests)
    third = get("-q", f"{uri}@{known['digest']}")
    assert (third.stdout, third.stderr) == (first.stdout, "")
    assert asked(faulty, before) == []
    assert path.stat().st_atime_ns == path.stat().st_atime_ns
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == (status.st_mtime_ns, status.st_ino)
    assert unfinished(cache) == []


def test_a_tag_of_an_index_costs_one_head(push, registry, repository, get, cache) -> None:
    """A tag that names an index leads to the platform's image by documents in the cache; so does the index's digest."""
    index = Index([image(1), Image(image(2).layers, architecture="arm64")])
    pushed = registry.push(repository, "t", index)
    uri = registry.uri(repository, "t")
    paths = {arch: get("-a", arch, uri).stdout for arch in ("amd64", "arm64")}
    assert len(set(paths.values())) == 2
    registry.reset()
    assert get("-a", "arm64", uri).stdout == paths["arm64"]
    assert [(r.method, r.path) for r in registry.requests()] == [("HEAD", f"/v2/{repository}/manifests/t")]
    registry.reset()
    assert get("-a", "amd64", f"{uri}@{pushed.digest}").stdout == paths["amd64"]
    assert registry.requests() == []
    assert len(list((cache / "manifests/sha256").iterdir())) == 3


def test_a_tag_that_moves_is_seen(faulty, get) -> None:
    """A tag is asked for each time, so its new image is taken at once."""
    uri = serve(faulty, image(1))
    first = get(uri).stdout
    serve(faulty, image(1, 2))
    assert get(uri).stdout != first


@pytest.mark.parametrize(
    "fault",
    [
        {"remove": ["Docker-Content-Digest"]},
        {"headers": {"Docker-Content-Digest": "md5:1234"}},
        {"status": 405},
        {"status": 404},
        {"status": 403},
        {"redirect": "http://127.0.0.1:1/"},
    ],
    ids=["no digest", "another digest", "405", "404", "403", "redirect"],
)
def test_registries_without_head(faulty, get, fault) -> None:
    """Where HEAD is refused, or tells no digest, the manifest is read; no blob is."""
    uri = serve(faulty, image())
    expected = get(uri).stdout
    if "redirect" in fault:
        fault = {"redirect": f"{faulty.url}/v2/app/manifests/1"}
        faulty.fault("/manifests/1$", times=1, method="HEAD", remove=["Docker-Content-Digest"])
    faulty.fault("/manifests/1$", method="HEAD", **fault)
    before = len(faulty.requests)
    result = get(uri)
    assert result.stdout == expected, result.stderr
    assert {kind for _, kind in asked(faulty, before)} == {"manifests/1"}
    assert asked(faulty, before)[-1] == ("GET", "manifests/1")


def test_a_lying_head_costs_a_request(faulty, get, cache) -> None:
    """A digest that the registry claims but does not have leads to a request for the tag, and to the right image."""
    uri = serve(faulty, image())
    wrong = f"sha256:{'0' * 64}"
    faulty.fault("/manifests/1$", method="HEAD", headers={"Docker-Content-Digest": wrong})
    result = get(uri)
    assert result.returncode == 0, result.stderr
    assert len(images_of(cache)) == 1
    assert asked(faulty)[:3] == [("HEAD", "manifests/1"), ("GET", f"manifests/{wrong}"), ("GET", "manifests/1")]


HIT = """
import sys
from enroot_slurm.importing.to_cache import find_image
found = find_image(sys.argv[1])
print(found.path if found else "")
"""


def test_a_hit_loads_little(faulty, get, import_environment) -> None:
    """Finding an image loads no HTTP client, no locks, no YAML, no archives, and starts no thread."""
    uri = serve(faulty, image())
    expected = get(uri).stdout
    digest = json.loads(get("--json", uri).stdout)["digest"]
    code = HIT + "import threading\nprint(*sys.modules, threading.active_count(), file=sys.stderr)"
    command = [sys.executable, "-c", code, f"{uri}@{digest}"]
    result = subprocess.run(command, env=import_environment, capture_output=True, text=True, check=True)
    assert result.stdout == expected
    *modules, threads = result.stderr.split()
    heavy = {"requests", "urllib3", "yaml", "filelock", "tarfile", "ssl", "dataclasses", "subprocess"}
    assert heavy & set(modules) == set()
    assert not [m for m in modules if m.startswith(("enroot_slurm.registry", "enroot_slurm.rootfs"))]
    assert threads == "1"


def test_a_hit_reads_no_data_and_takes_no_lock(faulty, get, import_environment, cache, tmp_path) -> None:
    """A hit opens the image for its first bytes, and writes nothing: the cache may be read-only."""
    require_tools("strace")
    uri = serve(faulty, image(1, size=3 * MEGABYTE))
    path = get(uri).stdout.strip()
    digest = json.loads(get("--json", uri).stdout)["digest"]
    log = tmp_path / "strace"
    trace = ["strace", "-f", "-y", "-e", "trace=read,pread64,flock,write,openat,rename,link,unlink,mkdir", "-o", log]
    subprocess.run([*trace, *COMMAND, "get", f"{uri}@{digest}"], env=import_environment, check=True)
    lines = [line for line in log.read_text().splitlines() if str(cache) in line]
    reads = [int(line.rpartition("= ")[2]) for line in lines if "read(" in line and f"<{path}>" in line]
    assert 96 <= sum(reads) <= 16 << 10
    assert not [line for line in lines if "flock(" in line or "O_CREAT" in line or "O_WRONLY" in line]
    assert not [line for line in lines if "rename" in line or "unlink" in line or "mkdir" in line]


def test_a_hit_asks_the_file_system_little(faulty, get, import_environment, cache, tmp_path) -> None:
    """A hit looks at each directory from the cache to the image, reads sidecar and image, and asks nothing twice.

    A tag that `tag_ttl` remembers is one more file: to open, to look at, and to read.
    """
    require_tools("strace")
    uri = serve(faulty, image())
    get(uri)
    digest = json.loads(get("--json", uri).stdout)["digest"]
    log = tmp_path / "strace"

    def calls(name: str) -> list[str]:
        environment = {**import_environment, "ENROOT_SLURM_TAG_TTL": "3600"}
        subprocess.run([*STRACE, "-o", log, *COMMAND, "get", name], env=environment, check=True)
        return [each.text for each in calls_in(cache, log.read_text())]

    found = calls(f"{uri}@{digest}")
    assert len(found) <= 10, found
    found = calls(uri)
    assert len(found) <= 13, found


def test_find_image(faulty, config) -> None:
    """Nobody is asked: a digest or what the job has resolved is found, a tag is not; a wrong URI is an error."""
    uri = serve(faulty, image())
    assert find_image(uri, config=config) is None
    made = get_image(uri, config=config, job="77.0")
    before = len(faulty.requests)
    assert find_image(uri, config=config) is None
    assert find_image(uri, config=config, job="78.0") is None
    found = find_image(uri, config=config, job="77.0")
    assert found == made._replace(reused=True)
    assert find_image(f"{uri}@{made.digest}", config=config) == found
    assert find_image(f"{uri}@{made.digest}", arch="arm64", config=config) is None
    assert asked(faulty, before) == []
    for wrong in ("docker://", "../x"):
        with pytest.raises(ValueError, match="invalid image reference"):
            find_image(wrong, config=config)
    with pytest.raises(ValueError, match="not a job"):
        find_image(uri, config=config, job="../1")


def test_options_make_other_images(faulty, get, cache) -> None:
    """An image with other squash options, or with SOURCE_DATE_EPOCH, is another file; a spelling is not."""
    uri = serve(faulty, image())
    variants = [{}, {"ENROOT_SQUASH_OPTIONS": "-comp gzip"}, {"SOURCE_DATE_EPOCH": "1700000000"}]
    paths = [get(uri, environment=variant).stdout for variant in variants]
    assert len(set(paths)) == 3
    same = {"ENROOT_SQUASH_OPTIONS": "-b 128K -comp gzip -Xcompression-level 9 -processors 2"}
    assert get(uri, environment=same).stdout == paths[1]
    assert len(images_of(cache)) == 3


@pytest.mark.parametrize("layer_cache", [True, False])
def test_images_that_are_too_large(layer_cache, faulty, config, cache) -> None:
    """Layers may have so many bytes together: as they are received, before one is, and when they are unpacked."""
    made = image(1, 2)
    uri = serve(faulty, made)
    config = config._replace(layer_cache=layer_cache)
    size = sum(len(blob.data) for blob in made.blobs())
    with pytest.raises(UnsupportedImage, match="are the most") as caught:
        get_image(uri, config=config._replace(max_download=size - 1))
    assert "max_download" in caught.value.hint
    assert sum(faulty.count(blob.digest) for blob in made.blobs()) == 0
    archives = sum(len(decompress(blob.data)) for blob in made.blobs())
    with pytest.raises(UnsupportedImage, match="when they are unpacked"):
        get_image(uri, config=config._replace(max_unpacked=archives - 1))
    assert unfinished(cache) == []
    assert images_of(cache) == []
    for layers in cache.glob("layers/*"):
        shutil.rmtree(layers)
    assert get_image(uri, config=config._replace(max_download=size, max_unpacked=archives)).path.exists()


# import, and the cache.


def test_import_takes_the_cached_image(faulty, get, import_environment, tmp_path) -> None:
    """What is in the cache is copied: one HEAD, and the same bytes."""
    uri = serve(faulty, image())
    path = get(uri).stdout.strip()
    before = len(faulty.requests)
    result = enroot_slurm("import", "-o", tmp_path / "x.sqsh", uri, environment=import_environment)
    assert result.returncode == 0, result.stderr
    assert "2 from the cache" in result.stderr
    assert asked(faulty, before) == [("HEAD", "manifests/1")]
    assert (tmp_path / "x.sqsh").read_bytes() == Path(path).read_bytes()
    assert (tmp_path / "x.sqsh").stat().st_mode & 0o200


def test_import_has_its_own_provenance(faulty, get, import_environment, tmp_path) -> None:
    """An image in the cache under another name is not copied: /etc/rc would have that name.  No blob is fetched."""
    uri = serve(faulty, image())
    get(uri)
    other = serve(faulty, image(), tag="other")
    before = len(faulty.requests)
    output = tmp_path / "x.sqsh"
    assert enroot_slurm("import", "-o", output, other, environment=import_environment).returncode == 0
    assert asked(faulty, before) == [("HEAD", "manifests/other")]
    script = subprocess.run(["unsquashfs", "-cat", output, "etc/rc"], check=True, capture_output=True).stdout
    assert script.splitlines()[0].endswith(b"#app:other")
    assert get(other).stdout == get(uri).stdout


def test_import_leaves_no_image_in_the_cache(faulty, cache, import_environment, tmp_path) -> None:
    """A copy in the cache would cost its space, or at least its hash; only layers and blobs are kept."""
    uri = serve(faulty, image())
    assert enroot_slurm("import", "-o", tmp_path / "x.sqsh", uri, environment=import_environment).returncode == 0
    assert images_of(cache) == []


def test_import_shares_blocks_where_it_can(faulty, import_environment, tmp_path) -> None:
    """On XFS, outputs share the blocks of the layers' images, and of the cached image if there is one."""
    require_root("mounts a file system")
    require_tools("mkfs.xfs")
    disk, mount = tmp_path / "disk", tmp_path / "xfs"
    mount.mkdir()
    with disk.open("wb") as file:
        file.truncate(400 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", "reflink=1", disk], check=True)
    subprocess.run(["mount", "-o", "loop", disk, mount], check=True)
    try:
        uri = serve(faulty, Image([pack(Layer().file("big", noise(20 * MEGABYTE)), "none")]))
        environment = {**import_environment, "ENROOT_CACHE_PATH": str(mount / "cache")}
        environment["ENROOT_SQUASH_OPTIONS"] += " -noD"
        assert enroot_slurm("import", "-o", mount / "first.sqsh", uri, environment=environment).returncode == 0
        os.sync()
        before = os.statvfs(mount).f_bfree
        assert enroot_slurm("import", "-o", mount / "joined.sqsh", uri, environment=environment).returncode == 0
        assert enroot_slurm("get", uri, environment=environment).returncode == 0
        assert enroot_slurm("import", "-o", mount / "cloned.sqsh", uri, environment=environment).returncode == 0
        other = serve(faulty, Image([pack(Layer().file("big", noise(20 * MEGABYTE)), "none")]), tag="other")
        assert enroot_slurm("import", "-o", mount / "other.sqsh", other, environment=environment).returncode == 0
        os.sync()
        assert (before - os.statvfs(mount).f_bfree) * os.statvfs(mount).f_frsize < 2 * MEGABYTE
        [cached] = images_of(mount / "cache")
        for name in ("joined", "cloned"):
            assert (mount / f"{name}.sqsh").read_bytes() == cached.read_bytes()
    finally:
        subprocess.run(["umount", "-l", mount], check=True)


# One import, however many ask.


def together(count: int, *arguments: object, environment: dict[str, str]) -> list[subprocess.CompletedProcess[str]]:
    """Run the command *count* times at once."""
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        results[number] = enroot_slurm(*arguments, environment=environment)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_twenty_at_once(faulty, import_environment, cache) -> None:
    """Twenty processes that ask for one image: each blob is sent once, and all get one path."""
    made = image(1, 2, 3, size=MEGABYTE)
    uri = serve(faulty, made)
    results = together(20, "get", "-q", uri, environment=import_environment)
    assert [r.returncode for r in results] == [0] * 20, [r.stderr for r in results]
    assert len({r.stdout for r in results}) == 1
    assert [faulty.count(blob.digest) for blob in made.blobs()] == [1] * 3
    assert faulty.count("/blobs/") == 4  # the config too
    assert len(images_of(cache)) == 1
    assert unfinished(cache) == []


def test_without_locks_it_is_only_more_work(faulty, import_environment, cache) -> None:
    """Where locks do nothing, all do the work, and all have the right image; nothing is left over."""
    made = image(1, 2, size=MEGABYTE)
    uri, release = serve(faulty, made), threading.Event()
    faulty.fault(made.blobs()[0].digest, stall=release)
    several = threading.Thread(
        target=lambda: (wait_for(lambda: faulty.count(made.blobs()[0].digest) > 1), release.set())
    )
    several.start()
    results = together(8, "get", "-q", uri, environment={**import_environment, "ENROOT_SLURM_LOCKS": "no"})
    several.join()
    assert [r.returncode for r in results] == [0] * 8, [r.stderr for r in results]
    assert len({r.stdout for r in results}) == 1
    assert faulty.count(made.blobs()[0].digest) > 1
    assert {b"f1", b"f2"} <= read_tree(Path(results[0].stdout.strip())).keys()
    assert unfinished(cache) == []
    before = len(faulty.requests)
    assert enroot_slurm("get", "-q", uri, environment=import_environment).stdout == results[0].stdout
    assert asked(faulty, before) == [("HEAD", "manifests/1")]


@pytest.fixture
def stalled(faulty, import_environment, tmp_path) -> Iterator[Callable[..., tuple[str, Running, threading.Event]]]:
    """A function that starts a get whose download stalls; it returns the URI, the process and what lets it go on."""
    started: list[Running] = []
    release = threading.Event()

    def start(**environment: str) -> tuple[str, Running, threading.Event]:
        made = image(1, 2, size=3 * MEGABYTE)
        uri = serve(faulty, made)
        faulty.fault(made.blobs()[0].digest, times=1, stall=release, after=MEGABYTE)
        variables = {**import_environment, **environment}
        running = Running("get", uri, environment=variables, log=tmp_path / "first").__enter__()
        started.append(running)
        wait_for(lambda: faulty.count(made.blobs()[1].digest))
        wait_for(lambda: list(Path(import_environment["ENROOT_CACHE_PATH"]).glob("blobs/sha256/*")))
        return uri, running, release

    yield start
    release.set()
    for running in started:
        running.__exit__()


def test_waiting_says_for_whom(stalled, import_environment, tmp_path) -> None:
    """Who waits is told who works on the image, in which phase, how far it is and since when, as people or programs."""
    uri, worker, release = stalled()
    with Running("get", uri, environment=import_environment, log=tmp_path / "second") as waiting:
        waiting.wait_until_says("waiting for ")
        cache = Path(import_environment["ENROOT_CACHE_PATH"])
        wait_for(lambda: [each for each in cache.glob("locks/image-*.holder") if each.stat().st_size])
        record = json.loads(next(cache.glob("locks/image-*.holder")).read_bytes())
        assert (record["host"], record["user"], record["pid"]) == (os.uname().nodename, getpass.getuser(), worker.pid)
        assert record["phase"].startswith("importing")
        assert record["received"] >= MEGABYTE
        assert 0 < record["done"] < record["total"]
        with Running("get", "--progress=json", uri, environment=import_environment, log=tmp_path / "third") as third:
            wait_for(lambda: '"waiting": true, "done": ' in third.said)
            told = json.loads(third.said.splitlines()[-1])
            assert (told["done"], told["total"]) == (record["done"], record["total"])
            assert told["percent"] == round(100 * record["done"] / record["total"], 1)
        release.set()
        assert waiting.wait() == 0, waiting.said
    assert worker.wait() == 0
    assert list(cache.glob("locks/*.holder")) == []


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGTERM])
def test_a_dead_worker_is_replaced_at_once(signum, stalled, faulty, import_environment, cache, tmp_path) -> None:
    """When the worker dies, a waiter takes over, and reuses the blobs that were complete."""
    uri, worker, _ = stalled()
    environment = {**import_environment, "ENROOT_SLURM_WORKER_TIMEOUT": "3600"}  # which is not waited for
    with Running("get", uri, environment=environment, log=tmp_path / "second") as waiting:
        waiting.wait_until_says("waiting for ")
        worker.process.send_signal(signum)
        worker.wait()
        assert waiting.wait() == 0, waiting.said
    digests = [blob.digest for blob in image(1, 2, size=3 * MEGABYTE).blobs()]
    assert [faulty.count(digest) for digest in digests] == [2, 1]
    assert len(images_of(cache)) == 1


@pytest.mark.parametrize("setting", ["ENROOT_SLURM_WORKER_TIMEOUT", "ENROOT_SLURM_LOCK_TIMEOUT"])
def test_a_stopped_or_slow_worker_is_left_behind(setting, stalled, import_environment, cache, tmp_path) -> None:
    """A worker that is stopped, or takes longer than one may wait, does not block others; both results are right."""
    uri, worker, release = stalled()
    if setting == "ENROOT_SLURM_WORKER_TIMEOUT":
        worker.process.send_signal(signal.SIGSTOP)
    environment = {**import_environment, setting: "1"}
    result = enroot_slurm("get", uri, environment=environment)
    assert result.returncode == 0, result.stderr
    path = Path(result.stdout.strip())
    status = path.stat()
    assert worker.process.poll() is None
    release.set()
    worker.process.send_signal(signal.SIGCONT)
    assert worker.wait() == 0, worker.said
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (status.st_ino, status.st_mtime_ns)  # published once
    assert read_tree(path)[b"f1"].size == 3 * MEGABYTE
    assert unfinished(cache) == []


# Jobs.


def test_a_job_resolves_a_tag_once(faulty, config, tmp_path) -> None:
    """All nodes of a job use the digest that the first one got, even when the tag moves meanwhile."""
    uri = serve(faulty, image(1))
    first = get_image(uri, config=config, job="12.0")
    serve(faulty, image(1, 2))
    before = len(faulty.requests)
    assert get_image(uri, config=config, job="12.0").digest == first.digest
    assert asked(faulty, before) == []
    assert get_image(uri, config=config, job="12.1").digest != first.digest  # requeued


def test_a_job_resolves_a_tag_once_even_at_the_same_time(faulty, config) -> None:
    """Ten processes of a job that begin together send one request for the tag."""
    uri = serve(faulty, image(1))
    get_image(uri, config=config)
    before = len(faulty.requests)
    results: list[Any] = []
    threads = [
        threading.Thread(target=lambda: results.append(get_image(uri, config=config, job="13.0"))) for _ in range(10)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 10
    assert len(set(results)) == 1
    assert asked(faulty, before) == [("HEAD", "manifests/1")]


def test_failures_are_shared(faulty, config, import_environment) -> None:
    """Jobs take a failure from each other, for some time, with its class, message and hint."""
    serve(faulty, image(1))
    uri = f"docker://{faulty.host}#app:nonsense"
    errors = []
    for number in range(5):
        with pytest.raises(Exception, match="has no tag nonsense") as caught:
            get_image(uri, config=config, job=f"{number}.0")
        errors.append(caught.value)
    assert {type(e).__name__ for e in errors} == {"NotFound"}
    assert {e.exit_code for e in errors} == {3}
    assert len(asked(faulty)) == 2  # HEAD and GET
    assert "failure_ttl" in errors[-1].hint
    short = load(import_environment, failure_ttl=0.1)
    time.sleep(0.2)
    serve(faulty, image(1), tag="nonsense")
    assert get_image(uri, config=short, job="9.0").size


def test_credentials_that_are_mended(faulty, config, import_environment) -> None:
    """A refusal is not remembered beyond the change of the file that its hint is about."""
    uri = serve(faulty, image())
    for method in ("GET", "HEAD"):
        faulty.fault("/manifests/", method=method, status=401)
    requests = set()
    for number in (1, 2, 3):
        with pytest.raises(AccessDenied):
            get_image(uri, config=config, job=f"{number}.0")
        requests.add(len(faulty.requests))
    assert len(requests) == 1
    faulty.heal()
    config.config_path.mkdir(parents=True, exist_ok=True)
    (config.config_path / ".credentials").write_text("machine registry.example login u password p\n")
    assert get_image(uri, config=config, job="4.0").path.exists()


def test_a_registry_that_is_down(faulty, import_environment) -> None:
    """What a tag led to last is offered, and taken with a warning if the site wants that; by tag_ttl without asking."""
    uri = serve(faulty, image())
    config = load(import_environment, transfer_retries=0, failure_ttl=0)
    made = get_image(uri, config=config)
    requests = len(faulty.requests)
    assert get_image(uri, config=config._replace(tag_ttl=60.0)).path == made.path
    assert get_image(uri, config=config._replace(tag_ttl=60.0), job="1.0").path == made.path
    assert get_image(uri, config=config, job="1.0").path == made.path  # what a job has got stays its answer
    assert len(faulty.requests) == requests
    for method in ("GET", "HEAD"):
        faulty.fault("/v2/", method=method, status=503)
    with pytest.raises(NetworkError) as caught:
        get_image(uri, config=config, job="2.0")
    assert f"@{made.digest}, or set stale_tags: yes" in caught.value.hint
    told = Told()
    assert get_image(uri, config=config._replace(stale_tags=True), job="3.0", progress=told).path == made.path
    assert "using what" in told.warnings[0]
    made.path.unlink()
    with pytest.raises(NetworkError) as caught:
        get_image(uri, config=config._replace(stale_tags=True))
    assert "stale_tags" not in caught.value.hint


class Told(Progress):
    """Keeps the warnings."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_a_failure_is_every_waiters(faulty, import_environment, tmp_path) -> None:
    """When the import fails for which others wait, they fail as well, and don't try it one after the other."""
    release = threading.Event()
    made = image(1, size=MEGABYTE)
    uri = serve(faulty, made)
    faulty.fault(made.blobs()[0].digest, flip=5, stall=release)
    with contextlib.ExitStack() as stack:
        everyone = [
            stack.enter_context(Running("get", uri, environment=import_environment, log=tmp_path / f"log{number}"))
            for number in range(6)
        ]
        stack.callback(release.set)
        wait_for(lambda: sum("waiting for" in each.said for each in everyone) == 5)
        release.set()
        assert [each.wait() for each in everyone] == [6] * 6, [each.said for each in everyone]
    assert sum("was told so" in each.said for each in everyone) == 5
    assert faulty.count(made.blobs()[0].digest) == 1


# What was tampered with, or does not fit on the disk.


@pytest.fixture
def made(faulty, get, cache) -> tuple[str, Path]:
    """The URI of an image, and its file in the cache."""
    uri = serve(faulty, image())
    return uri, Path(get(uri).stdout.strip())


@pytest.mark.parametrize("command", ["get", "import"])
def test_a_way_to_the_cache_that_is_none(command, faulty, import_environment, tmp_path) -> None:
    uri = serve(faulty, image())
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    for way in (tmp_path / "file", tmp_path / "loop", tmp_path / ("x" * 300)):
        environment = {**import_environment, "ENROOT_CACHE_PATH": f"{way}/cache"}
        words = [command, *(["-o", tmp_path / "image.sqsh"] if command == "import" else []), uri]
        refused = enroot_slurm(*words, environment=environment)
        assert (refused.returncode, refused.stdout) == (7, "")
        assert f"can't write to {way}" in refused.stderr
        assert "ENROOT_CACHE_PATH" in refused.stderr


def test_a_cache_that_is_a_link_to_nothing(faulty, import_environment, tmp_path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "nothing")
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(tmp_path / "link")}
    refused = enroot_slurm("get", serve(faulty, image()), environment=environment)
    assert (refused.returncode, refused.stdout) == (7, "")
    told = f"can't write to {tmp_path / 'link'}: it is a link to {tmp_path / 'nothing'}, which is not there"
    assert told in refused.stderr


@pytest.mark.parametrize("words", [("list",), ("du",), ("gc",), ("verify",), ("rm", "app")])
def test_what_is_no_directory_is_no_empty_cache(words, import_environment, tmp_path) -> None:
    (tmp_path / "file").write_bytes(b"")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "fifo")
    for way in ("file", "file/below", "loop", "fifo"):
        environment = {**import_environment, "ENROOT_CACHE_PATH": str(tmp_path / way)}
        refused = enroot_slurm("cache", *words, environment=environment)
        assert (refused.returncode, refused.stdout) == (7, ""), way
        assert f"{tmp_path / way}: " in refused.stderr


def damage(path: Path, how: str) -> None:
    sidecar = path.with_suffix(".json")
    content = path.read_bytes()
    if how == "cut":
        os.truncate(path, len(content) // 2)
    elif how == "changed":
        path.chmod(0o600)
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        path.chmod(0o400)
    elif how == "no squashfs":
        status = path.stat()
        path.chmod(0o600)
        path.write_bytes(b"x" * len(content))
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
        path.chmod(0o400)
    elif how == "hard link":
        os.link(path, path.with_name("another"))
    elif how == "symlink":
        path.rename(path.with_name("moved"))
        path.symlink_to("moved")
    elif how == "fifo":
        path.unlink()
        os.mkfifo(path)
    elif how == "writable":
        path.chmod(0o666)
    elif how == "sidecar changed":
        sidecar.write_text(sidecar.read_text().replace('"size": ', '"size": 1'))
    elif how == "sidecar of another":
        sidecar.write_text(sidecar.read_text().replace(path.stem[-12:], "0" * 12))
    elif how == "sidecar huge":
        sidecar.write_text(sidecar.read_text() + " " * 100_000)
    elif how == "sidecar no JSON":
        sidecar.write_text("[")
    elif how == "sidecar symlink":
        sidecar.rename(sidecar.with_name("moved"))
        sidecar.symlink_to("moved")
    elif how == "sidecar gone":
        sidecar.unlink()
    elif how == "image gone":
        path.unlink()


DAMAGES = [
    *("cut", "changed", "no squashfs", "hard link", "symlink", "fifo", "writable", "image gone"),
    *("sidecar changed", "sidecar of another", "sidecar huge", "sidecar no JSON", "sidecar symlink", "sidecar gone"),
]


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_image_is_made_again(how, made, get, faulty, cache) -> None:
    """What is not as it was published is never handed out; it is made anew, from layers that are there."""
    uri, path = made
    good = path.read_bytes()
    damage(path, how)
    before = len(faulty.requests)
    result = get(uri)
    assert result.returncode == 0, result.stderr
    assert result.stdout == f"{path}\n"
    assert path.read_bytes() == good
    assert path.is_file()
    assert not path.is_symlink()
    assert [r for r in asked(faulty, before) if "blobs" in r[1]] == []
    assert get(uri).stdout == result.stdout
    assert unfinished(cache) == []


def test_a_directory_in_place_of_an_image(made, get) -> None:
    """What can't be replaced is named."""
    uri, path = made
    path.unlink()
    (path / "sub").mkdir(parents=True)
    result = get(uri)
    assert result.returncode == 7, result.stderr
    assert str(path) in result.stderr


@pytest.mark.parametrize("name", ["", "images", "images/*", "images/*/*"])
def test_a_cache_that_others_can_write_is_refused(name, made, get, cache) -> None:
    """A directory of the cache that is writable by others is an error with the command to run, or is not used."""
    uri, path = made
    directory = next(cache.parent.glob(f"cache/{name}")) if name else cache
    directory.chmod(0o777)
    result = get(uri)
    assert result.returncode == 7, result.stdout
    assert f"chmod go-w {directory}" in result.stderr
    directory.chmod(0o700)
    assert get(uri).stdout == f"{path}\n"


def test_a_parent_that_others_can_write_is_refused(faulty, import_environment, tmp_path) -> None:
    """So is one above the cache; a sticky one of root's is fine."""
    uri = serve(faulty, image())
    parent = tmp_path / "parent"
    parent.mkdir()
    parent.chmod(0o777)
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(parent / "cache")}
    result = enroot_slurm("get", uri, environment=environment)
    assert result.returncode == 7
    assert f"{parent} is writable by everybody" in result.stderr
    assert f"chmod go-w {parent}" in result.stderr
    # An import, whose result is this user's alone, goes on: each file it takes from the cache is checked by itself.
    assert enroot_slurm("import", "-o", tmp_path / "x.sqsh", uri, environment=environment).returncode == 0
    if os.geteuid() == 0:
        parent.chmod(0o1777)
        assert enroot_slurm("get", uri, environment=environment).returncode == 0


@pytest.fixture
def mount(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """A function that mounts a tmpfs with these options, and returns its directory."""
    require_root("mounts a small file system")
    directory = tmp_path / "disk"
    directory.mkdir(mode=0o755)

    def make(options: str) -> Path:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"mode=0755,{options}", "none", directory], check=True)
        return directory

    yield make
    subprocess.run(["umount", "-l", directory], check=False)


def test_no_space(mount, faulty, import_environment) -> None:
    """ENOSPC, wherever it happens: an error that says so, nothing left over; with space the next get works."""
    disk = mount("size=1m")
    uri = serve(faulty, image(1, 2, size=MEGABYTE))
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(disk / "cache")}
    statuses = []
    for kibibytes in range(1024, 8192, 512):
        subprocess.run(["mount", "-o", f"remount,size={kibibytes}k", disk], check=True)
        result = enroot_slurm("get", uri, environment=environment)
        statuses.append(result.returncode)
        assert unfinished(disk / "cache") == []
        if result.returncode == 0:
            break
        assert "space" in result.stderr
        assert images_of(disk / "cache") == []
    assert set(statuses[:-1]) == {7}
    assert statuses[-1] == 0
    assert {b"f1", b"f2"} <= read_tree(images_of(disk / "cache")[0]).keys()


def test_read_only_cache(mount, faulty, import_environment) -> None:
    """A read-only cache serves what it has; anything else is an error."""
    disk = mount("size=20m")
    uri, other = serve(faulty, image(1)), serve(faulty, image(2), tag="other")
    environment = {**import_environment, "ENROOT_CACHE_PATH": str(disk / "cache")}
    path = enroot_slurm("get", uri, environment=environment).stdout
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    for arguments in (["get"], ["get", "-v"]):
        assert enroot_slurm(*arguments, uri, environment=environment).stdout == path
    result = enroot_slurm("get", other, environment=environment)
    assert result.returncode == 7
    assert "Read-only" in result.stderr
