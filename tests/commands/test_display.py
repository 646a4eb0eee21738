"""What people see while an import works: on a terminal, in a log, and when nobody looks."""

from __future__ import annotations

import inspect
import io
import json
import os
import pty
import re
import termios
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.command import COMMAND, enroot_slurm, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.tools import require_tools

from enroot_slurm.commands.display import Display, JsonLines
from enroot_slurm.progress import Pace, Progress, Relay, size_text, work_text

if TYPE_CHECKING:
    from collections.abc import Iterator

MEBIBYTE = 1 << 20


class Terminal:
    """A pseudo terminal, and all that was written to it."""

    def __init__(self, columns: int) -> None:
        self._master, self.slave = pty.openpty()
        termios.tcsetwinsize(self.slave, (24 if columns else 0, columns))
        self.stream = os.fdopen(self.slave, "w", encoding="utf-8")
        self._raw = bytearray()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        try:
            while data := os.read(self._master, 4096):
                self._raw += data
        except OSError:  # the other end is closed
            pass

    @property
    def text(self) -> str:
        return self._raw.decode()

    @property
    def lines(self) -> list[str]:
        """The contents that the lowest line has had."""
        return [part.removesuffix("\x1b[K") for part in re.split(r"[\r\n]+", self.text) if part]

    def close(self) -> None:
        self.stream.close()
        self._reader.join(10)
        os.close(self._master)


@contextmanager
def terminal(columns: int = 120) -> Iterator[Terminal]:
    opened = Terminal(columns)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture(autouse=True)
def terminal_type(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")


def test_one_line_on_a_terminal() -> None:
    """One bar, drawn in place, with percent, rate, time left and bytes; it is gone at the end."""
    done = 0
    with terminal() as screen:
        with Display(screen.stream, interval=0.01) as display:
            display.phase("importing {1234}")
            display.expect(100 * MEBIBYTE)
            display.received(30 * MEBIBYTE)

            def come() -> bool:
                nonlocal done
                done += MEBIBYTE // 10
                display.advanced(done, 200 * MEBIBYTE)
                return " left" in screen.text

            wait_for(come)
        wait_for(lambda: screen.text.endswith("\r\x1b[K"))
        assert "\n" not in screen.text
        pattern = (
            r"enroot-slurm: importing \{1234\} +\d+ %\|[^|]+\| [\d.]+ [KM]iB/s, "
            r"\d+ (s|min \d\d s|h \d\d min) left, downloaded 30 MiB of 100 MiB"
        )
        assert any(re.fullmatch(pattern, line) for line in screen.lines), screen.lines[-3:]
        assert {len(line) for line in screen.lines if "|" in line} == {119}
        assert screen.lines[-1] == ""


@pytest.mark.parametrize("columns", [20, 1, 0])
def test_narrow_terminals(columns) -> None:
    """No line is as wide as the terminal, which would wrap; a terminal that does not know its width has 80 columns."""
    with terminal(columns) as screen:
        with Display(screen.stream, interval=0.01) as display:
            display.phase("importing " + "x" * 100)
            display.advanced(1, 3)
            wait_for(lambda: screen.text.count("\r") > 2)
        widths = {len(line) for line in screen.lines if line}
        assert widths <= {(columns or 80) - 1}
        assert "\n" not in screen.text


def test_the_width_may_change() -> None:
    """A window that is resized is filled, and not more, with a bar or without one."""
    with terminal(100) as screen:
        with Display(screen.stream, interval=0.01) as display:
            display.phase("x" * 200)
            display.advanced(1, 3)
            wait_for(lambda: any(len(line) == 99 for line in screen.lines))
            termios.tcsetwinsize(screen.slave, (24, 40))
            wait_for(lambda: any(len(line) == 39 for line in screen.lines))


def test_warnings_stand_alone() -> None:
    """A warning replaces the status line, and has a line of its own."""
    with terminal() as screen:
        with Display(screen.stream, interval=60) as display:
            display.phase("resolving")
            display.warn("mind the gap")
            display.phase("importing")
        wait_for(lambda: "importing" in screen.text)
        assert "\r\x1b[Kenroot-slurm: warning: mind the gap\r\n\renroot-slurm: importing" in screen.text


def test_lines_in_a_log() -> None:
    """Without a terminal: a line for each phase, one at each interval, and no control characters."""
    stream = io.StringIO()
    with Display(stream, interval=60) as display:
        display.phase("resolving app")
        display.expect(3 * MEBIBYTE)
        display.phase("importing 1234")
        display.received(3 * MEBIBYTE)
        display.advanced(MEBIBYTE, 3 * MEBIBYTE)
        display.warn("hot")
        display.detail("layer 1: done")
        display.phase("joining 2 layers")
        display.advanced(3 * MEBIBYTE, 3 * MEBIBYTE)
        display.hint("do less")
        display.phase("publishing x.sqsh")
    assert stream.getvalue().splitlines() == [
        "enroot-slurm: resolving app",
        "enroot-slurm: importing 1234, downloaded 0 B of 3.0 MiB",
        "enroot-slurm: warning: hot",
        "enroot-slurm: joining 2 layers, 33 %",
        "enroot-slurm: hint: do less",
        "enroot-slurm: publishing x.sqsh, 100 %",
    ]
    stream = io.StringIO()
    with Display(stream, interval=0.01) as display:
        display.phase("importing")
        wait_for(lambda: stream.getvalue().count("\n") > 3)
    assert set(stream.getvalue().splitlines()) == {"enroot-slurm: importing"}


def test_a_dumb_terminal_is_a_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the cursor can't go back, lines are not rewritten."""
    monkeypatch.setenv("TERM", "dumb")
    with terminal() as screen:
        with Display(screen.stream, interval=60) as display:
            display.phase("resolving")
            display.phase("importing")
        wait_for(lambda: "importing" in screen.text)
        assert "\x1b" not in screen.text
        assert screen.lines == ["enroot-slurm: resolving", "enroot-slurm: importing"]


def test_a_second_download_counts_from_zero() -> None:
    """After a damaged blob, what is fetched again is told as such, not added to what came before."""
    stream = io.StringIO()
    with Display(stream, interval=60) as display:
        display.expect(MEBIBYTE)
        display.received(MEBIBYTE)
        display.expect(2 * MEBIBYTE)
        display.phase("again")
    assert stream.getvalue() == "enroot-slurm: again, downloaded 0 B of 2.0 MiB\n"


def test_from_many_threads() -> None:
    """No byte is lost when several downloads count at once."""
    stream = io.StringIO()
    with Display(stream, interval=0.001) as display:
        display.expect(80_001)
        threads = [
            threading.Thread(target=lambda: [display.received(1) for _ in range(10_000)], name=f"t{n}")
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        display.phase("nearly")
        display.received(1)
        display.phase("done")
    assert "enroot-slurm: nearly, downloaded 78 KiB of 78 KiB\n" in stream.getvalue()
    assert stream.getvalue().endswith("enroot-slurm: done\n")


def test_a_stream_that_fails_is_no_error() -> None:
    """A full disk, or a reader that has gone, is no reason to end an import."""
    reading, writing = os.pipe()
    os.close(reading)
    for stream in (open("/dev/full", "w"), os.fdopen(writing, "w")):  # noqa: SIM115
        with Display(stream, interval=0.01) as display:
            display.phase("resolving")
            display.warn("hot")
            time.sleep(0.05)
        try:
            stream.close()
        except OSError:
            pass


def test_details() -> None:
    """Whoever wants to know more is told of each layer."""
    stream = io.StringIO()
    with Display(stream, interval=60, details=True) as display:
        display.detail("layer 1: done")
    assert stream.getvalue() == "enroot-slurm: layer 1: done\n"


def test_lines_for_programs() -> None:
    """Each line is a JSON object; the last one comes at the end, and what is for people at once."""
    stream = io.StringIO()
    with JsonLines(stream, interval=60) as lines:
        lines.phase("resolving")
        lines.warn("hot\n")
        lines.detail("not wanted")
        lines.phase("importing")
        lines.waiting("waiting for n1")
        lines.expect(10)
        lines.received(5)
        lines.advanced(1, 3)
    warning, last = map(json.loads, stream.getvalue().splitlines())
    assert warning == {"warning": "hot\n"}
    assert last == {
        "phase": "waiting for n1",
        "waiting": True,
        "done": 1,
        "total": 3,
        "percent": 33.3,
        "rate": None,
        "left": None,
        "received": 5,
        "expected": 10,
    }


def test_a_relay_passes_on_all() -> None:
    """What stands between an import and its display leaves nothing out."""
    heard: list[str] = []

    class Hearing(Progress):
        def __getattribute__(self, name: str) -> object:
            return lambda *arguments: heard.append(f"{name}{len(arguments)}")

    methods = [name for name in vars(Progress) if not name.startswith("_")]
    for name in methods:
        count = len(inspect.signature(getattr(Progress, name)).parameters) - 1
        getattr(Relay(Hearing()), name)(*range(count))
        assert heard.pop() == f"{name}{count}"
    assert len(methods) == 10


@pytest.mark.parametrize(
    ("numbers", "text"),
    [
        ((0, 0, 5), ""),
        ((-1, 5, 5), ""),
        ((1, 3, 0), "33 %"),
        ((MEBIBYTE, 3 * MEBIBYTE, MEBIBYTE), "33 %, 1.0 MiB/s, 2 s left"),
        ((3, 3, 7), "100 %"),
        ((9, 3, 7), "100 %"),
        ((1, 3, -7), "33 %"),
    ],
)
def test_work_for_people(numbers, text) -> None:
    """Percent, rate and time left, as far as they are known; a stranger's numbers may be any."""
    assert work_text(*numbers) == text


def test_a_rate_is_that_of_the_last_seconds() -> None:
    """Ten seconds count; a count that begins anew is another one."""
    pace = Pace()
    assert pace.rate(100.0, 0) == 0
    assert pace.rate(102.0, 200) == 100
    assert [pace.rate(102.0 + second, 200 + 1000 * second) for second in range(1, 21)][-1] == 1000
    assert pace.rate(123.0, 5) == 0
    assert pace.rate(124.0, 25) == 20


def test_silence() -> None:
    """Nobody is told anything, but for what a subclass wants to hear."""
    heard = []

    class Phases(Progress):
        def phase(self, name: str) -> None:
            heard.append(name)

    for progress in (Progress(), Phases()):
        progress.phase("x")
        progress.waiting("y")
        progress.expect(1)
        progress.received(1)
        progress.converted(1)
        progress.advanced(1, 2)
        progress.warn("z")
        progress.hint("h")
        progress.detail("d")
    assert heard == ["x"]


def test_sizes_for_people() -> None:
    """Two digits at least, and binary units."""
    sizes = {0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 10 << 20: "10 MiB", 3 << 29: "1.5 GiB", 5 << 40: "5.0 TiB"}
    assert {size: size_text(size) for size in sizes} == sizes


def test_the_command_on_a_terminal(import_environment, tmp_path) -> None:
    """The status line of a real import shows the download, and is gone when the summary comes."""
    import subprocess

    require_tools("mksquashfs")
    image = Image([Layer().file("f", noise(2 * MEBIBYTE))], compression="none")
    release = threading.Event()
    with FaultRegistry() as registry, terminal(150) as screen:
        uri = serve(registry, image)
        registry.fault(image.blobs()[0].digest, stall=release, after=MEBIBYTE)
        command = [*COMMAND, "import", "-o", str(tmp_path / "x.sqsh"), uri]
        environment = {**import_environment, "TERM": "xterm"}
        with subprocess.Popen(command, env=environment, stderr=screen.slave, stdout=subprocess.PIPE) as process:
            try:
                # Small pieces wait for more of them, so it may be less than a MiB.
                wait_for(lambda: re.search(r" \d+ %\|.*\| .*downloaded [\d.]+ [KM]iB of 2.0 MiB", screen.text))
            finally:
                release.set()
            assert process.stdout is not None
            assert process.stdout.read() == b""
        assert process.returncode == 0, screen.text
        wait_for(lambda: screen.text.endswith("\n"))
        *_, cleared, summary, _ = re.split(r"\r\n|\r", screen.text)
        assert cleared.endswith("\x1b[K")
        assert re.fullmatch(r"(\x1b\[K)?\S+/x.sqsh: 2.0 MiB, 1 layer fetched, 0 from the cache, \d+\.\d s", summary)


@pytest.mark.parametrize("joined", [True, False])
def test_the_command_for_programs(joined, import_environment, tmp_path) -> None:
    """The last line says that all is done, in as many bytes as there are; layers have lines of their own."""
    layers = [Layer().file("f", noise(2 * MEBIBYTE)), Layer().file("g", noise(MEBIBYTE))]
    image = Image(layers, compression="gzip")
    size = sum(len(blob.data) for blob in image.blobs()[:2])
    with FaultRegistry() as registry:
        uri = serve(registry, image)
        options = [] if joined else ["--no-layer-cache"]
        command = ["import", "-v", "--progress=json", "-o", tmp_path / "x.sqsh", *options, uri]
        result = enroot_slurm(*command, environment=import_environment)
    assert result.returncode == 0, result.stderr
    lines = [json.loads(line) for line in result.stderr.splitlines() if line.startswith("{")]
    last = [line for line in lines if "phase" in line][-1]
    assert last["phase"] == "publishing x.sqsh"
    assert last["done"] == last["total"] == size + (size // 8 if joined else 0)
    assert (last["received"], last["expected"], last["percent"]) == (size, size, 100.0)
    details = [line["detail"] for line in lines if "detail" in line]
    assert sorted(re.sub(r"[0-9a-f]{12}", "HEX", line.partition(",")[0]) for line in details) == [
        "layer HEX: 1.0 MiB",
        "layer HEX: 2.0 MiB",
    ]
    assert all(re.search(r"done in \d+\.\d s$", line) for line in details)


def test_waiting_in_a_log() -> None:
    """What is told each second about another process is shown at once, and then as seldom as anything else in a log."""
    stream = io.StringIO()
    with Display(stream, interval=0.3) as display:
        display.phase("resolving")
        for second in range(20):
            display.waiting(f"waiting for n1: since {second} s")
        assert stream.getvalue().count("waiting") == 1
        wait_for(lambda: "since 19 s" in stream.getvalue())
        display.phase("done")
    assert stream.getvalue().splitlines()[:2] == [
        "enroot-slurm: resolving",
        "enroot-slurm: waiting for n1: since 0 s",
    ]


def test_waiting_on_a_terminal() -> None:
    """On a terminal each line that is told is seen."""
    with terminal() as screen:
        with Display(screen.stream, interval=10) as display:
            for second in range(3):
                display.waiting(f"waiting, {second} s")
        wait_for(lambda: "waiting, 2 s" in screen.text)
        assert [line for line in screen.lines if "waiting" in line] == [
            f"enroot-slurm: waiting, {n} s" for n in range(3)
        ]
