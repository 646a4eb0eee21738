"""Where the processors are idle during an import: ``python benchmarks/idle.py [--join]``, as root.

The kernel tells when a thread wakes up and when it runs (tracefs, events/sched).  A processor that is idle while no
thread of the import or of the registry is ready waits for their work; one that is idle though a thread is ready waits
for the kernel.  The registry is on this machine: what it takes from the processors, the import can't have.
The kernel keeps its buffer for events afterwards, 64 MiB for each processor.
"""

from __future__ import annotations

import argparse
import collections
import os
import re
import shutil
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests")]

from image import build  # noqa: E402  the path comes first
from measure import page_cache  # noqa: E402
from run import WORK, push, registry_blobs  # noqa: E402
from support.registry import Registry  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Iterator

_TRACE = Path("/sys/kernel/tracing")
_LINE = re.compile(r"\[(\d+)\] \S+ +(\d+\.\d+): (sched_\w+): (.*)")
_SWITCH = re.compile(
    r"prev_comm=(.*) prev_pid=(\d+) prev_prio=-?\d+ prev_state=(\S+) ==> next_comm=(.*) next_pid=(\d+)"
)
_WAKE = re.compile(r"comm=(.*) pid=(\d+) prio=-?\d+ target_cpu=")
_REGISTRY = "docker-registry"
_SETTINGS = {"buffer_size_kb": "65536", "saved_cmdlines_size": "8192", "options/record-tgid": "1"}


class _Event(NamedTuple):
    at: float  # seconds
    processor: int
    off: tuple[int, str] | None  # the thread that stops to run, and its state; None: a thread wakes up
    on: int  # the thread that runs or wakes up; 0: none, the processor is idle


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition(":")[0])
    parser.add_argument("--join", action="store_true", help="with images of layers, not streamed")
    parser.add_argument("--repeat", type=int, default=3, metavar="N")
    parser.add_argument("--work", type=Path, default=WORK, help="by default %(default)s")
    arguments = parser.parse_args()
    image, run = build("full", arguments.work), arguments.work / "idle"
    storage = arguments.work / "registry"
    print(
        "| run | wall s | import, CPU s | registry, CPU s | others | idle, none is ready | idle, though one is ready |"
    )
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    with Registry(arguments.work / "idle-http", storage=storage) as registry:
        push(image, registry)
        uri = f"docker://{registry.host}#bench/{image.name}:{image.tag}"
        words = ["import", "--quiet", "-o", str(run / "image.sqsh"), *([] if arguments.join else ["--no-layer-cache"])]
        for number in range(1, arguments.repeat + 1):
            shutil.rmtree(run, ignore_errors=True)
            run.mkdir()
            page_cache(registry_blobs(image, storage), arguments.work)
            with _traced():
                wall, process = _import([*words, uri], run)
            names: dict[int, str] = {}
            events = _complete(list(_events(names)))
            registries = {thread for thread, name in names.items() if name.startswith(_REGISTRY)}
            seconds = _account(events, _threads(process), registries)
            figures = " | ".join(f"{seconds[key]:.2f}" for key in ("import", "registry", "others", "idle", "late"))
            print(f"| {number} | {wall:.2f} | {figures} |", flush=True)
    shutil.rmtree(run)


@contextmanager
def _traced() -> Iterator[None]:
    (_TRACE / "tracing_on").write_text("0")
    for name, value in _SETTINGS.items():
        (_TRACE / name).write_text(value)
    events = [_TRACE / f"events/sched/{name}/enable" for name in ("sched_switch", "sched_wakeup", "sched_wakeup_new")]
    for event in events:
        event.write_text("1")
    (_TRACE / "trace").write_text("")
    (_TRACE / "tracing_on").write_text("1")
    try:
        yield
    finally:
        (_TRACE / "tracing_on").write_text("0")
        for event in events:
            event.write_text("0")


def _import(words: list[str], run: Path) -> tuple[float, int]:
    environment = os.environ | {
        "ENROOT_ALLOW_HTTP": "y",
        "ENROOT_CACHE_PATH": str(run / "cache"),
        "ENROOT_CONFIG_PATH": str(run / "config"),
        "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 1 -noD",
    }
    words = [sys.executable, "-m", "enroot_slurm", *words]
    began = time.perf_counter()
    process = os.posix_spawn(
        sys.executable, words, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status = os.waitpid(process, 0)
    if status:
        raise SystemExit("the import failed")
    return time.perf_counter() - began, process


def _threads(process: int) -> set[int]:
    """The numbers of all threads that *process* had."""
    pairs = (line.split() for line in (_TRACE / "saved_tgids").read_text().splitlines())
    return {process} | {int(thread) for thread, group in pairs if int(group) == process}


def _events(names: dict[int, str]) -> Iterator[_Event]:
    """What the kernel has noted; *names* gets the names of threads."""
    with (_TRACE / "trace").open(errors="replace") as lines:
        for line in lines:
            if "LOST" in line:
                raise SystemExit("events were lost: the buffer is too small")
            if not (found := _LINE.search(line)):
                continue
            processor, at, rest = int(found[1]), float(found[2]), found[4]
            if switch := _SWITCH.match(rest):
                names[int(switch[2])], names[int(switch[5])] = switch[1], switch[4]
                yield _Event(at, processor, (int(switch[2]), switch[3]), int(switch[5]))
            elif wake := _WAKE.match(rest):
                yield _Event(at, processor, None, int(wake[2]))


def _complete(events: list[_Event]) -> list[_Event]:
    """*events*, with those that the kernel has not noted: after a softirq it notes no switch of an idle processor.

    A thread that stops to run, though another one or none ran on its processor, has begun when it woke up.
    """
    running: dict[int, tuple[float, int]] = {}
    woken: dict[int, float] = {}
    added = []
    for event in events:
        if event.off is None:
            woken[event.on] = event.at
            continue
        thread, _ = event.off
        since, before = running.get(event.processor, (event.at, thread))
        if before != thread:
            added.append(_Event(max(since, woken.get(thread, since)), event.processor, (before, "S"), thread))
        running[event.processor] = (event.at, event.on)
    return sorted([*events, *added], key=lambda event: event.at)


def _account(events: list[_Event], import_threads: set[int], registry: set[int]) -> dict[str, float]:
    """Seconds of all processors, from the first to the last moment at which the import ran."""
    wanted = import_threads | registry
    ran = [event.at for event in events if event.on in import_threads and event.off]
    seconds: dict[str, float] = collections.Counter()
    running: dict[int, int] = {}
    ready: set[int] = set()
    before = 0.0
    for event in events:
        if ran[0] < before and event.at <= ran[-1]:
            for thread in running.values():
                if thread == 0:
                    seconds["late" if ready else "idle"] += event.at - before
                else:
                    whose = "import" if thread in import_threads else "registry" if thread in registry else "others"
                    seconds[whose] += event.at - before
        before = event.at
        if event.off is not None:
            thread, state = event.off
            ready.discard(thread)
            if thread in wanted and state.startswith("R"):
                ready.add(thread)
            ready.discard(event.on)
            running[event.processor] = event.on
        elif event.on in wanted and event.on not in running.values():
            ready.add(event.on)
    return seconds


if __name__ == "__main__":
    main()
