"""Files on file systems that hang: read in a process of their own, with a deadline."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.tools import require_root, require_tools

from enroot_slurm.errors import StorageError
from enroot_slurm.registry.credentials import Credentials
from enroot_slurm.system import slow_files
from enroot_slurm.system.slow_files import is_local, read_file


@pytest.fixture
def remote(monkeypatch):
    """All file systems count as another machine's, so that a child reads."""
    monkeypatch.setattr(slow_files, "_LOCAL", frozenset())


@pytest.fixture(params=["here", "child"])
def way(request):
    if request.param == "child":
        request.getfixturevalue("remote")
    return request.param


def test_a_file(way, tmp_path):
    """Both ways give the content, the owner and the mode; of a large file no more than was asked for."""
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 1000)
    path.chmod(0o640)
    file = read_file(path, 1 << 20)
    assert (file.content, file.uid, stat.S_IMODE(file.mode)) == (path.read_bytes(), os.geteuid(), 0o640)
    assert read_file(path, 1000).content == path.read_bytes()[:1001]
    (tmp_path / "link").symlink_to("file")
    assert read_file(tmp_path / "link", 1 << 20) == file


@pytest.mark.parametrize(("kind", "number"), [("missing", errno.ENOENT), ("loop", errno.ELOOP)])
def test_errors(way, tmp_path, kind, number):
    """Both ways raise the error of the system."""
    path = tmp_path / kind
    if kind == "loop":
        path.symlink_to("loop")
    with pytest.raises(OSError, match=kind) as caught:
        read_file(path, 100)
    assert caught.value.errno == number
    assert caught.value.filename == str(path)


@pytest.mark.parametrize("kind", ["fifo", "directory"])
def test_what_is_no_file(way, tmp_path, kind):
    """Of anything but a regular file nothing is read, and nothing hangs."""
    path = tmp_path / "x"
    {"fifo": os.mkfifo, "directory": os.mkdir}[kind](path)
    file = read_file(path, 100)
    assert file.content == b""
    assert not stat.S_ISREG(file.mode)


def test_nobody_sees_the_content(remote, tmp_path):
    """The child has neither the content nor any variable of ours in its arguments or environment."""
    path = tmp_path / "credentials"
    path.write_text("machine x login y password verysecret\n")
    require_tools("strace")
    code = (
        "from enroot_slurm.system import slow_files; slow_files._LOCAL = frozenset(); from pathlib import Path; "
        f"print(len(slow_files.read_file(Path({str(path)!r}), 1000).content))"
    )
    log = tmp_path / "log"
    trace = ["strace", "-f", "-v", "-s", "10000", "-e", "trace=execve", "-o", log]
    command = [*trace, sys.executable, "-c", code]
    environment = {**os.environ, "SECRET_OF_OURS": "verysecret"}
    assert subprocess.run(command, check=True, capture_output=True, env=environment).stdout == b"38\n"
    children = [line for line in log.read_text().splitlines() if '"-S"' in line]
    assert len(children) == 1
    assert "verysecret" not in children[0]


def test_which_file_systems_are_local(tmp_path):
    """What /proc says of the mounts on the way decides, through symbolic links too."""
    assert is_local(tmp_path)
    assert is_local(tmp_path / "missing/deep")
    assert not is_local(Path("/proc/self/mountinfo"))
    (tmp_path / "there").symlink_to("/proc")
    (tmp_path / "up").symlink_to("../../../../../../../../proc/self")
    assert not is_local(tmp_path / "there/self/status")
    assert not is_local(tmp_path / "up/status")
    (tmp_path / "circle").symlink_to("circle")
    assert is_local(tmp_path / "circle/x")


def test_a_file_system_that_hangs(tmp_path):
    """When the server does not answer, there is an error in time, and nothing else hangs."""
    require_root("mounts a file system")
    require_tools("squashfuse", "mksquashfs")
    source, image, mount = tmp_path / "source", tmp_path / "image", tmp_path / "mount"
    source.mkdir()
    mount.mkdir()
    (source / ".credentials").write_text("machine x login y password z\n")
    subprocess.run(["mksquashfs", source, image, "-quiet", "-no-progress"], check=True, capture_output=True)
    server = subprocess.Popen(["squashfuse", "-f", image, mount], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 10
        while not os.path.ismount(mount):
            if server.poll() is not None or time.monotonic() > deadline:
                pytest.skip("can't mount with FUSE here")
            time.sleep(0.02)
        assert not is_local(mount / ".credentials")
        server.send_signal(signal.SIGSTOP)
        with pytest.raises(StorageError, match=r"has not answered for 0\.5 seconds"):
            read_file(mount / ".credentials", 1000, timeout=0.5)
        server.send_signal(signal.SIGCONT)
        assert Credentials.load(mount / ".credentials", run_commands=False).has("x")
    finally:
        server.send_signal(signal.SIGCONT)
        subprocess.run([shutil.which("umount") or "umount", "-l", mount], check=False)
        server.kill()
        server.wait()
