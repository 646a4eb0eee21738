"""What joining layers costs by the number of inodes: ``python benchmarks/link_cost.py [--document]``.

Images of three layers are made of generated archives: four fifths of the files in the lowest, a fifth in the middle,
of which each tenth replaces one below, and whiteouts for a hundredth in the top one.  Each size is joined in processes
of their own; the fastest of three counts, in processor time, for copying the little data there is means nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from support.layer_images import opened  # noqa: E402
from support.tar_writer import header  # noqa: E402

from enroot_slurm.rootfs.entrypoint import RcLayer  # noqa: E402
from enroot_slurm.rootfs.merge import Merge  # noqa: E402
from enroot_slurm.squashfs.joining.join import join_layers  # noqa: E402
from enroot_slurm.squashfs.options import SquashOptions  # noqa: E402
from enroot_slurm.squashfs.writing.writer import ImageWriter  # noqa: E402
from enroot_slurm.tar import reader as tar  # noqa: E402  the path comes first

if TYPE_CHECKING:
    from collections.abc import Iterator

SIZES = (10_000, 60_000, 300_000, 1_000_000)
RESULT = HERE / "results/link-cost.json"
DOCUMENT = HERE.parent / "docs/benchmarks.md"
PLOT = HERE.parent / "docs/link-cost.svg"
_MARK, _END = "<!-- results: benchmarks/link_cost.py -->\n", "<!-- end of link costs -->\n"
_MOST = 15  # microseconds for each inode
_OPTIONS = SquashOptions.parse("-comp zstd -Xcompression-level 1 -noD").for_layers


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--document", action="store_true", help="put the results into docs/benchmarks.md, with a plot")
    parser.add_argument("--join", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.join:
        return _join(arguments.join)
    if not arguments.document:
        rows = [_measure(size) for size in SIZES]
        RESULT.write_text(json.dumps({"cores": os.cpu_count(), "rows": rows}, indent=1) + "\n")
    rows = json.loads(RESULT.read_text())["rows"]
    table = _table(rows)
    print(table, end="")
    if arguments.document:
        before, _, rest = DOCUMENT.read_text().partition(_MARK)
        DOCUMENT.write_text(before + _MARK + "\n" + table + "\n" + _END + rest.partition(_END)[2])
        _plot(rows)
    return 0


def _measure(size: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="link-cost-", dir="/var/tmp") as name:
        directory = Path(name)
        low, middle = size * 4 // 5, size // 5
        for number, archive in enumerate(
            (
                _whiteouts(range(0, low, 100)),
                _files(range(low - middle // 10, low - middle // 10 + middle), b"new"),
                _files(range(low), b"old"),
            )
        ):
            with (
                ThreadPoolExecutor(1) as pool,
                opened(directory / f"{number}.sqsh") as file,
                ImageWriter(file, _OPTIONS, pool, 1) as writer,
            ):
                merge = Merge(writer, RcLayer((), ()), 0, limit=1 << 40, markers=True)
                merge.add_layer(lambda archive=archive: archive)
                merge.finish()
                writer.finish(merge.inodes)
        command = [sys.executable, __file__, "--join", str(directory)]
        runs = [json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout) for _ in range(3)]
    best: dict[str, float] = min(runs, key=lambda run: run["cpu"])
    print(f"{best['inodes']:>9} inodes: {best['cpu'] / best['inodes'] * 1e6:.1f} us each", file=sys.stderr)
    return best


def _join(directory: Path) -> int:
    layers = sorted(directory.glob("?.sqsh"))
    wall, cpu = time.perf_counter(), time.process_time()
    with opened(directory / "joined") as file:
        block = join_layers(file, layers, (b"etc",), ((b"etc/rc", b"rc\n"),), now=0)
    print(
        json.dumps(
            {
                "inodes": block.inodes,
                "wall": round(time.perf_counter() - wall, 3),
                "cpu": round(time.process_time() - cpu, 3),
                "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10,
            }
        )
    )
    return 0


def _place(number: int) -> bytes:
    return b"opt/package%04d/part%02d" % (number // 400, number // 20 % 20)


def _files(numbers: range, text: bytes) -> Iterator[bytes]:
    last = b""
    for number in numbers:
        directory = _place(number)
        if directory != last:
            yield header(directory, tar.DIRECTORY, 0o755, 5)
            last = directory
        content = b"%s %d\n" % (text, number) * (1 + number % 30)
        name = directory + b"/module_%07d.py" % number
        yield header(name, tar.FILE, 0o644, 5, len(content)) + content + bytes(-len(content) % 512)
    yield bytes(1024)


def _whiteouts(numbers: range) -> Iterator[bytes]:
    for number in numbers:
        yield header(_place(number) + b"/.wh.module_%07d.py" % number, tar.FILE, 0o644, 5)
    yield bytes(1024)


def _table(rows: list[dict[str, float]]) -> str:
    lines = ["| inodes | CPU s | wall s | us for each inode | memory MB |", "|--:|--:|--:|--:|--:|"]
    for row in rows:
        each = row["cpu"] / row["inodes"] * 1e6
        lines.append(
            f"| {row['inodes']:,} | {row['cpu']:.2f} | {row['wall']:.2f} | {each:.1f} | {row['rss'] / 1e6:.0f} |"
        )
    worst = max(row["cpu"] / row["inodes"] * 1e6 for row in rows[1:])
    verdict = "PASS" if worst <= _MOST else "FAIL"
    return "\n".join(lines) + f"\n\n- {verdict}: {worst:.1f} us for each inode, from {SIZES[1]:,} on; at most {_MOST}\n"


def _plot(rows: list[dict[str, float]]) -> None:
    import matplotlib as mpl  # noqa: PLC0415  only the documentation needs it

    mpl.use("svg")
    mpl.rcParams |= {"font.size": 9, "svg.hashsalt": "enroot-slurm", "svg.fonttype": "none"}
    import matplotlib.pyplot as plt  # noqa: PLC0415

    figure, panel = plt.subplots(figsize=(6, 3), layout="constrained")
    counts = [row["inodes"] / 1000 for row in rows]
    panel.plot(counts, [row["cpu"] for row in rows], "o-", color="#1b6ca8", label="processor time, s")
    panel.plot(
        counts, [row["inodes"] * _MOST / 1e6 for row in rows], "--", color="#e0a030", label=f"{_MOST} us an inode"
    )
    panel.set_xlabel("thousand inodes")
    panel.set_ylabel("s")
    panel.legend(frameon=False)
    panel.spines[["top", "right"]].set_visible(False)
    figure.savefig(PLOT, metadata={"Date": None})
    plt.close(figure)


if __name__ == "__main__":
    sys.exit(main())
