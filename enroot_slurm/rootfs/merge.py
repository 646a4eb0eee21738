"""Layers to one stream of members, from the top layer down: what `enroot import` unpacks, without unpacking.

Members pass through as they are read.  Two things need another look at a layer: a hard link whose data is stored
under a name that an upper layer hides (the data is read again), and members that replace each other (what is written
can't be taken back, so the whole merge starts again, with plans).  Directories are written last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, UnsupportedImage, printable
from enroot_slurm.oci.layer import WHITEOUT, readable
from enroot_slurm.rootfs.hard_links import ends
from enroot_slurm.rootfs.paths import join, outside
from enroot_slurm.rootfs.plan import make_plan
from enroot_slurm.rootfs.stack import VISIBLE, LayerNames, Stack
from enroot_slurm.tar.reader import BLOCK, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Reader

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from enroot_slurm.rootfs.entrypoint import RcLayer
    from enroot_slurm.tar.reader import Member
    from enroot_slurm.tar.sink import Sink

__all__ = ["MAX_MEMBERS", "LinkAcrossLayers", "Merge", "too_large"]

MAX_MEMBERS = 10_000_000
"""Members that the layers of one image may have."""

_DEVICES = {BLOCK: "b", CHAR: "c", FIFO: "p"}


class LinkAcrossLayers(IntegrityError):
    """A hard link names what its own layer does not have: a lower one may, or none."""


class Merge:
    """The merge of one image's layers into *sink*, below the files of *rc*.

    *now* is the time, in seconds, of enroot's own files.  Directories that no layer describes have it, or *implied*.
    With *markers*, whiteouts become empty files of their names: a single layer, to be joined with others later.  The
    layers' files may have *limit* bytes together: sparse ones are larger than what an archive has of them.
    """

    def __init__(
        self, sink: Sink, rc: RcLayer, now: int, *, limit: int, markers: bool = False, implied: int | None = None
    ) -> None:
        self._limit = limit
        self._sink = sink
        self._markers = markers
        self._implied = (0o755, now if implied is None else implied)
        self._stack = Stack(rc.directories, (path for path, _ in rc.files))
        self._directories = dict.fromkeys(rc.directories, (0o755, now))
        self._orphans = _Orphans(self._stack)
        self._members = self._bytes = 0
        self._files = len(rc.files)
        for path, content in rc.files:
            sink.file(path, 0o644, now, len(content))
            sink.slice(content, 0, len(content))

    @property
    def inodes(self) -> int:
        """Inodes so far, with the root directory."""
        return self._files + len(self._directories) + 1

    def add_layer(self, read: Callable[[], Iterable[bytes]], *, planned: bool = False) -> None:
        """Merge the next lower layer; each call of *read* gives its tar archive from the start.

        Raises: NeedsPlan, unless *planned*: start again with a new Merge, and plan; IntegrityError, UnsupportedImage;
        and what *read* raises.
        """
        layer = LayerNames(self._stack)
        again = self._plan(layer, Reader(read())) if planned else self._stream(layer, Reader(read()))
        if again:
            reader = Reader(read())
            for number, member in enumerate(reader):
                if names := again.get(number):
                    self._write(reader, member, names)
        self._directories.update(layer.shown)
        layer.close(linked=bool(self._orphans))

    def finish(self) -> None:
        """Write the directories.  Raises: IntegrityError, for a hard link to nowhere."""
        self._orphans.end()
        for path, (mode, mtime) in self._directories.items():
            self._sink.directory(path, mode | 0o700, mtime)

    def _stream(self, layer: LayerNames, reader: Reader) -> dict[int, list[bytes]]:
        """Write what shows of a layer; the numbers of the members to be read again, with the names they get."""
        links = _Links(layer)
        entered = layer.directories
        for number, member in self._counted(reader):
            path = member.path
            if outside(path):
                continue
            parent, _, name = path.rpartition(b"/")
            if parent not in entered:
                parent = layer.enter(parent, self._implied)
                path = join(parent, name)
                if outside(path):
                    continue
            if name.startswith(WHITEOUT):
                self._whiteout(layer, parent, name)
                continue
            if member.kind == DIRECTORY:
                layer.directory(path, (member.mode, member.mtime))
                continue
            shows = layer.claim(path, parent, number)
            names = [path] if shows else []
            if self._orphans:
                names += self._orphans.claim(path)
            if member.kind == HARDLINK:
                links.add(path, names, member.link)
                continue
            if member.kind == SYMLINK:
                layer.symlinks[path] = member.link
            if names:
                self._write(reader, member, names)
                if not shows:
                    links.written[number] = names[0]
        for path, target in links.settle():
            self._sink.hardlink(path, target)
        for target, names in links.missing.items():
            self._orphans.add(target, names)
        return links.hidden

    def _plan(self, layer: LayerNames, reader: Reader) -> dict[int, list[bytes]]:
        """As `_stream`, but nothing is written yet: all that shows is to be read again."""
        plan = make_plan((member for _, member in self._counted(reader)), self._stack.implied)
        for path, attributes in plan.directories.items():
            layer.directory(path, attributes or self._implied)
        for path in plan.whiteouts:
            parent, _, name = path.rpartition(b"/")
            self._whiteout(layer, parent, name)
        again = {}
        for number, names in plan.members.items():
            again[number] = self._shown(layer, names, number)
        for target, names in plan.links.items():
            if shown := self._shown(layer, names, 0):
                self._orphans.add(target, shown)
        return again

    def _shown(self, layer: LayerNames, names: list[bytes], number: int) -> list[bytes]:
        """Which *names* of the member *number* show, and the links of upper layers to them."""
        shown = [p for p in names if layer.claim(p, p.rpartition(b"/")[0], number)]
        return shown + [orphan for p in names for orphan in self._orphans.claim(p)] if self._orphans else shown

    def _whiteout(self, layer: LayerNames, parent: bytes, name: bytes) -> None:
        if layer.whiteout(parent, name) and self._markers:
            self._files += 1
            self._sink.file(join(parent, name), 0o644, 0, 0)

    def _write(self, reader: Reader, member: Member, names: list[bytes]) -> None:
        """Write the member that *reader* is at under its names."""
        sink, path, kind = self._sink, names[0], member.kind
        self._files += 1
        mode = readable(member.mode)
        if kind == FILE:
            sink.file(path, mode, member.mtime, member.size)
            reader.copy(sink)
        elif kind == SYMLINK:
            sink.symlink(path, member.mtime, member.link)
        else:
            sink.device(path, _DEVICES[kind], mode, member.mtime, member.device)
        for other in names[1:]:
            sink.hardlink(other, path)

    def _counted(self, reader: Reader) -> Iterator[tuple[int, Member]]:
        for number, member in enumerate(reader):
            self._members += 1
            if self._members > MAX_MEMBERS:
                raise UnsupportedImage(f"the image's layers have more than {MAX_MEMBERS} members")
            self._bytes += member.size
            if self._bytes > self._limit:
                raise too_large(self._limit)
            yield number, member


class _Links:
    """The hard links of a layer that is streamed.

    A link may come before its target, and name another link; so all are settled at the end of the layer, when it is
    known what each target has become.
    """

    def __init__(self, layer: LayerNames) -> None:
        self._layer = layer
        self._shown: list[tuple[bytes, bytes]] = []  # names that show, with the links that they are of
        self._targets: dict[bytes, bytes] = {}  # of all links, hidden ones too
        self.written: dict[int, bytes] = {}
        """Members that do not show, but that links of upper layers are of, by number: one of these links."""
        self.hidden: dict[int, list[bytes]] = {}
        """Names whose data is in a member that does not show, by that member's number."""
        self.missing: dict[bytes, list[bytes]] = {}
        """Names whose target this layer does not have."""

    def add(self, path: bytes, names: list[bytes], target: bytes) -> None:
        """The link at *path*, which shows under *names*."""
        self._targets[path] = target
        self._shown += [(name, path) for name in names]

    def settle(self) -> Iterator[tuple[bytes, bytes]]:
        """Yield the links that can be written, with their targets; the others go to `hidden` and `missing`."""
        layer, targets = self._layer, self._targets
        for path, link in targets.items():
            targets[path] = layer.symlinks.resolve(link)
        end_of = ends(targets, layer.directories)
        for name, path in self._shown:
            target = end_of[path]
            state = layer.find(target)
            if state == VISIBLE:
                yield name, target
            elif state in self.written:
                yield name, self.written[state]
            elif state is not None:
                self.hidden.setdefault(state, []).append(name)
            else:
                self.missing.setdefault(target, []).append(name)


class _Orphans:
    """Hard links that a layer below the ones so far must resolve."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._names: dict[bytes, tuple[int, list[bytes]]] = {}  # by target: the first layer with a link to it

    def __bool__(self) -> bool:
        return bool(self._names)

    def add(self, target: bytes, names: list[bytes]) -> None:
        """The current layer has links to *target* at *names*."""
        self._names.setdefault(target, (self._stack.depth, []))[1].extend(names)

    def claim(self, path: bytes) -> list[bytes]:
        """The links to *path*, which the current layer has.  Raises: LinkAcrossLayers, if one between hides it."""
        since, names = self._names.pop(path, (0, []))
        if names and self._stack.removes(path, since):
            raise _dangling(names[0], path)
        return names

    def end(self) -> None:
        """There is no further layer.  Raises: LinkAcrossLayers."""
        for target, (_, names) in self._names.items():
            raise _dangling(names[0], target)


def too_large(limit: int) -> UnsupportedImage:
    """The error for layers that have more than *limit* bytes when they are unpacked."""
    return UnsupportedImage(
        f"the image's layers have more than {limit >> 20} MiB when they are unpacked",
        hint="The setting max_unpacked is the limit.",
    )


def _dangling(path: bytes, target: bytes) -> LinkAcrossLayers:
    return LinkAcrossLayers(f"{printable(path)} is a hard link to {printable(target)}, which no layer has")
