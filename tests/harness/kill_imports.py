"""Imports that are killed, stopped, starved of space or raced, and what they leave: a table.

    python tests/harness/kill_imports.py [--runs N] [--seed N] [--only SCENARIO] [--directory DIRECTORY]

Every run begins with an empty cache, or with one that has blobs or layers, and lets one or several ``enroot-slurm get``
of one image meet their fate.  All the while an observer looks for the image as the program does, and hashes what it is
given: it must be the image, whole.  After that, an import by another process has to succeed and give the same bytes,
and a collection of garbage has to leave nothing that is neither an image, a layer, a blob nor a lock.

Images are made of layers that are joined, so the right bytes are known from an undisturbed import.
Needs root (namespaces, small file systems), mksquashfs and strace.  The same seed makes the same choices.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.command import COMMAND, processes_of, serve
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack

from enroot_slurm.importing.to_cache import find_image, get_image
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

LAYERS, SIZE = 3, 400_000
PHASES = ("resolving", "importing", "joining", "publishing")
# What changes names and contents on a disk: between any two of these calls a process can be killed.
CALLS = (
    "mkdir,rename,renameat,renameat2,link,linkat,unlink,unlinkat,fsync,fchmod,flock,ftruncate,copy_file_range,"
    "write,pwrite64"
)
OLD = 3 * 86400  # seconds: what nobody has written to for so long is garbage


class Outcome(NamedTuple):
    """One run."""

    scenario: str
    struck: bool
    """Whether a process ended early because of what was done to it."""
    shown: int
    """Times that the observer got an image."""
    wrong: int
    """Times that it was not the right one."""
    next_failed: bool
    left: int
    """Unfinished files before garbage was collected."""
    orphans: int | None
    """And after it; None when there is nothing that collects it."""
    note: str = ""


class Harness:
    """An image, a registry that has it, and a cache to spoil."""

    def __init__(self, registry: FaultRegistry, directory: Path, seed: int) -> None:
        self.registry = registry
        self.directory = directory
        self.chance = random.Random(seed)
        image = Image([pack(Layer().file(f"f{n}", noise(SIZE, n)), "gzip") for n in range(LAYERS)])
        self.uri = serve(registry, image)
        self.cache = directory / "cache"
        made = get_image(self.uri, config=self.config())
        self.pinned = f"{self.uri}@{made.digest}"
        self.expected = hash_of(made.path)
        self.warm = directory / "warm"
        self.cache.rename(self.warm)
        subprocess.run(["rm", "-r", self.warm / "images"], check=True)
        begun = time.monotonic()
        with self.running() as process:
            process.wait()
        self.usual = time.monotonic() - begun
        shutil.rmtree(self.cache)
        calls = directory / "calls"
        with self.running("strace", "-f", "-qq", "-o", calls, "-e", f"trace={CALLS}") as process:
            process.wait()
        self.calls: dict[str, list[int]] = {}
        """Names of calls, each with its numbers as strace counts them: for each thread."""
        for name, number in sorted(set(_ordinals(calls.read_text()))):
            self.calls.setdefault(name, []).append(number)
        shutil.rmtree(self.cache)

    def environment(self, **more: str) -> dict[str, str]:
        return {
            "HOME": str(self.directory),
            "PATH": os.environ["PATH"],
            "ENROOT_CACHE_PATH": str(self.cache),
            "ENROOT_ALLOW_HTTP": "yes",
            "ENROOT_SQUASH_OPTIONS": "-comp zstd -Xcompression-level 1",
            "ENROOT_SLURM_WORKER_TIMEOUT": "1.5",
            **more,
        }

    def config(self) -> Config:
        return Config.load(environ=self.environment(), site_file=None, user_file=None, enroot_conf=None)

    @contextlib.contextmanager
    def running(self, *prefix: object, log: str = "log", **more: str) -> Iterator[subprocess.Popen[bytes]]:
        """``enroot-slurm get`` in a session of its own, of which nothing is left at the end."""
        with (self.directory / log).open("wb") as stderr:
            process = subprocess.Popen(
                [*map(str, prefix), *COMMAND, "get", self.uri],
                env=self.environment(**more),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=stderr,
                start_new_session=True,
            )
        try:
            yield process
        finally:
            for pid in processes_of(process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            process.wait()

    def said(self, log: str = "log") -> str:
        return (self.directory / log).read_text("utf-8", "replace")

    def prepare(self, scenario: str) -> None:
        """An empty cache, or one that has layers, or blobs only."""
        choices = ("nothing",) if "at a call" in scenario else ("nothing", "blobs", "layers and blobs")
        kept = self.chance.choice(choices)
        if kept != "nothing":
            shutil.copytree(self.warm, self.cache, dirs_exist_ok=True, copy_function=shutil.copy2)
        if kept == "blobs":
            shutil.rmtree(self.cache / "layers")

    def run(self, scenario: str) -> Outcome:
        """Let one scenario happen, and look at what it leaves."""
        with contextlib.ExitStack() as stack:
            if scenario in {"no space", "read-only"}:
                self.mount(stack)
            self.prepare(scenario)
            with Observer(self) as observer:
                struck, note = SCENARIOS[scenario](self)
            shown = observer.shown
            left = len(unfinished(self.cache))
            if scenario in {"no space", "read-only"}:
                self.remount("rw,size=64m")
            try:
                made = get_image(self.uri, config=self.config())
                failed = hash_of(made.path) != self.expected
            except Exception as error:  # noqa: BLE001  whatever it is, the table shows it
                failed, note = True, f"{note} {error}"
            observer.look()
            orphans = self.collect()
            if not failed:
                failed = find_image(self.pinned, config=self.config()) is None  # it was no garbage
            if scenario not in {"no space", "read-only"}:
                shutil.rmtree(self.cache)
        return Outcome(scenario, struck, shown, observer.wrong, failed, left, orphans, note.strip())

    def collect(self) -> int | None:
        """Collect garbage, as if nobody had touched the cache for days; how many unfinished files are left then."""
        then = time.time() - OLD
        for path in unfinished(self.cache):
            os.utime(path, (then, then), follow_symlinks=False)
        try:
            from enroot_slurm.housekeeping.keeper import collect
        except ImportError:
            return None
        collect(self.cache, config=self.config())
        return len(unfinished(self.cache))

    # What can happen.

    def wait_for_phase(self, process: subprocess.Popen[bytes], phase: str) -> None:
        deadline = time.monotonic() + 20
        while phase not in self.said() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.002)

    def kill_at_phase(self, signum: int) -> tuple[bool, str]:
        phase, delay = self.chance.choice(PHASES), self.chance.choice((0, 0.002, 0.01))
        with self.running() as process:
            self.wait_for_phase(process, phase)
            time.sleep(delay)
            process.send_signal(signum)
            return process.wait() != 0, phase

    def kill_at_random(self, signum: int) -> tuple[bool, str]:
        delay = self.chance.uniform(0.2, 1.1) * self.usual  # before that, Python starts
        with self.running() as process:
            time.sleep(delay)
            process.send_signal(signum)
            return process.wait() != 0, f"after {delay:.3f} s"

    def kill_at_call(self) -> tuple[bool, str]:
        return self.at_call("signal=SIGKILL")

    def fail_at_call(self, error: str) -> tuple[bool, str]:
        struck, note = self.at_call(f"error={error}")
        status = int(note.rpartition(" ")[2])
        return struck, note if status in {0, 7, 8} else f"{note}: {self.said()}"

    def at_call(self, what: str) -> tuple[bool, str]:
        name = self.chance.choice(list(self.calls))
        number = self.chance.choice(self.calls[name])
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={name}"]
        with self.running(*trace, "-e", f"inject={name}:{what}:when={number}") as process:
            status = process.wait()
        return status != 0, f"{name} {number}: {status}"

    def stop(self) -> tuple[bool, str]:
        phase = self.chance.choice(PHASES[1:])
        with self.running() as process:
            self.wait_for_phase(process, phase)
            stopped = process.poll() is None
            for pid in processes_of(process.pid):
                os.kill(pid, signal.SIGSTOP)
            with self.running(log="log2") as other:
                other.wait(60)
            if other.returncode:
                return stopped, f"{phase}: the other one failed: {self.said('log2')}"
            for pid in processes_of(process.pid):
                with contextlib.suppress(ProcessLookupError):  # the first to go on may have ended the others
                    os.kill(pid, signal.SIGCONT)
            if process.wait(60):
                return stopped, f"{phase}: it failed: {self.said()}"
            return stopped, phase

    def starve(self) -> tuple[bool, str]:
        size = self.chance.randrange(200, 6000)
        with contextlib.suppress(subprocess.CalledProcessError):  # smaller than what is there
            self.remount(f"size={size}k")
        with self.running() as process:
            status = process.wait()
        return status != 0, f"{size} KiB" if status in {0, 7} else f"status {status}: {self.said()}"

    def make_read_only(self) -> tuple[bool, str]:
        delay = self.chance.uniform(0, self.usual)
        with self.running() as process:
            deadline = time.monotonic() + delay
            while time.monotonic() < deadline:
                time.sleep(0.005)
            # Files that are open for writing make the kernel refuse; a moment later it may not.
            for _ in range(200):
                if process.poll() is not None:
                    break
                with contextlib.suppress(subprocess.CalledProcessError):
                    self.remount("ro")
                    break
            status = process.wait()
        return status != 0, "" if status in {0, 7} else f"status {status}: {self.said()}"

    def two_nodes(self) -> tuple[bool, str]:
        names = ("log", "log2")
        script = 'hostname "$0" && exec "$@"'
        prefix = ["unshare", "--uts", "--pid", "--fork", "--kill-child", "--mount-proc", "sh", "-c", script]
        delay = self.chance.uniform(0, self.usual)
        with self.running(*prefix, "node1") as one, self.running(*prefix, "node2", log=names[1]) as two:
            if self.chance.random() < 0.7:
                time.sleep(delay)
                one.kill()
            statuses = [one.wait(60), two.wait(60)]
        note = "" if not statuses[1] else f"node2 failed: {self.said(names[1])}"
        return bool(statuses[0]), note

    def lying_locks(self) -> tuple[bool, str]:
        with contextlib.ExitStack() as stack:
            everyone = [stack.enter_context(self.running(log=f"log{n}", ENROOT_SLURM_LOCKS="no")) for n in range(3)]
            time.sleep(self.chance.uniform(0, 1.5 * self.usual))
            everyone[0].kill()
            statuses = [process.wait(60) for process in everyone]
            if any(statuses[1:]):
                return True, f"others failed: {self.said('log1')} {self.said('log2')}"
        return bool(statuses[0]), ""

    # A file system of its own.

    def mount(self, stack: contextlib.ExitStack) -> None:
        self.cache.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m,mode=0700", "none", self.cache], check=True)
        stack.callback(self.cache.rmdir)
        stack.callback(subprocess.run, ["umount", "-l", self.cache], check=True)

    def remount(self, options: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{options}", self.cache], check=True, capture_output=True)


SCENARIOS: dict[str, Callable[[Harness], tuple[bool, str]]] = {
    "SIGKILL at a call": Harness.kill_at_call,
    "EIO at a call": lambda h: h.fail_at_call("EIO"),
    "ENOSPC at a call": lambda h: h.fail_at_call("ENOSPC"),
    "SIGKILL at a phase": lambda h: h.kill_at_phase(signal.SIGKILL),
    "SIGTERM at a phase": lambda h: h.kill_at_phase(signal.SIGTERM),
    "SIGKILL at any time": lambda h: h.kill_at_random(signal.SIGKILL),
    "SIGTERM at any time": lambda h: h.kill_at_random(signal.SIGTERM),
    "SIGSTOP, left behind": Harness.stop,
    "no space": Harness.starve,
    "read-only": Harness.make_read_only,
    "two nodes, one killed": Harness.two_nodes,
    "locks that do nothing": Harness.lying_locks,
}


class Observer:
    """Looks for the image, again and again, as a job would, and hashes what it is given."""

    def __init__(self, harness: Harness) -> None:
        self._harness = harness
        self._config = harness.config()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._seen: dict[tuple[int, ...], str] = {}
        self.shown = self.wrong = 0

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.look()

    def _run(self) -> None:
        while not self._stop.wait(0.003):
            self.look()

    def look(self) -> None:
        """One look."""
        found = find_image(self._harness.pinned, config=self._config)
        if found is None:
            return
        status = found.path.stat()
        key = (status.st_ino, status.st_ctime_ns, status.st_size)
        if key not in self._seen:
            self._seen[key] = hash_of(found.path)
        self.shown += 1
        self.wrong += self._seen[key] != self._harness.expected


def _ordinals(trace: str) -> Iterator[tuple[str, int]]:
    """For each call in *trace*: which one of its name and thread it is."""
    counts: Counter[tuple[str, str]] = Counter()
    for thread, name in re.findall(r"^(\d+) +(\w+)\(", trace, re.MULTILINE):
        counts[thread, name] += 1
        yield name, counts[thread, name]


def hash_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def unfinished(cache: Path) -> list[Path]:
    """Files that belong to nobody when nobody works."""
    found = [*cache.rglob("*.tmp"), *cache.rglob(".*.json"), *cache.glob("tmp/*"), *cache.rglob("*.holder")]
    return sorted({path for path in found if path.is_file()})


def run(runs: int, seed: int, directory: Path, only: Sequence[str] = ()) -> list[Outcome]:
    """So many runs, one scenario after the other."""
    names = list(only) or list(SCENARIOS)
    with FaultRegistry() as registry:
        harness = Harness(registry, directory, seed)
        return [harness.run(names[number % len(names)]) for number in range(runs)]


def table(outcomes: Sequence[Outcome]) -> str:
    """The outcomes by scenario, for people."""
    titles = ("what happens", "runs", "struck", "image seen", "wrong image", "next import fails", "left", "after GC")
    rows = [titles]
    for name in (*SCENARIOS, "all"):
        of = [o for o in outcomes if name in {o.scenario, "all"}]
        if of:
            sums = [sum(o.struck for o in of), sum(o.shown > 0 for o in of), sum(o.wrong for o in of)]
            sums += [sum(o.next_failed for o in of), sum(o.left for o in of)]
            orphans = "-" if of[0].orphans is None else str(sum(o.orphans or 0 for o in of))
            rows.append((name, str(len(of)), *map(str, sums), orphans))
    return "\n".join("| " + " | ".join(row) + " |" for row in (rows[0], ("---",) * len(titles), *rows[1:]))


def is_bad(outcome: Outcome) -> bool:
    """Whether something happened that must not."""
    unclean = outcome.left and outcome.scenario.startswith(("SIGTERM", "EIO", "ENOSPC", "no space"))
    if "unlink" in outcome.note:  # what can't be removed stays
        unclean = False
    unkind = "failed" in outcome.note or "error" in outcome.note
    return bool(outcome.wrong or outcome.next_failed or outcome.orphans or unclean or unkind)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", action="append", default=[], choices=list(SCENARIOS))
    parser.add_argument("--directory", type=Path, default=Path("/var/tmp"), help="where to work; nothing is left there")
    options = parser.parse_args()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kill.", dir=options.directory) as name:
        outcomes = run(options.runs, options.seed, Path(name), options.only)
    print(table(outcomes))
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s")
    bad = [o for o in outcomes if is_bad(o)]
    for outcome in bad:
        print(outcome)
    return 1 if bad else 0


if __name__ == "__main__":
    raise SystemExit(main())
