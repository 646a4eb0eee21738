"""Files that are published: complete or absent, whatever the file system and other users do."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.tools import require_root

from enroot_slurm.system.publish import beside, draft, unique, write_all, write_file

STRANGER = 54321


def refuse(monkeypatch, function, code, *, after=lambda *_: None):
    """Let *function* of os fail with *code*, and count its calls."""
    calls = []

    def no(*arguments, **_):
        calls.append(arguments)
        after(*arguments)
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, function, no)
    return calls


def test_a_name_is_given_once(tmp_path) -> None:
    path = tmp_path / "file"
    with draft(beside(path)) as file:
        write_all(file.fd, b"content")
        assert [file.path.name] == os.listdir(tmp_path)
        assert file.publish(path, replace=False)
        assert file.is_at(path)
    with draft(beside(path)) as file:
        assert not file.publish(path, replace=False)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_bytes() == b"content"
    with draft(beside(path)) as file:
        assert file.publish(path, replace=True)
    assert path.read_bytes() == b""
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.ENOSYS], ids=errno.errorcode.get)
def test_no_hard_links(tmp_path, monkeypatch, code) -> None:
    """Then the file is renamed, and another is kept all the same."""
    refuse(monkeypatch, "link", code)
    assert write_file(tmp_path / "file", b"first", replace=False)
    assert not write_file(tmp_path / "file", b"second", replace=False)
    assert (tmp_path / "file").read_bytes() == b"first"
    assert os.listdir(tmp_path) == ["file"]


def test_another_error_of_link(tmp_path, monkeypatch) -> None:
    refuse(monkeypatch, "link", errno.EIO)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        write_file(tmp_path / "file", b"", replace=False)
    assert os.listdir(tmp_path) == []


def test_no_proc(tmp_path, monkeypatch) -> None:
    """Where descriptors have no names, the temporary name is linked."""
    link, seen = os.link, []

    def without(source, *more, **options):
        seen.append(str(source))
        if str(source).startswith("/proc"):
            raise FileNotFoundError(errno.ENOENT, "no such file")
        link(source, *more, **options)

    monkeypatch.setattr(os, "link", without)
    assert write_file(tmp_path / "file", b"x", replace=False)
    assert len(seen) == 2
    assert os.listdir(tmp_path) == ["file"]


def test_a_lost_answer(tmp_path, monkeypatch) -> None:
    """NFS may link, lose its answer, ask again, and say that the name is taken: it is, by this very file."""
    link = os.link
    refuse(monkeypatch, "link", errno.EEXIST, after=lambda source, path: link(source, path, src_dir_fd=0))
    assert write_file(tmp_path / "file", b"x", replace=False)
    assert os.listdir(tmp_path) == ["file"]


@pytest.mark.parametrize("code", [errno.EINVAL, errno.EOPNOTSUPP, errno.EIO], ids=errno.errorcode.get)
def test_a_directory_that_cannot_be_synced(tmp_path, monkeypatch, code) -> None:
    """The file has its name: nothing is wrong any more."""
    fsync = os.fsync

    def no(fd):
        if Path(f"/proc/self/fd/{fd}").is_dir():
            raise OSError(code, os.strerror(code))
        fsync(fd)

    monkeypatch.setattr(os, "fsync", no)
    with draft(beside(tmp_path / "file")) as file:
        assert file.publish(tmp_path / "file", replace=False)
        assert file.publish(tmp_path / "new", replace=True)


def test_a_directory_that_cannot_be_read(tmp_path) -> None:
    """Write and search permission are enough."""
    require_root("another user")
    os.chown(tmp_path, STRANGER, -1)
    tmp_path.chmod(0o300)
    for parent in tmp_path.parents[:-2]:  # all below /tmp
        parent.chmod(0o755)
    program = (
        f"import os; os.setuid({STRANGER}); from pathlib import Path\n"
        "from enroot_slurm.system.publish import beside, draft\n"
        f"path = Path({str(tmp_path)!r}, 'file')\n"
        "with draft(beside(path)) as file: assert file.publish(path, replace=False)"
    )
    subprocess.run([sys.executable, "-c", "import enroot_slurm.system.publish\n" + program], check=True)
    assert os.listdir(tmp_path) == ["file"]


def test_a_data_error_is_one(tmp_path, monkeypatch) -> None:
    """What does not come to the disk gets no name."""
    refuse(monkeypatch, "fsync", errno.EIO)
    with pytest.raises(OSError, check=lambda error: error.errno == errno.EIO):
        write_file(tmp_path / "file", b"x")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("name", ["x" * 255, "\N{SNAKE}" * 63, "\N{LATIN SMALL LETTER E WITH ACUTE}" * 127])
def test_names_as_long_as_can_be(tmp_path, name) -> None:
    assert write_file(tmp_path / name, b"x")
    assert os.listdir(tmp_path) == [name]


def test_names_that_two_processes_never_share() -> None:
    assert len({unique() for _ in range(1000)}) == 1000
    assert unique("12.0").rsplit(".", 1)[0] == f"{os.uname().nodename}.12.0.{os.getpid()}"


@pytest.mark.parametrize("replace", [False, True])
def test_what_others_put_in_its_place(tmp_path, replace) -> None:
    """In a directory that others can write, their file never gets the name, and what their links lead to is left."""
    precious = tmp_path / "precious"
    precious.write_text("precious")
    shared = tmp_path / "shared"
    shared.mkdir()
    with draft(beside(shared / "file")) as file:
        write_all(file.fd, b"first pass")
        file.path.rename(shared / "stolen")
        file.path.symlink_to(precious)
        file.clear()
        write_all(file.fd, b"second")
        if replace:
            with pytest.raises(OSError, match="something else in its place"):
                file.publish(shared / "file", replace=True)
        else:
            assert file.publish(shared / "file", replace=False)
            assert (shared / "file").read_bytes() == b"second"
    assert precious.read_text() == "precious"
    assert not os.path.islink(shared / "file")
