"""What people see while an import works: on a terminal, in a log, and when nobody looks."""

from __future__ import annotations

import io
import os
import pty
import re
import termios
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest
from support.command import COMMAND, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.tools import require_tools

from enroot_slurm.commands.display import Display
from enroot_slurm.progress import Progress, size_text

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
    """One line, rewritten in place, with bytes, rate and time left; it is gone at the end."""
    with terminal() as screen:
        with Display(screen.stream, interval=0.01) as display:
            display.phase("importing 1234")
            display.expect(100 * MEBIBYTE)
            display.converted(5000)

            def come() -> bool:
                display.received(MEBIBYTE // 10)
                return " left" in screen.text

            wait_for(come)
        wait_for(lambda: screen.text.endswith("\r\x1b[K"))
        assert "\n" not in screen.text
        pattern = (
            r"enroot-slurm: importing 1234, downloaded [\d.]+ MiB of 100 MiB, [\d.]+ [KM]iB/s, "
            r"\d+ (s|min \d\d s|h \d\d min) left, squashfs has read 4.9 KiB"
        )
        assert any(re.fullmatch(pattern, line) for line in screen.lines), screen.lines[-3:]
        assert screen.lines[-1] == ""


@pytest.mark.parametrize("columns", [20, 1, 0])
def test_narrow_terminals(columns) -> None:
    """No line is as wide as the terminal, which would wrap; a terminal that does not know its width has 80 columns."""
    with terminal(columns) as screen:
        with Display(screen.stream, interval=0.01) as display:
            display.phase("importing " + "x" * 100)
            wait_for(lambda: screen.text.count("\r") > 2)
        widths = {len(line) for line in screen.lines if line}
        assert widths <= {(columns or 80) - 1}
        assert "\n" not in screen.text


def test_the_width_may_change() -> None:
    """A window that is resized is filled, and not more."""
    with terminal(100) as screen:
        with Display(screen.stream, interval=0.01) as display:
            display.phase("x" * 200)
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
        display.warn("hot")
        display.phase("publishing x.sqsh")
    assert stream.getvalue().splitlines() == [
        "enroot-slurm: resolving app",
        "enroot-slurm: importing 1234, downloaded 0 B of 3.0 MiB",
        "enroot-slurm: warning: hot",
        "enroot-slurm: publishing x.sqsh, downloaded 3.0 MiB",
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
        display.received(1)
        display.phase("done")
    assert "enroot-slurm: done, downloaded 78 KiB\n" in stream.getvalue()


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
        progress.warn("z")
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
                wait_for(lambda: "downloaded 1.0 MiB of 2.0 MiB" in screen.text)
            finally:
                release.set()
            assert process.stdout is not None
            assert process.stdout.read() == b""
        assert process.returncode == 0, screen.text
        wait_for(lambda: screen.text.endswith("\n"))
        *_, cleared, summary, _ = re.split(r"\r\n|\r", screen.text)
        assert cleared.endswith("\x1b[K")
        assert re.fullmatch(r"(\x1b\[K)?\S+/x.sqsh: 2.0 MiB, 1 layers fetched, 0 from the cache, \d+\.\d s", summary)


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
