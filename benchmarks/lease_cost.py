"""What leases ask of a shared file system: ``python benchmarks/lease_cost.py [--nodes N ...] [--delay MS]``.

A job of so many nodes has a lease for each of them.  Counted are the calls that reach the cache when one more node
leases the image, and when one node ends its lease while all others still have theirs.  With a delay, both are timed on
a file system that takes so long for each call (`slow_fs`).  It needs strace and, for a delay, FUSE.
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

from slow_fs import slow  # noqa: E402  the path comes first
from support.cache import FilledCache  # noqa: E402

from enroot_slurm.cache.leases import Leases  # noqa: E402

_WORK = """
import sys, time
from pathlib import Path
from enroot_slurm.cache.leases import Leases
root, image, word = map(Path, sys.argv[1:])
leases = Leases(root)
began = time.perf_counter()
if str(word) == "lease":
    leases.lease(image, "1.0", "new")
elif str(word) == "release":
    leases.release("1.0", "node0")
print(1000 * (time.perf_counter() - began))
"""
_ENVIRONMENT = {"PYTHONPATH": str(HERE.parent), "PATH": "/usr/bin:/bin"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(";")[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 64, 1000])
    parser.add_argument("--delay", type=float, default=0, help="milliseconds that each call takes; 0: nothing is timed")
    arguments = parser.parse_args()
    print("| nodes of the job | calls to lease | calls to release | ms to lease | ms to release |")
    print("| ---: | ---: | ---: | ---: | ---: |")
    for nodes in arguments.nodes:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            root = Path(directory) / "cache"
            root.mkdir(mode=0o700)
            image = FilledCache(root).image("image")
            for number in range(nodes):
                Leases(root).lease(image, "1.0", f"node{number}")
            cells = [f"{nodes:,}", *(str(_calls(root, image, word)) for word in ("lease", "release"))]
            if arguments.delay:
                for name in ("node0", "new"):  # as before the counting
                    Leases(root).release("1.0", name)
                Leases(root).lease(image, "1.0", "node0")
                with slow(Path(directory), Path(directory) / "slow", arguments.delay / 1000) as mounted:
                    far = mounted / "cache"
                    cells += [_milliseconds(far, far / image.relative_to(root), word) for word in ("lease", "release")]
            print(f"| {' | '.join([*cells, *[''] * (5 - len(cells))])} |", flush=True)
    return 0


def _milliseconds(root: Path, image: Path, word: str) -> str:
    """How long *word* takes there, when Python has started."""
    work = [sys.executable, "-c", _WORK, str(root), str(image), word]
    done = subprocess.run(work, check=True, env=_ENVIRONMENT, capture_output=True, text=True)
    return f"{float(done.stdout):.0f}"


def _calls(root: Path, image: Path, word: str) -> int:
    """The calls of the file system that *word* makes in the cache."""
    trace = root.parent / "trace"
    work = [sys.executable, "-c", _WORK, str(root), str(image), word]
    subprocess.run(
        ["strace", "-f", "-y", "-qq", "-o", trace, "-e", "trace=%file,%desc", *work],
        check=True,
        env=_ENVIRONMENT,
        stdout=subprocess.DEVNULL,
    )
    calls = [line for line in trace.read_text().splitlines() if str(root) in line and "execve(" not in line]
    # What the kernel answers from memory, or does later, is none.
    return sum(not re.search(r"^\d+ +(close|lseek|fcntl|dup|fadvise64|ioctl)", line) for line in calls)


if __name__ == "__main__":
    raise SystemExit(main())
