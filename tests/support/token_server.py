"""A token service (distribution's docs/spec/auth/token.md) for a real registry: users, rights, RS256, a log.

with TokenServer(tmp_path, users={"ann": "secret"}, rights={"ann": ["private/*"], "": ["public/*"]}) as service:
    registry = make_registry(token=TokenAuth(service.realm, service.service, service.issuer, service.bundle))
"""

from __future__ import annotations

import base64
import datetime as dt
import json
import secrets
import threading
import time
from fnmatch import fnmatchcase
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, NamedTuple, Self
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding, rsa

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["TokenRequest", "TokenServer"]


class TokenRequest(NamedTuple):
    """A question and the status of its answer."""

    user: str
    """Empty: nobody.  As it was said, even with a wrong password."""
    query: dict[str, list[str]]
    status: int


class TokenServer:
    """The service on 127.0.0.1, for the time of a ``with`` block.

    users     logins and passwords
    rights    logins (empty: everyone) and patterns of the repositories that they may pull (and push, with a login)
    lifetime  seconds for which the tokens say to hold, and do hold
    """

    service = "test-registry"
    issuer = "test-issuer"

    def __init__(
        self,
        directory: Path,
        *,
        users: Mapping[str, str],
        rights: Mapping[str, Sequence[str]],
        lifetime: int = 300,
    ) -> None:
        self.users = dict(users)
        self.rights = {user: list(patterns) for user, patterns in rights.items()}
        self.lifetime = lifetime
        self.requests: list[TokenRequest] = []
        self._key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
        self._chain = [_certificate(self._key)]
        self.bundle = directory / "token-roots.pem"
        """What the registry takes for `rootcertbundle`."""
        directory.mkdir(parents=True, exist_ok=True)
        self.bundle.write_bytes(self._chain[0].public_bytes(serialization.Encoding.PEM))
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.realm = f"http://127.0.0.1:{self._server.server_address[1]}/token"

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def token(self, user: str, scopes: Sequence[str]) -> str:
        """A JSON Web Token with what of the *scopes* the *user* may do."""
        access = []
        for scope in (part for s in scopes for part in s.split()):
            kind, _, rest = scope.partition(":")
            name, _, actions = rest.rpartition(":")
            granted = [a for a in actions.split(",") if self._may(user, name, a)]
            if kind == "repository" and granted:
                access.append({"type": kind, "name": name, "actions": granted})
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "sub": user,
            "aud": self.service,
            "exp": now + self.lifetime,
            "nbf": now - 10,
            "iat": now,
            "jti": secrets.token_hex(8),
            "access": access,
        }
        der = [base64.b64encode(c.public_bytes(serialization.Encoding.DER)).decode() for c in self._chain]
        head = _encode(json.dumps({"typ": "JWT", "alg": "RS256", "x5c": der}).encode())
        signed = f"{head}.{_encode(json.dumps(claims).encode())}"
        return f"{signed}.{_encode(self._key.sign(signed.encode(), padding.PKCS1v15(), hashes.SHA256()))}"

    def _may(self, user: str, repository: str, action: str) -> bool:
        def listed(who: str) -> bool:
            return any(fnmatchcase(repository, pattern) for pattern in self.rights.get(who, ()))

        return bool(user and listed(user)) or (action == "pull" and listed(""))


def _certificate(key: rsa.RSAPrivateKey) -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test token service")])
    now = dt.datetime.now(dt.UTC)
    return (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )


def _encode(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()


def _handler(service: TokenServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            query = parse_qs(urlsplit(self.path).query)
            user, _, password = _basic(self.headers.get("Authorization", "")).partition(":")
            if user and service.users.get(user) != password:
                self._send(401, {"errors": [{"code": "UNAUTHORIZED", "message": "incorrect password"}]}, user, query)
            else:
                token = service.token(user, query.get("scope", []))
                self._send(200, {"token": token, "expires_in": service.lifetime}, user, query)

        def _send(self, status: int, document: dict[str, Any], user: str, query: dict[str, list[str]]) -> None:
            service.requests.append(TokenRequest(user, query, status))
            content = json.dumps(document).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            """Requests are in `TokenServer.requests`."""

    return Handler


def _basic(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    return base64.b64decode(value).decode() if scheme.lower() == "basic" else ""
