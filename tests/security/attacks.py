"""All attacks of docs/security.md: run them with ``python tests/security/attacks.py``.

The tests stand in the folders of the parts that they attack.  Further arguments are pytest's.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

__all__ = ["attacks"]

ROOT = Path(__file__).parents[2]


def attacks() -> list[str]:
    """The tests that the page's tables name, as ``FILE::TEST``, each once."""
    return list(dict.fromkeys(re.findall(r"`(tests/[\w/]+\.py::\w+)`", (ROOT / "docs/security.md").read_text())))


if __name__ == "__main__":
    raise SystemExit(pytest.main([*sys.argv[1:], *(str(ROOT / test) for test in attacks())]))
