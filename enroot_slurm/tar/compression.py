"""Layer blobs to tar bytes: gzip, zstd or plain, told apart by their first bytes (RFC 1952, RFC 8878).

The media type is not asked: images exist that state one for all layers.  Decoders run in the process where a fast
library is there, and never return more than `CHUNK` bytes at once, so that a small bomb can't fill the memory.
"""

from __future__ import annotations

import os
import re
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
_ZSTD_MAX_WINDOW_LOG = 27  # 128 MiB, as much as `zstd -d` takes without --long
_WINDOW = re.compile("window size larger|too much memory", re.IGNORECASE)  # what libzstd and zstd(1) say of it
_COMPLAINT = 4096  # bytes of what a program says that are kept
_WARNING = 2  # the exit status of gzip and pigz for data that is decoded, with something behind it (gzip(1))
_FOREIGN = {b"\xfd7zX": "xz", b"BZh": "bzip2", b"\x04\x22\x4d\x18": "lz4"}


def decompress(
    chunks: Iterable[bytes], gzip_program: str = "", warn: Callable[[str], None] = lambda _: None
) -> Iterator[bytes]:
    """The tar archive in a layer blob, in pieces of `CHUNK` bytes at most; who reads it limits how much it may be.

    *gzip_program* decodes gzip with ``-d -c``, reading its standard input (with ``-f``, gzip would copy what follows on
    the gzip data as it is); empty picks the fastest way there is.
    *warn* is told what a person should know.

    Raises: IntegrityError, when the data is damaged; UnsupportedImage, for another compression; ConversionError, when
    a program is missing or fails.
    """
    source = iter(chunks)
    head = b""
    while len(head) < 4 and (chunk := next(source, None)) is not None:
        head += chunk
    blob = _chain(head, source)
    if head.startswith(_GZIP):
        yield from _gzip_decoder(gzip_program, warn)(blob)
    elif head.startswith(_ZSTD) or _is_zstd_skippable(head):
        yield from _zstd_decoder(warn)(blob)
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


def _gzip_decoder(program: str, warn: Callable[[str], None]) -> Decoder:
    if program:
        return lambda chunks: _piped([_executable(program), "-d", "-c"], chunks, warn)
    try:
        from zlib_ng import zlib_ng  # noqa: PLC0415  optional, and not wanted before a layer is read
    except ImportError:
        for name in ("pigz", "gzip"):
            if path := shutil.which(name):
                return lambda chunks: _piped([path, "-d", "-c"], chunks, warn)
        return lambda chunks: _inflate(chunks, zlib.decompressobj, zlib.error, warn)
    damage: Any = zlib_ng.error  # a class, though its stub says an instance
    return lambda chunks: _inflate(chunks, zlib_ng.decompressobj, damage, warn)


class _Inflater(Protocol):
    """The common interface of zlib's and zlib-ng's decompression objects."""

    @property
    def eof(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    @property
    def unconsumed_tail(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = 0, /) -> bytes: ...


def _inflate(
    chunks: Iterable[bytes],
    new: Callable[[int], _Inflater],
    damage: type[Exception],
    warn: Callable[[str], None],
) -> Iterator[bytes]:
    """Decode all members of a gzip file; zero bytes may pad it, and what else follows is passed over (gzip(1))."""
    inflater: _Inflater | None = None
    whole = False  # whether a member has ended
    source = iter(chunks)
    for chunk in source:
        data = chunk
        while data:
            if inflater is None:
                data = data.lstrip(b"\0")
                while 0 < len(data) < len(_GZIP) and (more := next(source, None)) is not None:
                    data += more
                if not data:
                    break
                if whole and not data.startswith(_GZIP):
                    count = len(data) + sum(map(len, source))  # read, for the blob's digest
                    warn(f"{count} bytes behind the gzip data of a layer mean nothing, and are ignored")
                    return
                inflater = new(16 + zlib.MAX_WBITS)
            try:
                piece = inflater.decompress(data, CHUNK)
            except damage as error:
                raise IntegrityError(f"a layer's gzip data is damaged: {printable(str(error))}") from None
            if piece:
                yield piece
            if inflater.eof:
                data, inflater, whole = inflater.unused_data, None, True
            else:
                data = inflater.unconsumed_tail
    if inflater is not None:
        raise IntegrityError("a layer's gzip data ends too early")


def _zstd_decoder(warn: Callable[[str], None]) -> Decoder:
    try:
        from compression import zstd  # type: ignore[import-not-found]  # noqa: PLC0415  Python 3.14
    except ImportError:
        try:
            from backports import zstd  # noqa: PLC0415
        except ImportError:
            command = [_executable("zstd"), "-d", "-c", "-q", f"--memory={1 << (_ZSTD_MAX_WINDOW_LOG - 20)}MB"]
            return lambda chunks: _piped(command, chunks, warn)

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
                    raise _failed("zstd", str(error)) from None
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


def _piped(command: list[str], chunks: Iterable[bytes], warn: Callable[[str], None]) -> Iterator[bytes]:
    """Decode through a program; threads feed it and hear it, so that no full pipe ever blocks another."""
    failure: list[BaseException] = []
    complaint = bytearray()
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PATH": os.defpath, "LC_ALL": "C"},
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        errors = process.stderr.fileno()

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

        def hear() -> None:
            while text := os.read(errors, _COMPLAINT):
                complaint.extend(text[: _COMPLAINT - len(complaint)])

        threads = [threading.Thread(target=run, daemon=True) for run in (feed, hear)]
        for thread in threads:
            thread.start()
        try:
            while piece := os.read(process.stdout.fileno(), CHUNK):
                yield piece
            for thread in threads:
                thread.join()
        except BaseException:
            process.kill()
            threads[1].join()  # before what it reads is closed
            raise
    if failure:
        raise failure[0] if isinstance(failure[0], EnrootSlurmError) else ConversionError(str(failure[0]))
    name = os.path.basename(command[0])  # noqa: PTH119
    text = complaint.decode(errors="replace").strip()
    if process.returncode == _WARNING:
        warn(f"{name} warns of a layer: {printable(text)}")  # what it gave is compared with the layer's diff_id
    elif process.returncode:
        raise _failed(name, text or str(process.returncode))


def _failed(name: str, reason: str) -> IntegrityError:
    """The error for data that *name* can't decode because of *reason*."""
    if _WINDOW.search(reason):
        return UnsupportedImage(
            f"a layer is compressed by zstd with a window of more than {1 << (_ZSTD_MAX_WINDOW_LOG - 20)} MiB",
            hint="Reading it would take as much memory; rebuild the image without zstd's options --long and --ultra.",
        )
    return IntegrityError(f"{name} could not decode a layer, which is damaged: {printable(reason)}")
