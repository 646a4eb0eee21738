"""What leases ask of a shared file system: ``python benchmarks/lease_cost.py [--nodes N ...]``; it needs strace.

A job of so many nodes has a lease for each of them.  Counted are the calls that reach the cache when one more node
leases the image, and when one node ends its lease while all others still have theirs.  A file system that takes a
millisecond for a call, as one in user space or far away may, takes as many milliseconds.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from support.cache import FilledCache  # noqa: E402  the path comes first

from enroot_slurm.cache.leases import Leases  # noqa: E402

_WORK = """
import sys
from pathlib import Path
from enroot_slurm.cache.leases import Leases
root, image, word = map(Path, sys.argv[1:])
leases = Leases(root)
if str(word) == "lease":
    leases.lease(image, "1.0", "new")
elif str(word) == "release":
    leases.release("1.0", "node0")
"""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(";")[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 64, 1000])
    arguments = parser.parse_args()
    print("| nodes of the job | calls to lease | calls to release |")
    print("| ---: | ---: | ---: |")
    for nodes in arguments.nodes:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            root = Path(directory) / "cache"
            root.mkdir(mode=0o700)
            image = FilledCache(root).image("image")
            for number in range(nodes):
                Leases(root).lease(image, "1.0", f"node{number}")
            print(f"| {nodes:,} | {_calls(root, image, 'lease')} | {_calls(root, image, 'release')} |", flush=True)
    return 0


def _calls(root: Path, image: Path, word: str) -> int:
    """The calls of the file system that *word* makes in the cache."""
    trace = root.parent / "trace"
    environment = {"PYTHONPATH": str(HERE.parent), "PATH": "/usr/bin:/bin"}
    work = [sys.executable, "-c", _WORK, str(root), str(image), word]
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-o", trace, "-e", "trace=%file,%desc", *work], check=True, env=environment
    )
    calls = [line for line in trace.read_text().splitlines() if str(root) in line and "execve(" not in line]
    # What the kernel answers from memory, or does later, is none.
    return sum(not re.search(r"^\d+ +(close|lseek|fcntl|dup|fadvise64|ioctl)", line) for line in calls)


if __name__ == "__main__":
    raise SystemExit(main())
