"""The output of the ``cache`` commands: tables for people, JSON for programs."""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from enroot_slurm.commands.common import print_table
from enroot_slurm.errors import printable
from enroot_slurm.housekeeping.inventory import KINDS
from enroot_slurm.progress import size_text

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from enroot_slurm.housekeeping.collector import Report
    from enroot_slurm.housekeeping.inventory import Inventory, Item
    from enroot_slurm.housekeeping.prefetch import Outcome
    from enroot_slurm.housekeeping.verifier import Damage
    from enroot_slurm.trust.verdict import Verdict

__all__ = [
    "fields_of",
    "print_damages",
    "print_images",
    "print_json",
    "print_list",
    "print_outcomes",
    "print_report",
    "print_usages",
    "report_fields",
    "title_of",
    "usage_of",
    "verdicts_of",
]

_DIGITS = 12
_AGES = ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
_PLURALS = {"blob": "Blobs", "layer": "Layers", "image": "Images", "manifest": "Manifests"}


def print_json(value: object) -> None:
    """Print *value*."""
    print(json.dumps(value, indent=2))


def fields_of(item: Item) -> dict[str, Any]:
    """The facts about *item*; times in seconds since 1970, sizes in bytes."""
    fields: dict[str, Any] = {
        "kind": item.kind,
        "path": item.path,
        "digest": item.digest,
        "size": item.size,
        "used": int(item.used),
    }
    if item.kind != "image":
        return fields
    known = item.sidecar
    return {
        **fields,
        "uri": known and known.uri,
        "platform": known and known.platform,
        "recipe": item.path.split("/")[1],
        "options": known and known.options,
        "image_size": known and known.size,
        "checksum": known and known.checksum,
        "created": known and known.created,
        "public": known and known.public,
        "version": known and known.version,
        "endpoint": known and known.endpoint,
        "pinned": item.pinned,
        "leases": [{"job": each.job, "node": each.node, "since": int(each.since)} for each in item.leases],
    }


def title_of(image: Item) -> str:
    """The image for people, in a line."""
    return f"{_uri(image)} ({_short(image.digest)})"


def print_list(found: Sequence[tuple[str, Inventory]], *, everything: bool) -> None:
    """Print the images of caches, each with its name, and with *everything* the other kinds."""
    rows = [("IMAGE", "DIGEST", "PLATFORM", "SIZE", "CREATED", "USED", "STATE", "CACHE")]
    rows += [
        (
            _uri(image),
            _short(image.digest),
            printable(image.sidecar.platform, 40) if image.sidecar else "",
            size_text(image.size),
            _ago(image.sidecar.created if image.sidecar else 0),
            _ago(image.used),
            _state(image),
            name,
        )
        for name, each in found
        for image in each.images
    ]
    if len(found) == 1:
        rows = [row[:-1] for row in rows]  # type: ignore[misc]
    print_table(rows)
    if everything:
        print()
        others = [("KIND", "DIGEST", "SIZE", "USED", "CACHE")]
        others += [
            (item.kind, _short(item.digest), size_text(item.size), _ago(item.used), name)
            for name, each in found
            for item in sorted(each.items, key=lambda item: (item.kind, -item.used))
            if item.kind != "image"
        ]
        print_table(others)


def print_images(images: Sequence[tuple[Path, Item]]) -> None:
    """Print all that is known of *images* and the caches where they are."""
    for number, (root, image) in enumerate(images):
        if number:
            print()
        fields = fields_of(image)
        leases = [f"{each.job} on {each.node}, since {_ago(each.since)}" for each in image.leases]
        shown = {
            "image": _uri(image),
            "path": os.fspath(root / image.path),
            "digest": image.digest,
            "platform": fields["platform"],
            "size": f"{size_text(fields['image_size'])} ({fields['image_size']} bytes)",
            "checksum": fields["checksum"],
            "options": fields["options"],
            "recipe": fields["recipe"],
            "created": f"{_ago(fields['created'])}, by version {fields['version']}",
            "endpoint": fields["endpoint"],
            "used": _ago(image.used),
            "public": "yes" if fields["public"] else "no",
            "pinned": "yes" if image.pinned else "no",
            "leased": "; ".join(leases) or "no",
        }
        if not shown["endpoint"]:
            del shown["endpoint"]
        for name, value in shown.items():
            print(f"{name:9} {printable(str(value), 1000)}")
        for verdict in verdicts_of(root, image.digest):
            by = ", ".join(verdict.by)
            print(
                printable(
                    f"verdict   {verdict.image}: {by}, {_ago(verdict.time)}, for {', '.join(verdict.files)}", 1000
                )
            )


def verdicts_of(root: Path, digest: str) -> list[Verdict]:
    """Why the image of the manifest *digest* may be used, by each name and policy that it was verified for."""
    from enroot_slurm.cache.verdicts import all_verdicts  # noqa: PLC0415 - for `cache show` alone
    from enroot_slurm.trust.verdict import Verdict  # noqa: PLC0415

    found = []
    for content in all_verdicts(root):
        with suppress(ValueError, RecursionError):
            verdict = Verdict.parse(content)
            found += [verdict] if verdict.digest == digest else []
    return found


def usage_of(found: Inventory) -> dict[str, Any]:
    """How much room a cache takes: bytes and numbers by kind, and those of its file system."""
    kinds: dict[str, dict[str, int]] = {}
    for kind in KINDS:
        items = found.of(kind)
        free = sum(item.size for item in items if not item.kept)
        kinds[kind] = {"count": len(items), "size": sum(item.size for item in items), "reclaimable": free}
    size = sum(entry.size for entry in found.temporaries)
    kinds["incomplete"] = {"count": len(found.temporaries), "size": size, "reclaimable": 0}
    usage: dict[str, Any] = {"cache": str(found.root), "size": found.size, "kinds": kinds, "file_system": None}
    if found.root.is_dir():
        status = os.statvfs(found.root)
        unit = status.f_frsize
        usage["file_system"] = {
            "size": status.f_blocks * unit,
            "used": (status.f_blocks - status.f_bfree) * unit,
            "available": status.f_bavail * unit,
        }
    return usage


def print_usages(usages: Sequence[dict[str, Any]]) -> None:
    """Print what `usage_of` says of caches."""
    for number, usage in enumerate(usages):
        print(f"{'' if not number else chr(10)}{usage['cache']}")
        rows = [("TYPE", "COUNT", "SIZE", "RECLAIMABLE")]
        for kind, each in usage["kinds"].items():
            title = _PLURALS.get(kind, kind.capitalize())
            rows.append((title, str(each["count"]), size_text(each["size"]), size_text(each["reclaimable"])))
        print_table(rows)
        system = usage["file_system"]
        if system is not None:
            print(f"{size_text(usage['size'])} in all; the file system has {size_text(system['available'])} left")


def report_fields(report: Report) -> dict[str, Any]:
    """A collection for JSON."""
    return {
        "dry_run": report.dry_run,
        "size": report.size,
        "freed": report.freed,
        "above": report.above,
        "busy": report.busy,
        "warnings": list(report.warnings),
        "removed": [{**each._asdict(), "used": int(each.used)} for each in report.removed],
    }


def print_report(root: Path, report: Report, *, verbose: bool) -> None:
    """Print what a collection did, and with *verbose* each file."""
    if verbose and report.removed:
        rows = [("KIND", "SIZE", "USED", "WHY", "PATH")]
        rows += [
            (each.kind, size_text(each.size), _ago(each.used), each.reason, printable(each.path, 300))
            for each in report.removed
        ]
        print_table(rows)
    did = "would free" if report.dry_run else "freed"
    print(
        f"{root}: {did} {size_text(report.freed)} of {size_text(report.size)}, {_count(len(report.removed), 'thing')}"
    )
    if report.busy:
        print(f"In use just now, and left: {_count(report.busy, 'thing')}")
    if report.above:
        print(f"{size_text(report.above)} above the low watermark can't be freed: leased, pinned or in use")


def print_damages(root: Path, count: int, damages: Sequence[Damage]) -> None:
    """Print what is *damaged* of *count* things."""
    for damage in damages:
        end = " (removed)" if damage.removed else ""
        used = ", and jobs use it" if damage.leased else ""
        print(f"{printable(damage.path, 300)}: {printable(damage.what, 300)}{used}{end}")
    print(f"{root}: {_count(count, 'thing')} checked, {len(damages)} damaged")


def print_outcomes(outcomes: Sequence[Outcome], *, quiet: bool) -> None:
    """Print what became of a list of images."""
    failed = sum(outcome.status != 0 for outcome in outcomes)
    for outcome in outcomes:
        if outcome.error is not None:
            first = outcome.error.message.partition("\n")[0]
            print(f"failed    {printable(outcome.wanted.uri, 300)}: {first}")
        elif not quiet:
            is_there = outcome.image is None or outcome.image.reused
            print(f"{'present' if is_there else 'imported':9} {printable(outcome.wanted.uri, 300)}")
    if not quiet:
        print(f"{_count(len(outcomes), 'image')}, {failed} failed")


def _uri(image: Item) -> str:
    return printable(image.sidecar.uri, 300) if image.sidecar else image.path


def _short(digest: str) -> str:
    return digest.partition(":")[2][:_DIGITS]


def _state(image: Item) -> str:
    states = {
        "pinned": image.pinned,
        f"leased ({len(image.leases)})": bool(image.leases),
        "private": image.sidecar is not None and not image.sidecar.public,
    }
    return ", ".join(state for state, is_so in states.items() if is_so)


def _ago(moment: float) -> str:
    seconds = max(0, int(time.time() - moment))
    size, unit = next(((size, unit) for size, unit in _AGES if seconds >= 2 * size), _AGES[-1])
    return f"{_count(seconds // size, unit)} ago"


def _count(number: int, thing: str) -> str:
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
