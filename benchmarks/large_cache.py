"""What housekeeping of a large cache costs: ``python benchmarks/large_cache.py [--images N] [--leases N] [--jobs N]``.

A cache is filled with images (a sidecar and a sparse file each), and with leases of some of them by jobs.  Half of the
images are to go.  Beside each command stands what a script would do: ``find``, which only lists the files, and for the
collection ``find -delete`` of as many files, which looks at no lease.  Three sizes show how the cost grows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent)]

from enroot_slurm.cache.images import Sidecar, image_file  # noqa: E402  the path comes first
from enroot_slurm.cache.leases import lease_key  # noqa: E402
from enroot_slurm.oci.digest import Digest  # noqa: E402

COMMAND = [sys.executable, "-m", "enroot_slurm", "cache"]
_SIZE = 1 << 20  # bytes of an image, all of them a hole
_DAY = 86400


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--leases", type=int, default=50_000)
    parser.add_argument("--jobs", type=int, default=1_000)
    arguments = parser.parse_args()
    print("| images | leases | jobs | list | du | find | gc of half | find -delete | gc, µs an image and lease |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for part in (4, 2, 1):
        print(_row(arguments.images // part, arguments.leases // part, arguments.jobs // part), flush=True)
    return 0


def _row(images: int, leases: int, jobs: int) -> str:
    with tempfile.TemporaryDirectory(dir=os.environ.get("BENCHMARK_DIR", "/var/tmp")) as directory:
        work = Path(directory)
        cache = work / "cache"
        fill(cache, images, leases, jobs)
        environ = {"PATH": f"{_squeue(work, jobs)}:{os.environ['PATH']}", "HOME": directory}
        environ |= {"ENROOT_CACHE_PATH": str(cache), "PYTHONPATH": str(HERE.parent)}
        listed, _ = _timed([*COMMAND, "list"], environ)
        used, _ = _timed([*COMMAND, "du"], environ)
        found, names = _timed(["find", str(cache), "-type", "f", "-printf", "%p %s %T@ %A@\n"], environ)
        assert names.count("\n") == 2 * images + leases
        shutil.copytree(cache, work / "copy", symlinks=True, copy_function=_hole)
        doomed = images // 2
        high = (images - doomed) * _SIZE + (16 << 20)
        collected, report = _timed([*COMMAND, "gc", "--json", "--high", str(high), "--low", str(high)], environ)
        gone = [each for each in json.loads(report)["removed"] if each["kind"] == "image"]
        assert doomed - 40 <= len(gone) <= doomed, len(gone)
        deleted, _ = _timed(
            ["sh", "-c", f"find {work}/copy -name '*.sqsh' | head -n {doomed} | xargs -d '\\n' rm"], environ
        )
    each = collected / (images + leases) * 1e6
    return (
        f"| {images:,} | {leases:,} | {jobs:,} | {listed:.1f} s | {used:.1f} s | {found:.2f} s | {collected:.1f} s "
        f"| {deleted:.2f} s | {each:.0f} |"
    )


def fill(root: Path, images: int, leases: int, jobs: int) -> None:
    """A cache of old *images*, the newest tenth of which is leased by *jobs* with *leases* in all."""
    then = time.time() - 40 * _DAY
    paths = []
    for number in range(images):
        digest = Digest.of(b"%d" % number)
        file = image_file(root, "0123456789abcdef", "linux-amd64", digest)
        file.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        with file.path.open("wb") as image:
            image.truncate(_SIZE)
        used = then + number
        os.utime(file.path, (used, used))
        status = file.path.stat()
        known = Sidecar(
            *(f"docker://registry.example#team/app:{number}", str(digest), "linux/amd64", "-comp zstd"),
            *(status.st_size, status.st_mtime_ns, f"crc32:{'0' * 64}", int(used), True, "1"),
        )
        file.sidecar.write_bytes(bytes(known))
        os.utime(file.sidecar, (used, used))
        paths.append(str(file.path.relative_to(root)))
    leased = paths[-max(1, images // 10) :]
    for number in range(leases):
        job = root / "jobs" / f"{number % jobs + 1}.0"
        job.mkdir(parents=True, exist_ok=True, mode=0o700)
        image = leased[number % len(leased)]
        lease = job / f"node{number // jobs:04}.{lease_key(image)}.lease"
        lease.touch(mode=0o444)
        os.utime(lease, (then, then))
    for directory in (root, *root.rglob("*/")):
        directory.chmod(0o700)


def _squeue(work: Path, jobs: int) -> Path:
    """A directory with a squeue that knows all jobs."""
    (work / "bin").mkdir()
    (work / "jobs").write_text("".join(f"{number}\n" for number in range(1, jobs + 1)))
    program = work / "bin/squeue"
    program.write_text(f"#!/bin/sh\ncat {work}/jobs\n")
    program.chmod(0o755)
    return work / "bin"


def _hole(source: str, target: str) -> None:
    with Path(target).open("wb") as file:
        file.truncate(Path(source).stat().st_size)


def _timed(command: list[str], environ: dict[str, str]) -> tuple[float, str]:
    began = time.monotonic()
    result = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    seconds = time.monotonic() - began
    assert result.returncode == 0, result.stderr
    return seconds, result.stdout


if __name__ == "__main__":
    raise SystemExit(main())
