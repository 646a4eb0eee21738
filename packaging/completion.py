"""completion.py DIRECTORY: make the completion for bash, zsh and fish, from the parsers of the commands, by shtab.

Images are completed from the caches of this machine: ``LIBEXECDIR/names`` looks there, and asks no registry.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import shtab

from enroot_slurm.cli import make_parser

FUNCTION = "_enroot_slurm_images"
IMAGES = {
    "bash": FUNCTION,
    "zsh": FUNCTION,
    "fish": f"({FUNCTION})",
}
KINDS = {"URI": IMAGES, "IMAGE": IMAGES, "FILE": shtab.FILE, "FILE.yaml": shtab.FILE, "DIR": shtab.DIRECTORY}
"""How to complete the values of arguments, by their names in ``--help``."""

PREAMBLES = {
    "bash": f"""
{FUNCTION}() {{
  local name
  while IFS= read -r name; do
    [[ $name != "$1"* ]] || printf '%s\\n' "$name"
  done < <(@LIBEXECDIR@/names "$1" 2> /dev/null)
}}
""",
    "zsh": f"""
{FUNCTION}() {{
  local -a names
  names=("${{(@f)$(@LIBEXECDIR@/names 2> /dev/null)}}")
  (( ${{#names}} )) && compadd -a names
}}
""",
    "fish": f"""
function {FUNCTION}
    @LIBEXECDIR@/names (commandline -ct) 2> /dev/null
end
""",
}

# To bash a ':' ends a word. The words are put together for shtab, and what is there already is taken off its answer.
BASH_END = """
_enroot_slurm_whole_words() {
  if ! declare -F _get_comp_words_by_ref __ltrim_colon_completions > /dev/null; then
    _shtab_enroot_slurm "$@"
    return
  fi
  local cur words cword
  _get_comp_words_by_ref -n : cur words cword
  local COMP_WORDS=("${words[@]}") COMP_CWORD=$cword
  _shtab_enroot_slurm "$1" "$cur" "${words[cword-1]}"
  __ltrim_colon_completions "$cur"
}
complete -F _enroot_slurm_whole_words enroot-slurm
"""


def prepared(parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """*parser*, with the kinds of its values noted where shtab looks for them."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to them
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for each in action.choices.values():
                prepared(each)
        elif isinstance(action.metavar, str) and action.metavar in KINDS:
            action.complete = KINDS[action.metavar]  # type: ignore[attr-defined]
    return parser


def text(shell: str) -> str:
    """The completion for *shell*; ``@LIBEXECDIR@`` is to be replaced."""
    script = shtab.complete(prepared(make_parser()), shell=shell, root_prefix="enroot_slurm", preamble=PREAMBLES)
    return script + (BASH_END if shell == "bash" else "")


def main(directory: Path) -> None:
    """Write a file for each shell into *directory*."""
    directory.mkdir(parents=True, exist_ok=True)
    for shell in PREAMBLES:
        (directory / shell).write_text(text(shell))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
