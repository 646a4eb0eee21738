"""Signals raise KeyboardInterrupt, whatever the main thread waits for."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

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
timers = lambda: open("/proc/self/timers").read()
before = [signal.getsignal(number) for number in range(1, 32)]
with interruptible(again=5):
    assert timers()
assert not timers()
assert before == [signal.getsignal(number) for number in range(1, 32)]
"""
    process = start(setup, "pass")
    assert process.communicate(timeout=20)[0] == ""
    assert process.returncode == 0


ENDS = """
import os, sys, time
from enroot_slurm.system.interrupts import raise_interrupts

def begin(number):
    if number % 2:  # a worker of a hook: its parent has ticks as well
        raise_interrupts()
        if os.fork():
            os._exit(os.waitstatus_to_exitcode(os.wait()[1]) & 0xff)
    raise_interrupts()
    time.sleep(number / {number})

children = {{}}
for number in range({number}):
    pid = os.fork()
    if not pid:
        begin(number)
        break
    children[pid] = number
else:
    for pid, number in children.items():
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if status != number // 2 % 5:
            print(number, status)
    sys.exit()

end = number // 2 % 5
if end == 1:
    sys.stderr = open(os.devnull, "w")
    raise ValueError
if end == 2:
    sys.exit(2)
if end == 3:
    os.execv("/bin/sh", ["sh", "-c", "read word; exit 3"])
if end == 4:
    os._exit(4)
"""


def test_no_end_is_killed_by_a_tick() -> None:
    """However processes end (return, error, SystemExit, exec, _exit), 1,000 ends in all parts of a second."""
    program = ENDS.format(number=1000)
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        time.sleep(2.5)  # what exec has begun reads, while ticks would come
        process.stdin.close()
        assert process.stdout.read() == b""
        assert process.wait() == 0
