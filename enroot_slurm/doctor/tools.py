"""The programs and libraries that an import uses: tried out, not only looked for."""

from __future__ import annotations

import gzip
import importlib.util
import platform
import shutil
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.doctor.finding import error, failed, ok, skipped, warning
from enroot_slurm.doctor.readers import check_readers
from enroot_slurm.errors import ConversionError, EnrootSlurmError
from enroot_slurm.squashfs.writing.compressors import compressor_of
from enroot_slurm.tar.compression import decompress
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.settings.config import Config

__all__ = ["check_tools"]

_GZIP = gzip.compress(b"x", mtime=0)
_ZSTD = bytes.fromhex("28b52ffd04580900007823110483")  # what `zstd` makes of "x"
_OPTIONAL = {
    "enroot": "it runs the images, on the nodes where jobs do",
}


def check_tools(config: Config | None) -> Iterator[Finding]:
    """The programs and libraries that are there; with *config*, whether they can do what the settings ask for."""
    yield ok(
        "tools.python",
        f"enroot-slurm {__version__}, Python {platform.python_version()}, {platform.machine()}",
    )
    if config is not None:
        yield from _squash(config)
        yield from _decoder("gzip", _GZIP, config.gzip_program, "zlib_ng")
        yield from _decoder("zstd", _ZSTD, "", "compression.zstd", "backports.zstd")
        yield from check_readers(config)
    for program, use in _OPTIONAL.items():
        path = shutil.which(program)
        check = f"tools.{program}"
        yield ok(check, f"{program} ({path})") if path else skipped(check, f"{program} is not installed here: {use}")
    yield _fuse(Path("/dev/fuse"))


def _fuse(device: Path) -> Finding:
    """Whether users can open the *device* that squashfuse needs."""
    check = "tools.fuse"
    try:
        mode = device.stat().st_mode
    except OSError:
        return skipped(check, f"there is no {device}: images are unpacked, not mounted")
    if stat.S_ISCHR(mode) and mode & 0o006 == 0o006:
        return ok(check, f"users can open {device}")
    return warning(
        check,
        f"users can't open {device} (mode {stat.S_IMODE(mode):04o}): squashfuse does not work for them",
        f"Run: chmod 0666 {device}, and see to it that udev does not take that back.",
    )


def _squash(config: Config) -> Iterator[Finding]:
    """Whether images can be written with the squash options."""
    check, options = "tools.squash_options", config.squash_options
    try:
        compressor_of(options).compress(bytes(8192))
    except ConversionError as failure:
        yield failed(check, failure)
    else:
        yield ok(check, f"images are written with '{options}' [{config.origins['squash_options']}]")


def _decoder(kind: str, sample: bytes, program: str, *libraries: str) -> Iterator[Finding]:
    """Whether layers of this *kind* can be read, and how."""
    check = f"tools.{kind}"
    try:
        decoded = b"".join(decompress([sample], program))
    except EnrootSlurmError as failure:
        yield failed(check, failure)
        return
    if decoded != b"x":
        yield error(check, f"what decodes {kind} layers gives wrong data", "Check the setting gzip_program.")
    elif program:
        yield ok(check, f"{kind} layers are decoded by {program} (setting gzip_program)")
    elif library := next(filter(_is_installed, libraries), ""):
        yield ok(check, f"{kind} layers are decoded in the process, by {library}")
    else:
        yield warning(
            check,
            f"{kind} layers are decoded by a slower way than need be",
            f"Install the Python package {libraries[-1].replace('_', '-')}.",
        )


def _is_installed(library: str) -> bool:
    try:
        return importlib.util.find_spec(library) is not None
    except ModuleNotFoundError:  # its package
        return False
