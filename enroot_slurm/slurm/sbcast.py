"""Copies of files on the local disks of a job's nodes, sent by Slurm's sbcast: for nodes that share no file system.

sbcast sends from one node to the others in a tree, but writes to the very name it is given, checks nothing, and sends
again what is there.  So the nodes are looked at first; what they lack is sent to a temporary name beside the target; it
gets its mode, its time and then its name, when its size is right.  The scripts on the nodes need coreutils only.
"""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConversionError, StorageError, UsageError, printable
from enroot_slurm.system.publish import beside

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["Copy", "Nodes"]

# For each INDEX TARGET KNOWN KNOWN KNOWN: is it a file that is known, by size, time and owner?  If not, its index is
# printed, and its directory made.
_LOOK = """\
umask 077
while [ $# -gt 0 ]; do
    found=$(stat -c '%s %.9Y %u' -- "$2" 2> /dev/null) || found=none
    case "$found" in
        "$3" | "$4" | "$5") ;;
        *) mkdir -p -- "${2%/*}" || exit 1; echo "$1" ;;
    esac
    shift 5
done
"""
# For each TEMPORARY TARGET SIZE TIME MODE: name it.
_NAME = """\
remove() {
    while [ $# -gt 0 ]; do rm -f -- "$1"; shift 5; done
}
while [ $# -gt 0 ]; do
    size=$(stat -c %s -- "$1" 2> /dev/null) || size=none
    if [ "$size" != "$3" ]; then
        echo "$2: of $3 bytes, $size arrived" >&2
    elif touch -d "@$4" -- "$1" && chmod "$5" -- "$1" && sync -- "$1" && mv -f -T -- "$1" "$2"; then
        shift 5
        continue
    fi
    remove "$@"
    exit 1
done
"""
_REMOVE = 'rm -f -- "$@"\n'


class Copy(NamedTuple):
    """A file of this node, and where all nodes are to have it: an absolute path."""

    source: Path
    target: Path


class Nodes(NamedTuple):
    """The nodes of a job."""

    job: str
    number: str
    environ: Mapping[str, str]

    @classmethod
    def of_environ(cls, environ: Mapping[str, str]) -> Nodes:
        """Those of the job that *environ* describes.  Raises: UsageError, when there is none."""
        job, number = environ.get("SLURM_JOB_ID", ""), environ.get("SLURM_JOB_NUM_NODES", "")
        if not (job.isdecimal() and number.isdecimal()):
            raise UsageError(
                "there is no job whose nodes could get the image",
                hint="Call it in a script of sbatch, or under salloc.",
            )
        if environ.get("SLURM_HET_SIZE"):
            raise UsageError(
                "images are not sent to the nodes of a heterogeneous job",
                hint="Let a step of each component run 'enroot-slurm get'.",
            )
        return cls(job, number, environ)

    def lacking(self, copies: Sequence[Copy]) -> list[Copy]:
        """Those of *copies* that some node lacks.

        It has one with the size and time of the source that belongs to root, this user or the source's owner.

        Raises: StorageError, when a node can't make a target's directory; ConversionError without srun.
        """
        words: list[object] = []
        for index, copy in enumerate(copies):
            stat = copy.source.stat()
            known = f"{stat.st_size} {_time(stat)}"
            words += [index, copy.target, f"{known} {stat.st_uid}", f"{known} {os.geteuid()}", f"{known} 0"]
        found = {int(line) for line in self._run(_LOOK, words, "the nodes can't be looked at").split()}
        return [copies[index] for index in sorted(found)]

    def send(self, copies: Sequence[Copy]) -> None:
        """Let all nodes have *copies*, named in this order.

        Raises: StorageError, when a node can't store a file; ConversionError without srun or sbcast.
        """
        temporaries = [beside(copy.target) for copy in copies]
        words: list[object] = []
        try:
            for copy, temporary in zip(copies, temporaries, strict=True):
                stat = copy.source.stat()
                failure = f"{copy.source} can't be sent to the nodes"
                _run(["sbcast", str(copy.source), str(temporary)], self.environ, failure)
                words += [temporary, copy.target, stat.st_size, _time(stat), f"{stat.st_mode & 0o777:o}"]
            self._run(_NAME, words, "a node did not take the file")
        except BaseException:
            self._run(_REMOVE, temporaries, "", check=False)
            raise

    def _run(self, script: str, arguments: Sequence[object], failure: str, *, check: bool = True) -> str:
        """The output of a shell *script* on all nodes, as one step beside the running ones."""
        # A fresh environment: what srun inherits from the job (an image for its steps, say) is not meant for this one.
        kept = ("PATH", "HOME", "USER", "LANG", "SLURM_CONF")
        environ = {name: self.environ[name] for name in kept if name in self.environ}
        options = (
            f"--jobid={self.job} --nodes={self.number} --ntasks={self.number} --ntasks-per-node=1 --cpus-per-task=1 "
            "--overlap --mem=0 --gres=none --mpi=none --input=none --quiet --job-name=enroot-slurm --chdir=/"
        )
        return _run(
            ["srun", *options.split(), "sh", "-c", script, "sh", *map(str, arguments)], environ, failure, check=check
        )


def _run(command: list[str], environ: Mapping[str, str], failure: str, *, check: bool = True) -> str:
    try:
        result = subprocess.run(
            command, env=dict(environ), stdin=subprocess.DEVNULL, capture_output=True, check=False, text=True
        )
    except OSError as error:
        raise ConversionError(f"{command[0]} can't be run: {error.strerror}", hint="It is one of Slurm's.") from None
    if check and result.returncode != 0:
        said = "\n".join(f"  {printable(line, 300)}" for line in result.stderr.splitlines()[-8:])
        raise StorageError(f"{failure}: {command[0]} ended with status {result.returncode}\n{said}".rstrip())
    return result.stdout


def _time(stat: os.stat_result) -> str:
    return f"{stat.st_mtime_ns // 10**9}.{stat.st_mtime_ns % 10**9:09}"
