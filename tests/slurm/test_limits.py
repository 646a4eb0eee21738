"""What a worker may take, and the probe that says who is to blame."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from enroot_slurm import Config
from enroot_slurm.importing.probe import converts

if TYPE_CHECKING:
    from pathlib import Path

WORKER = """
import json, sys
from enroot_slurm import Config
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.slurm import limits

limits._SECONDS, limits._PACE = 1, 1 << 60
config = Config.load(environ={"HOME": "/"}, site_file=None, enroot_conf=None, overrides={"max_processors": 2})
limit = limits.Limits(config)
try:
    if sys.argv[1] == "memory":
        bytearray(1 << 40)
    while sys.argv[1] == "time":
        sum(range(10_000))
except Exception as error:
    told = limit.explain(error) or error
    limit.renew()
    print(json.dumps([type(told).__name__, str(told)]))
"""


@pytest.mark.parametrize(("what", "said"), [("memory", "more memory"), ("time", "more of the processor's time")])
def test_an_image_that_takes_too_much(what: str, said: str) -> None:
    """It is an error that says which limit was hit, and the image's fault; the worker goes on."""
    done = subprocess.run([sys.executable, "-c", WORKER, what], check=True, capture_output=True, text=True)
    kind, text = json.loads(done.stdout)
    assert kind == "UnsupportedImage"
    assert said in text


def test_explanations() -> None:
    """What the kernel or the interpreter refuses for lack of memory is one; nothing else is."""
    code = WORKER.replace("try:", "print(json.dumps([bool(limit.explain(e)) for e in ERRORS]))\ntry:").replace(
        "ERRORS",
        f"[MemoryError(), OSError({errno.ENOMEM}, 'x'), RuntimeError(\"can't start new thread\"), OSError(28, 'x'), "
        "ValueError()]",
    )
    done = subprocess.run([sys.executable, "-c", code, ""], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == [True, True, True, False, False]


def test_the_probe(tmp_path: Path) -> None:
    """It is an image, by either way of converting, and leaves nothing; a node that can't make it is told."""
    for layer_cache in ("yes", "no"):
        for options in ("-comp lzo -noD", "-comp zstd", "-comp gzip"):
            assert converts(load(tmp_path, layer_cache=layer_cache, squash_options=options))
    assert not converts(load(tmp_path, gzip_program="/nonexistent/gzip", layer_cache="no"))
    assert os.listdir(tmp_path) == []
    assert converts(load(tmp_path / "nowhere"))


def load(path: Path, **overrides: object) -> Config:
    return Config.load(
        environ={"HOME": "/nonexistent"},
        site_file=None,
        enroot_conf=None,
        overrides={"temp_path": path, "cache_path": "/nonexistent/cache", **overrides},
    )
