"""The hint that an import spends its time compressing: when it is given, and what it is measured on."""

from __future__ import annotations

import time

import pytest
from support.stacks import noise

from enroot_slurm.squashfs.options import SquashOptions
from enroot_slurm.squashfs.writing.compressors import compressor_of
from enroot_slurm.squashfs.writing.thrift import FASTER, Compressing, options_with, try_out

TEXT = b"".join(b"def function_%d(argument):\n    return %d\n" % (n, n * n) for n in range(3000))


def hint_of(options: str, *, shortest: float = 0.0, idle: float = 0.0) -> str:
    """The hint after some blocks were compressed, and nothing was done for *idle* times as long."""
    parsed = SquashOptions.parse(options)
    compressing = Compressing(parsed, 1, shortest=shortest)
    compress = compressing.counted(compressor_of(parsed).compress)
    began = time.monotonic()
    for number in range(6):
        compress(TEXT + noise(1000, number))
    time.sleep(idle * (time.monotonic() - began))
    return compressing.hint()


@pytest.mark.parametrize("options", ["-comp xz", "-comp xz -noD -b 1M", "-comp zstd -Xcompression-level 22"])
def test_a_slow_compressor_is_told(options: str) -> None:
    """The hint names options that are faster, by how much, and what they cost."""
    hint = hint_of(options)
    assert "% of the processors' time went into compressing" in hint
    assert any(f"'{words}' is " in hint for words in FASTER)
    assert "times as fast" in hint
    assert "larger (setting squash_options)" in hint


def test_a_fast_one_is_not() -> None:
    """Where nothing is twice as fast, there is nothing to say."""
    assert hint_of("-comp lz4") == ""


def test_an_import_that_does_other_things_is_not() -> None:
    """Who waits for the network would gain nothing; nor does who is done in some seconds."""
    assert hint_of("-comp zstd", idle=2.0) == ""
    assert hint_of("-comp xz", shortest=1e6) == ""


def test_without_a_block_there_is_no_hint() -> None:
    """An image of plain data compresses nothing."""
    assert Compressing(SquashOptions.parse("-comp xz"), 2, shortest=0.0).hint() == ""


def test_few_blocks_are_kept() -> None:
    """However many blocks there are, the sample is small, and from all over the image."""
    compressing = Compressing(SquashOptions.parse("-comp lz4"), 1)
    compress = compressing.counted(lambda data: data)
    for number in range(10_000):
        compress(number.to_bytes(4, "big") * 4096)
    sample = [int.from_bytes(block[:4], "big") for block in compressing._sample]
    assert sum(map(len, compressing._sample)) <= 2 << 20
    assert len(sample) > 50
    assert sample == sorted(sample)
    assert sample[0] < 1000
    assert sample[-1] > 9000


@pytest.mark.parametrize(
    ("before", "words", "after"),
    [
        ("-comp xz -Xdict-size 100% -noD", "-comp lz4", "-noD -comp lz4"),
        ("-comp lz4 -Xhc -b 1M", "-comp zstd -Xcompression-level 1", "-b 1M -comp zstd -Xcompression-level 1"),
        ("-noD -comp lzo -Xalgorithm lzo1x_999", "-comp lz4", "-noD -comp lz4"),
    ],
)
def test_only_the_compressor_is_replaced(before: str, words: str, after: str) -> None:
    """Other options stay."""
    assert options_with(SquashOptions.parse(before), words).recipe == SquashOptions.parse(after).recipe


def test_trials_compare() -> None:
    """Better compression gives fewer bytes; noise counts as what it is, since it is stored so."""
    assert (
        try_out(SquashOptions.parse("-comp xz"), [TEXT]).size < try_out(SquashOptions.parse("-comp lz4"), [TEXT]).size
    )
    assert try_out(SquashOptions.parse("-comp lz4"), [noise(1000, 1)]).size == 1000
