"""The command line: arguments in, exit status out; everything else is the library's."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from enroot_slurm import __version__
from enroot_slurm.errors import EnrootSlurmError, Interrupted, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import FrameType

    from enroot_slurm.progress import Progress

__all__ = ["main"]

_EXIT_CODES = """\
exit status:
  0  success                                5  the registry can't be reached, or fails
  1  an unexpected error                    6  data is damaged, or of an unknown kind
  2  wrong usage, reference or settings     7  a local file: it exists, no space, no permission
  3  no such image, tag or platform         8  mksquashfs or another program failed
  4  the registry denies access             128+N  ended by signal N (130: Ctrl-C)
"""
_CLEAN_UP = 5.0  # seconds in which a second signal does not interrupt what the first one began
_IMPORT = """\
Import the container image URI as a squashfs image for enroot and pyxis.

URI is docker://[USER@][REGISTRY#]IMAGE[:TAG][@sha256:DIGEST]; a '/' after the registry does as well as '#', and
needs no quoting in an #SBATCH line. Credentials are read from $ENROOT_CONFIG_PATH/.credentials (netrc).
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line *arguments* (by default the process's); the exit status."""
    _open_missing_streams()
    verbose = False
    try:
        options = _parser().parse_args(arguments)
        verbose = options.verbose
        with _signals():
            status = int(options.run(options))
        sys.stdout.flush()
    except KeyboardInterrupt as interrupt:
        return _report(Interrupted(*(interrupt.args or (signal.SIGINT,))))
    except EnrootSlurmError as error:
        if verbose:
            traceback.print_exc()
        return _report(error)
    except BrokenPipeError:
        return 1  # who reads our output has gone; nothing is to be told any more
    except Exception as error:  # the last line of defence: no traceback for users
        if verbose:
            raise
        _tell(f"enroot-slurm: unexpected error: {type(error).__name__}: {error}")
        _tell("  Please report it, with the output of the same command with --verbose.")
        return 1
    else:
        return status
    finally:
        try:
            sys.stdout.flush()
        except OSError:
            _mute(sys.stdout)


def _import(options: argparse.Namespace) -> int:
    from enroot_slurm.config import Config  # noqa: PLC0415  each command loads what it needs
    from enroot_slurm.importer import import_image  # noqa: PLC0415
    from enroot_slurm.progress import size_text  # noqa: PLC0415

    with _progress(options) as progress:
        result = import_image(
            options.uri,
            output=options.output,
            arch=options.arch,
            config=Config.load(overrides={"layer_cache": options.layer_cache}),
            force=options.force,
            progress=progress,
        )
    if not options.quiet:
        seconds = sum(result.seconds.values())
        layers = f"{result.layers_fetched} layers fetched, {result.layers_reused} from the cache"
        _tell(f"{result.path}: {size_text(result.size)}, {layers}, {seconds:.1f} s")
    if options.verbose:
        _tell(f"digest {result.digest}")
        _tell(" ".join(f"{phase} {duration:.2f} s" for phase, duration in result.seconds.items()))
    return 0


def _digest(options: argparse.Namespace) -> int:
    from enroot_slurm.importer import resolve_digest  # noqa: PLC0415

    with _progress(options) as progress:
        digest = resolve_digest(options.uri, arch=options.arch, progress=progress)
    print(digest)
    return 0


def _config(options: argparse.Namespace) -> int:
    from enroot_slurm.config import Config  # noqa: PLC0415

    if options.check is not None:
        problems = Config.check(options.check)
        for problem in problems:
            _tell(str(problem))
        if not problems and not options.quiet:
            print(f"{options.check}: no problems")
        return UsageError.exit_code if problems else 0
    rows = Config.load().rows()
    if options.json:
        print(json.dumps({row.key: row._asdict() for row in rows}, indent=2))
        return 0
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for row in rows:
        print(f"{row.key:{widths[0]}}  {row.value or '-'}  [{row.source}]")
    return 0


def _version(_options: argparse.Namespace) -> int:
    print(f"enroot-slurm {__version__}")
    return 0


def _parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("-q", "--quiet", action="store_true", help="print errors only")
    common.add_argument("-v", "--verbose", action="store_true", help="print more, and tracebacks of errors")
    image = argparse.ArgumentParser(add_help=False)
    image.add_argument(
        "-a", "--arch", metavar="ARCH", help="x86_64 or amd64, aarch64 or arm64, ... (default: this node's, from uname)"
    )
    image.add_argument("uri", metavar="URI", help="docker://[USER@][REGISTRY#]IMAGE[:TAG][@DIGEST]")

    parser = argparse.ArgumentParser(
        prog="enroot-slurm",
        description="Import container images for Slurm jobs into enroot squashfs images.",
        epilog=_EXIT_CODES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"enroot-slurm {__version__}")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def add(
        name: str, run: object, help_text: str, parents: list[argparse.ArgumentParser], description: str = ""
    ) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=help_text,
            description=description or help_text[0].upper() + help_text[1:] + ".",
            parents=parents,
            epilog=_EXIT_CODES,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(run=run)
        return command

    importing = add("import", _import, "import an image as a squashfs file", [image, common], _IMPORT)
    importing.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="the file to write (default: IMAGE+TAG.sqsh)"
    )
    importing.add_argument(
        "--no-layer-cache",
        dest="layer_cache",
        action="store_const",
        const=False,
        help="convert all layers together, and keep none as an image of its own",
    )
    importing.add_argument("-f", "--force", action="store_true", help="replace the file if it exists")
    add("digest", _digest, "print the digest of an image's manifest for a platform", [image, common])
    config = add("config", _config, "print the settings in force, and where each is from", [common])
    config.add_argument("--check", metavar="FILE", type=Path, help="report the problems of a YAML file or enroot.conf")
    config.add_argument("--json", action="store_true", help="print JSON")
    add("version", _version, "print the version", [common])
    return parser


@contextlib.contextmanager
def _progress(options: argparse.Namespace) -> Iterator[Progress]:
    from enroot_slurm.progress import Display, Silent  # noqa: PLC0415

    if options.quiet:
        yield Silent()
    else:
        with Display() as display:
            yield display


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """Let the signals that end a process raise KeyboardInterrupt with their number, so that everything is cleaned up.

    One that is ignored stays so (nohup).  Until the clean-up is over, more of them change nothing: people press
    Ctrl-C twice, and Slurm signals again.
    """
    last = -_CLEAN_UP

    def interrupt(signum: int, _frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= _CLEAN_UP:
            last = now
            raise KeyboardInterrupt(signum)

    wanted = [s for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT) if signal.getsignal(s) != signal.SIG_IGN]
    previous = {s: signal.signal(s, interrupt) for s in wanted}
    try:
        yield
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)


def _open_missing_streams() -> None:
    """Give a process that was started with closed standard streams /dev/null, before files get their numbers."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: PTH123, SIM115


def _report(error: EnrootSlurmError) -> int:
    _tell(f"enroot-slurm: {error}")
    if error.hint:
        _tell(f"  {error.hint}")
    return error.exit_code


def _tell(text: str) -> None:
    """Print *text* for people; when nobody can read it, that is no error."""
    try:
        print(text, file=sys.stderr, flush=True)
    except OSError:
        _mute(sys.stderr)


def _mute(stream: TextIO) -> None:
    """Let what could not be written go nowhere; Python would try again at exit, and complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), stream.fileno())


if __name__ == "__main__":
    raise SystemExit(main())
