"""Stripes of Lustre, with a program in lfs' place that notes what it is asked: there is no Lustre here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.images import make_images_directory
from enroot_slurm.doctor.cache import stripes
from enroot_slurm.system import lustre

if TYPE_CHECKING:
    from pathlib import Path

PROGRESSIVE = "setstripe -E 64M -c 1 -S 4M -E -1 -c 32 -S 4M"
PLAIN = "setstripe -c 32 -S 4M"


@pytest.fixture
def lfs(tmp_path, monkeypatch):
    """A function that puts a program *lfs* with these lines into PATH; the file of what it was asked."""
    asked = tmp_path / "asked"

    def install(*lines: str) -> Path:
        program = tmp_path / "bin" / "lfs"
        program.parent.mkdir(exist_ok=True)
        program.write_text("\n".join(["#!/bin/sh", f'echo "$@" >> "{asked}"', *lines]) + "\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{program.parent}:/usr/bin:/bin")
        return asked

    return install


def test_a_directory_is_striped(lfs, tmp_path) -> None:
    """One call, whose layout leaves small files on one server."""
    asked = lfs()
    assert lustre.stripe(tmp_path / "images", lustre=True)
    assert asked.read_text() == f"{PROGRESSIVE} {tmp_path}/images\n"


def test_an_old_lustre_knows_plain_layouts(lfs, tmp_path) -> None:
    """Where the first layout is refused, the plain one is set."""
    asked = lfs('[ "$2" != -E ] || exit 22')
    assert lustre.stripe(tmp_path / "x y", lustre=True)
    assert asked.read_text().splitlines() == [f"{PROGRESSIVE} {tmp_path}/x y", f"{PLAIN} {tmp_path}/x y"]


def test_a_failure_is_none(lfs, tmp_path) -> None:
    """A directory whose stripes can't be set is used as it is."""
    lfs("exit 1")
    assert not lustre.stripe(tmp_path, lustre=True)


def test_elsewhere_nothing_is_run(lfs, tmp_path) -> None:
    """On other file systems, of which this is one, no program is started; nor on Lustre without lfs."""
    asked = lfs()
    assert not lustre.is_lustre(tmp_path)
    assert not lustre.is_lustre(tmp_path / "missing")
    assert not lustre.stripe(tmp_path, lustre=False)
    make_images_directory(CacheDirectory(tmp_path / "cache"), "recipe", "linux-amd64")
    assert (tmp_path / "cache/images/recipe/linux-amd64").is_dir()
    assert not asked.exists()
    (tmp_path / "bin" / "lfs").unlink()
    assert not lustre.stripe(tmp_path, lustre=True)


@pytest.mark.parametrize(
    ("said", "striped"),
    [("1", False), ("0", False), ("32", True), ("-1", True), ("1\n32", True), ("nothing", None), ("", None)],
)
def test_what_the_doctor_says(said, striped, lfs, tmp_path) -> None:
    """A directory whose images have one server each is a warning, with the command that helps."""
    asked = lfs(f"printf '%b\\n' '{said}'")
    assert lustre.is_striped(tmp_path) is striped
    assert asked.read_text() == f"getstripe -d --stripe-count {tmp_path}\n"
    [finding] = stripes(tmp_path, True)
    assert finding.check == "cache.stripes"
    assert finding.status == {True: "ok", False: "warning", None: "skipped"}[striped]
    assert ("lfs setstripe -c 32 -S 4M" in finding.hint) == (striped is False)
    assert list(stripes(tmp_path, False)) == []
    assert list(stripes(tmp_path / "missing", True)) == []
