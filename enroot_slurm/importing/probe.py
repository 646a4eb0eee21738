"""A probe: an image of our own, converted as any other.  If even that fails, the job's image is not to blame."""

from __future__ import annotations

import shutil
import tempfile
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cache.blobs import BlobStore
from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.locks import Locks
from enroot_slurm.importing.conversion import Conversion
from enroot_slurm.importing.layer_streams import Layer
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import Descriptor
from enroot_slurm.progress import Progress
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.system.publish import draft

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.settings.config import Config

__all__ = ["PROBE", "converts", "write_probe"]


class _File(NamedTuple):
    name: str
    content: bytes


PROBE = _File("probe", b"a file of the probe\n" * 4096)
"""The only file of the image."""
_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"


def converts(config: Config) -> bool:
    """Whether this node, as this user, can convert an image of one small layer with the settings *config*."""
    try:
        directory = Path(tempfile.mkdtemp(prefix="enroot-slurm-probe-", dir=config.temp_path))
    except OSError:
        return True  # it has no place to be tried: nothing is known against the node
    try:
        write_probe(config, directory / "image.sqsh")
    except Exception:  # noqa: BLE001 - whatever it is, no image of a user has caused it
        return False
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    return True


def write_probe(config: Config, image: Path) -> None:
    """Write an *image* of the file `PROBE` with the settings *config*; its directory gets a cache besides.

    Raises: what an import raises.
    """
    directory, archive = image.parent, _archive()
    packer = zlib.compressobj(wbits=31)
    blob = packer.compress(archive) + packer.flush()

    def download(_: Descriptor) -> Iterator[bytes]:
        yield blob

    place = CacheDirectory(directory)
    store = BlobStore(place, Locks(place, enabled=False))
    store.prepare()
    conversion = Conversion(
        [Layer(Descriptor(_TYPE, Digest.of(blob), len(blob)), Digest.of(archive))],
        RcLayer((), ()),
        0,
        epoch=None,
        config=config._replace(cache_path=directory),
        store=store,
        download=download,
        progress=Progress(),
    )
    with draft(image.with_name(f".{image.name}.tmp"), mode=0o600) as file:
        conversion.run(file)
        file.publish(image, replace=True, lasting=False)


def _archive() -> bytes:
    """A tar archive of one file; see tar(5)."""
    fields = [
        PROBE.name.encode().ljust(100, b"\0"),
        *(b"%07o\0" % number for number in (0o644, 0, 0)),
        *(b"%011o\0" % number for number in (len(PROBE.content), 0)),
    ]
    before, behind = b"".join(fields), b"0".ljust(101, b"\0") + b"ustar\x0000".ljust(255, b"\0")
    checksum = sum(before) + 8 * ord(" ") + sum(behind)
    header = before + b"%06o\0 " % checksum + behind
    return header.ljust(512, b"\0") + PROBE.content.ljust(-(-len(PROBE.content) // 512) * 512, b"\0") + bytes(1024)
