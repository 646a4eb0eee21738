"""The checksum of a file that is written piece by piece."""

from __future__ import annotations

import os
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from enroot_slurm.system import checksum as module
from enroot_slurm.system.checksum import Checksum

MIB = 1 << 20


def of(data: bytes) -> str:
    checksum = Checksum()
    checksum.add(data)
    return checksum.hexdigest()


@pytest.mark.parametrize("size", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 5])
def test_pieces_make_no_difference(size) -> None:
    data = os.urandom(size)
    checksum = Checksum()
    for at in range(0, size, 100_001):
        checksum.add(memoryview(data)[at : at + 100_001])
    assert checksum.hexdigest() == of(data)


@settings(deadline=None, max_examples=50)
@given(bit=st.integers(0, 8 * (2 * MIB + 1000) - 1))
def test_every_flipped_bit_is_found(bit) -> None:
    data = bytearray(2 * MIB + 1000)
    before = of(data)
    data[bit // 8] ^= 1 << bit % 8
    assert of(data) != before


def test_order_counts() -> None:
    """Whole steps that have changed their places are found, and a step of zeros more or less."""
    first, second = os.urandom(MIB), os.urandom(MIB)
    assert len({of(first + second), of(second + first), of(first + second + bytes(MIB)), of(first)}) == 4


@settings(deadline=None, max_examples=50)
@given(steps=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 2 * MIB)), max_size=6), head=st.integers(1, 200))
def test_what_is_written_again(tmp_path_factory, steps, head) -> None:
    """Taking back, going on, a rest that was not told, and a head that comes last: as if the file were read."""
    fd = os.open(tmp_path_factory.getbasetemp(), os.O_RDWR | os.O_TMPFILE)
    try:
        checksum, at = Checksum(), head
        checksum.add(bytes(head))
        os.pwrite(fd, bytes(head), 0)
        for back, size in steps:
            data = os.urandom(size)
            os.pwrite(fd, data, at)
            checksum.add(data)
            at = max(head, int(at + size - back * size))
            checksum.rewind(fd, at)
        os.ftruncate(fd, at)
        os.pwrite(fd, b"tables", at)
        checksum.add_rest(fd)
        os.pwrite(fd, b"x" * head, 0)
        checksum.rewrite_head(fd)
        assert checksum.hexdigest() == of(os.pread(fd, 1 << 30, 0))
    finally:
        os.close(fd)


def test_without_zlib_ng(monkeypatch) -> None:
    data = os.urandom(2 * MIB)
    before = of(data)
    monkeypatch.setitem(sys.modules, "zlib_ng", None)
    assert module._crc32().__module__ == "zlib"
    assert of(data) == before
