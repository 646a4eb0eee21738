"""Jobs on three nodes at once, each with an image that no cache has: ``python tests/harness/many_jobs.py`` (as root).

Each job asks for its image with ``#SBATCH --enroot-image``, so the prolog of each node wants it at the same time.  A
step on each node reads the image.  Busy processes (``--load``) take the processors meanwhile.  A line says how many
jobs failed, what the registry was asked, which nodes Slurm has drained, and what is left in the cache.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS), str(TESTS.parent)]

from support.images import Image, Layer  # noqa: E402  the path comes first
from support.installation import Installation  # noqa: E402
from support.registry import Registry  # noqa: E402
from support.site import Site  # noqa: E402
from support.slurm import Cluster, User  # noqa: E402

__all__ = ["Outcome", "run"]

_AT_ONCE = 8  # jobs in the queue
_STEP = "test -s $ENROOT_SLURM_IMAGE && head -c 4 $ENROOT_SLURM_IMAGE"


class Outcome(NamedTuple):
    """What became of all jobs."""

    jobs: int
    failed: tuple[str, ...]
    """What the jobs have said that did not end well, or whose steps did not see an image."""
    blobs: int
    """Requests for blobs: an image has two."""
    drained: str
    """What ``sinfo -R`` says."""
    left: tuple[str, ...]
    seconds: float


def run(jobs: int, load: int) -> Outcome:
    """Run *jobs* jobs on a cluster of three nodes, beside *load* busy processes."""
    with contextlib.ExitStack() as stack:
        installation = Installation.make()
        stack.callback(installation.remove)
        alice, cache_user = User.make("alice"), User.make("cache")
        stack.callback(alice.remove)
        stack.callback(cache_user.remove)
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="many.", dir="/var/tmp")))
        registry = stack.enter_context(Registry(directory / "registry"))
        site = Site(installation, cache_user, registry.host)
        stack.callback(site.remove)
        plugstack = (installation.etc / "slurm/plugstack.conf.d/enroot-slurm.conf").read_text()
        site.start(lambda **options: stack.enter_context(Cluster(**options)), files={"plugstack.conf": plugstack})
        for number in range(jobs):
            registry.push("cold", f"t{number}", Image([Layer().file("f", os.urandom(300_000))]))
        uris = [registry.uri("cold", f"t{number}") for number in range(jobs)]
        registry.reset()
        for _ in range(load):
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            stack.callback(busy.wait)
            stack.callback(busy.kill)
        began = time.monotonic()
        failed = _jobs(site.cluster, alice, uris)
        seconds = time.monotonic() - began
        blobs = registry.count("GET", "/blobs/")
        drained = site.cluster.sinfo_reasons()
        with contextlib.suppress(AssertionError):
            site.check_clean()
        return Outcome(jobs, tuple(failed), blobs, drained, tuple(site.left()), seconds)


def _jobs(cluster: Cluster, user: User, uris: list[str]) -> list[str]:
    failed: list[str] = []
    running: list[int] = []
    for uri in [*uris, *[""] * _AT_ONCE]:
        if len(running) == _AT_ONCE or (running and not uri):
            done = cluster.wait_job(running.pop(0), seconds=300)
            if (done.state, done.exit_code, done.output) != ("COMPLETED", "0:0", "hsqs" * 3):
                failed.append(f"{done.state} {done.exit_code}: {done.output}")
        if uri:
            name = uri.removeprefix("docker://").replace("#", "/")
            script = f"#!/bin/sh\n#SBATCH -N3 -n3 --enroot-image={name}\nsrun sh -c '{_STEP}' 2>&1\n"
            running.append(cluster.submit(script, user=user))
    return failed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--jobs", type=int, default=200)
    parser.add_argument("--load", type=int, default=4)
    arguments = parser.parse_args()
    outcome = run(arguments.jobs, arguments.load)
    print(
        f"{outcome.jobs} jobs on 3 nodes beside {arguments.load} busy processes in {outcome.seconds:.0f} s: "
        f"{len(outcome.failed)} failed; {outcome.blobs} requests for {2 * outcome.jobs} blobs; "
        f"drained: {outcome.drained or 'none'}; left: {len(outcome.left)} files"
    )
    for text in (*outcome.failed, *outcome.left):
        print(f"  {text}")
    return 1 if outcome.failed or outcome.drained or outcome.left or outcome.blobs != 2 * outcome.jobs else 0


if __name__ == "__main__":
    raise SystemExit(main())
