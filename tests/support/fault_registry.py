"""A registry that fails on purpose, in ways that a real one can't be made to: cut bodies, lies, odd logins.

    with FaultRegistry() as registry:
        image = registry.add_image("team/app", "1.0", layers=[b"..."])
        registry.fault(r"/blobs/", times=1, cut=1000)          # the first blob's connection breaks after 1000 bytes
        ...                                                    # docker://{registry.host}#team/app:1.0
        assert registry.count("/blobs/") == 3

Faults are looked at in the order in which they were made; the first whose pattern fits and that is not used up counts.
Blobs are also at ``/store/DIGEST`` without a login, as behind a redirect.  Several of them make a registry and its CDN.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import secrets
import socket
import ssl
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import OCI_INDEX, OCI_MANIFEST, Descriptor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from http.client import HTTPMessage

    import trustme

__all__ = ["FaultRegistry", "Image", "Reply", "Request"]

OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"


class Request(NamedTuple):
    """What was asked, and the status that was answered."""

    method: str
    path: str
    query: dict[str, list[str]]
    headers: HTTPMessage
    body: bytes
    status: int

    @property
    def authorization(self) -> str:
        return self.headers.get("Authorization", "")

    @property
    def scheme(self) -> str:
        """``Bearer``, ``Basic``, or empty."""
        return self.authorization.partition(" ")[0]


class Image(NamedTuple):
    digest: Digest
    config: Descriptor
    layers: tuple[Descriptor, ...]
    content: bytes
    """The manifest."""


@dataclass
class Reply:
    """An answer to be; faults change it before it is sent."""

    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""

    def drop(self, name: str) -> None:
        self.headers = [(n, v) for n, v in self.headers if n.lower() != name.lower()]


@dataclass
class Fault:
    """See `FaultRegistry.fault`."""

    pattern: re.Pattern[str]
    times: int | None
    method: str
    options: dict[str, Any]


class FaultRegistry:
    """A registry on *address*, for the time of a ``with`` block.

    ca          https, with a certificate of this authority for *names*
    context     changes the server's TLS settings
    auth        "" (open), "basic", or "bearer" with a token service of its own at ``/token``
    hidden      the status, such as 404, of answers to who is not logged in; 401 and a challenge are at ``/v2/`` alone
    users       logins and passwords
    public      repositories that are anyone's to read
    challenges  the WWW-Authenticate headers of 401 answers, instead of the usual one; ``{realm}`` is filled in
    realm       the URL of the token service, instead of the own one
    token_answer  what else the token service's JSON holds; a None takes a field away
    """

    def __init__(
        self,
        *,
        ca: trustme.CA | None = None,
        names: Sequence[str] = ("127.0.0.1", "localhost"),
        address: str = "127.0.0.1",
        context: Callable[[ssl.SSLContext], None] = lambda _: None,
        auth: str = "",
        hidden: int = 0,
        users: Mapping[str, str] | None = None,
        public: Iterable[str] = (),
        challenges: Sequence[str] = (),
        realm: str = "",
        token_answer: Mapping[str, Any] | None = None,
    ) -> None:
        self.auth = auth
        self.hidden = hidden
        self.users = dict(users or {})
        self.public = set(public)
        self.challenges = list(challenges)
        self.token_answer = dict(token_answer or {})
        self.tokens: dict[str, str] = {}
        """Tokens that hold, and whose they are (empty: nobody's)."""
        self.refresh_tokens: dict[str, str] = {}
        """Identity tokens and whose they are."""
        self.requests: list[Request] = []
        self.connections = 0
        self.move_to = ""
        """Where all requests are redirected to (308), if not empty."""
        self._blobs: dict[str, bytes] = {}
        self._manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self._faults: list[Fault] = []
        self._lock = threading.Lock()
        self._server = _Server((address, 0), _handler(self))
        self._tls = _tls(ca, names) if ca else None
        if self._tls:
            context(self._tls)
        self.port: int = self._server.server_address[1]
        self.host = f"{address}:{self.port}"
        """As it stands in a reference."""
        self.url = f"{'https' if ca else 'http'}://{self.host}"
        self.realm = realm or f"{self.url}/token"
        self._server.tls = self._tls

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    # Content.

    def add_blob(self, content: bytes, media_type: str = OCI_LAYER) -> Descriptor:
        digest = Digest.of(content)
        self._blobs[str(digest)] = content
        return Descriptor(media_type, digest, len(content))

    def add_manifest(self, repository: str, tag: str, content: bytes, content_type: str) -> Digest:
        """Any bytes as a manifest, under *tag* (if not empty) and its digests."""
        digest = Digest.of(content)
        sha512 = f"sha512:{hashlib.sha512(content).hexdigest()}"
        for name in filter(None, (tag, str(digest), sha512)):
            self._manifests[repository, name] = content, content_type
        return digest

    def add_image(
        self,
        repository: str,
        tag: str = "latest",
        *,
        layers: Sequence[bytes] = (b"layer",),
        architecture: str = "amd64",
        document: Mapping[str, Any] | None = None,
        **fields: Any,
    ) -> Image:
        """An OCI image; *fields*, and those of *document*, go into its manifest (None takes one away)."""
        config = {"architecture": architecture, "os": "linux", "rootfs": {"type": "layers", "diff_ids": []}}
        config_descriptor = self.add_blob(json.dumps(config).encode(), OCI_CONFIG)
        descriptors = tuple(self.add_blob(layer) for layer in layers)
        document = (
            {
                "schemaVersion": 2,
                "mediaType": OCI_MANIFEST,
                "config": descriptor_json(config_descriptor),
                "layers": [descriptor_json(d) for d in descriptors],
            }
            | fields
            | dict(document or {})
        )
        content = json.dumps({k: v for k, v in document.items() if v is not None}, indent=1).encode()
        digest = self.add_manifest(repository, tag, content, OCI_MANIFEST)
        return Image(digest, config_descriptor, descriptors, content)

    def add_index(
        self, repository: str, tag: str, entries: Sequence[tuple[str | None, Digest, str]], **fields: Any
    ) -> Digest:
        """An OCI index of (``os/architecture/variant`` or None, digest, media type or "")."""
        manifests = []
        for platform, digest, media_type in entries:
            content, content_type = self._manifests.get((repository, str(digest)), (b"", OCI_MANIFEST))
            entry = descriptor_json(Descriptor(media_type or content_type, digest, len(content)))
            if platform is not None:
                entry["platform"] = dict(zip(("os", "architecture", "variant"), platform.split("/"), strict=False))
            manifests.append(entry)
        document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": manifests} | fields
        return self.add_manifest(repository, tag, json.dumps(document).encode(), OCI_INDEX)

    # Faults.

    def fault(self, pattern: str, times: int | None = None, *, method: str = "GET", **options: Any) -> None:
        """Spoil the answers to requests whose path (with query) *pattern* is found in; for ever, or so many *times*.

        status=N, body=B, headers={..}  another status, body; more headers (replacing those of the same name)
        remove=[..]                     headers that are taken away
        redirect=URL                    307 to URL for who is logged in; ``{digest}`` is the blob's
        cut=N                           close the connection after N bytes of the body, which was announced in full
        hang_up=True                    close it without an answer
        close=True                      answer, then close the connection without having announced it
        extra=B                         append B to the body, and to its announced length
        flip=N                          change the body's byte N
        ignore_range=True               answer 200 with all to a Range request
        length="none" | "chunked"       no Content-Length: the connection's end, or chunked encoding
        stall=EVENT, after=N            send N bytes of the body, then wait for the threading.Event
        call=FUNCTION                   called with the Reply, to change it
        expire=True                     all tokens stop to hold before the request is looked at
        """
        self._faults.append(Fault(re.compile(pattern), times, method, options))

    def heal(self) -> None:
        """Take back all faults."""
        self._faults.clear()

    def count(self, pattern: str, *, status: int | None = None, method: str = "GET") -> int:
        """How many requests there were whose path has *pattern*."""
        return len(self.matching(pattern, status=status, method=method))

    def matching(self, pattern: str, *, status: int | None = None, method: str = "GET") -> list[Request]:
        return [
            r for r in self.requests if r.method == method and re.search(pattern, r.path) and status in {None, r.status}
        ]

    # Answers.

    def choose_fault(self, method: str, path: str) -> dict[str, Any]:
        with self._lock:
            for each in self._faults:
                if each.times != 0 and each.method == method and each.pattern.search(path):
                    if each.times is not None:
                        each.times -= 1
                    if each.options.get("expire"):
                        self.tokens.clear()
                        continue
                    return each.options
        return {}

    def answer(self, method: str, path: str, headers: HTTPMessage, body: bytes, *, ranges: bool) -> Reply:
        parts = urlsplit(path)
        if self.move_to:
            return Reply(308, [("Location", self.move_to + path)])
        if parts.path == "/token":
            return self._answer_token(method, parse_qs(parts.query), headers, body)
        if match := re.fullmatch(r"/store/(.+)", parts.path):
            return _blob_reply(self._blobs.get(match[1]), headers, ranges=ranges)
        if parts.path == "/v2/":
            return Reply(200) if self._admitted("", headers.get("Authorization", "")) else self._unauthorized("")
        match = re.fullmatch(r"/v2/(.+)/(manifests|blobs)/([^/]+)", parts.path)
        if match is None:
            return _error(404, "NOT_FOUND", "no such page")
        return self._answer_registry(*match.groups(), headers, ranges=ranges)

    def _answer_registry(self, repository: str, kind: str, name: str, headers: HTTPMessage, *, ranges: bool) -> Reply:
        if not self._admitted(repository, headers.get("Authorization", "")):
            if self.hidden and not headers.get("Authorization"):
                return _error(self.hidden, "NAME_UNKNOWN" if self.hidden == 404 else "DENIED", "nothing for you")
            return self._unauthorized(repository)
        if kind == "blobs":
            return _blob_reply(self._blobs.get(name), headers, ranges=ranges)
        found = self._manifests.get((repository, name))
        if found is None:
            known = any(r == repository for r, _ in self._manifests)
            return _error(404, "MANIFEST_UNKNOWN" if known else "NAME_UNKNOWN", "unknown")
        content, content_type = found
        if content_type not in headers.get("Accept", ""):
            return _error(404, "MANIFEST_UNKNOWN", "OCI manifest found, but Accept header does not support it")
        digest = str(Digest.of(content))
        return Reply(200, [("Content-Type", content_type), ("Docker-Content-Digest", digest)], content)

    def _admitted(self, repository: str, authorization: str) -> bool:
        scheme, _, value = authorization.partition(" ")
        if not self.auth:
            return True
        if self.auth == "basic":
            return scheme == "Basic" and self._user_of(authorization) is not None
        user = self.tokens.get(value) if scheme == "Bearer" else None
        return user is not None and (bool(user) or repository in self.public)

    def _unauthorized(self, repository: str) -> Reply:
        usual = 'Basic realm="test"'
        if self.auth == "bearer":
            usual = f'Bearer realm="{{realm}}",service="test",scope="repository:{repository}:pull"'
        reply = _error(401, "UNAUTHORIZED", "authentication required")
        reply.headers += [("WWW-Authenticate", c.replace("{realm}", self.realm)) for c in self.challenges or [usual]]
        return reply

    def _user_of(self, authorization: str) -> str | None:
        user, _, password = base64.b64decode(authorization.partition(" ")[2]).decode("utf-8", "replace").partition(":")
        return user if self.users.get(user) == password else None

    def _answer_token(self, method: str, query: dict[str, list[str]], headers: HTTPMessage, body: bytes) -> Reply:
        authorization = headers.get("Authorization", "")
        user: str | None = ""
        if method == "POST":
            user = self.refresh_tokens.get(parse_qs(body.decode()).get("refresh_token", [""])[0])
        elif authorization:
            user = self._user_of(authorization)
        if user is None:
            return _error(401, "UNAUTHORIZED", "incorrect username or password")
        token = secrets.token_urlsafe(12)
        self.tokens[token] = user
        document = {"token": token, "expires_in": 300} | self.token_answer
        if "access_token" in document:
            document["access_token"] = token
        content = json.dumps({k: v for k, v in document.items() if v is not None}).encode()
        return Reply(200, [("Content-Type", "application/json")], content)

    def log(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)


def descriptor_json(descriptor: Descriptor) -> dict[str, Any]:
    return {"mediaType": descriptor.media_type, "digest": str(descriptor.digest), "size": descriptor.size}


def _error(status: int, code: str, message: str) -> Reply:
    content = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
    return Reply(status, [("Content-Type", "application/json")], content)


def _blob_reply(content: bytes | None, headers: HTTPMessage, *, ranges: bool) -> Reply:
    if content is None:
        return _error(404, "BLOB_UNKNOWN", "blob unknown to registry")
    usual = [("Content-Type", "application/octet-stream")]
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", headers.get("Range", ""))
    if not (match and ranges):
        return Reply(200, usual, content)
    start = int(match[1])
    if start >= len(content):
        return Reply(416, [("Content-Range", f"bytes */{len(content)}")])
    stop = min(int(match[2]) + 1, len(content)) if match[2] else len(content)
    span = f"bytes {start}-{stop - 1}/{len(content)}"
    return Reply(206, [*usual, ("Content-Range", span)], content[start:stop])


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    tls: ssl.SSLContext | None = None

    def finish_request(self, request: Any, client_address: Any) -> None:
        # The handshake is a matter of the connection's thread: a client that never makes it must not block others.
        if self.tls:
            request = self.tls.wrap_socket(request, server_side=True, do_handshake_on_connect=False)
            try:
                request.do_handshake()
            except (OSError, ssl.SSLError):
                with suppress(OSError):  # the client is to read the alert, which a reset would take away
                    socket.socket.shutdown(request, socket.SHUT_WR)
                    while socket.socket.recv(request, 65536):
                        pass
                request.close()
                return
        super().finish_request(request, client_address)
        if self.tls:
            request.close()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Broken connections are the point of it all."""


def _tls(ca: trustme.CA, names: Sequence[str]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert(*names).configure_cert(context)
    with tempfile.NamedTemporaryFile("wb", suffix=".pem") as file:
        file.write(ca.cert_pem.bytes())
        file.flush()
        context.load_verify_locations(file.name)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


def _handler(registry: FaultRegistry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True

        def setup(self) -> None:
            super().setup()
            registry.connections += 1

        def do_GET(self) -> None:
            self._answer()

        do_POST = do_HEAD = do_GET  # noqa: N815

        def _answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            fault = registry.choose_fault(self.command, self.path)
            ranges = not fault.get("ignore_range")
            reply = registry.answer(self.command, self.path, self.headers, body, ranges=ranges)
            _spoil(reply, fault, self.path)
            parts = urlsplit(self.path)
            registry.log(Request(self.command, parts.path, parse_qs(parts.query), self.headers, body, reply.status))
            if fault.get("hang_up"):
                self._break()
                return
            self._send(reply, fault)
            if fault.get("close"):
                self.close_connection = True

        def _send(self, reply: Reply, fault: Mapping[str, Any]) -> None:
            length = fault.get("length", "")
            if any(name == "Date" for name, _ in reply.headers):
                self.send_response_only(reply.status)
            else:
                self.send_response(reply.status)
            for name, value in reply.headers:
                self.send_header(name, value)
            if length == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            elif length == "none":
                self.send_header("Connection", "close")
            elif not any(n.lower() == "content-length" for n, _ in reply.headers):
                self.send_header("Content-Length", str(len(reply.body)))
            self.end_headers()
            if self.command == "HEAD":
                return
            body = reply.body[: fault.get("cut")] if "cut" in fault else reply.body
            if "stall" in fault:
                self.wfile.write(body[: fault.get("after", 0)])
                self.wfile.flush()
                fault["stall"].wait(30)
                body = body[fault.get("after", 0) :]
            if length == "chunked":
                for at in range(0, len(body), 1000):
                    piece = body[at : at + 1000]
                    self.wfile.write(f"{len(piece):x}\r\n".encode() + piece + b"\r\n")
                if "cut" not in fault:
                    self.wfile.write(b"0\r\n\r\n")
            else:
                self.wfile.write(body)
            if "cut" in fault:
                self._break()

        def _break(self) -> None:
            self.close_connection = True
            self.wfile.flush()
            with suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)

        def log_message(self, *_: Any) -> None:
            """Requests are in `FaultRegistry.requests`."""

    return Handler


def _spoil(reply: Reply, fault: Mapping[str, Any], path: str) -> None:
    reply.status = fault.get("status", reply.status)
    reply.body = fault.get("body", reply.body) + fault.get("extra", b"")
    if "flip" in fault:
        at = fault["flip"]
        reply.body = reply.body[:at] + bytes([reply.body[at] ^ 0xFF]) + reply.body[at + 1 :]
    if "redirect" in fault and reply.status != 401:
        location = fault["redirect"].replace("{digest}", path.rpartition("/")[2])
        reply.status, reply.headers, reply.body = 307, [("Location", location)], b"<a href=there>moved</a>"
    for name in fault.get("remove", ()):
        reply.drop(name)
    for name, value in fault.get("headers", {}).items():
        reply.drop(name)
        reply.headers.append((name, value))
    if call := fault.get("call"):
        change: Callable[[Reply], None] = call
        change(reply)
