"""The examples run."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from support.images import Image, Layer

EXAMPLES = Path(__file__).resolve().parents[2] / "examples"


def test_import_many(push, import_environment, tmp_path):
    """The library's example imports each image once, and says what went wrong with others."""
    uri = push(Image([Layer().file("hello", b"world")]))
    environ = {**os.environ, **import_environment}
    command = [sys.executable, EXAMPLES / "import_many.py", tmp_path / "images", uri, f"{uri.rpartition(':')[0]}:gone"]
    for text in ("MiB", "is there"):
        run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert text in run.stdout
        assert "has no tag gone" in run.stderr
        assert run.returncode == 3
    assert len(list((tmp_path / "images").iterdir())) == 1


def test_import_many_with_a_login(make_registry, import_environment, tmp_path):
    """``USER@`` stays a login, and a digest that was written stays the only one."""
    registry = make_registry(users={"ann": "secret"})
    pushed = registry.push("app", "1", Image([Layer().file("hello", b"world")]))
    file = Path(import_environment["ENROOT_CONFIG_PATH"], ".credentials")
    file.parent.mkdir(parents=True)
    file.write_text(f"machine {registry.host} login ann password secret\n")
    file.chmod(0o600)
    uris = [f"docker://ann@{registry.host}/app:1", f"docker://ann@{registry.host}#app@{pushed.digest}"]
    command = [sys.executable, EXAMPLES / "import_many.py", tmp_path / "images", *uris]
    environ = {**os.environ, **import_environment}
    run = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert "MiB" in run.stdout
    assert "is there" in run.stdout


def test_the_batch_script(push, import_environment, tmp_path):
    """The batch script imports an image, and is done when the file is there; outside of Slurm, too."""
    uri = push(Image([Layer().file("hello", b"world")]))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environ = {**os.environ, **import_environment, "PATH": path}
    file = tmp_path / "image.sqsh"
    for _ in range(2):
        subprocess.run(["sh", EXAMPLES / "import.sbatch", uri, file], env=environ, check=True)
    assert file.stat().st_size > 0
