"""A file that lists images: YAML, a list of URIs or of mappings with ``uri`` and ``arch``.

    - docker://ubuntu:24.04
    - uri: docker://nvcr.io/nvidia/pytorch:25.06-py3
      arch: [x86_64, aarch64]

Like our configuration it is read as nodes: a scalar is the text that was written, and each problem has its place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from enroot_slurm.errors import ConfigError, UsageError, printable
from enroot_slurm.importing.squash_file import is_path
from enroot_slurm.oci.local import parse_name
from enroot_slurm.oci.platform import Platform

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

__all__ = ["ListedImage", "read_image_list"]

_MAX_FILE = 1 << 20
_MAX_PROBLEMS = 50
_KEYS = ("uri", "arch")


class ListedImage(NamedTuple):
    """An image that a list names."""

    uri: str
    arch: str | None
    """None: this node's."""
    where: str
    """``FILE:LINE``."""


def read_image_list(file: Path) -> list[ListedImage]:
    """The images that *file* lists, each once.

    Raises: ConfigError, with a line ``FILE:LINE:COLUMN: PROBLEM`` for each.
    """
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_FILE + 1)
        text = content.decode("utf-8")
    except OSError as error:
        raise ConfigError(f"{file}: can't be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file}:{line}:1: not UTF-8 text") from None
    if len(content) > _MAX_FILE:
        raise ConfigError(f"{file}: larger than {_MAX_FILE} bytes")
    reader = _Reader(str(file))
    root = reader.compose(text)
    if root is not None:
        reader.read(root)
    if reader.problems:
        raise ConfigError("\n".join(reader.problems[:_MAX_PROBLEMS]), hint=_HINT)
    once: dict[tuple[str, str | None], ListedImage] = {}
    for wanted in reader.wanted:
        once.setdefault((wanted.uri, wanted.arch), wanted)
    return list(once.values())


_HINT = "Expected a list of lines such as '- docker://IMAGE:TAG', or of mappings with 'uri' and 'arch'."


class _Reader:
    def __init__(self, name: str) -> None:
        self._name = name
        self.wanted: list[ListedImage] = []
        self.problems: list[str] = []

    def compose(self, text: str) -> Any:
        """The document's node; None if it has none, or a problem."""
        import yaml  # noqa: PLC0415 - only who has such a list needs it

        try:
            return yaml.compose(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader))
        except (yaml.YAMLError, RecursionError) as error:
            mark = getattr(error, "problem_mark", None)
            where = f"{self._name}:{mark.line + 1}:{mark.column + 1}" if mark else self._name
            reason = getattr(error, "problem", None) or type(error).__name__
            self.problems.append(f"{where}: not valid YAML: {printable(reason)}")
            return None

    def read(self, root: Any) -> None:
        """Note the images and the problems of the list *root*."""
        if root.id != "sequence":
            self._problem(root, "expected a list of images")
            return
        for node in root.value:
            if node.id == "scalar":
                self._add(node, [])
            elif node.id == "mapping":
                self._read_mapping(node)
            else:
                self._problem(node, "expected a URI, or a mapping with 'uri' and 'arch'")

    def _read_mapping(self, node: Any) -> None:
        fields: dict[str, Any] = {}
        for key, value in node.value:
            if key.id != "scalar" or key.value not in _KEYS:
                name = printable(str(key.value), 80) if key.id == "scalar" else "a list"
                self._problem(key, f"expected 'uri' or 'arch', got '{name}'")
            elif key.value in fields:
                self._problem(key, f"'{key.value}' is here twice")
            else:
                fields[key.value] = value
        if "uri" not in fields:
            self._problem(node, "there is no 'uri'")
        elif fields["uri"].id != "scalar":
            self._problem(fields["uri"], "expected a URI")
        else:
            self._add(fields["uri"], list(self._scalars(fields.get("arch"))))

    def _scalars(self, node: Any) -> Iterator[Any]:
        if node is None:
            return
        for each in node.value if node.id == "sequence" else [node]:
            if each.id == "scalar":
                yield each
            else:
                self._problem(each, "expected an architecture")

    def _add(self, uri: Any, archs: list[Any]) -> None:
        if not is_path(uri.value):
            self._checked(uri, parse_name)
        for arch in archs:
            self._checked(arch, Platform.parse)
        where = f"{self._name}:{uri.start_mark.line + 1}"
        self.wanted += [ListedImage(uri.value, arch.value if arch else None, where) for arch in archs or [None]]

    def _checked(self, node: Any, parse: Callable[[str], object]) -> None:
        try:
            parse(node.value)
        except UsageError as error:
            self._problem(node, str(error).partition("\n")[0])

    def _problem(self, node: Any, what: str) -> None:
        self.problems.append(f"{self._name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}: {what}")
