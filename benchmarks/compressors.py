"""What compressors cost on tails of files: ``python benchmarks/compressors.py [DIRECTORY...]``.

With -noD, which enroot sets, only the ends of files are compressed: they are packed into blocks of 128 KiB, as the
writer of images does it.  Each set of options compresses the same blocks in one thread, in turns; the best time counts.
The first row of each compressor is what it does where no option says otherwise.
"""

from __future__ import annotations

import argparse
import os
import sys
import sysconfig
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from enroot_slurm.squashfs.options import SquashOptions  # noqa: E402  the path comes first
from enroot_slurm.squashfs.writing.thrift import Trial, try_out  # noqa: E402

_BLOCK = 128 << 10
OPTIONS = (
    "-comp lzo -noD",
    "-comp lzo -Xalgorithm lzo1x_999 -Xcompression-level 8",
    "-comp lzo -Xalgorithm lzo1x_999 -Xcompression-level 6",
    "-comp gzip",
    "-comp gzip -Xcompression-level 6",
    "-comp gzip -Xcompression-level 1",
    "-comp zstd",
    "-comp zstd -Xcompression-level 9",
    "-comp zstd -Xcompression-level 3",
    "-comp zstd -Xcompression-level 1",
    "-comp xz",
    "-comp lz4",
    "-comp lz4 -Xhc",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    paths = sysconfig.get_paths()
    default = [Path(paths["stdlib"]), Path(paths["purelib"])]
    parser.add_argument("directory", nargs="*", type=Path, default=default)
    parser.add_argument("--megabytes", type=int, default=16, help="of blocks (default: 16)")
    parser.add_argument("--repeat", type=int, default=3)
    arguments = parser.parse_args()
    blocks = tails(arguments.directory, arguments.megabytes * 1_000_000)
    size = sum(map(len, blocks))
    trials: dict[str, list[Trial]] = {options: [] for options in OPTIONS}
    before = os.getloadavg()[0]
    for _ in range(arguments.repeat):
        for options, found in trials.items():
            found.append(try_out(SquashOptions.parse(options), blocks))
    load = f"load {before:.1f} before, {os.getloadavg()[0]:.1f} after"
    print(f"{size / 1e6:.0f} MB of tails in {len(blocks)} blocks; {load}\n")
    print("| options | MB/s of one core | size | of the unstated |")
    print("| --- | ---: | ---: | --- |")
    unstated: dict[str, tuple[float, int]] = {}
    for options, found in trials.items():
        seconds, small = min(each.seconds for each in found), found[0].size
        name = options.split()[1]
        first = unstated.setdefault(name, (seconds, small))
        ratio = f"{first[0] / seconds:.1f} times as fast, {100 * small / first[1] - 100:+.1f} % of size"
        told = ratio if (seconds, small) != first else ""
        print(f"| `{options}` | {size / seconds / 1e6:.1f} | {small / size:.3f} | {told} |")
    return 0


def tails(directories: list[Path], size: int) -> list[bytes]:
    """Blocks of the tails of files below *directories*, *size* bytes of them, from files all over these."""
    files = [path for directory in directories for path in sorted(directory.rglob("*")) if path.is_file()]
    stride = next(prime for prime in (10_007, 10_009, 10_037) if len(files) % prime)
    blocks, block, at = [], bytearray(), 0
    for number in range(len(files)):
        path = files[number * stride % len(files)]
        content = path.read_bytes()
        tail = content[len(content) - len(content) % _BLOCK :]
        if len(block) + len(tail) > _BLOCK:
            blocks.append(bytes(block))
            at += len(block)
            block.clear()
            if at >= size:
                break
        block += tail
    return blocks


if __name__ == "__main__":
    raise SystemExit(main())
