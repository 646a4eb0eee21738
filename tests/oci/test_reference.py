"""Image references: enroot's grammar, and errors that help."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.errors import InvalidReference
from enroot_slurm.oci.reference import DOCKER_HUB, Reference, masked

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


@pytest.mark.parametrize("form", ["{}", "oci://{}", "docker:{}", "docker:/{}", "DOCKER://{}", "https://{}", "x://{}"])
@pytest.mark.parametrize(
    "login", ["user:CANARY@", "u:CAN/CANARY@", "u:CAN@CANARY@", "u:CAN:CANARY@", "$oauthtoken:CANARY@"]
)
def test_no_error_shows_a_password(form, login):
    """Neither where the URI is quoted nor in what is to be tried instead."""
    for host in ("nvcr.io#", "reg.io:5000/", "h/", ""):
        with pytest.raises(InvalidReference) as caught:
            Reference.parse(form.format(f"{login}{host}x:1"))
        assert "CANARY" not in f"{caught.value}\n{caught.value.hint}"


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
        ("docker://reg.io/team/app@sha512:12", "not a digest", "128"),
        (f"docker://reg.io/team/app@md5:{HEX[:32]}", "not a digest that", "sha512"),
        (f"docker://ubuntu@sha1:{HEX[:40]}", "not a digest that", "sha512"),
        (f"docker://reg.io/app@sha256-{HEX}.sig", "not a digest that", f":sha256-{HEX}.sig"),
        (f"docker://reg.io/app@blake3:{HEX}", "not a digest that", "sha512"),
        ("docker://ubuntu@22.04", "':' before it", "docker://ubuntu:22.04"),
        ("docker://reg.io/app@v1.2-rc1", "':' before it", "docker://reg.io/app:v1.2-rc1"),
        ("docker://me@example.com:secret@reg.io/img", "must not hold a password", ".credentials"),
        ("docker://me:se/cr@t@reg.io/img", "must not hold a password", ".credentials"),
        ("./x.sqsh", "does not start", "A file needs no import"),
        ("/images/x.sqsh", "does not start", "A file needs no import"),
        ("file:///images/x.sqsh", "does not start", "A file needs no import"),
        ("oci://nvcr.io/x", "does not start", "Try docker://nvcr.io/x"),
        ("https://nvcr.io/x", "does not start", "Try docker://nvcr.io/x"),
        ("docker:/nvcr.io/x", "does not start", "Try docker://nvcr.io/x, or"),
        ("docker:x", "does not start", "Try docker://x, or for the image docker: docker://docker:x"),
        ("docker-archive:x.tar", "does not start", "skopeo copy"),
        ("oci:layout:1", "does not start", "skopeo copy"),
        ("docker-daemon:app:1", "does not start", "Write dockerd://app:1"),
        ("containers-storage:app:1", "does not start", "Write podman://app:1"),
        ("Docker-Archive:x.tar", "does not start", "in lower case"),
        ("ubuntu:24.04", "does not start", "Try docker://ubuntu:24.04"),
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
    assert not any(secret in str(caught.value) + caught.value.hint for secret in ("secret", "se/cr"))
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
        "docker://library/ubuntu": "ubuntu+latest.sqsh",
        "docker://docker.io/ubuntu:1": "ubuntu+1.sqsh",
        "docker://docker.io/library/x:1": "library+x+1.sqsh",
        "docker://me@index.docker.io#library/x:1": "library+x+1.sqsh",
        f"docker://docker.io/library/x@sha256:{HEX}": f"library+x+sha256:{HEX}.sqsh",
        "docker://registry-1.docker.io/library/x:1": "x+1.sqsh",
        "docker://nvcr.io#nvidia/pytorch:25.06-py3": "nvidia+pytorch+25.06-py3.sqsh",
        "docker://reg.io/library/x:1": "library+x+1.sqsh",
        f"docker://a/b@sha256:{HEX}": f"a+b+sha256:{HEX}.sqsh",
    }
    assert names == {uri: Reference.default_filename(uri) for uri in names}


@pytest.mark.parametrize(
    ("uri", "user", "name", "target"),
    [
        ("me@example.com@nvcr.io#nvidia/pytorch:1", "me@example.com", "nvcr.io#nvidia/pytorch", "1"),
        ("me@example.com@reg.io:5000/app", "me@example.com", "reg.io:5000#app", "latest"),
        (f"me@example.com@reg.io/app:1@sha256:{HEX}", "me@example.com", "reg.io#app", f"sha256:{HEX}"),
        ("me@example.com@ubuntu", "me@example.com", f"{DOCKER_HUB}#library/ubuntu", "latest"),
        (f"reg.io/team/app@sha512:{HEX * 2}", "", "reg.io#team/app", f"sha512:{HEX * 2}"),
        (f"reg.io#team/app:1@sha512:{HEX * 2}", "", "reg.io#team/app", f"sha512:{HEX * 2}"),
        (f"me@ubuntu@sha512:{HEX * 2}", "me", f"{DOCKER_HUB}#library/ubuntu", f"sha512:{HEX * 2}"),
        (f"me@reg.io/md5:{HEX[:40]}", "me", "reg.io#md5", HEX[:40]),
        ("me@sha1.example.com/x", "me", "sha1.example.com#x", "latest"),
        (f"me@app:{HEX[:40]}", "me", f"{DOCKER_HUB}#library/app", HEX[:40]),
        ("me@1.2.3.4:5000/x", "me", "1.2.3.4:5000#x", "latest"),
    ],
)
def test_logins_and_digests(uri, user, name, target):
    """Logins may be addresses of mail; a digest may be sha512; neither is taken for the other."""
    found = Reference.parse(f"docker://{uri}")
    assert (found.user, f"{found.registry}#{found.repository}", found.target) == (user, name, target)


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
    st.sampled_from(["", "$oauthtoken", "me", "a.b+c", "me@example.com"]),
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


@pytest.mark.parametrize(
    "text",
    [
        "docker://user:CANARY@h.example/x",
        "user:CANARY@h.example#x",
        "enroot:docker://user:CANARY@h.example/x",
        "docker://user:CAN/ARY#CANARY@CANARY@h.example/x",
        "image=user:CANARY@h.example/x arch=arm64",
        "docker://user:CANARY CANARY@h.example/x",
        "docker://user@example.com:CANARY@h.example/x",
        f"docker://user:CANARY@h.example/x@sha256:{HEX}",
    ],
)
def test_passwords_are_masked(text):
    """For logs and records, in what is no reference as well; the host stays."""
    assert "CANARY" not in masked(text)
    assert "***@h.example" in masked(text)


@pytest.mark.parametrize("text", ["ubuntu:22.04", "docker://h.example:5000/x:1", f"docker://h/x@sha256:{HEX}", "", "@"])
def test_what_has_no_password_stays(text):
    assert masked(text) == text
