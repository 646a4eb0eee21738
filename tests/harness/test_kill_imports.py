"""A short turn of the harness that kills, stops and starves imports; `kill_imports.py` by itself makes 200 runs."""

from __future__ import annotations

import tempfile
from pathlib import Path

from harness.kill_imports import SCENARIOS, is_bad, run
from support.tools import require_root, require_tools


def test_nothing_wrong_is_ever_seen_and_the_next_import_succeeds() -> None:
    """Two runs of each kind."""
    require_root("makes namespaces and small file systems")
    require_tools("mksquashfs", "strace", "unshare")
    with tempfile.TemporaryDirectory(prefix="kill.", dir="/var/tmp") as name:
        outcomes = run(2 * len(SCENARIOS), 7, Path(name))
    assert [outcome for outcome in outcomes if is_bad(outcome)] == []
    assert sum(outcome.struck for outcome in outcomes) > len(SCENARIOS) / 2
