"""``cache export`` and ``cache import``: images on their way to a cluster without a network."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.commands.chosen import one_cache, work_as_owner
from enroot_slurm.commands.common import add_progress, progress, tell

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

    _Add = Callable[[str, Callable[[argparse.Namespace], int], str, str], argparse.ArgumentParser]

__all__ = ["add_commands"]

_EXPORT = """\
Write images to a file for another cache: an OCI layout as a tar archive, with manifests, blobs and full names. What is
not in the cache is got from the registry. With --squashfs, finished images take the place of the blobs.
"""
_IMPORT = """\
Bring the images of a file of 'cache export', or of another OCI layout with full names, into the cache. Afterwards their
names lead to them without a network. All blobs are verified. Finished images can't be: they are taken with --squashfs.
"""


def add_commands(add: _Add) -> None:
    """Declare the commands of this module."""
    exporting = add("export", _export, "write images to a file for another cache", _EXPORT)
    exporting.add_argument("images", metavar="IMAGE", nargs="+", help="a URI")
    exporting.add_argument("-o", "--output", metavar="FILE", type=Path, required=True, help="the file to write")
    exporting.add_argument("-f", "--force", action="store_true", help="replace the file if it exists")
    exporting.add_argument("--squashfs", action="store_true", help="finished images in place of blobs")
    importing = add("import", _import, "bring the images of a file into the cache", _IMPORT)
    importing.add_argument("file", metavar="FILE", type=Path, help="an OCI layout as a tar archive; /dev/stdin")
    importing.add_argument("--squashfs", action="store_true", help="take finished images as they are, unverified")
    for command in (exporting, importing):
        command.add_argument("-a", "--arch", metavar="ARCH", help="x86_64, aarch64, ... (default: this node's)")
        add_progress(command)


def _export(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415  each command loads what it needs
    from enroot_slurm.importing.exporting import export_images  # noqa: PLC0415
    from enroot_slurm.progress import size_text  # noqa: PLC0415

    cache, output = one_cache(options), options.output.absolute()

    def work() -> int:
        with progress(options) as told:
            made = export_images(
                options.images,
                output,
                arch=options.arch,
                config=cache.config,
                force=options.force,
                squashfs=options.squashfs,
                progress=told,
            )
        if options.json:
            images = [{"name": name, "digest": digest} for name, digest in made.images]
            cachetext.print_json({"path": str(made.path), "size": made.size, "images": images})
        elif not options.quiet:
            tell(f"{made.path}: {size_text(made.size)}, {len(made.images)} images")
        return 0

    return work_as_owner(cache, work)


def _import(options: argparse.Namespace) -> int:
    from enroot_slurm.commands import cachetext  # noqa: PLC0415
    from enroot_slurm.errors import printable  # noqa: PLC0415
    from enroot_slurm.importing.carried import carry_images  # noqa: PLC0415
    from enroot_slurm.oci.local import LocalImage  # noqa: PLC0415

    cache = one_cache(options)
    local = LocalImage.parse(f"oci-archive:{options.file}")

    def work() -> int:
        status, fields = 0, []
        with progress(options) as told:
            for each in carry_images(
                local,
                arch=options.arch,
                config=cache.config,
                squashfs=options.squashfs,
                shared=options.shared,
                progress=told,
            ):
                if each.error is not None:
                    status = max(status, each.error.exit_code)
                    tell(f"enroot-slurm: {printable(each.name, 300)}: {each.error}")
                    if each.error.hint:
                        tell(f"  {each.error.hint}")
                    fields.append({"name": each.name, "error": each.error.message, "hint": each.error.hint})
                elif each.image is not None:
                    fields.append({"name": each.name, "digest": str(each.image.digest), "path": str(each.image.path)})
                    if not (options.json or options.quiet):
                        print(f"{'present' if each.image.reused else 'imported':9} {printable(each.name, 300)}")
        if options.json:
            cachetext.print_json(fields)
        return status

    return work_as_owner(cache, work)
