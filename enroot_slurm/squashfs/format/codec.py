"""Decompressors for metadata blocks (squashfs-tools-ng, doc/format.adoc, "Supported Compressors").

This program writes all tables plain.  Layer images by mksquashfs are read, too: of those, only the fragment table is
compressed, because mksquashfs cannot leave it plain without also leaving fragments plain (``-noF``).

Python has no lzo and no lz4.  They come from the C libraries that also make layer images with them.  `CannotJoin` is
raised where such a library is missing.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from enroot_slurm.squashfs.format.superblock import CannotJoin

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["METADATA_SIZE", "decompress"]

METADATA_SIZE = 8192
"""The most bytes that a metadata block holds."""

_XZ_MEMORY = 16 << 20  # a dictionary of the largest block, 1 MiB, with room to spare


def decompress(compressor: str, block: bytes) -> bytes:
    """The content of a metadata block.  Raises: CannotJoin, also for more than `METADATA_SIZE` bytes."""
    try:
        content = _CODECS[compressor](block)
    except (KeyError, ImportError, OSError) as error:
        raise CannotJoin(f"metadata in {compressor} can't be decompressed here: {error}") from None
    except Exception as error:  # noqa: BLE001  each library has its own
        raise CannotJoin(f"a block of metadata in {compressor} is damaged: {error}") from None
    if not 0 < len(content) <= METADATA_SIZE:
        raise CannotJoin(f"a block of metadata in {compressor} is damaged")
    return content


def _gzip(block: bytes) -> bytes:
    import zlib  # noqa: PLC0415  one of these is used, if any

    return zlib.decompressobj().decompress(block, METADATA_SIZE + 1)


def _xz(block: bytes) -> bytes:
    import lzma  # noqa: PLC0415

    return lzma.LZMADecompressor(lzma.FORMAT_XZ, _XZ_MEMORY).decompress(block, METADATA_SIZE + 1)


def _zstd(block: bytes) -> bytes:
    if sys.version_info >= (3, 14):
        from compression import zstd  # noqa: PLC0415
    else:
        from backports import zstd  # noqa: PLC0415

    content: bytes = zstd.ZstdDecompressor().decompress(block, METADATA_SIZE + 1)
    return content


def _lzo(block: bytes) -> bytes:
    import ctypes  # noqa: PLC0415

    library = ctypes.CDLL("liblzo2.so.2")
    room = ctypes.create_string_buffer(METADATA_SIZE)
    size = ctypes.c_size_t(METADATA_SIZE)
    if library.lzo1x_decompress_safe(block, ctypes.c_size_t(len(block)), room, ctypes.byref(size), None):
        raise ValueError("lzo")
    return room.raw[: size.value]


def _lz4(block: bytes) -> bytes:
    import ctypes  # noqa: PLC0415

    library = ctypes.CDLL("liblz4.so.1")
    room = ctypes.create_string_buffer(METADATA_SIZE)
    size = library.LZ4_decompress_safe(block, room, len(block), METADATA_SIZE)
    return room.raw[: max(size, 0)]


_CODECS: dict[str, Callable[[bytes], bytes]] = {"gzip": _gzip, "lzo": _lzo, "xz": _xz, "lz4": _lz4, "zstd": _zstd}
