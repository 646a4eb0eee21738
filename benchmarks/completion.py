"""completion.py [IMAGES...]: how long a shell waits for the names of cached images, in milliseconds (median of 20).

Each number of images is tried with a cache that has so many of them, as far as completion can tell.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RUNS = 20
CHECKOUT = Path(__file__).resolve().parents[1]


def fill(cache: Path, number: int) -> None:
    """Let *cache* have the sidecars of *number* images."""
    directory = cache / "images" / ("0" * 16) / "linux-amd64"
    directory.mkdir(parents=True)
    for each in range(number):
        fields = {
            "format": 1,
            "uri": f"docker://registry.example#project/image-{each}:1.0",
            "digest": f"sha256:{each:064x}",
            "platform": "linux/amd64",
            "options": "-comp lzo -noD",
            "size": 1 << 30,
            "mtime_ns": 0,
            "sha256": "0" * 64,
            "created": 0,
            "public": True,
            "version": "0.1.0",
        }
        (directory / f"sha256-{each:064x}.json").write_text(json.dumps(fields))


def main(numbers: list[int]) -> None:
    """Print a line for each number of images."""
    code = "import sys; sys.path[:0] = sys.argv[1:2]; from enroot_slurm.commands.names import main; main(sys.argv[2])"
    command = [sys.executable, "-I", "-S", "-c", code, str(CHECKOUT), "docker://"]  # as packaging/names
    for number in numbers:
        with tempfile.TemporaryDirectory() as directory:
            fill(Path(directory), number)
            environ = {**os.environ, "ENROOT_CACHE_PATH": directory}
            times = []
            for _ in range(RUNS):
                begin = time.perf_counter()
                told = subprocess.run(command, env=environ, stdout=subprocess.PIPE, check=True).stdout
                times.append(1000 * (time.perf_counter() - begin))
            names = told.count(b"\n")
            print(f"{number:6} images, {names:4} names: {statistics.median(times):.0f} ms, at best {min(times):.0f} ms")


if __name__ == "__main__":
    main([int(word) for word in sys.argv[1:]] or [0, 10, 100, 1000, 10000])
