"""The merge of layers, against a model that is slow and obviously right."""

from __future__ import annotations

import io
import sys
import tarfile
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tar_writer import TarWriter

from enroot_slurm.errors import IntegrityError, UnsupportedImage
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.rootfs.merge import Merge
from enroot_slurm.rootfs.stack import NeedsPlan

NOW = 1_700_000_000
NO_RC = RcLayer((), ())
DIR, FILE, SYMLINK, LINK = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE


def archive(members, fmt=tarfile.GNU_FORMAT):
    """The tar archive with members (name, type, mode, content or link)."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=fmt) as tar:
        for i, (name, kind, mode, value) in enumerate(members):
            info = tarfile.TarInfo(name)
            info.type, info.mode, info.mtime, info.uid = kind, mode, 1000 + i, 1000
            content = value.encode() if kind == FILE else b""
            info.size = len(content)
            info.linkname = value if kind in (SYMLINK, LINK) else ""
            tar.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def merge(layers, rc=NO_RC, piece=1 << 20, planned=None, limit=1 << 30):
    """Merge archives (the lowest first); the result as {path: (kind, mode, mtime, value)} and link groups."""
    for plan in [False, True] if planned is None else [planned]:
        with tempfile.TemporaryFile() as out:
            sink = TarWriter(out.fileno())
            merged = Merge(sink, rc, NOW, limit=limit)
            try:
                for data in reversed(layers):
                    merged.add_layer(
                        lambda data=data: (data[i : i + piece] for i in range(0, len(data), piece)), planned=plan
                    )
                merged.finish()
            except NeedsPlan:
                assert not plan
                continue
            sink.close()
            out.seek(0)
            return read(out, merged.inodes)
    raise AssertionError


def read(out, inodes):
    tree, groups, seen = {}, {}, set()
    with tarfile.open(fileobj=out) as tar:
        for info in tar:
            assert info.name not in seen, f"{info.name} is written twice"
            seen.add(info.name)
            assert (info.uid, info.gid) == (0, 0) or info.type in (FILE, SYMLINK)
            if info.islnk():
                assert info.linkname in tree, "a hard link comes after its target"
                tree[info.name] = tree[info.linkname]
                groups.setdefault(info.linkname, {info.linkname}).add(info.name)
                continue
            value = tar.extractfile(info).read().decode() if info.isreg() else info.linkname
            tree[info.name] = (info.type, info.mode, int(info.mtime), value)
    links = sum(len(g) - 1 for g in groups.values())
    assert inodes == len(tree) - links + 1
    return tree, {frozenset(g) for g in groups.values()}


# ---- the model: a layer is a nested dict, applied in order; then directories are laid over each other


class Node:
    """A directory (with children), or anything else."""

    def __init__(self, kind, mode=0o755, mtime=NOW, value=""):
        self.kind, self.mode, self.mtime, self.value = kind, mode, mtime, value
        self.children, self.removed, self.opaque = {}, set(), False


def apply(members):
    root = Node(DIR)

    def enter(parts):
        node = root
        for part in parts:
            child = node.children.get(part)
            if child and child.kind == SYMLINK:  # all of them lead to "nowhere", beside them
                part = "nowhere"
                child = node.children.get(part)
            if child is None or child.kind != DIR:
                child = node.children[part] = Node(DIR)
            node = child
        return node

    def look(path):
        node = root
        for part in path.split("/"):
            node = node.children.get(part) if node and node.kind == DIR else None
        return node

    for i, (name, kind, mode, value) in enumerate(members):
        *parents, last = name.split("/")
        parent = enter(parents)
        if last == ".wh..wh..opq":
            parent.opaque = True
        elif last.startswith(".wh."):
            parent.removed.add(last.removeprefix(".wh."))
        elif kind == DIR:
            old = parent.children.get(last)
            node = old if old and old.kind == DIR else Node(DIR)
            node.mode, node.mtime = mode, 1000 + i
            parent.children[last] = node
        elif kind == LINK:
            target = look(value)
            assert target is not None
            parent.children[last] = target
        else:
            parent.children[last] = Node(kind, mode, 1000 + i, value)
    return root


def overlay(directories):
    """Lay directories (the top one first) over each other: {name: node or list of directory nodes}."""
    result, gone, closed = {}, set(), set()
    for directory in directories:
        for name, node in directory.children.items():
            if name in gone or name in closed:
                continue
            if name not in result:
                result[name] = [node]
                if node.kind != DIR:
                    closed.add(name)
            elif node.kind == DIR:
                result[name].append(node)
            else:
                closed.add(name)
        gone |= directory.removed
        if directory.opaque:
            break
    return result


def model(layers):
    tree, groups = {}, {}

    def walk(prefix, directories):
        for name, nodes in overlay(directories).items():
            path, node = prefix + name, nodes[0]
            mode = node.mode
            if node.kind == DIR:
                mode |= 0o700
                walk(path + "/", nodes)
            elif node.kind == FILE:
                mode |= 0o500 if mode & 0o111 else 0o400
            tree[path] = (node.kind, mode, node.mtime, node.value)
            if node.kind != DIR:
                groups.setdefault(id(node), set()).add(path)

    walk("", [apply(layer) for layer in reversed(layers)])
    return tree, {frozenset(g) for g in groups.values() if len(g) > 1}


names = st.sampled_from(["a", "b", "c"])
paths = st.lists(names, min_size=1, max_size=3).map("/".join)
modes = st.sampled_from([0o644, 0o000, 0o755, 0o4711, 0o001])


@st.composite
def layer_members(draw):
    """The members of one layer; hard links name what is there when they come."""
    members = []
    for _ in range(draw(st.integers(0, 8))):
        choice = draw(st.sampled_from(["file"] * 4 + ["dir"] * 3 + ["symlink", "link", "link", "whiteout", "opaque"]))
        path = draw(paths)
        if choice == "dir":
            members.append((path, DIR, draw(modes), ""))
        elif choice == "whiteout":
            head, _, tail = path.rpartition("/")
            members.append((f"{head}/.wh.{tail}" if head else f".wh.{tail}", FILE, 0o644, ""))
        elif choice == "opaque":
            members.append((f"{path}/.wh..wh..opq", FILE, 0o644, ""))
        elif choice == "symlink":
            members.append((path + "/s", SYMLINK, 0o777, "nowhere"))
        elif choice == "link":
            there = sorted(p for p in files_of(apply(members)) if p != path and not p.startswith(path + "/"))
            there = [p for p in there if not path.startswith(p + "/")]
            if there:
                members.append((path, LINK, 0o644, draw(st.sampled_from(there))))
        else:
            members.append((path, FILE, draw(modes), draw(st.text("xyz", max_size=600))))
    return members


def files_of(node, prefix=""):
    for name, child in node.children.items():
        if child.kind == DIR:
            yield from files_of(child, f"{prefix}{name}/")
        else:
            yield prefix + name


@settings(max_examples=300, deadline=None)
@given(st.lists(layer_members(), min_size=1, max_size=4), st.sampled_from([7, 512, 1 << 20]))
def test_merge_equals_the_model(layers, piece):
    """Whatever the layers hold, in whatever pieces they come, the result is what laying them over each other gives."""
    tree, groups = merge([archive(layer) for layer in layers], piece=piece)
    expected, expected_groups = model(layers)
    assert expected == tree
    assert expected_groups == groups


@settings(max_examples=100, deadline=None)
@given(st.lists(layer_members(), min_size=1, max_size=4))
def test_plans_change_nothing(layers):
    """A merge that plans every layer gives what a merge that streams gives."""
    archives = [archive(layer) for layer in layers]
    assert merge(archives) == merge(archives, planned=True)


def tree_of(*layers, rc=NO_RC):
    return merge([archive(layer) for layer in layers], rc)[0]


def f(name, content="", mode=0o644):
    return (name, FILE, mode, content)


def test_dev_is_emptied():
    """What is below /dev goes, /dev itself stays, and so does another directory of that name."""
    tree = tree_of([("dev", DIR, 0o755, ""), f("dev/null"), f("./dev/shm/x"), f("opt/dev/kept")])
    assert set(tree) == {"dev", "opt", "opt/dev", "opt/dev/kept"}


@pytest.mark.parametrize("name", [".wh.", "a/.wh..", "a/.wh..."])
def test_invalid_whiteouts_are_refused(name):
    """A whiteout of nothing, of `.` or of `..` is malformed."""
    with pytest.raises(IntegrityError, match="invalid whiteout"):
        tree_of([f(name)])


def test_aufs_metadata_is_ignored():
    """Files of aufs itself, which start with .wh..wh., are nobody's."""
    tree = tree_of([f(".wh..wh.aufs"), (".wh..wh.plnk", DIR, 0o700, ""), f(".wh..wh.plnk/1.2", "data"), f("a")])
    assert set(tree) == {"a"}


def test_a_hard_link_to_a_lower_layer_is_resolved():
    """A link whose target only a lower layer has gets that file, shown or hidden."""
    lower = [f("shown", "1"), f("hidden", "2")]
    upper = [("one", LINK, 0, "shown"), ("two", LINK, 0, "hidden")]
    tree, groups = merge([archive(lower), archive(upper), archive([f("hidden", "new")])])
    assert (tree["one"][3], tree["two"][3], tree["hidden"][3]) == ("1", "2", "new")
    assert groups == {frozenset({"shown", "one"})}


@pytest.mark.parametrize("kind", [FILE, SYMLINK])
@pytest.mark.parametrize("order", [1, -1], ids=["target-first", "link-first"])
def test_links_of_two_layers_to_one_hidden_file(kind, order):
    """A file that an upper layer replaces keeps the links that two layers have to it, and they stay links."""
    lower = [("t", kind, 0o644, "old"), ("below", LINK, 0, "t")][::order]
    layers = [archive(lower), archive([("above", LINK, 0, "t")]), archive([f("t", "new")])]
    tree, groups = merge(layers)
    assert (tree["above"][3], tree["below"][3], tree["t"][3]) == ("old", "old", "new")
    assert groups == {frozenset({"above", "below"})}
    assert merge(layers, planned=True) == (tree, groups)


def test_a_hard_link_before_its_target_is_resolved():
    """The order of a link and its target in a layer does not matter."""
    tree, groups = merge([archive([("link", LINK, 0, "later"), f("later", "data")])])
    assert tree["link"][3] == "data"
    assert groups == {frozenset({"later", "link"})}


def test_a_hard_link_to_nowhere_is_refused():
    """A link without target is an error, which names both."""
    with pytest.raises(IntegrityError, match="gone is a hard link to nothing, which no layer has"):
        tree_of([f("a")], [("gone", LINK, 0, "nothing")])


@pytest.mark.parametrize(
    "upper", [[], [("d", DIR, 0o755, "")], [f("d", "new")], [f("d/e")]], ids=["none", "dir", "file", "implied"]
)
@pytest.mark.parametrize("planned", [False, True])
def test_a_hard_link_into_a_directory_that_became_a_file_is_refused(upper, planned):
    """A file in the place of the target's directory counts as a whiteout does, whatever upper layers have there."""
    lower, link = [("d", DIR, 0o755, ""), f("d/target")], ("link", LINK, 0, "d/target")
    for layers in ([lower, [f("d"), link]], [lower, [f("d")], [link]]):
        with pytest.raises(IntegrityError, match="which no layer has"):
            merge([archive(layer) for layer in (*layers, upper)], planned=planned)


def test_a_hard_link_to_what_a_whiteout_removes_is_refused():
    """A whiteout between a link and the layer with its target counts."""
    with pytest.raises(IntegrityError, match="which no layer has"):
        tree_of([f("a/t", "x")], [f("a/.wh.t")], [("link", LINK, 0, "a/t")])


def test_names_below_a_symlink_of_their_layer_are_resolved():
    """A member below a symlink of the same layer is where the symlink leads, never outside."""
    tree = tree_of([("lib", SYMLINK, 0o777, "usr/lib"), f("lib/x", "1"), ("up", SYMLINK, 0o777, "../../.."), f("up/y")])
    assert tree["usr/lib/x"][3] == "1"
    assert "y" in tree
    assert tree["lib"][0] == SYMLINK


def test_names_below_a_symlink_of_a_lower_layer_replace_it():
    """As with enroot's overlay: an upper layer's directory hides a lower symlink."""
    tree = tree_of([("lib", SYMLINK, 0o777, "usr/lib"), f("usr/lib/a")], [f("lib/x", "1")])
    assert tree["lib"][0] == DIR
    assert "usr/lib/x" not in tree


def test_symlink_loops_are_refused():
    """A name that leads through a loop of symlinks is an error, not an endless loop."""
    with pytest.raises(IntegrityError, match="too many symlinks"):
        tree_of([("a", SYMLINK, 0o777, "b"), ("b", SYMLINK, 0o777, "a"), f("a/x")])


def test_the_rc_layer_shadows_the_image():
    """enroot's files and directories are on top, with mode 0755 and even in place of a symlink."""
    rc = RcLayer((b"etc", b"var", b"var/run"), ((b"etc/rc", b"#!"),))
    lower = [("etc", DIR, 0o700, ""), f("etc/rc", "old"), ("var", DIR, 0o711, ""), ("var/run", SYMLINK, 0o777, "/run")]
    tree = tree_of([*lower, f("etc/passwd")], rc=rc)
    assert tree["etc"][:3] == (DIR, 0o755, NOW)
    assert tree["etc/rc"][3] == "#!"
    assert tree["var/run"][0] == DIR
    assert "etc/passwd" in tree


def test_memory_of_names_is_small():
    """A hundred thousand names cost less than 12 MiB while they are merged."""
    import tracemalloc

    data = archive([f(f"some/directory/{i:05}") for i in range(100_000)])
    tracemalloc.start()
    with open("/dev/null", "wb") as out:
        merged = Merge(TarWriter(out.fileno()), NO_RC, NOW, limit=1 << 30)
        merged.add_layer(lambda: iter([data]))
        merged.finish()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 12 << 20


def test_too_large():
    """Files have so many bytes together in all layers; of a sparse one all bytes count, though few are stored."""
    layers = [archive([(name, FILE, 0o644, "x" * 500)]) for name in "ab"]
    assert set(merge(layers, limit=1000)[0]) >= {"a", "b"}
    with pytest.raises(UnsupportedImage, match="more than 0 MiB when they are unpacked") as caught:
        merge(layers, limit=999)
    assert "max_unpacked" in caught.value.hint
    sparse = archive([("s", FILE, 0o644, "1\n0\n1\n" + "\0" * 506 + "x")])
    info = tarfile.TarInfo("s")
    info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": str(1 << 40)}
    head = info.create_pax_header(info.get_info(), "utf-8")[:-512]
    with pytest.raises(UnsupportedImage):
        merge([head + sparse])


def test_a_maze_of_symlinks():
    """Symlinks that lead through thousands of directories are an error, and no recursion runs wild."""
    deep = "/x" * 500
    links = [(f"a{n}", SYMLINK, 0o777, f"a{n + 1}{deep}") for n in range(30)]
    for planned in (False, True):
        with pytest.raises(IntegrityError):
            merge([archive([*links, ("a0/f", FILE, 0o644, "")])], planned=planned)


# ---- names that are replaced, and links to them


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        ([[("a/b", LINK, 0, "a"), f("a", "1")]], {"a": "1"}),
        ([[f("a", "1")], [("c", DIR, 0o755, ""), ("c/b", LINK, 0, "a"), f("c", "2")]], {"a": "1", "c": "2"}),
        (
            [[f("a", "1")], [("c", DIR, 0o755, ""), ("c/b", LINK, 0, "a"), f("c", "2"), ("c", DIR, 0o755, "")]],
            {"a": "1", "c": ""},
        ),
        ([[("a", LINK, 0, "b"), ("b", LINK, 0, "c"), f("c", "1")]], {"a": "1", "b": "1", "c": "1"}),
        ([[("b", LINK, 0, "c"), ("a", LINK, 0, "b"), f("c", "0"), f("c", "1")]], {"a": "1", "b": "1", "c": "1"}),
        ([[f("t", "1")], [("a", LINK, 0, "t")], [("b", LINK, 0, "a")]], {"a": "1", "b": "1", "t": "1"}),
        ([[("d", DIR, 0o755, ""), ("d/.wh.x", FILE, 0o644, ""), f("d", "1"), f("d/y", "2")]], {"d": "", "d/y": "2"}),
        ([[f("a/x")], [f(".wh.a"), ("a", DIR, 0o755, ""), f(".wh.a/y")]], {"a": ""}),
        ([[f("a", "1"), ("a", LINK, 0, "a")]], {"a": "1"}),
        (
            [[("l", LINK, 0, "s/f"), ("s", SYMLINK, 0o777, "d"), f("d/f", "1")]],
            {"l": "1", "s": "d", "d": "", "d/f": "1"},
        ),
    ],
)
def test_replaced_names(layers, expected):
    """What is dropped takes all with it that is below, links too; a stream and a plan agree."""
    archives = [archive(layer) for layer in layers]
    for planned in (None, True):
        tree, _ = merge(archives, planned=planned)
        assert {path: entry[3] for path, entry in tree.items()} == expected


@pytest.mark.parametrize(
    ("layer", "message"),
    [
        ([("a", LINK, 0, "a")], "a is a hard link to itself"),
        ([("a", LINK, 0, "b"), ("b", LINK, 0, "c"), ("c", LINK, 0, "b")], "is a hard link to itself"),
        ([("d", DIR, 0o755, ""), ("a", LINK, 0, "d")], "a is a hard link to d in a layer, a directory"),
        ([("a", LINK, 0, "d"), f("d/x")], "a directory"),
    ],
)
@pytest.mark.parametrize("planned", [False, True])
def test_links_that_can_not_be(layer, message, planned):
    """A hard link to itself, or to a directory, is refused; it does not disappear."""
    with pytest.raises(IntegrityError, match=message):
        merge([archive([f("d"), *layer]) if "d" not in message else archive(layer)], planned=planned)
    with pytest.raises(IntegrityError, match=message):  # below a layer that hides it, too
        merge([archive(layer), archive([f(".wh.a"), f(".wh.b"), f(".wh.c")])], planned=planned)


def test_names_that_whiteouts_hide_have_one_marker():
    """With markers, a whiteout that comes twice, or has files below it, is one empty file."""
    for members in ([f(".wh.a"), f(".wh.a")], [f(".wh.a"), f(".wh.a/b")], [f(".wh.a/b"), f(".wh.a")]):
        for planned in (False, True):
            with tempfile.TemporaryFile() as out:
                sink = TarWriter(out.fileno())
                merged = Merge(sink, NO_RC, NOW, limit=1 << 30, markers=True)
                merged.add_layer(lambda members=members: iter([archive(members)]), planned=planned)
                merged.finish()
                sink.close()
                out.seek(0)
                assert set(read(out, merged.inodes)[0]) == {".wh.a"}


# ---- work is in proportion to the input: lines of Python are counted, which no other process changes


def work(*layers, planned=False, error=None):
    """Lines of the package that a merge runs; and how many members there are."""
    archives = [archive(layer) for layer in layers]
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if "enroot_slurm/rootfs" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        merge(archives, planned=planned)
    except IntegrityError:
        assert error
    finally:
        sys.settrace(None)
    return count


def chain(n):
    return [(f"l{i}", LINK, 0, f"l{i + 1}") for i in range(n)] + [f(f"l{n}", "x")]


def replaced(n):
    return [member for i in range(n) for member in (("d", DIR, 0o755, ""), f(f"d/{i}"), f("d"))]


def links_replaced(n):
    return [f("t"), *((f"l{i}", LINK, 0, "t") for i in range(n)), *(f(f"l{i}") for i in range(n))]


def files_kept_while_others_go(n):
    return [*(f(f"k/{i}") for i in range(n)), *(m for i in range(n) for m in (f(f"g{i}/x"), f(f"g{i}")))]


def whiteouts_and_links(n):
    return [*(f(f"w/.wh.{i}") for i in range(n)), *((f"l{i}", LINK, 0, f"t{i}") for i in range(n))]


LAYERS = {
    "chain": (lambda n: [chain(n)]),
    "chain backwards": (lambda n: [chain(n)[::-1]]),
    "directories replaced": (lambda n: [replaced(n)]),
    "links replaced": (lambda n: [links_replaced(n)]),
    "others kept": (lambda n: [files_kept_while_others_go(n)]),
    "whiteouts and links": (lambda n: [[f(f"t{i}") for i in range(n)], whiteouts_and_links(n)]),
    "links through layers": (lambda n: [[f(f"t{i}") for i in range(n)], *[[f(".wh.z")]] * n, whiteouts_and_links(n)]),
    "below a symlink": (lambda n: [[("s", SYMLINK, 0o777, "d"), *(f(f"s/{i}/x/y") for i in range(n))]]),
    "symlinks and names": (
        lambda n: [[m for i in range(n) for m in ((f"s{i}", SYMLINK, 0o777, "d/" * 9), f(f"s{i}/x{i}"))]]
    ),
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS)
@pytest.mark.parametrize("planned", [None, True])
def test_work_is_linear(layers, planned):
    """Twice the members are twice the work."""
    assert work(*layers(400), planned=planned) < 2.2 * work(*layers(200), planned=planned)


def test_symlinks_that_double(tmp_path):
    """Each symlink of ``lN -> lN-1/lN-1`` doubles the way; it ends after 40, whatever it is."""
    links = [("l0", SYMLINK, 0o777, "."), *((f"l{i}", SYMLINK, 0o777, f"l{i - 1}/l{i - 1}") for i in range(1, 200))]
    for planned in (False, True):
        few = work([*links, f("l4/x")], planned=planned)
        assert work([*links, f("l199/x")], planned=planned, error=True) < few + 2000
    tree = tree_of([*links, f("l3/x", "1")])
    assert tree["x"][3] == "1"


def test_long_ways_add_up():
    """A name that leads through much is followed, many of them are refused: the steps of a layer are limited."""
    names = [(f"s{i}", SYMLINK, 0o777, "./" * 40 + f"s{i + 1}") for i in range(30)]
    layer = [*names, ("s30", SYMLINK, 0o777, "d")]
    assert tree_of([*layer, f("s0/x", "1")])["d/x"][3] == "1"
    many = [m for i in range(2000) for m in (f(f"s0/{i}"), (f"t{i}", SYMLINK, 0o777, "d"))]
    for planned in (False, True):
        with pytest.raises(IntegrityError, match="lead through too many symlinks"):
            merge([archive([*layer, *many])], planned=planned)


@pytest.mark.parametrize("planned", [False, True])
def test_implied_directories_are_limited(planned):
    """A name of a kilobyte implies 500 directories, and thousands of such names gigabytes of paths."""
    members = [f(f"{i}/" + "d/" * 500 + "f") for i in range(600)]
    assert len(merge([archive(members[:100])], planned=planned)[0]) > 50_000
    with pytest.raises(UnsupportedImage, match="imply directories"):
        merge([archive(members)], planned=planned)
