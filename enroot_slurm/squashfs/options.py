"""The options of mksquashfs that a user may choose: the value of ``ENROOT_SQUASH_OPTIONS``.

mksquashfs has options that run commands (``-p "x f 644 0 0 CMD"``, ``-action "exec(..)"``) and that read or write any
file (``-pf``, ``-sort``, ``-ef``, ``-recover``).  So the text is split into words as a shell would, without a shell,
and only the options of an allow-list are taken.  What depends on the compressor is checked here too: a mistake is
reported when the settings are read, not after the download.

Two spellings of the same options have the same `SquashOptions.arguments`: aliases, order, repetitions (the last one
counts, as in mksquashfs), sizes and stated defaults are normalised.  That makes the options a part of a cache key.

Sources: mksquashfs 4.5.1, ``-help``, mksquashfs.c and *_wrapper.c; verified by running it.
"""

from __future__ import annotations

import re
import shlex
from typing import NamedTuple

from enroot_slurm.errors import ConfigError, printable

__all__ = ["SquashOptions"]

_DEFAULT_BLOCK = 128 << 10
_MIN_MEMORY = 16 << 20
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_SIZE = re.compile(r"(0|[1-9][0-9]{0,11})([KMG]?)", re.ASCII | re.IGNORECASE)
_NUMBER = re.compile(r"0|[1-9][0-9]{0,11}", re.ASCII)
_PERCENT = re.compile(r"([0-9]{1,3}(?:\.[0-9]{1,6})?)%", re.ASCII)


class _Compressor(NamedTuple):
    """The compressor options that one compressor takes, with their ranges, and the defaults as mksquashfs has them."""

    options: frozenset[str] = frozenset()
    max_level: int = 0
    defaults: tuple[tuple[str, str], ...] = ()


_COMPRESSORS = {
    "gzip": _Compressor(
        frozenset({"-Xcompression-level", "-Xwindow-size", "-Xstrategy"}),
        9,
        (("-Xcompression-level", "9"), ("-Xwindow-size", "15")),
    ),
    "lzo": _Compressor(
        frozenset({"-Xcompression-level", "-Xalgorithm"}),
        9,
        (("-Xcompression-level", "8"), ("-Xalgorithm", "lzo1x_999")),
    ),
    "lz4": _Compressor(frozenset({"-Xhc"})),
    "xz": _Compressor(frozenset({"-Xbcj", "-Xdict-size"})),
    "zstd": _Compressor(frozenset({"-Xcompression-level"}), 22, (("-Xcompression-level", "15"),)),
}
_FAST_LZO = "lzo1x_1_15"
"""The algorithm where none is stated and ``-noD`` leaves nothing to compress but tails: it is much faster than
lzo1x_999, mksquashfs' default, and the image is somewhat larger."""
_CHOICES = {
    "-Xalgorithm": ("lzo1x_1", "lzo1x_1_11", "lzo1x_1_12", "lzo1x_1_15", "lzo1x_999"),
    "-Xstrategy": ("default", "filtered", "huffman_only", "run_length_encoded", "fixed"),
    "-Xbcj": ("x86", "arm", "armthumb", "powerpc", "sparc", "ia64"),
}
_RANGES = {
    "-Xwindow-size": (8, 15),
    "-processors": (1, 1024),
    "-mkfs-time": (0, (1 << 32) - 1),
    "-all-time": (0, (1 << 32) - 1),
}

_VALUED = {
    "-comp": "-comp",
    "-b": "-b",
    "-Xcompression-level": "-Xcompression-level",
    "-Xalgorithm": "-Xalgorithm",
    "-Xwindow-size": "-Xwindow-size",
    "-Xstrategy": "-Xstrategy",
    "-Xbcj": "-Xbcj",
    "-Xdict-size": "-Xdict-size",
    "-processors": "-processors",
    "-mem": "-mem",
    "-mkfs-time": "-mkfs-time",
    "-fstime": "-mkfs-time",
    "-all-time": "-all-time",
}
_FLAGS = {
    "-Xhc": "-Xhc",
    "-noI": "-noI",
    "-noInodeCompression": "-noI",
    "-noId": "-noId",
    "-noIdTableCompression": "-noId",
    "-noD": "-noD",
    "-noDataCompression": "-noD",
    "-noF": "-noF",
    "-noFragmentCompression": "-noF",
    "-noX": "-noX",
    "-noXattrCompression": "-noX",
    "-no-fragments": "-no-fragments",
    "-no-duplicates": "-no-duplicates",
    "-no-exports": "-no-exports",
    "-exports": "-exports",
    "-no-tailends": "-no-tailends",
    "-tailends": "-always-use-fragments",
    "-always-use-fragments": "-always-use-fragments",
    "-exit-on-error": "-exit-on-error",
    "-quiet": "-quiet",
    "-nopad": "-nopad",
}
_ALWAYS_ON = frozenset({"-all-root", "-root-owned", "-noappend", "-no-xattrs", "-no-progress"})
_OPPOSITES = {
    "-exports": "-no-exports",
    "-no-exports": "-exports",
    "-no-tailends": "-always-use-fragments",
    "-always-use-fragments": "-no-tailends",
}
_SILENT = frozenset({"-exit-on-error", "-quiet"})  # they change what mksquashfs does, never what it writes

_RUNS = "it can run commands"
_READS = "it reads a file of the node"
_WRITES = "it writes a file of the node"
_CONTENT = "it changes what is in the image"
_SOURCE = "how the image is fed to mksquashfs is not an option"
_REASONS = {
    "-p": _RUNS, "-action": _RUNS, "-log-action": _RUNS, "-true-action": _RUNS, "-false-action": _RUNS,
    "-action-file": _RUNS, "-log-action-file": _RUNS, "-true-action-file": _RUNS, "-false-action-file": _RUNS,
    "-pf": "it reads a file of the node that can run commands",
    "-sort": _READS, "-ef": _READS, "-recover": _WRITES, "-recovery-path": _WRITES,
    "-e": _CONTENT, "-wildcards": _CONTENT, "-regex": _CONTENT, "-root-becomes": _CONTENT, "-root-mode": _CONTENT,
    "-root-uid": _CONTENT, "-root-gid": _CONTENT, "-root-time": _CONTENT, "-force-uid": _CONTENT,
    "-force-gid": _CONTENT, "-keep-as-directory": _CONTENT, "-one-file-system": _CONTENT, "-xattrs": _CONTENT,
    "-tar": _SOURCE, "-tarstyle": _SOURCE, "-cpiostyle": _SOURCE, "-cpiostyle0": _SOURCE, "-no-strip": _SOURCE,
    "-offset": "the image would not start at the beginning of its file",
    "-o": "the image would not start at the beginning of its file",
    "-not-reproducible": "the image would differ with each conversion",
    "-info": "it prints the name of each file", "-progress": "there is no terminal",
}  # fmt: skip


class SquashOptions(NamedTuple):
    """Checked options of mksquashfs; made by `parse` only.

    compressor  the name after ``-comp``; gzip is mksquashfs' default
    block_size  bytes
    arguments   the canonical arguments: ``-comp``, ``-b``, then all that shapes the image or the run, sorted
    processors  what the options ask for, or None; not in *arguments*, since other settings have a say
    memory      likewise, in bytes
    """

    compressor: str
    block_size: int
    arguments: tuple[str, ...]
    processors: int | None = None
    memory: int | None = None

    @classmethod
    def parse(cls, text: str) -> SquashOptions:
        """The options that *text* spells; an empty text is mksquashfs' defaults.

        Raises: ConfigError, which names the option and says why it is refused.
        """
        try:
            words = shlex.split(text)
        except ValueError as error:
            raise ConfigError(f"unbalanced quotes in '{printable(text)}': {error}") from None
        options = _collect(words)
        compressor = options.pop("-comp", "gzip")
        if compressor not in _COMPRESSORS:
            raise _refused_value("-comp", compressor, f"one of {', '.join(_COMPRESSORS)}", _why_compressor(compressor))
        block_size = _block_size(options.pop("-b", str(_DEFAULT_BLOCK)))
        options = {name: _normal(name, value, compressor, block_size) for name, value in options.items()}
        _check_together(options, compressor)
        processors, memory = options.pop("-processors", None), options.pop("-mem", None)
        tails_only = compressor == "lzo" and "-noD" in options
        if tails_only:
            options.setdefault("-Xalgorithm", "lzo1x_999" if "-Xcompression-level" in options else _FAST_LZO)
        for name, default in (*_COMPRESSORS[compressor].defaults, ("-Xdict-size", str(block_size))):
            if options.get(name) == default and not (tails_only and name == "-Xalgorithm"):
                del options[name]
        if "-noI" in options:
            options.pop("-noId", None)  # implied
        canonical = ["-comp", compressor, "-b", str(block_size)]
        for name in sorted(options):
            canonical += [name, options[name]] if options[name] else [name]
        return cls(
            compressor,
            block_size,
            tuple(canonical),
            int(processors) if processors else None,
            int(memory) if memory else None,
        )

    def value(self, name: str, default: str) -> str:
        """The value of the option *name*, or *default*."""
        return self.arguments[self.arguments.index(name) + 1] if name in self.arguments else default

    def number(self, name: str, default: int) -> int:
        """The same as a number."""
        return int(self.value(name, str(default)))

    def image_time(self, epoch: int | None) -> int | None:
        """The time of the image, in seconds since 1970, where these or SOURCE_DATE_EPOCH say one."""
        return self.number("-mkfs-time", 0) if "-mkfs-time" in self.arguments else epoch

    def files_time(self, epoch: int | None) -> int | None:
        """The time of all files, likewise."""
        return self.number("-all-time", 0) if "-all-time" in self.arguments else epoch

    @property
    def recipe(self) -> str:
        """A stable text of all that shapes the bytes of an image: equal recipes, equal images."""
        return " ".join(word for word in self.arguments if word not in _SILENT)

    @property
    def for_layers(self) -> SquashOptions:
        """The options for images of single layers, which are to be linked: plain tables, and times of their own."""
        words = [word for word in self.arguments if word not in _SILENT]
        for name in ("-mkfs-time", "-all-time"):
            if name in words:
                at = words.index(name)
                del words[at : at + 2]
        layers = SquashOptions.parse(" ".join([*words, "-noI", "-noX"]))
        return layers._replace(processors=self.processors, memory=self.memory)

    def __str__(self) -> str:
        words = list(self.arguments)
        if self.processors is not None:
            words += ["-processors", str(self.processors)]
        if self.memory is not None:
            words += ["-mem", f"{self.memory >> 10}K"]
        return " ".join(words)


def _collect(words: list[str]) -> dict[str, str]:
    """The options by canonical name, with their values as written (empty for flags); the last of equals counts."""
    options: dict[str, str] = {}
    rest = iter(words)
    for word in rest:
        if word in _VALUED:
            value = next(rest, "")
            if not value:
                raise ConfigError(f"mksquashfs option {word} needs a value")
            options[_VALUED[word]] = value
        elif word in _FLAGS:
            options.pop(_OPPOSITES.get(_FLAGS[word], ""), None)
            options[_FLAGS[word]] = ""
        elif word not in _ALWAYS_ON:
            raise _refused(word)
    return options


def _block_size(text: str) -> int:
    size = _size(text)
    if size is None or not 4096 <= size <= 1 << 20 or size & (size - 1):
        raise _refused_value("-b", text, "a power of two from 4K to 1M")
    return size


def _normal(name: str, value: str, compressor: str, block_size: int) -> str:
    """The one spelling of option *name*'s value; empty for a flag."""
    known = _COMPRESSORS[compressor]
    if name.startswith("-X") and name not in known.options:
        takers = [other for other, taken in _COMPRESSORS.items() if name in taken.options]
        raise ConfigError(f"mksquashfs option {name} is not for -comp {compressor}, but for {', '.join(takers)}")
    if name == "-Xcompression-level":
        return _number(name, value, 1, known.max_level)
    if name in _RANGES:
        return _number(name, value, *_RANGES[name])
    if name in _CHOICES:
        return _choices(name, value)
    if name == "-Xdict-size":
        return _dictionary_size(value, block_size)
    return _memory(value) if name == "-mem" else value


def _check_together(options: dict[str, str], compressor: str) -> None:
    algorithm = options.get("-Xalgorithm", "lzo1x_999")
    if compressor == "lzo" and "-Xcompression-level" in options and algorithm != "lzo1x_999":
        raise ConfigError(
            f"mksquashfs option -Xcompression-level is for -Xalgorithm lzo1x_999 only, not for {algorithm}"
        )


def _memory(text: str) -> str:
    """Bytes.  A plain number is in megabytes, unlike that of -b."""
    size = _size(f"{text}M" if text.isdecimal() else text)
    if size is None or not _MIN_MEMORY <= size < 1 << 50:
        raise _refused_value("-mem", text, "a size of at least 16M")
    return str(size)


def _dictionary_size(text: str, block_size: int) -> str:
    """Bytes; xz can only store powers of two and sums of two neighbouring ones."""
    if percent := _PERCENT.fullmatch(text):
        exact = float(percent[1]) * block_size / 100
        size = int(exact) if exact == int(exact) else None
    else:
        size = _size(text)
    if size is not None and 8192 <= size <= block_size:
        odd = size // (size & -size)
        if odd in {1, 3}:
            return str(size)
    expected = "8K to the block size, as 2^n or 2^n + 2^(n+1), or such a percentage of the block size"
    raise _refused_value("-Xdict-size", text, expected)


def _choices(name: str, text: str) -> str:
    known = _CHOICES[name]
    chosen = [text] if name == "-Xalgorithm" else text.split(",")
    for word in chosen:
        if word not in known:
            raise _refused_value(name, word, f"one of {', '.join(known)}", _similar(word, known))
    return ",".join(word for word in known if word in chosen)


def _number(name: str, text: str, low: int, high: int) -> str:
    if not _NUMBER.fullmatch(text) or not low <= int(text) <= high:
        raise _refused_value(name, text, f"a whole number from {low} to {high}")
    return text


def _size(text: str) -> int | None:
    match = _SIZE.fullmatch(text)
    return int(match[1]) * _UNITS[match[2].upper()] if match else None


def _refused_value(name: str, value: str, expected: str, hint: str = "") -> ConfigError:
    return ConfigError(f"mksquashfs option {name}: expected {expected}, got '{printable(value, 60)}'", hint=hint)


def _why_compressor(name: str) -> str:
    if name == "lzma":
        return "The kernel can't mount lzma images; xz is its successor."
    return _similar(name, tuple(_COMPRESSORS))


def _refused(word: str) -> ConfigError:
    shown = printable(word, 60)
    if not word.startswith("-"):
        return ConfigError(f"not an option of mksquashfs: '{shown}'", hint="Options start with '-'.")
    name = word.partition("=")[0]
    if name != word and (name in _VALUED or name in _FLAGS):
        return ConfigError(f"mksquashfs option '{shown}' is unknown", hint=f"Write {name} and its value as two words.")
    if word in _REASONS:
        return ConfigError(f"mksquashfs option {word} is not allowed: {_REASONS[word]}")
    hint = _similar(word, (*_VALUED, *_FLAGS, *_ALWAYS_ON)) or "docs/configuration.md lists the options that are."
    return ConfigError(f"mksquashfs option '{shown}' is unknown or not allowed", hint=hint)


def _similar(word: str, known: tuple[str, ...]) -> str:
    import difflib  # noqa: PLC0415 - a millisecond that only errors need

    close = difflib.get_close_matches(word, known, n=1)
    return f"Did you mean {close[0]}?" if close else ""
