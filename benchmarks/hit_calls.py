"""The calls of a hit that reach a shared file system: ``python benchmarks/hit_calls.py`` (as root).

A table of `enroot-slurm get` of an image that is cached, of the prolog of a job that asks for it, and of the epilog.
Counted are calls on files and descriptors in the cache, by their kind, and those in the user's home, where no cache is.
Closing and seeking are not: the kernel needs no server for them.  Counts do not depend on the load.  It needs strace.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent), str(HERE.parent / "tests")]

from prolog_hit import RUN, hook_environment, site  # noqa: E402  the path comes first
from support.calls import KINDS, STRACE, calls_in  # noqa: E402
from support.images import Image, Layer  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Mapping

    from prolog_hit import Site


class Row(NamedTuple):
    """The calls of one command."""

    name: str
    cache: Counter[str]
    home: int


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--calls", type=Path, metavar="FILE", help="write all counted calls to FILE")
    arguments = parser.parse_args()
    with site() as place:
        rows, calls = _Bench(place).run()
    if arguments.calls:
        arguments.calls.write_text("\n".join(calls) + "\n")
    print(f"| | calls in the cache | {' | '.join(KINDS)} | in the home |\n| --- | {' | '.join(['---:'] * 6)} |")
    for name, cache, home in rows:
        print(f"| {name} | {cache.total()} | {' | '.join(str(cache[kind]) for kind in KINDS)} | {home} |")
    return 0


class _Bench:
    def __init__(self, place: Site) -> None:
        self._site = place
        self._calls: list[str] = []
        self._tag = place.registry.uri("bench", "1")

    def run(self) -> tuple[list[Row], list[str]]:
        """The table, and all calls that are in it."""
        place, user = self._site, self._site.alice
        place.registry.push("bench", "1", Image([Layer().file("a", os.urandom(100_000))]))
        own = user.home / ".cache/enroot"
        program = str(place.installation.program() / "enroot-slurm")
        become = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--clear-groups", program, "get"]
        environment = {"HOME": str(user.home), "PATH": os.environ["PATH"], "LANG": "C.UTF-8"}

        place.write_settings(shared_cache="", tag_ttl=86400)
        answer = subprocess.run(
            [*become, "--json", self._tag], env=environment, check=True, capture_output=True, text=True
        )
        uri = place.registry.uri("bench", "1", digest=json.loads(answer.stdout)["digest"])
        rows = [
            self._row("get by digest, own cache", [*become, uri], environment, own),
            self._row("get by a tag that tag_ttl remembers, own cache", [*become, self._tag], environment, own),
        ]
        place.write_settings()
        self._hook("prolog", 1, "n1", self._tag)
        place.write_settings(tag_ttl=86400)
        rows += [
            self._row("get by digest, the site's cache", [*become, uri], environment),
            self._row("get by a tag that tag_ttl remembers, the site's cache", [*become, self._tag], environment),
        ]
        place.write_settings()
        rows.append(self._hook("prolog", 2, "n1", uri, "prolog by digest, the job's first node"))
        self._as_another_node(2)
        rows.append(self._hook("prolog", 2, "n2", uri, "prolog by digest, another node"))
        self._hook("prolog", 3, "n1", self._tag)
        self._as_another_node(3)
        rows += [
            self._hook("prolog", 3, "n2", self._tag, "prolog by a tag that another node of the job has resolved"),
            self._hook("epilog", 2, "n2", uri, "epilog, another node has a lease"),
            self._hook("epilog", 3, "n2", self._tag, "epilog of that job by tag"),
        ]
        self._hook("prolog", 4, "n1", uri)
        rows.append(self._hook("epilog", 4, "n1", uri, "epilog of the last node"))
        return rows, self._calls

    def _hook(self, hook: str, job: int, node: str, uri: str, name: str = "") -> Row:
        environment = hook_environment(self._site.alice, SPANK_ENROOT_IMAGE=uri, SLURMD_NODENAME=node)
        environment["SLURM_JOB_ID"] = str(job)
        path = {"prolog": self._site.installation.prolog, "epilog": self._site.installation.epilog}[hook]
        row = self._row(name, [str(path)], environment)
        if hook == "prolog":
            assert '"path"' in (RUN / f"{job}.0.json").read_text()
        return row

    def _as_another_node(self, job: int) -> None:
        for path in RUN.glob(f"{job}.0.*"):
            path.unlink()

    def _row(self, name: str, command: list[str], environment: Mapping[str, str], cache: Path | None = None) -> Row:
        trace = self._site.directory / "trace"
        subprocess.run([*STRACE, "-o", trace, *command], env=environment, check=True, stdout=subprocess.DEVNULL)
        text = trace.read_text()
        calls = list(calls_in(cache or self._site.cache, text))
        home = [each for each in calls_in(self._site.alice.home, text) if each not in calls]
        self._calls += [f"{name}: {each.text}" for each in (*calls, *home) if name]
        return Row(name, Counter(each.kind for each in calls), len(home))


if __name__ == "__main__":
    raise SystemExit(main())
