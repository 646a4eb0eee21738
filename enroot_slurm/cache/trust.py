"""Checks whether others can change a cache.  An image that anybody could have written may be malware.

A cache is untamperable when each directory from ``/`` down to its entries belongs to root or to the owner of the
cache, and nobody else may write to it.  A directory such as /tmp, which is root's and sticky, may be on the way: only
the owner of an entry can rename or remove it there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import StorageError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "MAX_SIDECAR",
    "TrustedFile",
    "Untrusted",
    "check_untamperable",
    "open_trusted",
    "owner_number",
    "owner_of_untamperable",
    "read_trusted",
]

MAX_SIDECAR = 64 << 10
"""Bytes that a file which tells of another may have."""
_MOST_LINKS = 40  # on a way, as Linux has it
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
    _check_owner(root, uid, user)
    return uid


def owner_of_untamperable(root: Path, user: str = "") -> int | None:
    """What `owner_number` says, after `check_untamperable`: each directory is looked at once for both.

    Raises: Untrusted, OSError.
    """
    try:
        way = _way(root)
    except NotADirectoryError:
        return None
    last = next(reversed(way.values()))
    if last is None:
        return None
    _check_owner(root, last.st_uid, user)
    _check_way(root, way, last.st_uid, strict=True)
    return last.st_uid


def _check_owner(root: Path, uid: int, user: str) -> None:
    if not user or not uid:
        return
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


def check_untamperable(root: Path, owner: int, *, strict: bool = True) -> None:
    """Refuse the cache *root*, which belongs to the user number *owner*, if others could change what is in it.

    Without *strict*, the directories above it may belong to anybody: it is the user's own choice to keep a cache there.

    Raises: Untrusted, with the commands that would mend it; OSError.
    """
    _check_way(root, _way(root), owner, strict=strict)


def _way(root: Path) -> dict[Path, os.stat_result | None]:
    """The directories and symbolic links from ``/`` to *root* as the kernel goes, each looked at once.

    The last one is *root* itself, or what it leads to; None: it is not there, and nothing below it.
    """
    way: dict[Path, os.stat_result | None] = {}
    names = [*reversed(root.absolute().parts)]
    path, links = Path(names.pop()), 0
    way[path] = path.lstat()
    while names:
        name = names.pop()
        if name == "..":
            path = path.parent
            continue
        path /= name
        if path not in way:
            try:
                way[path] = path.lstat()
            except FileNotFoundError:  # it will be made, with the right permissions
                way[path] = None
                break
        status = way[path]
        if status and stat.S_ISLNK(status.st_mode):
            if (links := links + 1) > _MOST_LINKS:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(root))
            target = path.readlink()
            names += reversed(target.parts[target.is_absolute() :])
            path = Path("/") if target.is_absolute() else path.parent
    status = way[path]
    if status and not stat.S_ISDIR(status.st_mode):
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(root))
    way[path] = way.pop(path)  # another name on the way may have led there before
    return way


def _check_way(root: Path, way: dict[Path, os.stat_result | None], owner: int, *, strict: bool) -> None:
    flaws = []
    last = next(reversed(way))
    for path, status in reversed(way.items()):
        is_root = path in {root.absolute(), last}
        flaw = _flaw(path, status, {0, owner}, is_root=is_root, strict=strict) if status else None
        if flaw:
            flaws.append(flaw)
    if flaws:
        raise Untrusted(
            f"others can change the cache {root}: " + "; ".join(flaw.what for flaw in flaws),
            hint="Run: " + " && ".join(flaw.command for flaw in flaws),
        )


def _flaw(path: Path, status: os.stat_result, owners: set[int], *, is_root: bool, strict: bool) -> _Flaw | None:
    if status.st_uid not in owners and (strict or is_root):
        owner = "root" if not is_root else str(max(owners))
        link = "-h " if stat.S_ISLNK(status.st_mode) else ""
        return _Flaw(f"{path} belongs to user {status.st_uid}", f"chown {link}{owner} {path}")
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


class TrustedFile(NamedTuple):
    """A file that is open for reading; `open_trusted` has looked at it."""

    descriptor: int
    status: os.stat_result

    def read(self, limit: int) -> bytes:
        """The content from here on, or *limit* bytes of it: by one call, unless the file grows.  Raises: OSError."""
        size = self.status.st_size
        # One byte more than there should be: so the end is seen as well.
        content = os.read(self.descriptor, min(limit, size + 1))
        while len(content) != size and len(content) < limit:
            more = os.read(self.descriptor, limit - len(content))
            if not more:
                break
            content += more
        return content


@contextlib.contextmanager
def open_trusted(path: Path, owners: set[int], *, links: int = 1) -> Iterator[TrustedFile]:
    """The regular file *path*, open for reading, if nobody but *owners* can have written it.

    It may have up to *links* names: others can give a file more of them in directories of their own, and keep it so.

    Raises: Untrusted, with the reason; OSError.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
    try:
        fd = os.open(path, flags)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise Untrusted(f"{path} is a symbolic link") from None
        raise
    try:
        status = os.fstat(fd)
        if reason := _reason(status, owners, links):
            raise Untrusted(f"{path} {reason}")
        yield TrustedFile(fd, status)
    finally:
        os.close(fd)


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
