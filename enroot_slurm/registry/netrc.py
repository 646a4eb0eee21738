r"""The netrc form of a credentials file, as enroot and curl (7.84 and later) read it.

    file     = *( entry / "default" *field / macdef / comment )
    entry    = "machine" value *field                   on one line or on several
    field    = ( "login" / "password" / "account" ) value
    value    = word / quoted / command
    quoted   = DQUOTE text DQUOTE                       with \n, \r, \t; a backslash before anything else goes away
    command  = "$(" text ")"                            up to the matching parenthesis: it may hold spaces
    macdef   = "macdef" name lines, up to an empty line  skipped
    comment  = "#" up to the end of the line            where a keyword may stand: within a word it is a part of it

Sources: curl's lib/netrc.c; enroot's doc/cmd/import.md ("evalnetrc" for values that start with "$").
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["MachineEntry", "NetrcWord", "parse"]

_ESCAPES = {"n": "\n", "r": "\r", "t": "\t"}
_QUOTED = re.compile(r'"((?:[^"\\\n]|\\.)*)"')
_VARIABLE = re.compile(r"\$(?:\w+|\{\w+\})", re.ASCII)
_FIELDS = {"login", "password", "account"}


class NetrcWord(NamedTuple):
    """A word of the file.  Where it is a command or a variable, *text* is what a shell has to evaluate."""

    text: str
    substitution: bool = False

    def __repr__(self) -> str:
        return "NetrcWord(***)"


class MachineEntry(NamedTuple):
    """What one ``machine`` (or ``default``, with an empty name) says."""

    machine: str
    login: str
    password: NetrcWord | None
    line: int


def parse(text: str, name: str) -> list[MachineEntry]:
    """The entries in *text*, in order; *name* is the file's, for messages, which never quote its content.

    Raises: ConfigError.
    """
    words = _Words(text, name)
    entries: list[MachineEntry] = []
    for keyword, line in words.keywords():
        if keyword == "macdef":
            words.value(keyword, line)
            words.skip_macro()
        elif keyword == "machine":
            entries.append(MachineEntry(words.value(keyword, line).text.lower(), "", None, line))
        elif keyword == "default":
            entries.append(MachineEntry("", "", None, line))
        elif keyword not in _FIELDS:
            raise ConfigError(
                f"{name}:{line}: expected 'machine', 'default', 'login', 'password' or 'account'",
                hint='A login or password that has spaces needs double quotes: password "two words".',
            )
        elif not entries:
            raise ConfigError(f"{name}:{line}: there is no 'machine' before '{keyword}'")
        else:
            value = words.value(keyword, line)
            if keyword == "login":
                entries[-1] = entries[-1]._replace(login=value.text)
            elif keyword == "password":
                entries[-1] = entries[-1]._replace(password=value)
    return entries


class _Words:
    """A cursor over the text."""

    def __init__(self, text: str, name: str) -> None:
        self._text = text
        self._name = name
        self._at = 0

    def keywords(self) -> Iterator[tuple[str, int]]:
        """The words that stand where a keyword may, with their lines."""
        while self._skip_space():
            if self._text[self._at] == "#":
                self._at = self._end_of_line()
            else:
                yield self._word(), self._line()

    def value(self, keyword: str, line: int) -> NetrcWord:
        """The word that follows *keyword*."""
        if not self._skip_space():
            raise ConfigError(f"{self._name}:{line}: nothing follows '{keyword}'")
        if self._text[self._at] == '"':
            return NetrcWord(self._quoted())
        if keyword == "password" and self._text.startswith("$(", self._at):
            return NetrcWord(self._command(), substitution=True)
        word = self._word()
        return NetrcWord(word, substitution=keyword == "password" and _VARIABLE.fullmatch(word) is not None)

    def skip_macro(self) -> None:
        """Move behind the next empty line."""
        found = re.compile(r"\n[ \t\r]*(?:\n|\Z)").search(self._text, self._at)
        self._at = found.end() if found else len(self._text)

    def _skip_space(self) -> bool:
        while self._at < len(self._text) and self._text[self._at].isspace():
            self._at += 1
        return self._at < len(self._text)

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1

    def _end_of_line(self) -> int:
        end = self._text.find("\n", self._at)
        return end if end >= 0 else len(self._text)

    def _word(self) -> str:
        start = self._at
        while self._at < len(self._text) and not self._text[self._at].isspace():
            self._at += 1
        return self._text[start : self._at]

    def _quoted(self) -> str:
        match = _QUOTED.match(self._text, self._at)
        if match is None:
            raise ConfigError(f"{self._name}:{self._line()}: the double quote is not closed")
        self._at = match.end()
        return re.sub(r"\\(.)", lambda m: _ESCAPES.get(m[1], m[1]), match[1])

    def _command(self) -> str:
        depth, quote, start = 0, "", self._at
        skip = False
        for i in range(start, self._end_of_line()):
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
                    self._at = i + 1
                    return self._text[start : self._at]
        raise ConfigError(f"{self._name}:{self._line()}: '$(' is not closed")
