"""What commands cost: time, processor time, memory and disk, their children included."""

from __future__ import annotations

import contextlib
import os
import resource
import subprocess
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Command", "Cost", "disk_use", "measure", "page_cache"]

_INTERVAL = 1 / 20  # seconds between two looks at the processes
_DISK_SHARE = 0.02  # of the time that looking at the disk may take
_PAGE = resource.getpagesize()


class Command(NamedTuple):
    """A command, and the file that is its standard input."""

    arguments: tuple[str, ...]
    stdin: Path | None = None


class Cost(NamedTuple):
    """The cost of commands that ran one after the other."""

    wall: float
    """Seconds."""
    cpu: float
    """Seconds of processor time, user and system, of the commands and their children."""
    others: float
    """Seconds of processor time that all other processes used meanwhile, the registry and this one among them."""
    rss: int
    """Bytes: the highest sum of the resident memory of all processes; a shared page counts in each."""
    main_rss: int
    """Bytes: the highest resident memory of any of the commands' own processes, without children."""
    disk: int
    """Bytes: the most that was seen in the watched directory."""
    stages: tuple[float, ...]
    """Seconds of wall time of each command."""


def measure(commands: Sequence[Command], environment: Mapping[str, str], watched: Path) -> Cost:
    """Run *commands* in the directory *watched*.  Raises: CalledProcessError, with what the command said."""
    costs = []
    with _DiskWatch(watched) as disk:
        for command in commands:
            costs.append(_measure(command, environment, watched))
            disk.look()
    return Cost(
        wall=sum(cost.wall for cost in costs),
        cpu=sum(cost.cpu for cost in costs),
        others=sum(cost.others for cost in costs),
        rss=max(cost.rss for cost in costs),
        main_rss=max(cost.main_rss for cost in costs),
        disk=disk.peak,
        stages=tuple(cost.wall for cost in costs),
    )


def page_cache(files: Sequence[Path], work: Path) -> bool:
    """Empty the page cache, fill it, and read *files* into it; False if emptying needs root, and was not done.

    On a node in use it is full.  Free memory would be worse than that in a virtual machine: its host has taken it, and
    may need a second or two to give back each gigabyte.  In *work* is the file that it is filled with.
    """
    os.sync()
    emptied = True
    try:
        Path("/proc/sys/vm/drop_caches").write_text("3\n")
    except OSError:
        emptied = False
    memory = work / "memory"
    memory.touch()
    os.truncate(memory, os.sysconf("SC_PHYS_PAGES") * _PAGE)  # a hole, which takes memory and no disk
    buffer = bytearray(4 << 20)
    for path in (memory, *files):
        with path.open("rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    return emptied


def disk_use(directory: Path) -> int:
    """Bytes that the files in *directory* take; hard links count once."""
    total = 0
    seen = set()
    pending = [str(directory)]
    while pending:
        with contextlib.suppress(OSError), os.scandir(pending.pop()) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):
                    status = entry.stat(follow_symlinks=False)
                    if status.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                        if status.st_ino in seen:
                            continue
                        seen.add(status.st_ino)
                    total += status.st_blocks * 512
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
    return total


def _measure(command: Command, environment: Mapping[str, str], directory: Path) -> Cost:
    log = directory / "log"
    with (
        log.open("ab") as output,
        command.stdin.open("rb") if command.stdin else open(os.devnull, "rb") as source,  # noqa: PTH123
    ):
        busy = _busy()
        started = time.perf_counter()
        process = subprocess.Popen(
            command.arguments, stdin=source, stdout=output, stderr=output, env=dict(environment), cwd=directory
        )
        memory = _MemoryWatch(process.pid)
        memory.start()
        try:
            _, status, usage = os.wait4(process.pid, 0)
        except BaseException:
            process.terminate()
            raise
        wall = time.perf_counter() - started
        busy = _busy() - busy
        process.returncode = os.waitstatus_to_exitcode(status)
    memory.stop()
    if process.returncode:
        said = log.read_bytes()[-3000:].decode("utf-8", "replace")
        raise subprocess.CalledProcessError(process.returncode, command.arguments, said)
    cpu = usage.ru_utime + usage.ru_stime
    return Cost(wall, cpu, max(busy - cpu, 0.0), memory.peak, memory.main_peak, 0, ())


class _Watch(threading.Thread):
    """Calls `look` again and again until it is stopped."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self._stopped = threading.Event()

    def run(self) -> None:
        pause = 0.0
        while not self._stopped.wait(pause):
            started = time.perf_counter()
            self.look()
            pause = self.pause(time.perf_counter() - started)

    def stop(self) -> None:
        self._stopped.set()
        self.join()

    def look(self) -> None:
        raise NotImplementedError

    def pause(self, taken: float) -> float:
        return max(_INTERVAL - taken, 0.0)


class _MemoryWatch(_Watch):
    """The resident memory of a process and its children."""

    def __init__(self, pid: int) -> None:
        super().__init__()
        self._main = pid
        self._tree = {pid}
        self._foreign = set(_processes()) - {pid}
        self.peak = 0
        self.main_peak = 0

    def look(self) -> None:
        for pid in sorted(set(_processes()) - self._foreign - self._tree):
            (self._tree if _parent(pid) in self._tree else self._foreign).add(pid)
        self.peak = max(self.peak, sum(map(_resident, self._tree)))
        with contextlib.suppress(OSError, IndexError):  # it may have ended
            text = Path(f"/proc/{self._main}/status").read_text()
            self.main_peak = max(self.main_peak, int(text.partition("VmHWM:")[2].split(maxsplit=1)[0]) << 10)


class _DiskWatch(_Watch):
    """The bytes in a directory; looked at seldom when that takes long."""

    def __init__(self, directory: Path) -> None:
        super().__init__()
        self._directory = directory
        self._lock = threading.Lock()
        self.peak = 0

    def look(self) -> None:
        with self._lock:
            self.peak = max(self.peak, disk_use(self._directory))

    def pause(self, taken: float) -> float:
        return max(_INTERVAL, taken / _DISK_SHARE)

    def __enter__(self) -> _DiskWatch:  # noqa: PYI034  Self would need no less
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _processes() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())  # noqa: PTH208  no Path for each


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


def _resident(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:  # noqa: PTH123  twenty times a second for each process
            return int(file.read().split()[1]) * _PAGE
    except (OSError, IndexError):
        return 0


def _busy() -> float:
    """Seconds of processor time that all processes have used since the start of the machine."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    user, nice, system, _idle, _iowait, irq, softirq = map(int, fields[:7])
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
