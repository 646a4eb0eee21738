"""The requests of a job: ``#ENROOT`` lines of its script, and variables in the prolog's environment.

One grammar for all, words separated by blanks:

    request = [ "image=" ] REF *( "arch=" ARCH / "name=" NAME )

In a script each request has a line, ``#ENROOT image=REF ...``, above the first command, as with ``#SBATCH``.  To the
prolog it comes, in this order, as

    SPANK_ENROOT_IMAGE                                        from our SPANK plug-in: one request or several
    SPANK__SLURM_SPANK_OPTION_pyxis_container_image           pyxis' --container-image
    SLURM_JOB_EXTRA, SLURM_JOB_COMMENT                        ``enroot:REF``, if the setting comment_requests says so

REF may lack ``docker://``.  A path (``/images/x.sqsh``) is no request: there is nothing to import.
"""

from __future__ import annotations

import re
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import InvalidReference, UsageError, printable
from enroot_slurm.oci.local import LocalImage, parse_name, with_scheme
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import masked

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["PLUGIN", "PYXIS", "Asked", "Request", "asked_in", "check_count", "image_requests", "parse_words"]

PLUGIN = "SPANK_ENROOT_IMAGE"
"""The variable that our SPANK plug-in sets by ``spank_job_control_setenv(.., "ENROOT_IMAGE", ..)``."""
PYXIS = "SPANK__SLURM_SPANK_OPTION_pyxis_container_image"

_COMMENTS = ("SLURM_JOB_EXTRA", "SLURM_JOB_COMMENT")
_IN_COMMENT = re.compile(r"(?:^|\s)enroot:(\S+)")
_KEYS = ("image", "arch", "name")
_LINE = re.compile(r"#ENROOT(?=\s|$)")
_WORD = re.compile(r"\S+")
# Of a name a variable is made, beside which there is another one that ends with _DIGEST.
_NAME = re.compile(r"(?!(?i:(?:.*_)?digest)\Z)[A-Za-z_][A-Za-z0-9_]{0,31}", re.ASCII)
_MAX_TEXT = 16 << 10
_MAX_REQUESTS = 32


class Request(NamedTuple):
    """An image that a job asks for.

    uri   as `str` of its `Reference` is
    arch  as given; empty: the node's
    name  what the job calls it, or empty
    """

    uri: str
    arch: str = ""
    name: str = ""


class Asked(NamedTuple):
    """A text in which a job asks for images: the user's, and not looked into yet."""

    source: str
    """The variable's name."""
    text: str


def asked_in(environ: Mapping[str, str], *, comments: bool = False) -> list[Asked]:
    """Where in the prolog's environment the job asks for images; *comments*: whether its comment counts too."""
    found = [Asked(name, environ[name]) for name in (PLUGIN, PYXIS) if environ.get(name)]
    if comments:
        for name in _COMMENTS:
            matches = islice(_IN_COMMENT.finditer(environ.get(name, "")), _MAX_REQUESTS + 1)
            found += [Asked(name, match[1]) for match in matches]
    return [asked for asked in found if not asked.text.startswith(("/", "./", "../"))]


def parse_words(text: str) -> list[Request]:
    """The requests in *text*, which has the grammar above.

    Raises: UsageError, with a marker under what is wrong; InvalidReference, InvalidPlatform.
    """
    if len(text) > _MAX_TEXT:
        raise InvalidReference(f"the image request is {len(text)} characters long; {_MAX_TEXT} are the most")
    found: list[Request] = []
    for match in _WORD.finditer(text):
        key, value = _key_and_value(text, match)
        if key == "image":
            found.append(Request(_name(_with_scheme(value))))
        elif not found:
            raise _wrong(text, match, f"{key}= must follow its image", "Write image=REF first.")
        elif getattr(found[-1], key):
            raise _wrong(text, match, f"{key}= is there twice", "")
        else:
            if key == "arch":
                Platform.parse(value)
            elif not _NAME.fullmatch(value):
                raise _wrong(
                    text,
                    match,
                    "not a name",
                    "A name is up to 32 letters, digits and '_', and does not end with 'digest'.",
                )
            found[-1] = found[-1]._replace(**{key: value})
    check_count(found)
    return found


def check_count(requests: list[Request]) -> None:
    """Refuse more *requests* than a job may have.  Raises: UsageError."""
    if len(requests) > _MAX_REQUESTS:
        raise UsageError(
            f"{len(requests)} images or more are asked for; {_MAX_REQUESTS} are the most for a job",
            hint="Let its steps get further ones: srun --container-image, or enroot-slurm get.",
        )


def image_requests(script: str) -> list[Request]:
    """The requests of the ``#ENROOT`` lines of a batch script.

    Raises: UsageError (InvalidReference, InvalidPlatform), with the line's number and a marker under what is wrong.
    """
    found: list[Request] = []
    names: set[str] = set()
    for number, line in _directives(script):
        words = line[len("#ENROOT") :]
        try:
            found += _named_apart(parse_words(words), names)
        except UsageError as error:
            raise type(error)(f"line {number} of the script: {error.message}", hint=error.hint) from None
        check_count(found)
    return found


def _named_apart(requests: list[Request], names: set[str]) -> list[Request]:
    """The *requests* of a line, whose names become *names* too."""
    if not requests:
        raise UsageError("an image is missing", hint="Write #ENROOT image=docker://REGISTRY/IMAGE:TAG")
    for name in (request.name for request in requests if request.name):
        if name.upper() in names:
            raise UsageError(f"name={name} is there twice", hint="Give each image its own name.")
        names.add(name.upper())
    return requests


def _directives(script: str) -> Iterator[tuple[int, str]]:
    """The ``#ENROOT`` lines with their numbers: like sbatch, up to the first command."""
    for number, line in enumerate(script.splitlines(), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            return
        if _LINE.match(line):
            yield number, line.rstrip()


def _key_and_value(text: str, match: re.Match[str]) -> tuple[str, str]:
    word = match[0]
    key, equals, value = word.partition("=")
    if not equals or not key.isalpha():
        return "image", word
    if key not in _KEYS:
        from difflib import get_close_matches  # noqa: PLC0415 - for mistakes only

        close = get_close_matches(key, _KEYS, 1)
        hint = f"Did you mean {close[0]}=?" if close else f"Known are {', '.join(f'{k}=' for k in _KEYS)}."
        raise _wrong(text, match, f"unknown word '{printable(key, 40)}'", hint)
    if not value:
        raise _wrong(text, match, f"{key}= has no value", "")
    return key, value


def _with_scheme(text: str) -> str:
    """*text* as a URI: pyxis' option and comments leave ``docker://`` out."""
    if text.startswith("-"):
        raise InvalidReference(f"not an image reference: {printable(text, 80)}", hint="It begins like an option.")
    return with_scheme(text)


def _name(uri: str) -> str:
    """The name that *uri* spells, in full.  Raises: InvalidReference, UsageError."""
    name = parse_name(uri)
    if isinstance(name, LocalImage) and not name.is_daemon:
        if not uri.removeprefix("docker://").partition(":")[2].startswith("/"):
            raise UsageError(
                f"the path of an archive has to be absolute here: {printable(uri)}",
                hint="A job's images are looked for on its nodes, before it has a directory.",
            )
        if name.is_inherited:
            raise UsageError(f"a pipe is no image of a job: {printable(uri)}", hint="Name a file, or import it before.")
    return str(name)


def _wrong(text: str, match: re.Match[str], why: str, hint: str) -> UsageError:
    before, word = printable(masked(text[: match.start()].strip()), 300), printable(masked(match[0]), 100)
    indent = len(before) + 1 if before else 0
    return UsageError(f"{why}\n  {before}{' ' if before else ''}{word}\n  {' ' * indent}{'^' * len(word)}", hint=hint)
