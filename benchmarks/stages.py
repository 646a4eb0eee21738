"""The stages of a streamed import, one added to the other: ``python benchmarks/stages.py [--repeat N]``.

It shows how long an import must take, because one thread decodes each layer, and how much two busy cores slow each
other.  The layers of the image `full` are read from the page cache.  The last rows read more pieces of a layer ahead
than the program does: stages wait less for each other, and the import takes more memory.  Each row is the best of N
turns.
"""

from __future__ import annotations

import argparse
import hashlib
import multiprocessing
import os
import resource
import shutil
import sys
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE), str(HERE.parent / "tests")]

from image import build  # noqa: E402  the path comes first
from run import WORK, push  # noqa: E402
from support.registry import Registry  # noqa: E402

from enroot_slurm.rootfs.read_ahead import prefetch  # noqa: E402
from enroot_slurm.tar.compression import decompress  # noqa: E402
from enroot_slurm.tar.reader import Reader  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_READ = 1 << 18
_CORES = 2
_AHEAD = (12, 100, 1000)  # MiB
_PROGRAM = """
import enroot_slurm.rootfs.read_ahead as read_ahead
from enroot_slurm.cli import main
read_ahead._DEPTH = {ahead}
raise SystemExit(main())
"""


class _Cost(NamedTuple):
    wall: float
    cpu: float
    memory: int  # bytes, of the program; 0: it is this one


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--work", type=Path, default=WORK, help="by default %(default)s")
    arguments = parser.parse_args()
    image = build("full", arguments.work)
    layers: list[Path] = image.layers

    def each(stage: Callable[[Path], Iterable[object]]) -> Callable[[], None]:
        return lambda: _drain(item for layer in layers for item in stage(layer))

    decode = each(_decoded)
    stages: dict[str, Callable[[], int | None]] = {
        "decode": decode,
        "decode, in two processes, each all": lambda: _twice(decode),
        "decode; hash in another thread": each(lambda layer: _hashed(prefetch(_decoded(layer)))),
        "likewise, and read headers in a third": each(
            lambda layer: Reader(prefetch(_hashed(prefetch(_decoded(layer)))))
        ),
    }
    with Registry(arguments.work / "stages-http", storage=arguments.work / "registry") as registry:
        push(image, registry)
        run = arguments.work / "stages"
        shutil.rmtree(run, ignore_errors=True)
        words = ["import", "--quiet", "--force", "--no-layer-cache", "-o", str(run / "image.sqsh")]
        words.append(f"docker://{registry.host}#bench/{image.name}:{image.tag}")
        environment = os.environ | {
            "ENROOT_ALLOW_HTTP": "y",
            "ENROOT_CACHE_PATH": str(run / "cache"),
            "ENROOT_CONFIG_PATH": str(run / "config"),
            "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 1 -noD",
        }
        run.mkdir()
        command = [sys.executable, "-m", "enroot_slurm", *words]
        _run(command, environment)
        stages["the whole import, blobs in the cache"] = partial(_run, command, environment)
        for ahead in _AHEAD:
            other = [sys.executable, "-c", _PROGRAM.format(ahead=ahead), *words]
            stages[f"likewise, {ahead} MiB read ahead, and hashed"] = partial(_run, other, environment)
        costs: dict[str, list[_Cost]] = {name: [] for name in stages}
        print(f"Load before: {os.getloadavg()[0]:.2f}; {os.cpu_count()} cores.\n")
        for turn in range(arguments.repeat):
            # Forward and back: memory that was not used for a while is slow to get on a virtual machine.
            for name, stage in list(stages.items())[:: -1 if turn % 2 else 1]:
                costs[name].append(_cost(stage))
        shutil.rmtree(run)
    print("| stage | wall s | CPU s | wall against CPU / 2 | memory MB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, (wall, cpu, memory) in ((name, min(found)) for name, found in costs.items()):
        shown = f"{memory / 1e6:.0f}" if memory else ""
        print(f"| {name} | {wall:.2f} | {cpu:.2f} | {wall * _CORES / cpu:.2f} | {shown} |")


def _cost(stage: Callable[[], int | None]) -> _Cost:
    began, before = time.perf_counter(), _processor_time()
    memory = stage() or 0
    return _Cost(time.perf_counter() - began, _processor_time() - before, memory)


def _processor_time() -> float:
    used = [resource.getrusage(whose) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _decoded(layer: Path) -> Iterator[bytes]:
    with layer.open("rb", buffering=0) as file:
        yield from decompress(iter(lambda: file.read(_READ), b""))


def _hashed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    hasher = hashlib.sha256()
    for chunk in chunks:
        hasher.update(chunk)
        yield chunk


def _drain(items: Iterable[object]) -> None:
    for _ in items:
        pass


def _twice(work: Callable[[], None]) -> None:
    forks = multiprocessing.get_context("fork")
    processes = [forks.Process(target=work) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def _run(command: list[str], environment: dict[str, str]) -> int:
    """Run *command*; the bytes of memory that it needed."""
    process = os.posix_spawn(command[0], command, environment)
    _, status, used = os.wait4(process, 0)
    if status:
        raise SystemExit("the import failed")
    return used.ru_maxrss << 10


if __name__ == "__main__":
    main()
