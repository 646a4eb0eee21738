"""signedIdentity: each kind, against names as cosign and skopeo sign them."""

from __future__ import annotations

import pytest

from enroot_slurm.trust.identity import SignedIdentity
from enroot_slurm.trust.names import ImageName

D1, D2 = f"sha256:{'1' * 64}", f"sha256:{'2' * 64}"
TAG, DIGEST = "h.x/ns/app:1", f"h.x/ns/app@{D1}"


@pytest.mark.parametrize(
    ("identity", "signed", "name", "fits"),
    [
        (SignedIdentity("matchExact"), TAG, TAG, True),
        (SignedIdentity("matchExact"), "h.x/ns/app:2", TAG, False),
        (SignedIdentity("matchExact"), "h.x/ns/app", TAG, False),
        (SignedIdentity("matchExact"), TAG, DIGEST, False),
        (SignedIdentity("matchExact"), DIGEST, DIGEST, True),
        (SignedIdentity(), TAG, TAG, True),
        (SignedIdentity(), "h.x/ns/app:2", TAG, False),
        (SignedIdentity(), "h.x/ns/app", TAG, False),
        (SignedIdentity(), "h.x/ns/app:2", DIGEST, True),
        (SignedIdentity(), f"h.x/ns/app@{D2}", DIGEST, True),
        (SignedIdentity(), "h.x/ns/other:1", DIGEST, False),
        (SignedIdentity("matchRepository"), "h.x/ns/app", TAG, True),
        (SignedIdentity("matchRepository"), "h.x/ns/app:9", DIGEST, True),
        (SignedIdentity("matchRepository"), "h.x/ns/app2", TAG, False),
        (SignedIdentity("matchRepository"), "h.x.evil/ns/app", TAG, False),
        (SignedIdentity("matchRepository"), "busybox", "docker.io/library/busybox:1", True),
        (SignedIdentity("matchRepository"), "index.docker.io/library/busybox", "docker.io/library/busybox:1", True),
        (SignedIdentity("exactReference", "h.x/a:1"), "h.x/a:1", TAG, True),
        (SignedIdentity("exactReference", "h.x/a:1"), "h.x/a:2", TAG, False),
        (SignedIdentity("exactReference", "h.x/a:1"), "h.x/a", TAG, False),
        (SignedIdentity("exactRepository", "h.x/a"), "h.x/a:2", TAG, True),
        (SignedIdentity("exactRepository", "h.x/a"), TAG, TAG, False),
        (SignedIdentity("remapIdentity", prefix="h.x", signed_prefix="vendor.com"), "vendor.com/ns/app:1", TAG, True),
        (SignedIdentity("remapIdentity", prefix="h.x", signed_prefix="vendor.com"), TAG, TAG, False),
        (SignedIdentity("remapIdentity", prefix="h.x/n", signed_prefix="vendor.com"), "vendor.com/s/app:1", TAG, False),
        (SignedIdentity("remapIdentity", prefix="h.x/n", signed_prefix="vendor.com"), TAG, TAG, True),
        (SignedIdentity("remapIdentity", prefix="h.x/ns/app", signed_prefix="v.com/a"), "v.com/a:1", TAG, True),
        (SignedIdentity("matchRepository"), "", TAG, False),
        (SignedIdentity("matchRepository"), "UPPER/case", TAG, False),
        (SignedIdentity("matchRepository"), "h.x/ns/app:1:2", TAG, False),
    ],
)
def test_names_fit_as_the_manual_page_says(identity, signed, name, fits) -> None:
    """The signed name is compared in full."""
    assert (identity.mismatch(signed, ImageName.parse(name)) == "") is fits


def test_cosign_with_the_default_has_a_hint() -> None:
    """Everybody falls into it: cosign signs no tag."""
    assert "matchRepository may" in SignedIdentity().mismatch("h.x/ns/app", ImageName.parse(TAG))


@pytest.mark.parametrize("kind", ["matchExact", "matchRepository", "matchRepoDigestOrExact", "remapIdentity"])
def test_an_image_without_a_name_fits_exact_names_only(kind) -> None:
    """An archive has no name of its own."""
    assert SignedIdentity(kind).mismatch(TAG, None)
    assert not SignedIdentity("exactReference", TAG).mismatch(TAG, None)
    assert not SignedIdentity("exactRepository", "h.x/ns/app").mismatch(TAG, None)


@pytest.mark.parametrize("text", ["h.x/a:1", "docker.io/library/busybox", DIGEST, f"{TAG}@{D1}", "localhost/a:1"])
def test_names_in_full_stay_as_they_are(text) -> None:
    """What is parsed is what is written."""
    assert str(ImageName.parse(text)) == text
