r"""Batch scripts: the words of their ``#SBATCH`` lines, exactly as sbatch reads them, and where they stand.

What sbatch does (22.05, and each case tried): lines count up to the first that is neither empty nor a comment; a line
begins with ``#SBATCH``, whatever follows; words are separated by white space; ``"`` and ``'`` quote, a backslash takes
the next character as it is, even inside of quotes; **a ``#`` that is neither quoted nor escaped ends the line, in the
middle of a word too**; nothing is expanded.  A line ``#SBATCH hetjob`` begins the next component.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Directive", "Word", "directives", "replace_words"]

_MAGIC = "#SBATCH"
_HET = frozenset({"hetjob", "packjob"})
_SPACE = " \t\v\f\r"
_QUOTED = frozenset("\"'\\#" + _SPACE)


class Word(NamedTuple):
    """A word of a line.

    text       what sbatch makes of it
    start, end  its place in the script, in characters
    lost       what is cut off by a ``#`` in the middle of it, with the ``#``; or empty
    closed     False if a quote is never closed, which sbatch refuses
    """

    text: str
    start: int
    end: int
    lost: str = ""
    closed: bool = True


class Directive(NamedTuple):
    """An ``#SBATCH`` line: its number from 1, the component it belongs to from 0, its text and its words."""

    number: int
    component: int
    line: str
    words: tuple[Word, ...]


def directives(script: str) -> list[Directive]:
    """The ``#SBATCH`` lines of *script* that sbatch reads."""
    found = []
    component = start = 0
    for number, line in enumerate(script.split("\n"), 1):
        if line.startswith(_MAGIC):
            words = tuple(_words(line, len(_MAGIC), start))
            if words and words[0].text in _HET:
                component += 1
                words = words[1:]
            found.append(Directive(number, component, line, words))
        elif not line.lstrip(_SPACE).startswith("#") and line.strip(_SPACE):
            break
        start += len(line) + 1
    return found


def replace_words(script: str, texts: dict[Word, str]) -> str:
    """*script* with each of these words replaced by one that sbatch reads as its text; nothing else changes."""
    for word in sorted(texts, key=lambda word: -word.start):
        quoted = "".join(f"\\{c}" if c in _QUOTED else c for c in texts[word])
        script = script[: word.start] + quoted + script[word.end :]
    return script


def _words(line: str, at: int, offset: int) -> Iterator[Word]:
    while at < len(line):
        if line[at] in _SPACE:
            at += 1
            continue
        if line[at] == "#":
            return
        word, at = _word(line, at, offset)
        yield word


def _word(line: str, at: int, offset: int) -> tuple[Word, int]:
    """The word that begins at *at*, and where the line goes on: at its end if a ``#`` cut the rest off."""
    start, text, quote = at, "", ""
    while at < len(line) and (quote or line[at] not in _SPACE):
        character = line[at]
        if character == "\\":
            at += 1
            text += line[at : at + 1]
        elif quote:
            if character == quote:
                quote = ""
            else:
                text += character
        elif character in "\"'":
            quote = character
        elif character == "#":
            lost = line[at:].split(maxsplit=1)[0]
            return Word(text, offset + start, offset + at, lost), len(line)
        else:
            text += character
        at += 1
    at = min(at, len(line))
    return Word(text, offset + start, offset + at, closed=not quote), at
