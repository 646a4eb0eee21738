"""Readers of images: real ones, and ones that were built without a compressor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from support.tools import require_root, require_tools

from enroot_slurm.doctor.readers import Reading, check_readers, findings_of, read_back
from enroot_slurm.importing.probe import write_probe
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from pathlib import Path

COMPRESSORS = ("gzip", "lzo", "lz4", "xz", "zstd")


def load(path: Path, compressor: str) -> Config:
    overrides = {"temp_path": path, "squash_options": f"-comp {compressor}"}
    return Config.load(environ={}, site_file=None, user_file=None, enroot_conf=None, overrides=overrides)


@pytest.fixture
def first(tmp_path, monkeypatch):
    """A function that puts a script before all other programs of its name."""

    def put(name: str, text: str) -> None:
        directory = tmp_path / "bin"
        directory.mkdir(exist_ok=True)
        (directory / name).write_text(f"#!/bin/sh\n{text}\n")
        (directory / name).chmod(0o755)
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")

    return put


@pytest.mark.parametrize("compressor", COMPRESSORS)
def test_real_readers(tmp_path, compressor) -> None:
    """Each program that is here reads an image of each compressor; nothing stays mounted or written."""
    require_root("squashfuse mounts")
    require_tools("unsquashfs", "squashfuse", "squashfuse_ll")
    image = tmp_path / "image.sqsh"
    write_probe(load(tmp_path, compressor), image)
    readings = dict(read_back(image, compressor))
    readings.pop("kernel", None)
    expected = {"unsquashfs": ""}
    if os.path.exists("/dev/fuse"):
        expected |= {"squashfuse": "", "squashfuse_ll": ""}
    assert readings == expected
    with open("/proc/self/mounts") as mounts:
        assert "enroot-slurm-doctor-" not in mounts.read()


def test_a_reader_without_the_compressor(tmp_path, first) -> None:
    """The warning has the program's own words, the options, and advice."""
    first("unsquashfs", "echo 'Filesystem uses lzo compression, this is unsupported by this version' >&2; exit 1")
    found = {finding.check: finding for finding in check_readers(load(tmp_path, "lzo"))}
    finding = found["tools.unsquashfs"]
    assert finding.status == "warning"
    assert "unsupported by this version" in finding.message
    assert "'-comp lzo" in finding.message
    assert "squash_options" in finding.hint
    assert [entry for entry in os.listdir(tmp_path) if entry != "bin"] == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("exec sleep 60", "it took longer than"),
        ('mkdir -p "$4" && echo wrong > "$4/probe"', "it reads wrong data"),
        ("exit 0", "the file is not there"),
        ("exit 9", "exit status 9"),
    ],
)
def test_readers_that_fail_in_other_ways(tmp_path, first, text, problem) -> None:
    """A program that hangs, lies, or says nothing is told as such."""
    first("unsquashfs", text)
    image = tmp_path / "image.sqsh"
    write_probe(load(tmp_path, "gzip"), image)
    assert problem in dict(read_back(image, "gzip"))["unsquashfs"]


def test_no_reader(tmp_path, monkeypatch) -> None:
    """Readers are no part of an import: that none is here is no problem."""
    monkeypatch.setenv("PATH", str(tmp_path))
    found = list(check_readers(load(tmp_path, "gzip")))
    assert {finding.status for finding in found if finding.check != "tools.kernel"} == {"skipped"}


def test_nodes_are_named_together() -> None:
    """Nodes with the same finding have one line; each line names its nodes."""
    good, bad = Reading("unsquashfs", ""), Reading("unsquashfs", "no lzo")
    found = list(findings_of("nodes", "-comp lzo", {"n1": [good], "n2": [good], "n3": [bad]}))
    assert [(finding.status, finding.message.partition(":")[0]) for finding in found] == [
        ("ok", "unsquashfs on n1, n2"),
        ("warning", "unsquashfs on n3"),
    ]
