"""Results as text: a table to read, and one for the documentation; every time also as a multiple of ours."""

from __future__ import annotations

from collections import Counter
from typing import Any

from contenders import BOUND, GET_AGAIN, JOINED_COLD, NEW_LAYER, OURS_COLD

__all__ = ["acceptance", "markdown", "text"]

_DECISIVE = "-comp zstd -Xcompression-level 1 -noD"
_DEFAULT = "-comp lzo -noD"  # what enroot does where nobody says otherwise
_DEFAULT_FACTOR = 1.15
_LARGER = 1.05  # than the image that mksquashfs makes
_PEER_FACTOR = 3
_MOST_MEMORY = 120e6  # bytes
_COLD = (OURS_COLD, JOINED_COLD)
_NEW_LAYER = {"xfs": 0.08}  # by file system: what a new layer may cost, as a part of a cold import
_COLUMNS = ("", "wall s", "ratio", "CPU s", "ratio", "memory MB", "of it Python", "disk MB", "image MB")


def text(results: dict[str, Any]) -> str:
    """The results for a terminal."""
    lines = [_headline(results), ""]
    for options, rows in _tables(results):
        widths = [max(len(row[i]) for row in [_COLUMNS, *rows]) for i in range(len(_COLUMNS))]
        lines.append(options)
        for row in [_COLUMNS, *rows]:
            cells = [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))]  # noqa: B905
            lines.append("  " + "  ".join(cells).rstrip())
        lines.append("")
    return "\n".join([*lines, *acceptance(results)])


def markdown(results: dict[str, Any]) -> str:
    """The results for the documentation."""
    machine, image = results["machine"], results["image"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items() if version)
    layers = f"{image['layers']} layers, {image['members']} members"
    sizes = f"{image['compressed'] / 1e6:.0f} MB compressed, {image['raw'] / 1e6:.0f} MB of tar"
    cores = f"{machine['cores']} cores, {machine['memory'] / 2**30:.0f} GiB"
    lines = [
        _headline(results),
        "",
        f"- Image: {layers}, {sizes}.",
        f"- Machine: {machine['processor']}, {cores}, {machine['file_system']}, Linux {machine['kernel']}.",
        f"- Versions: Python {machine['python']}, {versions}.",
        "",
    ]
    for options, rows in _tables(results):
        lines += [
            f"### `{options}`",
            "",
            "| " + " | ".join(_COLUMNS) + " |",
            "|---" + "|--:" * (len(_COLUMNS) - 1) + "|",
            *("| " + " | ".join(row) + " |" for row in rows),
            "",
        ]
    lines += [f"- {line}" for line in acceptance(results)]
    return "\n".join(lines) + "\n"


def acceptance(results: dict[str, Any]) -> list[str]:
    """What was promised, and whether it is kept."""
    walls = {row["contender"]: row["wall"] for row in results["medians"] if row["options"] == _DECISIVE}
    ours, bound = walls.pop(OURS_COLD, None), walls.pop(BOUND, None)
    joined, new_layer, again = (walls.pop(name, None) for name in (JOINED_COLD, NEW_LAYER, GET_AGAIN))
    most = _NEW_LAYER.get(results["machine"]["file_system"], 0.2)
    peers = {name: wall for name, wall in walls.items() if not name.startswith("enroot-slurm")}
    lines = []
    if ours and bound:
        lines.append(f"{_verdict(ours <= bound)}: zstd 1, cold, {ours:.2f} s; at most the bound, {bound:.2f} s")
    if ours and peers:
        name, wall = min(peers.items(), key=lambda item: item[1])
        factor = wall / ours
        lines.append(
            f"{_verdict(factor >= _PEER_FACTOR)}: zstd 1, cold, {factor:.1f} times as fast as the fastest peer "
            f"({name}, {wall:.2f} s); at least {_PEER_FACTOR}"
        )
    if ours and joined:
        lines.append(f"{_verdict(joined <= 1.2 * ours)}: cold with images of layers, {joined / ours:.2f}; at most 1.2")
    if ours and new_layer:
        lines.append(f"{_verdict(new_layer <= most * ours)}: one new top layer, {new_layer / ours:.3f}; at most {most}")
    if ours and again:
        lines.append(f"{_verdict(again <= 0.03 * ours)}: the same image again, {again / ours:.3f}; at most 0.03")
    rows = {(row["contender"], row["options"]): row for row in results["medians"]}
    cold, default, theirs = (
        rows.get((OURS_COLD, _DECISIVE)),
        rows.get((OURS_COLD, _DEFAULT)),
        rows.get((BOUND, _DEFAULT)),
    )
    if cold and default:
        factor = default["wall"] / cold["wall"]
        lines.append(
            f"{_verdict(factor <= _DEFAULT_FACTOR)}: default options, cold, {factor:.2f} times zstd 1; "
            f"at most {_DEFAULT_FACTOR}"
        )
    if default and theirs:
        larger = default["size"] / theirs["size"]
        lines.append(
            f"{_verdict(larger <= _LARGER)}: default options, {larger:.3f} times the size of mksquashfs' image; "
            f"at most {_LARGER}"
        )
    if cold:
        memory = max(row["main_rss"] for (name, options), row in rows.items() if name in _COLD and options == _DECISIVE)
        lines.append(f"{_verdict(memory <= _MOST_MEMORY)}: zstd 1, cold, {memory / 1e6:.0f} MB of memory; at most 120")
    return lines


def _headline(results: dict[str, Any]) -> str:
    image = results["image"]
    cache = "" if results.get("page_cache_emptied", True) else "; the page cache was not emptied between runs"
    runs = Counter((run["contender"], run["options"]) for run in results["runs"]).values()
    median = f"median of {max(runs)}" if len(set(runs)) == 1 else f"medians of {min(runs)} to {max(runs)}"
    return f"Image '{image['name']}', {median}, {results['started']} UTC{cache}."


def _tables(results: dict[str, Any]) -> list[tuple[str, list[tuple[str, ...]]]]:
    tables = []
    for options in dict.fromkeys(row["options"] for row in results["medians"]):
        rows = [row for row in results["medians"] if row["options"] == options]
        ours = next((row for row in rows if row["contender"] == OURS_COLD), rows[0])
        rows.sort(key=lambda row: not row["contender"].startswith("enroot-slurm"))
        tables.append((options, [_cells(row, ours) for row in rows]))
    return tables


def _cells(row: dict[str, Any], ours: dict[str, Any]) -> tuple[str, ...]:
    python = f"{row['main_rss'] / 1e6:.0f}" if row["contender"].startswith("enroot-slurm") else "-"
    return (
        row["contender"],
        f"{row['wall']:.2f}",
        f"{row['wall'] / ours['wall']:.2f}",
        f"{row['cpu']:.2f}",
        f"{row['cpu'] / ours['cpu']:.2f}",
        f"{row['rss'] / 1e6:.0f}",
        python,
        f"{row['disk'] / 1e6:.0f}",
        f"{row['size'] / 1e6:.1f}",
    )


def _verdict(passed: bool) -> str:  # noqa: FBT001
    return "PASS" if passed else "FAIL"
