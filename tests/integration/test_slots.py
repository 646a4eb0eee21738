"""How many imports a node does at once: others wait, and nobody waits for ever."""

from __future__ import annotations

import signal
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from support.command import Running, enroot_slurm, serve, wait_for
from support.corner_cases import noise
from support.fault_registry import FaultRegistry
from support.images import Image, Layer, pack
from support.tools import require_tools

from enroot_slurm import Config, get_image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.images import Blob

SIZE = 300_000


@pytest.fixture(autouse=True)
def tools() -> None:
    require_tools("mksquashfs")


class Node(NamedTuple):
    """A registry with images whose downloads stall, and imports of them on this node."""

    registry: FaultRegistry
    environment: dict[str, str]
    directory: Path
    stack: ExitStack
    release: threading.Event

    @property
    def cache(self) -> Path:
        return Path(self.environment["ENROOT_CACHE_PATH"])

    def layer(self, seed: int) -> Blob:
        return pack(Layer().file(f"f{seed}", noise(SIZE, seed)), "gzip")

    def serve(self, *seeds: int, stall: bool = True) -> str:
        blobs = [self.layer(seed) for seed in seeds]
        if stall:
            self.registry.fault(blobs[-1].digest, stall=self.release, after=SIZE // 2)
        return serve(self.registry, Image(blobs), tag="t" + "-".join(map(str, seeds)))

    def start(self, uri: str, limit: int, **variables: str) -> Running:
        environment = {**self.environment, "ENROOT_SLURM_MAX_IMPORTS": str(limit), **variables}
        log = self.directory / f"log{len(list(self.directory.glob('log*')))}"
        return self.stack.enter_context(Running("get", uri, environment=environment, log=log))

    def start_stalled(self, seed: int, limit: int) -> Running:
        running = self.start(self.serve(seed), limit)
        wait_for(lambda: self.registry.count(self.layer(seed).digest))
        return running

    def begun(self, seed: int) -> int:
        return self.registry.count(self.layer(seed).digest)


@pytest.fixture
def node(import_environment: dict[str, str], tmp_path: Path) -> Iterator[Node]:
    release = threading.Event()
    with FaultRegistry() as registry, ExitStack() as stack:
        stack.callback(release.set)
        yield Node(registry, import_environment, tmp_path, stack, release)


@pytest.mark.parametrize("limit", [1, 2])
def test_others_wait(node, limit) -> None:
    """So many import, the next one waits and says why and for whom, and fetches nothing; then it has its turn."""
    first = [node.start_stalled(seed, limit) for seed in range(limit)]
    last = node.start(node.serve(9), limit)
    last.wait_until_says("waiting for other imports of this node (max_imports)")
    wait_for(lambda: any(f"pid {each.pid}): importing" in last.said for each in first))
    assert node.begun(9) == 0
    environment = {**node.environment, "ENROOT_SLURM_SHARED_CACHE": str(node.cache)}
    gauges = {
        f"enroot_slurm_imports_running {limit}",
        "enroot_slurm_imports_waiting 1",
    }  # each tells of itself after 1 s
    wait_for(lambda: gauges <= set(enroot_slurm("metrics", "--site", environment=environment).stdout.splitlines()))
    node.release.set()
    assert [each.wait() for each in (*first, last)] == [0] * (limit + 1)
    assert node.begun(9) == 1
    assert "importing" in last.said.partition("max_imports")[2].partition("joining")[0]
    assert len(list(node.cache.glob("locks/slot-*.lock"))) == limit
    assert list(node.cache.glob("locks/*.holder")) == []


def test_no_limit(node) -> None:
    """With 0, all work at once."""
    running = [node.start_stalled(seed, 0) for seed in range(4)]
    node.release.set()
    assert [each.wait() for each in running] == [0] * 4
    assert list(node.cache.glob("locks/slot-*")) == []


def test_who_needs_no_turn(node) -> None:
    """An image that is there is had at once; who waits for another's import of the same image takes nobody's turn."""
    cached = node.serve(5, stall=False)
    assert enroot_slurm("get", cached, environment=node.environment).returncode == 0
    first = node.start_stalled(1, 2)
    same = [node.start(node.serve(1), 2) for _ in range(3)]
    for each in same:
        each.wait_until_says("waiting for ")
    environment = {**node.environment, "ENROOT_SLURM_MAX_IMPORTS": "2"}
    other = node.serve(6, stall=False)
    assert enroot_slurm("get", other, environment=environment).returncode == 0
    environment["ENROOT_SLURM_MAX_IMPORTS"] = "1"
    assert enroot_slurm("get", cached, environment=environment).returncode == 0
    node.release.set()
    assert [each.wait() for each in (first, *same)] == [0] * 4
    assert node.begun(1) == 1
    assert not any("max_imports" in each.said for each in same)


def test_layers_in_a_stack_need_no_turn(node) -> None:
    """Layers that have one image together, because of a link, are joined with enroot's files at once."""
    layers = [Layer().file("f"), Layer().hardlink("link", "f")]
    assert enroot_slurm("get", serve(node.registry, Image(layers)), environment=node.environment).returncode == 0
    first = node.start_stalled(1, 1)
    other = serve(node.registry, Image(layers, config={"Env": ["A=b"]}), tag="other")
    environment = {**node.environment, "ENROOT_SLURM_MAX_IMPORTS": "1"}
    assert enroot_slurm("get", other, environment=environment).returncode == 0
    node.release.set()
    assert first.wait() == 0


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP, "late"])
def test_a_turn_that_is_given_up(node, how) -> None:
    """The turn of who dies is free at once; who is stopped, or takes too long, is passed over."""
    first = node.start_stalled(1, 1)
    variables = {"ENROOT_SLURM_LOCK_TIMEOUT": "1"} if how == "late" else {}
    if how == signal.SIGSTOP:
        variables = {"ENROOT_SLURM_WORKER_TIMEOUT": "1"}
    second = node.start(node.serve(2, stall=False), 1, **variables)
    second.wait_until_says("max_imports")
    if how != "late":
        first.process.send_signal(how)
    assert second.wait() == 0, second.said
    assert first.process.poll() in {None, -signal.SIGKILL}


@pytest.mark.parametrize("what", ["image", "layers"])
def test_who_serves_a_good_image_slowly_holds_nobody_up(node, what, monkeypatch) -> None:
    """Another registry stalls with the image, or its layers, under their locks: a fast one is asked all the same."""
    slow = node.start_stalled(1, 2)
    wait_for(lambda: list(node.cache.glob("locks/blob-*.holder")))
    monkeypatch.setattr("enroot_slurm.cache.turns._WINDOW", 1.0)
    with FaultRegistry() as fast:
        top = [] if what == "image" else [node.layer(2)]
        uri = serve(fast, Image([node.layer(1), *top]))
        config = Config.load(environ=node.environment, site_file=None, user_file=None, enroot_conf=None)
        assert get_image(uri, config=config).path.exists()
        assert fast.count(node.layer(1).digest) == 1
    node.release.set()
    assert slow.wait() == 0, slow.said


def test_images_with_layers_in_common(node) -> None:
    """Many imports that share layers, with few turns: nobody waits for a layer of somebody who waits for a turn."""
    uris = [node.serve(0, 1, n, stall=False) for n in range(2, 8)]
    running = [node.start(uri, 2) for uri in (*uris, *reversed(uris))]
    assert [each.wait() for each in running] == [0] * 12, [each.said for each in running]
    assert [node.begun(seed) for seed in range(8)] == [1] * 8
