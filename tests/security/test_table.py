"""docs/security.md: the tests that it names exist, and its rows are whole."""

from __future__ import annotations

import ast
import re

from security.attacks import ROOT, attacks


def test_named_tests_exist() -> None:
    """Each ``FILE::TEST`` in the tables is a function of that file."""
    for each in attacks():
        file, _, test = each.partition("::")
        functions = {
            node.name for node in ast.parse((ROOT / file).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert test in functions, each


def test_each_attack_has_a_test() -> None:
    """Each row below the heading has an attack, its outcome, and a test."""
    _, _, tables = (ROOT / "docs/security.md").read_text().partition("\n## Attacks and tests\n")
    rows = [
        line for line in tables.splitlines() if line.startswith("| ") and not line.startswith(("| Attack", "| ---"))
    ]
    assert len(rows) > 50
    for row in rows:
        assert re.fullmatch(r"\| [^|]+ \| [^|]+ \| `tests/[\w/]+\.py::\w+` \|", row), row
