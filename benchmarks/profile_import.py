"""Where the time of an import goes: ``python benchmarks/profile_import.py [--image small|full|many]``.

The first import tells what Python itself costs and what mksquashfs does; the second is sampled with py-spy (``pip
install py-spy``).  A sample counts where a thread is on a processor, so that waiting is not in the shares.
"""

from __future__ import annotations

import argparse
import collections
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from image import IMAGES, BuiltImage, build  # noqa: E402  the path comes first
from measure import page_cache  # noqa: E402
from run import WORK, push, registry_blobs  # noqa: E402
from support.registry import Registry  # noqa: E402

_ACCOUNT = "--account"  # as the first argument: this process is the one that imports
_RATE = 200  # samples a second
_LINES = 30
_THREADS = {"run (enroot_slurm/rootfs/read_ahead.py": "decode", "_work (enroot_slurm/cache/fetch.py": "fetch"}


def main() -> int:
    if sys.argv[1:2] == [_ACCOUNT]:
        return _account(sys.argv[2:])
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--image", choices=sorted(IMAGES), default="full", help="by default %(default)s")
    parser.add_argument("--options", default="-comp zstd -Xcompression-level 1 -noD", help="of mksquashfs")
    parser.add_argument("--no-samples", action="store_true", help="no second import, and no py-spy")
    parser.add_argument("--warm", action="store_true", help="with the layers in the cache")
    parser.add_argument("--work", type=Path, default=WORK, help="by default %(default)s")
    arguments = parser.parse_args()
    image = build(arguments.image, arguments.work)
    run = arguments.work / "profile"
    shutil.rmtree(run, ignore_errors=True)
    run.mkdir()
    storage = arguments.work / "registry"
    with Registry(arguments.work / "profile-http", storage=storage) as registry:
        push(image, registry)
        uri = f"docker://{registry.host}#bench/{image.name}:{image.tag}"
        command = ["import", "--quiet", "--force", "-o", str(run / "image.sqsh"), uri]
        environment = os.environ | {
            "ENROOT_ALLOW_HTTP": "y",
            "ENROOT_CACHE_PATH": str(run / "cache"),
            "ENROOT_CONFIG_PATH": str(run / "config"),
            "ENROOT_SQUASH_OPTIONS": arguments.options,
        }
        account = [sys.executable, str(Path(__file__).resolve()), _ACCOUNT]
        samples = run / "samples"
        spy = [str(Path(sys.executable).with_name("py-spy")), "record", "--rate", str(_RATE), "--format", "raw"]
        spy += ["--threads", "--output", str(samples), "--", sys.executable, "-m", "enroot_slurm"]
        if arguments.warm:
            subprocess.run([*spy[-3:], *command], env=environment, check=True)
        for program in (account,) if arguments.no_samples else (account, spy):
            _forget(run, image, storage, warm=arguments.warm)
            subprocess.run([*program, *command], env=environment, check=True, stdout=sys.stderr)
    if not arguments.no_samples:
        _report(samples)
    shutil.rmtree(run)
    return 0


def _forget(run: Path, image: BuiltImage, storage: Path, *, warm: bool) -> None:
    if not warm:
        shutil.rmtree(run / "cache", ignore_errors=True)
    cached = [path for path in (run / "cache").rglob("*") if path.is_file()]
    page_cache(cached or registry_blobs(image, storage), storage.parent)


def _account(arguments: list[str]) -> int:
    from enroot_slurm.cli import main as cli  # noqa: PLC0415  only this process needs it

    started = time.perf_counter()
    status = cli(arguments)
    wall = time.perf_counter() - started
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    print(f"wall {wall:.2f} s")
    print(f"Python: {own.ru_utime:.2f} s user, {own.ru_stime:.2f} s system, {own.ru_maxrss / 1024:.0f} MiB at most")
    print(f"mksquashfs: {children.ru_utime:.2f} s user, {children.ru_stime:.2f} s system")
    return status


def _report(samples: Path) -> None:
    """Print the shares of lines and of threads; py-spy's raw format is ``FRAME;FRAME;... COUNT``."""
    lines: collections.Counter[tuple[str, str]] = collections.Counter()
    threads: collections.Counter[str] = collections.Counter()
    for text in samples.read_text().splitlines():
        stack, _, count = text.rpartition(" ")
        thread = next((name for part, name in _THREADS.items() if part in stack), "main")
        lines[thread, stack.rpartition(";")[2]] += int(count)
        threads[thread] += int(count)
    print(f"{sum(threads.values()) / _RATE:.2f} s of samples in Python threads")
    for thread, count in threads.most_common():
        print(f"{count / _RATE:7.2f} s  {thread}")
    for (thread, line), count in lines.most_common(_LINES):
        print(f"{count / _RATE:7.2f} s  {thread:8} {line}")


if __name__ == "__main__":
    sys.exit(main())
