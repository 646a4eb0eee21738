"""What leases ask of a shared file system: ``python benchmarks/lease_cost.py [--nodes N ...] [--delay MS]``.

A job of so many nodes has a lease for each of them.  Counted are the calls that reach the cache when one more node
leases the image, when one node ends its lease while all others still have theirs, and when a collection lists all of
the cache.  With a delay, the first two are done on a file system that takes so long for each request (`slow_fs`): one
call may make several of them, for names on the way that the kernel does not know.  It needs strace and, for a delay,
FUSE.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from slow_fs import slow  # noqa: E402  the path comes first
from support.cache import FilledCache  # noqa: E402
from support.calls import STRACE, calls_in  # noqa: E402

from enroot_slurm.cache.leases import Leases  # noqa: E402

_WORK = """
import sys, time
from pathlib import Path
from enroot_slurm.cache.leases import Leases
from enroot_slurm.housekeeping.inventory import inventory
root, image, word = map(Path, sys.argv[1:])
leases = Leases(root)
began = time.perf_counter()
if str(word) == "lease":
    leases.lease(image, "1.0", "new")
elif str(word) == "release":
    leases.release("1.0", "node0", visits=False)
elif str(word) == "list":
    inventory(root)
print(1000 * (time.perf_counter() - began))
"""
_RUNS = 5
_ENVIRONMENT = {"PYTHONPATH": str(HERE.parent), "PATH": "/usr/bin:/bin"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition(";")[0])
    parser.add_argument("--nodes", type=int, nargs="*", default=[1, 64, 1000])
    parser.add_argument("--delay", type=float, default=0, help="milliseconds that each call takes; 0: nothing is timed")
    arguments = parser.parse_args()
    words = [f"{what} to {word}" for what in ("calls", "requests", "ms") for word in ("lease", "release")]
    words.insert(2, "calls to list all")
    print(f"| nodes of the job | {' | '.join(words)} |\n| {' | '.join(['---:'] * (len(words) + 1))} |")
    for nodes in arguments.nodes:
        with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
            root = Path(directory) / "cache"
            root.mkdir(mode=0o700)
            image = FilledCache(root).image("image")
            for number in range(nodes):
                Leases(root).lease(image, "1.0", f"node{number}")
            cells = [f"{nodes:,}", *(f"{_calls(root, image, word):,}" for word in ("lease", "release", "list"))]
            if arguments.delay:
                runs = [_timed(root, image, arguments.delay) for _ in range(_RUNS)]
                cells += [f"{statistics.median(each):.0f}" for each in zip(*runs, strict=True)]
            print(f"| {' | '.join([*cells, *[''] * (len(words) + 1 - len(cells))])} |", flush=True)
    return 0


def _timed(root: Path, image: Path, delay: float) -> list[float]:
    """The requests of the kernel to lease and to release there, and the milliseconds that each takes.

    Python has started, and the kernel knows no name yet.  Closing is not counted: nobody waits for it.
    """
    for name in ("node0", "new"):  # as before the counting
        Leases(root).release("1.0", name)
    Leases(root).lease(image, "1.0", "node0")
    log = root.parent / "requests"
    requests, times = [], []
    with slow(root.parent, root.parent / "slow", delay / 1000, log) as mounted:
        far = mounted / root.name
        for word in ("lease", "release"):
            log.write_text("")
            work = [sys.executable, "-c", _WORK, str(far), str(far / image.relative_to(root)), word]
            done = subprocess.run(work, check=True, env=_ENVIRONMENT, capture_output=True, text=True)
            requests.append(len([each for each in log.read_text().split() if each != "release"]))
            times.append(float(done.stdout))
    (root.parent / "slow").rmdir()
    return [*requests, *times]


def _calls(root: Path, image: Path, word: str) -> int:
    """The calls of the file system that *word* makes in the cache."""
    trace = root.parent / "trace"
    work = [sys.executable, "-c", _WORK, str(root), str(image), word]
    subprocess.run([*STRACE, "-o", trace, *work], check=True, env=_ENVIRONMENT, stdout=subprocess.DEVNULL)
    return sum(1 for _ in calls_in(root, trace.read_text()))


if __name__ == "__main__":
    raise SystemExit(main())
