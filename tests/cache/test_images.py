"""Places of images: published once, whoever is in between, and never half."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import threading
import time

import pytest

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.images import Sidecar, Unusable, image_file, recipe_of
from enroot_slurm.oci.digest import Digest
from enroot_slurm.system.publish import write_all

DIGEST = Digest.of(b"manifest")
LIKE = Sidecar("docker://x#y:1", str(DIGEST), "linux/amd64", "-comp zstd", 0, 0, "", 0, True, "1")
OWNERS = {os.geteuid()}


@pytest.fixture
def place(tmp_path):
    place = CacheDirectory(tmp_path / "cache")
    place.directory("images", "recipe", "linux-amd64")
    return place


@pytest.fixture
def file(place):
    return image_file(place.root, "recipe", "linux-amd64", DIGEST)


def look(file):
    return file.look(OWNERS, lambda _first, _size: None)


def publish(file, place, content):
    with file.draft(place) as draft:
        write_all(draft.fd, content)
        return file.publish(draft, place, LIKE._replace(checksum=f"sha256:{Digest.of(content).hex}"))


def test_what_is_published_is_found(file, place):
    """The sidecar has the size, time and hash of the file, and nothing else is left in the directory."""
    assert look(file) is None
    sidecar = publish(file, place, b"content")
    assert look(file) == sidecar
    assert (sidecar.size, sidecar.digest) == (7, str(DIGEST))
    assert sidecar.checksum == f"sha256:{Digest.of(b'content').hex}"
    assert abs(sidecar.created - time.time()) < 60
    assert sorted(p.name for p in file.path.parent.iterdir()) == [file.sidecar.name, file.path.name]
    assert file.path.stat().st_mode & 0o777 == 0o400


def test_the_first_one_stays(file, place):
    """Who comes second, because locks do nothing, keeps what is there."""
    first = publish(file, place, b"first")
    status = file.path.stat()
    assert publish(file, place, b"second") == first
    assert file.path.read_bytes() == b"first"
    assert file.path.stat().st_ino == status.st_ino


def test_who_was_killed_between_the_two_names(file, place):
    """A sidecar without its image is replaced after a moment."""
    publish(file, place, b"lost")
    file.path.unlink()
    assert look(file) is None
    sidecar = publish(file, place, b"found")
    assert look(file) == sidecar
    assert file.path.read_bytes() == b"found"


def test_many_publish_at_once(file, place):
    """Twenty threads publish different contents: one is there in the end, complete, and never was another one."""
    seen, stop = set(), threading.Event()

    def watch():
        while not stop.is_set():
            with contextlib.suppress(Unusable):  # between the names of a sidecar and of its image
                if (sidecar := look(file)) is not None:
                    with contextlib.suppress(FileNotFoundError):
                        seen.add((sidecar.checksum, f"sha256:{Digest.of(file.path.read_bytes()).hex}"))

    results = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(publish(file, place, b"%d" % n * 1000))) for n in range(20)
    ]
    watcher = threading.Thread(target=watch)
    watcher.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stop.set()
    watcher.join()
    assert len(results) == 20
    assert len(set(results)) == 1
    assert look(file) == results[0]
    assert {stated for stated, _ in seen} <= {results[0].checksum}
    assert all(stated == found for stated, found in seen)
    assert len(list(file.path.parent.iterdir())) == 2


def test_public_images_can_be_read_by_all(tmp_path):
    """In a public place the modes are what they should be, whatever the umask is."""
    before = os.umask(0o077)
    try:
        place = CacheDirectory(tmp_path / "cache", public=True)
        place.directory("images", "recipe", "linux-amd64")
        file = image_file(place.root, "recipe", "linux-amd64", DIGEST)
        publish(file, place, b"content")
    finally:
        os.umask(before)
    assert {p.stat().st_mode & 0o777 for p in (place.root, *place.root.rglob("*")) if p.is_dir()} == {0o755}
    assert {p.stat().st_mode & 0o777 for p in place.root.rglob("*") if p.is_file()} == {0o444}


def test_names_that_two_processes_never_share(place):
    """A temporary name has the host, the job, the process and a random part."""
    host, rest = place.unique().rsplit(".", 3)[0], place.unique().rsplit(".", 3)[1:]
    assert host == os.uname().nodename
    assert rest[:2] == ["-", str(os.getpid())]
    assert CacheDirectory(place.root, job="12.0").unique().startswith(f"{os.uname().nodename}.12.0.{os.getpid()}.")
    assert len({place.unique() for _ in range(1000)}) == 1000


@pytest.mark.parametrize(
    "change",
    [
        {"format": 2},
        {"format": None},
        {"size": "7"},
        {"public": 1},
        {"more": 1},
        {"uri": None},
        {"digest": 3},
    ],
    ids=str,
)
def test_sidecars_of_another_form(file, place, change):
    """A sidecar that has other fields, or fields of other types, is not understood."""
    publish(file, place, b"content")
    fields = {**json.loads(file.sidecar.read_bytes()), **change}
    file.sidecar.write_text(json.dumps(fields))
    with pytest.raises(Unusable):
        look(file)
    assert Sidecar.parse(bytes(LIKE)) == LIKE


def test_sidecars_with_and_without_an_endpoint():
    """One without is as versions write it that know of no mirrors, and they read it."""
    assert "endpoint" not in json.loads(bytes(LIKE))
    assert Sidecar.parse(bytes(LIKE)) == LIKE
    served = LIKE._replace(endpoint="harbor.site/dockerhub/library/y")
    assert Sidecar.parse(bytes(served)) == served


def test_recipes():
    """Options and SOURCE_DATE_EPOCH are parts of an image's place."""
    recipes = {recipe_of("-comp zstd", None), recipe_of("-comp zstd", 0), recipe_of("-comp xz", None)}
    assert len(recipes) == 3
    assert all(len(r) == 16 and r.isalnum() for r in recipes)


def test_what_a_killed_process_left_goes(file, place):
    """Who makes an image again removes what a process that has ended left for it on this host, and nothing else."""
    with subprocess.Popen(["true"]) as ended:
        pass
    host = os.uname().nodename
    with file.draft(place) as draft:
        short = draft.path.name.split(".")[1]
    stays = [f".{short}.elsewhere.-.{ended.pid}.00000000.tmp", f".{short}.{host}.-.{os.getpid()}.00000000.tmp"]
    for name in (*stays, f".{short}.{host}.-.{ended.pid}.00000000.tmp"):
        file.path.with_name(name).touch()
    with file.draft(place) as draft:
        assert sorted(os.listdir(file.path.parent)) == sorted([*stays, draft.path.name])
