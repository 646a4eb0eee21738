"""Who imports the image, and how: this program, what a user would do without it, and the bound to beat.

Every contender gives a squashfs image with the same options of mksquashfs.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from measure import Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from image import BuiltImage

__all__ = [
    "AGAIN",
    "BOUND",
    "CONTENDERS",
    "GET_AGAIN",
    "JOINED_COLD",
    "NEW_LAYER",
    "OURS_COLD",
    "REPLACED",
    "Contender",
    "Place",
]

OURS_COLD = "enroot-slurm, cold, streamed"
JOINED_COLD = "enroot-slurm, cold"
AGAIN = "enroot-slurm, again"
GET_AGAIN = "enroot-slurm get, again"
NEW_LAYER = "enroot-slurm, a new top layer"
REPLACED = "enroot-slurm, a layer replaced"
BOUND = "bound"
_SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin"
_CHARLIECLOUD = Path("/usr/lib/charliecloud")
_MKSQUASHFS = ("-noappend", "-no-progress", "-quiet", "-all-root", "-no-xattrs")
# ch-convert passes -b 65536 and no options of the user's; this stands before mksquashfs and passes theirs instead.
_WRAPPER = """\
#!/bin/sh
source=$1 image=$2
shift 4
exec /usr/bin/mksquashfs "$source" "$image" -no-progress -quiet -no-xattrs {options} "$@"
"""


class Place(NamedTuple):
    """Where and with what a contender works."""

    run: Path
    """A directory of this run alone, empty."""
    cache: Path
    """A directory that keeps what a warm import finds."""
    image: BuiltImage
    repository: str
    """``HOST:PORT/NAME:TAG`` of a registry over http."""
    secure_repository: str
    """The same over https."""
    registry_blobs: list[Path]
    """The files in which that registry keeps the layers."""
    options: tuple[str, ...]
    """Of mksquashfs."""

    @property
    def output(self) -> Path:
        return self.run / "image.sqsh"

    @property
    def environment(self) -> dict[str, str]:
        home = self.run / "home"
        temporary = self.run / "tmp"
        home.mkdir()
        temporary.mkdir()
        return {"PATH": _SYSTEM_PATH, "HOME": str(home), "USER": "root", "TMPDIR": str(temporary), "LC_ALL": "C.UTF-8"}


class Contender(NamedTuple):
    """One way to get an image.

    programs  what it needs
    prepare   gives the commands to measure and their environment; None if this image can't be done
    inputs    files that are read into the page cache first: what is not the contender's to fetch from a disk
    """

    name: str
    programs: tuple[str, ...]
    prepare: Callable[[Place], tuple[list[Command], dict[str, str]] | None]
    inputs: Callable[[Place], list[Path]]

    @property
    def missing(self) -> list[str]:
        return [program for program in self.programs if not shutil.which(program, path=_SYSTEM_PATH)]


def _ours(place: Place, cache: Path, *arguments: str, command: str = "import") -> tuple[list[Command], dict[str, str]]:
    registry, _, name = place.repository.partition("/")
    uri = f"docker://{registry}#{name}"
    environment = place.environment | {
        "ENROOT_ALLOW_HTTP": "y",
        "ENROOT_CACHE_PATH": str(cache),
        "ENROOT_CONFIG_PATH": str(place.run / "config"),
        "ENROOT_TEMP_PATH": str(place.run / "tmp"),
        "ENROOT_SQUASH_OPTIONS": " ".join(place.options),
    }
    output = ("-o", str(place.output)) if command == "import" else ()
    return [Command((sys.executable, "-m", "enroot_slurm", command, *arguments, *output, uri))], environment


def _cold(place: Place) -> tuple[list[Command], dict[str, str]]:
    return _ours(place, place.run / "cache")


def _streamed(place: Place) -> tuple[list[Command], dict[str, str]]:
    return _ours(place, place.run / "cache", "--no-layer-cache")


def _warm_streamed(place: Place) -> tuple[list[Command], dict[str, str]]:
    return _ours(place, place.cache, "--no-layer-cache")


def _again(place: Place) -> tuple[list[Command], dict[str, str]]:
    return _ours(place, place.cache)


def _get_again(place: Place) -> tuple[list[Command], dict[str, str]]:
    commands, environment = _ours(place, place.run / "cache", command="get")
    for command in commands:
        subprocess.run(command.arguments, env=environment, check=True, capture_output=True)
    return commands, environment


def _without_layer(place: Place, number: int) -> tuple[list[Command], dict[str, str]]:
    """As when the layer *number* were new: nothing of it is in the cache."""
    blob = place.image.layers[number].name
    (place.cache / "blobs/sha256" / blob).unlink()
    for image in (place.cache / "layers").glob(f"*/sha256-{place.image.diff_ids[number].removeprefix('sha256:')}.*"):
        image.unlink()
    return _ours(place, place.cache)


def _new_layer(place: Place) -> tuple[list[Command], dict[str, str]]:
    return _without_layer(place, -1)


def _replaced(place: Place) -> tuple[list[Command], dict[str, str]]:
    return _without_layer(place, 2)


def _umoci(place: Place) -> tuple[list[Command], dict[str, str]]:
    layout = f"{place.run}/oci:image"
    bundle = f"{place.run}/bundle"
    source = f"docker://{place.repository}"
    return [
        Command(("skopeo", "copy", "--insecure-policy", "--src-tls-verify=false", "--quiet", source, f"oci:{layout}")),
        Command(("umoci", "unpack", "--image", layout, bundle)),
        Command(("mksquashfs", f"{bundle}/rootfs", str(place.output), *_MKSQUASHFS, *place.options)),
    ], place.environment


def _charliecloud(place: Place) -> tuple[list[Command], dict[str, str]]:
    # ch-convert looks for programs where it lies itself, and only then in PATH.
    programs = place.run / "bin"
    programs.mkdir()
    for path in Path("/usr/bin").glob("ch-*"):
        (programs / path.name).symlink_to(path)
    (place.run / "lib").mkdir()
    (place.run / "lib/charliecloud").symlink_to(_CHARLIECLOUD)
    wrapper = programs / "mksquashfs"
    options = place.options if "-b" in place.options else ("-b", "131072", *place.options)
    wrapper.write_text(_WRAPPER.format(options=" ".join(options)))
    wrapper.chmod(0o755)
    environment = place.environment
    environment |= {
        "PATH": f"{programs}:{environment['PATH']}",
        "CH_IMAGE_STORAGE": str(place.run / "storage"),
        "CH_IMAGE_AUTH": "never",
    }
    name = place.secure_repository
    return [
        Command(("/usr/bin/ch-image", "--no-cache", "--tls-no-verify", "pull", name)),
        Command((str(programs / "ch-convert"), "-i", "ch-image", "-o", "squash", name, str(place.output))),
    ], environment


def _bound(place: Place) -> tuple[list[Command], dict[str, str]] | None:
    if place.image.merged is None:
        return None
    squash = ("mksquashfs", "-", str(place.output), "-tar", *_MKSQUASHFS, *place.options)
    gunzip = (sys.executable, str(Path(__file__).with_name("gunzip.py")), *map(str, place.image.layers))
    return [Command(squash, stdin=place.image.merged), Command(gunzip)], place.environment


def _registry_blobs(place: Place) -> list[Path]:
    return place.registry_blobs


def _cached_files(place: Place) -> list[Path]:
    cached = [Path(directory) / name for directory, _, names in os.walk(place.cache) for name in names]
    return [*cached, *place.registry_blobs]


def _bound_inputs(place: Place) -> list[Path]:
    return [*place.image.layers, *([place.image.merged] if place.image.merged else [])]


CONTENDERS = (
    Contender(JOINED_COLD, (), _cold, _registry_blobs),
    Contender(AGAIN, (), _again, _cached_files),
    Contender(GET_AGAIN, (), _get_again, lambda _: []),
    Contender(NEW_LAYER, (), _new_layer, _cached_files),
    Contender(REPLACED, (), _replaced, _cached_files),
    Contender(OURS_COLD, (), _streamed, _registry_blobs),
    Contender("enroot-slurm, blobs cached, streamed", (), _warm_streamed, _cached_files),
    Contender("skopeo, umoci, mksquashfs", ("skopeo", "umoci", "mksquashfs"), _umoci, _registry_blobs),
    Contender("ch-image, ch-convert", ("ch-image", "ch-convert", "mksquashfs"), _charliecloud, _registry_blobs),
    Contender(BOUND, ("mksquashfs",), _bound, _bound_inputs),
)
