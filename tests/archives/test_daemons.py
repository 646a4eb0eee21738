"""Docker's and podman's images: a real podman service and program, and a daemon that answers as it is told."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import shutil
import socketserver
import ssl
import subprocess
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.archives import docker_members, made_tar
from support.command import enroot_slurm, wait_for
from support.images import Image, Layer
from support.tools import require_tools
from support.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trustme

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
IMAGE = Image([Layer().file("one", b"1" * 500_000), Layer().file("two", b"2")], architecture=HERE)
ARCHIVE = made_tar(docker_members(IMAGE, ["app:1"]))
INSPECT = {"Id": "sha256:0", "Architecture": HERE, "Os": "linux", "Size": 600_000}


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs", "unsquashfs")


class Daemon:
    """What a daemon answers, and what it was asked."""

    def __init__(self) -> None:
        self.inspected: dict[str, Any] = dict(INSPECT)
        self.archive = ARCHIVE
        self.cut = 0
        self.asked: list[str] = []


class _UnixServer(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


def _handler(daemon: Daemon) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            daemon.asked.append(self.path)
            if self.path == "/images/app:1/json":
                self._send(200, json.dumps(daemon.inspected).encode())
            elif self.path == "/images/app:1/get":
                self.send_response(200)
                self.send_header("Transfer-Encoding", "chunked")
                self.end_headers()
                content = daemon.archive[: daemon.cut or None]
                for at in range(0, len(content), 50_000):
                    part = content[at : at + 50_000]
                    self.wfile.write(b"%x\r\n%s\r\n" % (len(part), part))
                if not daemon.cut:
                    self.wfile.write(b"0\r\n\r\n")
                self.close_connection = True
            else:
                self._send(404, b'{"message": "No such image: \\u001b[31m"}')

        def _send(self, status: int, content: bytes) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def address_string(self) -> str:
            return ""

        def log_message(self, *_: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def daemon(tmp_path: Path, import_environment: dict[str, str]) -> Iterator[Daemon]:
    """A daemon at a socket that DOCKER_HOST names."""
    made = Daemon()
    path = tmp_path / "docker.sock"
    import_environment["DOCKER_HOST"] = f"unix://{path}"
    with served(_UnixServer(str(path), _handler(made))):
        yield made


def test_docker(daemon, import_environment, tmp_path) -> None:
    """The image is looked at, then sent, and called as by enroot; its layers are those of an archive."""
    done = enroot_slurm("import", "dockerd://app:1", environment=import_environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert daemon.asked == ["/images/app:1/json", "/images/app:1/get"]
    assert {b"one", b"two"} <= read_tree(tmp_path / "app+1.sqsh").keys()
    (tmp_path / "a.tar").write_bytes(ARCHIVE)
    again = enroot_slurm(
        "import", "-o", tmp_path / "x", f"docker-archive:{tmp_path}/a.tar", environment=import_environment
    )
    assert "0 layers fetched" in again.stderr
    assert (tmp_path / "x").read_bytes() == (tmp_path / "app+1.sqsh").read_bytes()


def test_what_is_known_is_not_sent_again(daemon, import_environment, tmp_path) -> None:
    """By its ID the daemon's image is known; what has another ID is sent."""
    first = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    again = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    assert (again.stdout, again.returncode) == (first.stdout, 0), again.stderr
    assert daemon.asked.count("/images/app:1/get") == 1
    copy = enroot_slurm("import", "-o", tmp_path / "x", "dockerd://app:1", environment=import_environment)
    assert copy.returncode == 0, copy.stderr
    daemon.archive = made_tar(docker_members(Image([Layer().file("other")], architecture=HERE), ["app:1"]))
    daemon.inspected["Id"] = "sha256:1"
    changed = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    assert changed.stdout != first.stdout


def test_nothing_is_sent_that_can_t_be_used(daemon, import_environment) -> None:
    """Another architecture, and an image that is too large, cost one small request."""
    daemon.inspected["Architecture"] = "s390x"
    done = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    assert (done.returncode, "is for linux/s390x" in done.stderr) == (3, True)
    daemon.inspected = {**INSPECT, "Size": 1 << 45}
    done = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    assert done.returncode == 6
    big = {**import_environment, "ENROOT_SLURM_MAX_DOWNLOAD": "64TiB"}
    done = enroot_slurm("get", "dockerd://app:1", environment=big)
    assert (done.returncode, "there is not enough space" in done.stderr) == (7, True)
    assert "/images/app:1/get" not in daemon.asked


@pytest.mark.parametrize("answer", [b"[]", b"{", b"null", b'{"Architecture": {}}', b"[1, 2]"])
def test_daemons_that_talk_nonsense(answer, daemon, import_environment) -> None:
    daemon.inspected = json.loads(answer) if answer != b"{" else "{"  # type: ignore[assignment]
    done = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    assert done.returncode in {0, 3, 5}  # an object that says nothing refuses nothing
    assert "Traceback" not in done.stderr
    assert "unexpected error" not in done.stderr


def test_a_missing_image(daemon, import_environment) -> None:
    done = enroot_slurm("get", "dockerd://other", environment=import_environment)
    assert done.returncode == 3
    assert "has no image other: No such image: \\x1b[31m" in done.stderr


@pytest.mark.parametrize("cut", [1, 100_000, 504_000])
def test_a_stream_that_ends_early(cut, daemon, import_environment) -> None:
    """Nothing of it is kept."""
    daemon.cut = cut
    done = enroot_slurm("get", "dockerd://app:1", environment=import_environment)
    assert done.returncode in {5, 6}, done.stderr
    cache = Path(import_environment["ENROOT_CACHE_PATH"])
    assert not [
        path for path in cache.rglob("*") if path.is_file() and path.suffix not in {".lock", ".holder", ".json"}
    ]


def test_no_daemon(import_environment, tmp_path) -> None:
    environment = {**import_environment, "DOCKER_HOST": f"unix://{tmp_path}/none"}
    done = enroot_slurm("get", "dockerd://app:1", environment=environment)
    assert (done.returncode, "can't be reached: there is none" in done.stderr) == (5, True)


@pytest.mark.parametrize(
    "host", ["npipe:////./pipe/docker", "unix://relative", "ssh://-oProxyCommand=x", "tcp://a:99999", "x"]
)
def test_wrong_hosts(host, import_environment) -> None:
    done = enroot_slurm("get", "dockerd://app:1", environment={**import_environment, "DOCKER_HOST": host})
    assert done.returncode == 2
    assert "DOCKER_HOST" in done.stderr


@pytest.mark.parametrize("tls", [False, True])
def test_docker_by_tcp(tls, import_environment, tmp_path) -> None:
    """With DOCKER_TLS_VERIFY both sides show certificates; a client without one is not let in."""
    import trustme

    made = Daemon()
    server = socketserver.ThreadingTCPServer(("127.0.0.1", 0), _handler(made))
    server.daemon_threads = True
    environment = {**import_environment, "DOCKER_HOST": f"tcp://127.0.0.1:{server.server_address[1]}"}
    if tls:
        ca, other = trustme.CA(), trustme.CA()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        ca.issue_cert("127.0.0.1").configure_cert(context)
        ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        server.socket = context.wrap_socket(server.socket, server_side=True)
        good, bad = certificates(tmp_path / "good", ca, ca), certificates(tmp_path / "bad", other, other)
        environment |= {"DOCKER_TLS_VERIFY": "1", "DOCKER_CERT_PATH": str(good)}
    with served(server):
        done = enroot_slurm("get", "dockerd://app:1", environment=environment)
        assert done.returncode == 0, done.stderr
        if tls:
            refused = enroot_slurm("get", "dockerd://app:1", environment={**environment, "DOCKER_CERT_PATH": str(bad)})
            assert refused.returncode == 5, refused.stderr
            empty = enroot_slurm("get", "dockerd://app:1", environment={**environment, "DOCKER_CERT_PATH": "/none"})
            assert (empty.returncode, "ca.pem, cert.pem and key.pem" in empty.stderr) == (8, True)


def certificates(directory: Path, ca: trustme.CA, root: trustme.CA) -> Path:
    directory.mkdir()
    root.cert_pem.write_to_path(str(directory / "ca.pem"))
    made = ca.issue_cert("client@example.org")
    made.private_key_pem.write_to_path(str(directory / "key.pem"))
    made.cert_chain_pems[0].write_to_path(str(directory / "cert.pem"))
    return directory


def test_docker_by_ssh(daemon, import_environment, tmp_path) -> None:
    """ssh runs "docker system dial-stdio" on the other side; a program of the test's stands for both."""
    socket_path = import_environment["DOCKER_HOST"].removeprefix("unix://")
    programs = tmp_path / "programs"
    programs.mkdir()
    stand_in = programs / "ssh"
    stand_in.write_text(
        f"""#!/usr/bin/env python3
import os, socket, sys, threading
open({str(tmp_path / "words")!r}, "w").write(" ".join(sys.argv[1:]))
s = socket.socket(socket.AF_UNIX); s.connect({socket_path!r})
def up():
    while data := os.read(0, 65536): s.sendall(data)
threading.Thread(target=up, daemon=True).start()
while data := s.recv(65536): os.write(1, data)
"""
    )
    stand_in.chmod(0o755)
    environment = {
        **import_environment,
        "DOCKER_HOST": "ssh://me@build.site:2222",
        "PATH": f"{programs}:{import_environment['PATH']}",
    }
    done = enroot_slurm("get", "dockerd://app:1", environment=environment)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "words").read_text().endswith("-p 2222 -l me -- build.site docker system dial-stdio")


# podman, as it is.


@pytest.fixture
def podman(tmp_path: Path, import_environment: dict[str, str]) -> Iterator[list[str]]:
    """The words that run podman on a storage of the test's own, with an image localhost/app:1 in it."""
    require_tools("podman")
    storage = tmp_path / "storage.conf"
    storage.write_text(f'[storage]\ndriver = "vfs"\ngraphroot = "{tmp_path}/graph"\nrunroot = "{tmp_path}/run"\n')
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME"):
        import_environment[name] = str(tmp_path)
    import_environment |= {"CONTAINERS_STORAGE_CONF": str(storage), "TMPDIR": str(tmp_path)}
    archive = tmp_path / "app.tar"
    archive.write_bytes(made_tar(docker_members(IMAGE, ["localhost/app:1"])))
    words = [shutil.which("podman") or "podman"]
    loaded = subprocess.run(
        [*words, "load", "-i", str(archive)], env=import_environment, capture_output=True, check=False
    )
    if loaded.returncode:
        pytest.skip(f"podman does not work here: {loaded.stderr.decode()[-300:]}")
    yield words
    subprocess.run([*words, "rmi", "--all", "--force"], env=import_environment, capture_output=True, check=False)


def test_podman(podman, import_environment, tmp_path) -> None:
    """``podman save``, and what it saves in all its forms, is one image with one set of layers."""
    done = enroot_slurm("import", "podman://localhost/app:1", environment=import_environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    tree = read_tree(tmp_path / "localhost+app+1.sqsh")
    assert {b"one", b"two"} <= tree.keys()
    for form, transport in (("docker-archive", "docker-archive"), ("oci-archive", "oci-archive"), ("oci-dir", "oci")):
        place = tmp_path / form
        command = [*podman, "save", "--format", form, "-o", str(place), "localhost/app:1"]
        subprocess.run(command, env=import_environment, capture_output=True, check=True)
        again = enroot_slurm("import", "-o", f"{place}.sqsh", f"{transport}:{place}", environment=import_environment)
        assert again.returncode == 0, again.stderr
        assert "0 layers fetched" in again.stderr
        assert read_tree(Path(f"{place}.sqsh")) == tree
    missing = enroot_slurm("get", "podman://localhost/none:1", environment=import_environment)
    assert (missing.returncode, "podman has no image localhost/none:1" in missing.stderr) == (3, True)


def test_a_podman_service(podman, import_environment, tmp_path) -> None:
    """podman's service answers as Docker's daemon does."""
    path = tmp_path / "service.sock"
    command = [*podman, "system", "service", "--time", "0", f"unix://{path}"]
    with subprocess.Popen(command, env=import_environment, stderr=subprocess.DEVNULL) as service:
        wait_for(path.exists)
        environment = {**import_environment, "DOCKER_HOST": f"unix://{path}"}
        done = enroot_slurm("import", "-o", tmp_path / "x", "dockerd://localhost/app:1", environment=environment)
        missing = enroot_slurm("get", "dockerd://none", environment=environment)
        service.terminate()
    assert done.returncode == 0, done.stderr
    assert {b"one", b"two"} <= read_tree(tmp_path / "x").keys()
    assert missing.returncode == 3
