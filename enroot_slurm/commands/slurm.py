"""``srun``, ``sbatch`` and ``sbcast``: Slurm's programs, with the image imported first."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, NoReturn

from enroot_slurm.commands.common import progress, tell
from enroot_slurm.errors import ConversionError, UsageError, printable

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.importing.lock_file import LockFile
    from enroot_slurm.importing.to_cache import CachedImage
    from enroot_slurm.slurm.command_line import Option
    from enroot_slurm.slurm.launch import Launch

__all__ = ["add_commands"]

_SRUN = """\
Import the images that --container-image (or --enroot-image) names, then become srun.

All words are srun's. The option's value becomes the imported file where pyxis takes it, or the image's digest where
Slurm has the plug-in of enroot-slurm. Where there is neither, the option is left out, and the tasks find the file's
path in ENROOT_SLURM_IMAGE. Paths (./x.sqsh, /x.sqsh) are passed as they are, once they have been looked at. -Q says
nothing about the import. --lock FILE, before all other words, takes the digest that FILE has, or notes it there.
"""
_SBATCH = """\
Import the images that a batch job asks for, then submit it with sbatch.

All words are sbatch's. The image is named by --container-image or --enroot-image, on the command line or, if not
there, in an #SBATCH line of the script, or by '#ENROOT image=URI' lines. An unescaped '#' in an #SBATCH line begins a
comment: write REGISTRY/IMAGE. --lock FILE, before all other words, takes the digests that FILE has, or notes them.
"""
_SBCAST = """\
Let all nodes of this job have the image URI on their local disks: it is imported here and sent by Slurm's sbcast.
Prints the path, which is the same on all nodes.

Without DEST it belongs to the cache of each node (cache_path), where whatever looks for the image there finds it; if
the nodes share the cache, nothing is sent. For sbatch scripts and salloc, where nodes share no file system.
"""


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    commands.wrap(
        "srun",
        _srun,
        "import the image, then run srun",
        usage="enroot-slurm srun [--lock FILE] [SRUN OPTION...] --container-image=URI [--] COMMAND [ARGUMENT...]",
        description=_SRUN,
    )
    commands.wrap(
        "sbatch",
        _sbatch,
        "import the image, then submit a batch job",
        usage="enroot-slurm sbatch [--lock FILE] [SBATCH OPTION...] SCRIPT [ARGUMENT...]",
        description=_SBATCH,
    )
    sending = commands.add(
        "sbcast",
        _sbcast,
        "put an image on the local disks of a job's nodes",
        parents=[commands.image],
        description=_SBCAST,
    )
    sending.add_argument("destination", metavar="DEST", nargs="?", type=Path, help="the file to write on each node")


def _srun(words: list[str]) -> int:
    from enroot_slurm.slurm.command_line import Syntax, components  # noqa: PLC0415  each command loads what it needs
    from enroot_slurm.slurm.launch import srun_launch  # noqa: PLC0415

    help_text = _help_of("srun")
    if not help_text:
        _become("srun", words)  # it says best itself what is wrong
    words, lock = _lock_of(words)
    options = [option for part in components(words, Syntax.of_help(help_text)) for option in part.options]
    quiet = _is_quiet(options)
    launch = srun_launch(words, help_text, _getter(quiet=quiet, lock=lock))
    if not quiet:
        _tell_about("srun", words, launch, _export(options, "SLURM_EXPORT_ENV"))
    _become("srun", launch.words, launch.environment)


def _sbatch(words: list[str]) -> int:
    from enroot_slurm.slurm.command_line import Syntax, components  # noqa: PLC0415
    from enroot_slurm.slurm.launch import sbatch_launch, script_options  # noqa: PLC0415
    from enroot_slurm.slurm.request import image_requests  # noqa: PLC0415

    help_text = _help_of("sbatch")
    if not help_text:
        _become("sbatch", words)
    words, lock = _lock_of(words)
    syntax = Syntax.of_help(help_text)
    parts = components(words, syntax, commands=False)
    options = [option for part in parts for option in part.options]
    script = _Script.of_words(words, parts[-1].command, options)
    if script is None:
        _become("sbatch", words)
    written = script_options(script.text, syntax)
    quiet = _is_quiet([*options, *written])
    launch = sbatch_launch(
        words, help_text, script.text, script.name, image_requests(script.text), _getter(quiet=quiet, lock=lock)
    )
    if not quiet:
        _tell_about("sbatch", words, launch, _export([*written, *options], "SBATCH_EXPORT"))
    named = any(option.name == "job-name" for option in [*options, *written]) or "SBATCH_JOB_NAME" in os.environ
    _become("sbatch", script.placed(launch, named=named), launch.environment)


def _sbcast(options: argparse.Namespace) -> int:
    from enroot_slurm.importing.lookup import Lookup  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415
    from enroot_slurm.slurm.job import Job  # noqa: PLC0415
    from enroot_slurm.slurm.sbcast import Copy, Nodes  # noqa: PLC0415
    from enroot_slurm.slurm.step import get_in_job  # noqa: PLC0415

    nodes = Nodes.of_environ(os.environ)
    config, job = Config.load(), Job.from_environ(os.environ).key
    with progress(options) as told:
        image = get_in_job(options.uri, options.arch, config, told)
        sidecar = image.path.with_suffix(".json")
        if options.destination:
            copies = [Copy(image.path, Path.cwd() / options.destination)]
            lacking = nodes.lacking(copies)
        else:
            lookup = Lookup.of(options.uri, options.arch, config, job)
            file = lookup.own_file(image.digest)
            resolved = lookup.own.root / "jobs" / job / f"resolved-{lookup.key}.json"
            copies = [Copy(path, path) for path in (resolved, sidecar, image.path) if path.exists()]
            lacking = nodes.lacking(copies)
            if image.path != file.path and {copy.source for copy in lacking} & {sidecar, image.path}:
                # It is in the site's cache, but only there: the user's own can be written on all nodes.
                copies = [Copy(resolved, resolved)] if resolved.exists() else []
                copies += [Copy(sidecar, file.sidecar), Copy(image.path, file.path)]
                lacking = nodes.lacking(copies)
        if lacking:
            told.phase(f"sending {copies[-1].target.name} to {nodes.number} nodes")
            nodes.send(lacking)
    if not options.quiet and copies[-1] not in lacking:
        tell("enroot-slurm: all nodes have the image")
    print(copies[-1].target)
    return 0


class _Script(NamedTuple):
    """A batch script as sbatch finds it.

    name   the file's name; ``stdin``, or empty where there is none (``--wrap``)
    place  of the word that names the file, from the end of the command line; 0 if no word does
    """

    name: str
    text: str
    place: int = 0

    @classmethod
    def of_words(cls, words: list[str], at: int, options: list[Option]) -> _Script | None:
        """The script that *words* name at index *at*; None if it can't be read."""
        if any(option.name == "wrap" for option in options):
            return cls("", "")
        if at == len(words):
            return cls("stdin", sys.stdin.buffer.read().decode("utf-8", "surrogateescape"))
        chdir = next((option.value for option in reversed(options) if option.name == "chdir"), None)
        file = Path(chdir or "", words[at])
        found = file if file.is_file() else shutil.which(words[at], os.R_OK)
        try:
            text = Path(found or file).read_bytes().decode("utf-8", "surrogateescape")
        except OSError:
            return None
        return cls(file.name, text, at - len(words))

    def placed(self, launch: Launch, *, named: bool) -> list[str]:
        """The words that submit the script, or the text that *launch* wants instead; *named* if the job has a name."""
        words = list(launch.words)
        text = launch.script if launch.script is not None else self.text
        if (self.place and launch.script is None) or not self.name:
            return words
        # A file without a name, in memory: nothing is left behind when sbatch has taken our place.
        descriptor = os.memfd_create(self.name, 0)
        with open(descriptor, "wb", closefd=False) as file:
            file.write(text.encode("utf-8", "surrogateescape"))
        os.lseek(descriptor, 0, os.SEEK_SET)
        if not self.place:
            os.dup2(descriptor, 0)
            return words
        words[self.place] = f"/proc/self/fd/{descriptor}"
        return words if named else [f"--job-name={self.name}", *words]


def _lock_of(words: list[str]) -> tuple[list[str], LockFile | None]:
    """*words* without ``--lock FILE`` in front of them, and that file: Slurm's programs have no such option."""
    name, equals, file = words[0].partition("=") if words else ("", "", "")
    if name != "--lock":
        return words, None
    left = words[1:] if equals else words[2:]
    file = file if equals else next(iter(words[1:2]), "")
    if not file:
        raise UsageError("--lock has no file", hint="Write --lock FILE before all other options.")
    from enroot_slurm.importing.lock_file import LockFile  # noqa: PLC0415 - few have one

    return left, LockFile(file)


def _getter(*, quiet: bool, lock: LockFile | None) -> Callable[[str, str], CachedImage]:
    """The function that imports an image, and tells about it unless *quiet*."""
    from enroot_slurm.progress import size_text  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415
    from enroot_slurm.slurm.step import get_in_job  # noqa: PLC0415

    def get(uri: str, arch: str) -> CachedImage:
        with progress(argparse.Namespace(quiet=quiet, verbose=False)) as told:
            image = get_in_job(uri, arch or None, Config.load(), told, lock=lock)
        if not quiet:
            tell(f"enroot-slurm: {image.path}: {size_text(image.size)}{', was there' if image.reused else ''}")
        return image

    return get


def _tell_about(program: str, words: list[str], launch: Launch, export: str) -> None:
    """Tell what *program* gets in place of what the user wrote."""
    for word in launch.words:
        if word not in words:
            tell(f"enroot-slurm: {program} {word}")
    if launch.script is not None:
        tell("enroot-slurm: the script is submitted with the path of the image in its #SBATCH line")
    for name, value in launch.environment.items():
        tell(f"enroot-slurm: {name}={value}")
    names = export.split(",")
    if launch.environment and export and not {"ALL", "all", *launch.environment} & set(names):
        tell(f"enroot-slurm: warning: --export={printable(export)} keeps these variables from the job: add ALL")


def _export(options: list[Option], variable: str) -> str:
    """Which variables a job gets: the last ``--export`` of *options*, or the environment's; empty for all."""
    given = [option.value for option in options if option.name == "export" and option.value]
    return given[-1] if given else os.environ.get(variable, "")


def _is_quiet(options: list[Option]) -> bool:
    return any(option.name == "quiet" for option in options)


def _help_of(program: str) -> str:
    """The output of ``PROGRAM --help``; empty if it fails."""
    try:
        result = subprocess.run([program, "--help"], stdin=subprocess.DEVNULL, capture_output=True, check=False)
    except OSError:
        return ""
    return result.stdout.decode("utf-8", "replace") if result.returncode == 0 else ""


def _become(program: str, words: list[str], environment: Mapping[str, str] | None = None) -> NoReturn:
    """Let *program* take the place of this process: signals and its exit status are its own."""
    sys.stdout.flush()
    for number in (signal.SIGPIPE, signal.SIGXFSZ):  # Python ignores them, and what is ignored would stay so
        signal.signal(number, signal.SIG_DFL)
    try:
        os.execvpe(program, [program, *words], {**os.environ, **(environment or {})})  # noqa: S606  Slurm's, from PATH
    except OSError as error:
        raise ConversionError(
            f"{program} can't be run: {error.strerror}", hint=f"{program} of Slurm has to be in PATH."
        ) from None
