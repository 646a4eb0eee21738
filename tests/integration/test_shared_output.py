"""An image that is written to a directory that others can write, while they put their links in its way."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest
from support.command import Running, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack
from support.tools import require_root, require_tools
from support.tree import read_tree

if TYPE_CHECKING:
    from collections.abc import Callable

STRANGER = 54321
MEGABYTE = 1_000_000


def as_stranger(act: Callable[[], object]) -> None:
    """Let a process of another user *act*."""
    pid = os.fork()
    if not pid:
        status = 1
        try:
            os.setgroups([])
            os.setgid(STRANGER)
            os.setuid(STRANGER)
            act()
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.parametrize("force", [False, True], ids=["new", "force"])
@pytest.mark.parametrize("layers", ["no", "yes"], ids=["streamed", "joined"])
def test_a_link_in_place_of_the_temporary_file(import_environment, tmp_path, layers, force) -> None:
    """The first pass has begun, the second one is still to come: it writes to the same file, wherever its name went."""
    require_root("two users")
    require_tools("unsquashfs")
    precious = tmp_path / "precious"
    precious.write_text("precious")
    shared = tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o777)
    for parent in shared.parents[:-2]:  # all below /tmp
        parent.chmod(0o755)
    output = shared / "image.sqsh"

    def plant() -> None:
        [temporary] = shared.iterdir()
        temporary.rename(shared / "stolen")
        temporary.symlink_to(precious)

    layer = Layer().file("twice", b"first").file("big", noise(3 * MEGABYTE)).file("twice", b"second")
    release = threading.Event()
    environment = {**import_environment, "ENROOT_SLURM_LAYER_CACHE": layers}
    with FaultRegistry() as registry:
        image = Image([pack(layer, "gzip")])
        uri = serve(registry, image)
        registry.fault(image.blobs()[0].digest, stall=release, after=MEGABYTE)
        arguments = ["import", *(["--force"] if force else []), "-o", output, uri]
        with Running(*arguments, environment=environment, log=tmp_path / "log") as running:
            wait_for(lambda: list(shared.iterdir()))
            as_stranger(plant)
            release.set()
            status = running.wait()
    assert precious.read_text() == "precious"
    if force:  # only a name can replace a name, and that one is the stranger's
        assert status == 7, running.said
        assert "something else in its place" in running.said
        assert not os.path.lexists(output)
    else:
        assert status == 0, running.said
        assert not output.is_symlink()
        assert read_tree(output)[b"twice"].size == len("second")
