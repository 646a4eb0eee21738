"""The programs and libraries that an import uses: tried out, not only looked for."""

from __future__ import annotations

import gzip
import importlib.util
import platform
import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.doctor.finding import error, failed, ok, skipped, warning
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.rootfs.compression import decompress
from enroot_slurm.squashfs.mksquashfs import Mksquashfs
from enroot_slurm.squashfs.options import SquashOptions
from enroot_slurm.squashfs.writing.compressors import CannotCompress, compressor_of
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.settings.config import Config

__all__ = ["check_tools"]

_OLDEST = (4, 5)
_COMPRESSORS = ("gzip", "lzo", "lz4", "xz", "zstd")
_EMPTY_TAR = bytes(1024)
_GZIP = gzip.compress(b"x", mtime=0)
_ZSTD = bytes.fromhex("28b52ffd04580900007823110483")  # what `zstd` makes of "x"
_OPTIONAL = {
    "unsquashfs": "enroot create needs it",
    "squashfuse": "enroot needs it to start images without unpacking them",
    "enroot": "it runs the images, on the nodes where jobs do",
}


def check_tools(config: Config | None) -> Iterator[Finding]:
    """What there is; with *config*, whether it can do what the settings ask for."""
    yield ok(
        "tools.python",
        f"enroot-slurm {__version__}, Python {platform.python_version()}, {platform.machine()}",
    )
    yield from _squash(config)
    if config is not None:
        yield from _decoder("gzip", _GZIP, config.gzip_program, "zlib_ng")
        yield from _decoder("zstd", _ZSTD, "", "compression.zstd", "backports.zstd")
    for program, use in _OPTIONAL.items():
        path = shutil.which(program)
        check = f"tools.{program}"
        yield ok(check, f"{program} ({path})") if path else skipped(check, f"{program} is not installed here: {use}")


def _squash(config: Config | None) -> Iterator[Finding]:
    """Whether images can be written with the squash options: by this process, else by mksquashfs."""
    reason = ""
    if config is not None:
        options = config.squash_options
        try:
            compressor_of(options).compress(bytes(8192))
        except CannotCompress as failure:
            reason = str(failure)
        else:
            source = config.origins["squash_options"]
            yield ok("tools.squash_options", f"images are written with '{options}' [{source}], in the process")
    yield from _mksquashfs(config, reason)


def _mksquashfs(config: Config | None, reason: str) -> Iterator[Finding]:
    """Whether there is a mksquashfs, which is needed for *reason*, or not at all."""
    check = "tools.mksquashfs"
    try:
        program = Mksquashfs.program()
    except EnrootSlurmError as missing:
        if reason:
            yield error(check, f"{missing}, and {reason}", missing.hint)
        else:
            yield skipped(check, f"{missing}; some squash options need it, and those in force do not")
        return
    version = _version(program)
    named = f"mksquashfs {'.'.join(map(str, version)) or 'of an unknown version'} ({program})"
    if version and version < _OLDEST:
        told = error if reason else warning
        yield told(check, f"{named} is too old: it can't read tar archives", "Install squashfs-tools 4.5 or later.")
    elif not version:
        yield warning(check, named, f"See: {program} -version")
    else:
        yield ok(check, named)
    if config is not None and reason:
        yield _options(config, usable=not version or version >= _OLDEST)


def _version(program: str) -> tuple[int, ...]:
    """The version of mksquashfs; empty if it says none."""
    try:
        said = subprocess.run([program, "-version"], stdin=subprocess.DEVNULL, capture_output=True, check=False).stdout
    except OSError:
        return ()
    match = re.search(rb"version (\d+)\.(\d+)(?:\.(\d+))?", said)
    return tuple(int(part) for part in match.groups() if part) if match else ()


def _options(config: Config, *, usable: bool) -> Finding:
    """Whether mksquashfs takes the squash options, with a compressor that it may have been built without."""
    check, options = "tools.squash_options", config.squash_options
    if not usable:
        return skipped(check, "this mksquashfs can't be used")
    failure = _try(options, config)
    if failure is None:
        return ok(check, f"mksquashfs takes '{options}' [{config.origins['squash_options']}]")
    offered = [name for name in _COMPRESSORS if _try(SquashOptions.parse(f"-comp {name}"), config) is None]
    hint = failure.hint
    if offered:
        best = "-comp zstd -Xcompression-level 3" if "zstd" in offered else f"-comp {offered[-1]}"
        hint = f"It offers {', '.join(offered)}: set squash_options: {best}"
    return error(check, f"mksquashfs does not take '{options}' [{config.origins['squash_options']}]: {failure}", hint)


def _try(options: SquashOptions, config: Config) -> EnrootSlurmError | None:
    """Why mksquashfs can't make an empty image with *options*; None: it can."""
    try:
        with tempfile.TemporaryDirectory(prefix="enroot-slurm-doctor-") as directory:
            image = Path(directory, "empty.sqsh")
            with Mksquashfs(image, options, processors=1, memory=config.squash_memory) as mksquashfs:
                try:
                    with open(mksquashfs.stdin, "wb", closefd=False) as archive:
                        archive.write(_EMPTY_TAR)
                except BrokenPipeError:
                    return mksquashfs.failure()
                mksquashfs.finish(inodes=1)
    except EnrootSlurmError as failure:
        return failure
    except OSError as failure:
        return EnrootSlurmError(f"a temporary file can't be written: {failure.strerror}", hint="Set TMPDIR.")
    return None


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
