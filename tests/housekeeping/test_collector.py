"""What is collected, in which order, and what never is."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.cache import DAY, RECIPE, FilledCache, files_of, set_age
from support.tools import require_root

from enroot_slurm.cache.images import image_file
from enroot_slurm.cache.layout import kind_of, locks_of, maker_of
from enroot_slurm.cache.leases import Leases, lease_key
from enroot_slurm.cache.locks import Locks
from enroot_slurm.cache.pins import pin, unpin
from enroot_slurm.cache.trust import Untrusted
from enroot_slurm.errors import ConfigError, NotFound, StorageError, UsageError
from enroot_slurm.housekeeping.collector import Collector, CollectorLimits, excess
from enroot_slurm.housekeeping.inventory import inventory
from enroot_slurm.housekeeping.keeper import collect, find_images
from enroot_slurm.oci.digest import Digest
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from pathlib import Path

OLD, RECENT, YOUNG = 3 * 3600.0, 1800.0, 60.0
NO_LIMITS = CollectorLimits()
EVERYTHING = CollectorLimits(high=2, low=1)
"""A limit that only an empty cache keeps."""


@pytest.fixture
def cache(tmp_path):
    cache = FilledCache(tmp_path / "cache")
    cache.place.closed_directory("locks")
    return cache


def run(cache, limits=NO_LIMITS, *, jobs=lambda: "nobody was asked", locks=None, dry_run=False):
    locks = locks or Locks(cache.place)
    return Collector(cache.place, locks, jobs=jobs, dry_run=dry_run).run(limits)


def removed(cache, report):
    """The paths that were removed, in that order."""
    for each in report.removed:
        assert os.path.lexists(cache.root / each.path) == report.dry_run
    return [cache.root / each.path for each in report.removed]


def fill(cache):
    """Two images, layers, and blobs; the first one of each is the older one."""
    return [
        [cache.blob(f"b{n}", age) for n, age in enumerate((9 * DAY, 8 * DAY))],
        [cache.layer(f"l{n}", age) for n, age in enumerate((12 * DAY, 5 * DAY))],
        [cache.image(f"i{n}", age) for n, age in enumerate((20 * DAY, 4 * DAY))],
    ]


@contextlib.contextmanager
def held(cache, name):
    """The lock *name*, as another process holds it."""
    with (cache.root / "locks" / f"{name}.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


# The watermarks.


class FileSystem(NamedTuple):
    """What statvfs says; a tenth of the blocks is for root alone."""

    f_blocks: int = 1000
    f_bfree: int = 300
    f_bavail: int = 200
    f_frsize: int = 4096


@pytest.mark.parametrize(
    ("high", "low", "size", "freed", "expected"),
    [
        (0, 0, 10**15, 0, 0),
        (1000, 900, 1000, 0, 0),  # at it, not above it
        (1000, 900, 1001, 0, 101),
        (1000, 900, 1001, 1, 0),
        (1000, 900, 1500, 100, 500),
        (0.8, 0.7, 5, 0, 0),  # 700 of 900 blocks, whatever the cache has of them
        (0.75, 0.7, 5, 0, 70 * 4096),
        (0.75, 0.7, 5, 10 * 4096, 60 * 4096),
        (0.75, 0.7, 5, 30 * 4096, 0),
        (1.0, 0.9, 10**15, 0, 0),
    ],
)
def test_how_much_is_too_much(high, low, size, freed, expected):
    """Bytes of the cache, or a share of what users have of the file system."""
    assert excess(CollectorLimits(high, low), size, FileSystem(), freed) == expected  # type: ignore[arg-type]


def test_the_order_of_removal(cache):
    """Blobs, layers, images; of each the one that was used least recently first; no manifest."""
    blobs, layers, images = fill(cache)
    manifest = cache.manifest("m", 99 * DAY)
    report = run(cache, EVERYTHING)
    assert removed(cache, report) == [*blobs, *layers, *images]
    assert {each.reason for each in report.removed} == {"above the high watermark"}
    assert (report.busy, report.freed) == (0, report.size - manifest.stat().st_size)
    assert report.above == manifest.stat().st_size - 1
    assert sorted(files_of(cache.root)) == sorted(
        [
            *("blobs", "blobs/sha256", "layers", f"layers/{RECIPE}", "locks", "manifests", "manifests/sha256"),
            *("images", f"images/{RECIPE}", f"images/{RECIPE}/linux-amd64", str(manifest.relative_to(cache.root))),
            *(f"locks/{path.name}" for path in (cache.root / "locks").iterdir()),
        ]
    )


@pytest.mark.parametrize(("surplus", "count"), [(1, 1), (1000, 1), (1001, 2), (2001, 3)])
def test_no_more_than_to_the_low_watermark_is_removed(cache, surplus, count):
    """The last removal is the one that gets there."""
    blobs, layers, _ = fill(cache)
    size = inventory(cache.root).size
    report = run(cache, CollectorLimits(high=size - 1, low=size - surplus))
    assert removed(cache, report) == [*blobs, *layers][:count]
    assert report.above == 0


def test_leased_and_pinned_images_stay(cache):
    """Even far above the watermark and the maximum age; once given free, they go."""
    images = [cache.image(f"i{n}", 50 * DAY) for n in range(3)]
    Leases(cache.root).lease(images[0], "1.0", "n1")
    pin(cache.place, str(images[1].relative_to(cache.root)), "me")
    set_age(images[0].with_suffix(".json"), 50 * DAY)  # which the lease has noted
    limits = EVERYTHING._replace(max_age=DAY)
    assert removed(cache, run(cache, limits)) == [images[2]]
    Leases(cache.root).release("1.0", "n1")
    unpin(cache.place, str(images[1].relative_to(cache.root)))
    assert set(removed(cache, run(cache, limits))) == set(images[:2])


def test_what_was_used_a_moment_ago_stays(cache):
    """By the time of the sidecar, of the file, or of its last reading."""
    by_sidecar, by_reading, neither = (cache.image(f"i{n}", 5 * DAY) for n in range(3))
    blob, layer = cache.blob("b", 5 * DAY), cache.layer("l", RECENT)
    set_age(by_sidecar.with_suffix(".json"), RECENT)
    for path in (by_reading, blob):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    assert removed(cache, run(cache, EVERYTHING)) == [neither]
    assert removed(cache, run(cache, EVERYTHING._replace(idle=0))) == [blob, layer, by_sidecar, by_reading]


def test_what_is_new_stays(cache):
    """An import that made it may be about to use it, however impatient the collector is."""
    cache.image("i", YOUNG)
    layer = cache.layer("l", YOUNG)
    cache.blob("b", YOUNG)
    assert removed(cache, run(cache, CollectorLimits(high=2, low=1, max_age=1, idle=0))) == []
    for path in (layer, layer.with_suffix(".json")):
        set_age(path, OLD)
    assert removed(cache, run(cache, CollectorLimits(high=2, low=1, max_age=1, idle=0))) == [layer]


def test_what_nobody_has_used_for_the_maximum_age_goes(cache):
    """Whatever room there is."""
    blobs, layers, images = fill(cache)
    manifest = cache.manifest("m", 30 * DAY)
    report = run(cache, CollectorLimits(max_age=7 * DAY))
    assert removed(cache, report) == [*blobs, layers[0], images[0], manifest]
    assert run(cache, CollectorLimits(max_age=7 * DAY)).removed == ()
    assert run(cache).removed == ()


def test_what_somebody_works_on_stays(cache):
    """Its lock is held."""
    blobs, layers, images = fill(cache)
    names = [locks_of(str(path.relative_to(cache.root)))[0] for path in (blobs[0], layers[0], images[0])]
    with held(cache, names[0]), held(cache, names[1]), held(cache, names[2]):
        for dry_run in (True, False):
            report = run(cache, EVERYTHING, dry_run=dry_run)
            assert removed(cache, report) == [blobs[1], layers[1], images[1]]
            assert report.busy == 3
    assert removed(cache, run(cache, EVERYTHING)) == [blobs[0], layers[0], images[0]]


# What happens while a collection runs.


def meanwhile(cache, action, limits=EVERYTHING):
    """What is removed when *action* happens between the look at the cache and the removals."""
    cache.file("jobs/999.0/resolved-" + "0" * 32 + ".json", age=OLD)

    def jobs():
        action()
        return frozenset({999})

    report = run(cache, limits, jobs=jobs)
    return [cache.root / each.path for each in report.removed], report.busy


def test_an_image_that_is_leased_meanwhile_stays(cache):
    """It is the same file, under the same name, and can be used."""
    image, other = cache.image("i"), cache.image("j")
    before = files_of(image.parent)[image.name]

    def lease():
        # Without the note of its use, which would save the image as well.
        name = str(image.relative_to(cache.root))
        content = b'{"image": "%s"}' % name.encode()
        cache.place.directory("jobs", "5.0")
        cache.place.write(cache.root / f"jobs/5.0/n1.{lease_key(name)}.lease", content)

    assert meanwhile(cache, lease) == ([other], 1)
    assert files_of(image.parent)[image.name] == before
    assert [path for path in image.parent.iterdir() if path.name.startswith(".")] == []


def test_leases_are_looked_at_once_for_many_images(cache):
    """A collection's cost does not multiply images by leases: directories of leases are listed once for 200 images."""
    leased = cache.image("leased", age=OLD)
    for number in range(1, 31):
        Leases(cache.root).lease(leased, f"{number}.0", "n1")
    for number in range(250):
        cache.image(f"i{number}", age=OLD, size=10)
    listings: list[object] = []
    watching = True

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if watching and event == "os.listdir":
            listings.append(arguments)

    sys.addaudithook(hook)
    report = run(cache, EVERYTHING, jobs=lambda: frozenset(range(1, 31)))
    watching = False
    assert len(report.removed) == 250
    assert leased.exists()
    assert 31 <= len(listings) <= 2 * 31  # two batches of up to 200, each: the 30 jobs, and what lists them


def test_an_interrupted_collection_gives_names_back(cache):
    """A signal between the two looks at an image costs nothing: the image is under its name, or gone as a whole."""
    images = [cache.image(f"i{number}", age=OLD) for number in range(3)]
    Leases(cache.root).lease(cache.image("other"), "1.0", "n1")
    watching = True

    def hook(event: str, _: tuple[object, ...]) -> None:
        if watching and event == "os.listdir":
            raise KeyboardInterrupt

    sys.addaudithook(hook)
    with pytest.raises(KeyboardInterrupt):
        run(cache, EVERYTHING, jobs=lambda: frozenset({1}))
    watching = False
    assert all(image.exists() for image in images)
    assert [path for path in images[0].parent.iterdir() if path.name.startswith(".")] == []


def test_an_image_that_is_pinned_meanwhile_stays(cache):
    """As a leased one does."""
    image = cache.image("i")
    assert meanwhile(cache, lambda: pin(cache.place, str(image.relative_to(cache.root)), "me")) == ([], 1)
    assert image.exists()


@pytest.mark.parametrize("how", ["used", "read", "made again", "removed", "replaced by a link"])
def test_what_changes_meanwhile_stays(cache, tmp_path, how):
    """Used, replaced, or gone: nothing is removed because of an old look, and it is no error."""
    image = cache.image("i")

    def change():
        if how == "used":
            os.utime(image.with_suffix(".json"))
        elif how == "read":
            os.utime(image, ns=(time.time_ns(), image.stat().st_mtime_ns))
        else:
            image.unlink()
            if how == "made again":
                cache.image("i", 0)
            elif how == "replaced by a link":
                (tmp_path / "target").write_text("mine")
                image.symlink_to(tmp_path / "target")

    assert meanwhile(cache, change) == ([], 1)
    assert os.path.lexists(image) == (how != "removed")
    assert how != "replaced by a link" or (tmp_path / "target").exists()


def test_a_directory_that_becomes_a_link_meanwhile_is_not_followed(cache, tmp_path):
    """What it leads to looks just like what was listed."""
    blob = cache.blob("b")
    elsewhere = tmp_path / "elsewhere"

    def swap():
        (cache.root / "blobs").rename(elsewhere)
        (cache.root / "blobs").symlink_to(elsewhere)

    assert meanwhile(cache, swap) == ([], 1)
    assert (elsewhere / "sha256" / blob.name).exists()


# What killed processes leave.

HEX = "ab" * 32


@pytest.mark.parametrize(
    ("path", "lock"),
    [
        (f"images/{RECIPE}/linux-amd64/.{HEX[:12]}", f"image-{RECIPE}-linux-amd64-{HEX}"),
        (f"images/{RECIPE}/linux-arm-v7/.sha256-{HEX[:57]}", f"image-{RECIPE}-linux-arm-v7-{HEX}"),
        (f"layers/{RECIPE}/.{HEX[:12]}", f"layer-{RECIPE}-{HEX}"),
        (f"layers/{RECIPE}/.sha256-{HEX[:57]}", f"layer-{RECIPE}-{HEX}"),
        (f"tmp/{HEX[:16]}", f"blob-sha256-{HEX}"),
        (f"tmp/{HEX[:16]}", f"blob-sha512-{HEX}{HEX}"),
        (".clone", ""),
        (f"manifests/sha256/.{HEX}", ""),
        (f"jobs/1.0/.resolved-{HEX[:32]}.json", ""),
        (f"jobs/1.0/.n1.{HEX[:32]}.lease", ""),
        (f"failures/.{HEX[:32]}.json", ""),
    ],
)
def test_orphans(cache, path, lock):
    """An old one whose lock is free goes; not a young one, one of a live process, or one that somebody works on."""
    young = cache.temporary(path, YOUNG)
    assert removed(cache, run(cache)) == []
    assert young.exists()
    young.unlink()
    alive = cache.temporary(path, OLD, host=os.uname().nodename, pid=os.getpid())
    orphan = cache.temporary(path, OLD)
    if lock:
        with held(cache, lock):
            assert run(cache).removed == ()
        worker = cache.file(f"locks/{lock}.holder", age=YOUNG)
        assert run(cache).removed == ()
        worker.unlink()
    assert run(cache, locks=Locks(cache.place, enabled=False)).removed == ()
    assert removed(cache, run(cache, dry_run=True)) == [orphan]
    assert removed(cache, run(cache)) == [orphan]
    set_age(alive, 2 * DAY)  # the number may be another process's by now
    assert removed(cache, run(cache, locks=Locks(cache.place, enabled=False))) == [alive]


def test_temporary_names_of_the_program(cache):
    """Those that it really makes are known, with their locks and makers."""
    cache.place.directory("images", RECIPE, "linux-amd64")
    file = image_file(cache.root, RECIPE, "linux-amd64", Digest.of(b"m"))
    for job in ("", "12.0"):
        place = cache.place._replace(job=job)
        with file.draft(place) as draft:
            temporary = draft.path
            name = str(temporary.relative_to(cache.root))
            assert kind_of(name) == "temporary"
            assert file.lock.startswith(locks_of(name)[0])
            assert maker_of(temporary.name, os.uname().nodename) == os.getpid()
            assert maker_of(temporary.name, "another") is None


def test_notes_that_are_out_of_date(cache):
    """What a process tells of its work, once it has ended; failures of another day."""
    dead = cache.file("locks/image-a.holder", age=OLD)
    alive = cache.file("locks/image-b.holder", age=OLD)
    cache.file("locks/image-c.holder", age=YOUNG)
    failure = cache.file(f"failures/{'0' * 32}.json", age=2 * DAY)
    cache.file(f"failures/{'1' * 32}.json", age=OLD)
    host = cache.file(f"hosts/held-{'0' * 32}.json", age=2 * DAY)
    cache.file(f"hosts/left-{'0' * 32}.json", age=OLD)
    with held(cache, "image-b"):
        assert set(removed(cache, run(cache))) == {dead, failure, host}
    assert removed(cache, run(cache)) == [alive]


def test_halves_and_what_was_changed(cache):
    """A sidecar or a file alone, or an image that is not the published one, once nobody can be working on it."""
    images = [cache.image(f"i{n}") for n in range(4)]
    images[0].unlink()
    images[1].with_suffix(".json").unlink()
    images[2].chmod(0o600)
    images[2].write_bytes(b"changed")
    set_age(images[2], OLD)
    layers = [cache.layer(f"l{n}") for n in range(3)]
    layers[0].unlink()
    layers[1].with_suffix(".json").unlink()
    cache.layer("young", YOUNG).unlink()
    report = run(cache)
    assert {cache.root / each.path for each in report.removed} == {*images[:3], *layers[:2]}
    assert {path.name for path in images[0].parent.iterdir()} == {images[3].name, images[3].with_suffix(".json").name}
    assert len(list(layers[0].parent.iterdir())) == 3


# Jobs.


def test_jobs_that_slurm_does_not_know(cache):
    """Their leases and records go, and the locks of their references; their images are free."""
    images = {job: cache.image(job, 30 * DAY) for job in ("1.0", "2.0", "3.0", "4.1")}
    for job, image in images.items():
        Leases(cache.root).lease(image, job, "n1")
        set_age(image.with_suffix(".json"), 30 * DAY)
        cache.file(f"jobs/{job}/resolved-{'0' * 32}.json")
        cache.file(f"locks/reference-{job}-{'0' * 32}.lock")
        for lease in (cache.root / "jobs" / job).glob("*.lease"):
            set_age(lease, YOUNG if job == "3.0" else 20 * DAY)
    lone = cache.file(f"locks/reference-9.0-{'0' * 32}.lock")
    calls = []

    def jobs():
        calls.append(1)
        return frozenset({2, 77})

    assert run(cache, CollectorLimits(max_age=7 * DAY), jobs=jobs, dry_run=True).removed != ()
    report = run(cache, CollectorLimits(max_age=7 * DAY), jobs=jobs)
    assert len(calls) == 2  # once each
    assert sorted(os.listdir(cache.root / "jobs")) == ["2.0", "3.0"]
    assert {each.job for each in inventory(cache.root).leases} == {"2.0", "3.0"}
    assert sorted(path.name.split("-")[1] for path in (cache.root / "locks").glob("reference-*")) == ["2.0", "3.0"]
    assert not lone.exists()
    assert {p for p in removed(cache, report) if p.suffix == ".sqsh"} == {images["1.0"], images["4.1"]}


def test_without_slurm_leases_stay(cache):
    """When it is not known which jobs there are, and that is said; without old ones nobody is asked."""
    image = cache.image("i", 30 * DAY)
    Leases(cache.root).lease(image, "1.0", "n1")
    set_age(image.with_suffix(".json"), 30 * DAY)

    def fail():
        raise AssertionError

    run(cache, EVERYTHING, jobs=fail)
    [lease] = (cache.root / "jobs/1.0").iterdir()
    set_age(lease, 2 * DAY)
    report = run(cache, EVERYTHING, jobs=lambda: "squeue failed")
    assert (report.removed, report.warnings) == ((), ("what jobs have leased stays, for squeue failed",))
    assert image.exists()


# What is not ours.


def test_what_can_not_be_removed_is_told(cache):
    """And the rest goes."""
    blob, layer = cache.blob("b"), cache.layer("l")
    require_root("makes a directory immutable")
    with immutable(blob.parent):
        report = run(cache, EVERYTHING)
    assert removed(cache, report) == [layer]
    assert report.warnings == (f"can't remove {blob.relative_to(cache.root)}: Operation not permitted",)


@contextlib.contextmanager
def immutable(path):
    if subprocess.run(["chattr", "+i", path], check=False, capture_output=True).returncode:
        pytest.skip("the file system has no immutable directories")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", path], check=True)


def test_foreign_files_are_left_alone(cache, tmp_path):
    """Names that are not ours, links, directories and FIFOs under our names, and what links lead to."""
    outside = tmp_path / "outside"
    for name in ("blobs/sha256", f"images/{RECIPE}/linux-amd64", f"layers/{RECIPE}", "tmp"):
        (outside / name).mkdir(parents=True)
    blob = FilledCache(outside).blob("b", 99 * DAY)
    target = outside / "target"
    target.write_bytes(b"mine")
    set_age(target, 99 * DAY)
    # enroot's own cache has layers here, by digest.
    cache.file("0" * 64, age=99 * DAY)
    cache.file(".tokens.1000/registry", age=99 * DAY)
    for name in ("README", "a.tmp", ".a.tmp", ".a.b.tmp", "...tmp"):
        for directory in ("", "tmp/", "blobs/"):
            cache.file(directory + name, age=99 * DAY)
    cache.file("blobs/sha256/" + "A" * 64, age=99 * DAY)
    cache.file("blobs/md5/" + "a" * 32, age=99 * DAY)
    cache.file("locks/blob.lock", age=99 * DAY)
    cache.file(f"images/{RECIPE}/linux-amd64/sha256-{HEX[:-1]}.sqsh", age=99 * DAY)
    cache.file(f"images/recipe/linux-amd64/sha256-{HEX}.sqsh", age=99 * DAY)
    (cache.root / "blobs/sha256" / ("b" * 64)).symlink_to(target)
    (cache.root / "blobs/sha256" / ("c" * 64)).mkdir()
    os.mkfifo(cache.root / "blobs/sha256" / ("d" * 64))
    (cache.root / f"tmp/{HEX[:16]}.h.-.1.0a1b2c3d").symlink_to(target)
    (cache.root / "layers").symlink_to(outside / "layers")
    (cache.root / "manifests").symlink_to(outside / "blobs")
    os.link(target, outside / "second")
    before = files_of(tmp_path)
    report = run(cache, CollectorLimits(high=2, low=1, max_age=1, idle=0))
    assert report.removed == ()
    after = files_of(tmp_path)
    assert {name for name in before if name not in after} == set()
    assert blob.exists()


def test_a_dry_run_changes_nothing(cache):
    """And says what a collection then removes."""
    fill(cache)
    cache.temporary(f"tmp/{HEX[:16]}", OLD)
    cache.file(f"jobs/1.0/resolved-{'0' * 32}.json")
    cache.file(f"failures/{'0' * 32}.json", age=5 * DAY)
    before = files_of(cache.root)
    limits = CollectorLimits(high=2000, low=1000, max_age=10 * DAY)
    told = run(cache, limits, jobs=frozenset, dry_run=True)
    assert files_of(cache.root) == before
    done = run(cache, limits, jobs=frozenset)
    assert told._replace(dry_run=False) == done
    assert {each.kind for each in done.removed} == {"temporary", "job", "note", "layer", "image", "blob"}


# The door.


def load(**overrides):
    return Config.load(environ={"HOME": "/"}, site_file=None, user_file=None, enroot_conf=None, overrides=overrides)


@pytest.mark.parametrize(
    ("high", "low", "fits"),
    [("50%", "40%", True), ("50%", "", True), ("1GiB", "512MiB", True), ("", "40%", True), ("50%", "50%", True),
     ("50%", "60%", False), ("50%", "1GiB", False), ("1GiB", "50%", False), ("1GiB", "2GiB", False)],
)  # fmt: skip
def test_watermarks_that_do_not_fit(cache, high, low, fits):
    """The low one is below the high one, and of its kind."""
    config = load(cache_high=high, cache_low=low)
    with contextlib.nullcontext() if fits else pytest.raises(ConfigError):
        collect(cache.root, config=config)


def test_collect(cache):
    """The settings count, the lock of another collection is respected, and a cache that is not there is empty."""
    config = load(cache_max_age="2d")
    blob = cache.blob("b", 3 * DAY)
    with held(cache, "gc"):
        report = collect(cache.root, config=config)
        assert (report.removed, report.warnings) == ((), ("another process collects just now",))
    assert [each.path for each in collect(cache.root, config=config).removed] == [str(blob.relative_to(cache.root))]
    assert collect(cache.root / "nowhere", config=config).removed == ()
    assert not (cache.root / "nowhere").exists()


def test_a_cache_that_others_can_change_is_not_collected(cache):
    """Nor is somebody else's."""
    cache.root.chmod(0o777)
    with pytest.raises(Untrusted):
        collect(cache.root, config=load())
    cache.root.chmod(0o700)
    if os.geteuid() == 0:
        os.chown(cache.root, 12345, 12345)
        with pytest.raises(StorageError, match="belongs to user 12345"):
            collect(cache.root, config=load())


def test_the_first_digits_of_a_digest(cache):
    """Mean an image, unless they fit several; the same one for another recipe is not another."""
    names, known = [], {}
    for number in range(3000):
        start = Digest.of(str(number).encode()).hex[:4]
        if start in known:
            names = [known[start], str(number)]
            break
        known[start] = str(number)
    images = [cache.image(name) for name in names]
    found = inventory(cache.root)
    with pytest.raises(UsageError, match="fits 2 images"):
        find_images(found, start)
    for name, image in zip(names, images, strict=True):
        for word in (str(Digest.of(name.encode())), Digest.of(name.encode()).hex[:30], f"docker://reg#{name}:1", image):
            [hit] = find_images(found, str(word))
            assert cache.root / hit.path == image
    for word in (start[:3], "docker://reg#none:1", "", "/", str(images[0].parent), "a b", "0" * 64):
        with pytest.raises(NotFound):
            find_images(found, word)
    shutil.copytree(cache.root / "images" / RECIPE, cache.root / "images" / RECIPE[::-1])
    found = inventory(cache.root)
    assert len(find_images(found, str(Digest.of(names[0].encode())))) == 2


def test_an_inventory_of_nothing(tmp_path: Path):
    """Is empty."""
    found = inventory(tmp_path / "nowhere")
    assert (found.items, found.size, found.images) == ((), 0, [])
