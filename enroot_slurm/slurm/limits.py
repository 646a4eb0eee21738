"""Limits of memory and processor time for a hook's worker: an image that exceeds them is refused.

The kernel signals every second beyond the processor's time, so that one error that is lost is not the last.

Sources: setrlimit(2).
"""

from __future__ import annotations

import resource
import signal
from typing import TYPE_CHECKING, NoReturn

from enroot_slurm.errors import EnrootSlurmError, UnsupportedImage, no_memory
from enroot_slurm.progress import duration_text, size_text

if TYPE_CHECKING:
    from types import FrameType

    from enroot_slurm.settings.config import Config

__all__ = ["Limits"]

_MEMORY = 4 << 30  # address space of the interpreter, its libraries and buffers
_PER_PROCESSOR = 256 << 20  # of a thread: its stack, its arena, its blocks
_SHARE = 50  # of max_unpacked: what is known of the names in that much
_SECONDS = 600
_PACE = 1 << 20  # bytes per second that the slowest compressor packs


class Limits:
    """The limits of this process, from those of images in *config*; in force once made."""

    def __init__(self, config: Config) -> None:
        self._memory = _MEMORY + config.max_processors * _PER_PROCESSOR + config.max_unpacked // _SHARE
        self._seconds = _SECONDS + config.max_unpacked // _PACE
        _lower(resource.RLIMIT_AS, self._memory, self._memory)
        signal.signal(signal.SIGXCPU, self._over_time)
        self.renew()

    def renew(self) -> None:
        """Let the processor's time count from now on: for another image."""
        used = resource.getrusage(resource.RUSAGE_SELF)
        seconds = int(used.ru_utime + used.ru_stime) + 1 + self._seconds
        _lower(resource.RLIMIT_CPU, seconds, resource.RLIM_INFINITY)

    def explain(self, error: BaseException) -> EnrootSlurmError | None:
        """The message if these limits have caused *error*."""
        if no_memory(error) or (isinstance(error, RuntimeError) and "start new thread" in str(error)):
            return UnsupportedImage(
                f"the image takes more memory than a worker may have ({size_text(self._memory)})",
                hint="The limit follows from the setting max_unpacked.",
            )
        return None

    def _over_time(self, _number: int, _frame: FrameType | None) -> NoReturn:
        raise UnsupportedImage(
            f"the image takes more of the processor's time than a worker may have ({duration_text(self._seconds)})",
            hint="The limit follows from the setting max_unpacked.",
        )


def _lower(which: int, soft: int, hard: int) -> None:
    """Set a limit, if the one in force is not lower already."""
    _, most = resource.getrlimit(which)
    unlimited = resource.RLIM_INFINITY
    if most != unlimited:
        soft, hard = min(soft, most), most if hard == unlimited else min(hard, most)
    resource.setrlimit(which, (soft, hard))
