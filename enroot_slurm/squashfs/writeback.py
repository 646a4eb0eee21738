"""Writing that begins early: the kernel would gather gigabytes first, and the sync at the end would wait for all."""

from __future__ import annotations

import ctypes

__all__ = ["WriteBack"]

_WRITE = 2  # SYNC_FILE_RANGE_WRITE: begin, and don't wait (sync_file_range(2))
_STEP = 16 << 20


class WriteBack:
    """Lets the file *fd*, which grows from *at* on, go to the disk meanwhile."""

    def __init__(self, fd: int, at: int = 0) -> None:
        self._fd = fd
        self._begun = at
        self._call = getattr(ctypes.CDLL(None), "sync_file_range", None)

    def reached(self, at: int) -> None:
        """Everything before *at* has been written."""
        if at - self._begun >= _STEP and self._call is not None:
            # What it answers does not matter: some file systems can't, and the sync at the end tells of errors.
            self._call(self._fd, ctypes.c_int64(self._begun), ctypes.c_int64(at - self._begun), _WRITE)
            self._begun = at
