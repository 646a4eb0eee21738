"""WWW-Authenticate in all the ways in which registries write it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.registry.auth import Challenge, parse_challenges
from enroot_slurm.registry.origin import Origin, RefusedTarget
from enroot_slurm.registry.reach import Reach

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "challenges.json"
ROWS = json.loads(VECTORS.read_text())["rows"] if VECTORS.is_file() else []


@pytest.mark.skipif(not ROWS, reason="../shared/vectors/challenges.json is not here")
@pytest.mark.parametrize("row", ROWS, ids=lambda r: r["id"])
def test_recorded(row):
    """What other clients' tests demand; rows of ours without an expectation are judged by the realm's rules."""
    found = parse_challenges(row["header"])
    if "retry_with_new_scope" in row:
        # Others ask for what the registry names then; here the own scope is all that is ever asked for.
        assert found[0].params["error"] == "insufficient_scope"
    elif "expect_from" in row:
        assert "bearer" in [c.scheme for c in found]
        realm = next(c for c in found if c.scheme == "bearer").params["realm"]
        if realm == "https://auth.example.com/token":
            assert Reach(Origin.of("https://registry.example.com")).realm(realm).host == "auth.example.com"
        else:
            with pytest.raises(RefusedTarget):
                Reach(Origin.of("https://registry.example.com")).realm(realm)
    else:
        assert [c.scheme for c in found] == [e["scheme"] for e in row["expect"]]
        for challenge, expected in zip(found, row["expect"], strict=True):
            # The realm of Basic is for people; some libraries leave it out.
            informative = {} if challenge.scheme == "bearer" else {"realm": challenge.params.get("realm")}
            assert challenge.params == informative | expected["params"]


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        (["Negotiate", 'Basic realm="x"'], [("negotiate", {}), ("basic", {"realm": "x"})]),
        (["Negotiate, NTLM, Basic realm=x"], [("negotiate", {}), ("ntlm", {}), ("basic", {"realm": "x"})]),
        (['BEARER REALM="https://a/t",SeRvIcE=s'], [("bearer", {"realm": "https://a/t", "service": "s"})]),
        ([r'Bearer realm="a\"b, Basic c=d"'], [("bearer", {"realm": 'a"b, Basic c=d'})]),
        (["Bearer realm=https://a/t?x=1,service=s"], [("bearer", {"realm": "https://a/t?x=1", "service": "s"})]),
        (["Bearer realm=a,realm=b"], [("bearer", {"realm": "a"})]),
        (["=,=;"], []),
    ],
)
def test_forms(headers, expected):
    """Several headers or one, any case and order, quoted or not."""
    assert [tuple(c) for c in parse_challenges(headers)] == expected


@given(st.lists(st.text()))
def test_never_fails(headers):
    """No header is an error."""
    assert all(isinstance(c, Challenge) for c in parse_challenges(headers))
