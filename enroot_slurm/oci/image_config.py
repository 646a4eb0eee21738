"""The image config: what the container runs with (OCI image-spec, config.md)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import IntegrityError, printable
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import fields, load_json
from enroot_slurm.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from enroot_slurm.oci.manifest import Descriptor, Manifest

__all__ = ["MAX_CONFIG", "ImageConfig", "chain_ids", "stated_platform"]

MAX_CONFIG = 8 << 20
"""Bytes that an image config may have."""


class ImageConfig(NamedTuple):
    """The parts of a config that an import uses.

    All strings are free of NUL and, but for labels and arguments, of newlines: they end up in line-based files.
    """

    platform: Platform | None
    """None when the config does not state an architecture."""
    diff_ids: tuple[Digest, ...]
    """The digests of the uncompressed layers, the lowest first."""
    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    volumes: tuple[str, ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    created: int = 0
    """Seconds since 1970, or 0 when that is not stated or not understood."""
    dropped: tuple[str, ...] = ()
    """A sentence for people about each thing that the config has and the image does not get."""

    @classmethod
    def parse(cls, content: bytes) -> ImageConfig:
        """The config in *content*.

        Raises: IntegrityError, when it is malformed or holds strings that the files of an image can't hold.
        """
        document = fields(load_json(content, "image config", MAX_CONFIG), "image config")
        rootfs = fields(document.get("rootfs", {}), "image config's rootfs")
        inner = fields(document.get("config", {}), "image config's config")
        architecture = _string(document.get("architecture"), "architecture")
        variant, os_name = _string(document.get("variant"), "variant"), _string(document.get("os"), "os")
        labels = _object(inner.get("labels"), "Labels")
        dropped: list[str] = []
        return cls(
            platform=Platform.of_document(architecture, variant, os_name) if architecture else None,
            diff_ids=tuple(Digest.parse(d) for d in _list(rootfs.get("diff_ids"), "diff_ids")),
            env=tuple(_variables(_strings(inner.get("env"), "Env"), dropped)),
            entrypoint=_strings(inner.get("entrypoint"), "Entrypoint"),
            cmd=_strings(inner.get("cmd"), "Cmd"),
            working_dir=_clean_path(_line(_string(inner.get("workingdir"), "WorkingDir"), "WorkingDir"), "WorkingDir"),
            volumes=tuple(_volumes(_object(inner.get("volumes"), "Volumes"), dropped)),
            labels=tuple((_line(k, "Labels"), _string(v, "Labels")) for k, v in labels.items()),
            created=_seconds(document.get("created")),
            dropped=tuple(dropped),
        )


def chain_ids(diff_ids: Iterable[Digest]) -> list[Digest]:
    """The ChainID of each layer, the lowest first: it names the layer with all below it (config.md, "Layer ChainID").

    The lowest layer's is its diff_id.
    """
    found: list[Digest] = []
    for diff_id in diff_ids:
        found.append(Digest.of(f"{found[-1]} {diff_id}".encode()) if found else diff_id)
    return found


def stated_platform(
    manifest: Manifest,
    known: Callable[[Digest], ImageConfig | None],
    read: Callable[[Descriptor], bytes],
    keep: Callable[[bytes], None],
) -> Platform | None:
    """The platform that the image config of *manifest* states; a config that is not *known* is *read*, and kept.

    Raises: IntegrityError, and what *read* raises.
    """
    config = known(manifest.config.digest)
    if config is None:
        content = read(manifest.config)
        config = ImageConfig.parse(content)
        keep(content)
    return config.platform


def _seconds(stated: object) -> int:
    """The time in RFC 3339 form, as squashfs can hold it; one without a zone is UTC, whatever this node's is."""
    try:
        time = datetime.fromisoformat(str(stated))
        seconds = int((time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp())
    except (ValueError, OverflowError):
        return 0
    return seconds if 0 <= seconds < 1 << 32 else 0


def _object(value: object, what: str) -> Mapping[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise IntegrityError(f"the image config's {what} is not an object")
    return value


def _list(value: object, what: str) -> list[Any]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise IntegrityError(f"the image config's {what} is not a list")
    return value


def _string(value: object, what: str) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        raise IntegrityError(f"the image config's {what} is not a string")
    if "\0" in value:
        raise IntegrityError(f"the image config's {what} holds a NUL character: {printable(value)}")
    return value


def _strings(value: object, what: str) -> tuple[str, ...]:
    # Old tools write a single string where the specification has a list.
    items = [value] if isinstance(value, str) else _list(value, what)
    return tuple(_string(item, what) for item in items)


def _variables(env: Iterable[str], dropped: list[str]) -> Iterator[str]:
    """Yield the variables that a line of /etc/environment can hold."""
    for variable in env:
        if "\n" in variable or "\r" in variable:
            # Only the name: a value may be a key, which has lines.
            name = printable(variable.partition("=")[0], 60)
            dropped.append(f"the image's variable {name} holds a line break, and is left out")
        else:
            yield variable


def _volumes(volumes: Iterable[str], dropped: list[str]) -> Iterator[str]:
    """Yield the volumes that can be mounted: absolute paths."""
    for volume in volumes:
        path = _clean_path(_line(_string(volume, "Volumes"), "Volumes"), "Volumes")
        if path.startswith("/"):
            yield path
        else:
            dropped.append(f"the image's volume '{printable(path)}' is no absolute path, and is left out")


def _line(value: str, what: str) -> str:
    if "\n" in value or "\r" in value:
        raise IntegrityError(
            f"the image config's {what} holds a line break: {printable(value)}",
            hint="enroot's /etc/environment and /etc/fstab have one entry a line; rebuild the image without it.",
        )
    return value


def _clean_path(path: str, what: str) -> str:
    if ".." in path.split("/"):
        raise IntegrityError(f"the image config's {what} holds '..': {printable(path)}")
    return path
