r"""The netrc form of a credentials file, as enroot and curl (7.84 and later) read it.

    file     = *( entry / macdef / comment / word )
    entry    = ( "machine" value / "default" ) *( "login" value / "password" value / word )
    value    = word / quoted / command
    quoted   = DQUOTE text DQUOTE                       with \n, \r, \t; a backslash before anything else goes away
    command  = "$(" text ")"                            up to the matching parenthesis: it may hold spaces
    macdef   = "macdef" name lines, up to an empty line  skipped
    comment  = "#" up to the end of the line            where a keyword may stand: within a word it is a part of it

Keywords are in any case.  Other words where a keyword may stand ("account", "port") are skipped, and so is what is
before the first entry.  Words end at blanks, tabs and line ends, and at no other space: a password may hold U+00A0.

Sources: curl's lib/netrc.c; enroot's doc/cmd/import.md ("evalnetrc" for values that start with "$").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MachineEntry", "NetrcWord", "parse", "quoted"]

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_SPACE = re.compile(r"[ \t\r\n]*")
_WORD = re.compile(r"[^ \t\r\n]+")
_MACRO_END = re.compile(r"\n[ \t\r]*(?:\n|\Z)")
_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})", re.ASCII)
_PLAIN = re.compile(r'(?!["#])[!-~]+')
_BOM = "\ufeff"


class NetrcWord(NamedTuple):
    """A word of the file.  Where it is a command or a variable, *text* is what a shell has to evaluate."""

    text: str
    substitution: bool = False

    def __repr__(self) -> str:
        return "NetrcWord(***)"


class MachineEntry(NamedTuple):
    """One ``machine`` (or ``default``, with an empty name), and its place: characters of the file, and a line."""

    machine: str
    login: str
    password: NetrcWord | None
    line: int
    start: int = 0
    end: int = 0


def parse(text: str, name: str) -> list[MachineEntry]:
    """The entries in *text*, in order; *name* is the file's, for messages, which never quote its content.

    Raises: ConfigError, when a quote or a parenthesis is not closed.
    """
    words = _Words(text, name)
    entries: list[MachineEntry] = []
    for keyword, line, start in words.keywords():
        if keyword == "macdef":
            words.value()
            words.skip_macro()
        elif keyword == "machine":
            if (value := words.value()) is not None:
                entries.append(MachineEntry(value.text.lower(), "", None, line, start, words.at))
        elif keyword == "default":
            entries.append(MachineEntry("", "", None, line, start, words.at))
        elif keyword in {"login", "password"} and entries:
            value = words.value(command=keyword == "password")
            if value is not None and keyword == "login":
                entries[-1] = entries[-1]._replace(login=value.text, end=words.at)
            elif value is not None:
                entries[-1] = entries[-1]._replace(password=value, end=words.at)
    return entries


def quoted(value: str, *, password: bool = False) -> str:
    """*value* as a word of such a file; one that is a *password* is not to be evaluated, whatever it looks like."""
    if _PLAIN.fullmatch(value) and not (password and value.startswith("$")):
        return value
    escaped = value.replace("\\", "\\\\").replace('"', '\\"')
    for char, escape in (("n", "\n"), ("r", "\r"), ("t", "\t")):
        escaped = escaped.replace(escape, f"\\{char}")
    return f'"{escaped}"'


class _Words:
    """A cursor over the text."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._line, self._counted = 1, 0
        self.at = len(_BOM) if text.startswith(_BOM) else 0

    def keywords(self) -> Iterator[tuple[str, int, int]]:
        """The words that stand where a keyword may, in lower case, with their lines and places."""
        while self._skip_space():
            start, line = self.at, self._line_number()
            if self._text[start] == "#":
                end = self._text.find("\n", start)
                self.at = end if end >= 0 else len(self._text)
            elif self._text[start] == '"':
                yield self._quoted().lower(), line, start
            else:
                yield self._word().lower(), line, start

    def value(self, *, command: bool = False) -> NetrcWord | None:
        """The next word, which may be a *command*; None at the end."""
        if not self._skip_space():
            return None
        if self._text[self.at] == '"':
            return NetrcWord(self._quoted())
        if command and self._text.startswith("$(", self.at):
            return NetrcWord(self._command(), substitution=True)
        word = self._word()
        return NetrcWord(word, substitution=command and _VARIABLE.fullmatch(word) is not None)

    def skip_macro(self) -> None:
        """Move behind the next empty line."""
        found = _MACRO_END.search(self._text, self.at)
        self.at = found.end() if found else len(self._text)

    def _skip_space(self) -> bool:
        match = _SPACE.match(self._text, self.at)
        self.at = match.end() if match else self.at
        return self.at < len(self._text)

    def _line_number(self) -> int:
        self._line += self._text.count("\n", self._counted, self.at)
        self._counted = self.at
        return self._line

    def _word(self) -> str:
        match = _WORD.match(self._text, self.at)
        assert match
        self.at = match.end()
        return match[0]

    def _quoted(self) -> str:
        match = _QUOTED.match(self._text, self.at)
        if match is None:
            raise ConfigError(
                f"{self._name}:{self._line_number()}: the double quote is not closed",
                hint="A login or password that starts with a double quote needs quotes around it, and \\ before it.",
            )
        self.at = match.end()
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match[1])

    def _command(self) -> str:
        depth, quote, start = 0, "", self.at
        skip = False
        end = self._text.find("\n", start)
        for i in range(start, end if end >= 0 else len(self._text)):
            char = self._text[i]
            if skip:
                skip = False
            elif char == "\\" and quote != "'":
                skip = True
            elif quote:
                quote = "" if char == quote else quote
            elif char in "'\"":
                quote = char
            elif char == "(":
                depth += 1
            elif char == ")":
                depth -= 1
                if not depth:
                    self.at = i + 1
                    return self._text[start : self.at]
        raise ConfigError(f"{self._name}:{self._line_number()}: '$(' is not closed")
