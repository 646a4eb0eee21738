"""Full names of images, and the prefixes that cover them."""

from __future__ import annotations

import pytest

from enroot_slurm.oci.names import covers, full_name, longest, prefix_form
from enroot_slurm.oci.reference import Reference

DIGEST = "sha256:" + "a" * 64


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("docker://ubuntu", "docker.io/library/ubuntu:latest"),
        ("docker://docker.io/ubuntu:22.04", "docker.io/library/ubuntu:22.04"),
        ("docker://nvcr.io#nvidia/cuda:1", "nvcr.io/nvidia/cuda:1"),
        ("docker://registry-1.docker.io:443#library/ubuntu", "docker.io/library/ubuntu:latest"),
        ("docker://NVCR.io:0443#nvidia/cuda:1", "nvcr.io/nvidia/cuda:1"),
        (f"docker://localhost:5000/a:1@{DIGEST}", f"localhost:5000/a@{DIGEST}"),
    ],
)
def test_full_name(uri: str, name: str) -> None:
    assert full_name(Reference.parse(uri)) == name


@pytest.mark.parametrize(
    ("prefix", "name", "is_covered"),
    [
        ("docker.io", "docker.io/library/x:1", True),
        ("docker.io/library", "docker.io/library/x:1", True),
        ("docker.io/library/x", "docker.io/library/x:1", True),
        ("docker.io/library/x:1", "docker.io/library/x:1", True),
        ("docker.io/library/x:1", "docker.io/library/x:12", False),
        ("docker.io/lib", "docker.io/library/x:1", False),
        (f"a.b/x@{DIGEST}", f"a.b/x@{DIGEST}", True),
        ("a.b", "a.b:5000/x:1", False),
        ("a.b:5000", "a.b/x:1", False),
        ("a.b:5000", "a.b:5000/x:1", True),
        ("a.b:5000/x", "a.b:5000/x/y:1", True),
        ("a.b:443/x", "a.b/x:1", True),
        ("registry-1.docker.io:443", "docker.io/library/x:1", True),
        ("*.b.c", "a.b.c/x:1", True),
        ("*.b.c", "z.a.b.c:5000/x:1", True),
        ("*.b.c", "b.c/x:1", False),
        ("*.b.c", "ab.c/x:1", False),
        ("*.b.c", "q.r/a.b.c/x:1", False),
    ],
)
def test_covers(prefix: str, name: str, is_covered: bool) -> None:
    """A prefix ends where a part of the name does, and a host is compared with its port."""
    assert covers(prefix_form(prefix), name) is is_covered


def test_the_longest_counts() -> None:
    assert longest(["a.b", "a.b/c", "a.b/c/d", "*.b"], "a.b/c/x:1") == "a.b/c"
    assert longest(["x.y"], "a.b/c/x:1") is None
    assert longest(["a.b:443", "a.b/c"], "a.b/c/x:1") == "a.b/c"
    assert longest(["*.b.c", "a.b.c"], "a.b.c/x:1") == longest(["a.b.c", "*.b.c"], "a.b.c/x:1") == "a.b.c"


@pytest.mark.parametrize(
    ("text", "form"),
    [
        ("Docker.IO/library/", "docker.io/library"),
        ("index.docker.io", "docker.io"),
        ("registry-1.docker.io/a", "docker.io/a"),
        ("*.Example.com", "*.example.com"),
        ("[::1]:5000/x", "[::1]:5000/x"),
    ],
)
def test_forms(text: str, form: str) -> None:
    assert prefix_form(text) == form


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("https://a.b", "scheme"),
        ("a.*.b", "'\\*'"),
        ("*.b:5000", "without port"),
        ("*.b/x", "without port"),
        ("a.b//x", "not HOST"),
        ("a.b/X", "not HOST"),
        ("", "not HOST"),
        ("a b", "not HOST"),
        ("a.b:99999/x", "1 to 65535"),
        ("x" * 600, "longer"),
    ],
)
def test_wrong_forms(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        prefix_form(text)
