"""The command lines of srun and sbatch: which words are options, which are their values, and where the command begins.

Both read their options with getopt_long in POSIX mode: options end at the first word that is none, or after ``--``;
a long option may be shortened as long as it is clear; letters may be joined (``-vN2``).  Which options take a value
depends on the release of Slurm and on its SPANK plug-ins; so ``--help`` is asked, which lists the plug-ins' options
too.  It is not quite right about Slurm's own (22.05: ``--container`` without ``=``, ``--export[=names]``), hence the
lists here, which 22.05's programs confirm ("option requires an argument") and later manual pages extend.
"""

from __future__ import annotations

import re
from typing import NamedTuple

__all__ = ["IMAGE_OPTIONS", "Component", "Option", "Syntax", "components"]

IMAGE_OPTIONS = ("container-image", "enroot-image")
"""The options that name an image: pyxis' and ours; those of `Option.name`."""

_VALUES = """
    accel-bind account acctg-freq array autocomplete batch bb bbf bcast-exclude begin chdir cluster-constraint clusters
    comment constraint container container-id core-spec cores-per-socket cpu-bind cpu-freq cpus-per-gpu cpus-per-task
    deadline delay-boot dependency distribution epilog error exclude export export-file extra extra-node-info gid
    gpu-bind gpu-freq gpus gpus-per-node gpus-per-socket gpus-per-task gres gres-flags het-group hint input job-name
    jobid kill-on-invalid-dep licenses mail-type mail-user mcs-label mem mem-bind mem-per-cpu mem-per-gpu mincpus mpi
    msg-timeout network nodefile nodelist nodes ntasks ntasks-per-core ntasks-per-gpu ntasks-per-node
    ntasks-per-socket open-mode output partition power prefer priority profile prolog qos relative reservation segment
    signal slurmd-debug sockets-per-node switches task-epilog task-prolog thread-spec threads threads-per-core time
    time-min tmp treewidth tres-bind tres-per-task uid wait-all-nodes wckey wrap
"""
_OPTIONAL = frozenset({"bcast"})  # listed with "=", not "[="
# "  -c, --cpus-per-task=ncpus ...", "      --exclusive[=user] ...", "  -B  --extra-node-info=S[:C[:T]]"; what is
# indented more is the text of the option above.
_HELP_LINE = re.compile(r"^ {1,8}(?:-(\w),? +)?--([A-Za-z0-9][\w-]*)(=?)", re.MULTILINE | re.ASCII)


class Syntax(NamedTuple):
    """The forms of one program's options; made by `of_help`."""

    values: frozenset[str]
    """Long options that take a value, be it the next word."""
    flags: frozenset[str]
    """Long options that take none, or one only after ``=``."""
    letters: dict[str, str]
    """Long names of short options."""

    @classmethod
    def of_help(cls, text: str) -> Syntax:
        """The syntax of the program whose ``--help`` printed *text*."""
        values, letters = {*_VALUES.split(), *IMAGE_OPTIONS}, {}
        flags: set[str] = set()
        for letter, name, equals in _HELP_LINE.findall(text):
            if letter:
                letters[letter] = name
            (values if equals and name not in _OPTIONAL else flags).add(name)
        return cls(frozenset(values), frozenset(flags - values), letters)

    def full_name(self, name: str) -> str:
        """The long option that *name* is, or is short for; empty if that is unknown or unclear."""
        if name in self.values or name in self.flags:
            return name
        found = [known for known in self.values | self.flags if known.startswith(name)]
        return found[0] if len(found) == 1 else ""


class Option(NamedTuple):
    """An option in a list of words.

    name   long, even if a letter was given; empty if unknown
    value  None if it has none
    start  the index of its word
    end    the index behind its last word, which is its value if that is a word of its own
    """

    name: str
    value: str | None
    start: int
    end: int


class Component(NamedTuple):
    """A component of a heterogeneous job, or the only one.

    options  in their order
    command  the index of the command; that of the end if there is none
    end      the index of the ``:`` behind it, or the number of words
    """

    options: tuple[Option, ...]
    command: int
    end: int

    def last(self, *names: str) -> Option | None:
        """The last of the options called one of *names*: the one that counts."""
        return next((option for option in reversed(self.options) if option.name in names), None)


def components(words: list[str], syntax: Syntax, *, commands: bool = True) -> list[Component]:
    """The components of a command line without the program's name.

    With *commands* (srun) each may have a command, which ends at ``:``; without (sbatch) the script is behind the last
    one's options, and all that follows is the script's.
    """
    found = []
    at = 0
    while True:
        options, command = _options(words, at, syntax)
        end = command
        if commands:
            end = words.index(":", command) if ":" in words[command:] else len(words)
        elif words[command : command + 1] != [":"]:
            end = len(words)
        found.append(Component(tuple(options), command, end))
        if end == len(words):
            return found
        at = end + 1


def _options(words: list[str], at: int, syntax: Syntax) -> tuple[list[Option], int]:
    """The options from index *at* on, and the index of what follows them."""
    found: list[Option] = []
    while at < len(words):
        word = words[at]
        if word == "--":
            return found, at + 1
        if not word.startswith("-") or word == "-":
            break
        if word.startswith("--"):
            given, equals, value = word[2:].partition("=")
            name = syntax.full_name(given)
            wants = name in syntax.values and not equals
        else:
            name, value = _letters(word[1:], syntax)
            equals = value
            wants = name in syntax.values and not value
        end = min(at + 1 + wants, len(words))
        if wants and end == at + 2:
            equals, value = "=", words[at + 1]
        found.append(Option(name, value if equals else None, at, end))
        at = end
    return found, at


def _letters(letters: str, syntax: Syntax) -> tuple[str, str]:
    """The last option of joined *letters* and what follows it: the first one that takes a value ends them."""
    name = ""
    for index, letter in enumerate(letters):
        name = syntax.letters.get(letter, "")
        if name in syntax.values:
            return name, letters[index + 1 :]
    return name, ""
