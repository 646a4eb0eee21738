import shlex
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.errors import ConfigError
from enroot_slurm.squashfs.options import SquashOptions

SIZES = ["8K", "128k", "131072", "1M", "65536"]
COMPRESSORS = {
    "gzip": ["", "-Xcompression-level 3", "-Xcompression-level 9", "-Xwindow-size 12", "-Xstrategy fixed,filtered"],
    "lzo": ["", "-Xcompression-level 2", "-Xalgorithm lzo1x_1_15", "-Xalgorithm lzo1x_999"],
    "lz4": ["", "-Xhc"],
    "xz": ["", "-Xbcj arm,x86", "-Xdict-size 100%"],
    "zstd": ["", "-Xcompression-level 1", "-Xcompression-level 15", "-Xcompression-level 22"],
}
FLAGS = [
    "-noI", "-noInodeCompression", "-noId", "-noIdTableCompression", "-noD", "-noDataCompression", "-noF",
    "-noFragmentCompression", "-noX", "-noXattrCompression", "-no-fragments", "-no-duplicates", "-no-exports",
    "-exports", "-no-tailends", "-tailends", "-always-use-fragments", "-exit-on-error", "-no-progress", "-quiet",
    "-nopad", "-all-root", "-noappend", "-no-xattrs", "-processors 2", "-mem 64M", "-mem 64", "-mkfs-time 5",
    "-fstime 6", "-all-time 7",
]  # fmt: skip


@st.composite
def option_texts(draw):
    """Option texts that the parser should take, as lists of options in any order."""
    compressor = draw(st.sampled_from(sorted(COMPRESSORS)))
    options = draw(st.lists(st.sampled_from(FLAGS), max_size=8))
    options.append(f"-comp {compressor}")
    options.append(draw(st.sampled_from(COMPRESSORS[compressor])))
    if draw(st.booleans()):
        options.append(f"-b {draw(st.sampled_from(SIZES))}")
    return draw(st.permutations(options))


@given(option_texts())
def test_text_of_options_is_parsed_to_the_same_options(options):
    """Parsing is idempotent: the text of parsed options, and their canonical arguments, parse to themselves."""
    parsed = SquashOptions.parse(" ".join(options))
    assert SquashOptions.parse(str(parsed)) == parsed
    assert SquashOptions.parse(shlex.join(parsed.arguments)).arguments == parsed.arguments


@given(option_texts(), st.randoms())
def test_order_is_no_difference(options, random):
    """Options in another order are the same options, unless two of them contradict each other."""
    shuffled = random.sample(options, len(options))
    contradicting = {"-exports", "-no-exports", "-no-tailends", "-tailends", "-always-use-fragments"}
    contradicting |= {"-mkfs-time 5", "-fstime 6"}
    calm = [[o for o in order if o not in contradicting] for order in (options, shuffled)]
    assert SquashOptions.parse(" ".join(calm[0])) == SquashOptions.parse(" ".join(calm[1]))


def test_empty_text_is_mksquashfs_default():
    """Without any option it is gzip with blocks of 128K."""
    options = SquashOptions.parse("")
    assert options == SquashOptions("gzip", 131072, ("-comp", "gzip", "-b", "131072"))


def test_enroot_default():
    """enroot's default options come out in canonical form."""
    options = SquashOptions.parse("-comp lzo -noD")
    assert options.compressor == "lzo"
    assert options.arguments == ("-comp", "lzo", "-b", "131072", "-Xalgorithm", "lzo1x_1_15", "-noD")
    assert options.recipe == "-comp lzo -b 131072 -Xalgorithm lzo1x_1_15 -noD"


@pytest.mark.parametrize(
    ("text", "algorithm"),
    [
        ("-comp lzo -noD", "lzo1x_1_15"),
        ("-comp lzo", None),
        ("-comp lzo -noD -Xalgorithm lzo1x_999", "lzo1x_999"),
        ("-comp lzo -noD -Xcompression-level 8", "lzo1x_999"),
        ("-comp lzo -noD -Xcompression-level 7", "lzo1x_999"),
        ("-comp lzo -noD -Xalgorithm lzo1x_1", "lzo1x_1"),
    ],
)
def test_the_lzo_algorithm(text, algorithm):
    """A fast one is taken where none is stated and only tails are compressed; what is stated is honoured."""
    options = SquashOptions.parse(text)
    assert options.value("-Xalgorithm", "") == (algorithm or "")
    assert SquashOptions.parse(options.recipe) == options
    assert options.for_layers.value("-Xalgorithm", "") == (algorithm or "")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("-comp zstd -b 1M", "-b 1048576 -comp zstd"),
        ("-noDataCompression", "-noD"),
        ("-noI -noId", "-noInodeCompression"),
        ("-tailends", "-always-use-fragments"),
        ("-comp gzip -Xcompression-level 9 -Xwindow-size 15", ""),
        ("-comp lzo -Xalgorithm lzo1x_999 -Xcompression-level 8", "-comp lzo"),
        ("-comp zstd -Xcompression-level 15", "-comp zstd"),
        ("-comp xz -b 1M -Xdict-size 75%", "-comp xz -b 1M -Xdict-size 768K"),
        ("-comp xz -Xdict-size 100%", "-comp xz"),
        ("-comp xz -Xbcj arm,x86,arm", "-comp xz -Xbcj x86,arm"),
        ("-comp zstd -comp lzo", "-comp lzo"),
        ("-exports -no-exports", "-no-exports"),
        ("-all-root -noappend -no-xattrs -no-progress", ""),
        ("-fstime 3", "-mkfs-time 3"),
        ("'-comp' \"zstd\"", "-comp zstd"),
    ],
)
def test_two_spellings_have_one_recipe(one, other):
    """Aliases, stated defaults, sizes, quotes and repetitions make no difference."""
    assert SquashOptions.parse(one) == SquashOptions.parse(other)


def test_processors_and_memory_stand_apart():
    """What does not shape the image is neither in the arguments nor in the recipe."""
    options = SquashOptions.parse("-processors 3 -mem 512M -quiet -exit-on-error")
    assert (options.processors, options.memory) == (3, 512 << 20)
    assert options.arguments == ("-comp", "gzip", "-b", "131072", "-exit-on-error", "-quiet")
    assert options.recipe == SquashOptions.parse("").recipe


def test_plain_memory_is_in_megabytes():
    """mksquashfs takes a plain number after -mem for megabytes, but one after -b for bytes."""
    assert SquashOptions.parse("-mem 64").memory == 64 << 20


def test_times():
    """-mkfs-time is the image's, -all-time is its files', and both are part of the recipe."""
    options = SquashOptions.parse("-all-time 5 -mkfs-time 6")
    assert (options.image_time(None), options.files_time(None)) == (6, 5)
    assert (options.image_time(7), options.files_time(7)) == (6, 5)
    options = SquashOptions.parse("")
    assert (options.image_time(7), options.files_time(None)) == (7, None)
    assert SquashOptions.parse("-all-time 5").recipe != SquashOptions.parse("").recipe


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("-p 'x f 644 0 0 id'", "-p is not allowed: it can run commands", ""),
        ("-comp lzo -action 'exec(id)@true'", "-action is not allowed: it can run commands", ""),
        ("-pf /tmp/x", "-pf is not allowed: it reads a file of the node that can run commands", ""),
        ("-ef /etc/shadow", "-ef is not allowed: it reads a file of the node", ""),
        ("-recover x", "-recover is not allowed: it writes a file of the node", ""),
        ("-xattrs", "-xattrs is not allowed: it changes what is in the image", ""),
        ("-no-exprts", "'-no-exprts' is unknown or not allowed", "Did you mean -no-exports?"),
        ("-comp=lzo", "'-comp=lzo' is unknown", "Write -comp and its value as two words."),
        ("lzo", "not an option of mksquashfs: 'lzo'", "Options start with '-'."),
        ("-comp", "-comp needs a value", ""),
        ("-comp lzma", "-comp: expected one of gzip, lzo, lz4, xz, zstd, got 'lzma'", "The kernel can't mount lzma"),
        ("-comp zst", "got 'zst'", "Did you mean zstd?"),
        ("-comp zstd -Xcompression-level 23", "expected a whole number from 1 to 22, got '23'", ""),
        ("-comp gzip -Xcompression-level 10", "expected a whole number from 1 to 9, got '10'", ""),
        ("-comp lz4 -Xcompression-level 1", "-Xcompression-level is not for -comp lz4, but for gzip, lzo, zstd", ""),
        ("-comp zstd -Xhc", "-Xhc is not for -comp zstd, but for lz4", ""),
        ("-comp lzo -Xalgorithm lzo1x_1 -Xcompression-level 3", "is for -Xalgorithm lzo1x_999 only", ""),
        ("-comp lzo -Xalgorithm lzo1x_1,lzo1x_999", "expected one of lzo1x_1,", ""),
        ("-comp xz -Xdict-size 5000", "-Xdict-size: expected 8K to the block size", ""),
        ("-comp xz -b 4K -Xdict-size 8K", "-Xdict-size: expected 8K to the block size", ""),
        ("-comp xz -Xdict-size 33.3%", "-Xdict-size: expected 8K to the block size", ""),
        ("-comp xz -Xbcj x86,x87", "got 'x87'", "Did you mean x86?"),
        ("-b 3K", "-b: expected a power of two from 4K to 1M, got '3K'", ""),
        ("-b 2M", "expected a power of two from 4K to 1M", ""),
        ("-b 0x20000", "expected a power of two from 4K to 1M", ""),
        ("-mem 15M", "-mem: expected a size of at least 16M, got '15M'", ""),
        ("-processors 0", "-processors: expected a whole number from 1 to 1024", ""),
        ("-all-time now", "-all-time: expected a whole number from 0 to 4294967295", ""),
        ("-all-time 4294967296", "-all-time: expected a whole number from 0 to 4294967295", ""),
        ("-comp 'lzo", "unbalanced quotes", ""),
        ("-comp \x1b[31m", "got '\\x1b[31m'", ""),
    ],
)
def test_refused(text, message, hint):
    """A refusal names the option, says why, and what was perhaps meant."""
    with pytest.raises(ConfigError) as caught:
        SquashOptions.parse(text)
    assert message in str(caught.value)
    assert hint in caught.value.hint


@given(st.text(alphabet="-abcnopXD 0123456789'\"\\$(K%=,", max_size=40))
def test_any_text_is_parsed_or_refused(text):
    """No text makes anything but options of the allow-list, or a ConfigError."""
    try:
        options = SquashOptions.parse(text)
    except ConfigError:
        return
    assert options.arguments[0] == "-comp"


@pytest.mark.skipif(not shutil.which("mksquashfs"), reason="mksquashfs is not installed")
@pytest.mark.parametrize(
    "text",
    [f"-comp {c} {o}" for c, options in COMPRESSORS.items() for o in options] + FLAGS,
)
def test_mksquashfs_takes_canonical_arguments(text, tmp_path):
    """What the parser lets through, mksquashfs takes: in canonical form and with processors and memory."""
    source = tmp_path / "source"
    source.mkdir()
    (source / "file").write_bytes(b"x" * 200_000)
    program = shutil.which("mksquashfs")
    command = [program, source, tmp_path / "image", *str(SquashOptions.parse(text)).split(), "-no-progress"]
    done = subprocess.run(command, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
