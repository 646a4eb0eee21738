"""mksquashfs, fed with a tar archive (squashfs-tools 4.5 or later: ``mksquashfs - IMAGE -tar``).

It runs with a clean environment (SQFS_CMDLINE and SOURCE_DATE_EPOCH mean something to it), an absolute path and a
bounded memory.  What it drops from an archive it drops silently, so that the number of inodes is compared after it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import subprocess
import tempfile
from typing import TYPE_CHECKING, Self

from enroot_slurm.errors import ConversionError, printable
from enroot_slurm.squashfs.format.superblock import Superblock, unwritten

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from enroot_slurm.errors import StorageError
    from enroot_slurm.squashfs.options import SquashOptions

__all__ = ["Mksquashfs"]

_PIPE_SIZE = 1 << 20
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"


class Mksquashfs:
    """A running mksquashfs that writes *image* from the archive it reads from `stdin`.

    processors  threads to compress with
    memory      bytes for its buffers
    time        seconds since 1970 that all files and the image get; None leaves them theirs, or what *options* say

    Used as a context manager; leaving it without `finish` kills the program.

    Raises: ConversionError, when there is no mksquashfs.
    """

    def __init__(
        self, image: Path, options: SquashOptions, *, processors: int, memory: int, time: int | None = None
    ) -> None:
        self._image = image
        command = [
            *(self.program(), "-", str(image), "-tar"),
            *("-all-root", "-root-mode", "0755", "-no-xattrs", "-noappend", "-no-progress", "-quiet"),
            *("-processors", str(options.processors or processors)),
            *("-mem", f"{max((options.memory or memory) >> 20, 16)}M"),
            *(() if time is None else ("-mkfs-time", str(time), "-all-time", str(time))),
            # Whether it makes a table for NFS servers unless told depends on the release.
            *(() if {"-exports", "-no-exports"} & set(options.arguments) else ("-no-exports",)),
            *options.arguments,
        ]
        self._messages = tempfile.TemporaryFile()  # noqa: SIM115  as long as the program; a pipe could fill up
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=self._messages,
            env={"PATH": _SYSTEM_PATH, "LC_ALL": "C", "HOME": "/nonexistent"},
        )
        with contextlib.suppress(OSError):  # not more than the user may
            fcntl.fcntl(self.stdin, fcntl.F_SETPIPE_SZ, _PIPE_SIZE)

    @staticmethod
    def program() -> str:
        """The absolute path of mksquashfs.  Raises: ConversionError."""
        program = shutil.which("mksquashfs", path=f"{os.environ.get('PATH', '')}:{_SYSTEM_PATH}")
        if program is None:
            raise ConversionError(
                "mksquashfs is not installed",
                hint="Install squashfs-tools 4.5 or later (apt or dnf install squashfs-tools).",
            )
        return os.path.abspath(program)  # noqa: PTH100  links are not to be resolved

    @property
    def stdin(self) -> int:
        """The file descriptor to write the archive to."""
        assert self._process.stdin is not None
        return self._process.stdin.fileno()

    def finish(self, inodes: int) -> Superblock:
        """Wait until the image is written; it must have *inodes* inodes.

        Raises: ConversionError; StorageError, when the disk is full; IntegrityError, when the image is not complete.
        """
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait():
            raise self.failure()
        with self._image.open("rb") as image:
            superblock = Superblock.read(image)
        if superblock.inodes != inodes:
            raise ConversionError(
                f"mksquashfs made {superblock.inodes} inodes of {inodes}: {self._complaint() or 'without a message'}",
                hint="Please report this image: its archive should have been accepted.",
            )
        return superblock

    def failure(self) -> ConversionError | StorageError:
        """Why the program has ended, or ends now that its input is cut."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        status = self._process.wait()
        said = self._complaint()
        for code in (errno.ENOSPC, errno.EDQUOT):
            if os.strerror(code) in said:
                return unwritten(self._image, OSError(code, ""))
        hint = ""
        if "-tar" in said and "invalid option" in said:
            hint = "Install squashfs-tools 4.5 or later; earlier ones can't read tar archives."
        elif "not supported" in said or "invalid" in said.lower():
            hint = "This mksquashfs refuses the squash options: see ENROOT_SQUASH_OPTIONS, and 'mksquashfs -help'."
        return ConversionError(f"mksquashfs failed ({_status(status)}): {said or 'without a message'}", hint=hint)

    def kill(self) -> None:
        """End the program; whoever writes to it gets BrokenPipeError."""
        self._process.kill()

    def _complaint(self) -> str:
        self._messages.seek(0)
        lines = self._messages.read(1 << 16).decode("utf-8", "replace").splitlines()
        return printable("; ".join(line.strip() for line in lines if line.strip()), 500)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        with contextlib.suppress(OSError):
            self._process.communicate()
        self._messages.close()


def _status(returncode: int) -> str:
    return f"signal {-returncode}" if returncode < 0 else f"status {returncode}"
