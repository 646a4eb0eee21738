"""Slurm's configuration: what is understood of scontrol's output, plugstack.conf, job_container.conf and plug-ins."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
from support.tools import require_tools

from enroot_slurm.doctor.slurmconf import Plugin, parse_config, plugin_version, plugins_of, private_directories

if TYPE_CHECKING:
    from pathlib import Path

OLD = """\
Configuration data as of 2026-11-26T09:00:00
BatchStartTimeout       = 10 sec
JobContainerType        = (null)
PlugStackConfig         = (null)
PrivateData             = accounts,jobs
Prolog                  = /etc/slurm/prolog.d/*
PrologEpilogTimeout     = 65534
PrologFlags             = Alloc,Contain
SLURM_CONF              = /etc/slurm/slurm.conf
SLURM_VERSION           = 22.05.8

Slurmctld(primary) at head is UP
"""
NEW = """\
MessageTimeout          = 60 sec
Prolog[0]               = /etc/slurm/prolog.d/10-a
Prolog[1]               = /etc/slurm/prolog.d/50-enroot-slurm
PrologTimeout           = 120 sec
SLURM_VERSION           = 25.05.1
"""


def test_what_scontrol_prints() -> None:
    """Texts, words, times without limit, and the version."""
    conf = parse_config(OLD)
    assert conf.text("prolog") == "/etc/slurm/prolog.d/*"
    assert conf.text("JobContainerType") == conf.text("NoSuchThing") == ""
    assert conf.words("PrologFlags") == {"alloc", "contain"}
    assert conf.words("PrivateData") == {"accounts", "jobs"}
    assert conf.seconds("BatchStartTimeout") == 10
    assert conf.seconds("PrologEpilogTimeout") is None
    assert conf.version == (22, 5)
    assert str(conf.plugstack) == "/etc/slurm/plugstack.conf"


def test_what_newer_releases_print() -> None:
    """Several prologs have a number each."""
    conf = parse_config(NEW)
    assert conf.text("Prolog").split() == ["/etc/slurm/prolog.d/10-a", "/etc/slurm/prolog.d/50-enroot-slurm"]
    assert conf.seconds("PrologTimeout") == 120
    assert conf.version == (25, 5)


def test_plugstack_and_its_includes(tmp_path) -> None:
    """Includes are globs, relative to the file that has them; what can't be read is told; comments are none."""
    (tmp_path / "libs").mkdir()
    (tmp_path / "libs/renice.so").touch()
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/b.conf").write_text("optional /x/spank_enroot_slurm.so helper=/y/step\n")
    (tmp_path / "conf.d/a.conf").write_text('required spank_pyxis.so "importer=/with space/x" runtime_path=/run\n')
    file = tmp_path / "plugstack.conf"
    file.write_text(
        "# optional none.so\n\ninclude conf.d/*.conf\n"
        f"required renice.so # a comment\ninclude {tmp_path}/none/*.conf\ninclude {file}\nnonsense\n"
    )
    found = list(plugins_of(file, f"/none:{tmp_path}/libs"))
    plugins = [each for each in found if isinstance(each, Plugin)]
    first, second, third = plugins[:3]
    assert str(first.file) == "/none/spank_pyxis.so"
    assert first.required
    assert first.argument("importer") == "/with space/x"
    assert second.where == f"{tmp_path}/conf.d/b.conf:1"
    assert not second.required
    assert third.file == tmp_path / "libs/renice.so"
    assert third.arguments == ()
    assert list(plugins_of(tmp_path / "none.conf", "")) == []
    (tmp_path / "directory").mkdir()
    assert list(plugins_of(tmp_path / "directory", "")) == [f"{tmp_path}/directory: Is a directory"]


def private(tmp_path: Path, text: str | None, kind: str = "job_container/tmpfs") -> list[str]:
    if text is not None:
        (tmp_path / "job_container.conf").write_text(text)
    return private_directories(parse_config(f"JobContainerType = {kind}\nSLURM_CONF = {tmp_path}/slurm.conf\n"))


@pytest.mark.parametrize(
    ("text", "directories"),
    [
        (None, ["/dev/shm", "/tmp"]),
        ("AutoBasePath=true\nBasePath=/nvme\n", ["/dev/shm", "/tmp"]),
        ("BasePath=/nvme Dirs=/tmp,/var/tmp\n", ["/tmp", "/var/tmp"]),
        ("# Dirs=/x\nNodeName=n[1-9] BasePath=/nvme dirs=/scratch\nNodeName=m Dirs=/tmp\n", ["/scratch", "/tmp"]),
    ],
)
def test_directories_that_each_job_has_for_itself(tmp_path, text, directories) -> None:
    """Those of job_container.conf, for whatever node, or Slurm's default."""
    assert private(tmp_path, text) == directories
    assert private(tmp_path, text, "(null)") == []


@pytest.mark.parametrize(("major", "minor"), [(22, 5), (23, 11), (25, 5)])
def test_the_version_that_a_plugin_was_built_for(tmp_path, major, minor) -> None:
    """It is read from the file, which is not loaded."""
    require_tools("cc")
    source, library = tmp_path / "p.c", tmp_path / "p.so"
    source.write_text(
        f"const char plugin_name[] = {{'x'}}; const unsigned int plugin_version = {(major << 16) + (minor << 8) + 7};\n"
        "__attribute__((constructor)) static void loaded(void) { __builtin_trap(); }\n"
    )
    subprocess.run(["cc", "-shared", "-fPIC", "-o", library, source], check=True)
    assert plugin_version(library) == (major, minor)
    content = library.read_bytes()
    for size in range(0, len(content), 97):  # a copy that was cut off
        library.write_bytes(content[:size])
        assert plugin_version(library) in {(), (major, minor)}


def test_what_is_no_plugin(tmp_path) -> None:
    """Anything else has no version."""
    for content in (b"", b"\x7fELF\x02", b"#!/bin/sh\n" * 100, b"\x7fELF\x02" + b"\xff" * 500):
        (tmp_path / "x.so").write_bytes(content)
        assert plugin_version(tmp_path / "x.so") == ()
