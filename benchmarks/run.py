"""Compare enroot-slurm with what a user would do without it: ``python benchmarks/run.py``.

All contenders import the same image from a registry on this machine, in turns, to squashfs images with the same
options of mksquashfs.  See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

import report  # noqa: E402  the path comes first
from contenders import CONTENDERS, JOINED_COLD, Contender, Place  # noqa: E402
from image import IMAGES, BuiltImage, build  # noqa: E402
from measure import Cost, measure, page_cache  # noqa: E402
from support.registry import Registry  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

WORK = Path("/var/tmp/enroot-slurm-bench")  # images are big, and kept
RESULTS = HERE / "results"
DOCUMENT = HERE.parent / "docs/benchmarks.md"
OPTIONS = ("-comp zstd -Xcompression-level 1 -noD", "-comp zstd -Xcompression-level 3 -b 1M", "-comp lzo -noD")


def main() -> int:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    arguments = _arguments()
    if arguments.markdown or arguments.document:
        newest = max(RESULTS.glob(f"{arguments.image}-2*.json"), default=None, key=lambda path: path.name)
        if newest is None:
            sys.exit(f"no results of the image '{arguments.image}' in {RESULTS}")
        table = report.markdown(json.loads(newest.read_text()))
        shared = max(RESULTS.glob(f"{arguments.image}-xfs-*.json"), default=None, key=lambda path: path.name)
        if shared is not None:
            table += "\n## On a file system that shares blocks\n\n" + report.markdown(json.loads(shared.read_text()))
        if arguments.document:
            before, mark, _ = DOCUMENT.read_text().partition("-->\n")
            DOCUMENT.write_text(before + mark + "\n" + table + "\n" + "".join(_after_results(DOCUMENT)))
        else:
            print(table, end="")
        return 0
    contenders = [c for c in CONTENDERS if not arguments.only or any(word in c.name for word in arguments.only)]
    for contender in contenders:
        if contender.missing:
            print(f"{contender.name}: left out, there is no {', '.join(contender.missing)}", file=sys.stderr)
    contenders = [contender for contender in contenders if not contender.missing]
    work: Path = arguments.work.absolute()
    image = build(arguments.image, work)
    results: dict[str, Any] = {
        "image": {"name": image.name, **image.facts},
        "machine": _machine(arguments.runs or work),
        "started": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
        "repeat": arguments.repeat,
        "runs": [],
    }
    RESULTS.mkdir(exist_ok=True)
    kind = "" if arguments.runs is None else f"-{results['machine']['file_system']}"
    target = arguments.output or RESULTS / f"{image.name}{kind}-{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}.json"
    storage = work / "registry"
    with (
        Registry(work / "http", storage=storage) as registry,
        Registry(work / "https", storage=storage, tls=True) as secure,
    ):
        push(image, registry)
        for options, contender in _turns(arguments.options, contenders, arguments.repeat):
            place = Place(
                run=(arguments.runs or work) / "run",
                # One for each set: a contender that takes a layer away does so for its own set only.
                cache=(arguments.runs or work) / "cache" / "".join(options.split()),
                image=image,
                repository=f"{registry.host}/bench/{image.name}:{image.tag}",
                secure_repository=f"{secure.host}/bench/{image.name}:{image.tag}",
                options=tuple(options.split()),
                registry_blobs=registry_blobs(image, storage),
            )
            cost = _run(contender, place, results)
            if cost:
                print(f"{contender.name:28} {options:42} {cost.wall:7.2f} s", file=sys.stderr, flush=True)
                results["medians"] = _medians(results["runs"])
                target.write_text(json.dumps(results, indent=1) + "\n")
    print(report.text(results))
    print(f"written to {target}")
    return 0


def _after_results(document: Path) -> list[str]:
    lines = document.read_text().splitlines(keepends=True)
    return lines[lines.index("<!-- end of results -->\n") :]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--image", choices=sorted(IMAGES), default="full", help="by default %(default)s")
    parser.add_argument("--repeat", type=int, default=3, metavar="N", help="runs of each; the median counts")
    parser.add_argument("--options", action="append", metavar="OPTIONS", help="of mksquashfs; again for more sets")
    parser.add_argument("--only", action="append", metavar="WORD", help="contenders with WORD in their name")
    parser.add_argument("--work", type=Path, default=WORK, help="directory for images and runs: %(default)s")
    parser.add_argument("--runs", type=Path, help="directory for runs and caches, on another file system; --work")
    parser.add_argument("--output", type=Path, help="where to write the results (JSON)")
    parser.add_argument("--markdown", action="store_true", help="only print the newest results as a table")
    parser.add_argument("--document", action="store_true", help="only put them into docs/benchmarks.md")
    arguments = parser.parse_args()
    arguments.options = arguments.options or list(OPTIONS)
    return arguments


def _turns(option_sets: Sequence[str], contenders: Sequence[Contender], repeat: int) -> Iterator[tuple[str, Contender]]:
    """Contenders in turns, every second time in reverse, so that none always follows the same one."""
    for turn in range(repeat):
        for options in option_sets:
            for contender in contenders[:: -1 if turn % 2 else 1]:
                yield options, contender


def _run(contender: Contender, place: Place, results: dict[str, Any]) -> Cost | None:
    shutil.rmtree(place.run, ignore_errors=True)
    place.run.mkdir()
    if contender.name.startswith("enroot-slurm") and "cold" not in contender.name:
        _fill(place)
    prepared = contender.prepare(place)
    if prepared is None:
        return None
    commands, environment = prepared
    results["page_cache_emptied"] = page_cache([*contender.inputs(place), *_programs()], place.run.parent)
    load = os.getloadavg()[0]
    try:
        cost = measure(commands, environment, place.run)
    except subprocess.CalledProcessError as error:
        sys.exit(f"{contender.name}: {' '.join(error.cmd)}: status {error.returncode}\n{error.output}")
    row = {"contender": contender.name, "options": " ".join(place.options), "load": round(load, 2)}
    row |= {key: round(value, 3) if isinstance(value, float) else value for key, value in cost._asdict().items()}
    row["stages"] = [round(seconds, 3) for seconds in cost.stages]
    cached = [path.stat().st_size for path in (place.run / "cache/images").rglob("*.sqsh")]
    row["size"] = place.output.stat().st_size if place.output.exists() else max(cached)
    results["runs"].append(row)
    shutil.rmtree(place.run)
    return cost


def _programs() -> Iterator[Path]:
    """What Python loads, and the other contenders' programs: no machine reads these from its disk for each import."""
    for directory in {sysconfig.get_path(name) for name in ("stdlib", "platlib", "purelib")}:
        yield from (path for path in Path(directory).rglob("*.*") if path.suffix in {".py", ".pyc", ".so"})
    programs = ("skopeo", "umoci", "mksquashfs", *(path.name for path in Path("/usr/bin").glob("ch-*")))
    yield from (Path(found) for name in programs if (found := shutil.which(name)))


def _fill(place: Place) -> None:
    """Fill the cache of imports that are not cold."""
    mark = place.cache / place.image.tag
    if mark.exists():
        return
    cold = next(contender for contender in CONTENDERS if contender.name == JOINED_COLD)
    prepared = cold.prepare(place)
    assert prepared
    commands, environment = prepared
    measure(commands, environment | {"ENROOT_CACHE_PATH": str(place.cache)}, place.run)
    mark.touch()
    shutil.rmtree(place.run)
    place.run.mkdir()


def push(image: BuiltImage, registry: Registry) -> None:
    """Push *image*, unless it is there."""
    name = f"bench/{image.name}"
    status, _, _ = registry.request("HEAD", f"/v2/{name}/manifests/{image.tag}", headers={"Accept": "*/*"})
    if status == 200:
        return
    command = ["skopeo", "copy", "--quiet", "--insecure-policy", "--dest-tls-verify=false", "--format", "v2s2"]
    subprocess.run([*command, f"oci:{image.layout}", f"docker://{registry.host}/{name}:{image.tag}"], check=True)


def registry_blobs(image: BuiltImage, storage: Path) -> list[Path]:
    """The files in which a registry keeps the layers of *image*."""
    blobs = storage / "docker/registry/v2/blobs/sha256"
    return [blobs / path.name[:2] / path.name / "data" for path in image.layers]


def _medians(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    medians: list[dict[str, Any]] = []
    for key in dict.fromkeys((run["options"], run["contender"]) for run in runs):
        same = [run for run in runs if (run["options"], run["contender"]) == key]
        row: dict[str, Any] = {"options": key[0], "contender": key[1], "runs": len(same)}
        for field in ("wall", "cpu", "others", "rss", "main_rss", "disk", "size"):
            row[field] = round(statistics.median(run[field] for run in same), 3)
        row["wall_range"] = [min(run["wall"] for run in same), max(run["wall"] for run in same)]
        medians.append(row)
    return medians


def _machine(directory: Path) -> dict[str, Any]:
    processor = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text())
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text())
    versions = {
        "mksquashfs": ("mksquashfs", "-version"),
        "skopeo": ("skopeo", "--version"),
        "umoci": ("umoci", "--version"),
        "docker-registry": ("docker-registry", "--version"),
        "charliecloud": ("dpkg-query", "-Wf", "${Version}", "charliecloud-builders"),
    }
    return {
        "processor": processor[1] if processor else platform.processor(),
        "cores": len(os.sched_getaffinity(0)),
        "memory": int(memory[1]) << 10 if memory else 0,
        "kernel": platform.release(),
        "file_system": _output("findmnt", "-no", "FSTYPE", "-T", str(directory)),
        "python": platform.python_version(),
        "versions": {name: _version(_output(*command)) for name, command in versions.items()},
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return (done.stdout or done.stderr).partition("\n")[0].strip()


def _version(line: str) -> str:
    match = re.search(r"\d+\.[\w.+:~-]*\w", line)
    return match[0] if match else line


if __name__ == "__main__":
    sys.exit(main())
