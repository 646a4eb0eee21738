r"""Image references: the URI of ``enroot import`` in the words of the distribution reference grammar.

    uri         = "docker://" [ user "@" ] [ registry ( "#" | "/" ) ] repository [ ":" tag ] [ "@" digest ]
    user        = 1*( letter / digit / any of _.!~*'();&=+$,-/%@ )        a login name; never a password
    registry    = host [ ":" port ]                                      before "/": it has a dot or a colon
    host        = component *( "." component ) / "[" IPv6 "]"
    repository  = path *( "/" path ), 255 characters at most
    path        = alnum *( ( "." / "_" / "__" / 1*"-" ) alnum )           lower case
    tag         = ( word character ) 0*127( word character / "." / "-" )
    digest      = "sha256:" 64 hexadecimal digits / "sha512:" 128 hexadecimal digits

What looks like a digest of another form, or like a version behind ``@``, is refused: enroot's grammar makes a login
and an image on Docker Hub of it.  Only a single word before ``@sha512:`` is a login, as it is to enroot.

What enroot does and this does too: a first component without dot or colon is a namespace on Docker Hub (even
``localhost/x``); a Docker Hub image without namespace is in ``library``; with tag and digest the digest decides;
and ``TAG`` may be spelled ``sha256:HEX``.  Docker Hub's host names are all ``registry-1.docker.io``.

Sources: enroot's doc/cmd/import.md; distribution/reference, reference.go and regexp.go.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from enroot_slurm.errors import InvalidReference, printable
from enroot_slurm.oci.digest import Digest

__all__ = ["DOCKER_HUB", "DOCKER_HUB_NAMES", "Reference", "masked"]

DOCKER_HUB = "registry-1.docker.io"
DOCKER_HUB_NAMES = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"})

_HUB_ALIASES = "|".join(map(re.escape, sorted(DOCKER_HUB_NAMES - {DOCKER_HUB})))
_SCHEME = "docker://"
# Transports of skopeo and the like (containers-transports(5)) for what is on this machine.
_LOCAL_SCHEMES = frozenset(
    {"oci-archive", "docker-archive", "docker-daemon", "containers-storage", "dir", "file", "ocidir", "sif", "ostree"}
)
_OURS = {"docker-daemon": "dockerd://", "containers-storage": "podman://", "ocidir": "oci:"}
_MAX_URI = 2048
_MAX_NAME = 255
_COMPONENT = r"[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?"
_HOST = rf"(?:{_COMPONENT}(?:\.{_COMPONENT})*|\[[0-9a-fA-F:]+\])"
_PATH = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_REGISTRY = re.compile(rf"{_HOST}(?::[0-9]{{1,5}})?", re.ASCII)
_USER = re.compile(r"[A-Za-z0-9_.!~*'();&=+$,/%@-]+", re.ASCII)
_REPOSITORY = re.compile(rf"{_PATH}(?:/{_PATH})*", re.ASCII)
_TAG = re.compile(r"\w[\w.-]{0,127}", re.ASCII)
# What must not be shown, even in an error: all between the first colon and the last "@", but for a port and an image.
_PASSWORD = re.compile(
    r"((?:(?:^|\s)(?!(?:dockerd?|podman|https?)://)|//)"
    r"(?!(?:docker-archive|oci-archive|oci):\.{0,2}/)[^\s/:#]*:)"
    r"(?!\d{1,5}/[a-z0-9._/-]*(?::[\w.-]*)?@).*@(?![a-z0-9]+:[0-9a-f]{32})"
)
_SHA256 = r"sha256:[0-9a-f]{64}"
_SHA512 = r"sha512:[0-9a-f]{128}"
_PINNED = re.compile(rf"(.*)@({_SHA256})|(.*[/:.#@].*)@({_SHA512})", re.ASCII)
_NO_DIGEST = re.compile(r"(?:md5|sha[0-9]{1,3}|blake[0-9][a-z]?)(?::[^/#]*|[+_-][0-9a-f]{8,}[\w.-]*)", re.ASCII)
_VERSION = re.compile(r"v?[0-9]+(?:[.-][\w.-]*)?", re.ASCII)


class Reference(NamedTuple):
    """An image in a registry.

    registry    host, or host and port, lower case; Docker Hub is always `DOCKER_HUB`
    repository  for example ``nvidia/pytorch``, with ``library/`` where Docker Hub wants it
    tag         ``latest`` by default; kept beside a digest for people and file names
    digest      of the manifest or index, or None
    user        the login to look up credentials with, or empty
    """

    registry: str
    repository: str
    tag: str = "latest"
    digest: Digest | None = None
    user: str = ""

    @classmethod
    def parse(cls, uri: str) -> Reference:
        """The reference that *uri* spells.

        Raises: InvalidReference, which shows the wrong part and says what would be right.
        """
        if not uri.startswith(_SCHEME):
            raise _refused(uri, uri.split(":", 1)[0] if ":" in uri else uri, *_why_scheme(uri))
        if len(uri) > _MAX_URI:
            raise InvalidReference(f"the image reference is {len(uri)} characters long; {_MAX_URI} are the most")
        rest = uri[len(_SCHEME) :]
        digest = None
        if pinned := _PINNED.fullmatch(rest):
            head, sha256, longer, sha512 = pinned.groups()
            rest, digest = (head, Digest.parse(sha256)) if sha256 else (longer, Digest.parse(sha512))
        # Only the last "@" can end a login: neither repositories nor tags have one.
        user, at, name = rest.rpartition("@")
        if digest is None and at:
            _refuse_mistaken(uri, user, name)
        if at and not _USER.fullmatch(user):
            raise _refused(uri, f"{user}@", *_why_user(user))
        registry, name = _split_registry(uri, name)
        repository, colon, tag = name.partition(":")
        if colon and re.fullmatch(_SHA256, tag):
            digest, tag, colon = digest or Digest.parse(tag), "", ""
        if colon and not _TAG.fullmatch(tag):
            raise _refused(uri, f":{tag}", "not a tag", "A tag is up to 128 letters, digits, '_', '.' and '-'.")
        if not _REPOSITORY.fullmatch(repository):
            raise _refused(uri, repository, *_why_repository(repository))
        if registry == DOCKER_HUB and "/" not in repository:
            repository = f"library/{repository}"
        if len(repository) > _MAX_NAME:
            raise _refused(uri, repository, f"longer than {_MAX_NAME} characters", "")
        return cls(registry, repository, tag or "latest", digest, user)

    @property
    def target(self) -> str:
        """The last part of a manifest's URL: the digest if there is one, else the tag."""
        return str(self.digest or self.tag)

    @property
    def provenance(self) -> str:
        """The URI that enroot writes into ``/etc/rc``: registry and image in full, without the login."""
        return f"{_SCHEME}{self.registry}#{self.repository}:{self.target}"

    @property
    def familiar_name(self) -> str:
        """The repository as users write it: without Docker Hub's ``library/``."""
        return self.repository.removeprefix("library/") if self.registry == DOCKER_HUB else self.repository

    @classmethod
    def default_filename(cls, uri: str) -> str:
        """enroot's default output for *uri*: the image with ``+`` for ``/``, ``+TAG``, ``.sqsh``.

        ``library/`` stays where it was written behind a name of Docker Hub's other than `DOCKER_HUB`.

        Raises: InvalidReference.
        """
        reference = cls.parse(uri)
        name = reference.familiar_name
        if re.search(rf"[/@]({_HUB_ALIASES})(?::\d+)?[/#]library/{re.escape(name)}(?:[:@]|$)", uri, re.IGNORECASE):
            name = reference.repository
        return f"{name.replace('/', '+')}+{reference.target}.sqsh"

    @property
    def is_cut(self) -> bool:
        """Whether this is a registry whose image is lost, as sbatch's comment sign ``#`` does it.

        enroot would ask Docker Hub for it, which has no image of its own with a dot in its name.
        """
        name, namespace = self.familiar_name, self.repository.rpartition("/")[0]
        return self.registry == DOCKER_HUB and namespace == "library" and ("." in name or name == "localhost")

    @property
    def looks_cut(self) -> bool:
        """Likewise, or only whether it may be one: an image with a number as tag, or a host with its port."""
        namespace = self.repository.rpartition("/")[0]
        return self.is_cut or (self.registry == DOCKER_HUB and namespace == "library" and self.tag.isdecimal())

    def checked(self) -> Reference:
        """This reference, if there is an image in it.  Raises: InvalidReference."""
        if self.is_cut:
            name = self.familiar_name + (f":{self.tag}" if self.tag != "latest" else "")
            raise _refused(name, name, *_WHY_CUT)
        return self

    def __str__(self) -> str:
        login = f"{self.user}@" if self.user else ""
        pin = f"@{self.digest}" if self.digest else ""
        return f"{_SCHEME}{login}{self.registry}#{self.repository}:{self.tag}{pin}"


def masked(text: str) -> str:
    """*text* without the passwords that people put before an ``@``: ``docker://user:***@host/image``.

    For what is logged, recorded or shown before, or although, it is no reference.
    """
    return _PASSWORD.sub(r"\1***@", text)


def _split_registry(uri: str, name: str) -> tuple[str, str]:
    """The registry (Docker Hub if none is named) and what follows it."""
    host, hash_sign, rest = name.partition("#")
    if not hash_sign:
        host, slash, rest = name.partition("/")
        if not slash or not ("." in host or ":" in host):
            return DOCKER_HUB, name
    if not _REGISTRY.fullmatch(host):
        raise _refused(uri, host, *_why_registry(host))
    port = host.rpartition(":")[2] if re.search(r":\d+$", host) else ""
    if port and not 0 < int(port) < 65536:
        raise _refused(uri, f":{port}", "not a port", "A port is a number from 1 to 65535.")
    host = host.lower()
    return (DOCKER_HUB if host in DOCKER_HUB_NAMES else host), rest


def _refused(uri: str, part: str, why: str, hint: str) -> InvalidReference:
    """The error for *uri*, with a marker under *part*."""
    shown = printable(masked(uri), 300)
    mark = printable(masked(part), 300)
    at = shown.find(mark) if mark else len(shown)
    marker = f"\n  {shown}\n  {' ' * max(at, 0)}{'^' * max(1, len(mark))}"
    return InvalidReference(f"invalid image reference: {why}{marker}", hint=hint)


def _refuse_mistaken(uri: str, user: str, name: str) -> None:
    """Refuse *name*, behind the "@" that follows *user*, where it was meant as a digest or a tag."""
    if name.startswith("sha512:") and not re.search("[/:.#@]", user):
        return  # as enroot reads it
    if re.fullmatch(r"sha(256|512):.*", name, re.DOTALL):
        digits = 64 if name.startswith("sha256") else 128
        raise _refused(
            uri, f"@{name}", "not a digest", f"A digest is {name[:7]} and {digits} lower-case hexadecimal digits."
        )
    if _NO_DIGEST.fullmatch(name):
        signature = re.fullmatch(r"sha256-[0-9a-f]{64}(\.\w+)?", name)
        raise _refused(
            uri,
            f"@{name}",
            "not a digest that can be checked",
            f"A tag of this form has a colon before it: {printable(f':{name}', 100)}"
            if signature
            else "A digest is sha256: or sha512: and 64 or 128 lower-case hexadecimal digits.",
        )
    if _VERSION.fullmatch(name):
        raise _refused(
            uri,
            f"@{name}",
            "a tag has ':' before it, not '@'",
            f"Try {_SCHEME}{printable(f'{user}:{name}', 200)}" if ":" not in user else "",
        )


def _why_scheme(uri: str) -> tuple[str, str]:
    why = "it does not start with docker://"
    scheme, found, rest = uri.partition("://")
    if found and scheme in {"dockerd", "podman"}:
        return (
            f"{scheme}:// images are in a local daemon, not in a registry",
            "Push the image to a registry, and name it docker://REGISTRY/IMAGE:TAG. import and get take it as it is.",
        )
    if re.match(r"\.{0,2}/|~", uri) or uri.endswith((".sqsh", ".squashfs")):
        return why, "A file needs no import: enroot create, and pyxis' --container-image, take its path."
    scheme, colon, behind = uri.partition(":")
    if scheme.lower() in _LOCAL_SCHEMES or (scheme.lower() == "oci" and not found):
        return why, _local_hint(scheme, behind)
    if scheme in {"docker", "registry"} and colon and not found:
        return why, f"Try {_shown(behind.lstrip('/'))}, or for the image {scheme}: {_shown(uri)}"
    guess = rest.lstrip("/") if found else uri
    return why, f"Try {_shown(guess)}" if guess else "Name an image."


def _local_hint(scheme: str, behind: str) -> str:
    """What to write for an image that is in no registry."""
    name = scheme.lower()
    if name in _OURS:
        return f"Write {_OURS[name]}{printable(behind.lstrip('/'), 200)}"
    if name != scheme and name in {"docker-archive", "oci-archive", "oci"}:
        return f"Write {name}:, in lower case."
    return f"{name}: names images that are in no registry: put it into one, with skopeo copy."


def _shown(guess: str) -> str:
    """The URI of *guess* for a hint."""
    return printable(masked(f"{_SCHEME}{guess}"), 100 + len(_SCHEME))


def _why_user(user: str) -> tuple[str, str]:
    if ":" in user:
        return (
            "a login must not hold a password",
            "Everyone can see it: keep it in $ENROOT_CONFIG_PATH/.credentials, and write USER@REGISTRY#IMAGE.",
        )
    return "not a login name", "Expected docker://[USER@][REGISTRY#]IMAGE[:TAG][@sha256:DIGEST]."


def _why_registry(host: str) -> tuple[str, str]:
    if host.endswith("\\"):
        return "there is a backslash before the '#'", "Write REGISTRY/IMAGE, which needs no quoting in an #SBATCH line."
    if not host:
        return "the registry is missing before the '#'", "Expected docker://REGISTRY#IMAGE or docker://IMAGE."
    return (
        "not a registry",
        "A registry is a host name or address with an optional port, such as nvcr.io or localhost:5000.",
    )


_WHY_CUT = (
    "this is a registry without an image",
    "If this came from an #SBATCH line, the unescaped '#' cut the rest off: write REGISTRY/IMAGE instead.",
)


def _why_repository(repository: str) -> tuple[str, str]:
    if not repository:
        return (
            "the image is missing",
            "If this came from an #SBATCH line, the unescaped '#' cut the rest off: write REGISTRY/IMAGE instead.",
        )
    if repository != repository.lower() and _REPOSITORY.fullmatch(repository.lower()):
        return "repository names are lower case", f"Try {repository.lower()}"
    return (
        "not a repository name",
        "Components are lower-case letters and digits, separated by '/', with '.', '_' or '-' between them.",
    )
