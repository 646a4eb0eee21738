"""Opening what a URI names: a file, a directory, a stream, or what a daemon sends."""

from __future__ import annotations

import contextlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.archives.members import DirectoryMembers
from enroot_slurm.archives.tar_archive import read_stream, reworded, scan_file
from enroot_slurm.errors import NotFound, StorageError, UnsupportedImage, UsageError, printable
from enroot_slurm.tar.compression import decompress

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from enroot_slurm.archives.members import Members
    from enroot_slurm.oci.local import LocalImage
    from enroot_slurm.oci.platform import Platform

__all__ = ["Needs", "open_members"]

_READ = 1 << 20
_STDIN = {"/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"}
_TAR_MAGIC = 257, b"ustar"
_NAMES = {"oci": "an OCI layout", "oci-archive": "an OCI layout", "docker-archive": "a Docker archive"}


class Needs(NamedTuple):
    """What opening takes from outside.

    new_file   gives the path of a temporary file that is not there yet
    limit      bytes of blobs that may be kept
    gzip       the program that decodes gzip, or empty
    warn       is told what a person should know
    received   is told the bytes of each piece of a stream
    admit      is told size (bytes), platform and ID of a daemon's image before it is sent; it raises what is wrong
    """

    new_file: Callable[[], Path]
    limit: int
    gzip: str
    warn: Callable[[str], None]
    received: Callable[[int], None]
    admit: Callable[[int, Platform | None, str], None]


def open_members(image: LocalImage, needs: Needs) -> Members:
    """The files of what *image* names; a stream is read to its end.

    Raises: NotFound, StorageError, IntegrityError, UsageError; NetworkError, AccessDenied, for a daemon.
    """
    if image.is_daemon:
        from enroot_slurm.archives.daemons import saved_image  # noqa: PLC0415 - most images are of no daemon

        with saved_image(image, needs.admit) as chunks:
            return _streamed(str(image), chunks, needs)
    title = "the standard input" if image.place in _STDIN else printable(image.place)
    if image.transport == "oci":
        return _directory(image)
    fd = _open(image, title)
    try:
        status = os.fstat(fd)
        if stat.S_ISDIR(status.st_mode):
            raise UsageError(f"{title} is a directory", hint=f"An OCI layout in it is oci:{title}")
        if stat.S_ISREG(status.st_mode):
            head = _head(fd, title)
            start, magic = _TAR_MAGIC
            if head[start : start + len(magic)] == magic and not _position(fd):
                return scan_file(os.dup(fd), title)
            _refuse_other(title, head, image)
        return _streamed(title, _chunks(fd, title), needs)
    finally:
        os.close(fd)


def _streamed(title: str, chunks: Iterable[bytes], needs: Needs) -> Members:
    with reworded(title):
        return read_stream(
            decompress(_not_empty(chunks, title), needs.gzip, needs.warn),
            title,
            needs.new_file,
            needs.limit,
            needs.received,
        )


def _not_empty(chunks: Iterable[bytes], title: str) -> Iterator[bytes]:
    empty = True
    for chunk in chunks:
        empty = False
        yield chunk
    if empty:
        raise UnsupportedImage(f"{title} is empty", hint="If a program writes it: what does that program say?")


def _directory(image: LocalImage) -> Members:
    path, shown = Path(image.place), printable(image.place)
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        mode = 0
    except OSError as error:
        raise StorageError(f"can't read {shown}: {error.strerror}") from None
    if stat.S_ISREG(mode):
        raise UsageError(
            f"{shown} is a file, and no directory", hint=f"An OCI layout in a tar archive is oci-archive:{shown}"
        )
    if not stat.S_ISDIR(mode):
        raise NotFound(f"there is no directory {shown}")
    return DirectoryMembers(path)


def _open(image: LocalImage, title: str) -> int:
    if image.place in _STDIN:
        fd = os.dup(0)
        if os.isatty(fd):
            os.close(fd)
            raise UsageError(
                "the standard input is a terminal",
                hint="Pipe an archive in: docker save IMAGE | enroot-slurm import -o X.sqsh docker-archive:/dev/stdin",
            )
        return fd
    try:
        return os.open(image.place, os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY)
    except FileNotFoundError:
        raise NotFound(f"there is no file {title}", hint="A path ends at its first ':'; none can be in it.") from None
    except OSError as error:
        raise StorageError(f"can't read {title}: {error.strerror}") from None


def _head(fd: int, title: str) -> bytes:
    try:
        return os.pread(fd, 512, 0)
    except OSError as error:
        raise StorageError(f"can't read {title}: {error.strerror}") from None


def _position(fd: int) -> int:
    with contextlib.suppress(OSError):
        return os.lseek(fd, 0, os.SEEK_CUR)
    return 0


def _refuse_other(title: str, head: bytes, image: LocalImage) -> None:
    """Raise an error for a file that is known to be of another kind."""
    what = _NAMES[image.transport]
    if not head:
        raise UnsupportedImage(f"{title} is empty")
    if head.startswith(b"hsqs"):
        raise UnsupportedImage(
            f"{title} is a squashfs image already, and not {what}",
            hint="It needs no import: enroot create, and pyxis' --container-image, take its path.",
        )
    if head.startswith(b"PK\x03\x04"):
        raise UnsupportedImage(f"{title} is a zip archive, and not {what}")
    if head.lstrip()[:1] in {b"{", b"[", b"<"}:
        raise UnsupportedImage(f"{title} is a text, and not {what}")


def _chunks(fd: int, title: str) -> Iterator[bytes]:
    while True:
        try:
            chunk = os.read(fd, _READ)
        except OSError as error:
            raise StorageError(f"can't read {title}: {error.strerror}") from None
        if not chunk:
            return
        yield chunk
