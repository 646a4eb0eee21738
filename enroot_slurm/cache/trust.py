"""Checks whether others can change a cache.  An image that anybody could have written may be malware.

A cache is untamperable when each directory from ``/`` down to its entries belongs to root or to the owner of the
cache, and nobody else may write to it.  A directory such as /tmp, which is root's and sticky, may be on the way: only
the owner of an entry can rename or remove it there.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import BinaryIO, NamedTuple

from enroot_slurm.errors import StorageError

__all__ = ["MAX_SIDECAR", "Untrusted", "check_untamperable", "open_trusted", "owner_number", "read_trusted"]

MAX_SIDECAR = 64 << 10
"""Bytes that a file which tells of another may have."""
_BUFFER = 4096  # of an image only the first bytes are read, where Python would have 128 KiB
_WRITABLE = stat.S_IWGRP | stat.S_IWOTH


class Untrusted(StorageError):
    """Others can change a cache, or have; the message says how, the hint what to run."""


class _Flaw(NamedTuple):
    what: str
    command: str


def owner_number(root: Path, user: str = "") -> int | None:
    """The number of the user to whom the cache *root* belongs; None if there is no such directory.

    Raises: Untrusted, when *user* is given, and it is neither that user's nor root's; OSError.
    """
    try:
        uid = root.stat().st_uid
    except (FileNotFoundError, NotADirectoryError):
        return None
    if user and uid:
        import pwd  # noqa: PLC0415 - it may ask a server

        try:
            expected = pwd.getpwnam(user).pw_uid
        except KeyError:
            raise Untrusted(
                f"the cache {root} should belong to {user}, but there is no such user",
                hint="Correct the setting cache_user.",
            ) from None
        if uid != expected:
            raise Untrusted(f"the cache {root} does not belong to {user}", hint=f"Run: chown {user} {root}")
    return uid


def check_untamperable(root: Path, owner: int, *, strict: bool = True) -> None:
    """Refuse the cache *root*, which belongs to the user number *owner*, if others could change what is in it.

    Without *strict*, the directories above it may belong to anybody: it is the user's own choice to keep a cache there.

    Raises: Untrusted, with the commands that would mend it; OSError.
    """
    flaws = []
    # Once: each look costs a shared file system a call for each directory on the way.
    real = root.resolve()
    # Names on the way that are symbolic links count as well as what they lead to.
    for path in dict.fromkeys([*_upwards(Path(os.path.abspath(root))), *_upwards(real)]):  # noqa: PTH100
        flaw = _flaw(path, {0, owner}, is_root=path in {root, real}, strict=strict)
        if flaw:
            flaws.append(flaw)
    if flaws:
        raise Untrusted(
            f"others can change the cache {root}: " + "; ".join(flaw.what for flaw in flaws),
            hint="Run: " + " && ".join(flaw.command for flaw in flaws),
        )


def _upwards(path: Path) -> list[Path]:
    return [path, *path.parents]


def _flaw(path: Path, owners: set[int], *, is_root: bool, strict: bool) -> _Flaw | None:
    try:
        status = path.lstat()
    except FileNotFoundError:  # it will be made, with the right permissions
        return None
    if status.st_uid not in owners and (strict or is_root):
        owner = "root" if not is_root else str(max(owners))
        return _Flaw(f"{path} belongs to user {status.st_uid}", f"chown {owner} {path}")
    if stat.S_ISLNK(status.st_mode) or not status.st_mode & _WRITABLE:
        return None
    if status.st_mode & stat.S_ISVTX and not status.st_uid and not is_root:
        return None
    if not strict and _is_private_group(status):
        return None
    who = "everybody" if status.st_mode & stat.S_IWOTH else f"group {status.st_gid}"
    return _Flaw(f"{path} is writable by {who}", f"chmod go-w {path}")


def _is_private_group(status: os.stat_result) -> bool:
    """Whether the group that may write is the one that many systems make for each user alone."""
    if status.st_mode & stat.S_IWOTH or status.st_uid != os.geteuid() or status.st_gid != os.getegid():
        return False
    import grp  # noqa: PLC0415 - it may ask a server
    import pwd  # noqa: PLC0415

    try:
        group, user = grp.getgrgid(status.st_gid), pwd.getpwuid(status.st_uid)
    except KeyError:
        return False
    return group.gr_name == user.pw_name and set(group.gr_mem) <= {user.pw_name}


def open_trusted(path: Path, owners: set[int], *, links: int = 1) -> BinaryIO:
    """Open the regular file *path* for reading, if nobody but *owners* can have written it.

    It may have up to *links* names: others can give a file more of them in directories of their own, and keep it so.

    Raises: Untrusted, with the reason; OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if path.is_symlink():
            raise Untrusted(f"{path} is a symbolic link") from None
        raise error from None
    file = os.fdopen(fd, "rb", buffering=_BUFFER)
    reason = _reason(os.fstat(fd), owners, links)
    if reason:
        file.close()
        raise Untrusted(f"{path} {reason}")
    return file


def _reason(status: os.stat_result, owners: set[int], links: int) -> str:
    """Why a file is not to be trusted, or nothing."""
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    if status.st_uid not in owners:
        return f"belongs to user {status.st_uid}"
    if status.st_mode & _WRITABLE:
        return "is writable by others"
    return "has another name (a hard link)" if status.st_nlink > links else ""


def read_trusted(path: Path, owners: set[int], limit: int) -> bytes:
    """The content of *path*.  Raises: Untrusted, also for more than *limit* bytes; OSError."""
    with open_trusted(path, owners, links=2) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise Untrusted(f"{path} is larger than {limit} bytes")
    return content
