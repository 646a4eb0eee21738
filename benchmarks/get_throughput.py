"""Many processes ask for an image that is in the cache: ``python benchmarks/get_throughput.py``.

It prints a table: how long each waits when all begin together, what that costs, and what the registry is asked.
Beside ``enroot-slurm get`` stand what a user's script would do without it (ask skopeo for the digest, and copy the
image of that name), and a Python that does nothing, which is the least that a program in Python can take.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from support.command import COMMAND  # noqa: E402  the path comes first
from support.images import Image, Layer, pack  # noqa: E402
from support.registry import Registry  # noqa: E402

SIZE = 8_000_000  # bytes of the image: copies of it should not decide


class Row(NamedTuple):
    """What one contender took."""

    name: str
    p50: float
    """Seconds from the common start to the end of a process."""
    p99: float
    wall: float
    cpu: float
    """Seconds of each process, its children included."""
    alone: float
    """Seconds of a process that runs alone; the median."""
    heads: int
    gets: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", type=int, default=200)
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--repeat", type=int, default=5, help="runs of a lone process")
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"))
    arguments = parser.parse_args()
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])
    with (
        tempfile.TemporaryDirectory(prefix="get.", dir=arguments.directory) as name,
        Registry(Path(name) / "registry") as registry,
    ):
        rows = [
            measure(name, command, registry, environment, arguments)
            for name, command, environment in contenders(registry, Path(name))
        ]
    print(table(rows, arguments))
    return 0


def contenders(registry: Registry, directory: Path) -> list[tuple[str, list[str], dict[str, str]]]:
    """Names, commands and environments."""
    noise = hashlib.shake_128(b"seed").digest(SIZE)
    registry.push("bench/image", "1", Image([pack(Layer().file("data", noise), "gzip"), Layer().file("top", b"x")]))
    uri = registry.uri("bench/image", "1")
    environment = {
        "HOME": str(directory),
        "PATH": os.environ["PATH"],
        "ENROOT_CACHE_PATH": str(directory / "cache"),
        "ENROOT_SLURM_INSECURE_REGISTRIES": registry.host,
        "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 1 -noD",
    }
    made = subprocess.run([*COMMAND, "get", "--json", uri], env=environment, check=True, capture_output=True)
    image = json.loads(made.stdout)
    found = [
        ("get, by digest", [*COMMAND, "get", "-q", f"{uri}@{image['digest']}"], environment),
        ("get, by tag", [*COMMAND, "get", "-q", uri], environment),
        ("python3 -I -c pass", [sys.executable, "-I", "-c", "pass"], environment),
    ]
    if shutil.which("skopeo"):
        named = directory / "by-digest"
        named.mkdir()
        (named / f"{image['digest']}.sqsh").symlink_to(image["path"])
        script = (
            'digest=$(skopeo inspect --tls-verify=false --format "{{.Digest}}" "$1") && '
            f'cp "{named}/$digest.sqsh" "{directory}/copy.$$" && rm "{directory}/copy.$$"'
        )
        source = f"docker://{registry.host}/bench/image:1"
        found.append(("skopeo inspect, cp", ["/bin/sh", "-c", script, "sh", source], environment))
    return found


def measure(
    name: str, command: list[str], registry: Registry, environment: dict[str, str], arguments: argparse.Namespace
) -> Row:
    """Run *command* alone, and then many of them at once."""
    alone = []
    for _ in range(arguments.repeat):
        began = time.monotonic()
        subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
        alone.append(time.monotonic() - began)
    registry.reset()
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    ends: list[float] = []
    processes = [
        subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for _ in range(arguments.processes)
    ]

    def wait(process: subprocess.Popen[bytes]) -> None:
        assert process.wait() == 0, command
        ends.append(time.monotonic() - began)

    threads = [threading.Thread(target=wait, args=(process,)) for process in processes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(ends) == arguments.processes
    wall, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    percentiles = statistics.quantiles(ends, n=100)
    heads, gets = registry.count("HEAD", "/v2/"), registry.count("GET", "/v2/")
    return Row(
        name,
        percentiles[49],
        percentiles[98],
        wall,
        cpu / arguments.processes,
        statistics.median(alone),
        heads,
        gets,
    )


def table(rows: list[Row], arguments: argparse.Namespace) -> str:
    """The rows, with ratios to the Python that does nothing."""
    least = next(row for row in rows if row.name.startswith("python3"))
    titles = ("", "alone, ms", "p50, s", "p99, s", "CPU each, ms", "ratio", "HEAD", "GET")
    cells = [
        (
            row.name,
            f"{row.alone * 1000:.0f}",
            f"{row.p50:.2f}",
            f"{row.p99:.2f}",
            f"{row.cpu * 1000:.0f}",
            f"{row.cpu / least.cpu:.1f}",
            str(row.heads),
            str(row.gets),
        )
        for row in rows
    ]
    lines = ["| " + " | ".join(row) + " |" for row in [titles, ("---", *["--:"] * (len(titles) - 1)), *cells]]
    about = (
        f"{arguments.processes} processes at once on {arguments.cores} cores, Python {platform.python_version()}, "
        f"Linux {platform.release()}"
    )
    return "\n".join([about, "", *lines])


if __name__ == "__main__":
    raise SystemExit(main())
