"""The stand-in for pyxis, compiled where slurmd finds it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from support.tools import require_tools

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["pyxis_standin"]


@contextmanager
def pyxis_standin() -> Iterator[Path]:
    """The plug-in's file, for a line ``required FILE [importer=PROGRAM]`` of plugstack.conf."""
    require_tools("cc", "unsquashfs")
    directory = Path(tempfile.mkdtemp(prefix="es-pyxis-", dir="/var/tmp"))
    directory.chmod(0o755)
    try:
        library = directory / "pyxis_standin.so"
        source = Path(__file__).with_name("pyxis_standin.c")
        subprocess.run(["cc", "-Wall", "-fPIC", "-shared", "-o", library, source], check=True)
        yield library
    finally:
        shutil.rmtree(directory)
