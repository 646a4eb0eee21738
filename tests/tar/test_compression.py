"""Decompression: sniffed, bounded, and never silently incomplete."""

from __future__ import annotations

import gzip
import shutil
import sys
import zlib

import pytest

from enroot_slurm.errors import ConversionError, IntegrityError, UnsupportedImage
from enroot_slurm.rootfs.read_ahead import prefetch
from enroot_slurm.tar.compression import CHUNK, decompress

zstd = pytest.importorskip("backports.zstd") if sys.version_info < (3, 14) else __import__("compression.zstd").zstd

DATA = b"".join(b"line %d of a layer\n" % i for i in range(200_000))
PACKED = {"gzip": gzip.compress(DATA, 1), "zstd": zstd.compress(DATA), "plain": DATA}
GZIP_WAYS = ["zlib-ng", "pigz", "gzip", "zlib", "program"]


@pytest.fixture
def way(request, monkeypatch):
    """Take away what is faster than the wanted way to decode gzip."""
    from enroot_slurm.tar import compression

    if request.param in ("pigz", "gzip", "zlib"):
        monkeypatch.setitem(sys.modules, "zlib_ng", None)
        known = {"pigz": {"pigz"}, "gzip": {"gzip"}, "zlib": set()}[request.param]
        real = compression.shutil.which
        monkeypatch.setattr(compression.shutil, "which", lambda name: real(name) if name in known else None)
    return "gzip" if request.param == "program" else ""


def pieces(data, size=100_000):
    return (data[i : i + size] for i in range(0, len(data), size))


@pytest.mark.parametrize("kind", PACKED)
@pytest.mark.parametrize("size", [1, 1000, 1 << 22])
def test_any_packing_in_any_pieces(kind, size):
    """The packing is told from the first bytes, and pieces of any size are decoded."""
    data, packed = (DATA, PACKED[kind]) if size > 1 else (DATA[:3000], None)
    if packed is None:
        packed = {"gzip": gzip.compress, "zstd": zstd.compress, "plain": bytes}[kind](data)
    assert b"".join(decompress(pieces(packed, size))) == data


@pytest.mark.parametrize("way", GZIP_WAYS, indirect=True)
def test_all_ways_to_decode_gzip(way):
    """The library, pigz, gzip, zlib and a program of the user's give the same."""
    assert b"".join(decompress(pieces(PACKED["gzip"]), way)) == DATA


@pytest.mark.parametrize("way", GZIP_WAYS, indirect=True)
def test_damaged_gzip_is_refused(way):
    """A cut or changed gzip stream ends with an error in every way."""
    packed = PACKED["gzip"]
    for damaged in (
        packed[: len(packed) // 2],
        packed[:-4] + b"\0\1\2\3",
        packed[:5000] + b"\xff" * 50 + packed[5050:],
    ):
        with pytest.raises(IntegrityError):
            list(decompress(pieces(damaged), way))


def test_damaged_zstd_is_refused():
    """A cut or changed zstd stream ends with an error."""
    packed = zstd.compress(DATA, options={zstd.CompressionParameter.checksum_flag: 1})
    for damaged in (packed[: len(packed) // 2], packed[:1000] + b"\xff" * 50 + packed[1050:]):
        with pytest.raises(IntegrityError):
            list(decompress(pieces(damaged)))


def test_several_members_frames_and_padding():
    """Concatenated gzip members (eStargz), zstd frames with skippable ones (zstd:chunked) and zero padding are fine."""
    assert b"".join(decompress([gzip.compress(b"a") + gzip.compress(b"b") + bytes(512)])) == b"ab"
    skippable = b"\x50\x2a\x4d\x18" + (4).to_bytes(4, "little") + b"toc!"
    assert b"".join(decompress([skippable + zstd.compress(b"a") + skippable + zstd.compress(b"b")])) == b"ab"


def test_bombs_come_in_small_pieces():
    """A gigabyte of zeros in a megabyte never is in memory at once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    packed = b"".join([*(packer.compress(bytes(1 << 20)) for _ in range(256)), packer.flush()])
    sizes = [len(piece) for piece in decompress([packed])]
    assert sum(sizes) == 256 << 20
    assert max(sizes) <= CHUNK
    zbomb = zstd.compress(bytes(256 << 20))
    assert max(len(piece) for piece in decompress([zbomb])) <= CHUNK


@pytest.mark.parametrize(("magic", "name"), [(b"\xfd7zXZ\0", "xz"), (b"BZh91AY", "bzip2")])
def test_other_compressions_are_named(magic, name):
    """A layer in a compression that images do not use is refused by its name."""
    with pytest.raises(UnsupportedImage, match=name):
        list(decompress([magic]))


def test_a_missing_program_is_named():
    """A gzip program that is not there is an error with what to do."""
    with pytest.raises(ConversionError, match="no-such-gzip") as caught:
        list(decompress([PACKED["gzip"]], "no-such-gzip"))
    assert "ENROOT_GZIP_PROGRAM" in caught.value.hint


def test_empty_layers():
    """No bytes at all are an empty archive."""
    assert b"".join(decompress([])) == b""


def test_prefetch_passes_errors_on_and_can_be_closed():
    """What the source raises, the consumer gets; a consumer that leaves early leaves no thread behind."""
    import threading

    def broken():
        yield b"a"
        raise IntegrityError("broken")

    received = []
    with pytest.raises(IntegrityError, match="broken"):
        received.extend(prefetch(broken()))
    stream = prefetch(b"x" for _ in range(1000))
    assert next(stream) == b"x"
    stream.close()
    for thread in threading.enumerate():
        if thread.name == "prefetch":
            thread.join(5)
            assert not thread.is_alive()


@pytest.mark.parametrize("kind", ["gzip", "zstd"])
def test_a_ratio_is_no_verdict(kind):
    """Zeros, such as a lastlog of a large UID, are more than a thousand times their blob; whoever reads has a limit."""
    zeros = bytes(64 << 20)
    packed = zstd.compress(zeros) if kind == "zstd" else gzip.compress(zeros)
    assert len(zeros) > 1000 * len(packed)
    assert sum(map(len, decompress(pieces(packed)))) == len(zeros)


_JUNK = [b"x", b"\0\0junk", b"\x1f", b"\n", bytes(600) + b"junk" * 100_000]


# A program called gzip takes less than a header for a header that is cut short: such junk is left out.
@pytest.mark.parametrize(
    ("way", "junk"),
    [(way, junk) for way in GZIP_WAYS for junk in _JUNK if len(junk) >= 4 or way not in {"gzip", "program"}],
    indirect=["way"],
)
@pytest.mark.parametrize("size", [1000, 1 << 22])
def test_junk_behind_gzip_is_ignored_with_a_warning(way, request, junk, size):
    """As by other tools; all of the blob is read, since its digest is of all.  Of programs, pigz says nothing."""
    way = (request.node.callspec.params["way"], way)
    read = []

    def blob():
        for piece in pieces(PACKED["gzip"] + junk, size):
            read.append(len(piece))
            yield piece

    warnings = []
    assert b"".join(decompress(blob(), way[1], warnings.append)) == DATA
    if way[0] in ("zlib-ng", "zlib"):
        assert len(warnings) == 1
        assert sum(read) == len(PACKED["gzip"]) + len(junk)


def test_a_program_that_complains_at_length(tmp_path):
    """More on its standard error than a pipe holds stops nobody."""
    program = tmp_path / "loud"
    program.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\nexec gzip -dc\n")
    program.chmod(0o755)
    assert b"".join(decompress(pieces(PACKED["gzip"]), str(program))) == DATA
    program.write_text("#!/bin/sh\nhead -c 300000 /dev/zero | tr '\\0' x >&2\nexit 1\n")
    with pytest.raises(IntegrityError, match="loud could not decode a layer.*xxx") as caught:
        list(decompress(pieces(PACKED["gzip"]), str(program)))
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("program", [False, True])
def test_a_large_window_is_named(program, monkeypatch):
    """A window of 256 MiB is no damage: the message says what it is."""
    options = {zstd.CompressionParameter.window_log: 28, zstd.CompressionParameter.content_size_flag: 0}
    packer = zstd.ZstdCompressor(options=options)
    packed = packer.compress(DATA) + packer.flush()
    if program:
        if shutil.which("zstd") is None:
            pytest.skip("there is no zstd program")
        for name in ("compression", "backports", "backports.zstd"):
            monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnsupportedImage, match="window of more than 128 MiB") as caught:
        list(decompress(pieces(packed)))
    assert "--long" in caught.value.hint
