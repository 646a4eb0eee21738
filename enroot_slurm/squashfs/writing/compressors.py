"""Compressors for blocks of data, with the options of mksquashfs (its sources for what they mean: lzo_wrapper.c, ...).

They run in the process, in libraries that release the interpreter's lock, so that threads compress side by side.
"""

from __future__ import annotations

import struct
import sys
import threading
import zlib
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import ConversionError

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.squashfs.options import SquashOptions

__all__ = ["CannotCompress", "Compressor", "compressor_of"]

_PLAIN = 0x8000  # in the header of a block of metadata
_XZ_PRESET = 6  # LZMA_PRESET_DEFAULT
_LZ4_HIGHEST = 12  # LZ4HC_CLEVEL_MAX
_LZO_ALGORITHMS = ("lzo1x_1", "lzo1x_1_11", "lzo1x_1_12", "lzo1x_1_15", "lzo1x_999")
_LZO_MEMORY = 14 << 15  # LZO1X_999_MEM_COMPRESS, which is the largest (lzo1x.h)


class CannotCompress(ConversionError):
    """A library is missing here, or an option is mksquashfs' alone."""


class Compressor(NamedTuple):
    """How blocks are compressed."""

    number: int
    """That of the superblock."""
    options: bytes
    """The block of metadata behind the superblock, if its options are not the compressor's own."""
    compress: Callable[[bytes], bytes]
    """One block; what comes out may be larger.  For any number of threads."""


def compressor_of(options: SquashOptions) -> Compressor:
    """The compressor that *options* ask for.  Raises: CannotCompress."""
    if "-Xstrategy" in options.arguments or "-Xbcj" in options.arguments:
        raise CannotCompress("an option is for mksquashfs alone")
    try:
        return _COMPRESSORS[options.compressor](options)
    except (ImportError, OSError) as error:
        raise CannotCompress(f"{options.compressor} can't be compressed here: {error}") from None


def _gzip(options: SquashOptions) -> Compressor:
    try:
        from zlib_ng import zlib_ng  # noqa: PLC0415  one of these is used

        compress: Any = zlib_ng.compress
    except ImportError:
        compress = zlib.compress
    level, window = options.number("-Xcompression-level", 9), options.number("-Xwindow-size", 15)
    block = b"" if (level, window) == (9, 15) else struct.pack("<IHH", level, window, 0)
    return Compressor(1, _metadata(block), lambda data: compress(data, level, window))


def _xz(options: SquashOptions) -> Compressor:
    import lzma  # noqa: PLC0415

    size = options.number("-Xdict-size", options.block_size)
    filters = [{"id": lzma.FILTER_LZMA2, "preset": _XZ_PRESET, "dict_size": size}]
    block = b"" if size == options.block_size else struct.pack("<II", size, 0)
    return Compressor(4, _metadata(block), partial(lzma.compress, check=lzma.CHECK_CRC32, filters=filters))


def _zstd(options: SquashOptions) -> Compressor:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415

    level = options.number("-Xcompression-level", 15)
    block = b"" if level == 15 else struct.pack("<I", level)
    kept = threading.local()  # a context for each thread that compresses: to make one takes longer than a small block

    def compress(data: bytes) -> bytes:
        if not hasattr(kept, "compressor"):
            kept.compressor = zstd.ZstdCompressor(level=level)
        result: bytes = kept.compressor.compress(data, zstd.ZstdCompressor.FLUSH_FRAME)
        return result

    return Compressor(6, _metadata(block), compress)


def _lz4(options: SquashOptions) -> Compressor:
    import ctypes  # noqa: PLC0415

    library = ctypes.CDLL("liblz4.so.1")
    high = "-Xhc" in options.arguments

    def compress(data: bytes) -> bytes:
        room = ctypes.create_string_buffer(library.LZ4_compressBound(len(data)))
        if high:
            size = library.LZ4_compress_HC(data, room, len(data), len(room), _LZ4_HIGHEST)
        else:
            size = library.LZ4_compress_default(data, room, len(data), len(room))
        return _result(room, size, ok=size > 0)

    return Compressor(5, _metadata(struct.pack("<II", 1, int(high))), compress)


def _lzo(options: SquashOptions) -> Compressor:
    import ctypes  # noqa: PLC0415

    library = ctypes.CDLL("liblzo2.so.2")
    name = options.value("-Xalgorithm", _LZO_ALGORITHMS[-1])
    level = options.number("-Xcompression-level", 8) if name == _LZO_ALGORITHMS[-1] else 0
    memory = threading.local()  # one for each thread that compresses
    function = library[f"{name}_compress_level" if level else f"{name}_compress"]
    more = (None, ctypes.c_size_t(0), None, ctypes.c_int(level)) if level else ()

    def compress(data: bytes) -> bytes:
        if not hasattr(memory, "work"):
            memory.work = ctypes.create_string_buffer(_LZO_MEMORY)
        room = ctypes.create_string_buffer(len(data) + len(data) // 16 + 67)
        size = ctypes.c_size_t(len(room))
        status = function(data, ctypes.c_size_t(len(data)), room, ctypes.byref(size), memory.work, *more)
        return _result(room, size.value, ok=status == 0)

    stated = (_LZO_ALGORITHMS.index(name), level)
    block = b"" if stated == (4, 8) else struct.pack("<II", *stated)
    return Compressor(3, _metadata(block), compress)


def _result(room: Any, size: int, *, ok: bool) -> bytes:
    if not ok:
        raise ConversionError("a block could not be compressed")
    return bytes(memoryview(room)[:size])


def _metadata(block: bytes) -> bytes:
    return struct.pack("<H", _PLAIN | len(block)) + block if block else b""


_COMPRESSORS: dict[str, Callable[[SquashOptions], Compressor]] = {
    "gzip": _gzip,
    "lzo": _lzo,
    "xz": _xz,
    "lz4": _lz4,
    "zstd": _zstd,
}
