"""Who can change a cache, and its files."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

import pytest
from support.tools import require_root

from enroot_slurm.cache.trust import (
    Untrusted,
    check_untamperable,
    open_trusted,
    owner_number,
    owner_of_untamperable,
    read_trusted,
)

ME = os.geteuid()
STRANGER = 54321


@pytest.fixture
def root():
    """A directory that nobody else can change; pytest's own may be below one that others can."""
    with tempfile.TemporaryDirectory(prefix="trust.") as name:
        (Path(name) / "parent/cache").mkdir(parents=True)
        yield Path(name) / "parent/cache"


def flaw(root, **options):
    with pytest.raises(Untrusted) as caught:
        check_untamperable(root, ME, **options)
    return caught.value


def test_a_good_cache(root):
    """Root's and the owner's directories, and a sticky one such as /tmp, are in order; so is one that is to be made."""
    check_untamperable(root, ME)
    check_untamperable(root / "not/there", ME)
    root.chmod(0o755)
    check_untamperable(root, ME)


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o777, 0o1777, 0o2775])
def test_writable_by_others(root, mode):
    """The cache itself must not be writable by others, not even with the sticky bit."""
    root.chmod(mode)
    error = flaw(root)
    assert f"{root} is writable by" in error.message
    assert error.hint == f"Run: chmod go-w {root}"


def test_a_writable_parent(root):
    """Nor may a directory above it; both are named, with the commands in one line."""
    root.chmod(0o777)
    root.parent.chmod(0o777)
    error = flaw(root)
    assert error.hint == f"Run: chmod go-w {root} && chmod go-w {root.parent}"


def test_a_parent_of_somebody_else(root):
    """A directory above that belongs to another user is refused for a shared cache, and accepted for one's own."""
    require_root("gives a directory away")
    os.chown(root.parent, STRANGER, -1)
    assert flaw(root).hint == f"Run: chown root {root.parent}"
    check_untamperable(root, ME, strict=False)
    root.parent.chmod(0o1777)  # sticky, but not root's
    assert str(root.parent) in flaw(root, strict=False).message
    os.chown(root, STRANGER, -1)
    assert f"{root} belongs to user {STRANGER}" in flaw(root, strict=False).message


def test_symbolic_links_on_the_way(root):
    """What a link leads to is checked, and where the link stands."""
    real = root.parent / "real"
    real.mkdir(mode=0o777)
    real.chmod(0o777)
    (root / "link").symlink_to(real)
    (real / "cache").mkdir()
    assert str(real) in flaw(root / "link/cache").message
    real.chmod(0o755)
    check_untamperable(root / "link/cache", ME)
    root.chmod(0o777)
    assert f"{root} is writable" in flaw(root / "link/cache").message


def test_a_link_of_somebody_else(root):
    """The command that is named changes the link, not what it leads to."""
    require_root("gives a link away")
    link = root / "link"
    link.symlink_to(root)
    os.chown(link, STRANGER, -1, follow_symlinks=False)
    assert flaw(link).hint == f"Run: chown -h {ME} {link}"


def test_a_group_of_ones_own(root):
    """Many systems give each user a group: what it can write is the user's own, but in a shared cache."""
    import grp
    import pwd

    if grp.getgrgid(os.getegid()).gr_name != pwd.getpwuid(ME).pw_name:
        pytest.skip("the user's group is not the user's alone")
    root.parent.chmod(0o775)
    check_untamperable(root, ME, strict=False)
    assert f"{root.parent} is writable by group" in flaw(root).message


def test_owner(root):
    """The owner is who has the directory; it must be the configured user."""
    assert owner_number(root) == ME
    assert owner_number(root / "missing", "nobody") is None
    with pytest.raises(Untrusted, match="no such user"):
        require_root("gives a directory away")
        os.chown(root, STRANGER, -1)
        owner_number(root, "no-such-user-at-all")
    with pytest.raises(Untrusted) as caught:
        owner_number(root, "nobody")
    assert caught.value.hint == f"Run: chown nobody {root}"
    assert owner_number(root) == STRANGER


@pytest.mark.parametrize("kind", ["symlink", "hard link", "fifo", "directory", "socket", "writable", "another's"])
def test_files_that_are_not_trusted(root, kind):
    """Only regular files with one name, which their owner alone can write, are read."""
    path = root / "file"
    path.write_bytes(b"content")
    assert read_trusted(path, {ME}, 7) == b"content"
    if kind == "symlink":
        path.rename(root / "other")
        path.symlink_to("other")
    elif kind == "hard link":
        (root / "other").hardlink_to(path)
    elif kind == "writable":
        path.chmod(0o620)
    elif kind == "another's":
        with pytest.raises(Untrusted, match="belongs to user"), open_trusted(path, {STRANGER}):
            pass
        return
    else:
        path.unlink()
        if kind == "socket":
            import socket

            with socket.socket(socket.AF_UNIX) as server:
                server.bind(str(path))
        else:
            {"fifo": os.mkfifo, "directory": os.mkdir}[kind](path)
    with pytest.raises((Untrusted, OSError)), open_trusted(path, {ME}):
        pass


def test_a_file_that_is_too_large(root):
    """A limit keeps a process from reading for ever."""
    (root / "file").write_bytes(b"x" * 11)
    assert read_trusted(root / "file", {ME}, 11) == b"x" * 11
    with pytest.raises(Untrusted, match="larger than 10 bytes"):
        read_trusted(root / "file", {ME}, 10)


def test_a_file_is_read_by_one_call(root, monkeypatch):
    """On a shared file system each call may be a message; a file that has another size by then is read to its end."""
    (root / "file").write_bytes(b"x" * 11)
    calls = []
    read = os.read
    monkeypatch.setattr(os, "read", lambda fd, size: (calls.append(size), read(fd, size))[1])
    assert read_trusted(root / "file", {ME}, 1000) == b"x" * 11
    assert calls == [12]
    with open_trusted(root / "file", {ME}) as file:
        (root / "file").write_bytes(b"y" * 20)
        assert file.read(1000) == b"y" * 20
    with open_trusted(root / "file", {ME}) as file:
        (root / "file").write_bytes(b"z")
        assert file.read(1000) == b"z"


def test_each_directory_is_looked_at_once(root, monkeypatch):
    """However many links lead there; a link is followed as the kernel does, and one in a circle is an error."""
    (root / "link").symlink_to("other/../up")
    (root / "up").symlink_to(root.parent)
    (root / "other").mkdir()
    asked = []
    lstat = Path.lstat
    monkeypatch.setattr(Path, "lstat", lambda path: (asked.append(path), lstat(path))[1])
    assert owner_of_untamperable(root / "link/cache") == ME
    assert len(asked) == len(set(asked))
    assert {root, root / "link", root / "up", root / "other", root.parent} <= set(asked)
    root.chmod(0o777)
    with pytest.raises(Untrusted, match=f"{root} is writable by everybody"):
        owner_of_untamperable(root / "link/cache")
    root.chmod(0o700)
    assert owner_of_untamperable(root / "missing/cache") is None
    (root / "file").touch()
    assert owner_of_untamperable(root / "file/cache") is None
    with pytest.raises(Untrusted, match="does not belong to nobody") if ME else contextlib.nullcontext():
        owner_of_untamperable(root, "nobody")
    (root / "circle").symlink_to("circle")
    with pytest.raises(OSError, match="symbolic links"):
        check_untamperable(root / "circle", ME)
