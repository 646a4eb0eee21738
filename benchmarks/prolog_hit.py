"""What Slurm's hooks cost at each job: ``python benchmarks/prolog_hit.py`` (as root).

It prints a table of processor time and wall time: the prolog of a job whose image is in the shared cache (named by
digest, by tag, and by a tag that ``tag_ttl`` remembers), of a job that asks for none, and their epilogs, beside a
Python that does nothing, which is the least that a hook in Python can take.  Then 20 prologs at once.
Every hook runs as slurmd would run it, in a mount namespace of its own; no cluster is needed.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from support.images import Image, Layer  # noqa: E402  the path comes first
from support.installation import Installation  # noqa: E402
from support.registry import Registry  # noqa: E402
from support.slurm import User  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ETC, RUN = Path("/etc/enroot-slurm"), Path("/run/enroot-slurm")


class Row(NamedTuple):
    """Medians of many runs, in milliseconds."""

    name: str
    cpu: float
    wall: float


class Site(NamedTuple):
    """A site with the hooks and a registry, and no cluster; `site` makes it."""

    directory: Path
    installation: Installation
    registry: Registry
    alice: User
    cache_user: User

    @property
    def cache(self) -> Path:
        """The site's."""
        return self.directory / "cache"

    def write_settings(self, **more: Any) -> None:
        """Let the site's settings be those for the cache and the registry, and *more*."""
        settings = {"shared_cache": str(self.cache), "insecure_registries": [self.registry.host]}
        # JSON is YAML
        (ETC / "config.yaml").write_text(json.dumps({**settings, "cache_user": self.cache_user.name, **more}))


@contextmanager
def site() -> Iterator[Site]:
    """A site; this program begins again in a mount namespace of its own."""
    if os.environ.get("IN_NAMESPACE") != "yes":
        command = ["unshare", "--mount", "--propagation", "private", sys.executable, *sys.argv]
        os.execvpe("unshare", command, {**os.environ, "IN_NAMESPACE": "yes"})
    for directory in (ETC, RUN):
        directory.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=755", "none", directory], check=True)
    installation, alice, cache_user = Installation.make(), User.make("alice"), User.make("cache")
    try:
        with (
            tempfile.TemporaryDirectory(dir="/var/tmp") as directory,
            Registry(Path(directory, "registry")) as registry,
        ):
            Path(directory).chmod(0o755)
            made = Site(Path(directory), installation, registry, alice, cache_user)
            made.cache.mkdir(mode=0o755)
            os.chown(made.cache, cache_user.uid, cache_user.gid)
            made.write_settings()
            yield made
    finally:
        installation.remove()
        alice.remove()
        cache_user.remove()


def hook_environment(user: User, **more: str) -> dict[str, str]:
    """What slurmd gives to hooks for a job of *user*, more or less, and *more*."""
    return {
        "SLURM_JOB_UID": str(user.uid),
        "SLURM_JOB_GID": str(user.gid),
        "SLURM_JOB_USER": user.name,
        "SLURM_JOB_RESTART_COUNT": "0",
        "SLURMD_NODENAME": "n1",
        "PATH": os.environ["PATH"],
        **more,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    with site() as place:
        rows = _measure(arguments.runs, place)
    _print(rows, as_json=arguments.json, runs=arguments.runs)
    return 0


def _measure(runs: int, place: Site) -> list[Row]:
    installation, registry = place.installation, place.registry
    registry.push("bench", "1", Image([Layer().file("a", os.urandom(100_000))]))
    environment = hook_environment(place.alice)
    asks = {**environment, "SPANK_ENROOT_IMAGE": registry.uri("bench", "1")}
    subprocess.run([installation.prolog], env={**asks, "SLURM_JOB_ID": "1"}, check=True)
    [result] = [line for line in map(json.loads, (RUN / "1.0.json").read_text().splitlines()) if "uri" in line]
    by_tag = {**asks}
    asks["SPANK_ENROOT_IMAGE"] = registry.uri("bench", "1", digest=result["digest"])

    def hook(path: Path, variables: dict[str, str]) -> Callable[[int], list[float]]:
        return lambda job: _run([str(path)], {**variables, "SLURM_JOB_ID": str(job)})

    contenders = {
        "python3 -I -c pass": lambda _: _run([str(installation.python), "-I", "-c", "pass"], environment),
        "prolog, image in the cache": hook(installation.prolog, asks),
        "prolog, likewise by tag": hook(installation.prolog, by_tag),
        "epilog of that job": hook(installation.epilog, asks),
        "prolog, no image asked for": hook(installation.prolog, environment),
        "epilog of that job, too": hook(installation.epilog, environment),
    }
    costs = _costs(contenders, runs, 1000)
    place.write_settings(tag_ttl=86400)
    costs |= _costs({"prolog, by a tag that tag_ttl remembers": hook(installation.prolog, by_tag)}, runs, 1_000_000)
    costs["20 prologs at once, by that tag, each"] = [
        _at_once(installation.prolog, by_tag) for _ in range(max(1, runs // 20))
    ]
    for number in range(runs + 1):
        for job in (1000 + 2 * number, 1001 + 2 * number, 1_000_000 + number):
            hook(installation.epilog, environment)(job)
    medians = {name: [statistics.median(each) for each in zip(*cost, strict=True)] for name, cost in costs.items()}
    return [Row(name.removesuffix(", too"), cpu * 1000, wall * 1000) for name, (cpu, wall) in medians.items()]


def _costs(contenders: dict[str, Callable[[int], list[float]]], runs: int, first: int) -> dict[str, list[list[float]]]:
    """What *runs* runs of each contender cost, in turns; each prolog and its epilog have jobs of their own."""
    costs: dict[str, list[list[float]]] = {name: [] for name in contenders}
    for number in range(runs + 1):
        for name, run in contenders.items():
            job = first + 2 * number + ("tag" in name) if first < 1_000_000 else first + number
            cost = run(job)
            costs[name] += [cost] if number else []  # the first one fills caches
            if name.startswith("prolog") and "no image" not in name:
                assert '"path"' in (RUN / f"{job}.0.json").read_text()
    return costs


def _at_once(prolog: Path, environment: dict[str, str]) -> list[float]:
    """Processor time and wall time for each of 20 prologs that begin together."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    jobs = [
        subprocess.Popen(
            [prolog], env={**environment, "SLURM_JOB_ID": str(5_000_000 + time.monotonic_ns() % 1_000_000 + n)}
        )
        for n in range(20)
    ]
    assert [job.wait() for job in jobs] == [0] * 20
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return [(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 20, wall / 20]


def _run(command: list[str], environment: dict[str, str]) -> list[float]:
    """Seconds of processor time and of wall time of a command with all it starts."""
    before, begin = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    subprocess.run(command, env=environment, check=True, stdin=subprocess.DEVNULL)
    wall, after = time.monotonic() - begin, resource.getrusage(resource.RUSAGE_CHILDREN)
    return [after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall]


def _print(rows: list[Row], *, as_json: bool, runs: int) -> None:
    if as_json:
        print(json.dumps([row._asdict() for row in rows]))
        return
    print(f"Medians of {runs} runs.\n")
    print("| | processor time, ms | times Python | wall time, ms |\n| --- | ---: | ---: | ---: |")
    for row in rows:
        print(f"| {row.name} | {row.cpu:.1f} | {row.cpu / rows[0].cpu:.1f} | {row.wall:.1f} |")


if __name__ == "__main__":
    raise SystemExit(main())
