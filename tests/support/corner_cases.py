"""Images that are hard to get right, for comparing the product with `reference_tree`.

A function that `case` registers returns the layers, the lowest first.  GOOD are images that enroot imports; HARD are
ones that make enroot's tar fail, where a correct image or a clean error is right.
"""

from __future__ import annotations

import random
import tarfile
from typing import TYPE_CHECKING, Any, NamedTuple

from support.images import Layer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["GOOD", "HARD", "Case"]

Layers = list[Layer | bytes]


class Case(NamedTuple):
    """An image: what makes its layers, and its config."""

    make: Callable[[], Layers]
    config: Mapping[str, Any]


GOOD: dict[str, Case] = {}
HARD: dict[str, Case] = {}

GNU = tarfile.GNU_FORMAT
PAX = tarfile.PAX_FORMAT


def case(**config: Any) -> Callable[[Callable[[], Layers]], Callable[[], Layers]]:
    """Register an image that enroot imports; *config* is its runtime config."""

    def register(make: Callable[[], Layers]) -> Callable[[], Layers]:
        GOOD[make.__name__] = Case(make, config)
        return make

    return register


def hard(make: Callable[[], Layers]) -> Callable[[], Layers]:
    """Register an image that enroot fails on."""
    HARD[make.__name__] = Case(make, {})
    return make


def noise(size: int, seed: int = 1) -> bytes:
    """Bytes that don't compress, the same every time."""
    return random.Random(seed).randbytes(size)


# Whiteouts and opaque directories.


@case()
def whiteouts() -> Layers:
    lower = Layer().dirs("a/", "a/b/", "d/", "d/sub/", "keep/").file("gone").file("a/b/gone").file("a/b/stays")
    lower.file("d/x").file("d/sub/y").file(".hidden").symlink("link", "a").fifo("pipe").file("keep/f")
    upper = Layer().whiteout("gone").dirs("a/", "a/b/").whiteout("a/b/gone").whiteout("d").whiteout(".hidden")
    upper.whiteout("link").whiteout("pipe").whiteout("never-was").whiteout("keep/never-was")
    return [lower, upper]


@case()
def whiteout_without_parents() -> Layers:
    return [Layer().dirs("a/", "a/b/").file("a/b/gone").file("a/b/stays"), Layer().whiteout("a/b/gone")]


@case()
def whiteout_then_again() -> Layers:
    """Gone in the middle, new at the top: nothing old comes back."""
    lower = Layer().dirs("d/", "d/sub/").file("d/old").file("d/sub/old").file("f", b"old").dir("k/").file("k/old")
    middle = Layer().whiteout("d").whiteout("f").whiteout("k")
    return [lower, middle, Layer().dirs("d/").file("d/new").file("f", b"new").symlink("k", "d")]


@case()
def whiteout_spares_upper_layers() -> Layers:
    return [Layer().file("f", b"1"), Layer().whiteout("f"), Layer().file("f", b"3"), Layer().file("g")]


@case()
def whiteout_of_the_middle() -> Layers:
    """A whiteout hides all layers below it, not only the next."""
    return [Layer().file("f", b"1"), Layer().file("f", b"2"), Layer().dir("x/"), Layer().whiteout("f")]


@case()
def whiteout_of_a_parent_of_upper_content() -> Layers:
    return [
        Layer().dirs("d/", "d/s/").file("d/s/old"),
        Layer().whiteout("d/s"),
        Layer().dirs("d/", "d/s/").file("d/s/new"),
    ]


@case()
def opaque_marker_last() -> Layers:
    lower = Layer().dirs("o/", "o/sub/").file("o/1").file("o/sub/2")
    return [lower, Layer().dir("o/", 0o700).file("o/3").dir("o/sub/").file("o/sub/4").opaque("o")]


@case()
def opaque_marker_first() -> Layers:
    return [Layer().dir("o/").file("o/1"), Layer().opaque("o").dir("o/", 0o711).file("o/3")]


@case()
def opaque_alone() -> Layers:
    return [Layer().dir("o/", 0o700).file("o/1").dirs("p/", "p/q/").file("p/q/1"), Layer().opaque("o").opaque("p/q")]


@case()
def opaque_spares_upper_layers() -> Layers:
    return [
        Layer().dir("o/").file("o/1").file("o/both", b"1"),
        Layer().dir("o/").opaque("o").file("o/2"),
        Layer().dir("o/").file("o/3").file("o/both", b"3"),
        Layer().dir("o/", 0o750).whiteout("o/2"),
    ]


@case()
def opaque_nested() -> Layers:
    lower = Layer().dirs("n/", "n/o/", "n/o/p/").file("n/1").file("n/o/1").file("n/o/p/1")
    middle = Layer().dir("n/", 0o700).dir("n/o/", 0o700).opaque("n/o").file("n/o/2")
    return [lower, middle, Layer().dirs("n/", "n/o/").file("n/o/3").dirs("n/o/p/").file("n/o/p/3")]


@case()
def opaque_root() -> Layers:
    return [Layer().file("f").dir("d/").file("d/1"), Layer().opaque("").dir("d/").file("d/2").file("g")]


@case()
def opaque_over_a_file() -> Layers:
    return [Layer().dir("d/").file("d/1"), Layer().file("d", b"file"), Layer().dir("d/").opaque("d").file("d/3")]


@case()
def names_like_markers() -> Layers:
    lower = Layer().file(".wha").file("x.wh.y").file(".whatever").file("wh.").dir("d.wh./").file("d.wh./.w")
    return [lower, Layer().file(".whb")]


# One name, several kinds.


@case()
def kinds_replaced() -> Layers:
    """dir, file, dir; file, dir, file; symlink, dir, symlink: what ended once doesn't come back."""
    first = Layer().dir("dfd/").file("dfd/1").file("fdf", b"1").symlink("sds", "dfd").dir("dsd/").file("dsd/1")
    second = Layer().file("dfd", b"2").dir("fdf/").file("fdf/2").dir("sds/").file("sds/2").symlink("dsd", "dfd")
    third = Layer().dir("dfd/").file("dfd/3").file("fdf", b"3").symlink("sds", "x").dir("dsd/").file("dsd/3")
    return [first, second, third]


@case()
def kinds_replaced_deeper() -> Layers:
    first = Layer().dirs("a/", "a/b/", "a/b/c/").file("a/b/c/1").dir("var/").dir("var/run/").file("var/run/1")
    second = Layer().dir("a/").file("a/b", b"now a file").symlink("var/run", "/run").dir("run/").file("run/2")
    third = Layer().dirs("a/", "a/b/").file("a/b/3").dirs("var/", "var/run/").file("var/run/3")
    return [first, second, third]


@case()
def special_files_replaced() -> Layers:
    first = Layer().fifo("p").char("c").block("b").file("f").dir("d/").file("d/x")
    return [first, Layer().file("p", b"p").dir("c/").file("c/x").symlink("b", "f").char("f", (5, 1)).fifo("d")]


@case()
def through_a_symlink_below() -> Layers:
    """A directory over a symlink: overlayfs does not follow, as Docker would."""
    lower = Layer().dirs("usr/", "usr/lib/").file("usr/lib/x").symlink("lib", "usr/lib")
    return [lower, Layer().file("lib/systemd/unit", b"unit")]


# Hard links.


@case()
def hard_links() -> Layers:
    layer = Layer().file("z", b"data" * 1000).hardlink("a", "z").hardlink("m", "z").dirs("d/", "d/e/")
    layer.hardlink("d/e/n", "a").hardlink("d/dotted", "./z").hardlink("d/rooted", "/z").file("alone")
    return [layer.file("big", noise(300_000)).hardlink("big2", "big")]


@case()
def hard_links_of_other_kinds() -> Layers:
    layer = (
        Layer().symlink("s", "target").hardlink("s2", "s").fifo("p").hardlink("p2", "p").char("c").hardlink("c2", "c")
    )
    return [layer]


@case()
def hard_link_of_an_empty_file() -> Layers:
    return [Layer().file("e").hardlink("e2", "e").file("f").hardlink("g", "f"), Layer().file("f", b"new")]


@case()
def hard_link_target_hidden() -> Layers:
    """The target is replaced, whited out or under an opaque directory: its links keep the old content."""
    lower = Layer().file("replaced", b"r" * 5000).hardlink("r1", "replaced").hardlink("r2", "replaced")
    lower.file("out", b"o" * 5000).hardlink("o1", "out").hardlink("o2", "o1")
    lower.dir("d/").file("d/t", noise(200_000)).hardlink("d1", "d/t").hardlink("d2", "d/t")
    lower.file("dir", b"was a file").hardlink("dir1", "dir")
    upper = Layer().file("replaced", b"new").whiteout("out").dir("d/").opaque("d").dir("dir/").file("dir/x")
    return [lower, upper]


@case()
def hard_link_names_hidden() -> Layers:
    """Some names of a group are gone; where one is left, it is no link any more."""
    lower = Layer().file("a", b"x").hardlink("b", "a").hardlink("c", "a").file("t", b"t").hardlink("l", "t")
    return [lower, Layer().whiteout("b").whiteout("l"), Layer().file("c", b"new")]


@case()
def hard_link_all_hidden() -> Layers:
    return [Layer().file("a", b"x").hardlink("b", "a").file("c"), Layer().whiteout("a").file("b", b"new")]


@case()
def hard_links_in_two_layers() -> Layers:
    """A layer repeats a group, as builders do when one name changes."""
    lower = Layer().file("a", b"1").hardlink("b", "a").hardlink("c", "a")
    return [lower, Layer().file("b", b"2").hardlink("a", "b")]


@case()
def hard_link_target_changed_in_the_layer() -> Layers:
    """The link is to what the name was when the link came."""
    return [Layer().file("a", b"first").hardlink("b", "a").file("a", b"second").hardlink("c", "a")]


@case()
def hard_link_into_dev() -> Layers:
    return [Layer().file("f", b"f").dir("dev/").hardlink("dev/l", "f").dir("x/").hardlink("x/l", "f")]


@case()
def hard_link_with_long_names() -> Layers:
    long = "/".join(["d" * 60] * 4) + "/" + "f" * 150
    gnu = Layer(GNU).file(long, b"gnu").hardlink("l" * 120, long)
    return [Layer().file("p/" + long, b"pax").hardlink("p/" + "l" * 120, "p/" + long), gnu]


@case()
def hard_link_repeated() -> Layers:
    """A link over itself and a link twice."""
    return [Layer().file("a", b"a").hardlink("b", "a").hardlink("b", "a").hardlink("b", "a")]


# Names.


@case()
def long_names() -> Layers:
    def fill(layer: Layer, top: str) -> Layer:
        layer.dir(top)
        for size in (98, 99, 100, 101, 154, 155, 156, 254, 255):
            layer.file(f"{top}/{'n' * size}", b"%d" % size)
        path = top
        for number in range(8):
            path += "/" + "d" * 60 + str(number)
            layer.dir(path + "/")
            layer.file(path + "/f", b"deep")
        layer.symlink(f"{top}/s", "t" * 180).symlink(f"{top}/s100", "t" * 100).symlink(f"{top}/s1000", "t/" * 500)
        return layer

    ustar = (
        Layer(tarfile.USTAR_FORMAT).file("u" * 90 + "/" + "v" * 90, b"prefix").file("u" * 150 + "/" + "v" * 99, b"p")
    )
    return [fill(Layer(PAX), "pax"), fill(Layer(GNU), "gnu"), ustar]


@case()
def odd_names() -> Layers:
    names: list[bytes] = [
        "ünïcödé-名前-😀".encode(), b"new\nline", b"tab\tbell\x07esc\x1b[31m", b"back\\slash", b"quote'\"`$x", b"-dash",
        b" lead", b"trail ", b"...", b"..a", b"a..", b"*?[x]", b"#hash", b"%41", b"\x7f", b"a=b", b"C:\\x", b"{x,y}",
    ]  # fmt: skip
    layers: Layers = []
    for form, top in ((GNU, b"gnu/"), (PAX, b"pax/")):
        layer = Layer(form).dir(top)
        for name in names:
            layer.file(top + name, name).symlink(top + b"s" + name, name).dir(top + b"d" + name + b"/")
            layer.file(top + b"d" + name + b"/f")
        layers.append(layer)
    return [*layers, Layer(GNU).file("gnu/.wh.new\nline").file(b"gnu/.wh.\xc3\xbcn\xc3\xafc\xc3\xb6d\xc3\xa9-no")]


@case()
def names_that_are_not_utf8() -> Layers:
    gnu = (
        Layer(GNU)
        .dir(b"l\xe9/")
        .file(b"l\xe9/caf\xe9", b"1")
        .symlink(b"s\xff", b"\xff\xfe")
        .hardlink(b"h\xe9", b"l\xe9/caf\xe9")
    )
    gnu.file(b"\xff" * 255, b"long").file(b"\xc3\x28", b"cut")
    return [
        gnu,
        Layer(PAX).file(b"p\xe9", b"2").dir(b"l\xe9/", 0o700),
        Layer(GNU).file(b"l\xe9/.wh.caf\xe9").file(b"x"),
    ]


@case()
def prefixes() -> Layers:
    layer = Layer().dir("./", 0o700).dir("./a/").file("./a/dot", b"1").file("/a/slash", b"2").file("a//double", b"3")
    layer.file("a/./inner", b"4").file("././two", b"5").file("//root", b"6").dir(".//b//").file("./b/x").dir("c/.")
    upper = Layer().dir("/a", 0o750).file("./.wh.two").file("/a/.wh.dot").file("./b/.wh..wh..opq").file("/.wh.root")
    return [layer, upper]


@case()
def directories_without_slash() -> Layers:
    old = bytearray(Layer(tarfile.USTAR_FORMAT).file("old/", b"", 0o755).tar(end=b""))
    old[156] = 0  # before POSIX, a directory was a file with a slash
    return [Layer().dir("a").dir("a/b").file("a/b/c").raw(checked(old)).file("old/x"), Layer().dir("a", 0o700)]


def checked(header: bytearray) -> bytes:
    """*header* with its checksum."""
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header[:512])
    return bytes(header)


# Modes and owners.


@case()
def modes() -> Layers:
    layer = Layer(uid=12345, gid=54321)
    for mode in (0, 1, 0o10, 0o44, 0o100, 0o111, 0o200, 0o222, 0o400, 0o444, 0o600, 0o644, 0o755, 0o777,
                 0o1644, 0o2755, 0o4755, 0o6711, 0o4000, 0o7777):  # fmt: skip
        layer.file(f"f{mode:o}", b"x", mode).dir(f"d{mode:o}/", mode).file(f"d{mode:o}/f")
        layer.fifo(f"p{mode:o}", mode).char(f"c{mode:o}", mode=mode).symlink(f"s{mode:o}", "x", mode)
    return [layer]


@case()
def modes_with_the_type_in_them() -> Layers:
    raw = bytearray(Layer(GNU).file("f", b"", 0o644).tar(end=b""))
    raw[100:108] = b"0100644\0"
    other = bytearray(Layer(GNU).dir("d/", 0o755).tar(end=b""))
    other[100:108] = b"0040750\0"
    return [Layer().raw(checked(raw)).raw(checked(other))]


@case()
def modes_of_merged_directories() -> Layers:
    lower = Layer().dir("tmp/", 0o1777).dir("d/", 0o700).dir("e/", 0o555).file("e/f").dir("g/", 0)
    return [lower, Layer().dir("d/", 0o2775), Layer().dir("e/", 0o711).dir("g/", 0o1777)]


@case()
def parents_without_entries() -> Layers:
    """tar makes missing parents, 0755, and these lie over what lower layers have there."""
    lower = Layer().dir("tmp/", 0o1777).dir("d/", 0o700).file("d/old")
    return [lower, Layer().file("tmp/new").file("d/sub/new").file("x/y/z")]


@case()
def entry_after_its_children() -> Layers:
    return [Layer().file("p/q/f", b"1").dir("p/q/", 0o711).dir("p/", 0o700), Layer().file("r/s").dir("r/", 0o1777)]


@case()
def owners() -> Layers:
    layer = Layer(uid=0, gid=0).file("root").file("suid", b"", 0o6755)
    big = Layer(uid=2_000_000, gid=3_000_000).file("pax").dir("d/")
    return [layer, big, Layer(GNU, uid=2**31, gid=2**30).file("gnu")]


# Devices and /dev.


@case()
def dev_is_emptied() -> Layers:
    lower = Layer().dir("dev/", 0o700).char("dev/null").file("dev/foo").dir("dev/pts/").file("dev/pts/deep")
    lower.symlink("dev/fd", "/proc/self/fd").file("./dev/dotted").dirs("opt/", "opt/dev/").file("opt/dev/kept")
    return [lower, Layer().file("dev/bar").file("devil").whiteout("dev/foo")]


@case()
def dev_without_entry() -> Layers:
    return [Layer().file("dev/x").file("y")]


@case()
def dev_whited_out() -> Layers:
    return [Layer().dir("dev/").file("dev/x").file("f"), Layer().whiteout("dev"), Layer().file("g")]


@case()
def dev_is_a_symlink() -> Layers:
    return [Layer().symlink("dev", "elsewhere").dir("elsewhere/").file("elsewhere/x")]


@case()
def devices_elsewhere() -> Layers:
    layer = Layer().dir("opt/").char("opt/c", (1, 3)).char("opt/big", (511, 0x4321)).block("opt/b", (8, 300))
    layer.block("opt/nvme", (259, 255), 0o640).fifo("opt/p", 0o622).char("opt/exec", (1, 5), 0o777)
    return [layer, Layer().whiteout("opt/b"), Layer(GNU).char("opt/gnu", (10, 229), 0o600)]


# What enroot adds.


@case(WorkingDir="/tmp/work")
def workdir_in_tmp() -> Layers:
    return [Layer().dir("tmp/", 0o1777).dir("tmp/work/", 0o700).file("tmp/work/f").file("tmp/g")]


@case(WorkingDir="/link/sub/")
def workdir_on_a_symlink() -> Layers:
    return [Layer().dirs("real/", "real/sub/").file("real/sub/f").symlink("link", "real")]


@case(WorkingDir="/a/file/x")
def workdir_on_a_file() -> Layers:
    return [Layer().dir("a/", 0o711).file("a/file", b"hidden").file("a/g").hardlink("a/h", "a/file")]


@case(WorkingDir="/a/./b//c/")
def workdir_not_normal() -> Layers:
    return [Layer().dir("a/").dir("a/b/", 0o700).file("a/b/f")]


@case(WorkingDir="/dev/shm")
def workdir_in_dev() -> Layers:
    return [Layer().dir("dev/", 0o700).file("dev/x")]


@case(WorkingDir="/etc/conf.d")
def workdir_in_etc() -> Layers:
    return [Layer().dir("etc/", 0o700).dir("etc/conf.d/", 0o700).file("etc/conf.d/f").file("etc/passwd")]


@case(
    Env=["PATH=/usr/bin:/bin", "A=b c", 'Q="x"', "U=ü", "E="],
    Cmd=["echo", "it's", "a b", "", "$HOME"],
    Entrypoint=["/bin/sh", "-c"],
    WorkingDir="/srv",
    Volumes={"/z": {}, "/data": {}, "/var/lib": {}},
    Labels={"k": "v", "org.example": "two words"},
)
def config_of_all_kinds() -> Layers:
    return [Layer().dir("bin/").file("bin/sh", b"#!", 0o755)]


@case()
def etc_files_shadowed() -> Layers:
    layer = (
        Layer().dir("etc/", 0o711).file("etc/passwd", b"root").file("etc/fstab", b"old").hardlink("etc/f2", "etc/fstab")
    )
    layer.symlink("etc/rc.local", "passwd").file("etc/environment", b"A=1").file("etc/rc.d")
    return [layer.dir("etc/rc/").file("etc/rc/inside")]


@case()
def etc_is_a_symlink() -> Layers:
    return [Layer().dir("private/").dir("private/etc/").file("private/etc/passwd").symlink("etc", "private/etc")]


@case()
def etc_whited_out() -> Layers:
    return [Layer().dir("etc/").file("etc/old"), Layer().whiteout("etc"), Layer().dir("etc/").file("etc/new")]


# Content.


@case()
def sizes() -> Layers:
    layer = Layer()
    for size in (0, 1, 511, 512, 513, 4095, 4096, 131071, 131072, 131073, 262144, 500_000):
        layer.file(f"n{size}", noise(size, size)).file(f"z{size}", bytes(size)).file(
            f"t{size}", (b"text %d\n" % size * size)[:size]
        )
    return [layer.file("mixed", noise(131072) + bytes(131072) + noise(5)).file("same", noise(4096, 4096))]


@case()
def sparse_files() -> Layers:
    segments = {0: b"start", 5 << 20: b"middle" * 1000, (10 << 20) - 3: b"end"}
    many = {n << 16: b"%d" % n for n in range(1, 60)}  # more than fit into the first header of any variant
    long = "l" * 60 + "/" + "m" * 120
    layers: Layers = []
    for variant in ("gnu", "oldgnu", "0.0", "0.1", "1.0"):
        layer = Layer().dir(f"{variant}/")
        layer.sparse(f"{variant}/some", 10 << 20, segments, variant)
        layer.sparse(f"{variant}/many", 60 << 16, many, variant)
        layer.sparse(f"{variant}/hole", 3 << 20, {}, variant)
        layer.sparse(f"{variant}/tail", 3 << 20, {4096: b"x" * 100}, variant)
        layer.sparse(f"{variant}/{long}", 1 << 20, {1 << 19: b"y"}, variant)
        layers.append(layer.file(f"{variant}/after", b"after").hardlink(f"{variant}/link", f"{variant}/some"))
    hide = Layer().file("gnu/some", b"new").file("0.0/some", b"new").file("0.1/some", b"new").file("1.0/some", b"new")
    return [*layers, hide.whiteout("oldgnu/some").whiteout("0.0/many").whiteout("gnu/many").whiteout("1.0/many")]


@case()
def times() -> Layers:
    pax = Layer()
    for number, text in enumerate(["1600000000.123456789", "1600000000", "0", "0.5", "2147483648", "1.999999999"]):
        pax.file(f"p{number}", b"x", pax={"mtime": text}).dir(f"pd{number}/", pax={"mtime": text})
        pax.symlink(f"ps{number}", "x", pax={"mtime": text})
    plain = Layer(GNU).file("g0", mtime=0).file("g1", mtime=1).file("g31", mtime=2**31 - 1).file("g32", mtime=2**32 - 1)
    return [pax, plain.dir("gd/", mtime=12345).file("gd/f", mtime=99)]


@case()
def times_before_1970() -> Layers:
    pax = Layer().file("f", pax={"mtime": "-1.5"}).file("i", pax={"mtime": "-1"}).dir("d/", pax={"mtime": "-86400"})
    return [pax.file("h", pax={"mtime": "-0.5"}), Layer(GNU).file("g", mtime=-5).symlink("s", "x", mtime=-100)]


@case()
def xattrs() -> Layers:
    capability = {"SCHILY.xattr.security.capability": "\x01\x00\x00\x02"}
    layer = Layer().file("cap", b"x", 0o755, pax=capability).file("user", pax={"SCHILY.xattr.user.foo": "bar"})
    layer.dir("d/", pax={"SCHILY.xattr.user.d": "1", "LIBARCHIVE.xattr.user.x": "eA"}).symlink("s", "d")
    return [
        layer.file("acl", pax={"SCHILY.acl.access": "user::rw-,group::r--,other::r--", "RHT.security.selinux": "x"})
    ]


@case()
def extended_headers() -> Layers:
    """Records that matter and records that don't, for one member and for all that follow."""
    layer = Layer(GNU).raw(global_header({"comment": "abc", "mtime": "1234567890"})).file("global", b"1")
    layer.file("path-is-elsewhere", b"2", pax={"path": "real/path"}, form=PAX)
    layer.symlink("s", "wrong", pax={"linkpath": "right"}, form=PAX)
    layer.file(
        "owner",
        b"3",
        pax={"uid": "5", "gid": "6", "uname": "ü", "gname": "x", "atime": "1.5", "ctime": "2.5"},
        form=PAX,
    )
    layer.file("vendor", b"4", pax={"APPLE.x": "y", "comment": "c", "charset": "ISO-IR 10646 2000 UTF-8"}, form=PAX)
    return [layer.raw(global_header({"mtime": "1000000000"})).file("later", b"5").dir("d/")]


def global_header(records: Mapping[str, str]) -> bytes:
    """A PAX header for all members that follow."""
    return tarfile.TarInfo.create_pax_global_header(dict(records))


@case()
def size_in_the_extended_header() -> Layers:
    """The size in the header proper is 0, as for files over 8 GiB."""
    archive = bytearray(Layer().file("big", b"c" * 1000, pax={"size": "1000"}).tar(end=b""))
    header = bytearray(archive[1024:1536])
    header[124:136] = b"00000000000\0"
    return [Layer().raw(bytes(archive[:1024])).raw(checked(header)).raw(bytes(archive[1536:])).file("next")]


@case()
def old_formats() -> Layers:
    v7 = bytearray(Layer(tarfile.USTAR_FORMAT).file("v7", b"", 0o640).tar(end=b""))
    v7[156] = 0
    v7[257:512] = bytes(255)
    contiguous = Layer().member("contiguous", tarfile.CONTTYPE, b"data")
    return [Layer().raw(checked(v7)).raw(contiguous.tar(end=b"")).file("last")]


@case()
def directory_of_7000() -> Layers:
    lower = Layer().dir("big/")
    for number in range(7000):
        lower.file(f"big/some_longish_name_{number:05d}", b"content %d\n" % number)
    upper = Layer().file("big/some_longish_name_00100", b"changed").whiteout("big/some_longish_name_00200")
    return [lower, upper.dir("big/", 0o711).dir("big/dir/").file("big/zzz")]


# Layers.


@case()
def empty_layers() -> Layers:
    return [Layer(), Layer().file("f"), Layer(), Layer()]


@case()
def only_empty_layers() -> Layers:
    return [Layer(), Layer()]


@case()
def same_layer_twice() -> Layers:
    layer = Layer().dir("d/", 0o700).file("d/f", b"x").hardlink("d/l", "d/f").whiteout("old").opaque("d")
    return [Layer().file("old").dir("d/").file("d/older"), layer, layer]


@case()
def same_layer_around_another() -> Layers:
    layer = Layer().file("f", b"first").dir("d/", 0o700).file("d/f", b"first").file("l", b"x").hardlink("m", "l")
    return [layer, Layer().file("f", b"second").whiteout("d").file("l", b"y"), layer]


@case()
def fifty_layers() -> Layers:
    layers: Layers = []
    for number in range(50):
        layer = Layer().dir("d/", 0o700 + number).file("d/last", b"%d" % number).file(f"d/f{number}")
        layers.append(layer.whiteout(f"d/f{number - 2}") if number % 3 == 0 else layer)
    return layers


@case()
def archive_without_end() -> Layers:
    return [
        Layer().file("f", b"x" * 600).tar(end=b""),
        Layer().file("g").tar(end=bytes(512)),
        Layer().file("h").tar(end=bytes(10240)),
    ]


@case()
def something_after_the_end() -> Layers:
    """What follows two zero blocks is no part of the archive."""
    return [Layer().file("f").tar() + Layer().file("g").tar(), Layer().file("h").tar() + b"garbage" * 100]


# Members twice, and members below what is no directory.


@case()
def duplicates() -> Layers:
    """The last one counts."""
    layer = Layer().dir("x/").file("x/f", b"one").file("x/g", b"g").file("x/f", b"two", 0o600).dir("x/", 0o700)
    layer.symlink("x/h", "g").file("x/h", b"file now").file("x/i", b"was a file").symlink("x/i", "g")
    layer.fifo("x/p").file("x/p", b"p").file("./x/g", b"third").hardlink("x/k", "x/g").file("x/k", b"own again")
    return [layer]


@case()
def duplicates_of_another_kind() -> Layers:
    layer = Layer().dir("empty/").file("empty", b"now a file").file("f", b"x").dir("f/").file("f/below")
    return [layer.symlink("s", "f").dir("s/", 0o700).file("s/below").file("plain").fifo("plain")]


@case()
def duplicates_of_whiteouts() -> Layers:
    return [Layer().file("f").dir("o/").file("o/1"), Layer().whiteout("f").whiteout("f").opaque("o").opaque("o")]


@case()
def below_a_symlink_of_the_layer() -> Layers:
    """GNU tar follows a symlink that it has just made."""
    layer = Layer().dirs("real/", "real/deep/").symlink("link", "real").file("link/f", b"1").dir("link/d/", 0o700)
    layer.file("link/d/g", b"2").symlink("real/deep/up", "deeper").dir("real/deep/deeper/").file("link/deep/up/h", b"3")
    return [layer.file("t", b"t").hardlink("link/hard", "t").hardlink("hard", "link/f")]


@hard
def below_a_symlink_with_dots() -> Layers:
    return [Layer().dirs("a/", "b/").symlink("a/up", "../b").file("a/up/f", b"1")]


@hard
def hard_link_before_its_target() -> Layers:
    return [Layer().file("x").hardlink("link", "later").file("later", b"data")]


@hard
def hard_link_before_its_target_first() -> Layers:
    """The very first member; mksquashfs 4.5.1 crashes on it."""
    return [Layer().hardlink("link", "later").file("later", b"data")]


@hard
def hard_link_to_nothing() -> Layers:
    return [Layer().hardlink("link", "nowhere").file("x")]


@hard
def hard_link_into_a_lower_layer() -> Layers:
    return [Layer().file("f", b"lower"), Layer().hardlink("link", "f")]


@hard
def hard_link_to_a_directory() -> Layers:
    return [Layer().dir("d/").file("d/f").hardlink("link", "d")]


@hard
def below_a_file_of_the_layer() -> Layers:
    return [Layer().file("f").file("f/below")]


@hard
def file_over_a_full_directory() -> Layers:
    return [Layer().dir("d/").file("d/f").file("d", b"file")]


@hard
def name_with_dots() -> Layers:
    return [Layer().dir("a/").file("a/../b").file("x")]


@hard
def name_with_256_bytes() -> Layers:
    return [Layer(GNU).file("n" * 256).file("x")]


@hard
def cut_in_a_long_name() -> Layers:
    """After the header that announces the name."""
    return [Layer(GNU).file("f").file("n" * 2000).tar(end=b"")[:2048]]


@hard
def cut_in_content() -> Layers:
    return [Layer().file("f", b"1" * 200_000).tar()[:50_000]]


@hard
def wrong_checksum() -> Layers:
    archive = bytearray(Layer(GNU).file("f").file("g").tar())
    archive[600] ^= 1
    return [bytes(archive)]


@hard
def no_archive() -> Layers:
    return [noise(10240)]


@hard
def whiteout_beside_its_name() -> Layers:
    """Of the lower layers' file only: the upper layer's stays."""
    return [
        Layer().file("f", b"lower").dir("d/").file("d/1"),
        Layer().file("f", b"u").whiteout("f").dir("d/").file("d/2").whiteout("d"),
    ]


@hard
def whiteouts_without_name() -> Layers:
    return [Layer().dir("etc/").file("etc/x"), Layer().file("etc/.wh.").file("y")]


@hard
def whiteout_of_dots() -> Layers:
    return [Layer().dir("etc/").file("etc/x"), Layer().file("etc/.wh...").file("etc/.wh..")]


@hard
def whiteouts_of_aufs_itself() -> Layers:
    return [Layer().file("x"), Layer().file(".wh..wh.aufs").dir(".wh..wh.plnk/").file("y")]
