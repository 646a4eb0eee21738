"""Compressors for blocks of data, with the options of mksquashfs (its sources for what they mean: lzo_wrapper.c, ...).

They run in the process, in libraries that release the interpreter's lock, so that threads compress side by side.
"""

from __future__ import annotations

import contextlib
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

__all__ = ["Compressor", "compressor_of"]

_PLAIN = 0x8000  # in the header of a block of metadata
_XZ_PRESET = 6  # LZMA_PRESET_DEFAULT
_XZ_FILTERS = ("x86", "powerpc", "ia64", "arm", "armthumb", "sparc")  # by their bits in the options
_GZIP_MEMORY = 8  # MAX_MEM_LEVEL - 1, as mksquashfs has it
_GZIP_STRATEGIES = ("default", "filtered", "huffman_only", "run_length_encoded", "fixed")  # Z_..., and their bits
_LZ4_HIGHEST = 12  # LZ4HC_CLEVEL_MAX
_LZO_ALGORITHMS = ("lzo1x_1", "lzo1x_1_11", "lzo1x_1_12", "lzo1x_1_15", "lzo1x_999")
_LZO_MEMORY = 14 << 15  # LZO1X_999_MEM_COMPRESS, which is the largest (lzo1x.h)


class Compressor(NamedTuple):
    """How blocks are compressed."""

    number: int
    """That of the superblock."""
    options: bytes
    """The block of metadata behind the superblock, if its options are not the compressor's own."""
    compress: Callable[[bytes], bytes]
    """One block; what comes out may be larger.  For any number of threads."""


def compressor_of(options: SquashOptions) -> Compressor:
    """The compressor that *options* ask for.  Raises: ConversionError, when its library is missing."""
    name = options.compressor
    try:
        return _COMPRESSORS[name](options)
    except (ImportError, OSError) as error:
        raise ConversionError(f"'-comp {name}' needs a library that is missing: {error}", hint=_HINTS[name]) from None


def _gzip(options: SquashOptions) -> Compressor:
    library: Any = zlib
    with contextlib.suppress(ImportError):
        from zlib_ng import zlib_ng as library  # noqa: PLC0415  it is faster
    level, window = options.number("-Xcompression-level", 9), options.number("-Xwindow-size", 15)
    chosen = _chosen(options, "-Xstrategy", _GZIP_STRATEGIES)
    block = b"" if (level, window, chosen) == (9, 15, []) else struct.pack("<IHH", level, window, _bits(chosen))

    def compress(data: bytes, strategy: int) -> bytes:
        compressor = library.compressobj(level, zlib.DEFLATED, window, _GZIP_MEMORY, strategy)
        result: bytes = compressor.compress(data) + compressor.flush()
        return result

    if chosen:
        return Compressor(1, _metadata(block), _shortest([partial(compress, strategy=each) for each in chosen]))
    return Compressor(1, _metadata(block), lambda data: library.compress(data, level, window))


def _xz(options: SquashOptions) -> Compressor:
    import lzma  # noqa: PLC0415

    size = options.number("-Xdict-size", options.block_size)
    known = {name: getattr(lzma, f"FILTER_{name.upper()}") for name in _XZ_FILTERS}
    chosen = _chosen(options, "-Xbcj", _XZ_FILTERS)
    block = b"" if (size, chosen) == (options.block_size, []) else struct.pack("<II", size, _bits(chosen))
    last = {"id": lzma.FILTER_LZMA2, "preset": _XZ_PRESET, "dict_size": size}
    ways = [[last], *([{"id": known[_XZ_FILTERS[each]]}, last] for each in chosen)]
    compress = _shortest([partial(lzma.compress, check=lzma.CHECK_CRC32, filters=filters) for filters in ways])
    return Compressor(4, _metadata(block), compress)


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


def _chosen(options: SquashOptions, option: str, names: tuple[str, ...]) -> list[int]:
    """The numbers of those of *names* that *option* lists."""
    listed = options.value(option, "").split(",")
    return [number for number, name in enumerate(names) if name in listed]


def _bits(numbers: list[int]) -> int:
    return sum(1 << number for number in numbers)


def _shortest(ways: list[Callable[[bytes], bytes]]) -> Callable[[bytes], bytes]:
    """The result of that one of *ways* that gives the shortest; the first one of equals."""
    return ways[0] if len(ways) == 1 else lambda data: min((way(data) for way in ways), key=len)


def _metadata(block: bytes) -> bytes:
    return struct.pack("<H", _PLAIN | len(block)) + block if block else b""


_COMPRESSORS: dict[str, Callable[[SquashOptions], Compressor]] = {
    "gzip": _gzip,
    "lzo": _lzo,
    "xz": _xz,
    "lz4": _lz4,
    "zstd": _zstd,
}
_HINTS = {
    "gzip": "It is a part of Python: install the whole of Python.",
    "lzo": "Install it (Debian: liblzo2-2, Red Hat: lzo), or choose another compressor: ENROOT_SQUASH_OPTIONS.",
    "xz": "It is a part of Python that yours was built without: choose another compressor with ENROOT_SQUASH_OPTIONS.",
    "lz4": "Install it (Debian: liblz4-1, Red Hat: lz4-libs), or choose another compressor: ENROOT_SQUASH_OPTIONS.",
    "zstd": "Install the Python package backports.zstd, or choose another compressor: ENROOT_SQUASH_OPTIONS.",
}
