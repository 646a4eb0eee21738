"""Signals raise KeyboardInterrupt, whatever the main thread waits for."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, subprocess, sys, threading, time
from enroot_slurm.system.interrupts import interruptible, raise_interrupts
signal.signal(signal.SIGINT, signal.SIG_DFL)  # shells let what runs in the background ignore it
{setup}
try:
    print("ready", flush=True)
    {wait}
except KeyboardInterrupt as interrupt:
    print("interrupted", int(interrupt.args[0]))
"""
# The kernel lets another thread take the signal: as when it comes just before the wait, nothing ends this.
MISSED = """
raise_interrupts()
threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])
"""
WAITS = {
    "lock": "lock = threading.Lock(); lock.acquire(); lock.acquire()",
    "child": "subprocess.run(['sleep', '10'], stdout=subprocess.DEVNULL)",
    "read": "os.read(os.pipe()[0], 1)",
}


def start(setup: str, wait: str) -> subprocess.Popen[str]:
    program = PROGRAM.format(setup=setup, wait=wait)
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS)
def test_a_signal_that_no_wait_has_seen(wait) -> None:
    process = start(MISSED, wait)
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=20)[0] == "interrupted 15\n"


def test_an_ignored_signal_stays_ignored() -> None:
    setup = "signal.signal(signal.SIGHUP, signal.SIG_IGN); context = interruptible(again=5); context.__enter__()"
    process = start(setup, "time.sleep(100)")
    process.send_signal(signal.SIGHUP)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=20)[0] == "interrupted 2\n"


def test_what_slurm_ignores_ends_its_programs() -> None:
    process = start("signal.signal(signal.SIGHUP, signal.SIG_IGN); raise_interrupts()", "time.sleep(100)")
    process.send_signal(signal.SIGHUP)
    assert process.communicate(timeout=20)[0] == "interrupted 1\n"


def test_more_signals_wait_for_the_clean_up() -> None:
    wait = "os.kill(os.getpid(), signal.SIGTERM)\nexcept KeyboardInterrupt:\n    os.kill(os.getpid(), signal.SIGINT)"
    process = start("raise_interrupts()", wait)
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0


def test_what_was_before_comes_back() -> None:
    setup = """
before = [signal.getsignal(number) for number in range(1, 20)]
with interruptible(again=5):
    assert signal.getitimer(signal.ITIMER_REAL) != (0.0, 0.0)
assert before == [signal.getsignal(number) for number in range(1, 20)]
assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
"""
    process = start(setup, "pass")
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0


def test_a_program_that_takes_the_place() -> None:
    process = start(
        "raise_interrupts()",
        "from enroot_slurm.system.interrupts import stop_timer; stop_timer()\n    os.execvp('sleep', ['sleep', '1.2'])",
    )
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0
