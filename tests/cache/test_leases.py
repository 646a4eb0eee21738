"""Leases: what a job keeps, for how long, and that names which are none become no paths."""

from __future__ import annotations

import json
import os
import stat
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.cache import FilledCache, files_of, set_age

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.job_tags import read_resolved, write_resolved
from enroot_slurm.cache.last_use import used
from enroot_slurm.cache.leases import Leases, lease_key, leased_keys, open_to_visitors
from enroot_slurm.cache.tree import Tree
from enroot_slurm.errors import UsageError
from enroot_slurm.housekeeping.inventory import inventory
from enroot_slurm.oci.digest import Digest


@pytest.fixture
def cache(tmp_path):
    return FilledCache(tmp_path / "cache")


@pytest.fixture
def image(cache):
    return cache.image("one")


@pytest.fixture
def leases(cache):
    return Leases(cache.root)


def held(leases):
    return sorted((lease.job, lease.node, Path(lease.image).name) for lease in inventory(leases._root).leases)


def test_a_lease_ends_when_its_node_releases_it(cache, image, leases):
    """Leasing and releasing again change nothing; other nodes and other jobs keep theirs."""
    other = cache.image("two")
    for _ in range(2):
        leases.lease(image, "7.0", "n1")
    leases.lease(other, "7.0", "n1")
    leases.lease(image, "7.0", "n2.cluster")
    leases.lease(image, "7.1", "n1")
    names = (image.name, other.name)
    assert held(leases) == sorted(
        [("7.0", "n1", names[0]), ("7.0", "n1", names[1]), ("7.0", "n2.cluster", names[0]), ("7.1", "n1", names[0])]
    )
    assert leases.release("7.0", "n1") == 2
    assert leases.release("7.0", "n1") == 0
    assert held(leases) == [("7.0", "n2.cluster", names[0]), ("7.1", "n1", names[0])]
    assert leases.release("7.0", "n2") == 0
    assert leases.release("7.0", "n2.cluster") == 1
    assert sorted(os.listdir(cache.root / "jobs")) == ["7.1"]
    assert leases.release("99.0", "n1") == 0


def test_what_a_job_has_resolved_goes_with_its_last_lease(cache, image, leases):
    """And not before: its other nodes use it."""
    place = CacheDirectory(cache.root, job="7.0")
    digest = Digest.of(b"m")
    write_resolved(place, "0" * 32, "docker://x", digest)
    (cache.root / "jobs/7.0/requests.json").write_text("{}")
    leases.lease(image, "7.0", "n1")
    leases.lease(image, "7.0", "n2")
    leases.release("7.0", "n1")
    assert read_resolved(cache.root, "7.0", "0" * 32, {os.geteuid()}) == digest
    leases.release("7.0", "n2")
    assert os.listdir(cache.root / "jobs") == []


def test_the_lease_of_a_step(cache, image, leases):
    """Steps on one node have a lease each, beside the job's; all end with the job on that node."""
    paths = [leases.lease(image, "7.0", "n1", step) for step in ("", "0", "batch")]
    leases.lease(image, "7.0", "n2", "0")
    assert len(set(paths)) == 3
    assert sorted((lease.node, lease.step) for lease in inventory(leases._root).leases) == [
        ("n1", ""),
        ("n1", "0"),
        ("n1", "batch"),
        ("n2", "0"),
    ]
    paths[1].unlink()
    assert leases.release("7.0", "n1") == 2
    assert [(lease.node, lease.step) for lease in inventory(leases._root).leases] == [("n2", "0")]


def test_visitors(cache, image, leases):
    """Who can only read the site's cache leases there as well; nobody lists or removes what others have left."""
    open_to_visitors(CacheDirectory(cache.root, public=True))
    directory = cache.root / "visitors"
    assert stat.S_IMODE(directory.stat().st_mode) == 0o1733
    for _ in range(2):
        path = leases.visit(image, "7.0", "n1", "0")
    (directory / f"8.0~n1.{'0' * 32}.lease").write_text(path.read_text())  # another image's name
    (directory / "9.0~n1.lease").write_text("{}")
    assert held(leases) == [("7.0", "n1", image.name)]
    assert [item.leases[0].job for item in inventory(cache.root).items if item.leases] == ["7.0"]
    assert leases.release("7.0", "n2") == 0
    assert leases.release("7.0", "n1") == 1
    assert held(leases) == []
    image.unlink()
    with pytest.raises(FileNotFoundError):
        leases.visit(image, "7.0", "n1")


def test_nodes_that_end_together(cache, image):
    """Each removes its own lease and then looks: the last one finds none, whoever looked first."""
    for number in range(40):
        job = f"{number}.0"
        for node in range(4):
            Leases(cache.root).lease(image, job, f"n{node}")
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda node, job=job: Leases(cache.root).release(job, f"n{node}"), range(4)))
        assert not (cache.root / "jobs" / job).exists()


def test_no_lease_is_looked_at(cache, image, monkeypatch):
    """However many nodes a job has, the one that ends takes all from the names: no file's status is asked for."""
    leases = Leases(cache.root)
    for number in range(50):
        leases.lease(image, "1.0", f"n{number}")
    leases.lease(image, "1.0", "n7", "3")
    asked = []
    lstat = os.lstat
    monkeypatch.setattr(os, "lstat", lambda path, **options: (asked.append(os.fspath(path)), lstat(path, **options))[1])
    assert leases.release("1.0", "n7") == 2
    assert asked == []


def test_visitors_are_listed_only_if_there_may_be_some(cache, image, leases):
    """Their directory has names of all jobs; who knows that the job has left none there passes it over."""
    open_to_visitors(CacheDirectory(cache.root, public=True))
    leases.visit(image, "7.0", "n1", "0")
    assert leases.release("7.0", "n1", visits=False) == 0
    assert held(leases) == [("7.0", "n1", image.name)]
    assert leases.release("7.0", "n1") == 1


def test_a_job_without_leases_is_released_as_well(cache, leases):
    """What it has resolved goes."""
    write_resolved(CacheDirectory(cache.root, job="7.0"), "0" * 32, "docker://x", Digest.of(b"m"))
    assert leases.release("7.0", "n1") == 0
    assert os.listdir(cache.root / "jobs") == []


@pytest.mark.parametrize("job", ["", ".", "..", "../1.0", "1/0", "1.0\n", "x", "1.0.0", "-1", "\u0661", "1.0/../2.0"])
def test_jobs_that_are_none(cache, image, leases, job):
    """A job is a number, or two with a dot between."""
    before = files_of(cache.root)
    for call in (lambda: leases.lease(image, job, "n1"), lambda: leases.release(job, "n1")):
        with pytest.raises(UsageError):
            call()
    assert files_of(cache.root) == before


@pytest.mark.parametrize("node", ["", ".", "..", ".n", "-n", "a/b", "../n", "n\n", "n 1", "é", "n" * 200, "n\0"])
def test_nodes_that_are_none(cache, image, leases, node):
    """A node's name is a host's."""
    before = files_of(cache.root)
    for call in (lambda: leases.lease(image, "1.0", node), lambda: leases.release("1.0", node)):
        with pytest.raises(UsageError):
            call()
    assert files_of(cache.root) == before


def test_only_images_of_this_cache_are_leased(cache, image, leases, tmp_path):
    """Not layers, not other files, not what a path with dots leads to."""
    other = FilledCache(tmp_path / "other").image("one")
    for path in (other, cache.layer("l"), image.with_suffix(".json"), image.parent / "../linux-amd64" / image.name):
        with pytest.raises(UsageError):
            leases.lease(path, "1.0", "n1")
    assert held(leases) == []


def test_an_image_that_has_gone_is_not_leased(image, leases):
    """Who got a path and leases it learns that the file was collected meanwhile."""
    image.unlink()
    with pytest.raises(FileNotFoundError):
        leases.lease(image, "1.0", "n1")


def test_files_that_are_no_leases(cache, image, leases, tmp_path):
    """Links, directories and names of no image count for nothing; what a file has in it does not count."""
    leases.lease(image, "1.0", "n1")
    jobs = cache.root / "jobs/1.0"
    key = lease_key(str(image.relative_to(cache.root)))
    target = tmp_path / "target"
    target.write_text("theirs")
    (jobs / f"n2.{key}.lease").symlink_to(target)
    (jobs / f"n3.{key}.lease").mkdir()
    (jobs / f"n4.{key}.lease").write_text(json.dumps({"image": "of an earlier version"}))
    (jobs / f"n5.{'0' * 32}.lease").touch()
    (jobs / f"n6.{key[1:]}.lease").touch()
    (jobs / "notes.txt").write_text("mine")
    assert [lease.node for lease in inventory(leases._root).leases] == ["n1", "n4"]
    for number in range(1, 7):
        leases.release("1.0", f"n{number}")
    assert sorted(os.listdir(jobs)) == sorted([f"n3.{key}.lease", f"n6.{key[1:]}.lease", "notes.txt"])
    assert target.read_text() == "theirs"


def test_a_link_in_place_of_a_jobs_directory_is_not_followed(cache, leases, tmp_path):
    """What it leads to stays."""
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    kept = elsewhere / f"n1.{'0' * 32}.lease"
    kept.write_text("{}")
    (cache.place.directory("jobs") / "1.0").symlink_to(elsewhere)
    assert leases.release("1.0", "n1") == 0
    assert list(inventory(leases._root).leases) == []
    assert kept.exists()


@pytest.mark.parametrize(("public", "mode"), [(False, 0o700), (True, 0o755)])
def test_who_may_read_what_is_kept_for_a_job(cache, image, public, mode):
    """Everybody in a cache that everybody may read, else its owner; a lease is empty, and nothing is left beside it."""
    Leases(cache.root, public=public).lease(image, "1.0", "n1")
    [lease] = (cache.root / "jobs/1.0").iterdir()
    assert lease.read_bytes() == b""
    assert lease.stat().st_mode & 0o222 == 0
    assert lease.parent.stat().st_mode & 0o777 == mode


def test_nodes_lease_and_release_at_once(cache, image, leases):
    """Twenty processes do so fifty times, in one job, whose directory comes and goes: nobody fails, nothing is left."""
    children = []
    for number in range(20):
        pid = os.fork()
        if not pid:
            status = 1
            try:
                for _ in range(50):
                    leases.lease(image, "1.0", f"n{number}")
                    status = 0 if leases.release("1.0", f"n{number}") == 1 else 2
            finally:
                os._exit(status)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 20
    assert os.listdir(cache.root / "jobs") == []


def test_the_last_use_is_noted_once_an_hour(cache, image, leases):
    """In the sidecar's time, which is free; the image's own time says which file it is."""
    sidecar = image.with_suffix(".json")
    before = image.stat()
    set_age(sidecar, 3000)
    then = sidecar.stat().st_mtime_ns
    used(image)
    assert sidecar.stat().st_mtime_ns == then
    set_age(sidecar, 4000)
    leases.lease(image, "1.0", "n1")
    assert abs(time.time() - sidecar.stat().st_mtime) < 60
    assert (image.stat().st_mtime_ns, image.stat().st_atime_ns) == (before.st_mtime_ns, before.st_atime_ns)
    used(cache.root / "nowhere.sqsh")


def test_only_leases_keep_an_image(tmp_path) -> None:
    """In the directory of visitors everybody can put what no collection removes: it must keep nothing."""
    visitors = tmp_path / "visitors"
    visitors.mkdir()
    keys = [lease_key(f"images/{number}") for number in range(6)]
    (visitors / f"zzz.{keys[0]}.lease").touch()
    (visitors / f"9.0~a~b.{keys[1]}.lease").mkdir()
    os.mkfifo(visitors / f"9.0~a~c.{keys[2]}.lease")
    (visitors / f"9.0~a~d.{keys[3]}.lease").symlink_to("/etc/passwd")
    (visitors / f"9.0~a~e.{keys[4]}.lease").touch()
    job = tmp_path / "jobs/9.0"
    job.mkdir(parents=True)
    (job / f"n1.{keys[5]}.lease").touch()
    with Tree(tmp_path) as tree:
        assert leased_keys(tree) == {keys[4], keys[5]}
