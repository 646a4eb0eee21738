"""Debian's docker-registry as a test server: plain or TLS, open or with a login, and with a record of its requests."""

from __future__ import annotations

import base64
import http.client
import json
import re
import socket
import ssl
import subprocess
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple, Self

from support.tools import require_tools

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from types import TracebackType

    import trustme
    from support.images import Image, Index, Pushed

__all__ = ["SUPPORT_AGENT", "Registry", "Request", "TokenAuth"]

SUPPORT_AGENT = "test-support"
"""User agent of the requests of this module and of `support.images`; `Registry.requests` leaves them out."""

_START = 20.0  # seconds; normally it takes 0.1
_LINE = re.compile(r'^\S+ \S+ \S+ \[[^]]*\] "(\S+) (\S+) [^"]*" (\d+) \d+ "[^"]*" "((?:[^"\\]|\\.)*)"$')


class Request(NamedTuple):
    """A line of the access log."""

    method: str
    path: str
    status: int
    user_agent: str


class TokenAuth(NamedTuple):
    """The `auth.token` section: who issues the tokens that the registry accepts."""

    realm: str
    service: str
    issuer: str
    root_cert_bundle: Path


class Registry:
    """A real registry on 127.0.0.1, for the time of a ``with`` block.

    directory  where config, logs, certificate and (by default) the images are
    storage    the images of another registry: two of them may serve one storage, say one open and one with a login
    tls        https, with a certificate of *ca* (a trustme.CA, made if None); its root is in `ca_file`
    users      logins and passwords (htpasswd, bcrypt)
    token      a token service's description, instead of *users*
    proxy      the URL of another registry: then this one is a pull-through cache of it
    """

    def __init__(
        self,
        directory: Path,
        *,
        storage: Path | None = None,
        tls: bool = False,
        ca: trustme.CA | None = None,
        users: Mapping[str, str] | None = None,
        token: TokenAuth | None = None,
        proxy: str = "",
    ) -> None:
        assert not (users and token)
        self.directory = directory
        self.storage = storage or directory / "storage"
        self.ca = ca
        self.ca_file: Path | None = directory / "ca.pem" if tls else None
        self.users = dict(users or {})
        self.token = token
        self.proxy = proxy
        self.port = 0
        self.access_log = directory / "access.log"
        self.error_log = directory / "registry.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._skip = 0
        self._sentinels = 0
        self._lock = threading.Lock()

    @property
    def tls(self) -> bool:
        return self.ca_file is not None

    @property
    def host(self) -> str:
        """Host and port, as they stand in a reference."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def uri(self, name: str, tag: str = "latest", *, digest: str = "", user: str = "") -> str:
        """``docker://[user@]host#name:tag[@digest]``."""
        return f"docker://{user}{'@' if user else ''}{self.host}#{name}:{tag}{'@' if digest else ''}{digest}"

    def push(self, name: str, tag: str, image: Image | Index) -> Pushed:
        """Push a hand-made image or index; returns its digests."""
        from support.images import push

        return push(self, name, tag, image)

    # The access log.

    def requests(self) -> list[Request]:
        """The requests since the start or the last `reset`, without those of the test support."""
        return [r for r in self._settled()[self._skip :] if r.user_agent != SUPPORT_AGENT]

    def count(self, method: str, part: str, *, status: int | None = None) -> int:
        """How many requests have this method and *part* in their path, such as ``blobs`` or a digest."""
        return sum(r.method == method and part in r.path and status in {None, r.status} for r in self.requests())

    def reset(self) -> None:
        """Forget the requests up to now."""
        self._skip = len(self._settled())

    def _settled(self) -> list[Request]:
        # The registry logs a request after it has answered it: ask something ourselves and wait for that line,
        # then until the log has been quiet for a moment.
        with self._lock:
            self._sentinels += 1
            mark = f"/v2/?sentinel={self._sentinels}"
        self.request("GET", mark)
        deadline = time.monotonic() + 5
        size = -1
        while time.monotonic() < deadline:
            text = self.access_log.read_text("utf-8", "replace")
            if f" {mark} " in text and len(text) == size:
                break
            size = len(text)
            time.sleep(0.02)
        lines = [m for line in text.splitlines() if (m := _LINE.match(line))]
        return [Request(m[1], m[2], int(m[3]), m[4]) for m in lines]

    # Requests of our own.

    def connect(self) -> http.client.HTTPConnection:
        if not self.ca_file:
            return http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        context = ssl.create_default_context(cafile=str(self.ca_file))
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=context)

    def headers(self) -> dict[str, str]:
        """What every request of the test support carries: its agent, and the first user's login."""
        headers = {"User-Agent": SUPPORT_AGENT}
        for user, password in self.users.items():
            headers["Authorization"] = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()
            break
        return headers

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        """One request on a connection of its own: status, headers, body."""
        connection = self.connect()
        try:
            connection.request(method, path, body, {**self.headers(), **(headers or {})})
            response = connection.getresponse()
            return response.status, response.headers, response.read()
        finally:
            connection.close()

    # Life.

    def __enter__(self) -> Self:
        require_tools("docker-registry")
        self.directory.mkdir(parents=True, exist_ok=True)
        if self.tls:
            self._make_certificate()
        for last in (False, False, True):
            if self._start():
                return self
            assert not last, f"docker-registry does not start:\n{self.logs()}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None:
            error.add_note(f"docker-registry's log is in {self.error_log}, its access log in {self.access_log}")

    def stop(self) -> None:
        """End the server; the logs stay."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def logs(self) -> str:
        """The end of the registry's own log."""
        with suppress(OSError):
            return self.error_log.read_text("utf-8", "replace")[-4000:]
        return ""

    def _start(self) -> bool:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        config = self.directory / "config.yml"
        config.write_text(json.dumps(self._config(), indent=1))  # JSON is YAML
        with self.access_log.open("wb") as out, self.error_log.open("wb") as err:
            self._process = subprocess.Popen(
                ["/usr/bin/docker-registry", "serve", str(config)],
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=err,
                cwd=self.directory,
                env={"OTEL_TRACES_EXPORTER": "none", "HOME": str(self.directory)},
            )
        deadline = time.monotonic() + _START
        while time.monotonic() < deadline and self._process.poll() is None:
            with suppress(OSError, http.client.HTTPException):
                status, headers, _ = self.request("GET", "/v2/")
                ours = headers.get("X-Test-Registry") == str(self.directory)  # else another one got the port
                if status in {200, 401} and ours:
                    self._skip = 0
                    return True
            time.sleep(0.01)
        self.stop()
        return False

    def _config(self) -> dict[str, object]:
        http_section: dict[str, object] = {
            "addr": self.host,
            "secret": "not a secret",
            "headers": {"X-Test-Registry": [str(self.directory)]},
        }
        config: dict[str, object] = {
            "version": "0.1",
            "log": {"level": "info"},
            "storage": {
                "filesystem": {"rootdirectory": str(self.storage)},
                "delete": {"enabled": True},
                "maintenance": {"uploadpurging": {"enabled": False}},
            },
            "http": http_section,
        }
        if self.tls:
            pem = str(self.directory / "server.pem")
            http_section["tls"] = {"certificate": pem, "key": pem}
        if self.proxy:
            config["proxy"] = {"remoteurl": self.proxy}
        if self.users:
            passwords = self.directory / "htpasswd"
            passwords.write_text("".join(_htpasswd(u, p) for u, p in self.users.items()))
            config["auth"] = {"htpasswd": {"realm": "test", "path": str(passwords)}}
        elif self.token:
            config["auth"] = {
                "token": {
                    "realm": self.token.realm,
                    "service": self.token.service,
                    "issuer": self.token.issuer,
                    "rootcertbundle": str(self.token.root_cert_bundle),
                }
            }
        return config

    def _make_certificate(self) -> None:
        import trustme

        self.ca = self.ca or trustme.CA()
        certificate = self.ca.issue_cert("127.0.0.1", "localhost")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(self.directory / "server.pem"))
        assert self.ca_file
        self.ca.cert_pem.write_to_path(str(self.ca_file))


def _htpasswd(user: str, password: str) -> str:
    """A line for the password file; bcrypt is the only hash that the registry knows."""
    require_tools("htpasswd")
    command = ["htpasswd", "-niB", "-C", "4", user]
    return subprocess.run(command, input=password, capture_output=True, text=True, check=True).stdout.strip() + "\n"
