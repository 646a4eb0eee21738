"""Programs of the site that have a say: a vulnerability scanner, a data base of approved images, cosign itself.

Each program of a directory is run as containerd runs its image verifiers:

    PROGRAM -name IMAGE -digest DIGEST -stdin-media-type MEDIATYPE

with the descriptor of the image as JSON on standard input.  Exit status 0 allows the image, anything else refuses it;
what the program prints is the reason.  All have to allow it.  There is no shell; the environment has three variables.

Source: containerd's docs/image-verification.md.
"""

from __future__ import annotations

import json
import os
import select
import signal
import stat
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError, ImageRefused, printable
from enroot_slurm.oci.digest import hash_of_text
from enroot_slurm.oci.manifest import OCI_MANIFEST, load_json
from enroot_slurm.trust.files import check_owner

if TYPE_CHECKING:
    from enroot_slurm.oci.digest import Digest

__all__ = ["MAX_PROGRAMS", "SECONDS", "Verifiers"]

MAX_PROGRAMS = 10
SECONDS = 10.0
"""For one program."""
_MAX_OUTPUT = 16 << 10
_KIND = "application/vnd.oci.descriptor.v1+json"
_SEARCH_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class Verifiers(NamedTuple):
    """The programs of one directory, in the order of their names."""

    directory: str
    programs: tuple[str, ...]
    fingerprint: str
    """32 hexadecimal digits: another program, or a newer one, has another."""

    @classmethod
    def of(cls, directory: str) -> Verifiers:
        """Those of *directory*, which only root and this user may be able to write, like each program.

        Raises: ConfigError, also when there are too many, or there is no such directory: an empty one allows all.
        """
        try:
            check_owner(directory, os.stat(directory))  # noqa: PTH116 - a hit loads as little as possible
            found = []
            for entry in sorted(os.scandir(directory), key=lambda entry: entry.name):
                status = entry.stat()
                if entry.name.startswith(".") or not stat.S_ISREG(status.st_mode) or not status.st_mode & 0o111:
                    continue
                check_owner(entry.path, status)
                found.append((entry.path, status.st_size, status.st_mtime_ns, status.st_ino))
        except OSError as error:
            raise ConfigError(
                f"the verifiers in {directory} can't be read: {error.strerror}",
                hint="No image is used without asking them. Correct the setting verifier_dir, or make the directory.",
            ) from None
        if len(found) > MAX_PROGRAMS:
            raise ConfigError(f"{directory} has {len(found)} programs; {MAX_PROGRAMS} are the most")
        return cls(directory, tuple(path for path, *_ in found), hash_of_text(repr((directory, found)), 32))

    def ask(self, name: str, digest: Digest, document: bytes) -> None:
        """Ask all programs about the manifest or index *document* of *digest*, which the user called *name*.

        Raises: ImageRefused, with the words of the program; ConfigError, when one can't be run.
        """
        if self.programs and os.geteuid() == 0:
            raise ConfigError(
                f"the programs in {self.directory} are not run as root",
                hint="Import as another user, such as the owner of the cache.",
            )
        if not self.programs:
            return
        kind = load_json(document, "manifest").get("mediaType") or OCI_MANIFEST
        descriptor = json.dumps({"mediaType": kind, "digest": str(digest), "size": len(document)}).encode()
        arguments = ["-name", name, "-digest", str(digest), "-stdin-media-type", _KIND]
        for program in self.programs:
            status, said = _run([program, *arguments], descriptor)
            if status == 0:
                continue
            why = f"did not answer within {SECONDS:.0f} s" if status is None else f"says no ({_status(status)})"
            lines = [printable(line) for line in said.decode("utf-8", "replace").splitlines() if line.strip()]
            raise ImageRefused(
                f"{name} must not be used here: {program} {why}" + (f": {lines[0]}" if lines else ""),
                hint="\n".join(lines[1:6]) or "Ask your administrator; the setting verifier_dir names the directory.",
            )


def _status(status: int) -> str:
    return f"signal {-status}" if status < 0 else f"exit status {status}"


def _run(command: list[str], given: bytes) -> tuple[int | None, bytes]:
    """How *command* ended (None: it did not in time) and the beginning of what it said."""
    with tempfile.TemporaryFile() as stdin:  # a program need not read it, so no pipe that could break
        stdin.write(given)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                command,
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                cwd="/",
                env={"PATH": _SEARCH_PATH, "LC_ALL": "C.UTF-8", "HOME": str(Path.home())},
                start_new_session=True,
            )
        except OSError as error:
            raise ConfigError(f"{command[0]} can't be run: {error.strerror}") from None
    assert process.stdout is not None
    try:
        said = _read(process, process.stdout.fileno(), time.monotonic() + SECONDS)
        return process.poll(), said
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, signal.SIGKILL)  # and what it has left behind
        process.stdout.close()
        process.wait()


def _read(process: subprocess.Popen[bytes], pipe: int, deadline: float) -> bytes:
    """The output of *process* until it has ended or the *deadline* is over; of much output, the end is thrown away."""
    said, is_open = b"", True
    while time.monotonic() < deadline:
        if is_open and select.select([pipe], [], [], 0.05)[0]:
            data = os.read(pipe, 1 << 16)
            is_open = bool(data)
            said += data[: _MAX_OUTPUT - len(said)]
        elif process.poll() is not None:
            break
        elif not is_open:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    return said
