"""Errors name the cause that is there: proxies, certificates, rules of a site, web pages, cut answers."""

from __future__ import annotations

import datetime as dt
import gzip
import socket
import ssl
import threading
import warnings as warnings_module
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import pytest
import trustme
from support.socks_proxy import SocksProxy

from enroot_slurm.errors import AccessDenied, ConfigError, IntegrityError, NetworkError, NotFound
from enroot_slurm.oci.manifest import OCI_MANIFEST
from enroot_slurm.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.fault_registry import FaultRegistry

    from enroot_slurm.registry.client import Repository

    Faulty = Callable[..., FaultRegistry]
    Open = Callable[..., Repository]

AMD64 = Platform("amd64")
NOW = dt.datetime.now(dt.UTC)


def told(repository: Repository) -> str:
    """What the error says and hints, on one line."""
    with pytest.raises((AccessDenied, NetworkError, NotFound, ConfigError)) as caught:
        repository.resolve(AMD64)
    return f"{caught.value} | {caught.value.hint}"


# Certificates.


def expired(authority: trustme.CA, start: dt.datetime, end: dt.datetime) -> Callable[[ssl.SSLContext], None]:
    return lambda context: authority.issue_cert("127.0.0.1", not_before=start, not_after=end).configure_cert(context)


@pytest.mark.parametrize(
    ("start", "end", "words"),
    [(-20, -10, "it has expired"), (10, 20, "it is not yet valid")],
)
def test_clock(faulty: Faulty, authority: trustme.CA, open_repository: Open, ca_file: str, start, end, words):
    """A certificate out of its time has nothing to do with CAs."""
    days = dt.timedelta(days=1)
    registry = faulty(ca=authority, context=expired(authority, NOW + start * days, NOW + end * days))
    text = told(open_repository(f"{registry.host}#a", allow_http=False, ca_file=ca_file))
    assert words in text
    assert "clock" in text
    assert "ca_file" not in text


def test_another_host(faulty: Faulty, authority: trustme.CA, open_repository: Open, ca_file: str):
    """Nor has one of another host."""
    registry = faulty(ca=authority, names=["other.example"])
    text = told(open_repository(f"{registry.host}#a", allow_http=False, ca_file=ca_file))
    assert "it is for another" in text
    assert "ca_file" not in text
    registry = faulty(ca=authority, names=["other.example"])
    text = told(open_repository(f"localhost:{registry.port}#a", allow_http=False, ca_file=ca_file))
    assert "it is for another host name" in text


def test_unknown_issuer(faulty: Faulty, open_repository: Open, ca_file: str):
    """Where a CA is missing, the hint is about CAs."""
    registry = faulty(ca=trustme.CA())
    text = told(open_repository(f"{registry.host}#a", allow_http=False, ca_file=ca_file))
    assert "self-signed" in text or "issuer is not known" in text
    assert "ca_file" in text


def test_client_certificate_wanted(faulty: Faulty, authority: trustme.CA, open_repository: Open, ca_file: str):
    """A registry that wants a certificate to be shown says so in an alert, with TLS 1.3 after the handshake."""

    def demand(context: ssl.SSLContext) -> None:
        context.verify_mode = ssl.CERT_REQUIRED

    registry = faulty(ca=authority, context=demand)
    text = told(open_repository(f"{registry.host}#a", allow_http=False, ca_file=ca_file, retries=0))
    assert "certificate" in text
    assert "client.cert" in text


def test_old_tls(faulty: Faulty, authority: trustme.CA, open_repository: Open, ca_file: str):
    """A server that speaks only TLS 1.1 is too old."""

    def old(context: ssl.SSLContext) -> None:
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings_module.catch_warnings(action="ignore"):  # Python's own, of old versions
            context.minimum_version = ssl.TLSVersion.TLSv1
            context.maximum_version = ssl.TLSVersion.TLSv1_1

    registry = faulty(ca=authority, context=old)
    text = told(open_repository(f"{registry.host}#a", allow_http=False, ca_file=ca_file))
    assert "too old" in text
    assert "TLS 1.2" in text


# Proxies.


@pytest.fixture
def proxied(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """A function that makes its argument the proxy for all."""
    names = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
    for name in (*names, *map(str.upper, names)):
        monkeypatch.delenv(name, raising=False)

    def use(url: str) -> None:
        monkeypatch.setenv("http_proxy", url)
        monkeypatch.setenv("https_proxy", url)

    return use


@pytest.fixture
def tunnel() -> Iterator[Callable[[bytes], tuple[str, list[bytes]]]]:
    """A function that starts a proxy, which answers all with its argument: HOST:PORT, and the lines asked."""
    with ExitStack() as stack:

        def start(answer: bytes) -> tuple[str, list[bytes]]:
            listener = stack.enter_context(closing(socket.create_server(("127.0.0.1", 0))))
            asked: list[bytes] = []

            def serve() -> None:
                with suppress(OSError):
                    while True:
                        connection, _ = listener.accept()
                        with closing(connection), suppress(OSError):
                            asked.append(connection.recv(65536).partition(b"\r\n")[0])
                            connection.sendall(answer)

            threading.Thread(target=serve, daemon=True).start()
            return f"127.0.0.1:{listener.getsockname()[1]}", asked

        yield start


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("status", "words", "requests"),
    [
        ("407 Proxy Authentication Required", ["wants a login", "USER:PASSWORD@HOST:PORT"], 1),
        ("403 Forbidden by policy 7", ["does not", "policy 7"], 1),
        ("502 Bad Gateway", ["502"], 3),
    ],
)
def test_proxy_refuses(proxied, tunnel, open_repository: Open, scheme: str, status: str, words, requests: int):
    """A proxy's refusal is the proxy's, with its words, and asked again only where that may help."""
    host, asked = tunnel(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n".encode())
    proxied(f"http://eve:hunter2@{host}")
    options = {"proxies_from_env": True, "allow_http": scheme == "http", "retries": 2}
    text = told(open_repository("r.example#a", **options))
    if scheme == "https" or "407" in status:
        assert f"the proxy {host}" in text
        assert all(word in text for word in words)
    assert f"proxy {host}" in text or "502" in text
    assert "hunter2" not in text
    assert len(asked) == requests


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://127.0.0.1:x", "expected a proxy's URL"),
        ("http://127.0.0.1:99999", "expected a proxy's URL"),
        ("http://u:p@ss:w/rd@", "expected a proxy's URL"),
        ("http://", "expected a proxy's URL"),
        ("ftp://127.0.0.1:1", "expected a proxy's URL"),
        ("socks9://u:hunter2@127.0.0.1:1", "socks9://***@127.0.0.1:1"),
        ("http://proxy.invalid:3128", "the proxy proxy.invalid:3128, on the way to r.example, is not known to the DNS"),
    ],
)
def test_bad_proxies(proxied, open_repository: Open, warnings: list[str], url: str, words: str):
    """A proxy that can't be one, or that the DNS does not know, is not asked for again and again."""
    proxied(url)
    text = told(open_repository("r.example#a", proxies_from_env=True, allow_http=False))
    assert words in text
    assert "p@ss" not in text
    assert not warnings


def test_socks(proxied, faulty: Faulty, open_repository: Open):
    """SOCKS, with a login; the name is resolved by the proxy."""
    pytest.importorskip("socks")
    registry = faulty()
    registry.add_image("team/app")
    with SocksProxy("eve:hunter2") as proxy:
        proxied(f"socks5h://eve:hunter2@{proxy.host}")
        assert open_repository(f"r.example:{registry.port}#team/app", proxies_from_env=True).resolve(AMD64)
        assert proxy.names == ["r.example"]
        proxied(f"socks5h://eve:wrong@{proxy.host}")
        text = told(open_repository(f"r.example:{registry.port}#team/app", proxies_from_env=True))
        assert f"the proxy {proxy.host} (SOCKS) refuses the login" in text
        assert "wrong" not in text


def test_socks_refuses(proxied, open_repository: Open):
    """A SOCKS proxy's reason is told; one that is not there is named."""
    pytest.importorskip("socks")
    with SocksProxy(answer=2) as proxy:
        proxied(f"socks5h://{proxy.host}")
        text = told(open_repository("r.example#a", proxies_from_env=True, retries=0))
        assert f"the proxy {proxy.host} (SOCKS) does not lead to r.example" in text
        assert "ruleset" in text
    text = told(open_repository("r.example#a", proxies_from_env=True, retries=0))
    assert f"the proxy {proxy.host}, on the way to r.example, can't be reached" in text


# Rules of a site, and what is no registry.


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"errors":[{"status":403,"message":"blocked by policy"}]}', "blocked by policy"),
        (b'{"message":"geo-fenced"}', "geo-fenced"),
        (b"license expired\n", "license expired"),
        (b"<html><head><title>Web Filter: denied</title></head></html>", "Web Filter: denied"),
    ],
)
@pytest.mark.parametrize("part", ["/manifests/", "/blobs/"])
def test_forbidden_without_a_challenge(faulty: Faulty, open_repository: Open, load, part, body: bytes, words: str):
    """Who refuses without asking for a login is named, with the words, and no login is hinted at."""
    registry = faulty()
    config = registry.add_image("team/app").config
    registry.fault(part, status=403, body=body)
    repository = open_repository(f"{registry.host}#team/app", load(f"machine {registry.host} login a password b"))
    with pytest.raises(AccessDenied, match=f"{registry.host} does not allow team/app to be read: {words}") as caught:
        repository.resolve(AMD64)
        b"".join(repository.blob(config))
    assert "machine" not in caught.value.hint
    assert ("firewall" in caught.value.hint) == body.startswith(b"<")


@pytest.mark.parametrize(
    "body",
    [
        b"Client sent an HTTP request to an HTTPS server.\n",
        b"<html><body>The plain HTTP request was sent to HTTPS port</body></html>",
        b"Reason: You're speaking plain HTTP to an SSL-enabled server port.",
    ],
)
def test_https_port(faulty: Faulty, open_repository: Open, body: bytes):
    """Go, nginx and Apache say in different words that the port wants https."""
    registry = faulty()
    registry.fault("/", status=400, body=body)
    assert "speaks https, but was asked by http" in told(open_repository(f"{registry.host}#team/app"))


def test_web_page_for_a_digest(faulty: Faulty, open_repository: Open):
    """A login page with status 200 is no damaged manifest or blob."""
    registry = faulty()
    image = registry.add_image("team/app")
    page = b"\n <!DOCTYPE html><title>Log in</title>" + b" " * 2_000_000
    headers = {"Content-Type": "text/HTML; charset=utf-8"}
    registry.fault("/(manifests|blobs)/", status=200, body=page, headers=headers)
    repository = open_repository(f"{registry.host}#team/app")
    with pytest.raises(NetworkError, match="answers with a web page"):
        repository.resolve(AMD64, image.digest)
    with pytest.raises(NetworkError, match=r"answers with a web page \('Log in'\)"):
        b"".join(repository.blob(image.config))


def test_blob_with_the_type_of_a_page(faulty: Faulty, open_repository: Open):
    """A store that says text/html of all that it has is no obstacle."""
    registry = faulty()
    blob = registry.add_blob(b"x" * 3_000_000)
    registry.fault("/blobs/", headers={"Content-Type": "text/html"})
    assert b"".join(open_repository(f"{registry.host}#a").blob(blob)) == b"x" * 3_000_000


@pytest.mark.parametrize("by_digest", [False, True])
@pytest.mark.parametrize("encoding", ["gzip", "x-gzip"])
def test_compressed_manifest(faulty: Faulty, open_repository: Open, encoding: str, *, by_digest: bool):
    """A manifest that a proxy has compressed is decoded."""
    registry = faulty()
    image = registry.add_image("team/app")
    registry.fault("/manifests/", body=gzip.compress(image.content), headers={"Content-Encoding": encoding})
    repository = open_repository(f"{registry.host}#team/app")
    assert repository.resolve(AMD64, image.digest if by_digest else None).digest == image.digest


def test_label_without_an_encoding(faulty: Faulty, open_repository: Open):
    """One that is only labelled so is left alone; one that can't be decoded says why."""
    registry = faulty()
    image = registry.add_image("team/app")
    registry.fault("/manifests/", times=1, headers={"Content-Encoding": "br"})
    repository = open_repository(f"{registry.host}#team/app")
    assert repository.resolve(AMD64).digest == image.digest
    registry.fault("/manifests/", body=b"\x8b\x02", headers={"Content-Encoding": "br"})
    assert "encoded as br" in told(repository)


def test_bomb_in_a_manifest(faulty: Faulty, open_repository: Open):
    """What unpacks to more than a manifest may have is not unpacked."""
    registry = faulty()
    registry.fault("/manifests/", status=200, body=gzip.compress(b" " * (64 << 20)),
                   headers={"Content-Encoding": "gzip", "Content-Type": OCI_MANIFEST})  # fmt: skip
    with pytest.raises(IntegrityError, match="larger than 4 MiB"):
        open_repository(f"{registry.host}#team/app").resolve(AMD64)


def test_compressed_blob(faulty: Faulty, open_repository: Open):
    """A blob that a proxy has compressed has another size; the error says so."""
    registry = faulty()
    blob = registry.add_blob(b"x" * 100_000)
    registry.fault("/blobs/", body=gzip.compress(b"x" * 100_000), headers={"Content-Encoding": "gzip"})
    with pytest.raises(NetworkError, match="ended after") as caught:
        b"".join(open_repository(f"{registry.host}#a", retries=0).blob(blob))
    assert "gzip" in caught.value.message


def test_foreign_layer(faulty: Faulty, open_repository: Open):
    """A layer that the registry may not have names the place where its maker serves it."""
    registry = faulty()
    layer = {
        "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "digest": f"sha256:{'0' * 64}",
        "size": 5,
        "urls": ["https://maker.example/layer?sig=secret", 7],
    }
    registry.add_image("team/app", layers=(), document={"layers": [layer]})
    repository = open_repository(f"{registry.host}#team/app")
    with pytest.raises(NotFound) as caught:
        b"".join(repository.blob(repository.resolve(AMD64).layers[0]))
    assert "https://maker.example/layer." in caught.value.hint
    assert "secret" not in caught.value.hint


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Ty",
        b"HTTP/1.1 200 OK",
        b"HTTP/1.1 200 OK\r\n",
        b"HTTP/1.1 100 Continue\r\n",
        b"",
    ],
)
def test_cut_within_the_head(tunnel, open_repository: Open, head: bytes):
    """An answer that ends within its head is a broken connection, not an image with wrong bytes."""
    host, asked = tunnel(head)
    with pytest.raises(NetworkError):
        open_repository(f"{host}#team/app", retries=1).resolve(AMD64)
    assert len(asked) == 2


def test_location_with_a_login(faulty: Faulty, open_repository: Open):
    """A login in a redirect is refused, and not shown."""
    registry = faulty()
    blob = registry.add_blob(b"x")
    registry.fault("/blobs/", redirect="http://ann:hunter2@store.example/x?sig=hunter3")
    with pytest.raises(AccessDenied) as caught:
        b"".join(open_repository(f"{registry.host}#a").blob(blob))
    assert "hunter" not in f"{caught.value} {caught.value.hint}"
    assert "http://store.example/x" in str(caught.value)


@pytest.mark.parametrize("name", ["a b", "ä", "ä%C3%A4 ?x=ü"])
def test_unencoded_location(faulty: Faulty, open_repository: Open, name: str):
    """Blanks and raw UTF-8 in a redirect are encoded, as browsers do."""
    registry = faulty()
    blob = registry.add_blob(b"content")
    location = f"{registry.url}/store/{blob.digest}?n={name}".encode().decode("latin-1")
    registry.fault("/v2/.*/blobs/", redirect=location)
    assert b"".join(open_repository(f"{registry.host}#a").blob(blob)) == b"content"
