"""The site's own programs: how they are run, what they are told, and what their answers mean."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import wait_for

from enroot_slurm.errors import ConfigError, ImageRefused
from enroot_slurm.oci.digest import Digest
from enroot_slurm.trust import verifiers
from enroot_slurm.trust.gate import demand
from enroot_slurm.trust.names import ImageName
from enroot_slurm.trust.verifiers import Verifiers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "registry.site/prod/app:1"
KIND = "application/vnd.oci.image.manifest.v1+json"
DOCUMENT = b'{"mediaType": "application/vnd.oci.image.manifest.v1+json"}'
DIGEST = Digest.of(DOCUMENT)
NOBODY = 65534


@pytest.fixture
def place() -> Iterator[Path]:
    """A directory of root's, or this user's, that everybody can enter."""
    path = Path(tempfile.mkdtemp())
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


@pytest.fixture
def program(place) -> Callable[..., Path]:
    """A function that writes a program."""

    def write(text: str, name: str = "check", mode: int = 0o755) -> Path:
        (place / name).write_text(f"#!/bin/sh\n{text}\n")
        (place / name).chmod(mode)
        return place / name

    return write


@pytest.fixture
def unprivileged() -> Iterator[None]:
    """Not root: programs are not run as root."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    yield
    os.seteuid(0)


def ask(place: Path) -> None:
    """What the import does."""
    Verifiers.of(str(place)).ask(NAME, DIGEST, DOCUMENT)


def test_all_are_told_what_containerd_tells(place, program, monkeypatch, request) -> None:
    """Name, digest and media type as arguments, the descriptor on standard input, three variables, no more files."""
    said = place / ".said"
    said.touch()
    said.chmod(0o666)
    program(
        f"""exec 3>&1 >{said}
for word; do echo "[$word]"; done
cat
echo
env | cut -d= -f1 | sort
exec 3>&-
ls /proc/self/fd | wc -l"""
    )
    monkeypatch.setenv("SECRET_OF_MINE", "canary")
    request.getfixturevalue("unprivileged")
    ask(place)
    lines = said.read_text().splitlines()
    assert lines[:6] == ["[-name]", f"[{NAME}]", "[-digest]", f"[{DIGEST}]", "[-stdin-media-type]", lines[5]]
    assert lines[5] == "[application/vnd.oci.descriptor.v1+json]"
    assert lines[6] == f'{{"mediaType": "{KIND}", "digest": "{DIGEST}", "size": {len(DOCUMENT)}}}'
    assert {"PATH", "HOME", "LC_ALL"} <= set(lines[7:-1]) <= {"PATH", "HOME", "LC_ALL", "PWD", "OLDPWD", "SHLVL", "_"}
    assert int(lines[-1]) == 4  # the standard three, and the one that ls has opened


@pytest.mark.parametrize(
    ("texts", "why"),
    [
        ((), ""),
        (("exit 0",), ""),
        (("exit 0", "exit 0"), ""),
        (("exit 1",), "exit status 1"),
        (("exit 0", "echo CVE-2026-1 is in it; exit 3"), "exit status 3): CVE-2026-1 is in it"),
        (("echo no >&2; exit 1", "exit 0"), "exit status 1): no"),
        (("kill -9 $$",), "signal 9"),
        (("printf '\\033[2Jno'; exit 1",), "\\x1b[2Jno"),
        (("exec >&-; exec 2>&-; sleep 0.2; exit 1",), "exit status 1"),
        (("sleep 100 & exit 0",), ""),
        (("yes | head -c 3000000; exit 0",), ""),
    ],
)
def test_all_have_to_allow_the_image(place, program, texts, why, request) -> None:
    """Exit status 0 allows, anything else refuses; the first line is the reason."""
    for number, text in enumerate(texts):
        program(text, f"{number}")
    request.getfixturevalue("unprivileged")
    if not why:
        ask(place)
        return
    with pytest.raises(ImageRefused) as caught:
        ask(place)
    assert why in str(caught.value)
    assert str(place) in str(caught.value)
    assert NAME in str(caught.value)


def test_one_that_does_not_answer_refuses(place, program, monkeypatch, request) -> None:
    """And it is ended, with what it has started."""
    monkeypatch.setattr(verifiers, "SECONDS", 0.3)
    alive = place / "alive"
    alive.touch()
    alive.chmod(0o666)
    program(f"(sleep 100; echo no) & echo $! > {alive}; wait")
    request.getfixturevalue("unprivileged")
    with pytest.raises(ImageRefused, match="did not answer within"):
        ask(place)
    os.seteuid(os.getuid())
    child = Path("/proc", alive.read_text().strip(), "stat")
    wait_for(lambda: not child.exists() or child.read_text().rpartition(")")[2].split()[0] in {"Z", "X"})


def test_what_is_no_program_is_not_run(place, program, request) -> None:
    """A README, a hidden file, a directory."""
    program("exit 1", "README", 0o644)
    program("exit 1", ".check")
    (place / "old").mkdir(mode=0o755)
    request.getfixturevalue("unprivileged")
    assert Verifiers.of(str(place)).programs == ()
    ask(place)


def test_one_that_cannot_be_started_lets_nothing_pass(place, request) -> None:
    """A broken interpreter."""
    (place / "check").write_text("#!/nonexistent\n")
    (place / "check").chmod(0o755)
    request.getfixturevalue("unprivileged")
    with pytest.raises(ConfigError, match="can't be run"):
        ask(place)


def test_others_may_not_write_them(place, program) -> None:
    """Neither a program nor the directory."""
    program("exit 0", mode=0o777)
    with pytest.raises(ConfigError, match="others than root can write"):
        Verifiers.of(str(place))
    (place / "check").chmod(0o755)
    place.chmod(0o777)
    with pytest.raises(ConfigError, match="others than root can write"):
        Verifiers.of(str(place))


def test_no_directory_and_too_many_programs_let_nothing_pass(place, program) -> None:
    """A file system that is not mounted must not open the gate."""
    with pytest.raises(ConfigError, match="can't be read"):
        Verifiers.of(str(place / "none"))
    for number in range(11):
        program("exit 0", str(number))
    with pytest.raises(ConfigError, match="11 programs; 10 are the most"):
        Verifiers.of(str(place))


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_nothing_is_run_as_root(place, program) -> None:
    """Not even the site's own program."""
    program("exit 0")
    with pytest.raises(ConfigError, match="not run as root"):
        ask(place)


def test_another_program_is_another_demand(place, program) -> None:
    """So that a verdict that was kept is none any more."""
    name = ImageName.parse(NAME)
    program("exit 0")
    first = demand(name, [], [str(place)])
    assert not first.is_met
    assert demand(name, [], [str(place)]).fingerprint == first.fingerprint
    program("exit 0 # new")
    assert demand(name, [], [str(place)]).fingerprint != first.fingerprint
