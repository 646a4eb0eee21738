"""``enroot-slurm srun`` and ``sbatch``: import first, then let Slurm start the job with what was imported.

Pure functions: words and texts in, a `Launch` out.  Every word that names no image passes as it is, in its place.  What
an image's option becomes depends on who in this cluster takes it (`Doors`):

    pyxis              --container-image=/path/to/image.sqsh
    our SPANK plug-in  --enroot-image=docker://...@sha256:...   a node finds the image by its digest, or imports it
    nobody             nothing: ENROOT_SLURM_IMAGE and ENROOT_SLURM_IMAGE_DIGEST are in the job's environment

A file (``./x.sqsh``, ``/x.sqsh``) goes to pyxis as it is; a name without scheme is ``docker://NAME``, as for pyxis.
pyxis refuses a second value of its option ("specified multiple times"), so that a path on sbatch's command line can't
stand against an ``#SBATCH --container-image`` line: there, sbatch gets a copy of the script in which that one word is
the path.  In all other cases the script is the user's own file.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from enroot_slurm.errors import InvalidReference, UsageError, printable
from enroot_slurm.importing.squash_file import check_squashfs
from enroot_slurm.oci.local import LocalImage, parse_name, with_scheme
from enroot_slurm.slurm.batch_script import directives, replace_words
from enroot_slurm.slurm.command_line import IMAGE_OPTIONS, Syntax, components

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.slurm.batch_script import Directive, Word
    from enroot_slurm.slurm.command_line import Component, Option
    from enroot_slurm.slurm.request import Request

    _Get = Callable[[str, str], "ImportedImage"]
    _Images = dict[tuple[str, str], "ImportedImage"]

__all__ = [
    "DIGEST_VARIABLE",
    "IMAGE_VARIABLE",
    "Doors",
    "ImportedImage",
    "Launch",
    "image_uri",
    "pinned",
    "sbatch_launch",
    "srun_launch",
]

IMAGE_VARIABLE = "ENROOT_SLURM_IMAGE"
DIGEST_VARIABLE = "ENROOT_SLURM_IMAGE_DIGEST"

_PYXIS, _OURS = IMAGE_OPTIONS
_HELP_ENTRY = re.compile(r"^ {1,8}--container-image\b.*(?:\n {9,}.*)*", re.MULTILINE)


class ImportedImage(Protocol):
    """An image that was imported; `enroot_slurm.importing.to_cache.CachedImage` is one."""

    @property
    def path(self) -> Path:
        """The squashfs file, absolute."""

    @property
    def digest(self) -> Digest:
        """Of the manifest for the platform."""


@dataclass(frozen=True)
class Launch:
    """How Slurm's program is to be called.

    words        its arguments
    environment  variables to add
    script       for sbatch: the text to submit in place of the user's file; None: that file
    """

    words: list[str]
    environment: dict[str, str]
    script: str | None = None


class Doors(NamedTuple):
    """The programs that take an image in this cluster.

    pyxis  whether ``--container-image`` is pyxis', or a relative's, and takes paths
    ours   the name of our SPANK plug-in's option, or empty
    """

    pyxis: bool
    ours: str

    @classmethod
    def of_help(cls, text: str) -> Doors:
        """The doors of the program (srun or sbatch) whose ``--help`` printed *text*: it lists plug-ins' options."""
        entry = _HELP_ENTRY.search(text)
        if entry and "enroot-slurm" in entry[0]:
            return cls(pyxis=False, ours=_PYXIS)
        ours = _OURS if re.search(rf"^ {{1,8}}--{_OURS}\b", text, re.MULTILINE) else ""
        return cls(pyxis=entry is not None, ours=ours)

    def option(self, request: _Request) -> str:
        """The option that takes what *request* asks for; empty if none does."""
        if request.option == _PYXIS and self.pyxis:
            return _PYXIS
        # A node that has to import a digest itself takes its own architecture's.
        return self.ours if request.uri and not request.arch else ""


class _Request(NamedTuple):
    """An image that is asked for.

    option  by which option; empty for an ``#ENROOT`` line
    text    as it was given
    where   ``job.sh:3``, or empty for the command line
    arch    as for `get`
    """

    option: str
    text: str
    where: str = ""
    arch: str = ""

    @property
    def uri(self) -> str:
        return image_uri(self.text)


def image_uri(text: str) -> str:
    """The URI that *text*, the value of an image option, means to pyxis; empty if it is a file's path."""
    if text.startswith((".", "/")):
        return ""
    return with_scheme(text)


def pinned(uri: str, image: ImportedImage) -> str:
    """*uri* with the image's digest, and with ``/`` behind the registry where that may be: no shell minds it."""
    name = parse_name(uri)
    if isinstance(name, LocalImage):
        return str(name)
    reference = name._replace(digest=image.digest)
    registry = f"{reference.registry}#"
    plain = registry.replace("#", "/" if "." in registry or ":" in registry else "#")
    return str(reference).replace(registry, plain, 1)


def srun_launch(words: list[str], help_text: str, get: _Get) -> Launch:
    """The call of srun that ``enroot-slurm srun WORDS`` stands for.

    *help_text* is what ``srun --help`` prints; *get* imports the image of a URI for an architecture ("": this node's).
    Raises: UsageError for what names no image, before anything is imported; whatever *get* does.
    """
    doors = Doors.of_help(help_text)
    asked = _asked(components(words, Syntax.of_help(help_text)))
    images = _import(asked.values(), doors, get)
    return Launch(_rewritten(words, asked, doors, images), _environment(asked.values(), doors, images))


def sbatch_launch(
    words: list[str], help_text: str, script: str, name: str, others: Iterable[Request], get: _Get
) -> Launch:
    """The call of sbatch that ``enroot-slurm sbatch WORDS`` stands for.

    script  the text of the batch script; empty if there is none (``--wrap``)
    name    the script's name, for messages
    others  the images of the script's ``#ENROOT`` lines
    An option of the command line overrides the script's.  The rest, and what it raises, is as in `srun_launch`.
    """
    syntax, doors = Syntax.of_help(help_text), Doors.of_help(help_text)
    asked = _asked(components(words, syntax, commands=False))
    by_option = {request.option: request for request in reversed(asked.values())}
    lines = _asked_in_script(directives(script), syntax, name)
    for request in lines.values():
        _check_option(request, doors)
    unnamed = [_Request("", other.uri, name, other.arch) for other in others]
    used = [*asked.values(), *(request for request in lines.values() if request.option not in by_option), *unnamed]
    images = _import(used, doors, get)

    texts = {}
    front: list[str] = []
    for word, request in lines.items():
        value = _value(by_option.get(request.option, request), doors, images)
        if doors.option(request) == _PYXIS:
            texts[word] = word.text.removesuffix(request.text) + value
        elif request.option not in by_option and not front:
            front = [f"--{request.option}={value}"]
    if unnamed and not asked and not lines and doors.option(unnamed[0]):
        front = [f"--{doors.ours}={_value(unnamed[0], doors, images)}"]
    return Launch(
        front + _rewritten(words, asked, doors, images),
        _environment(used, doors, images),
        replace_words(script, texts) if texts else None,
    )


def script_options(script: str, syntax: Syntax) -> tuple[Option, ...]:
    """The options in the ``#SBATCH`` lines of the script's first component."""
    words = [word.text for line in directives(script) if not line.component for word in line.words]
    return components(words, syntax, commands=False)[0].options


def _asked(parts: Iterable[Component]) -> dict[Option, _Request]:
    """The image of each component of a command line that has one."""
    found = {}
    for part in parts:
        option = part.last(*IMAGE_OPTIONS)
        if option and option.value:
            found[option] = _Request(option.name, option.value)
    return found


def _asked_in_script(lines: Sequence[Directive], syntax: Syntax, name: str) -> dict[Word, _Request]:
    """The images that ``#SBATCH`` lines ask for, by the word that has the value.

    Raises: InvalidReference where sbatch would get but a part of what is written.
    """
    found = {}
    for number in sorted({line.component for line in lines}):
        # Like sbatch, which parses the words of all lines together: a value may even be on the next line.
        places = [(word, line) for line in lines if line.component == number for word in line.words]
        part = components([word.text for word, _ in places], syntax, commands=False)[0]
        for option in part.options:
            if option.name in IMAGE_OPTIONS and option.value:
                word, line = places[option.end - 1]
                where = f"{name}:{line.number}"
                if word.lost or not word.closed:
                    raise _cut(where, line, word, option.value)
                found[word] = _Request(option.name, option.value, where)
    return found


def _cut(where: str, line: Directive, word: Word, value: str) -> InvalidReference:
    shown = printable(line.line, 300)
    if not word.closed:
        return InvalidReference(f"{where}: a quote is opened and never closed\n  {shown}")
    whole = printable(value + word.lost, 300)
    at = shown.find(printable(word.lost))
    marker = f"\n  {shown}\n  {' ' * at}{'^' * len(printable(word.lost))}"
    return InvalidReference(
        f"{where}: '#' begins a comment here, so that sbatch would read only '{printable(value)}'{marker}",
        hint=f"Write {whole.replace('#', '/', 1)}, which means the same and needs no quoting.",
    )


def _check_option(request: _Request, doors: Doors) -> None:
    """Raise UsageError if sbatch does not know the option of an ``#SBATCH`` line."""
    if request.option not in {_PYXIS if doors.pyxis else "", doors.ours}:
        raise UsageError(
            f"{request.where}: sbatch has no option --{request.option} in this cluster, and refuses the script",
            hint=f"Write '#ENROOT image={printable(request.text)}' instead: the job finds the image's path in "
            f"{IMAGE_VARIABLE}.",
        )


def _import(requests: Iterable[_Request], doors: Doors, get: _Get) -> _Images:
    """The images by their URIs and architectures, imported when all requests are known to be right."""
    requests = list(requests)
    for request in requests:
        if request.uri:
            _check_reference(request)
        elif not request.where and os.path.lexists(request.text):
            check_squashfs(request.text)
    if len({r.text for r in requests if r.option and not doors.option(r)}) > 1:
        raise UsageError(
            f"{IMAGE_VARIABLE} can't tell the components' images apart",
            hint="Start a step for each image: this Slurm has no plug-in for images.",
        )
    if len({r.text for r in requests if doors.option(r) == _PYXIS}) > 1:
        raise UsageError(
            f"pyxis takes one --{_PYXIS} for all components, and would refuse the second one",
            hint="Start a step for each component, with its own image: srun --het-group=N.",
        )
    return {key: get(*key) for key in dict.fromkeys((request.uri, request.arch) for request in requests) if key[0]}


def _check_reference(request: _Request) -> None:
    try:
        parse_name(request.uri)
    except InvalidReference as error:
        hint = error.hint
        if request.where and "$" in request.text:
            hint = "sbatch replaces no variables in the lines of a script."
        where = f"{request.where}: " if request.where else ""
        raise InvalidReference(f"{where}{error.message}", hint=hint) from None


def _value(request: _Request, doors: Doors, images: _Images) -> str:
    """The value of the option that takes *request*; a path if there is no such option."""
    image = images.get((request.uri, request.arch))
    if image is None:
        return request.text
    return pinned(request.uri, image) if doors.option(request) == doors.ours != "" else str(image.path)


def _rewritten(words: list[str], asked: dict[Option, _Request], doors: Doors, images: _Images) -> list[str]:
    """*words* with the values of the image options replaced, or the options left out that nobody takes."""
    words = list(words)
    for option, request in sorted(asked.items(), key=lambda item: -item[0].start):
        taken = doors.option(request)
        new = [f"--{taken}={_value(request, doors, images)}"] if taken else []
        words[option.start : option.end] = new
    return words


def _environment(requests: Iterable[_Request], doors: Doors, images: _Images) -> dict[str, str]:
    """The variables for the first of the images that no option takes."""
    for request in requests:
        if not doors.option(request):
            image = images.get((request.uri, request.arch))
            if image is None:
                return {IMAGE_VARIABLE: str(Path(request.text).absolute())}
            return {IMAGE_VARIABLE: str(image.path), DIGEST_VARIABLE: str(image.digest)}
    return {}
