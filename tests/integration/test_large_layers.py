"""Layers that are fetched by parts, by the command: requests, what a kill leaves, and damage."""

from __future__ import annotations

import signal
import threading
import time
from pathlib import Path

import pytest
from support.command import Running, enroot_slurm, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.tools import require_tools

MEBIBYTE = 1 << 20
PARTS = 17


@pytest.fixture(scope="module")
def image() -> Image:
    require_tools("mksquashfs")
    return Image([Layer().file("f", noise(66 * MEBIBYTE))], compression="none")


def first_part_slow(registry: FaultRegistry, blob: str) -> threading.Thread:
    """Let the first part come slower than a layer is decoded: then more streams are of use."""
    release = threading.Event()
    registry.fault(blob, 1, stall=release, after=MEBIBYTE)

    def go_on() -> None:
        wait_for(lambda: registry.count(blob))
        time.sleep(0.2)
        release.set()

    thread = threading.Thread(target=go_on)
    thread.start()
    return thread


def test_a_large_layer_comes_in_parts(image, import_environment, tmp_path) -> None:
    """Each part is asked for once; with 0 streams, there is one request; and the images are the same."""
    with FaultRegistry() as registry:
        uri, blob = serve(registry, image), image.blobs()[0].digest
        going = first_part_slow(registry, blob)
        result = enroot_slurm("import", "-o", tmp_path / "parts", uri, environment=import_environment)
        going.join()
        assert result.returncode == 0, result.stderr
        assert registry.count(blob) == registry.count(blob, status=206) == PARTS
        environment = {
            **import_environment,
            "ENROOT_SLURM_PARALLEL_RANGES": "0",
            "ENROOT_CACHE_PATH": str(tmp_path / "other"),
        }
        result = enroot_slurm("import", "-o", tmp_path / "whole", uri, environment=environment)
        assert result.returncode == 0, result.stderr
        assert registry.count(blob) == PARTS + 1
    assert (tmp_path / "parts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_a_kill_leaves_nothing_to_be_mistaken(image, import_environment, tmp_path) -> None:
    """After a SIGKILL while parts come, nothing has the blob's name, and the next import has all of it right."""
    cache = Path(import_environment["ENROOT_CACHE_PATH"])
    release = threading.Event()
    with FaultRegistry() as registry:
        uri, blob = serve(registry, image), image.blobs()[0].digest
        going = first_part_slow(registry, blob)
        registry.fault(blob, 1)
        registry.fault(blob, stall=release, after=MEBIBYTE)
        with Running("get", uri, environment=import_environment, log=tmp_path / "log") as running:
            wait_for(lambda: registry.count(blob) >= 5)
            running.process.send_signal(signal.SIGKILL)
            running.process.wait(30)
        release.set()
        going.join()
        assert not (cache / "blobs" / "sha256" / blob.removeprefix("sha256:")).exists()
        registry.heal()
        result = enroot_slurm("get", uri, environment=import_environment)
        assert result.returncode == 0, result.stderr
        assert Path(result.stdout.strip()).is_file()
        result = enroot_slurm("cache", "verify", environment=import_environment)
        assert result.returncode == 0, result.stderr


def test_a_flipped_byte_in_a_part_is_found(image, import_environment, tmp_path) -> None:
    """One wrong byte in one part fails the import, and nothing is kept of the blob."""
    cache = Path(import_environment["ENROOT_CACHE_PATH"])
    with FaultRegistry() as registry:
        uri, blob = serve(registry, image), image.blobs()[0].digest
        going = first_part_slow(registry, blob)
        registry.fault(blob, 3)
        registry.fault(blob, 1, flip=5)
        result = enroot_slurm("import", "-o", tmp_path / "x", uri, environment=import_environment)
        going.join()
    assert result.returncode == 6, result.stderr
    assert "has another content in the registry" in result.stderr
    assert list(cache.glob(f"blobs/sha256/{blob.removeprefix('sha256:')}")) == []
    assert not (tmp_path / "x").exists()
