"""Stripes of Lustre: a directory whose new files are spread over many servers (lfs-setstripe(1)).

An image is read by all nodes of a job at once.  On one server, which is what most file systems do with a new file, it
is as slow as that server.  Small files are better off on one.  A file has the stripes of the directory in which it was
made, so that is to be set before.
"""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command", "is_lustre", "is_striped", "stripe"]

_MAGIC = 0x0BD00BD0  # LL_SUPER_MAGIC, lustre_user.h
_COUNT = "32"  # servers; Lustre takes as many as there are
_SIZE = "4M"
# First a layout that leaves the beginning of a file, and so small files, on one server: Lustre 2.10 and later.
_LAYOUTS = (
    ("-E", "64M", "-c", "1", "-S", _SIZE, "-E", "-1", "-c", _COUNT, "-S", _SIZE),
    ("-c", _COUNT, "-S", _SIZE),
)
_PATIENCE = 30.0  # seconds for a file system to answer


def is_lustre(path: Path) -> bool:
    """Whether *path* is on Lustre; False where it can't be asked."""
    status = ctypes.create_string_buffer(512)  # struct statfs has 120 bytes; its type comes first
    library = ctypes.CDLL(None, use_errno=True)
    if library.statfs(os.fsencode(path), status):
        return False
    return ctypes.c_long.from_buffer(status).value == _MAGIC


def stripe(directory: Path, *, lustre: bool) -> bool:
    """Let new files in *directory*, and in directories made in it, be spread; whether that was done.

    *lustre* says whether it is on Lustre.  Nothing depends on it, so a failure is none.
    """
    return lustre and any(_run(*_words(layout, directory)) is not None for layout in _LAYOUTS)


def is_striped(directory: Path) -> bool | None:
    """Whether new files in *directory*, which is on Lustre, are spread over servers; None where ``lfs`` can't tell."""
    said = _run("getstripe", "-d", "--stripe-count", str(directory))
    counts = [int(number) for number in re.findall(r"(?m)(?:^|\s)(-?\d{1,9})\s*$", said or "")]
    # 0 is what the file system does elsewhere, which is 1 unless somebody has changed it; -1 is all.
    return any(count not in {0, 1} for count in counts) if counts else None


def command(directory: Path) -> str:
    """What a person runs to have *directory* striped."""
    return " ".join(["lfs", *_words(_LAYOUTS[1], directory)])


def _words(layout: tuple[str, ...], directory: Path) -> list[str]:
    return ["setstripe", *layout, str(directory)]


def _run(*words: str) -> str | None:
    """What ``lfs`` says; None if it fails, or is not there."""
    program = shutil.which("lfs")
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, check=True, timeout=_PATIENCE, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.SubprocessError, ValueError):
        return None
    return done.stdout
