"""manuals.py DIRECTORY: make the manual pages, from the parsers of the commands and the texts of docs/.

    enroot-slurm.1            the commands, exit statuses and files
    enroot-slurm-COMMAND.1    for each command: what its section in docs/commands.md says, with all options it has
    enroot-slurm-config.5     docs/configuration.md
    enroot-slurm-slurm.7      docs/slurm.md

An option is described by docs/commands.md if that has it in a list of definitions, else as ``--help`` does. pandoc
writes the pages.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.cli import make_parser
from enroot_slurm.version import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCS = Path(__file__).resolve().parents[1] / "docs"
PROGRAM = "enroot-slurm"


class Command(NamedTuple):
    """A command, or a group of them."""

    name: str
    """With spaces: ``enroot-slurm cache gc``."""
    summary: str
    parser: argparse.ArgumentParser

    @property
    def page(self) -> str:
        return self.name.replace(" ", "-")

    @property
    def is_group(self) -> bool:
        return any(isinstance(action, argparse._SubParsersAction) for action in self.parser._actions)  # noqa: SLF001

    @property
    def actions(self) -> list[argparse.Action]:
        """All that it takes, but what is hidden."""
        unwanted = (argparse._SubParsersAction,)  # noqa: SLF001
        actions = self.parser._actions  # noqa: SLF001 - argparse has no other way to them
        return [each for each in actions if each.help != argparse.SUPPRESS and not isinstance(each, unwanted)]


def commands(parser: argparse.ArgumentParser | None = None) -> Iterator[Command]:
    """All commands and groups below *parser* (by default the program's), in the order of ``--help``."""
    parser = parser or make_parser()
    for action in parser._actions:  # noqa: SLF001
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            summaries = {each.dest: each.help or "" for each in action._choices_actions}  # noqa: SLF001
            for name, each in action.choices.items():
                if name in summaries:  # a hidden command has none
                    yield Command(f"{parser.prog} {name}", summaries[name], each)
                    yield from commands(each)


class Section(NamedTuple):
    """A section of a page of docs/."""

    usage: str
    text: str
    definitions: dict[str, str]
    """Of its lists: the term, and what is said of it."""


_DEFINITION = re.compile(
    r"^(?P<term>\S.*)\n: +(?P<text>.*\n(?:(?:  .*)?\n(?=  |\n  |))*?)(?=\n*(?:\S|\Z))", re.MULTILINE
)


def sections(page: str) -> dict[str, Section]:
    """The sections of a page by their titles."""
    found = {}
    for part in re.split(r"^## ", (DOCS / page).read_text(), flags=re.MULTILINE)[1:]:
        title, _, text = part.partition("\n")
        usage = re.match(r"\n+((?: {4}.*\n)+)", text)
        text = text[usage.end() :] if usage else text
        definitions = {match["term"]: match["text"].strip() for match in _DEFINITION.finditer(text)}
        found[title] = Section(usage[1] if usage else "", text, definitions)
    return found


def strings_of(term: str) -> set[str]:
    """The options that a term or a usage names: ``-a, --arch ARCH`` has two."""
    return set(re.findall(r"(?<![\w-])--?[a-zA-Z][\w-]*", term))


def page_of(command: Command, section: Section | None) -> str:
    """The manual page of *command*, as Markdown."""
    text = section.text if section else re.sub(r"^ +", "", command.parser.description or "", flags=re.MULTILINE)
    definitions = section.definitions if section else {}
    lines = []
    for action in command.actions:
        names = ", ".join(f"**{name}**" for name in action.option_strings)
        value = "" if action.nargs == 0 else f"*{action.metavar or action.dest.upper()}*"
        said = (action.help or "").replace("%%", "%")
        for term, definition in definitions.items():
            if strings_of(term) & set(action.option_strings) or (not names and term == action.metavar):
                said = definition
                text = re.sub(rf"^{re.escape(term)}\n: +{re.escape(definition)}\n", "", text, flags=re.MULTILINE)
        lines.append(f"{' '.join(filter(None, (names, value)))}\n: {said}\n")
    options = [*lines] if lines else []
    below = list(commands(command.parser)) if command.is_group else []
    parts = [
        *("# NAME", f"{command.page} - {command.summary}"),
        *("# SYNOPSIS", _indented(_usage(command))),
        *("# DESCRIPTION", _shifted(_plain(_listed(text)))),
        *(["# COMMANDS", "\n".join(f"**{each.page}**(1)\n: {each.summary}\n" for each in below)] if below else []),
        *(["# OPTIONS", "\n".join(map(_plain, options))] if options else []),
        *("# EXIT STATUS", f"0 for success; the others are listed in {PROGRAM}(1)."),
        *("# SEE ALSO", f"{PROGRAM}(1), {PROGRAM}-config(5), {PROGRAM}-slurm(7)"),
    ]
    return "\n\n".join(parts)


def overview() -> str:
    """The page of the program itself, as Markdown."""
    found = sections("commands.md")
    tops = [each for each in commands() if each.name.count(" ") == 1]
    parser = make_parser()
    parts = [
        *("# NAME", f"{PROGRAM} - import container images for Slurm jobs"),
        *("# SYNOPSIS", _indented(f"{PROGRAM} COMMAND [ARGUMENT...]\n{PROGRAM} --version\n{PROGRAM} [COMMAND] --help")),
        *("# DESCRIPTION", parser.description or ""),
        *("# COMMANDS", "\n".join(f"**{each.page}**(1)\n: {each.summary}\n" for each in tops)),
        *("# OPTIONS", "**-h**, **--help**\n: Prints what there is.\n\n**--version**\n: Prints the version."),
        *("# EXIT STATUS", _plain(_listed(found["Exit status"].text))),
        *("# FILES", _plain(found["Files"].text)),
        *("# SEE ALSO", f"{PROGRAM}-config(5), {PROGRAM}-slurm(7)"),
    ]
    return "\n\n".join(parts)


def from_page(name: str, summary: str, page: str) -> str:
    """A page of docs/ as a manual page *name*, in Markdown."""
    _, _, text = (DOCS / page).read_text().partition("\n")
    intro, heading, rest = text.partition("\n## ")
    text = _plain(_listed(f"{intro}{heading}{rest}"))
    return f"# NAME\n\n{name} - {summary}\n\n# DESCRIPTION\n{_shifted(text)}"


def _listed(text: str) -> str:
    """*text* with its wide tables, for which a terminal has no room, as lists of definitions."""

    def listed(table: re.Match[str]) -> str:
        if max(map(len, table[0].splitlines())) < _WIDE:
            return table[0]
        (_, *titles), _, *rows = ([cell.strip() for cell in _CELLS.split(row[1:-1])] for row in table[0].splitlines())
        entries = []
        for term, *cells in rows:
            named = [f"*{title}*: {cell}" for title, cell in zip(titles, cells, strict=True) if cell]
            facts = "; ".join(named if len(titles) > 1 else cells)
            entries.append(f"{term}\n: {facts}\n")
        return "\n".join(entries)

    return re.sub(r"^(?:\|.*\|\n)+", listed, text, flags=re.MULTILINE)


_WIDE = 72
_CELLS = re.compile(r"(?<!\\)\|")


def _usage(command: Command) -> str:
    text = command.parser.format_usage().removeprefix("usage: ")
    return re.sub(r"\n {7}", "\n", text.rstrip())  # as much as "usage: " took


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines())


def _shifted(text: str) -> str:
    return re.sub(r"^#(#+ )", r"\1", text, flags=re.MULTILINE)


def _plain(text: str) -> str:
    """*text* without links into docs/, which a terminal can't follow."""
    return re.sub(r"\[([^\]]*)\]\((?!http)[^)]*\)", r"\1", text)


def write(directory: Path, name: str, section: str, text: str) -> None:
    """Let pandoc write the page *name* of *section*."""
    import pypandoc  # noqa: PLC0415 - a test of the texts needs none

    title, manual = name.upper(), {"1": "User commands", "5": "File formats", "7": "Miscellany"}[section]
    words = [f"--metadata=title:{title}", f"--metadata=section:{section}"]
    words += [f"--metadata=footer:{PROGRAM} {__version__}", f"--metadata=header:{manual}", "--standalone"]
    page = pypandoc.convert_text(text, "man", format="markdown-smart", extra_args=words)
    (directory / f"{name}.{section}").write_text(page)


def main(directory: Path) -> None:
    """Write all pages into *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    found = sections("commands.md")
    write(directory, PROGRAM, "1", overview())
    for command in commands():
        write(directory, command.page, "1", page_of(command, found.get(command.name)))
    summary = "the settings of enroot-slurm, and the files that they are in"
    write(directory, f"{PROGRAM}-config", "5", from_page(f"{PROGRAM}-config", summary, "configuration.md"))
    summary = "container images for jobs: an administrator's manual"
    write(directory, f"{PROGRAM}-slurm", "7", from_page(f"{PROGRAM}-slurm", summary, "slurm.md"))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
