"""docs/python.md: it lists the library, and its examples are correct."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import enroot_slurm
import enroot_slurm.slurm
from enroot_slurm import errors

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/python.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)


def test_every_public_name_is_there() -> None:
    """Each name of the package stands in an example or in the table of errors, and exists."""
    code = "\n".join(EXAMPLES) + "\n".join(line for line in TEXT.splitlines() if line.startswith("| `"))
    for module in (enroot_slurm, enroot_slurm.slurm):
        for name in module.__all__:
            assert re.search(rf"\b{name}\b", code), name
            assert getattr(module, name) is not None
        documented = set(re.findall(rf"(?m)^from {module.__name__} import (.*)$", "\n".join(EXAMPLES)))
        assert {name for line in documented for name in line.split(", ")} <= set(module.__all__)


def test_the_tree_of_errors_is_the_real_one() -> None:
    """The table has each class with what it derives from, and its exit status."""
    rows = {row[0]: row[1:] for row in re.findall(r"(?m)^\| `(\w+)` \| (.*?) \| (.*?) \|", TEXT)}
    classes = {
        name: value for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)
    }
    assert rows.keys() == classes.keys()
    for name, (bases, status) in rows.items():
        assert [base.__name__ for base in classes[name].__bases__] == re.findall(r"`(\w+)`", bases)
        assert name == "Interrupted" or int(status) == classes[name].exit_code


def test_user_code_passes_a_strict_type_checker(tmp_path) -> None:
    """The examples, as a user would write them, pass mypy --strict with the installed package."""
    for number, example in enumerate(EXAMPLES):
        (tmp_path / f"example{number}.py").write_text(example)
    (tmp_path / "mypy.ini").write_text("[mypy]\nstrict = true\n")
    command = [sys.executable, "-m", "mypy", "--config-file", "mypy.ini", "."]
    environ = {**os.environ, "MYPYPATH": str(ROOT)}
    result = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout
