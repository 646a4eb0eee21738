"""site.py DIRECTORY: add to a copy of docs/ what the site alone has: the start page, its picture, the manual pages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

import manuals

CHECKOUT = Path(__file__).resolve().parents[1]
START = """\
---
title: Start
hide: [toc]
---
# Container images for Slurm jobs

A job names an image. It is imported once per cluster, verified, and on every node before the job's first line runs; the
second import of anything costs almost nothing. It is what `enroot import` makes, file by file.

![An image goes from a registry through the cache to the nodes of a job](flow.svg){{ width="100%" }}

<div class="grid cards" markdown>

-   **Use it**

    ```
    enroot-slurm import docker://ubuntu:24.04
    enroot-slurm sbatch job.sh
    ```

    [Commands](commands.md), [credentials](credentials.md), [Python](python.md)

-   **Run it for a cluster**

    ```
    apt install ./enroot-slurm_*.deb
    enroot-slurm doctor
    ```

    [Install](install.md), [Slurm](slurm.md), [the cache](cache.md), [metrics](metrics.md)

</div>

![An import on a terminal](progress.svg){{ width="100%" }}

{points}
"""


class Box(NamedTuple):
    """A box of the picture: its place in pixels, a title, and lines below."""

    x: int
    y: int
    width: int
    height: int
    title: str
    lines: tuple[str, ...]
    kind: str


BOXES = (
    Box(10, 70, 190, 150, "Registry", ("manifest", "layers (gzip, zstd)"), "outside"),
    Box(270, 20, 250, 250, "Import, once per cluster", (), "ours"),
    Box(290, 65, 210, 40, "policy, login, digest", (), "step"),
    Box(290, 115, 210, 40, "download and verify", (), "step"),
    Box(290, 165, 210, 40, "merge and squash layers", (), "step"),
    Box(290, 215, 210, 40, "join to one image", (), "step"),
    Box(590, 70, 180, 150, "Site's cache", ("images, layers, blobs", "one writer, all read"), "store"),
    Box(840, 20, 150, 74, "Node 1", ("prolog, step, pyxis",), "outside"),
    Box(840, 108, 150, 74, "Node 2", ("the same digest",), "outside"),
    Box(840, 196, 150, 74, "Node N", ("a hit: no network",), "outside"),
)
ARROWS = ((200, 145, 268, 145), (520, 145, 588, 145), (770, 120, 838, 57), (770, 145, 838, 145), (770, 170, 838, 233))
STYLE = """
rect { rx: 8; stroke-width: 1.5 } text { font: 15px sans-serif; text-anchor: middle; fill: #1d2b2a }
.outside { fill: #eef2f6; stroke: #8796a5 } .ours { fill: #e0f2f0; stroke: #00897b }
.step { fill: #fff; stroke: #80cbc4 }
.store { fill: #fff6e0; stroke: #c79a3a } .title { font-weight: bold } .small { font-size: 13px; fill: #4a5a59 }
line { stroke: #455a64; stroke-width: 2; marker-end: url(#head) }
"""


def picture() -> str:
    """How an image goes from a registry to a job, as an SVG."""
    parts = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1000 290" role="img">',
        "<title>An image goes from a registry through the import and the site's cache to the nodes of a job</title>",
        f"<style>{STYLE}</style>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">',
        '<path d="M0 0 L8 4 L0 8 z" fill="#455a64"/></marker></defs>',
        '<rect width="1000" height="290" fill="#fff" stroke="none"/>',
    ]
    for box in BOXES:
        middle = box.x + box.width // 2
        parts.append(f'<rect class="{box.kind}" x="{box.x}" y="{box.y}" width="{box.width}" height="{box.height}"/>')
        if box.kind == "step":
            parts.append(f'<text x="{middle}" y="{box.y + 25}">{escape(box.title)}</text>')
            continue
        parts.append(f'<text class="title" x="{middle}" y="{box.y + 30}">{escape(box.title)}</text>')
        for number, line in enumerate(box.lines):
            parts.append(f'<text class="small" x="{middle}" y="{box.y + 54 + 22 * number}">{escape(line)}</text>')
    parts += [f'<line x1="{a}" y1="{b}" x2="{c}" y2="{d}"/>' for a, b, c, d in ARROWS]
    return "\n".join([*parts, "</svg>", ""])


def points() -> str:
    """What README.md says the program is, as it says it."""
    found = re.search(r"^- \*\*.*?(?=\n\n(?!- ))", (CHECKOUT / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    return re.sub(r"\[docs/(\w+)\.md\]\(docs/", r"[\1](", found[0]) if found else ""


def manual_pages() -> str:
    """A page with all manual pages, as a terminal shows them."""
    directory = CHECKOUT / "build/site-manuals"
    manuals.main(directory)
    parts = ["# Manual pages", ""]
    for path in sorted(directory.iterdir(), key=lambda path: (path.suffix, path.stem)):
        environment = {"PATH": "/usr/bin:/bin", "MANWIDTH": "76", "LANG": "C.UTF-8"}
        words = ["man", "-l", str(path)]
        shown = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        text = re.sub(r".\x08", "", shown.stdout).strip("\n")
        parts += [f"## {path.stem}({path.suffix[1:]})", "", "```text", text, "```", ""]
    return "\n".join(parts)


def main(directory: Path) -> None:
    """Add the pages to *directory*."""
    (directory / "flow.svg").write_text(picture())
    (directory / "index.md").write_text(START.format(points=points()))
    (directory / "manuals.md").write_text(manual_pages())


if __name__ == "__main__":
    main(Path(sys.argv[1]))
