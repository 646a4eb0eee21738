"""Whether the name of an image is enough to refuse it: the one function that every door asks first.

    blocked_images          no image that one of its prefixes covers; of two sources, each counts
    blocked = true          of a table in registries.conf: likewise, in the site's files and in the user's
    allowed_images          only images that a prefix of it covers; of two sources, both have to allow

An image that is in no registry goes by its transport: ``docker-archive``, ``podman``. What blocks wins. `Lookup.of`
asks, and so do the doors at which a job is submitted, which look for no image. It costs no request, and where nothing
is blocked no parser is loaded. `admission` asks for more: signatures, say.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from enroot_slurm.errors import ImageRefused
from enroot_slurm.oci.local import LocalImage
from enroot_slurm.oci.names import covers, full_name, longest
from enroot_slurm.settings.conf_files import conf_files, may_block, read_files

if TYPE_CHECKING:
    from enroot_slurm.oci.reference import Reference
    from enroot_slurm.settings.conf_files import ConfFile
    from enroot_slurm.settings.config import Config

__all__ = ["files_of", "of_site", "permit"]

_ASK = "Use another image, or ask the site's administrator."


def permit(reference: Reference | LocalImage, config: Config) -> None:
    """Refuse *reference* if the lists of *config*, or a table of registries.conf, do.

    Raises: ImageRefused, with the list and its file; ConfigError, when a file that may block can't be understood.
    """
    name = reference.transport if isinstance(reference, LocalImage) else full_name(reference)
    for said in config.said.get("blocked_images", ()):
        if (prefix := longest(list(said.value), name)) is not None:
            raise ImageRefused(f"{name} may not be used: blocked_images has {prefix} ({said.source})", hint=_ASK)
    if not isinstance(reference, LocalImage):
        _refuse_blocked(reference, name, config)
    for said in config.said.get("allowed_images", ()):
        if said.value and not any(covers(prefix, name) for prefix in said.value):
            shown = ", ".join(said.value[:10]) + (", ..." if len(said.value) > 10 else "")
            raise ImageRefused(
                f"{name} may not be used: it is not among allowed_images ({said.source})",
                hint=f"Allowed are {shown}.",
            )


def files_of(config: Config, *, site: bool) -> list[ConfFile]:
    """The files that the setting registries_conf names: for the *site*'s view, as the site's YAML has it.

    Raises: ConfigError.
    """
    which = of_site(config, "registries_conf", "auto") if site else config.registries_conf
    if which == "off":
        return []
    paths = [Path(which)] if which != "auto" else conf_files(None if site else os.environ)
    return read_files(paths, trusted=config.trusted)


def of_site(config: Config, key: str, default: Any) -> Any:
    """What the site's YAML says of the setting *key*, or *default*."""
    return next((each.value for each in config.said.get(key, ()) if each.site), default)


def _refuse_blocked(reference: Reference, name: str, config: Config) -> None:
    for site in (True,) if config.trusted else (True, False):
        files = files_of(config, site=site)
        if not may_block(files):
            continue
        from enroot_slurm.registry.endpoints import table_of  # noqa: PLC0415 - mostly nothing is blocked
        from enroot_slurm.settings.registries_conf import tables_in  # noqa: PLC0415

        table = table_of(reference, tables_in(files)[0])
        if table is not None and table.blocked:
            raise ImageRefused(f"{name} may not be used: {table.source} blocks {table.prefix}", hint=_ASK)
