"""A cache: whose it is, who can change or read it, its room, its file system, and whether processes can share it."""

from __future__ import annotations

import os
import pwd
import stat
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.directory import CacheDirectory, unreadable, unwritable
from enroot_slurm.cache.trust import Untrusted, check_untamperable, owner_number
from enroot_slurm.doctor.finding import OK, error, failed, ok, skipped, warning
from enroot_slurm.doctor.mounts import check_mount
from enroot_slurm.doctor.sharing import Traces, check_team
from enroot_slurm.doctor.team import Team
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.progress import size_text
from enroot_slurm.system.file_copy import can_share_blocks
from enroot_slurm.system.lustre import command as stripe_command
from enroot_slurm.system.lustre import is_lustre, is_striped
from enroot_slurm.system.mounts import mount_of, read_mounts
from enroot_slurm.system.privilege import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.settings.config import Config

__all__ = ["Cache", "caches_of", "check_cache", "check_squash", "stripes"]

_ROOM = 20 << 30  # bytes: an image of a deep-learning framework, its layers and its blobs
_FILES = 1000
_PATIENCE = 20.0  # seconds for a file system to answer
_SKEW = 5.0  # seconds
_LARGE = 1.0  # above it, a watermark is a size, not a share
_PRIVATE = ("/tmp", "/var/tmp", "/dev/shm")  # noqa: S108  names to warn of


class Cache(NamedTuple):
    """A cache that is to be looked at."""

    root: Path
    config: Config
    shared: bool
    """Whether it is the site's."""

    @property
    def title(self) -> str:
        """The kind of cache, in words for people."""
        return f"the site's cache {self.root}" if self.shared else f"your cache {self.root}"


def caches_of(config: Config) -> list[Cache]:
    """The caches that count for this user: the site's and the own one; the site's alone for root and its owner.

    Raises: WorkerFailed, when the site's does not answer.
    """
    if not config.shared_cache:
        return [Cache(config.cache_path, config, shared=False)]
    site = Cache(Path(config.shared_cache), config, shared=True)
    if os.geteuid() == 0 or run(lambda: _owns(site.root), None, deadline=_PATIENCE):
        return [site]
    return [site, Cache(config.cache_path, config, shared=False)]


def _owns(root: Path) -> bool:
    try:
        return root.stat().st_uid == os.geteuid()
    except OSError:
        return False


def check_cache(cache: Cache) -> Iterator[Finding]:
    """All about *cache*; as its owner this process writes to it."""
    try:
        yield from _check(cache, owner_number(cache.root, cache.config.cache_user if cache.shared else ""))
    except Untrusted as cause:
        yield failed("cache.owner", cause)
    except OSError as cause:
        yield error(
            "cache.owner",
            f"{cache.title} can't be reached: {cause.filename or cache.root}: {cause.strerror}",
            "Each directory on the way to it needs permission x for all: see namei -l.",
        )


def _check(cache: Cache, owner: int | None) -> Iterator[Finding]:
    """The checks of the cache, which belongs to user number *owner* (None: it is not there).  Raises: OSError."""
    root = cache.root
    writes = owner is None or owner == os.geteuid()
    if owner is None and cache.shared:
        user = cache.config.cache_user or "USER"
        yield error("cache.owner", f"there is no {root}", f"Run: install -d -o {user} -m 755 {root}")
        return
    flaws = _trust(cache, os.geteuid() if owner is None else owner)
    yield flaws
    if cache.shared:
        yield from _site(cache, owner or 0)
    there = root.resolve()
    while not there.exists():
        there = there.parent
    yield from _filesystem(cache, there, writes=writes)
    yield from _room(cache, there)
    yield from stripes(root / "images", is_lustre(there))
    if owner is None:
        yield skipped("cache.locks", f"{root} is not there yet: the first import makes it")
    elif not writes:
        yield skipped("cache.locks", f"{cache.title} is read-only for you: its owner, or root, can try its locks")
    elif flaws.status != OK:
        yield skipped("cache.locks", f"nothing is written to {root} as long as others can change it")
    else:
        yield from _shared_use(cache)


def stripes(images: Path, lustre: bool) -> Iterator[Finding]:  # noqa: FBT001 - the question of a test
    """Whether new images in the directory *images* are spread over the servers of *lustre*, if it is one."""
    if not lustre or not images.is_dir():
        return
    spread = is_striped(images)
    if spread is None:
        yield skipped("cache.stripes", f"{images} is on Lustre, and there is no lfs that tells how it is striped")
    elif spread:
        yield ok("cache.stripes", f"new images in {images} are spread over servers of Lustre")
    else:
        yield warning(
            "cache.stripes",
            f"each image in {images} is on one server of Lustre, from which all nodes of a job read",
            f"As the cache's owner: {stripe_command(images)}; and for images that are there: lfs migrate -c 32 FILE",
        )


def check_squash(cache: Cache) -> Iterator[Finding]:
    """Whether this process, which is root's, is less than that in the *cache*; nothing is written."""
    try:
        os.listdir(cache.root / "locks")  # noqa: PTH208  it is the owner's alone
    except PermissionError:
        yield ok(
            "cache.root_squash", f"root is nobody in {cache.root} (root_squash): right so, root does nothing there"
        )
    except OSError:
        return


def _trust(cache: Cache, owner: int) -> Finding:
    try:
        check_untamperable(cache.root, owner, strict=cache.shared)
    except Untrusted as flaw:
        return failed("cache.trust", flaw)
    except OSError as error:
        return failed("cache.trust", unreadable(cache.root, error))
    who = f"root and {_name(owner)}" if owner else "root"
    return ok("cache.trust", f"nobody but {who} can change {cache.title}")


def _site(cache: Cache, owner: int) -> Iterator[Finding]:
    """Whether hooks can write the site's cache, and users read it.  Raises: OSError."""
    root = cache.root
    if not cache.config.cache_user:
        yield warning(
            "cache.owner",
            "the setting cache_user is empty: hooks do not write the site's cache",
            "Set it to the name of the cache's owner in the site's config.yaml.",
        )
    if not owner:
        yield error(
            "cache.owner",
            f"{cache.title} belongs to root, who imports nothing",
            f"Run: chown {cache.config.cache_user or 'USER'} {root}",
        )
    closed = [path for path in (root, *root.resolve().parents) if not path.stat().st_mode & stat.S_IXOTH]
    if closed or not root.stat().st_mode & stat.S_IROTH:
        which = closed[-1] if closed else root
        yield error(
            "cache.readers", f"users can't read {cache.title}, for {which} is closed", f"Run: chmod 755 {which}"
        )


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _filesystem(cache: Cache, there: Path, *, writes: bool) -> Iterator[Finding]:
    try:
        mount = mount_of(there, read_mounts())
    except OSError as cause:
        yield skipped("cache.filesystem", f"/proc/self/mountinfo can't be read: {cause.strerror}")
        return
    if mount is None:
        yield skipped("cache.filesystem", f"no line of /proc/self/mountinfo is for {there}")
        return
    yield from check_mount(mount, cache.title, shared=cache.shared, writes=writes)
    below = next((path for path in _PRIVATE if there.is_relative_to(path)), "")
    if below:
        yield warning(
            "cache.private",
            f"{cache.title} is below {below}, which many sites clean up, or make anew for each job",
            "Choose another directory, which lasts.",
        )


def _room(cache: Cache, there: Path) -> Iterator[Finding]:
    config, found = cache.config, os.statvfs(there)
    free, size = found.f_bavail * found.f_frsize, found.f_blocks * found.f_frsize
    usable = (found.f_blocks - found.f_bfree + found.f_bavail) * found.f_frsize
    text = f"{size_text(free)} of {size_text(size)} are free for {cache.title}"
    few = found.f_files and found.f_favail < _FILES
    option = " --shared" if cache.shared else ""
    if free < _ROOM or few:
        yield warning(
            "cache.room",
            f"only {found.f_favail} files can be made in {there}" if few else f"only {text}",
            f"What could go: enroot-slurm cache gc{option} --high 50% --dry-run",
        )
    else:
        yield ok("cache.room", text)
    high = config.cache_high
    if not high and not config.cache_max_age:
        if cache.shared:
            yield warning(
                "cache.watermark",
                "the site's cache may grow without limit",
                "Set cache_high or cache_max_age, and enable enroot-slurm-gc.timer on one node.",
            )
    elif high > _LARGE and high > size:
        yield warning(
            "cache.watermark",
            f"cache_high ({size_text(int(high))}) is more than the file system has ({size_text(size)})",
            "Set cache_high to less, or to a share such as 85%.",
        )
    elif 0 < high <= _LARGE and usable and 1 - free / usable > high:
        yield warning(
            "cache.watermark",
            f"the file system is fuller than cache_high ({high:.0%})",
            f"Run: enroot-slurm cache gc{option}; or enable enroot-slurm-gc.timer.",
        )


def _shared_use(cache: Cache) -> Iterator[Finding]:
    """Checks whether two processes can use the cache at once."""
    try:
        traces = Traces.make(cache.root)
    except EnrootSlurmError as cause:
        yield failed("cache.write", cause)
        return
    try:
        yield from _written(cache.root, traces)
        with Team.here(cache.root) as team:
            team.greet(traces.marker)
            yield from check_team(team, traces, "cache", locks=cache.config.locks)
    except EnrootSlurmError as cause:
        yield error("cache.locks", str(cause), cause.hint or "Does its file system hang? If locks do, set locks: no.")
    except OSError as cause:
        yield failed("cache.write", unwritable(cache.root, cause))
    finally:
        traces.remove()


def _written(root: Path, traces: Traces) -> Iterator[Finding]:
    """Checks by a new file: the file system's clock, and whether it can share blocks.  Raises: OSError."""
    directory = root / traces.directory
    before = time.time()
    CacheDirectory(root).write(directory / "clock", b"x")
    skew = (directory / "clock").stat().st_mtime - (before + time.time()) / 2
    if abs(skew) > _SKEW:
        yield warning(
            "cache.clock",
            f"the file system's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} this machine's",
            "Run an NTP client here and on the server: ages of files count in collections.",
        )
    else:
        yield ok("cache.clock", "the file system's clock agrees with this machine's")
    if can_share_blocks(directory, directory):
        yield ok("cache.blocks", "files can share blocks (reflinks): images that share layers take little space")
    else:
        yield ok("cache.blocks", "files can't share blocks (no reflinks): images are made by copying their layers")
