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


def _arenas(**environment: str) -> int:
    work = [sys.executable, "-c", _WORK]
    done = subprocess.run(work, env={**os.environ, **environment}, check=True, capture_output=True, text=True)
    return done.stdout.count("<heap nr=")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_info"), reason="another C library has no arenas")
def test_threads_share_two_arenas_unless_the_environment_says_how_many() -> None:
    assert _arenas() == 2
    assert _arenas(MALLOC_ARENA_MAX="5") == 5
