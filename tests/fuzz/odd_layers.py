"""Layers that no tool makes: strategies for them, and what each way of the package makes of one stack of them."""

from __future__ import annotations

import hashlib
import random
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from support.layer_images import NOW, link_layers, opened
from support.tree import ROOT, Entry, read_tree

from enroot_slurm.errors import IntegrityError
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.rootfs.merge import LinkAcrossLayers, Merge
from enroot_slurm.rootfs.stack import NeedsPlan
from enroot_slurm.squashfs.format.superblock import CannotJoin
from enroot_slurm.squashfs.options import SquashOptions
from enroot_slurm.squashfs.writing.writer import ImageWriter

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["STACKS", "as_image", "counted", "layered", "merged", "random_stack"]

RC = RcLayer((b"etc", b"a"), ((b"etc/rc", b"rc"),))
OPTIONS = SquashOptions.parse("-comp zstd -Xcompression-level 1")
LIMIT = 64 << 20

# ---- archives: header by header, with fields that are wrong, and bytes that are changed behind their backs

_NAMES = st.sampled_from(
    [b"a", b"b", b"c", b"s", b"t", b".wh.a", b".wh.b", b".wh..wh..opq", b".wh..wh.x", b"..", b".", b""]
)
_PATHS = st.lists(_NAMES, min_size=1, max_size=4).map(b"/".join)
_TARGETS = st.one_of(_PATHS, st.sampled_from([b"/a", b"/", b"../..", b"s/s", b"t/t", b"a/../s", b"", b"x" * 99]))
_KINDS = st.sampled_from([bytes([k]) for k in b"00005555222211113467DSZ\0V"])
_SIZES = st.sampled_from([0, 0, 0, 5, 512, 700])
_ODD_FIELDS = st.tuples(
    st.sampled_from([(100, 8), (124, 12), (136, 12), (329, 8), (337, 8), (386, 12), (398, 12), (482, 1), (483, 12)]),
    st.one_of(
        st.sampled_from([b"\xff" * 12, b"-0000001", b"\x80" + bytes(11), b"77777777777", b"\0", b"0o7"]),
        st.binary(max_size=12),
    ),
)
_RECORDS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from([b"path", b"linkpath", b"GNU.sparse.name"]), st.one_of(_PATHS, st.just(b"a\0b"))),
        st.tuples(st.just(b"size"), st.sampled_from([b"0", b"5", b"+5", b"-5", b"0" * 19, b"9" * 19, b""])),
        st.tuples(st.just(b"mtime"), st.sampled_from([b"1.5", b"-1", b".5", b"+5", b"1" * 19, b"x", b""])),
        st.sampled_from(
            [
                *((b"GNU.sparse.major", v) for v in (b"0", b"1", b"2")),
                (b"GNU.sparse.minor", b"0"),
                *((b"GNU.sparse.realsize", v) for v in (b"9", b"1000000")),
                *((b"GNU.sparse.size", v) for v in (b"9", b"1000000")),
                *((b"GNU.sparse.map", v) for v in (b"0,5", b"3,2,900,1", b"1", b"5,5,0,1")),
                (b"GNU.sparse.offset", b"3"),
                (b"GNU.sparse.numbytes", b"2"),
            ]
        ),
        st.tuples(st.binary(max_size=4), st.binary(max_size=4)),
    ),
    max_size=4,
)
_BODIES = st.sampled_from([b"", b"1\n0\n5\n", b"2\n0\n1\n700\n2\n", b"x" * 300])
_AHEAD = st.tuples(st.sampled_from([b"x", b"x", b"x", b"g", b"L", b"K"]), _RECORDS, _PATHS)
_MEMBERS = st.tuples(
    _PATHS, _KINDS, _SIZES, _TARGETS, _BODIES,
    st.lists(_AHEAD, max_size=2) | st.just([]),
    st.lists(_ODD_FIELDS, max_size=1) | st.just([]),
)  # fmt: skip


def _header(
    name: bytes, kind: bytes, size: int, link: bytes = b"", odd: Sequence[tuple[tuple[int, int], bytes]] = ()
) -> bytes:
    block = bytearray(512)
    magic = b"ustar  \0" if kind == b"S" else b"ustar\x0000"
    for at, value in (
        (0, name[:100]), (100, b"0000644\0"), (124, b"%011o\0" % size), (136, b"14524770400\0"), (156, kind),
        (157, link[:100]), (257, magic), *((place[0], value[: place[1]]) for place, value in odd),
    ):  # fmt: skip
        block[at : at + len(value)] = value
    return _summed(block)


def _summed(block: bytearray) -> bytes:
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def _record(key: bytes, value: bytes) -> bytes:
    text = b" %s=%s\n" % (key, value)
    length = len(text)
    while len(b"%d" % length) + len(text) != length:
        length += 1
    return b"%d" % length + text


def _archive(members: Sequence[tuple], changes: Sequence[tuple[int, int, bool]], cut: int) -> bytes:
    data = bytearray()
    for name, kind, size, link, body, ahead, odd in members:
        for header, records, path in ahead:
            value = b"".join(_record(*record) for record in records) if header in b"xg" else path + b"\0"
            data += _header(b"h", header, len(value)) + value + bytes(-len(value) % 512)
        content = (body + b"d" * size)[:size]
        stored = size if kind not in (b"1", b"2", b"3", b"4", b"5", b"6") else 0
        data += _header(name, kind, size, link, odd) + content[:stored] + bytes(-stored % 512)
    for place, value, repaired in changes:
        if data:
            place %= len(data)
            data[place] = value
            if repaired:  # or the checksum would find nearly every change
                start = place - place % 512
                data[start : start + 512] = _summed(data[start : start + 512])
    data += bytes(1024)
    return bytes(data[: len(data) - cut])


_CHANGES = st.lists(st.tuples(st.integers(0, 1 << 16), st.integers(0, 255), st.booleans()), max_size=2) | st.just([])
_ARCHIVES = st.builds(_archive, st.lists(_MEMBERS, max_size=8), _CHANGES, st.sampled_from([0] * 9 + [700]))
STACKS = st.lists(_ARCHIVES, min_size=1, max_size=4)
"""Archives of layers, the lowest first."""

_COMPONENTS = (
    b"a",
    b"a",
    b"a",
    b"b",
    b"b",
    b"c",
    b"d",
    b"s",
    b"t",
    b".",
    b"..",
    b"",
    b".wh.a",
    b".wh.b",
    b".wh..wh..opq",
)
_WAYS = (
    *(b"a", b"b", b"c", b"a/b", b"/a", b"/", b"../..", b"d/.", b"c/d") * 3,
    b"s",
    b"s/s",
    b"t/a",
    b"a/../s",
    b"x" * 99,
)
_LETTERS = b"0000005555552211113467DSZ\0V"
_VALUES = {
    b"path": (b"a", b"b/c", b"s/a", b"", b"a\0b"),
    b"linkpath": (b"a", b"s", b"", b"a\0b"),
    b"size": (b"0", b"5", b"+5", b"-5", b"0" * 19, b""),
    b"mtime": (b"1.5", b"-1", b".5", b"1" * 19, b"x"),
    b"GNU.sparse.major": (b"0", b"1", b"2"),
    b"GNU.sparse.realsize": (b"9", b"1000000"),
    b"GNU.sparse.size": (b"9", b"1000000"),
    b"GNU.sparse.map": (b"0,5", b"3,2,900,1", b"1", b"5,5,0,1"),
    b"k": (b"", b"v"),
}


def random_stack(seed: int) -> list[bytes]:
    """As `STACKS` gives, a hundred times as fast; the same for the same *seed*."""
    rng = random.Random(seed)
    pick = rng.choice
    used: list[bytes] = []  # names of the layer, and sometimes of lower ones, for its hard links
    wild = pick((0, 0, 0.02, 0.2))  # how often something is odd

    def path() -> bytes:
        kinds = _COMPONENTS if rng.random() < 0.3 else _COMPONENTS[:9]
        return b"/".join(pick(kinds) for _ in range(pick((1, 1, 2, 2, 3, 4))))

    def member() -> tuple:
        kind = pick(_LETTERS if rng.random() < wild else _LETTERS[:18])
        name = path()
        link = pick(_WAYS) if kind == ord("2") else pick(used) if used and rng.random() < 0.9 else path()
        used.append(name)
        ahead = []
        while rng.random() < wild:
            keys = rng.choices(list(_VALUES), k=pick((1, 1, 2, 3)))
            ahead.append((pick((b"x", b"x", b"g", b"L", b"K")), [(key, pick(_VALUES[key])) for key in keys], path()))
        odd = []
        if rng.random() < wild / 2:
            odd = [((pick((100, 124, 136, 329, 337, 386, 398, 483)), 8), rng.randbytes(pick((1, 4, 8))))]
        return name, bytes([kind]), pick((0, 0, 0, 5, 700)), link, pick((b"", b"1\n0\n5\n")), ahead, odd

    stack = []
    for _ in range(pick((1, 1, 2, 3, 4))):
        if rng.random() < 0.7:
            used.clear()
        changes = []
        while rng.random() < wild:
            changes.append((rng.randrange(1 << 16), rng.randrange(256), rng.random() < 0.9))
        members = [member() for _ in range(pick((1, 2, 3, 5, 8, 13)))]
        stack.append(_archive(members, changes, 700 if rng.random() < wild / 4 else 0))
    return stack


# ---- what becomes of them: a tree, or an error


class Recorder:
    """A `Sink` that keeps the tree, and holds whoever writes to the protocol."""

    def __init__(self) -> None:
        self.tree: dict[bytes, Entry] = {}
        self._content = bytearray()
        self._open: tuple[bytes, int, int, int] | None = None
        self._groups: dict[bytes, list[bytes]] = {}

    def file(self, path: bytes, mode: int, mtime: int, size: int) -> None:
        self.close()
        self._open = (path, mode, mtime, size)

    def slice(self, chunk: bytes, start: int, stop: int) -> None:
        self._content += chunk[start:stop]

    def zeros(self, count: int) -> None:
        self._content += bytes(count)

    def directory(self, path: bytes, mode: int, mtime: int) -> None:
        self._add(path, Entry("dir", mode, mtime=mtime))

    def symlink(self, path: bytes, mtime: int, target: bytes) -> None:
        self._add(path, Entry("symlink", 0o777, mtime=mtime, target=target))

    def device(self, path: bytes, kind: str, mode: int, mtime: int, device: tuple[int, int]) -> None:
        name = {"b": "block", "c": "char", "p": "fifo"}[kind]
        self._add(path, Entry(name, mode, mtime=mtime, device=device if kind != "p" else (0, 0)))

    def hardlink(self, path: bytes, target: bytes) -> None:
        self.close()
        assert self.tree[target].kind != "dir"
        first = next((group[0] for group in self._groups.values() if target in group), target)
        self._groups.setdefault(first, [first]).append(path)
        self._add(path, self.tree[target])

    def close(self) -> None:
        if self._open is not None:
            (path, mode, mtime, size), self._open = self._open, None
            assert len(self._content) == size, "a file has another size than was said"
            sha256 = hashlib.sha256(self._content).hexdigest()
            self._content = bytearray()
            self._add(path, Entry("file", mode, mtime=mtime, size=size, sha256=sha256))

    def _add(self, path: bytes, entry: Entry) -> None:
        self.close()
        assert path not in self.tree, f"{path!r} is written twice"
        self.tree[path] = entry

    def finished(self) -> dict[bytes, Entry]:
        self.close()
        for path, entry in self.tree.items():
            parent = path.rpartition(b"/")[0]
            assert not parent or self.tree[parent].kind == "dir", f"{path!r} is in no directory"
            assert not {b"", b".", b".."} & set(path.split(b"/"))
            assert b"\0" not in path
            assert entry.mtime < 1 << 32
        for group in self._groups.values():
            for path in group:
                self.tree[path] = self.tree[path]._replace(link=min(group))
        return self.tree


def _merge(merge: Merge, tars: Sequence[bytes], *, planned: bool) -> None:
    for tar in reversed(tars):
        merge.add_layer(lambda tar=tar: (tar[at : at + 777] for at in range(0, len(tar), 777)), planned=planned)
    merge.finish()


def merged(tars: Sequence[bytes], *, planned: bool) -> dict[bytes, Entry] | str:
    """The tree of a merge, which plans from the start or where it has to; or "error"."""
    try:
        try:
            recorder = Recorder()
            _merge(Merge(recorder, RC, NOW, limit=LIMIT, implied=0), tars, planned=planned)
        except NeedsPlan:
            assert not planned, "a plan needs a plan"
            recorder = Recorder()
            _merge(Merge(recorder, RC, NOW, limit=LIMIT, implied=0), tars, planned=True)
    except IntegrityError:  # any other error fails the test
        return "error"
    return recorder.finished()


def as_image(tars: Sequence[bytes], image: Path, rc: RcLayer = RC, now: int = NOW, *, markers: bool = False) -> None:
    """Write the image of *tars*.  Raises: IntegrityError."""
    for planned in (False, True):
        try:
            with (
                ThreadPoolExecutor(1) as pool,
                opened(image) as file,
                ImageWriter(file, OPTIONS, pool, 1, now=now) as sink,
            ):
                merge = Merge(sink, rc, now, limit=LIMIT, implied=0, markers=markers)
                _merge(merge, tars, planned=planned)
                sink.finish(merge.inodes)
                return
        except NeedsPlan:
            assert not planned


def layered(tars: Sequence[bytes]) -> dict[bytes, Entry] | str:
    """The tree in the image that images of the layers are joined to, or what is written where that can't be.

    The layers up to the topmost one with a link into a lower one are one image.
    """
    with tempfile.TemporaryDirectory(prefix="fuzz.") as name:
        directory = Path(name)
        image = directory / "image"
        try:
            try:
                layers = [directory / str(number) for number in range(len(tars))]
                height = 0
                for number, tar in enumerate(tars):
                    try:
                        as_image([tar], layers[number], RcLayer((), ()), 0, markers=True)
                    except LinkAcrossLayers:
                        height = number + 1
                if height:
                    as_image(tars[:height], stack := directory / "stack", RcLayer((), ()), 0)
                    layers[:height] = [stack]
                link_layers(image, layers, RC)
            except (LinkAcrossLayers, CannotJoin):
                as_image(tars, image)
        except IntegrityError:
            return "error"
        tree = read_tree(image)
        del tree[ROOT]
        return tree


def counted(function: Callable[[], object]) -> int:
    """How many lines of the package *function* runs: a measure of work that no other process disturbs."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if "enroot_slurm/rootfs" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(before)
    return count
