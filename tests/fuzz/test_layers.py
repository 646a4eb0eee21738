"""Layers that are wrong in every way: each way to an image gives one tree, or each an error, in bounded work.

``ENROOT_SLURM_FUZZ_SECONDS=3600 python -m pytest tests/fuzz`` goes on for that long; docs/reliability.md says more.
"""

from __future__ import annotations

import itertools
import os
import time

import pytest
from fuzz.odd_layers import STACKS, counted, layered, merged, random_stack
from hypothesis import HealthCheck, given, settings
from support.tools import require_root, require_tools

SECONDS = float(os.environ.get("ENROOT_SLURM_FUZZ_SECONDS", "0"))
pytestmark = pytest.mark.timeout(300 + 2 * SECONDS)
START = int(os.environ.get("ENROOT_SLURM_FUZZ_SEED", "0"))


def fuzz(check, examples):
    """Let *check* have *examples* stacks; then others, from seeds, for half of the seconds that were asked for."""

    @settings(max_examples=examples, deadline=None, database=None, derandomize=True, suppress_health_check=HealthCheck)
    @given(STACKS)
    def run(tars):
        check(tars)

    run()
    end = time.monotonic() + SECONDS / 2
    for seed in itertools.count(START):
        if seed >= START + examples and time.monotonic() > end:
            break
        try:
            check(random_stack(seed))
        except BaseException:
            print(f"ENROOT_SLURM_FUZZ_SEED={seed} shows it")
            raise
    print(f"{check.__name__}: {examples} inputs of hypothesis, {seed - START} of seeds from {START} on")


def test_streamed_and_planned_merges_agree(pytestconfig):
    """Whether a merge plans from the start or where it has to: one tree, or an error, and work linear in the input."""

    def merges(tars):
        streamed = None

        def run():
            nonlocal streamed
            streamed = merged(tars, planned=False)

        size = sum(map(len, tars))
        assert counted(run) < 5000 + 2 * size
        assert merged(tars, planned=True) == streamed

    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        fuzz(merges, 600)


def test_layer_images_agree_with_merges(pytestconfig):
    """The image of joined layers, as unsquashfs reads it, has the tree of the merge; or both are errors."""
    require_root("unsquashfs makes devices")
    require_tools("unsquashfs")

    def images(tars):
        streamed = merged(tars, planned=False)
        joined = layered(tars)
        assert joined == streamed

    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        fuzz(images, 60)
