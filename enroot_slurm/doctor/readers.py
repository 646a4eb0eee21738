"""The programs and the kernel that use images: whether each can read one that the squash options make.

An import writes images in the process, so it does not notice that unsquashfs, squashfuse or the kernel of a node was
built without the compressor: then `enroot create` or `enroot start` fails.
"""

from __future__ import annotations

import gzip
import os
import re
import shutil
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.doctor.finding import ok, skipped, warning
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.importing.probe import PROBE, write_probe

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.settings.config import Config

__all__ = ["READERS", "Reading", "check_readers", "findings_of", "read_back"]

READERS = {
    "unsquashfs": "enroot create needs it",
    "squashfuse": "enroot needs it, or squashfuse_ll, to start images without unpacking them",
    "squashfuse_ll": "it is the faster one of the two",
}
"""The programs that read images, and their use."""
_WAIT = 5.0  # seconds for a program
_MOUNT = 3.0  # seconds for a mount to show
_KERNEL = {"gzip": "ZLIB", "lzo": "LZO", "lz4": "LZ4", "xz": "XZ", "zstd": "ZSTD"}
_MAX_CONFIG = 4 << 20
_HINT = (
    "Install a build of it with that compressor, or set squash_options to another one, such as '-comp gzip'. "
    "Red Hat's squashfs-tools have no lzo."
)


class Reading(NamedTuple):
    """One attempt to read an image.

    reader   a program's name, or ``kernel``
    problem  why it can't read the image; empty: it can
    """

    reader: str
    problem: str


def check_readers(config: Config) -> Iterator[Finding]:
    """Whether the readers that are here can read an image that the settings *config* make."""
    try:
        with tempfile.TemporaryDirectory(prefix="enroot-slurm-doctor-", dir=config.temp_path) as directory:
            image = Path(directory) / "probe.sqsh"
            write_probe(config, image)
            readings = read_back(image, config.squash_options.compressor)
    except (EnrootSlurmError, OSError) as cause:  # other checks tell why
        yield skipped("tools.image", f"no image could be made to be read: {cause}")
        return
    yield from findings_of("tools", str(config.squash_options), {"": readings})
    for program in [name for name in READERS if name not in {reading.reader for reading in readings}]:
        yield skipped(f"tools.{program}", f"{program} is not tried: {_why(program)}")


def findings_of(group: str, options: str, readings: Mapping[str, Iterable[Reading]]) -> Iterator[Finding]:
    """Findings of *group* about *readings* of an image with the *options*, by node; "" is this machine."""
    nodes: dict[Reading, list[str]] = {}
    for node, found in readings.items():
        for reading in found:
            nodes.setdefault(reading, []).append(node)
    for (reader, problem), names in nodes.items():
        check = f"{group}.{reader}"
        who = f"{reader} on {', '.join(names)}" if any(names) else reader
        if not problem:
            yield ok(check, f"{who}: reads images with '{options}'")
        elif reader == "kernel":
            yield warning(
                check,
                f"{who}: can't mount images with '{options}': {problem}",
                "Ignore this if images are only unpacked, or mounted by squashfuse.",
            )
        else:
            yield warning(check, f"{who}: can't read images with '{options}': {problem}", _HINT)


def read_back(image: Path, compressor: str) -> list[Reading]:
    """What the readers of this machine make of the probe *image*, which *compressor* has made."""
    readings = []
    with tempfile.TemporaryDirectory(prefix="enroot-slurm-doctor-") as directory:
        target = Path(directory) / "root"
        if shutil.which("unsquashfs"):
            said = _run("unsquashfs", "-no-progress", "-no-xattrs", "-d", target, image)
            readings.append(Reading("unsquashfs", _verdict(target / PROBE.name, said)))
        for program in ("squashfuse", "squashfuse_ll"):
            if shutil.which(program) and _can_mount():
                mount = Path(directory) / program
                mount.mkdir()
                readings.append(Reading(program, _mounted(program, image, mount)))
    if (problem := _kernel(compressor)) is not None:
        readings.append(Reading("kernel", problem))
    return readings


def _mounted(program: str, image: Path, mount: Path) -> str:
    said = _run(program, image, mount)
    try:
        end = time.monotonic() + _MOUNT
        while not (mount / PROBE.name).exists() and not said and time.monotonic() < end:
            time.sleep(0.05)
        return _verdict(mount / PROBE.name, said)
    finally:
        for unmount in ("fusermount3", "fusermount"):
            if shutil.which(unmount) and not _run(unmount, "-u", "-z", mount):
                break


def _verdict(file: Path, said: str) -> str:
    """Why *file* is not the probe's, in the words that the program has *said*; empty: it is."""
    with suppress(OSError):
        if file.read_bytes() == PROBE.content:
            return ""
        return "it reads wrong data"
    return said or "the file is not there"


def _run(*command: object) -> str:
    """The last line that the failed *command* says; empty: it did not fail."""
    try:
        done = subprocess.run(
            [str(word) for word in command],
            check=False,
            capture_output=True,
            stdin=subprocess.DEVNULL,
            timeout=_WAIT,
        )
    except subprocess.TimeoutExpired:
        return f"it took longer than {_WAIT:.0f} s"
    except OSError as error:
        return str(error.strerror)
    if not done.returncode:
        return ""
    lines = (done.stderr.strip() or done.stdout.strip()).decode(errors="replace").splitlines()
    return lines[-1] if lines else f"exit status {done.returncode}"


def _can_mount() -> bool:
    return os.access("/dev/fuse", os.R_OK | os.W_OK)


def _why(program: str) -> str:
    return "/dev/fuse can't be opened" if shutil.which(program) else f"it is not installed here; {READERS[program]}"


def _kernel(compressor: str) -> str | None:
    """Why the kernel can't mount images of *compressor*; empty: it can; None: its configuration is not to be read."""
    for file in (Path(f"/boot/config-{os.uname().release}"), Path("/proc/config.gz")):
        with suppress(OSError, EOFError, ValueError):
            data = file.read_bytes()[:_MAX_CONFIG]
            text = (gzip.decompress(data) if file.suffix == ".gz" else data).decode(errors="replace")
            for option in ("CONFIG_SQUASHFS", f"CONFIG_SQUASHFS_{_KERNEL[compressor]}"):
                if not re.search(rf"(?m)^{option}=[ym]$", text):
                    return f"{option} is not set in {file}"
            return ""
    return None
