"""Draw the newest results of the full image: ``python benchmarks/plot.py [RESULT.json] [IMAGE.svg]``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")

import matplotlib.pyplot as plt

HERE = Path(__file__).resolve().parent
_OURS, _PEER, _BOUND = "#1b6ca8", "#b8bec5", "#e0a030"
_LABELS = {
    "-comp lzo -noD": "lzo, data as it is\n(enroot's default)",
    "-comp zstd -Xcompression-level 1 -noD": "zstd 1, data as it is",
    "-comp zstd -Xcompression-level 3 -b 1M": "zstd 3, all compressed\nin blocks of 1 MiB",
}


def main() -> None:
    newest = max((HERE / "results").glob("full-2*.json"), default=None, key=lambda path: path.name)
    source = Path(sys.argv[1]) if len(sys.argv) > 1 else newest
    if source is None:
        sys.exit("no results: run benchmarks/run.py first")
    target = Path(sys.argv[2]) if len(sys.argv) > 2 else HERE.parent / "docs/benchmarks.svg"
    draw(json.loads(source.read_text()), target)
    print(target)


def draw(results: dict[str, Any], target: Path) -> None:
    """Draw wall time and memory, side by side, one panel for each set of options."""
    mpl.rcParams |= {
        "font.size": 9,
        "svg.hashsalt": "enroot-slurm",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Helvetica", "Arial", "sans-serif"],
    }
    sets = list(dict.fromkeys(row["options"] for row in results["medians"]))
    figure, grid = plt.subplots(
        len(sets), 2, figsize=(9.2, 0.5 + 2.6 * len(sets)), sharex="col", squeeze=False, layout="constrained"
    )
    for panels, options in zip(grid, sets, strict=True):
        rows = [row for row in results["medians"] if row["options"] == options]
        _bars(panels[0], rows, [row["wall"] for row in rows], "{:.1f} s")
        _bars(panels[1], rows, [row["rss"] / 1e6 for row in rows], "{:.0f} MB")
        panels[0].set_title(_LABELS.get(options, options).replace("\n", " "), loc="left", fontsize=9, fontweight="bold")
        panels[1].set_yticklabels([])
    grid[-1][0].set_xlabel("wall time")
    grid[-1][1].set_xlabel("peak memory, all processes")
    image = results["image"]
    figure.suptitle(
        f"Import of {image['layers']} layers, {image['compressed'] / 1e6:.0f} MB of gzip, {image['raw'] / 1e9:.1f} GB "
        f"of tar, on {results['machine']['cores']} cores: less is better",
        fontsize=10,
    )
    figure.savefig(target, metadata={"Date": None})
    plt.close(figure)


def _bars(panel: Any, rows: list[dict[str, Any]], values: list[float], form: str) -> None:
    colors = [_color(row["contender"]) for row in rows]
    bars = panel.barh([row["contender"] for row in rows], values, color=colors, height=0.7)
    panel.bar_label(bars, [form.format(value) for value in values], padding=3, fontsize=8)
    panel.invert_yaxis()
    panel.margins(x=0.16)
    panel.spines[["top", "right", "left"]].set_visible(False)
    panel.tick_params(axis="y", length=0)
    panel.grid(axis="x", color="#eeeeee")
    panel.set_axisbelow(True)


def _color(contender: str) -> str:
    if contender.startswith("enroot-slurm"):
        return _OURS
    return _BOUND if contender == "bound" else _PEER


if __name__ == "__main__":
    main()
