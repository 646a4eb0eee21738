"""``status``: how far the imports for one's jobs are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.errors import UsageError, printable

if TYPE_CHECKING:
    import argparse

    from enroot_slurm.commands.common import Commands

__all__ = ["add_commands"]

_STATUS = """\
Tell how far the imports for one's jobs are, a line for each node that works or waits. What the site's cache gets is
told of all jobs; the rest of one's own. Nothing: no import takes longer than a second just now.
"""


def add_commands(commands: Commands) -> None:
    """Declare the command of this module."""
    status = commands.add("status", _status, "show how far the imports for jobs are", description=_STATUS)
    status.add_argument("job", metavar="JOB", nargs="?", help="the number of a job; without it, the user's own jobs")
    status.add_argument("--json", action="store_true", help="print a JSON document")


def _status(options: argparse.Namespace) -> int:
    from enroot_slurm.settings.config import Config  # noqa: PLC0415 - each command loads what it needs
    from enroot_slurm.slurm.squeue import own_jobs  # noqa: PLC0415
    from enroot_slurm.slurm.status import statuses  # noqa: PLC0415

    if options.job and not options.job.isdecimal():
        raise UsageError(f"not the number of a job: {printable(options.job, 40)}")
    config = Config.load()
    roots = [*([Path(config.shared_cache)] if config.shared_cache else []), config.cache_path]
    if options.job:
        jobs = {options.job}
    else:
        known = own_jobs()
        # Where Slurm can't be asked, jobs are one's own that have something in one's own cache.
        jobs = set(map(str, known)) if not isinstance(known, str) else _jobs_in(config.cache_path)
    names = sorted({name for root in roots for name in _names(root) if name.split(".")[0] in jobs})
    found = [(name, status) for name in names for status in statuses(roots, name)]
    if options.json:
        from enroot_slurm.commands.cachetext import print_json  # noqa: PLC0415

        print_json([{"job": name, **status._asdict(), "text": status.text} for name, status in found])
        return 0
    for name, status in found:
        where = f"{printable(status.node, 64)} ({printable(status.step, 32)})"
        print(f"job {name.split('.')[0]} on {where}: {printable(status.uri)}: {status.text}")
    return 0


def _jobs_in(root: Path) -> set[str]:
    return {name.split(".")[0] for name in _names(root)}


def _names(root: Path) -> list[str]:
    try:
        return [path.name for path in (root / "jobs").iterdir()]
    except OSError:
        return []
