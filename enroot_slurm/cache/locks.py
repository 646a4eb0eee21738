"""File locks between processes and nodes; `turns` waits for them.

They only save work: what is right never depends on one (docs/architecture.md, rule 1).  A lock file is made once and
never removed: a removed one can be held by two.  filelock takes flock(2), which the kernel ends with its process, and
which NFS and Lustre extend to other nodes unless they were told not to.
"""

from __future__ import annotations

import contextlib
import errno
from typing import TYPE_CHECKING

from enroot_slurm.cache.status import Work

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from enroot_slurm.cache.directory import CacheDirectory
    from enroot_slurm.cache.status import Holder

__all__ = ["Lock", "Locks"]

_NO_LOCKS = frozenset((errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL))


class Locks:
    """The locks of the cache *place*, as one process takes them.

    enabled         if not, everyone has every lock: for file systems where locks fail
    holder_timeout  stop waiting for a lock holder after this many seconds without a heartbeat
    min_rate        bytes a second: stop waiting for a lock holder that downloads more slowly
    work            the status of this process, shown to others
    tell            is called about once a second with the holder that is waited for, or None if it is not known
    """

    def __init__(
        self,
        place: CacheDirectory,
        *,
        enabled: bool = True,
        holder_timeout: float = 30,
        min_rate: int = 0,
        work: Work | None = None,
        tell: Callable[[Holder | None], None] = lambda _: None,
    ) -> None:
        self._place = place
        self.enabled = enabled
        self.holder_timeout = holder_timeout
        self.min_rate = min_rate
        self.work = work or Work(place.job)
        self.tell = tell

    def lock(self, name: str, size: int = 0) -> Lock:
        """The lock called *name*; *size*: bytes to be downloaded for what it is for, if that is known."""
        return Lock(self, self._place.root / "locks" / f"{name}.lock", size)

    def prepare(self) -> None:
        """Make the directory.  Raises: OSError."""
        self._place.closed_directory("locks")


class Lock:
    """The lock file *path*."""

    def __init__(self, locks: Locks, path: Path, size: int = 0) -> None:
        self.path = path
        self.locks = locks
        self.size = size
        self.overtaken = 0
        """How many holders are passed over."""
        self._name = path.stem
        self._forced = False

    @property
    def holder(self) -> Path:
        """The file that tells who holds the lock."""
        return self.path.with_suffix(".holder")

    def force(self) -> None:
        """From now on, do without the lock: who holds it takes too long."""
        self._forced = True

    def overtake(self) -> None:
        """From now on, pass over who holds it: one of those who do so gets ``NAME.2.lock``, the others wait for him."""
        self.overtaken += 1
        self.path = self.path.with_name(f"{self._name}.{self.overtaken + 1}.lock")

    @contextlib.contextmanager
    def attempt(self) -> Iterator[bool]:
        """Try to hold the lock; the value is False when another process holds it.

        On a file system without locks everyone gets it.  Raises: OSError, when the file can't be made.
        """
        if not self.locks.enabled:
            yield True
            return
        with contextlib.ExitStack() as stack:
            if not self._acquire(stack) and not self._forced:
                yield False
                return
            with self.locks.work.shown(self.holder):
                yield True

    def _acquire(self, stack: contextlib.ExitStack) -> bool:
        """Take the lock until *stack* ends; False if another process has it.  Raises: OSError."""
        from filelock import FileLock, Timeout  # noqa: PLC0415  a hit in the cache needs no lock, and no import

        # No soft lock: that of a killed process on another node would stay for ever.
        lock = FileLock(self.path, mode=0o600, timeout=0, thread_local=False, fallback_to_soft=False)
        if not self.path.parent.is_dir():  # filelock would make it, for everybody to look into
            self.locks.prepare()
        try:
            lock.acquire()
        except Timeout:
            return False
        except NotImplementedError:
            return True
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            return True
        stack.callback(lock.release)
        return True
