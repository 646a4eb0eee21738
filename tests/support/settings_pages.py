"""What etc/config.yaml and docs/configuration.md say of each setting, made of the schema: run this to write it there.

    python tests/support/settings_pages.py

Only the comment above each key of the sample, and the fourth column of the table, are made: the rest stays as it is.
"""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from enroot_slurm.settings.meanings import MEANINGS, plain

__all__ = ["SAMPLE", "TABLE", "sample", "table"]

ROOT = Path(__file__).parents[2]
SAMPLE, TABLE = ROOT / "etc/config.yaml", ROOT / "docs/configuration.md"
_WIDTH = 118
_ROW = re.compile(r"(?m)^(\| `(\w+)` \| `\w+` \| .*?) \| .* \| (.*?) ?\|$")
_KEY = re.compile(r"(?m)(?:^# .*\n)*^#(\w+):")


def sample(text: str) -> str:
    """The sample *text* with the comments that the meanings make."""

    def comment(match: re.Match[str]) -> str:
        lines = textwrap.wrap(f"{plain(MEANINGS[match[1]])}.", _WIDTH, break_long_words=False, break_on_hyphens=False)
        return "".join(f"# {line}\n" for line in lines) + f"#{match[1]}:"

    head, _, rest = text.partition("\n# -- ")
    return head + "\n# -- " + _KEY.sub(comment, rest)


def table(text: str) -> str:
    """The page *text* with the table's column that the meanings make."""
    return _ROW.sub(lambda match: f"{match[1]} | {MEANINGS[match[2]]} | {match[3]} |", text)


if __name__ == "__main__":
    SAMPLE.write_text(sample(SAMPLE.read_text()))
    TABLE.write_text(table(TABLE.read_text()))
