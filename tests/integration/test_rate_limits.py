"""One budget for all processes of a cache: a registry that says once that it is asked too often is left alone."""

from __future__ import annotations

import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = Image([Layer().file("f", b"1")], "oci")
PROCESSES = 200
# The modules are loaded once, and the processes come within 17 seconds: on many nodes they would not compete for two
# processors, which keeps the first one from telling the others.
FORK = """
import os, sys, time
from enroot_slurm import resolve_digest
import enroot_slurm.importing.resolution, enroot_slurm.registry.causes
children = []
for number in range(int(sys.argv[2])):
    child = os.fork()
    if not child:
        try:
            time.sleep(number / 12)
            resolve_digest(sys.argv[1])
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    children.append(child)
print(sum(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0 for child in children))
"""


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        yield running


def test_many_processes(registry, import_environment) -> None:
    """Hardly anybody asks before the time is over, and then all have their answer."""
    uri, times, seconds = serve(registry, IMAGE), [], 22
    note = lambda _: times.append(time.monotonic())  # noqa: E731 - for two faults
    slow_down = {"status": 429, "body": b"", "headers": {"Retry-After": str(seconds)}, "call": note}
    registry.fault("/manifests/", method="HEAD", times=1, **slow_down)
    for method in ("HEAD", "GET"):
        registry.fault("/manifests/", method=method, call=note)
    command = [sys.executable, "-c", FORK, uri, str(PROCESSES)]
    result = subprocess.run(command, env=import_environment, capture_output=True, text=True, check=False)
    assert result.stdout.strip() == str(PROCESSES), result.stderr[-2000:]
    early = [at for at in times[1:] if at < times[0] + seconds]
    assert len(early) < 10
    assert len(times) > PROCESSES


def test_a_pull_limit(registry, import_environment) -> None:
    """What lasts for hours is an error at once for all, and the registry is asked once; a new login is another one."""
    uri = serve(registry, IMAGE)
    words = (
        b'{"errors":[{"code":"TOOMANYREQUESTS","message":"You have reached your unauthenticated pull rate limit."}]}'
    )
    registry.fault("/manifests/", status=429, body=words, headers={"Retry-After": "7200"})
    environment = {**import_environment, "ENROOT_SLURM_FAILURE_TTL": "0"}
    for number in range(3):
        result = enroot_slurm("digest", uri, environment=environment)
        assert result.returncode == 5
        assert "the pull limit is used up" in result.stderr
        assert ("it is not asked before" in result.stderr) is (number > 0)
    assert registry.count("/manifests/") == 1
    config = import_environment["ENROOT_CONFIG_PATH"]
    subprocess.run(["mkdir", "-p", config], check=True)
    subprocess.run(["sh", "-c", f"umask 77; echo machine x login a password b > {config}/.credentials"], check=True)
    enroot_slurm("digest", uri, environment=environment)
    assert registry.count("/manifests/") == 2


def test_what_is_left_is_shown(registry, import_environment) -> None:
    """``login --check`` shows what the registry has said last."""
    uri = serve(registry, IMAGE)
    headers = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "76;w=21600"}
    registry.fault("/manifests/", headers=headers)
    assert enroot_slurm("digest", uri, environment=import_environment).returncode == 0
    result = enroot_slurm("login", "--check", registry.host, environment=import_environment)
    assert "76 of 100 pulls in 6 h left, 0 min ago" in result.stdout
