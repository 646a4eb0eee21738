"""``cache``: what is in a cache, and keeping it small and sound."""

from __future__ import annotations

import argparse
import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.commands import transfer
from enroot_slurm.commands.chosen import ChosenCache, caches_of, one_cache, work_as_owner
from enroot_slurm.commands.common import add_progress, progress, tell
from enroot_slurm.errors import printable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.housekeeping.inventory import Item
    from enroot_slurm.housekeeping.keeper import CacheKeeper

    _Run = Callable[[argparse.Namespace], int]

__all__ = ["add_commands"]

_GROUP = """\
Look at a cache, and keep it small and sound. Without an option that is your own cache; list, show and du look at the
site's as well. Run by root, a command works as the user to whom the cache belongs.
"""
_LIST = "List the images of the cache, the one used last first; with --all, its layers, blobs and manifests too."
_SHOW = "Print what is known of images: their files, how they were made, when they were used, and by which jobs."
_DU = """\
Print how much room a cache takes. Reclaimable is what a collection could remove: all but leased and pinned images.
"""
_VERIFY = """\
Read blobs, layers and images, and compare them with their digests and sidecars. Damage is status 6; with --repair
what is damaged is removed, and imported again when somebody asks for it.
"""
_GC = """\
Collect garbage: what killed processes have left; what is kept for jobs that have ended; what nobody has used for
cache_max_age; and, above cache_high, what was used least recently, blobs before layers before images, down to
cache_low. Leased and pinned images stay, and whatever was used within the last hour.
"""
_RM = "Remove images. One that a job uses, or that is pinned, is removed only with --force."
_PREFETCH = """\
Import all images of a list into the cache. FILE is YAML: a list of URIs, or of mappings with 'uri' and 'arch'. After a
failure the others are imported nevertheless; the status is the highest of all.
"""


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    group = commands.group("cache", "look at a cache, and keep it small and sound", _GROUP)

    def add(name: str, run: _Run, text: str, description: str) -> argparse.ArgumentParser:
        command = group.add(name, run, text, description=description)
        which = command.add_mutually_exclusive_group()
        which.add_argument("--shared", action="store_true", help="the site's cache (setting shared_cache)")
        which.add_argument("--cache", metavar="DIR", type=Path, help="the cache in this directory")
        command.add_argument("--json", action="store_true", help="print JSON")
        return command

    listing = add("list", _list, "list images", _LIST)
    listing.add_argument("-a", "--all", action="store_true", help="layers, blobs and manifests too")
    _add_images(add("show", _show, "print what is known of images", _SHOW))
    add("du", _du, "print how much room a cache takes", _DU)
    verify = add("verify", _verify, "compare what is in a cache with its digests", _VERIFY)
    _add_images(verify, "*", "these images only (default: all images, layers, blobs and manifests)")
    verify.add_argument("--repair", action="store_true", help="remove what is damaged")
    verify.add_argument("-n", "--dry-run", action="store_true", help="with --repair: remove nothing")
    gc = add("gc", _gc, "collect garbage", _GC)
    gc.add_argument("-n", "--dry-run", action="store_true", help="say what would go, and remove nothing")
    for key, text in (("high", "500GiB, or 85%% of the file system"), ("low", "likewise"), ("max-age", "such as 30d")):
        gc.add_argument(
            f"--{key}", metavar=key.upper(), help=f"instead of the setting cache_{key.replace('-', '_')}: {text}"
        )
    idle = "spare what was used within so long, such as 1h or seconds (default: 1h), and what is new"
    gc.add_argument("--idle", metavar="TIME", type=_time, help=idle)
    _add_images(add("pin", _pin, "keep images until they are unpinned", "Keep images until they are unpinned."))
    _add_images(add("unpin", _unpin, "let images be collected again", "Let images be collected again."))
    rm = add("rm", _rm, "remove images", _RM)
    _add_images(rm)
    rm.add_argument("-f", "--force", action="store_true", help="leased and pinned ones too")
    rm.add_argument("-n", "--dry-run", action="store_true", help="say what would go, and remove nothing")
    prefetch = add("prefetch", _prefetch, "import all images of a list", _PREFETCH)
    prefetch.add_argument("file", metavar="FILE.yaml", type=Path)
    add_progress(prefetch)
    prefetch.add_argument("--lock", metavar="FILE", type=Path, help="take the digests of FILE, or note them there")
    transfer.add_commands(add)


def _add_images(command: argparse.ArgumentParser, count: str = "+", text: str = "") -> None:
    text = text or "a URI, a digest or its first digits, or a path"
    command.add_argument("images", metavar="IMAGE", nargs=count, help=text)


def _time(text: str) -> float:
    """Seconds, of ``1h`` and the like."""
    from enroot_slurm.settings import forms  # noqa: PLC0415 - for this option alone

    for form in (forms.seconds, forms.age):
        with contextlib.suppress(ValueError):
            return form(text)
    raise argparse.ArgumentTypeError(f"{printable(text)} is no time such as 3600, 90m, 12h or 30d")


def _find(cache: ChosenCache, words: Sequence[str]) -> list[Item]:
    from enroot_slurm.housekeeping.keeper import find_images  # noqa: PLC0415

    found = cache.keeper.inventory()
    return list(dict.fromkeys(image for word in words for image in find_images(found, word)))


# Looking.


def _list(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415

    found = [(cache, cache.keeper.inventory()) for cache in caches_of(options)]
    if options.json:
        cachetext.print_json(
            [
                {"cache": str(cache.root), **cachetext.fields_of(item)}
                for cache, each in found
                for item in (each.items if options.all else each.images)
            ]
        )
    else:
        cachetext.print_list([(cache.name, each) for cache, each in found], everything=options.all)
    return 0


def _show(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415
    from enroot_slurm.errors import NotFound  # noqa: PLC0415

    shown, missing = [], None
    for word in options.images:
        hits = []
        for cache in caches_of(options):
            try:
                hits += [(cache.root, image) for image in _find(cache, [word])]
            except NotFound as error:
                missing = error
        if not hits and missing is not None:
            raise missing
        shown += hits
    if options.json:
        verdicts = [[v._asdict() for v in cachetext.verdicts_of(root, image.digest)] for root, image in shown]
        cachetext.print_json(
            [
                {"cache": str(root), **cachetext.fields_of(image), "verdicts": said}
                for (root, image), said in zip(shown, verdicts, strict=True)
            ]
        )
    else:
        cachetext.print_images(shown)
    return 0


def _du(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415

    usages = [cachetext.usage_of(cache.keeper.inventory()) for cache in caches_of(options)]
    if options.json:
        cachetext.print_json(usages)
    else:
        cachetext.print_usages(usages)
    return 0


def _verify(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415
    from enroot_slurm.errors import IntegrityError  # noqa: PLC0415

    cache = one_cache(options)

    def work() -> int:
        with progress(options) as told:
            told.phase(f"verifying {cache.root}")
            items = _find(cache, options.images) if options.images else list(cache.keeper.inventory().items)
            total, done = sum(item.size for item in items), 0

            def read(count: int) -> None:
                nonlocal done
                done += count
                told.advanced(done, total)

            repair = options.repair and not options.dry_run
            damages = cache.keeper.verify(items, repair=repair, read=read)
        if options.json:
            found = [damage._asdict() for damage in damages]
            cachetext.print_json({"cache": str(cache.root), "checked": len(items), "damaged": found})
        else:
            cachetext.print_damages(cache.root, len(items), damages)
        return IntegrityError.exit_code if not all(damage.removed for damage in damages) else 0

    return work_as_owner(cache, work)


# Changing.


def _gc(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415
    from enroot_slurm.housekeeping.keeper import IDLE, collect  # noqa: PLC0415
    from enroot_slurm.slurm.log import log  # noqa: PLC0415
    from enroot_slurm.system.events import Events  # noqa: PLC0415

    overrides = {f"cache_{key}": getattr(options, key) for key in ("high", "low", "max_age")}
    cache = one_cache(options, **overrides)
    events = Events.open(cache.config.run_path)
    jobs = _jobs(cache)

    def work() -> int:
        idle = IDLE if options.idle is None else options.idle
        report = collect(cache.root, config=cache.config, dry_run=options.dry_run, idle=idle, jobs=jobs)
        for warning in report.warnings:
            tell(f"enroot-slurm: {warning}")
        if not options.dry_run:
            events.add("gc", bytes=report.freed)
            log(
                "gc", cache=cache.root, removed=len(report.removed), bytes=report.freed, kept=report.size - report.freed
            )
        if options.json:
            cachetext.print_json({"cache": str(cache.root), **cachetext.report_fields(report)})
        else:
            cachetext.print_report(cache.root, report, verbose=options.verbose or options.dry_run)
        return 0

    return work_as_owner(cache, work, events)


def _jobs(cache: ChosenCache) -> Callable[[], frozenset[int] | str] | None:
    """The source of active jobs; None: the process that works on *cache* asks Slurm itself."""
    if cache.owner is None:
        return None
    # Root is shown all jobs, whatever PrivateData says, and finds Slurm's programs where its PATH says.
    from enroot_slurm.slurm.squeue import active_jobs  # noqa: PLC0415

    active = active_jobs(of_all=True)
    return lambda: active


def _pin(options: argparse.Namespace) -> int:
    import pwd  # noqa: PLC0415 - it may ask a server

    try:
        user = pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        user = str(os.getuid())
    return _change(options, lambda keeper, images: keeper.pin(images, user), "pinned")


def _unpin(options: argparse.Namespace) -> int:
    return _change(options, lambda keeper, images: keeper.unpin(images), "unpinned")


def _rm(options: argparse.Namespace) -> int:
    jobs = None if options.force else _jobs(one_cache(options))

    def remove(keeper: CacheKeeper, images: list[Item]) -> list[Item]:
        return keeper.remove(images, force=options.force, dry_run=options.dry_run, jobs=jobs)

    return _change(options, remove, "to be removed" if options.dry_run else "removed")


def _change(options: argparse.Namespace, change: Callable[[CacheKeeper, list[Item]], list[Item]], done: str) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415

    cache = one_cache(options)

    def work() -> int:
        images = _find(cache, options.images)
        changed = change(cache.keeper, images)
        if options.json:
            cachetext.print_json([{**cachetext.fields_of(image), "changed": image in changed} for image in images])
        elif not options.quiet:
            for image in images:
                print(f"{cachetext.title_of(image)}: {done if image in changed else f'was {done} already'}")
        return 0

    return work_as_owner(cache, work)


def _prefetch(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415
    from enroot_slurm.housekeeping.image_list import read_image_list  # noqa: PLC0415
    from enroot_slurm.housekeeping.prefetch import prefetch  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415
    from enroot_slurm.system.events import Events  # noqa: PLC0415

    cache, user = one_cache(options), os.geteuid()
    events = Events.open(cache.config.run_path)
    wanted = read_image_list(options.file)

    def work() -> int:
        config = cache.config
        if os.geteuid() != user and not cache.is_shared:
            config = Config.load(overrides={"cache_path": cache.root})  # with the settings and credentials of its user
        with progress(options) as told:
            outcomes = prefetch(
                wanted, config=config, progress=told, events=events, lock=options.lock, shared=options.shared
            )
        if options.json:
            cachetext.print_json([outcome.fields for outcome in outcomes])
        else:
            cachetext.print_outcomes(outcomes, quiet=options.quiet)
        return max((outcome.status for outcome in outcomes), default=0)

    return work_as_owner(cache, work, events)
