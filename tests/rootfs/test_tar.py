"""Tar archives: read as GNU tar and tarfile read them, and refused when they are damaged."""

from __future__ import annotations

import io
import subprocess
import tarfile
import tempfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tar_writer import TarWriter, header

from enroot_slurm.errors import IntegrityError
from enroot_slurm.rootfs import tar
from enroot_slurm.rootfs.tar import BLOCK, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Reader, clean

FORMATS = {"ustar": tarfile.USTAR_FORMAT, "gnu": tarfile.GNU_FORMAT, "pax": tarfile.PAX_FORMAT}


def pieces(data, size):
    return (data[i : i + size] for i in range(0, len(data), size))


def write(*infos, fmt=tarfile.PAX_FORMAT):
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=fmt) as archive:
        for info, content in infos:
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return stream.getvalue()


def member(name, **fields):
    info = tarfile.TarInfo(name)
    info.mtime = 1_600_000_000
    for key, value in fields.items():
        setattr(info, key, value)
    return info


def rewrite(data, size=1 << 20):
    """The archive that Reader and TarWriter make of another."""
    with tempfile.TemporaryFile() as out:
        writer = TarWriter(out.fileno())
        reader = Reader(pieces(data, size))
        for m in reader:
            if m.kind == FILE:
                writer.file(m.path, m.mode, m.mtime, m.size)
                reader.copy(writer)
            elif m.kind == DIRECTORY:
                writer.directory(m.path, m.mode, m.mtime)
            elif m.kind == SYMLINK:
                writer.symlink(m.path, m.mtime, m.link)
            elif m.kind == HARDLINK:
                writer.hardlink(m.path, m.link)
            else:
                writer.device(m.path, {CHAR: "c", BLOCK: "b", FIFO: "p"}[m.kind], m.mode, m.mtime, m.device)
        writer.close()
        out.seek(0)
        return out.read()


def contents(data):
    with tarfile.open(fileobj=io.BytesIO(data), errorlevel=2) as archive:
        return [
            (
                i.name,
                i.type,
                i.mode,
                int(i.mtime) & 0xFFFFFFFF,
                i.linkname,
                archive.extractfile(i).read() if i.isreg() else b"",
                (i.devmajor, i.devminor) if i.isdev() else (),
            )
            for i in archive
        ]


names = st.text(st.characters(exclude_characters="/\0", exclude_categories=["Cs"]), min_size=1, max_size=40)
names = st.lists(names.filter(lambda n: n not in {".", ".."} and len(n.encode()) < 250), min_size=1, max_size=5).map(
    "/".join
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.tuples(
            names,
            st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE]),
            st.integers(0, 0o7777),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=1500),
        ),
        max_size=6,
    ),
    st.sampled_from(["gnu", "pax"]),
    st.sampled_from([1, 100, 512, 4096, 1 << 20]),
)
def test_archives_survive(entries, fmt, size):
    """What tarfile writes, in whatever pieces it arrives, is read and written again unchanged."""
    infos = []
    for name, kind, mode, mtime, content in entries:
        info = member(name, type=kind, mode=mode, mtime=mtime)
        if kind == tarfile.SYMTYPE:
            info.linkname, info.mode = "target/" + name, 0o777
        info.devmajor, info.devminor = (3, 7) if kind == tarfile.CHRTYPE else (0, 0)
        infos.append((info, content if kind == tarfile.REGTYPE else b""))
    data = write(*infos, fmt=FORMATS[fmt])
    assert contents(rewrite(data, size)) == contents(data)


@pytest.mark.parametrize("fmt", FORMATS)
def test_long_names(fmt):
    """Names of 90 to 255 bytes, split into a ustar prefix or in extended headers, are read."""
    for length in (90, 99, 100, 101, 150, 200, 240):
        name = "/".join(["d" * 49] * (length // 50) + ["f" * (length % 50 or 1)])
        (found,) = Reader([write((member(name), b""), fmt=FORMATS[fmt])])
        assert found.path == name.encode()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("1.5", 1),
        ("-1.5", 2**32 - 2),
        ("-1", 2**32 - 1),
        ("7", 7),
        ("-0.25", 2**32 - 1),
        ("1.", 1),
        ("-2.000", 2**32 - 2),
    ],
)
def test_pax_times_are_rounded_down(text, seconds):
    """A PAX time becomes whole seconds at or before it; before 1970 it wraps as with a directory source."""
    (found,) = Reader([write((member("f", pax_headers={"mtime": text}), b""))])
    assert found.mtime == seconds


def test_negative_gnu_times_and_huge_sizes():
    """Base-256 numbers are read with their sign, and large sizes are written in base 256."""
    (found,) = Reader([write((member("f", mtime=-5), b""), fmt=tarfile.GNU_FORMAT)])
    assert found.mtime == 2**32 - 5
    head = header(b"big", tar.FILE, 0o644, 0, size=1 << 40)
    assert tarfile.TarInfo.frombuf(head, "utf-8", "strict").size == 1 << 40


@pytest.mark.parametrize(
    "options",
    [
        ["--format=gnu"],
        ["--format=oldgnu"],
        *(["--format=pax", f"--sparse-version={v}"] for v in ("0.0", "0.1", "1.0")),
    ],
    ids=" ".join,
)
def test_sparse_files_are_whole(options, tmp_path):
    """Sparse files in all formats of GNU tar come out with their holes as zeros, and what follows is in place."""
    file = tmp_path / "sparse"
    with file.open("wb") as out:
        for i in range(60):
            out.seek(i * 100_000)
            out.write(b"data %d" % i * 300)
        out.truncate(7_000_001)
    (tmp_path / "after").write_bytes(b"next")
    command = ["tar", "-cS", *options, "-C", str(tmp_path), "sparse", "after"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert len(data) < 1_000_000
    found = {entry[0]: entry[5] for entry in contents(rewrite(data, 4096))}
    assert found == {"sparse": file.read_bytes(), "after": b"next"}


def test_gnu_tar_reads_what_is_written(tmp_path):
    """GNU tar extracts a rewritten archive of a real tree to the same tree."""
    source, copy = tmp_path / "a", tmp_path / "b"
    (source / "dir" / ("n" * 200)).mkdir(parents=True)
    (source / "dir" / ("n" * 200) / "file").write_bytes(b"x" * 70_000)
    (source / "link").symlink_to("t" * 150)
    (source / "hard").hardlink_to(source / "dir" / ("n" * 200) / "file")
    copy.mkdir()
    data = subprocess.run(["tar", "-c", "-C", str(source), "."], capture_output=True, check=True).stdout
    listed = [m.path for m in Reader([data])]
    assert b"" in listed
    subprocess.run(["tar", "-x", "-C", str(copy), "--delay-directory-restore"], input=rewrite(data), check=True)
    assert subprocess.run(["diff", "-r", "--no-dereference", source, copy], check=False).returncode == 0


@pytest.mark.parametrize(
    ("name", "path"),
    [
        (b"a", b"a"), (b"./a", b"a"), (b"/a/", b"a"), (b"a//b", b"a/b"), (b"a/./b", b"a/b"), (b"../a", b"a"),
        (b"a/../b", b"b"), (b"a/../../../b", b"b"), (b".", b""), (b"/", b""), (b"", b""), (b"..", b""), (b"./", b""),
        (b".hidden", b".hidden"), (b"a/.b", b"a/.b"), (b"..a", b"..a"), (b"a/b/", b"a/b"), (b"a/..", b""),
    ],
)  # fmt: skip
def test_names_stay_below_the_root(name, path):
    """A name is cleaned by itself, and never leads out."""
    assert clean(name) == path


@given(st.lists(st.sampled_from([b"a", b".", b"..", b"", b"b.c", b".x"]), max_size=8).map(b"/".join))
def test_cleaning_is_idempotent(name):
    """A clean name stays as it is, and has no empty, `.` or `..` component."""
    path = clean(name)
    assert clean(path) == path
    assert not {b"", b".", b".."} & set(path.split(b"/")) or not path


@pytest.mark.parametrize("name", [b"x" * 256, b"y/" * 3000])
def test_names_that_no_file_system_holds_are_refused(name):
    """A component of more than 255 bytes, or a path of more than 4096, is an error."""
    with pytest.raises(IntegrityError, match="longer than a file system allows"):
        clean(name)


def test_a_cut_archive_is_refused():
    """An archive that ends inside of a header or a content is damaged; one without its end blocks is whole."""
    data = write((member("f"), b"x" * 1000))
    assert [m.path for m in Reader([data[: 512 + 1024]])] == [b"f"]
    for length in (100, 511, 600, 512 + 1023):
        with pytest.raises(IntegrityError, match="cut short"):
            list(Reader([data[:length]]))
    assert list(Reader([])) == []


@settings(max_examples=500, deadline=None)
@given(st.data())
def test_damage_is_found_or_harmless(data):
    """Whatever bytes are changed, reading ends with members or with IntegrityError."""
    archive = bytearray(
        write(
            (member("a" * 120, pax_headers={"mtime": "1.5", "SCHILY.xattr.user.a": "b"}), b"content" * 100),
            (member("link", type=tarfile.SYMTYPE, linkname="x" * 200), b""),
            (member("sparse", pax_headers={"GNU.sparse.size": "5", "GNU.sparse.map": "1,2"}), b"ab"),
        )
    )
    for _ in range(data.draw(st.integers(1, 4))):
        archive[data.draw(st.integers(0, len(archive) - 1))] = data.draw(st.integers(0, 255))
    try:
        rewrite(bytes(archive), data.draw(st.sampled_from([97, 1 << 20])))
    except IntegrityError:
        pass


@given(st.binary(max_size=3000))
def test_noise_is_refused(noise):
    """Bytes that are no archive are never taken for one."""
    try:
        assert list(Reader([noise])) == []
        assert not noise[:512].strip(b"\0")
    except IntegrityError:
        pass


def pax(kind, records, size=0):
    """A PAX header with *records*, and padding in it up to *size* bytes."""
    body = b""
    for key, value in records:
        text = b" %s=%s\n" % (key, value)
        length = len(text) + 1
        while len(text) + len(b"%d" % length) != length:
            length += 1
        body += b"%d" % length + text
    body = body.ljust(size, b"\0")
    info = tarfile.TarInfo("h")
    info.type, info.size = kind, len(body)
    return info.tobuf(tarfile.USTAR_FORMAT) + body + bytes(-len(body) % 512)


def read(data):
    return list(Reader(pieces(data, 1 << 20)))


def test_headers_of_one_member():
    """Headers that precede a member have 1 MiB together, however many they are; those of the next count anew."""
    plain = tarfile.TarInfo("f").tobuf(tarfile.USTAR_FORMAT)
    header = pax(b"x", [(b"mtime", b"5")], 400_000)
    assert [m.mtime for m in read((header * 2 + plain) * 5)] == [5] * 5
    with pytest.raises(IntegrityError, match="400000 bytes, of type"):
        read(header * 3 + plain)
    with pytest.raises(IntegrityError, match="400000 bytes, of type"):
        read(pax(b"g", [(b"mtime", b"5")], 400_000) * 3 + plain)


def test_global_headers_do_not_pile_up():
    """Of global headers only what counts is kept, so that many of them cost neither memory nor time."""
    plain = tarfile.TarInfo("f").tobuf(tarfile.USTAR_FORMAT)
    data = b"".join(pax(b"g", [(b"SCHILY.x%d" % n, b"y" * 100_000), (b"mtime", b"7")]) + plain for n in range(50))
    tracemalloc.start()
    try:
        assert {m.mtime for m in Reader(pieces(data, 1 << 16))} == {7}
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_depth():
    """512 directories deep is the most."""
    assert clean(b"d/" * 511 + b"f").count(b"/") == 511
    with pytest.raises(IntegrityError, match="more than 512 directories deep"):
        clean(b"d/" * 512 + b"f")
