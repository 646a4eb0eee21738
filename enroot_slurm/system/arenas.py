"""How much freed memory the C library keeps for threads that may want it again.

glibc gives each thread that asks an arena of its own, up to eight for each processor.  An import passes pieces from
thread to thread, so each arena would keep room for the most that its thread ever had, and nobody else could use it.
"""

from __future__ import annotations

import ctypes
import os

__all__ = ["limit_arenas", "trim_arenas"]

_ARENA_MAX = -8  # M_ARENA_MAX (malloc.h)
_ARENAS = 2
"""Enough: Python's lock lets one thread at a time ask for memory, but for what a library takes in the meantime."""


def limit_arenas() -> None:
    """Let the threads of this process share few arenas from now on, unless its environment says how many.

    Other C libraries than glibc have no arenas to limit.  Source: mallopt(3).
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None and not {"MALLOC_ARENA_MAX", "GLIBC_TUNABLES"} & os.environ.keys():
        mallopt(_ARENA_MAX, _ARENAS)


def trim_arenas() -> None:
    """Give the kernel back the memory that the C library keeps, where it can.

    Pieces of many sizes leave holes that are too small for the next large one: left alone, they come to more than what
    is in use.  It takes some milliseconds.  Source: malloc_trim(3).
    """
    malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if malloc_trim is not None:
        malloc_trim(ctypes.c_size_t(0))
