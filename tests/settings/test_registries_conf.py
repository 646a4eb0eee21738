"""registries.conf: which files count, what they say, and what is wrong with them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from enroot_slurm.errors import ConfigError
from enroot_slurm.oci.reference import Reference
from enroot_slurm.registry.endpoints import Mirror, Table, endpoints_of, table_of
from enroot_slurm.settings.conf_files import ConfFile, conf_files, may_block, read_files
from enroot_slurm.settings.registries_conf import helpers_in, parse_conf, tables_in

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DIGEST = "sha256:" + "a" * 64
ABOVE = " (keys for the whole file stand above the first [[registry]])"
SITE = """
[[registry]]
location = "docker.io"
[[registry.mirror]]
location = "registry-mirror.example.edu"
"""


def tables(text: str) -> list[Table]:
    found, doubts = parse_conf("f.conf", text.encode())
    assert doubts == []
    return found


def asked(uri: str, found: Sequence[Table]) -> list[str]:
    """The names of those who are asked for *uri*, in order."""
    return [each.name for each in endpoints_of(Reference.parse(f"docker://{uri}"), found)]


@pytest.fixture
def tree(tmp_path: Path) -> Callable[..., list[str]]:
    """A function that makes files, and returns those that count, relative to the directory."""
    places = {"home": tmp_path / "home", "etc": tmp_path / "etc", "usr": tmp_path / "usr"}

    def files(*names: str, environ: dict[str, str] | None = None, user: bool = True) -> list[str]:
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("")
        own = {"XDG_CONFIG_HOME": str(places["home"])} if user else {}
        known = {**own, "HOME": str(tmp_path / "none"), **(environ or {})} if user or environ else None
        found = conf_files(known, system=(places["etc"], places["usr"]))
        return [str(path.relative_to(tmp_path)) for path in found]

    return files


def test_main_file(tree) -> None:
    """The first one that is there counts alone."""
    assert tree("usr/registries.conf") == ["usr/registries.conf"]
    assert tree("etc/registries.conf") == ["etc/registries.conf"]
    assert tree("home/containers/registries.conf") == ["home/containers/registries.conf"]
    assert tree(user=False) == ["etc/registries.conf"]


def test_drop_ins(tree) -> None:
    """They are sorted by their own names over all directories; of one name, the first directory's counts."""
    own = "etc/registries.rootful.conf.d" if not os.geteuid() else f"etc/registries.rootless.conf.d/{os.geteuid()}"
    names = [
        "usr/registries.conf.d/50-a.conf",
        "usr/registries.conf.d/10-b.conf",
        "etc/registries.conf.d/50-a.conf",
        "etc/registries.conf.d/60-c.conf",
        f"{own}/60-c.conf",
        "etc/registries.conf.d/README",
        "home/containers/registries.conf.d/20-d.conf",
    ]
    expected = ["usr/registries.conf.d/10-b.conf", "etc/registries.conf.d/50-a.conf", f"{own}/60-c.conf"]
    with_user = [expected[0], "home/containers/registries.conf.d/20-d.conf", *expected[1:]]
    assert tree(*names) == with_user
    assert tree(user=False) == expected


def test_variables(tree, tmp_path) -> None:
    """One names the only file, the other the last one."""
    names = ["etc/registries.conf", "etc/registries.conf.d/a.conf", "x.conf"]
    named = {"CONTAINERS_REGISTRIES_CONF": str(tmp_path / "x.conf")}
    assert tree(*names, environ=named) == ["x.conf"]
    last = {"CONTAINERS_REGISTRIES_CONF_OVERRIDE": str(tmp_path / "x.conf")}
    assert tree(environ=last) == ["etc/registries.conf", "etc/registries.conf.d/a.conf", "x.conf"]


def test_a_link_that_leads_nowhere(tree, tmp_path) -> None:
    """It is an error, for the file is missed; a directory is none of them."""
    (tmp_path / "etc/registries.conf.d/20-d.conf").mkdir(parents=True)
    link = tmp_path / "etc/registries.conf.d/30-e.conf"
    link.symlink_to("gone")
    assert tree() == ["etc/registries.conf.d/30-e.conf"]
    with pytest.raises(ConfigError, match=r"30-e\.conf"):
        read_files([link], trusted=False)


def test_helpers() -> None:
    """The last file that lists some counts."""

    def listed(*texts: str) -> tuple[tuple[str, ...], str]:
        return helpers_in([ConfFile(Path(f"{number}"), text.encode()) for number, text in enumerate(texts)])

    assert listed(SITE, "") == ((), "")
    assert listed('credential-helpers = ["a", "b"]', SITE) == (("a", "b"), "0")
    assert listed('credential-helpers = ["a"]', 'credential-helpers = ["b"]') == (("b",), "1")
    assert listed('credential-helpers = ["a"]', "credential-helpers = []") == (("a",), "0")
    for wrong in ('"a"', "[1]"):
        with pytest.raises(ConfigError, match="credential-helpers"):
            parse_conf("f", f"credential-helpers = {wrong}".encode())


def test_a_table_is_replaced_as_a_whole() -> None:
    """Keys of two tables with one prefix are never mixed; an empty array counts."""
    later = b'[[registry]]\nprefix = "docker.io"\nlocation = "docker.io"\nblocked = true\nmirror = []\n'
    other = b'[[registry]]\nlocation = "ghcr.io"\n'
    found, _ = tables_in([ConfFile(Path("a"), SITE.encode()), ConfFile(Path("b"), later), ConfFile(Path("c"), other)])
    assert found == [
        Table("docker.io", "docker.io", blocked=True, source="b"),
        Table("ghcr.io", "ghcr.io", source="c"),
    ]


def test_keys() -> None:
    text = """
    unqualified-search-registries = ["quay.io"]
    [[registry]]
    prefix = "Example.com/foo/"
    location = "internal.site/bar"
    insecure = true
    [[registry.mirror]]
    location = "m1.site:5000/x"
    insecure = true
    pull-from-mirror = "tag-only"
    [[registry.mirror]]
    location = "m2.site"
    [[registry]]
    prefix = "*.corp.example"
    mirror-by-digest-only = true
    mirror = [{location = "m3.site"}]
    """
    assert tables(text) == [
        Table(
            "example.com/foo",
            "internal.site/bar",
            insecure=True,
            mirrors=(Mirror("m1.site:5000/x", insecure=True, pull="tag-only"), Mirror("m2.site")),
            source="f.conf",
        ),
        Table("*.corp.example", "", mirrors=(Mirror("m3.site", pull="digest-only"),), source="f.conf"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[[registry]]\nlocation = "https://a.b"', "f.conf: [[registry]] 1 (https://a.b): 'location'"),
        ("[[registry]]\ninsecure = true", "[[registry]] 1: neither 'prefix' nor 'location' is set"),
        ('[[registry]]\nlocation = "*.a.b"', "a '*' can't be here"),
        ('[[registry]]\nprefix = "*.a.b:5000"', "without port and path"),
        ('[[registry]]\nprefix = "a.*.b"', "a '*' can only stand for"),
        ('[[registry]]\nlocation = "a.b"\ninsecure = "yes"', "'insecure': expected true or false, got 'yes'"),
        ("[[registry]]\nlocation = 1", "'location': expected text in quotes, got 1"),
        ('[[registry]]\nlocation = "a.b"\npull-from-mirror = "all"', "'pull-from-mirror' belongs to"),
        ('registry = "a.b"', "'registry': expected a list"),
        ('registry = ["a.b"]', "[[registry]] 1: expected a table"),
        ('[[registries]]\nlocation = "a.b"', "expected [[registry]]"),
        ('[[registry]]\nlocation = "a.b"\n[[registry.mirror]]', "[[registry.mirror]] 1: 'location' is not set"),
        (
            '[[registry]]\nlocation = "a.b"\nmirror-by-digest-only = true\nmirror = [{pull-from-mirror = "all"}]',
            "can't be together with 'mirror-by-digest-only = true'",
        ),
        (
            '[[registry]]\nlocation = "a.b"\n[[registry.mirror]]\nlocation = "m"\npull-from-mirror = "no"',
            "expected all, digest-only, tag-only, got 'no'",
        ),
        (
            '[[registry]]\nprefix = "a.b/x"\nlocation = "c.d"\n[[registry]]\nlocation = "c.d"\nblocked = true',
            "has another 'insecure' or 'blocked' in an earlier table",
        ),
        (
            "[registries.block]\nregistries = ['a.b']",
            'it is written now: [[registry]] location = "HOST" blocked = true',
        ),
        ("[registries.search]\nregistries = ['a.b']", "this is version 1 of the file"),
        ("[[registry]", "f.conf: not valid TOML: "),
        ("a = " + "[" * 100_000, "f.conf: not valid TOML: "),
        ("a = " + "9" * 5000, "f.conf: not valid TOML: "),
    ],
)
def test_what_is_wrong(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_conf("f.conf", text.encode())
    assert words in str(caught.value)


def test_empty_version_1_is_accepted() -> None:
    assert tables("[registries.search]\nregistries = []\n") == []


def test_unknown_keys_are_told() -> None:
    """A key that stands behind a table by mistake became that table's."""
    text = '[[registry]]\nlocation = "a.b"\nblokked = true\nshort-name-mode = "enforcing"\n[x]\n'
    found, doubts = parse_conf("f.conf", text.encode())
    assert not found[0].blocked
    assert doubts == [
        "f.conf: the key 'x' is not known, and is ignored",
        "f.conf: [[registry]] 1 (a.b): the key 'blokked' is not known, and is ignored",
        "f.conf: [[registry]] 1 (a.b): the key 'short-name-mode' is not known, and is ignored" + ABOVE,
    ]


@pytest.mark.parametrize(
    ("text", "may"),
    [
        (SITE, False),
        (SITE + "# blocked = true\n  # blocked", False),
        (SITE + "blocked = true", True),
        ('registry = [{location = "a", blocked = true}]', True),
        ('[[registry]]\n"bloc\\u006bed" = true', True),
    ],
)
def test_may_block(text: str, may: bool) -> None:
    assert may_block([ConfFile(Path("f"), text.encode())]) is may


def test_trusted_files_are_roots(tmp_path) -> None:
    """What others can write, no hook reads."""
    file = tmp_path / "registries.conf"
    file.write_text(SITE)
    file.chmod(0o666)
    assert read_files([file], trusted=False)[0].content == SITE.encode()
    with pytest.raises(ConfigError, match="others than root can write it"):
        read_files([file], trusted=True)
    with pytest.raises(ConfigError, match="can't be read"):
        read_files([tmp_path / "none"], trusted=False)


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda t: t.encode("utf-8", "surrogatepass")))
@example(b"[[registry]]\nlocation = 'a\\u001b.b'\n")
@example(b"[[registry.mirror]]\nlocation = 'a.b'\n")
@example(b"[registry]\nmirror = 1\n")
def test_only_our_errors(content: bytes) -> None:
    """Whatever a file holds, and nothing of it reaches a terminal as it is."""
    may_block([ConfFile(Path("f"), content)])
    try:
        _, doubts = parse_conf("f", content)
    except ConfigError as error:
        doubts = [str(error), error.hint]
    assert all(c.isprintable() or c == "\n" for text in doubts for c in text)


VALUES = st.recursive(
    st.booleans()
    | st.integers()
    | st.text(max_size=12)
    | st.sampled_from(["a.b", "*.b", "all", "a.b/c:1", "docker.io"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                ["prefix", "location", "mirror", "insecure", "blocked", "pull-from-mirror", "x", "registry"]
            ),
            inner,
            max_size=5,
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.sampled_from(["registry", "registries", "aliases", "y"]), VALUES, max_size=3))
def test_only_our_errors_of_documents(document) -> None:
    """Any document that TOML can hold; and what was read makes endpoints, or an error of ours."""
    try:
        found, _ = parse_conf("f", to_toml(document).encode())
        for uri in ("a.b/c", "docker.io/x", f"a.b/c@{DIGEST}", "z.b:5000/c:1"):
            assert endpoints_of(Reference.parse(f"docker://{uri}"), found)
    except ConfigError:
        pass


def to_toml(value: object) -> str:
    """*value* as TOML: inline, but for the outermost table."""
    if isinstance(value, dict):
        return "\n".join(f"{key} = {inline(each)}" for key, each in value.items())
    raise AssertionError


def inline(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        escaped = "".join(f"\\U{ord(c):08x}" if not 0xD800 <= ord(c) < 0xE000 else "?" for c in value)
        return f'"{escaped}"'
    if isinstance(value, list):
        return f"[{', '.join(map(inline, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {inline(each)}" for key, each in value.items()) + "}"
    return str(value)


def test_endpoints() -> None:
    """Mirrors in order, then the primary; short names and full ones find the same table."""
    expected = ["registry-mirror.example.edu/library/ubuntu", "docker.io/library/ubuntu"]
    for uri in ("ubuntu", "docker.io/ubuntu:1", f"index.docker.io/library/ubuntu@{DIGEST}"):
        assert asked(uri, tables(SITE)) == expected
    assert asked("nvcr.io/nvidia/cuda", tables(SITE)) == ["nvcr.io/nvidia/cuda"]


def test_rewriting() -> None:
    """What follows the prefix is put behind the location."""
    text = '[[registry]]\nprefix = "example.com/foo"\nlocation = "internal.site/bar"\n'
    assert asked("example.com/foo/app:1", tables(text)) == ["internal.site/bar/app"]
    assert asked("example.com/foo:1", tables(text)) == ["internal.site/bar"]
    assert asked("example.com/fool/app", tables(text)) == ["example.com/fool/app"]
    assert asked("example.com:5000/foo/app", tables(text)) == ["example.com:5000/foo/app"]
    wild = '[[registry]]\nprefix = "*.corp.example"\n[[registry.mirror]]\nlocation = "m.site/x"\n'
    assert asked("a.corp.example/y:1", tables(wild)) == ["m.site/x/y", "a.corp.example/y"]


def test_a_tag_of_the_prefix_is_replaced() -> None:
    text = '[[registry]]\nprefix = "a.b/x:1"\nlocation = "c.d/y:2"\n'
    [endpoint] = endpoints_of(Reference.parse("docker://a.b/x:1"), tables(text))
    assert (endpoint.name, endpoint.reference.tag) == ("c.d/y", "2")
    assert asked("a.b/x:2", tables(text)) == ["a.b/x"]


def test_digest_only_and_tag_only() -> None:
    """By the reference that the user wrote; a digest that a tag led to is asked for at both."""
    text = """
    [[registry]]
    location = "a.b"
    mirror = [
        {location = "m1", pull-from-mirror = "digest-only"},
        {location = "m2", pull-from-mirror = "tag-only"},
        {location = "m3"},
    ]
    """
    by_tag = endpoints_of(Reference.parse("docker://a.b/x:1"), tables(text))
    assert [(e.name, e.tags, e.digests) for e in by_tag] == [
        ("m1/x", False, True),
        ("m2/x", True, True),
        ("m3/x", True, True),
        ("a.b/x", True, True),
    ]
    assert asked(f"a.b/x:1@{DIGEST}", tables(text)) == ["m1/x", "m3/x", "a.b/x"]


def test_logins_in_names_stay_with_the_primary() -> None:
    """``USER@`` is for the registry that the user has named."""
    text = '[[registry]]\nlocation = "a.b"\nmirror = [{location = "m"}]\n[[registry]]\nprefix="c.d"\nlocation="e.f"\n'
    users = [e.reference.user for e in endpoints_of(Reference.parse("docker://ann@a.b/x"), tables(text))]
    assert users == ["", "ann"]
    assert endpoints_of(Reference.parse("docker://ann@c.d/x"), tables(text))[0].reference.user == ""


def test_longest_prefix() -> None:
    text = '[[registry]]\nlocation = "a.b"\n[[registry]]\nlocation = "a.b/c"\n[[registry]]\nprefix = "*.b"\n'
    found = tables(text)
    table = table_of(Reference.parse("docker://a.b/c/d"), found)
    assert table is not None
    assert table.prefix == "a.b/c"
    assert table_of(Reference.parse("docker://x.y/c/d"), found) is None


def test_of_two_tables_in_a_file_the_first_counts() -> None:
    """As skopeo does it; and it is told."""
    text = '[[registry]]\nlocation = "a.b"\n[[registry]]\nprefix = "a.b"\nlocation = "c.d"\n'
    found, doubts = parse_conf("f.conf", text.encode())
    assert [table.location for table in found] == ["a.b"]
    assert doubts == ["f.conf: [[registry]] 2: a.b has an earlier table, which counts"]
