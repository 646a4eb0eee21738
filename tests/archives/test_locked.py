"""Lock files, and squashfs files that are named in the place of an image."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.archives import docker_members, made_tar
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.tools import require_tools

from enroot_slurm.errors import EnrootSlurmError, IntegrityError, NotFound, UnsupportedImage, UsageError
from enroot_slurm.importing.lock_file import LockFile
from enroot_slurm.importing.squash_file import check_squashfs
from enroot_slurm.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
FIRST = Image([Layer().file("one", b"1")], architecture=HERE)
SECOND = Image([Layer().file("two", b"2")], architecture=HERE)


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    require_tools("mksquashfs", "unsquashfs")
    with FaultRegistry() as running:
        yield running


def test_a_later_run_has_the_same_bytes(registry, import_environment, tmp_path) -> None:
    """Although the tag has moved, and in a cache that has nothing of it."""
    uri, lock = serve(registry, FIRST), tmp_path / "images.lock"
    first = enroot_slurm("get", "--lock", lock, uri, environment=import_environment)
    assert first.returncode == 0, first.stderr
    [entry] = json.loads(lock.read_text())["images"]
    assert (entry["uri"], entry["platform"]) == (uri, f"linux/{HERE}")
    content = Path(first.stdout.strip()).read_bytes()
    serve(registry, SECOND)
    later = {**import_environment, "ENROOT_CACHE_PATH": str(tmp_path / "later")}
    again = enroot_slurm("get", "--lock", lock, uri, environment=later)
    assert again.returncode == 0, again.stderr
    assert Path(again.stdout.strip()).read_bytes() == content
    asked = len(registry.requests)
    assert enroot_slurm("get", "--lock", lock, uri, environment=later).stdout == again.stdout
    assert len(registry.requests) == asked  # a digest costs no request
    moved = enroot_slurm("get", uri, environment=later)
    assert moved.stdout != again.stdout
    assert json.loads(lock.read_text())["images"] == [entry]


def test_prefetch_with_a_lock_and_files(registry, import_environment, tmp_path) -> None:
    """A list has images, archives and squashfs files; the lock has what was resolved."""
    uri, lock = serve(registry, FIRST), tmp_path / "images.lock"
    archive = tmp_path / "a.tar"
    archive.write_bytes(made_tar(docker_members(SECOND)))
    made = enroot_slurm("import", "-o", tmp_path / "x.sqsh", uri, environment=import_environment)
    assert made.returncode == 0
    (tmp_path / "list.yaml").write_text(
        f"- {uri}\n- docker-archive:{archive}\n- {tmp_path}/x.sqsh\n- {tmp_path}/a.tar\n"
    )
    words = ["cache", "prefetch", "--json", "--lock", lock, tmp_path / "list.yaml"]
    done = enroot_slurm(*words, environment=import_environment)
    outcomes = json.loads(done.stdout)
    assert [outcome["status"] for outcome in outcomes] == [0, 0, 0, 6]
    assert outcomes[2]["path"] == f"{tmp_path}/x.sqsh"
    assert f"docker-archive:{tmp_path}/a.tar" in outcomes[3]["hint"]
    assert {e["uri"] for e in json.loads(lock.read_text())["images"]} == {uri, f"docker-archive:{archive}"}
    archive.write_bytes(made_tar(docker_members(FIRST)))
    changed = json.loads(
        enroot_slurm(*words, environment={**import_environment, "ENROOT_CACHE_PATH": str(tmp_path / "c")}).stdout
    )
    assert (changed[1]["status"], "It was changed" in changed[1]["hint"]) == (3, True)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"[]",
        b"{}",
        b'{"version": 2, "images": []}',
        b'{"version": 1, "images": {}}',
        b'{"version": 1, "images": [1]}',
        b'{"version": 1, "images": [{"uri": "docker://x", "platform": "linux/amd64", "digest": "sha256:x"}]}',
        b'{"version": 1, "images": [{"uri": "x", "platform": "linux/amd64", "digest": "sha256:x"}]}',
        b'{"version": 1, "images": [{"uri": "docker://x", "platform": "/", "digest": "x"}]}',
        b"\xff" * 100,
    ],
)
def test_what_is_no_lock_file(content, tmp_path) -> None:
    (tmp_path / "l").write_bytes(content)
    with pytest.raises(UsageError, match="is no lock file"):
        LockFile(tmp_path / "l")


def test_two_programs_note_in_one_file(tmp_path) -> None:
    """Neither loses what the other has noted before."""
    one, two = LockFile(tmp_path / "l"), LockFile(tmp_path / "l")
    digests = [Digest("sha256", letter * 64) for letter in "ab"]
    one.note("docker://a", None, digests[0])
    two.note("docker://b", None, digests[1])
    two.note("docker://b", None, digests[0])  # it is locked
    both = LockFile(tmp_path / "l")
    assert [both.digest(f"docker://{name}") for name in "abc"] == [*digests, None]


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (None, NotFound),
        (b"", UnsupportedImage),
        (b"hsqs" + bytes(200), UnsupportedImage),
        (b"x" * 500, UnsupportedImage),
    ],
)
def test_files_that_are_no_squashfs(content, kind, tmp_path) -> None:
    if content is not None:
        (tmp_path / "f").write_bytes(content)
    with pytest.raises(kind):
        check_squashfs(str(tmp_path / "f"))
    with pytest.raises(EnrootSlurmError):
        check_squashfs(str(tmp_path))
    assert issubclass(UnsupportedImage, IntegrityError)


def test_a_cut_squashfs_file(registry, import_environment, tmp_path) -> None:
    """Its superblock tells how long it was."""
    done = enroot_slurm("import", "-o", tmp_path / "x", serve(registry, FIRST), environment=import_environment)
    assert done.returncode == 0
    assert check_squashfs(str(tmp_path / "x")) == tmp_path / "x"
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size // 2)
    with pytest.raises(UnsupportedImage, match="incomplete"):
        check_squashfs(str(tmp_path / "x"))
