"""Connections: TLS, proxies, the environment, and errors that say what is wrong."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.tools import require_root

from enroot_slurm.errors import AccessDenied, ConfigError, NetworkError, NotFound
from enroot_slurm.oci.platform import Platform
from enroot_slurm.registry import transport as module
from enroot_slurm.registry.origin import Origin
from enroot_slurm.registry.tls import client_context
from enroot_slurm.registry.watchdog import Watchdog
from enroot_slurm.system.privilege import Identity, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import trustme
    from support.fault_registry import FaultRegistry

    from enroot_slurm.registry.client import Repository

    Faulty = Callable[..., FaultRegistry]
    Open = Callable[..., Repository]

AMD64 = Platform("amd64")


@pytest.fixture
def secure(faulty: Faulty, authority: trustme.CA) -> FaultRegistry:
    registry = faulty(ca=authority)
    registry.add_image("team/app")
    return registry


def test_https(secure: FaultRegistry, open_repository: Open, ca_file: str):
    """https with a CA of one's own, over one connection."""
    repository = open_repository(f"{secure.host}#team/app", allow_http=False, ca_file=ca_file)
    b"".join(repository.blob(repository.resolve(AMD64).config))
    assert secure.connections == 1
    assert repository.anonymous


def test_untrusted(secure: FaultRegistry, open_repository: Open):
    """A certificate of an unknown CA is refused at once, and the hint names ca_file."""
    with pytest.raises(NetworkError, match="certificate is refused") as caught:
        open_repository(f"{secure.host}#team/app", allow_http=False).resolve(AMD64)
    assert "ca_file" in caught.value.hint
    assert secure.connections <= 1


def test_wrong_name(faulty: Faulty, authority: trustme.CA, open_repository: Open, ca_file: str):
    """So is one for another host."""
    registry = faulty(ca=authority, names=["other.example"])
    with pytest.raises(NetworkError, match="certificate is refused"):
        open_repository(f"{registry.host}#team/app", allow_http=False, ca_file=ca_file).resolve(AMD64)


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_bundles_of_the_environment(
    secure: FaultRegistry, open_repository: Open, ca_file: str, monkeypatch, variable: str
):
    """What requests would take from the environment does not count."""
    monkeypatch.setenv(variable, ca_file)
    with pytest.raises(NetworkError, match="certificate is refused"):
        open_repository(f"{secure.host}#team/app", allow_http=False).resolve(AMD64)
    monkeypatch.setenv(variable, "/nonexistent")
    assert open_repository(f"{secure.host}#team/app", allow_http=False, ca_file=ca_file).resolve(AMD64)


@pytest.mark.parametrize("content", [None, "nonsense"])
def test_bad_ca_file(secure: FaultRegistry, open_repository: Open, tmp_path: Path, content: str | None):
    """A CA file that can't be used is a mistake in the settings."""
    if content:
        (tmp_path / "ca").write_text(content)
    with pytest.raises(ConfigError, match=f"{tmp_path}/ca: not a usable file of CA certificates"):
        open_repository(f"{secure.host}#team/app", allow_http=False, ca_file=f"{tmp_path}/ca").resolve(AMD64)


def test_certs_d(secure: FaultRegistry, open_repository: Open, authority: trustme.CA, tmp_path: Path):
    """certs.d/HOST:PORT holds CAs and a client certificate; with that one, answers are not anonymous."""
    directory = tmp_path / "certs.d" / secure.host
    directory.mkdir(parents=True)
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    options = {"allow_http": False, "certs_dirs": (tmp_path / "none", tmp_path / "certs.d")}
    repository = open_repository(f"{secure.host}#team/app", **options)
    repository.resolve(AMD64)
    assert repository.anonymous
    client = authority.issue_cert("client.example")
    client.cert_chain_pems[0].write_to_path(str(directory / "client.cert"))
    client.private_key_pem.write_to_path(str(directory / "client.key"))
    repository = open_repository(f"{secure.host}#team/app", **options)
    repository.resolve(AMD64)
    assert not repository.anonymous
    (directory / "client.key").unlink()
    with pytest.raises(ConfigError, match=r"client\.cert with client\.key"):
        open_repository(f"{secure.host}#team/app", **options).resolve(AMD64)


def test_certs_d_in_a_closed_home(tmp_path: Path):
    """A directory that this user can't enter, as root's home is for a hook's worker, is as good as none."""
    require_root("becomes another user")
    closed = tmp_path / "closed"
    (closed / "registry.example").mkdir(parents=True)
    closed.chmod(0o700)
    origin = Origin.of("https://registry.example")
    assert run(lambda: client_context(origin, "", (closed,), "")[1], Identity.of("nobody")) is False


def test_certs_d_of_another_host(secure: FaultRegistry, open_repository: Open, authority: trustme.CA, tmp_path: Path):
    """Another host's directory does not count."""
    directory = tmp_path / "127.0.0.1"
    directory.mkdir()
    authority.cert_pem.write_to_path(str(directory / "ca.crt"))
    with pytest.raises(NetworkError, match="certificate is refused"):
        open_repository(f"{secure.host}#team/app", allow_http=False, certs_dirs=(tmp_path,)).resolve(AMD64)


def test_http_registry_asked_by_https(faulty: Faulty, open_repository: Open):
    """There is no fallback to http; the hint says how to allow it."""
    registry = faulty()
    with pytest.raises(NetworkError, match="does not speak https") as caught:
        open_repository(f"{registry.host}#team/app", allow_http=False).resolve(AMD64)
    assert "ENROOT_ALLOW_HTTP" in caught.value.hint
    assert not registry.requests


def test_insecure_registries(faulty: Faulty, open_repository: Open):
    """http for the registries that are named, exactly."""
    registry = faulty()
    registry.add_image("team/app")
    options = {"allow_http": False, "insecure_registries": frozenset({registry.host})}
    assert open_repository(f"{registry.host}#team/app", **options).resolve(AMD64)
    options["insecure_registries"] = frozenset({"127.0.0.1", "localhost"})
    with pytest.raises(NetworkError):
        open_repository(f"{registry.host}#team/app", **options).resolve(AMD64)


def test_no_downgrade(secure: FaultRegistry, faulty: Faulty, open_repository: Open, ca_file: str):
    """No redirect and no realm leads from https to http."""
    plain = faulty()
    secure.fault("/blobs/", redirect=f"{plain.url}/store/{{digest}}")
    repository = open_repository(f"{secure.host}#team/app", allow_http=False, ca_file=ca_file)
    manifest = repository.resolve(AMD64)
    with pytest.raises(AccessDenied, match="it is not https"):
        b"".join(repository.blob(manifest.config))
    secure.fault("/manifests/", status=401, headers={"WWW-Authenticate": f'Bearer realm="{plain.url}/token"'})
    with pytest.raises(AccessDenied, match="it is not https"):
        repository.resolve(AMD64)
    assert not plain.requests


@pytest.mark.parametrize("place", ["netrc", "home"])
def test_users_netrc_is_left_alone(
    faulty: Faulty, open_repository: Open, load, tmp_path: Path, monkeypatch, place: str
):
    """Neither ~/.netrc nor NETRC is read, nor replaces our Authorization (psf/requests#3929)."""
    file = tmp_path / ".netrc"
    file.write_text("machine 127.0.0.1 login evil password evil\ndefault login evil password evil\n")
    file.chmod(0o600)
    monkeypatch.setenv(*(("NETRC", str(file)) if place == "netrc" else ("HOME", str(tmp_path))))
    registry = faulty(auth="bearer", users={"ann": "pw"})
    registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", load(f"machine {registry.host} login ann password pw"))
    repository.resolve(AMD64)
    assert [r.scheme for r in registry.requests] == ["", "Basic", "Bearer"]
    assert registry.tokens.values()
    assert set(registry.tokens.values()) == {"ann"}


def test_no_cookies(faulty: Faulty, open_repository: Open):
    """Cookies are not kept."""
    registry = faulty()
    registry.add_image("team/app")
    registry.fault("/manifests/", headers={"Set-Cookie": "session=1; Path=/"})
    repository = open_repository(f"{registry.host}#team/app")
    b"".join(repository.blob(repository.resolve(AMD64).config))
    assert all(r.headers["Cookie"] is None for r in registry.requests)


def test_proxy(faulty: Faulty, open_repository: Open, monkeypatch):
    """http_proxy is used if wished, and no_proxy holds."""
    proxy, registry = faulty(), faulty()
    registry.add_image("team/app")
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy.url)
    repository = open_repository(f"{registry.host}#team/app", proxies_from_env=False)
    assert repository.resolve(AMD64)
    with pytest.raises(NotFound):
        open_repository(f"{registry.host}#team/app", proxies_from_env=True, retries=0).resolve(AMD64)
    assert len(proxy.requests) == 1
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    assert open_repository(f"{registry.host}#team/app", proxies_from_env=True).resolve(AMD64)


def test_dead_proxy(open_repository: Open, monkeypatch, unused_port: int):
    """A proxy that is not there is named as the culprit, without its password."""
    monkeypatch.setenv("http_proxy", f"http://user:hunter2@127.0.0.1:{unused_port}")
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(
        NetworkError, match=rf"the proxy 127\.0\.0\.1:{unused_port}, on the way to r\.example, refuses connections"
    ) as caught:
        open_repository("r.example#team/app", proxies_from_env=True, retries=0).resolve(AMD64)
    assert "hunter2" not in f"{caught.value} {caught.value.hint} {caught.value.__cause__!r}"


@pytest.fixture
def unused_port() -> int:
    with closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_refused_connection(open_repository: Open, unused_port: int):
    """Nobody there."""
    with pytest.raises(NetworkError, match=f"127.0.0.1:{unused_port}: the connection was refused") as caught:
        open_repository(f"127.0.0.1:{unused_port}#team/app").resolve(AMD64)
    assert "port" in caught.value.hint


def test_unknown_host(open_repository: Open):
    """A name that the DNS does not have (RFC 6761 reserves .invalid)."""
    with pytest.raises(NetworkError, match=r"nowhere\.invalid: the (host name is not known|DNS does not answer)"):
        open_repository("nowhere.invalid#team/app").resolve(AMD64)


def test_silent_registry(open_repository: Open):
    """A server that accepts and says nothing is given up."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        host = f"127.0.0.1:{server.getsockname()[1]}"
        with pytest.raises(NetworkError, match="stopped to answer"):
            open_repository(f"{host}#team/app", stall_timeout=0.1, retries=1).resolve(AMD64)


def test_https_registry_asked_by_http(faulty: Faulty, open_repository: Open):
    """Servers that speak https say so to who does not."""
    registry = faulty()
    registry.fault("/", status=400, body=b"Client sent an HTTP request to an HTTPS server.\n")
    with pytest.raises(NetworkError, match="speaks https, but was asked by http"):
        open_repository(f"{registry.host}#team/app").resolve(AMD64)


@pytest.fixture
def trickle() -> Iterator[Callable[[bytes, bytes], str]]:
    """A function that starts a server, which sends the first bytes at once and the others one by one; its address."""
    stop = threading.Event()
    with ExitStack() as stack:

        def start(at_once: bytes, slowly: bytes) -> str:
            listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))

            def serve() -> None:
                with suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        with closing(connection), suppress(OSError):
                            connection.recv(65536)
                            connection.sendall(at_once)
                            for byte in slowly:
                                connection.sendall(bytes([byte]))
                                stop.wait(0.05)

            thread = threading.Thread(target=serve, daemon=True)
            thread.start()
            return f"127.0.0.1:{listener.getsockname()[1]}"

        yield start
        stop.set()


HEAD = b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
SLOW = {
    # what comes at once, and what comes byte by byte, for longer than anyone waits
    "status": (b"HTTP/1.1 200", b"x" * 100_000),
    "header": (b"HTTP/1.1 200 OK\r\nX: ", b"x" * 100_000),
    "headers": (b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 20_000),
    "continue": (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n" * 20_000),
    "body": (HEAD, b"x" * 100_000),
    "body without length": (b"HTTP/1.1 200 OK\r\n\r\n", b"x" * 100_000),
    "chunk size": (CHUNKED, b"0" * 60_000),
    "chunk extension": (CHUNKED + b"1;", b"x" * 60_000),
    "second chunk size": (CHUNKED + b"1\r\nx\r\n", b"0" * 60_000),
    "chunk's end": (CHUNKED + b"1\r\nx", b""),
    "small chunks": (CHUNKED, b"1\r\nx\r\n" * 20_000),
    "trailer": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X" * 60_000),
    "trailers": (CHUNKED + b"1\r\nx\r\n0\r\n", b"X: y\r\n" * 10_000),
}


@pytest.mark.parametrize("part", SLOW)
@pytest.mark.parametrize("limit", ["stall_timeout", "transfer_timeout", "import_timeout"])
def test_a_server_that_trickles(part: str, limit: str, trickle: Callable[[bytes, bytes], str]):
    """A byte now and then does not keep a connection alive, in whichever part of an answer."""
    host = trickle(*SLOW[part])
    options = {"stall_timeout": 60.0, limit: 0.4}
    http = module.Http(Origin.of(f"http://{host}"), module.Transport(proxies_from_env=False, **options))
    with closing(http), pytest.raises(NetworkError, match=host), http.get(f"http://{host}/v2/", {}) as response:
        b"".join(response.chunks())


@pytest.mark.parametrize(
    ("at_once", "slowly"),
    [(b"", b""), (b"\x16\x03\x03\x40\x00\x02", b"\0" * 16000), (b"\x16\x03\x03\x00\x02", b"\x02\x28" * 9000)],
)
def test_a_handshake_that_trickles(at_once: bytes, slowly: bytes, trickle: Callable[[bytes, bytes], str]):
    """Nor does one in a TLS handshake, where the timeout is for each byte, too."""
    host = trickle(at_once, slowly)
    http = module.Http(Origin.of(f"https://{host}"), module.Transport(connect_timeout=0.3, proxies_from_env=False))
    with closing(http), pytest.raises(NetworkError, match=host):
        http.get(f"https://{host}/v2/", {})


@pytest.mark.parametrize(
    "flood",
    [
        CHUNKED + b"1\r\nx\r\n0\r\n" + b"X: y\r\n" * 100_000,
        CHUNKED + b"1\r\nx\r\n0\r\n" + b"X" * 1_000_000,
        CHUNKED + b"1;" + b"x" * 1_000_000,
        CHUNKED + b"0" * 1_000_000,
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 100_000,
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1_000_000,
        CHUNKED + b"-5\r\nabc\r\n",
        CHUNKED + b"zz\r\n",
    ],
)
def test_floods(flood: bytes, trickle: Callable[[bytes, bytes], str]):
    """Trailers, extensions, sizes and heads that are too long end the connection, however fast they come."""
    host = trickle(flood, b"")
    http = module.Http(Origin.of(f"http://{host}"), module.Transport(proxies_from_env=False))
    with closing(http), pytest.raises(NetworkError), http.get(f"http://{host}/v2/", {}) as response:
        b"".join(response.chunks())


REDIRECT = b"HTTP/1.1 307 T\r\nLocation: ftp://other/\r\nContent-Encoding: gzip\r\n"


@pytest.mark.parametrize("length", [b"", b"Content-Length: 90000000000\r\n"])
def test_the_body_of_a_redirect(length: bytes, trickle: Callable[[bytes, bytes], str]):
    """Not more than its beginning is read, and it is not unpacked, before the redirect is looked at."""
    host = trickle(REDIRECT + length + b"\r\n" + bytes(100_000), b"x" * 100_000)
    http = module.Http(Origin.of(f"http://{host}"), module.Transport(proxies_from_env=False))
    with closing(http), pytest.raises(AccessDenied, match="refused"):
        http.get(f"http://{host}/v2/", {})


def test_a_location_that_is_no_text(faulty: Faulty, open_repository: Open):
    """It is refused, and its connection serves again."""
    registry = faulty()
    registry.add_image("team/app")
    registry.fault("/v2/", times=3, status=307, headers={"Location": "/\xff"})
    repository = open_repository(f"{registry.host}#team/app")
    for _ in range(3):
        with suppress(NetworkError, NotFound):
            repository.resolve(AMD64)
    assert registry.connections == 1


def test_some_trailers(trickle: Callable[[bytes, bytes], str]):
    """A few trailers are nothing unusual."""
    host = trickle(CHUNKED + b"1;a=b\r\nx\r\n0\r\nX: y\r\nZ: a\r\n\r\n", b"")
    http = module.Http(Origin.of(f"http://{host}"), module.Transport(proxies_from_env=False))
    with closing(http), http.get(f"http://{host}/v2/", {}) as response:
        assert b"".join(response.chunks()) == b"x"


def test_watchdog_needs_one_thread(trickle: Callable[[bytes, bytes], str]):
    """However many connections are watched, and none once nothing is."""
    dog = Watchdog()
    before = {*threading.enumerate()}

    def watching() -> int:
        return len([each for each in threading.enumerate() if each.name == "watchdog" and each not in before])

    with ExitStack() as stack:
        pairs = [socket.socketpair() for _ in range(5)]
        for one, other in pairs:
            stack.enter_context(closing(one))
            stack.enter_context(closing(other))
        guards = [stack.enter_context(dog.guard(one, 0.05 if i % 2 else 60)) for i, (one, _) in enumerate(pairs)]
        assert watching() == 1
        assert all(one.recv(1) == b"" for one, _ in pairs[1::2])  # broken
        assert [g.fired for g in guards if g] == [False, True, False, True, False]
    dog.close()
    with dog.guard(None, 1) as guard:
        assert guard is None


def test_import_timeout(faulty: Faulty, open_repository: Open, warnings: list[str]):
    """The time for an image is over once, whatever is asked next; no wait goes beyond it."""
    registry = faulty()
    image = registry.add_image("team/app")
    repository = open_repository(f"{registry.host}#team/app", import_timeout=0.2)
    repository.resolve(AMD64)
    time.sleep(0.25)
    asked = len(registry.requests)
    for call in (repository.head, lambda: repository.resolve(AMD64), lambda: list(repository.blob(image.config))):
        with suppress(NetworkError):
            assert call() is None
    with pytest.raises(NetworkError, match="not all came within") as caught:
        repository.resolve(AMD64)
    assert "import_timeout" in caught.value.hint
    assert len(registry.requests) == asked
    registry.fault("/manifests/", status=503, headers={"Retry-After": "100"})
    with pytest.raises(NetworkError, match="answers 503"):
        open_repository(f"{registry.host}#team/app", import_timeout=50).resolve(AMD64)
    assert not warnings


def test_kept_connections(faulty: Faulty, open_repository: Open, warnings: list[str]):
    """A server that closes a connection between two requests, as it may, costs neither a retry nor a word."""
    registry = faulty()
    image = registry.add_image("team/app", layers=[bytes([i]) * 1000 for i in range(6)])
    registry.fault("/", close=True)
    repository = open_repository(f"{registry.host}#team/app", retries=0)
    repository.resolve(AMD64)
    for layer in image.layers:
        assert len(b"".join(repository.blob(layer))) == 1000
    assert not warnings
    assert len(registry.requests) == 7


def test_closed_at_once(faulty: Faulty, open_repository: Open, warnings: list[str]):
    """One that closes a new connection without an answer has failed."""
    registry = faulty()
    registry.fault("/", hang_up=True)
    with pytest.raises(NetworkError, match="the connection broke"):
        open_repository(f"{registry.host}#team/app", retries=2).resolve(AMD64)
    assert len(registry.requests) == 3
    assert len(warnings) == 2


def test_a_reader_that_is_slow(faulty: Faulty):
    """The time that whoever reads takes for himself is not the server's."""
    registry = faulty()
    digest = registry.add_blob(b"x" * 3_000_000).digest
    url = f"http://{registry.host}/v2/a/blobs/{digest}"
    http = module.Http(Origin.of(url), module.Transport(stall_timeout=0.2, proxies_from_env=False))
    size = 0
    with closing(http), http.get(url, {}) as response:
        for chunk in response.chunks():
            size += len(chunk)
            time.sleep(0.1)
    assert size == 3_000_000


def test_imports():
    """Credentials and the token's flow need no HTTP library; the whole package none of the program's other parts."""
    code = (
        "import sys, enroot_slurm.registry.auth, enroot_slurm.registry.credentials, enroot_slurm.registry.download\n"
        "assert 'requests' not in sys.modules and 'urllib3' not in sys.modules\n"
        "import enroot_slurm.registry.client\n"
        "ours = {m.split('.')[1] for m in sys.modules if m.startswith('enroot_slurm.')}\n"
        "assert ours == {'errors', 'oci', 'registry', 'system', 'version'}, ours\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
