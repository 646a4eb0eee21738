"""DOCKER_HOST: where a Docker daemon, or a podman service, listens, and connections to it.

    unix:///run/docker.sock   tcp://HOST:PORT (TLS if DOCKER_TLS_VERIFY is set)   ssh://[USER@]HOST[:PORT]

Sources: docker(1); podman-system-service(1).
"""

from __future__ import annotations

import contextlib
import http.client
import os
import re
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import AccessDenied, ConversionError, NetworkError, UsageError, printable

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator, Mapping

__all__ = ["DockerHost", "connected"]

_TIMEOUT = 600.0  # seconds without a byte: a daemon may take a while before it sends a large image
_CONNECT = 30.0
_SOCKET = "/var/run/docker.sock"
_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9a-fA-F:]+\])"
_TCP = re.compile(rf"({_HOST})(?::([0-9]{{1,5}}))?/?", re.ASCII)
_SSH = re.compile(rf"(?:([A-Za-z0-9_][A-Za-z0-9_.-]*)@)?({_HOST})(?::([0-9]{{1,5}}))?/?", re.ASCII)


class DockerHost(NamedTuple):
    """Where the API is.

    kind     ``unix``, ``tcp`` or ``ssh``
    address  a path, or a host
    port     0: the kind's own
    user     for ssh, or empty
    tls      the directory with ca.pem, cert.pem and key.pem; empty: no TLS
    program  whose it is: ``docker`` or ``podman``
    """

    kind: str
    address: str
    port: int = 0
    user: str = ""
    tls: str = ""
    program: str = "docker"

    @classmethod
    def of_environ(cls, environ: Mapping[str, str]) -> DockerHost:
        """The one that *environ* names for Docker.  Raises: UsageError."""
        text = environ.get("DOCKER_HOST", "") or f"unix://{_SOCKET}"
        kind, found, rest = text.partition("://")
        if found and kind == "unix" and rest.startswith("/"):
            return cls("unix", rest)
        if found and kind == "tcp" and (match := _TCP.fullmatch(rest)):
            tls = ""
            if environ.get("DOCKER_TLS_VERIFY"):
                tls = environ.get("DOCKER_CERT_PATH") or str(Path(environ.get("HOME") or "/", ".docker"))
            return cls("tcp", match[1].strip("[]"), _port(match[2]), tls=tls)
        if found and kind == "ssh" and (match := _SSH.fullmatch(rest)):
            return cls("ssh", match[2].strip("[]"), _port(match[3]), match[1] or "")
        raise UsageError(
            f"DOCKER_HOST is {printable(text)}, which is not understood",
            hint="Expected unix:///PATH, tcp://HOST:PORT or ssh://[USER@]HOST[:PORT].",
        )

    @classmethod
    def of_podman(cls, environ: Mapping[str, str], uid: int) -> DockerHost | None:
        """The socket of this user's podman; None: nobody listens there."""
        runtime = environ.get("XDG_RUNTIME_DIR") or (f"/run/user/{uid}" if uid else "/run")
        path = "/run/podman/podman.sock" if not uid else f"{runtime}/podman/podman.sock"
        probe = socket.socket(socket.AF_UNIX)
        with probe:
            probe.settimeout(_CONNECT)
            try:
                probe.connect(path)
            except OSError:
                return None
        return cls("unix", path, program="podman")

    @property
    def name(self) -> str:
        """The daemon for people."""
        what = "the Docker daemon" if self.program == "docker" else "podman's service"
        where = self.address if self.kind == "unix" else f"{self.kind}://{self.address}"
        return f"{what} at {printable(where)}"

    @property
    def hint(self) -> str:
        """What to do when it does not answer."""
        return "Is it running here? DOCKER_HOST says where it is." if self.program == "docker" else ""


@contextlib.contextmanager
def connected(host: DockerHost) -> Iterator[http.client.HTTPConnection]:
    """A connection to *host*.  Raises: NetworkError, AccessDenied, ConversionError."""
    with contextlib.ExitStack() as stack:
        try:
            found = _dial(host, stack)
        except PermissionError:
            raise AccessDenied(
                f"{host.name} can't be used by this user: permission denied",
                hint="Who may use it is root, as a rule; 'docker save IMAGE -o FILE' by such a user makes an archive.",
            ) from None
        except OSError as error:
            missing = isinstance(error, (FileNotFoundError, ConnectionRefusedError))
            reason = "there is none" if missing else printable(error.strerror or str(error))
            raise NetworkError(f"{host.name} can't be reached: {reason}", hint=host.hint) from None
        connection = http.client.HTTPConnection("docker")
        connection.sock = found
        stack.callback(connection.close)
        yield connection


def _dial(host: DockerHost, stack: contextlib.ExitStack) -> socket.socket:
    if host.kind == "ssh":
        return _ssh(host, stack)
    if host.kind == "unix":
        found = stack.enter_context(socket.socket(socket.AF_UNIX))
        found.settimeout(_TIMEOUT)
        found.connect(host.address)
        return found
    port = host.port or (2376 if host.tls else 2375)
    found = stack.enter_context(socket.create_connection((host.address, port), _CONNECT))
    found.settimeout(_TIMEOUT)
    if not host.tls:
        return found
    return stack.enter_context(_context(host).wrap_socket(found, server_hostname=host.address))


def _context(host: DockerHost) -> ssl.SSLContext:
    import ssl  # noqa: PLC0415 - most daemons are on this machine

    directory = Path(host.tls)
    try:
        context = ssl.create_default_context(cafile=str(directory / "ca.pem"))
        context.load_cert_chain(directory / "cert.pem", directory / "key.pem")
    except OSError as error:  # ssl.SSLError is one
        raise ConversionError(
            f"the certificates in {printable(host.tls)} can't be used: {printable(error.strerror or str(error))}",
            hint="DOCKER_TLS_VERIFY asks for ca.pem, cert.pem and key.pem in DOCKER_CERT_PATH.",
        ) from None
    return context


def _ssh(host: DockerHost, stack: contextlib.ExitStack) -> socket.socket:
    """A connection through ``docker system dial-stdio`` on another machine."""
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", f"ConnectTimeout={_CONNECT:.0f}"]
    words += ["-p", str(host.port)] if host.port else []
    words += ["-l", host.user] if host.user else []
    ours, theirs = socket.socketpair()
    stack.enter_context(ours)
    ours.settimeout(_TIMEOUT)
    with theirs:
        try:
            process = subprocess.Popen(
                [*words, "--", host.address, "docker", "system", "dial-stdio"],
                stdin=theirs.fileno(),
                stdout=theirs.fileno(),
                env=dict(os.environ),
            )
        except OSError as error:
            raise ConversionError(f"ssh can't be run: {error.strerror}") from None

    def end() -> None:
        process.terminate()
        process.wait()

    stack.callback(end)
    return ours


def _port(text: str | None) -> int:
    port = int(text or 0)
    if port > 65535:
        raise UsageError(f"DOCKER_HOST: {port} is not a port")
    return port
