"""Layer blobs to tar bytes: gzip, zstd or plain, told apart by their first bytes (RFC 1952, RFC 8878).

The media type is not asked: images exist that state one for all layers.  Decoders run in the process where a fast
library is there, and never return more than `CHUNK` bytes at once, so that a small bomb can't fill the memory.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import zlib
from typing import TYPE_CHECKING, Any, Protocol

from enroot_slurm.errors import ConversionError, EnrootSlurmError, IntegrityError, UnsupportedImage, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    Decoder = Callable[[Iterable[bytes]], Iterator[bytes]]

__all__ = ["CHUNK", "decompress"]

CHUNK = 1 << 20
"""The largest piece of decompressed data, in bytes."""

_GZIP = b"\x1f\x8b"
_ZSTD = b"\x28\xb5\x2f\xfd"
_MAX_RATIO = 1000
_RATIO_FROM = 1 << 30
"""Decompressed bytes from which on there must not be more than `_MAX_RATIO` for each byte of the blob: it is a bomb."""
_ZSTD_MAX_WINDOW_LOG = 27  # 128 MiB, as much as `zstd -d` takes without --long
_FOREIGN = {b"\xfd7zX": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}


def decompress(chunks: Iterable[bytes], gzip_program: str = "") -> Iterator[bytes]:
    """The tar archive in a layer blob, in pieces of `CHUNK` bytes at most.

    *gzip_program* decodes gzip with ``-d -f -c``, reading its standard input; empty picks the fastest way there is.

    Raises: IntegrityError, when the data is damaged; UnsupportedImage, for another compression; ConversionError, when
    a program is missing or fails.
    """
    taken = made = 0

    def counted() -> Iterator[bytes]:
        nonlocal taken
        for chunk in chunks:
            taken += len(chunk)
            yield chunk

    for piece in _decompress(counted(), gzip_program):
        made += len(piece)
        if made > _RATIO_FROM and made > _MAX_RATIO * taken:
            raise UnsupportedImage(
                f"a layer has more than {_MAX_RATIO} times as many bytes when it is decompressed",
                hint="That is a decompression bomb, or a file of zeros that should have been a sparse one.",
            )
        yield piece


def _decompress(source: Iterator[bytes], gzip_program: str) -> Iterator[bytes]:
    head = b""
    while len(head) < 4 and (chunk := next(source, None)) is not None:
        head += chunk
    blob = _chain(head, source)
    if head.startswith(_GZIP):
        yield from _gzip_decoder(gzip_program)(blob)
    elif head.startswith(_ZSTD) or _is_zstd_skippable(head):
        yield from _zstd_decoder()(blob)
    elif name := next((n for magic, n in _FOREIGN.items() if head.startswith(magic)), None):
        raise UnsupportedImage(f"a layer is compressed with {name}", hint="Rebuild the image with gzip or zstd layers.")
    else:
        for piece in blob:
            for start in range(0, len(piece), CHUNK):
                yield piece[start : start + CHUNK]


def _is_zstd_skippable(head: bytes) -> bool:
    return len(head) >= 4 and head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50


def _chain(head: bytes, rest: Iterator[bytes]) -> Iterator[bytes]:
    yield head
    yield from rest


def _gzip_decoder(program: str) -> Decoder:
    if program:
        return lambda chunks: _piped([_executable(program), "-d", "-f", "-c"], chunks)
    try:
        from zlib_ng import zlib_ng  # noqa: PLC0415  optional, and not wanted before a layer is read
    except ImportError:
        for name in ("pigz", "gzip"):
            if path := shutil.which(name):
                return lambda chunks: _piped([path, "-d", "-c"], chunks)
        return lambda chunks: _inflate(chunks, zlib.decompressobj, zlib.error)
    damage: Any = zlib_ng.error  # a class, though its stub says an instance
    return lambda chunks: _inflate(chunks, zlib_ng.decompressobj, damage)


class _Inflater(Protocol):
    """What zlib's decompression objects and zlib-ng's have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


def _inflate(chunks: Iterable[bytes], new: Callable[[int], _Inflater], damage: type[Exception]) -> Iterator[bytes]:
    """Decode all members of a gzip file; zero bytes may pad it (gzip(1))."""
    inflater: _Inflater | None = None
    for chunk in chunks:
        data = chunk
        while data:
            if inflater is None:
                data = data.lstrip(b"\0")
                if not data:
                    break
                inflater = new(16 + zlib.MAX_WBITS)
            try:
                piece = inflater.decompress(data, CHUNK)
            except damage as error:
                raise IntegrityError(f"a layer's gzip data is damaged: {printable(str(error))}") from None
            if piece:
                yield piece
            if inflater.eof:
                data, inflater = inflater.unused_data, None
            else:
                data = inflater.unconsumed_tail
    if inflater is not None:
        raise IntegrityError("a layer's gzip data ends too early")


def _zstd_decoder() -> Decoder:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # noqa: PLC0415  Python 3.14
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415
        except ImportError:
            command = [_executable("zstd"), "-d", "-c", "-q", f"--memory={1 << (_ZSTD_MAX_WINDOW_LOG - 20)}MB"]
            return lambda chunks: _piped(command, chunks)

    def decode(chunks: Iterable[bytes]) -> Iterator[bytes]:
        options = {zstd.DecompressionParameter.window_log_max: _ZSTD_MAX_WINDOW_LOG}
        frame = None
        for chunk in chunks:
            data = chunk
            while data or (frame is not None and not frame.needs_input):
                frame = frame or zstd.ZstdDecompressor(options=options)
                try:
                    piece = frame.decompress(data, CHUNK)
                except (zstd.ZstdError, EOFError) as error:
                    raise IntegrityError(f"a layer's zstd data is damaged: {printable(str(error))}") from None
                data = b""
                if piece:
                    yield piece
                if frame.eof:
                    data, frame = frame.unused_data, None
        if frame is not None:
            raise IntegrityError("a layer's zstd data ends too early")

    return decode


def _executable(program: str) -> str:
    path = shutil.which(program)
    if path is None:
        raise ConversionError(
            f"{printable(program)}: no such program",
            hint="Install it, unset ENROOT_GZIP_PROGRAM, or install the Python packages zlib-ng and backports.zstd.",
        )
    return path


def _piped(command: list[str], chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Decode through a program; a thread feeds it, so that a full pipe on one side never blocks the other."""
    failure: list[BaseException] = []
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    ) as process:

        def feed() -> None:
            assert process.stdin is not None
            try:
                with process.stdin as pipe:
                    for chunk in chunks:
                        pipe.write(chunk)
            except BrokenPipeError:
                pass  # the program's exit status and message say why
            except BaseException as error:  # noqa: BLE001  it is raised again by the reader
                failure.append(error)

        feeder = threading.Thread(target=feed, daemon=True)
        feeder.start()
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            while piece := os.read(process.stdout.fileno(), CHUNK):
                yield piece
            feeder.join()
            complaint = process.stderr.read(4096)
        except BaseException:
            process.kill()
            raise
    if failure:
        raise failure[0] if isinstance(failure[0], EnrootSlurmError) else ConversionError(str(failure[0]))
    if process.returncode:
        name = os.path.basename(command[0])  # noqa: PTH119
        raise IntegrityError(f"{name} could not decode a layer: {printable(complaint.strip()) or process.returncode}")
