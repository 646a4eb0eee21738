"""Images that are in no registry: files, directories, and the stores of daemons.

    docker-archive:PATH[:REF|:@N]     what ``docker save`` writes
    oci-archive:PATH[:NAME|:@N]       an OCI image layout in a tar archive
    oci:PATH[:NAME|:@N]               an OCI image layout
    dockerd://IMAGE[:TAG]             of the Docker daemon
    podman://IMAGE[:TAG]              of the user's podman

PATH ends at the first ``:``; ``/dev/stdin`` and other pipes are read once.  REF is a name with a tag, NAME the name of
an entry of index.json, and N counts images from 0.  Before a path with ``/`` or ``.`` in front, and before the last two
forms, ``docker://`` means nothing: pyxis puts it there.

Sources: containers-transports(5); enroot's doc/cmd/import.md.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from enroot_slurm.errors import InvalidReference, UsageError, printable
from enroot_slurm.oci.reference import Reference

__all__ = ["LocalImage", "is_local", "parse_name", "with_scheme"]

_DOCKER = "docker://"
_ARCHIVES = ("docker-archive", "oci-archive")
_DAEMONS = ("dockerd", "podman")
_LOCAL = re.compile(r"(?:docker-archive|oci-archive|oci):(?!//)|(?:dockerd|podman)://")
_BEHIND_DOCKER = re.compile(r"(?:docker-archive|oci-archive|oci):\.{0,2}/(?!/)|(?:dockerd|podman)://")
_MAX_URI = 8192
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_INDEX = re.compile(r"@(0|[1-9][0-9]{0,4})", re.ASCII)
# A reference, or an image's ID; a program gets it as a word, so it must not begin like an option.
_IMAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@-]{0,511}", re.ASCII)
_STREAMS = re.compile(r"/dev/stdin|/dev/fd/[0-9]+|/proc/self/fd/[0-9]+", re.ASCII)
_SUFFIX = re.compile(r"(?:\.oci|\.docker)?(?:\.tar)?(?:\.gz|\.tgz|\.zst|\.xz|\.bz2)?$")
_UNFIT = re.compile(r"[^\w.+-]", re.ASCII)


class LocalImage(NamedTuple):
    """An image that is in no registry.

    transport  ``docker-archive``, ``oci-archive``, ``oci``, ``dockerd`` or ``podman``
    place      an absolute path, or a daemon's name of the image
    selector   REF, NAME or ``@N`` in the file or directory; empty: the only image
    """

    transport: str
    place: str
    selector: str = ""

    @classmethod
    def parse(cls, uri: str) -> LocalImage:
        """The image that *uri* spells; a relative path is one of the current directory.

        Raises: InvalidReference, which says what would be right; UsageError.
        """
        uri = uri.removeprefix(_DOCKER)
        if len(uri) > _MAX_URI:
            raise InvalidReference(f"the image's URI is {len(uri)} characters long; {_MAX_URI} are the most")
        if _CONTROL.search(uri):
            raise InvalidReference(f"a control character is in the image's URI: {printable(uri)}")
        transport, _, rest = uri.partition(":")
        if transport in _DAEMONS:
            image = rest.removeprefix("//")
            if not _IMAGE.fullmatch(image):
                raise InvalidReference(
                    f"not the name of an image: {printable(uri)}", hint=f"Expected {transport}://IMAGE[:TAG]."
                )
            return cls(transport, image)
        path, _, selector = rest.partition(":")
        if not path:
            raise InvalidReference(f"the path is missing: {printable(uri)}", hint=f"Expected {transport}:PATH[:NAME].")
        if path.startswith("~"):
            raise InvalidReference(
                f"'~' is not replaced here: {printable(uri)}", hint=f"Write {transport}:$HOME{printable(path[1:])}"
            )
        if transport == "docker-archive" and selector and not _INDEX.fullmatch(selector):
            selector = _docker_name(uri, selector)
        elif selector.startswith("@") and not _INDEX.fullmatch(selector):
            raise InvalidReference(f"not a number: {printable(selector)}", hint="@0 is the first image in the file.")
        return cls(transport, _absolute(path), selector)

    @property
    def digest(self) -> None:
        """What registries' references may have: a file may change, and its name never says what is in it."""
        return

    @property
    def number(self) -> int | None:
        """The N of the selector ``@N``."""
        return int(self.selector[1:]) if _INDEX.fullmatch(self.selector) else None

    @property
    def is_daemon(self) -> bool:
        """Whether a program has to be asked, which hands out a stream."""
        return self.transport in _DAEMONS

    @property
    def is_inherited(self) -> bool:
        """Whether it is a descriptor of this process, such as its standard input."""
        return not self.is_daemon and _STREAMS.fullmatch(self.place) is not None

    @property
    def is_stream(self) -> bool:
        """Whether it can be read once only, by this process alone."""
        if self.is_daemon or self.is_inherited:
            return self.is_inherited
        try:
            return stat.S_ISFIFO(os.stat(self.place).st_mode)  # noqa: PTH116 - cheaper
        except OSError:
            return False

    @property
    def filename(self) -> str:
        """The default output where the image's own name is not known: enroot's for daemons; empty for a stream."""
        if self.is_daemon:
            return f"{re.sub('[:/]', '+', self.place)}.sqsh"
        if self.is_stream:
            return ""
        stem = _SUFFIX.sub("", Path(self.place).name, count=1)
        return f"{_UNFIT.sub('_', stem).lstrip('.-') or 'image'}.sqsh"

    @property
    def state(self) -> str:
        """A word that changes when the file does."""
        try:
            status = os.stat(self.place)  # noqa: PTH116
        except OSError as error:
            return f"{error.errno}"
        return f"{status.st_ino} {status.st_size} {status.st_mtime_ns}"

    def __str__(self) -> str:
        if self.is_daemon:
            return f"{self.transport}://{self.place}"
        return f"{self.transport}:{self.place}" + (f":{self.selector}" if self.selector else "")


def is_local(uri: str) -> bool:
    """Whether *uri* names an image that is in no registry."""
    if uri.startswith(_DOCKER):
        return _BEHIND_DOCKER.match(uri, len(_DOCKER)) is not None
    return _LOCAL.match(uri) is not None


def with_scheme(text: str) -> str:
    """The URI that *text* means where ``docker://`` may be left out, as in pyxis' option."""
    plain = "://" in text or text.startswith(("docker-archive:", "oci-archive:")) or bool(_BEHIND_DOCKER.match(text))
    return text if plain else f"{_DOCKER}{text}"


def parse_name(uri: str) -> Reference | LocalImage:
    """What *uri* names: an image in a registry, or one that is in none.  Raises: InvalidReference, UsageError."""
    if is_local(uri):
        return LocalImage.parse(uri)
    scheme, colon, rest = uri.partition(":")
    if colon and scheme in _ARCHIVES and rest.startswith("//"):
        path = printable(rest.lstrip("/"), 200)
        raise InvalidReference(
            f"'//' is before the path: {printable(uri)}", hint=f"Write {scheme}:/{path} or {scheme}:{path}"
        )
    return Reference.parse(uri).checked()


def _docker_name(uri: str, selector: str) -> str:
    try:
        reference = Reference.parse(f"{_DOCKER}{selector}")
    except InvalidReference:
        reference = None
    if reference is None or reference.user or reference.digest:
        raise InvalidReference(
            f"not a name with a tag: {printable(selector)} in {printable(uri)}",
            hint="Expected docker-archive:PATH[:IMAGE[:TAG]] or docker-archive:PATH:@N, where @0 is the first image.",
        )
    return selector


def _absolute(path: str) -> str:
    if path.startswith("/"):
        return path
    whole = str(Path.cwd() / path)
    if ":" in whole:
        raise UsageError(
            f"the current directory has a ':' in its name, which would end the path: {printable(whole)}",
            hint="Change to another one, or use /dev/stdin.",
        )
    return whole
