"""What packages are made of, collected once."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

import enroot_slurm

CHECKOUT = Path(enroot_slurm.__file__).parents[1]


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What ``packaging/collect.py`` lays out, with manual pages and completion."""
    made = tmp_path_factory.mktemp("packages") / "tree"
    done = subprocess.run(
        ["sh", "packaging/build.sh", str(made)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return made
