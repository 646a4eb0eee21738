"""Blobs in the cache: complete or absent, fetched once, verified whenever they are read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from enroot_slurm.cache.blobs import BlobStore, CachedBlobDamaged
from enroot_slurm.cache.directory import CacheDirectory, SharedCache
from enroot_slurm.cache.fetch import Fetch
from enroot_slurm.cache.locks import Locks
from enroot_slurm.errors import IntegrityError, NetworkError, StorageError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import Descriptor

CONTENT = os.urandom(1_000_000)


def descriptor(content=CONTENT, size=None):
    return Descriptor("x", Digest.of(content), len(content) if size is None else size)


def serve(content=CONTENT, piece=100_000):
    """A download that yields *content*, and counts its calls."""

    def download(_descriptor):
        download.calls += 1
        for i in range(0, len(content), piece):
            yield content[i : i + piece]

    download.calls = 0
    return download


@pytest.fixture
def store(tmp_path):
    return make_store(tmp_path / "cache")


def make_store(root, *, public=False, shared=None, **options):
    """A `BlobStore`; *options* are those of `Locks`."""
    place = CacheDirectory(root, public=public)
    store = BlobStore(place, Locks(place, **options), shared=shared)
    store.prepare()
    return store


def left_over(store):
    return [p.name for p in (store.blob(descriptor()).path.parents[2] / "tmp").iterdir()]


def fetch_all(blobs, download, connections=4, lock_timeout=1, received=lambda _: None):
    return Fetch(blobs, download, connections=connections, lock_timeout=lock_timeout, received=received)


def test_a_blob_is_fetched_once_and_read_again(store):
    """What was fetched is there under its digest, and the next reader takes it from there."""
    download = serve()
    blob = store.blob(descriptor())
    assert not blob.reused
    assert blob.fetch(download)
    assert b"".join(blob.chunks()) == CONTENT
    again = store.blob(descriptor())
    assert again.reused
    assert again.fetch(download)
    assert b"".join(again.chunks()) == CONTENT
    assert download.calls == 1
    assert left_over(store) == []
    assert blob.path.stat().st_mode & 0o777 == 0o600


def test_a_blob_is_read_while_it_grows(store):
    """A reader gets each piece as it arrives, and the end only when the digest is right."""
    arrived, read = threading.Semaphore(0), threading.Semaphore(0)

    def slow(_descriptor):
        for i in range(10):
            arrived.acquire()
            yield CONTENT[i * 100_000 : (i + 1) * 100_000]

    blob = store.blob(descriptor())
    result = bytearray()

    def reader():
        for chunk in blob.chunks():
            result.extend(chunk)
            read.release()

    threads = [threading.Thread(target=blob.fetch, args=(slow,)), threading.Thread(target=reader)]
    for thread in threads:
        thread.start()
    for i in range(10):
        arrived.release()
        assert read.acquire(timeout=10)
        assert len(result) == (i + 1) * 100_000
    for thread in threads:
        thread.join(10)
    assert bytes(result) == CONTENT


@pytest.mark.parametrize("wrong", [CONTENT[:-1], CONTENT + b"x", bytes([CONTENT[0] ^ 1]) + CONTENT[1:], b""])
def test_wrong_bytes_are_never_kept(store, wrong):
    """Content that is not the digest's is an error for the fetcher and the reader, and leaves nothing."""
    blob = store.blob(descriptor())
    with pytest.raises(IntegrityError, match="another content in the registry"):
        blob.fetch(serve(wrong))
    with pytest.raises(IntegrityError, match="another content"):
        list(blob.chunks())
    assert not blob.path.exists()
    assert left_over(store) == []


def test_a_failed_download_leaves_nothing(store):
    """An error in mid-download is raised, reaches the reader, and removes the partial file."""

    def broken(_descriptor):
        yield b"start"
        raise NetworkError("gone")

    blob = store.blob(descriptor())
    with pytest.raises(NetworkError):
        blob.fetch(broken)
    with pytest.raises(NetworkError):
        list(blob.chunks())
    assert left_over(store) == []


@pytest.mark.parametrize("damage", ["cut", "grown", "changed", "fifo", "directory", "symlink"])
def test_damage_in_the_cache_is_found(store, damage):
    """A blob that was cut, changed or replaced in the cache is found, and the next fetch mends it."""
    blob = store.blob(descriptor())
    blob.fetch(serve())
    path = blob.path
    if damage == "cut":
        os.truncate(path, 1000)
    elif damage == "grown":
        path.write_bytes(CONTENT + b"x")
    elif damage == "changed":
        path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    else:
        path.unlink()
        {"fifo": os.mkfifo, "directory": os.mkdir, "symlink": lambda p: os.symlink("/etc/passwd", p)}[damage](path)
    again = store.blob(descriptor())
    if damage == "changed":
        assert again.reused
        with pytest.raises(CachedBlobDamaged):
            list(again.chunks())
        again = store.blob(descriptor())
    assert not again.reused
    if damage == "directory":
        with pytest.raises(StorageError):
            again.fetch(serve())
        return
    again.fetch(serve())
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 1, len(CONTENT) - 1, len(CONTENT) + 1])
def test_a_wrong_claim_about_a_blob_costs_nothing(store, size):
    """A manifest that gives a cached blob another size fails; the blob, which was verified, stays."""
    blob = store.blob(descriptor())
    blob.fetch(serve())
    claimed = store.blob(descriptor(size=size))
    assert not claimed.reused
    for content in (CONTENT, CONTENT[:size], CONTENT + b"x"):
        with pytest.raises(IntegrityError):
            store.blob(descriptor(size=size)).fetch(serve(content))
        assert blob.path.read_bytes() == CONTENT
    assert store.blob(descriptor()).reused
    assert left_over(store) == []


def test_an_unwritable_cache_is_an_error_with_a_hint(tmp_path):
    """A cache that can't be made says where, and which setting to change."""
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file") as caught:
        make_store(tmp_path / "file" / "cache")
    assert "ENROOT_CACHE_PATH" in caught.value.hint


def test_a_full_disk_leaves_nothing(tmp_path):
    """When the space ends in mid-download, the error says so and the partial file is gone."""
    mount = tmp_path / "small"
    mount.mkdir()
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", mount], check=False, capture_output=True)
    if made.returncode:
        pytest.skip("needs root to mount a small tmpfs")
    try:
        store = make_store(mount)
        with pytest.raises(StorageError, match="no space left"):
            store.blob(descriptor()).fetch(serve())
        assert left_over(store) == []
    finally:
        subprocess.run(["umount", mount], check=True)


def test_all_blobs_of_an_image_are_fetched(store):
    """Several connections fetch all blobs, the first one first and then the biggest; received bytes are told."""
    contents = [os.urandom(n * 1000) for n in (1, 5, 3, 9, 7)]
    by_digest = {Digest.of(c): c for c in contents}
    order, received = [], []

    def download(descriptor):
        order.append(len(by_digest[descriptor.digest]) // 1000)
        yield by_digest[descriptor.digest]

    blobs = [store.blob(descriptor(c)) for c in contents]
    with fetch_all(blobs, download, connections=1, received=received.append) as fetch:
        fetch.wait()
    assert order == [1, 9, 7, 5, 3]
    assert sum(received) == 25_000
    assert [b"".join(b.chunks()) for b in blobs] == contents


def test_one_failure_ends_all(store):
    """The first error is raised, and readers of other blobs get an error, too, instead of waiting."""
    blobs = [store.blob(descriptor(os.urandom(100))) for _ in range(5)]

    def download(_descriptor):
        raise NetworkError("down")
        yield

    with fetch_all(blobs, download, connections=1) as fetch:
        with pytest.raises(NetworkError, match="down"):
            fetch.wait()
        for blob in blobs:
            with pytest.raises(NetworkError, match="down"):
                list(blob.chunks())


def test_leaving_early_removes_what_hangs(store):
    """A download that hangs when the import ends leaves no partial file."""
    hanging, release = threading.Event(), threading.Event()

    def download(_descriptor):
        yield b"some"
        hanging.set()
        release.wait(30)
        yield b"more"

    blob = store.blob(descriptor())
    with fetch_all([blob], download):
        assert hanging.wait(10)
        assert len(left_over(store)) == 1
    assert left_over(store) == []
    release.set()


HOLDER = """
import sys
from pathlib import Path
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.directory import CacheDirectory
with Locks(CacheDirectory(Path(sys.argv[1]))).lock(sys.argv[2]).attempt() as held:
    print(held, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(store):
    """Another process that holds the blob's lock until its input is closed."""
    lock = store.blob(descriptor()).lock.path
    command = [sys.executable, "-c", HOLDER, lock.parents[1], lock.stem]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "True\n"
    with process:
        yield process
        process.kill()


def test_another_process_is_waited_for(store, holder):
    """While another process fetches a blob, it is not fetched; when that has it, it is taken from the cache."""
    blob = store.blob(descriptor())
    download = serve()
    assert not blob.fetch(download)
    with fetch_all([blob], download, lock_timeout=60) as fetch:
        blob.path.parent.mkdir(parents=True, exist_ok=True)
        blob.path.write_bytes(CONTENT)
        holder.stdin.close()
        fetch.wait()
    assert blob.reused
    assert download.calls == 0
    assert b"".join(blob.chunks()) == CONTENT


def test_a_killed_process_leaves_its_work_to_others(store, holder):
    """When the process that fetches a blob dies, a waiter takes over at once."""
    blob = store.blob(descriptor())
    download = serve()
    with fetch_all([blob], download, lock_timeout=60) as fetch:
        holder.kill()
        fetch.wait()
    assert download.calls == 1


def test_waiting_for_a_lock_ends(store, holder):
    """After the lock timeout the blob is fetched without the lock."""
    blob = store.blob(descriptor())
    download = serve()
    with fetch_all([blob], download, lock_timeout=0.3) as fetch:
        assert not blob.reused
        fetch.wait()
    assert download.calls == 1
    assert b"".join(blob.chunks()) == CONTENT
    assert holder.poll() is None


def test_a_stopped_process_is_not_waited_for(tmp_path, store, holder):
    """A process that holds a lock but shows no sign of life is left behind after the holder timeout."""
    store = make_store(tmp_path / "cache", holder_timeout=0.5)
    holder.send_signal(signal.SIGSTOP)
    blob = store.blob(descriptor())
    with fetch_all([blob], serve(), lock_timeout=60) as fetch:
        fetch.wait()
    assert b"".join(blob.chunks()) == CONTENT


def test_a_process_that_works_is_waited_for(tmp_path, store, holder):
    """A process that shows signs of life is waited for beyond the holder timeout, and it is told who that is."""
    told = []
    store = make_store(tmp_path / "cache", holder_timeout=2.5, tell=told.append)
    blob = store.blob(descriptor())
    download = serve()
    with fetch_all([blob], download, lock_timeout=60) as fetch:
        deadline = time.monotonic() + 20
        while len({holder.beat for holder in told if holder}) < 5 and time.monotonic() < deadline:
            time.sleep(0.05)
        assert download.calls == 0
        holder.stdin.close()
        fetch.wait()
    assert {(w.host, w.pid) for w in told if w} == {(os.uname().nodename, holder.pid)}
    assert download.calls == 1
    assert list((tmp_path / "cache/locks").glob("*.holder")) == []


def test_locks_that_do_nothing_only_cost_work(tmp_path):
    """Without locks, two fetch the same blob, and both get it right."""
    store = make_store(tmp_path / "cache", enabled=False)
    barrier = threading.Barrier(2)
    blobs = [store.blob(descriptor()) for _ in range(2)]

    def download(_descriptor):
        barrier.wait(10)
        yield CONTENT

    threads = [threading.Thread(target=b.fetch, args=(download,)) for b in blobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert [b"".join(b.chunks()) for b in blobs] == [CONTENT, CONTENT]
    assert left_over(store) == []


# Another cache, which is only read.


def test_a_shared_blob_is_used(tmp_path):
    """A blob of the shared cache is not fetched, and nothing is written for it."""
    shared = make_store(tmp_path / "shared", public=True)
    assert shared.blob(descriptor()).fetch(serve())
    assert (shared.blob(descriptor()).path.stat().st_mode & 0o777) == 0o444
    assert (tmp_path / "shared/blobs/sha256").stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "shared/locks").stat().st_mode & 0o777 == 0o700
    store = make_store(tmp_path / "own", shared=SharedCache(tmp_path / "shared", {0, os.geteuid()}))
    blob, download = store.blob(descriptor()), serve()
    assert blob.fetch(download)
    assert b"".join(blob.chunks()) == CONTENT
    assert download.calls == 0
    assert not (tmp_path / "own/blobs/sha256").exists()


@pytest.mark.parametrize("damage", ["changed", "cut", "fifo", "symlink", "directory"])
def test_a_damaged_shared_blob_is_fetched(tmp_path, damage):
    """A blob of the shared cache that is not what its name says is left alone, and fetched into the own cache."""
    shared = make_store(tmp_path / "shared", public=True)
    shared.blob(descriptor()).fetch(serve())
    path = shared.blob(descriptor()).path
    path.unlink()
    if damage == "changed":
        path.write_bytes(CONTENT[:-1] + bytes([CONTENT[-1] ^ 1]))
    elif damage == "cut":
        path.write_bytes(CONTENT[:-1])
    else:
        {"fifo": os.mkfifo, "directory": os.mkdir, "symlink": lambda p: os.symlink("/etc/passwd", p)}[damage](path)
    store = make_store(tmp_path / "own", shared=SharedCache(tmp_path / "shared", {0, os.geteuid()}))
    blob = store.blob(descriptor())
    if damage == "changed":
        with pytest.raises(CachedBlobDamaged):
            list(blob.chunks())
        blob = store.blob(descriptor())
    assert not blob.reused
    blob.fetch(serve())
    assert blob.path.parent == tmp_path / "own/blobs/sha256"
    assert b"".join(blob.chunks()) == CONTENT
    assert os.path.lexists(path)


def test_lock_files_stay(store):
    """A lock file is never removed: it could be held by two."""
    blob = store.blob(descriptor())
    blob.fetch(serve())
    assert blob.lock.path.exists()
