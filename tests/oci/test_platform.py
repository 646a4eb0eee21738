"""Platforms: names, and which image runs where."""

from __future__ import annotations

import os

import pytest

from enroot_slurm.errors import InvalidPlatform
from enroot_slurm.oci.platform import Platform

P = Platform.parse


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ("x86_64 x86-64 x64 amd64 AMD64 linux/amd64", "linux/amd64"),
        ("aarch64 arm64 linux/arm64", "linux/arm64"),
        ("armv7l armhf arm/v7 linux/arm/v7", "linux/arm/v7"),
        ("armv6l armel arm/v6", "linux/arm/v6"),
        ("ppc64le", "linux/ppc64le"),
        ("riscv64", "linux/riscv64"),
        ("s390x", "linux/s390x"),
        ("i386 i686 386", "linux/386"),
        ("amd64/v3 x86_64/v3 AMD64/V3 amd64/3", "linux/amd64/v3"),
        ("arm64/v8 arm64/8 aarch64/V8 arm64/v8.0", "linux/arm64/v8"),
        ("arm64/v8.2 arm64/8.2", "linux/arm64/v8.2"),
    ],
)
def test_names_of_uname_and_docker(names, text):
    """uname's and Docker's names mean the same."""
    assert {str(P(name)) for name in names.split()} == {text}


@pytest.mark.parametrize("name", ["", "x86", "sparc", "amd64/x", "arm/v7/x", "../x", "amd64 arm64"][2:])
def test_unknown_names_are_refused(name):
    """What is no architecture is an error that lists some."""
    with pytest.raises(InvalidPlatform, match="unknown architecture") as caught:
        P(name)
    assert "aarch64" in caught.value.hint


def test_the_host_is_unames():
    """Without an option the architecture is the node's."""
    assert Platform.host() == P(os.uname().machine)


@pytest.mark.parametrize(
    ("wanted", "offered", "picked"),
    [
        ("amd64", ["arm64", "amd64"], 1),
        ("amd64", ["amd64/v3", "amd64/v2", "amd64"], 2),
        ("amd64", ["amd64/v3", "amd64/v2"], 1),
        ("amd64/v3", ["amd64", "amd64/v2", "amd64/v4"], 1),
        ("amd64/v2", ["amd64/v3"], None),
        ("arm64", ["arm/v7", "arm64/v8"], 1),
        ("arm/v7", ["arm/v5", "arm/v6", "arm64"], 1),
        ("arm/v6", ["arm/v7"], None),
        ("arm/v7", ["arm"], 0),
        ("amd64", ["arm64"], None),
        ("arm64/v8", ["arm64/v8.5"], None),
        ("arm64/v8", ["arm64/v8.5", "arm64"], 1),
        ("arm64", ["arm64/v8.5"], 0),
        ("arm64", ["arm64/v9", "arm64/v8.5"], 1),
        ("arm64/v8.5", ["arm64/v8", "arm64/v8.6", "arm64/v8.4"], 2),
        ("arm64/v8.5", ["arm64/v8.4", "arm64/v8.5"], 1),
        ("arm64/v8", ["arm64", "arm64/v8"], 1),
        ("arm64/v9", ["arm64/v8.6", "arm64/v8.5"], 1),
        ("arm64/v9", ["arm64/v8.5", "arm64/v9"], 1),
        ("arm64", ["ARM64"], 0),
        ("arm64", ["aarch64/8"], 0),
        ("amd64", ["X64"], 0),
        ("arm/v7", ["arm/7", "arm/6"], 0),
        ("amd64/v2", ["amd64/V2"], 0),
        ("amd64/v2", ["amd64/x"], None),
        ("amd64", [], None),
    ],
)
def test_the_best_image_is_picked(wanted, offered, picked):
    """The same variant, else the next lower one; a higher one only where none was asked for."""
    candidates = [Platform.of_document(*(o.split("/") + [""])[:2]) for o in offered]
    assert P(wanted).best(candidates) == picked


def test_other_systems_never_fit():
    """An image for Windows is no match, whatever its architecture."""
    assert P("amd64").rank(Platform.of_document("amd64", os_name="windows")) is None
    assert P("amd64").rank(Platform.of_document("unknown", os_name="unknown")) is None


def test_case_of_systems():
    """Linux in any case is Linux; without a name it is, too."""
    assert P("amd64").rank(Platform.of_document("AMD64", os_name="Linux")) == 0
    assert P("amd64").rank(Platform.of_document("amd64", os_name="")) == 0


def test_what_can_be_asked_for():
    """Names that --arch would refuse are never offered."""
    for words in (("unknown", "", "unknown"), ("amd64", "", "windows"), ("none", "", "linux"), ("amd64", "x", "")):
        assert not Platform.of_document(*words).runnable
    for words in (("amd64", "", "linux"), ("ARM", "7", ""), ("arm64", "v8.2", "Linux")):
        found = Platform.of_document(*words)
        assert found.runnable
        assert P(str(found)) == found


def test_foreign_names_make_safe_directories():
    """What a manifest states never becomes a path of its own."""
    assert Platform.of_document("../x", "v1", "linux").directory == "linux-v1"
