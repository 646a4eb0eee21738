"""Layers that are wrong in every way: each way to an image gives one tree, or each an error, in bounded work.

``ENROOT_SLURM_FUZZ_SECONDS=3600 python -m pytest tests/fuzz`` goes on for that long; docs/reliability.md says more.
"""

from __future__ import annotations

import itertools
import os
import time

from fuzz.odd_layers import STACKS, counted, layered, merged
from hypothesis import HealthCheck, given, seed, settings
from support.tools import require_root, require_tools

SECONDS = float(os.environ.get("ENROOT_SLURM_FUZZ_SECONDS", "0"))
ROUND = 500


def fuzz(check, examples):
    """Let *check* have *examples* stacks, or as many as fit into the seconds that were asked for; how many it had."""
    inputs = 0
    start = time.monotonic()
    for number in itertools.count():

        @seed(number if SECONDS else 0)
        @settings(
            max_examples=ROUND if SECONDS else examples, deadline=None, database=None, suppress_health_check=HealthCheck
        )
        @given(STACKS)
        def run(tars):
            nonlocal inputs
            inputs += 1
            check(tars)

        run()
        if time.monotonic() - start >= SECONDS / 2:  # there are two tests
            break
    print(f"{check.__name__}: {inputs} inputs")


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
        fuzz(merges, 1500)


def test_layer_images_agree_with_merges(pytestconfig):
    """The image of joined layers, as unsquashfs reads it, has the tree of the merge; or both are errors."""
    require_root("unsquashfs makes devices")
    require_tools("unsquashfs")

    def images(tars):
        streamed = merged(tars, planned=False)
        joined = layered(tars)
        assert joined == streamed

    with pytestconfig.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        fuzz(images, 150)
