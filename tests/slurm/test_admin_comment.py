"""Which node of a job writes, and as whom."""

from __future__ import annotations

import os

import pytest

from enroot_slurm.slurm.admin_comment import _digests, _is_first, _slurm_user
from enroot_slurm.slurm.job_record import Writer


@pytest.mark.parametrize(
    ("node", "nodes", "expected"),
    [
        ("n1", "n1", True),
        ("n1", "n[1-3]", True),
        ("n2", "n[1-3]", False),
        ("n01", "n[01,07]", True),
        ("n07", "n[01,07]", False),
        ("a", "a,b[1-3]", True),
        ("b1", "a,b[1-3]", False),
        ("login", "", True),
        ("r1c2", "r[1-2]c[1-2]", True),  # a list of two dimensions is not understood: all write the same
    ],
)
def test_first_node(node, nodes, expected) -> None:
    """One node of a list, in Slurm's form (hostlists); where it is not known, each of them."""
    assert _is_first(node, nodes) is expected


@pytest.mark.parametrize(
    ("text", "user"),
    [("SlurmUser=slurm\n", "slurm"), ("ClusterName=x\n", "root"), ("#SlurmUser=a\n slurmuser = b # x\n", "b")],
)
def test_slurm_user(tmp_path, text, user) -> None:
    """As slurm.conf(5) has it: keys in any case, root by default."""
    file = tmp_path / "slurm.conf"
    file.write_text(text)
    assert _slurm_user(str(file)) == user


def test_digests_of_a_forged_record(tmp_path) -> None:
    """Lines of another form are left out, and so is what is no digest."""
    good = "sha256:" + "a" * 64
    lines = [
        f'{{"uri": "docker://a", "path": "/a", "digest": "{good}"}}',
        f'{{"uri": "docker://b", "path": "/b", "digest": "{good}"}}',
        '{"uri": "docker://c", "path": "/c", "digest": "sha256:x admincomment=y"}',
        '{"uri": "docker://d", "path": "/d", "digest": 7}',
        "[]",
        "{" * 5000,
    ]
    file = tmp_path / "record"
    file.write_text("\n".join(lines) + "\n")
    descriptor = os.open(file, os.O_RDONLY)
    assert _digests(Writer(descriptor)) == [good]
    os.close(descriptor)
