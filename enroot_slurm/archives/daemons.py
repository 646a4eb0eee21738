"""Images that Docker or podman keep: looked at first, then sent as a Docker archive.

Docker is asked by its API at DOCKER_HOST (unix, tcp, ssh), by default at /var/run/docker.sock; podman by its own socket
if its service runs, else by ``podman save``.

Sources: Docker Engine API 1.40 (ImageInspect, ImageGet); docker(1), "DOCKER_HOST"; podman-save(1).
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from enroot_slurm.archives.docker_host import DockerHost, connected
from enroot_slurm.errors import (
    AccessDenied,
    ConversionError,
    EnrootSlurmError,
    IntegrityError,
    NetworkError,
    NotFound,
    printable,
)
from enroot_slurm.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from enroot_slurm.oci.local import LocalImage

    Admit = Callable[[int, Platform | None, str], None]

__all__ = ["saved_image"]

_READ = 1 << 20
_MAX_ANSWER = 8 << 20
_COMPLAINT = 4096
_MAX_IDENTITY = 200


@contextlib.contextmanager
def saved_image(image: LocalImage, admit: Admit) -> Iterator[Iterator[bytes]]:
    """The Docker archive of *image*, after *admit* was told its size in bytes, its platform and its ID.

    Raises: NotFound, NetworkError, AccessDenied, ConversionError; what *admit* raises.
    """
    if image.transport == "dockerd":
        host: DockerHost | None = DockerHost.of_environ(os.environ)
    else:
        host = DockerHost.of_podman(os.environ, os.geteuid())
    if host is not None:
        with _api(host, image.place, admit) as chunks:
            yield chunks
    else:
        with _podman(image.place, admit) as chunks:
            yield chunks


@contextlib.contextmanager
def _api(host: DockerHost, name: str, admit: Admit) -> Iterator[Iterator[bytes]]:
    with _answer(host, name, "json") as response:
        content = response.read(_MAX_ANSWER + 1)
    _Inspected.parse(content, host.name).told(admit)
    with _answer(host, name, "get") as response:

        def chunks() -> Iterator[bytes]:
            try:
                while chunk := response.read(_READ):
                    yield chunk
            except (OSError, http.client.HTTPException) as error:
                raise NetworkError(
                    f"{host.name} stopped sending {printable(name)}: {printable(str(error)) or type(error).__name__}"
                ) from None

        yield chunks()


@contextlib.contextmanager
def _answer(host: DockerHost, name: str, what: str) -> Iterator[http.client.HTTPResponse]:
    """The answer to a GET.  Raises: NotFound, AccessDenied, NetworkError."""
    with connected(host) as connection:
        try:
            connection.request("GET", f"/images/{quote(name, safe='/:@')}/{what}", headers={"Host": "docker"})
            response = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise NetworkError(
                f"{host.name} does not answer: {printable(str(error)) or type(error).__name__}", hint=host.hint
            ) from None
        if response.status != 200:
            raise _refusal(host, name, response)
        yield response


def _refusal(host: DockerHost, name: str, response: http.client.HTTPResponse) -> EnrootSlurmError:
    said = ""
    with contextlib.suppress(OSError, ValueError, http.client.HTTPException, RecursionError):
        document = json.loads(response.read(_COMPLAINT))
        said = printable(str(document["message"])) if isinstance(document, dict) and "message" in document else ""
    if response.status == 404:
        return NotFound(
            f"{host.name} has no image {printable(name)}" + (f": {said}" if said else ""),
            hint=f"Its images are listed by: {host.program} images",
        )
    text = f"{host.name} answers with status {response.status}" + (f": {said}" if said else "")
    return AccessDenied(text) if response.status in {401, 403} else NetworkError(text)


@contextlib.contextmanager
def _podman(name: str, admit: Admit) -> Iterator[Iterator[bytes]]:
    program = shutil.which("podman")
    if program is None:
        raise ConversionError("podman: no such program", hint="podman:// images are read by it: install it.")
    with tempfile.TemporaryFile() as complaint:
        command = [program, "image", "inspect", "--", name]
        result = subprocess.run(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint, check=False
        )
        if result.returncode:
            raise _failed(name, complaint, result.returncode)
        _Inspected.parse(result.stdout, "podman").told(admit)
        command = [program, "save", "--quiet", "--format", "docker-archive", "--", name]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=complaint) as process:
            assert process.stdout is not None
            output = process.stdout.fileno()

            def chunks() -> Iterator[bytes]:
                while chunk := os.read(output, _READ):
                    yield chunk
                if process.wait():
                    raise _failed(name, complaint, process.returncode)

            try:
                yield chunks()
            finally:
                if process.poll() is None:
                    process.kill()


def _failed(name: str, complaint: Any, status: int) -> EnrootSlurmError:
    complaint.seek(0)
    text = printable(b" ".join(complaint.read(_COMPLAINT).split()).decode("utf-8", "replace"), 300)
    if "not known" in text or "no such image" in text.lower():
        return NotFound(
            f"podman has no image {printable(name)}: {text}", hint="podman images lists those of this user."
        )
    return ConversionError(f"podman can't save {printable(name)}: {text or f'status {status}'}")


class _Inspected(NamedTuple):
    """What a daemon says of an image."""

    size: int
    platform: Platform | None
    identity: str

    @classmethod
    def parse(cls, content: bytes, name: str) -> _Inspected:
        """The answer of *name*.  Raises: NetworkError."""
        try:
            document = json.loads(content[:_MAX_ANSWER])
            if isinstance(document, list):
                (document,) = document
            architecture, variant, system = (str(document.get(key) or "") for key in ("Architecture", "Variant", "Os"))
            size = document.get("Size", 0)
            platform = Platform.of_document(architecture, variant, system) if architecture else None
            identity = str(document.get("Id") or "")[:_MAX_IDENTITY]
            return cls(size if type(size) is int and size > 0 else 0, platform, identity)
        except (ValueError, AttributeError, RecursionError, IntegrityError):
            raise NetworkError(f"{name} gives no description of the image that can be read") from None

    def told(self, admit: Admit) -> None:
        """Let *admit* know."""
        admit(*self)
