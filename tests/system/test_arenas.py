"""Arenas of the C library: counted by glibc itself."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest

_WORK = """
import ctypes, sys, threading
from enroot_slurm.system.arenas import limit_arenas
limit_arenas()
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
begun = threading.Barrier(9)
def work():
    libc.malloc(ctypes.c_size_t(10_000))
    begun.wait()
threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
for thread in threads:
    thread.start()
begun.wait()
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""

_HOLES = """
from enroot_slurm.system.arenas import trim_arenas
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
import os
pieces = [bytearray(100_000) for _ in range(1000)]
for piece in pieces:
    piece[:] = b"x" * len(piece)
del pieces[::2], piece
before = resident()
trim_arenas()
print(before - resident())
"""


def _arenas(**environment: str) -> int:
    work = [sys.executable, "-c", _WORK]
    done = subprocess.run(work, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library has no arenas")
def test_threads_share_two_arenas_unless_the_environment_says_how_many() -> None:
    assert _arenas() == 2
    assert _arenas(MALLOC_ARENA_MAX="5") == 5


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="another C library keeps no memory")
def test_a_trim_gives_holes_between_pieces_back() -> None:
    """Of 100 MB, every second piece of 100 kB is freed."""
    done = subprocess.run([sys.executable, "-c", _HOLES], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 30e6
