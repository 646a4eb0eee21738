"""Image references: enroot's grammar, and errors that help."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.errors import InvalidReference
from enroot_slurm.oci.reference import DOCKER_HUB, Reference

HEX = "ab" * 32


def test_recorded_references(vectors):
    """All references that enroot's own parser was recorded with are read, or refused, alike."""
    for row in json.loads((vectors / "uris.json").read_text())["rows"]:
        try:
            found = Reference.parse(row["uri"])
            result = {
                "user": found.user,
                "registry": found.registry,
                "image": found.repository,
                "tag": found.target,
            }
        except InvalidReference:
            result = "reject"
        assert result == row["expect"], row["uri"]


@pytest.mark.parametrize(
    ("uri", "message", "hint"),
    [
        ("nvcr.io#nvidia/cuda", "does not start with docker://", "docker://nvcr.io#nvidia/cuda"),
        ("dockerd://image", "local daemon", "Push the image"),
        ("docker://user:secret@reg.io#img", "must not hold a password", ".credentials"),
        ("docker://reg.io#", "the image is missing", "#SBATCH"),
        ("docker://reg.io\\#img", "backslash", "REGISTRY/IMAGE"),
        ("docker://reg.io/Img", "lower case", "img"),
        ("docker://img:t:u", "not a tag", "128"),
        ("docker://img@sha256:12", "not a digest", "64"),
        ("docker://reg.io:99999/img", "not a port", "65535"),
        ("docker://#img", "registry is missing", "docker://REGISTRY#IMAGE"),
        ("docker://" + "a" * 3000, "3009 characters long", ""),
        ("docker://reg.io/a\x1b[31m", "not a repository", ""),
        ("docker://$(touch x)", "not a repository", ""),
        ("docker://-o/x", "not a repository", ""),
    ],
)
def test_errors_show_the_place_and_the_way_out(uri, message, hint):
    """An error names the wrong part, marks it, and says what would be right; no control character gets through."""
    with pytest.raises(InvalidReference, match=message) as caught:
        Reference.parse(uri)
    assert hint in caught.value.hint
    assert all(c.isprintable() or c == "\n" for c in str(caught.value))
    if len(uri) < 300:
        shown, marker = str(caught.value).splitlines()[1:3]
        assert set(marker.strip()) == {"^"}
        assert len(marker) <= len(shown) + 1


def test_a_marker_is_under_the_wrong_part():
    """The marker stands exactly below the part that is wrong."""
    with pytest.raises(InvalidReference) as caught:
        Reference.parse("docker://reg.io/img:bad!tag")
    shown, marker = str(caught.value).splitlines()[1:3]
    assert shown[marker.index("^") :] == ":bad!tag"


def test_file_names_are_enroots():
    """The default output is the image with + for /, the tag and .sqsh, without Docker Hub's library."""
    names = {
        "docker://ubuntu": "ubuntu+latest.sqsh",
        "docker://nvcr.io#nvidia/pytorch:25.06-py3": "nvidia+pytorch+25.06-py3.sqsh",
        "docker://reg.io/library/x:1": "library+x+1.sqsh",
        f"docker://a/b@sha256:{HEX}": f"a+b+sha256:{HEX}.sqsh",
    }
    assert names == {uri: Reference.parse(uri).default_filename for uri in names}


def test_lost_images_are_suspected():
    """What is left of REGISTRY#IMAGE behind sbatch's comment sign is recognised as such."""
    for text in ("nvcr.io", "127.0.0.1:5000", "localhost", "localhost:5000"):
        reference = Reference.parse(f"docker://{text}")
        assert reference.looks_cut
        with pytest.raises(InvalidReference, match="a registry without an image") as caught:
            reference.checked()
        assert f"  {text}\n" in str(caught.value)
        assert "#SBATCH" in caught.value.hint
    assert Reference.parse("docker://postgres:16").looks_cut
    assert Reference.parse("docker://postgres:16").checked().tag == "16"
    assert not Reference.parse("docker://ubuntu:jammy").looks_cut
    assert not Reference.parse("docker://reg.io/a.b").looks_cut


part = st.from_regex(r"[a-z0-9]+((\.|__?|-+)[a-z0-9]+)?", fullmatch=True)


@given(
    st.sampled_from([DOCKER_HUB, "nvcr.io", "reg:5000", "[::1]:5000", "localhost", "a-b.example.com:443"]),
    st.lists(part, min_size=1, max_size=4).map("/".join),
    st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,20}", fullmatch=True),
    st.sampled_from(["", "$oauthtoken", "me", "a.b+c"]),
    st.booleans(),
)
def test_texts_are_read_back(registry, repository, tag, user, pinned):
    """The text of a reference is a reference, and the same."""
    uri = f"docker://{user}{'@' if user else ''}{registry}#{repository}:{tag}{f'@sha256:{HEX}' if pinned else ''}"
    reference = Reference.parse(uri)
    assert Reference.parse(str(reference)) == reference
    assert (reference.user, reference.tag, bool(reference.digest)) == (user, tag, pinned)


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    """No text makes the parser fail in another way."""
    for uri in (text, "docker://" + text):
        try:
            Reference.parse(uri)
        except InvalidReference:
            pass
