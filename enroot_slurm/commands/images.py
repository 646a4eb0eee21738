"""``import``, ``get`` and ``digest``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.commands.common import add_progress, progress, tell

if TYPE_CHECKING:
    import argparse

    from enroot_slurm.commands.common import Commands
    from enroot_slurm.importing.to_cache import CachedImage
    from enroot_slurm.importing.to_file import ImportResult
    from enroot_slurm.progress import Progress

__all__ = ["add_commands"]

_IMPORT = """\
Import the container image URI as a squashfs image for enroot and pyxis.

URI is docker://[USER@][REGISTRY#]IMAGE[:TAG][@sha256:DIGEST]; a '/' after the registry does as well as '#', and
needs no quoting in an #SBATCH line. Logins are those of $ENROOT_CONFIG_PATH/.credentials, of docker and of podman.
Files, pipes and daemons have images, too: docker-archive:FILE[:NAME], oci-archive:FILE[:NAME],
oci:DIRECTORY[:NAME], dockerd://IMAGE, podman://IMAGE.
"""

_GET = """\
Print the path of the image URI in the cache, as a squashfs file for enroot, pyxis or mount; it is imported if it is
not there yet. The file is not to be changed. For an image that is there, a tag costs one request, and a digest none; in
a Slurm job, a tag costs one request for all its nodes, and an import that the prolog has begun is waited for.
"""


def add_commands(commands: Commands) -> None:
    """Declare the commands of this module."""
    importing = commands.add(
        "import", _import, "import an image as a squashfs file", parents=[commands.image], description=_IMPORT
    )
    importing.add_argument("-o", "--output", metavar="FILE", help="the file to write (default: IMAGE+TAG.sqsh)")
    importing.add_argument(
        "--no-layer-cache",
        dest="layer_cache",
        action="store_const",
        const=False,
        help="convert all layers together, and keep none as an image of its own",
    )
    importing.add_argument("-f", "--force", action="store_true", help="replace the file if it exists")
    getting = commands.add(
        "get",
        _get,
        "import an image into the cache unless it is there, and print its path",
        parents=[commands.image],
        description=_GET,
    )
    getting.add_argument("--json", action="store_true", help="print what is known of the image, as JSON")
    getting.add_argument("--lock", metavar="FILE", help="take the digest that FILE has for URI, or note it there")
    for command in (importing, getting):
        add_progress(command)
    digest = commands.add(
        "digest", _digest, "print the digest of an image's manifest for a platform", parents=[commands.image]
    )
    for command in (importing, getting, digest):
        command.add_argument(
            "--authfile", metavar="FILE", type=Path, help="read logins from this file of docker or podman only"
        )


def _import(options: argparse.Namespace) -> int:
    from enroot_slurm.importing.to_file import import_image  # noqa: PLC0415
    from enroot_slurm.progress import count_text, size_text  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415  each command loads what it needs
    from enroot_slurm.slurm.account import accounted  # noqa: PLC0415
    from enroot_slurm.system.events import Events  # noqa: PLC0415

    config = Config.load(overrides={"layer_cache": options.layer_cache, "auth_file": options.authfile})

    def work(told: Progress) -> ImportResult:
        return import_image(
            options.uri, output=options.output, arch=options.arch, config=config, force=options.force, progress=told
        )

    with progress(options) as told:
        result = accounted(work, options.uri, "cli", Events.open(config.run_path), progress=told)
    if not options.quiet:
        seconds = sum(result.seconds.values())
        layers = f"{count_text(result.layers_fetched, 'layer')} fetched, {result.layers_reused} from the cache"
        tell(f"{result.path}: {size_text(result.size)}, {layers}, {seconds:.1f} s")
    if options.verbose:
        tell(f"digest {result.digest}")
        tell(" ".join(f"{phase} {duration:.2f} s" for phase, duration in result.seconds.items()))
    return 0


def _get(options: argparse.Namespace) -> int:
    from enroot_slurm.settings.config import Config  # noqa: PLC0415
    from enroot_slurm.slurm.account import accounted  # noqa: PLC0415
    from enroot_slurm.slurm.step import get_in_job  # noqa: PLC0415
    from enroot_slurm.system.events import Events  # noqa: PLC0415

    config = Config.load(overrides={"auth_file": options.authfile})
    lock = None
    if options.lock:
        from enroot_slurm.importing.lock_file import LockFile  # noqa: PLC0415

        lock = LockFile(options.lock)

    def work(told: Progress) -> CachedImage:
        return get_in_job(options.uri, options.arch, config, told, lock=lock)

    with progress(options) as told:
        image = accounted(work, options.uri, "cli", Events.open(config.run_path), progress=told)
    if options.json:
        import json  # noqa: PLC0415

        print(json.dumps({**image._asdict(), "path": str(image.path), "digest": str(image.digest)}, indent=2))
    else:
        print(image.path)
    return 0


def _digest(options: argparse.Namespace) -> int:
    from enroot_slurm.importing.to_file import resolve_digest  # noqa: PLC0415
    from enroot_slurm.settings.config import Config  # noqa: PLC0415

    config = Config.load(overrides={"auth_file": options.authfile})
    with progress(options) as told:
        digest = resolve_digest(options.uri, arch=options.arch, config=config, progress=told)
    print(digest)
    return 0
