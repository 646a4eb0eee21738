"""Tar archives: read as GNU tar and tarfile read them, and refused when they are damaged."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import tempfile
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.tar_writer import TarWriter, header

from enroot_slurm.errors import IntegrityError
from enroot_slurm.tar import reader as tar
from enroot_slurm.tar.names import clean
from enroot_slurm.tar.reader import BLOCK, CHAR, DIRECTORY, FIFO, FILE, HARDLINK, SYMLINK, Reader

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


# ---- headers that are odd: what GNU tar and Go's archive/tar make of them is right


def raw(name=b"f", kind=b"0", size=b"%011o\0" % 0, link=b"", at=()):
    """A ustar header, with other bytes *at* some places."""
    block = bytearray(512)
    fields = ((0, name), (100, b"0000644\0"), (124, size), (136, b"14524770400\0"), (156, kind), (157, link))
    for offset, value in (*fields, (257, b"ustar\x0000"), *at):
        block[offset : offset + len(value)] = value
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def octal(number):
    return b"%011o\0" % number


def padded(content):
    return content + bytes(-len(content) % 512)


NEGATIVE = {
    "base 256": b"\xff" * 10 + b"\xfe\0",
    "base 256, one bit": b"\xc0" + bytes(11),
    "octal": b"-0000001000\0",
}


@pytest.mark.parametrize("size", NEGATIVE.values(), ids=NEGATIVE)
@pytest.mark.parametrize("kind", [b"0", b"x", b"g", b"L", b"K", b"5", b"S", b"?"])
def test_negative_sizes_are_refused(kind, size):
    """What counts is unsigned, whichever header says it; reading goes neither back nor on for ever."""
    with pytest.raises(IntegrityError, match="negative number"):
        read(raw(kind=kind, size=size) + bytes(1024))


@pytest.mark.parametrize(
    "size", [b"0o000000007\0", b"0_000_00007\0", b"+0000000007\0", b"0000 000007\0", b"0000000008\0\0"]
)
def test_numbers_of_python_are_no_numbers_of_tar(size):
    """Forms that only Python reads are malformed."""
    with pytest.raises(IntegrityError, match="malformed number"):
        read(raw(size=size) + bytes(1024))


@pytest.mark.parametrize(
    "size", [b"\x0000000000003", b"        3 \0\0", b"3\0junkjunk\0\0", b"00000000003\0", b"3 \0\0\0\0\0\0\0\0\0\0"]
)
def test_blanks_and_zeros_around_numbers(size):
    """Old writers pad numbers in many ways; all are read as GNU tar and Go read them."""
    data = raw(size=size) + padded(b"abc") + bytes(1024)
    assert contents(rewrite(data))[0][5] == b"abc"


@pytest.mark.parametrize(
    "fields",
    [
        (b"0000000\0", b"7777777\0"),
        (b"0010000\0", b"0000000\0"),
        (b"-000001\0", b"0000000\0"),
        (b"0000000\0", b"\xff" * 8),
        (b"\x80\0\0\0\xff\xff\xff\xff", b"0000000\0"),
    ],
)
@pytest.mark.parametrize("kind", [b"3", b"4"])
def test_devices_that_linux_has_not_are_refused(kind, fields):
    """Major numbers have 12 bits, minor ones 20."""
    with pytest.raises(IntegrityError, match="number"):
        read(raw(kind=kind, at=((329, fields[0]), (337, fields[1]))) + bytes(1024))
    (whole,) = read(raw(kind=kind, at=((329, b"0007777\0"), (337, b"3777777\0"))) + bytes(1024))
    assert whole.device == (4095, (1 << 20) - 1)


def test_negative_pieces_are_refused():
    """The map of a sparse file counts too."""
    fields = ((257, b"ustar  \0"), (386, octal(0)), (398, b"-0000001000\0"), (483, octal(1024)))
    with pytest.raises(IntegrityError, match="negative number"):
        read(raw(kind=b"S", size=octal(512), at=fields) + bytes(512 + 1024))
    fields = ((257, b"ustar  \0"), (386, octal(0)), (398, b"\xff" * 12), (483, octal(1024)))
    with pytest.raises(IntegrityError, match="negative number"):
        read(raw(kind=b"S", size=octal(512), at=fields) + bytes(512 + 1024))


@pytest.mark.parametrize(
    ("key", "kind"), [(b"path", b"0"), (b"linkpath", b"2"), (b"linkpath", b"1"), (b"GNU.sparse.name", b"0")]
)
@pytest.mark.parametrize("where", [b"x", b"g", b"X"])
def test_nul_in_a_name(key, kind, where):
    """Programs in C would end the name there, and read another one than we do: refused, as by Go."""
    with pytest.raises(IntegrityError, match="holds a NUL"):
        read(pax(where, [(key, b"foo\0bar")]) + raw(kind=kind, link=b"t"))


def test_the_second_pax_header_replaces_the_first():
    """As in GNU tar and Go, so that one digest has one tree wherever it is unpacked."""
    (found,) = read(pax(b"x", [(b"path", b"one"), (b"mtime", b"5")]) + pax(b"x", [(b"mtime", b"7")]) + raw(b"f"))
    assert (found.path, found.mtime) == (b"f", 7)


def test_an_empty_local_value_takes_back_a_global_one():
    """POSIX: it deletes what a global header said, of this member only; the header's own field holds."""
    everywhere = pax(b"g", [(b"path", b"all"), (b"mtime", b"5")])
    found = read(everywhere + pax(b"x", [(b"path", b"")]) + raw(b"own") + raw(b"next"))
    assert [(m.path, m.mtime) for m in found] == [(b"own", 5), (b"all", 5)]
    found = read(everywhere + pax(b"g", [(b"path", b"")]) + raw(b"own"))
    assert [(m.path, m.mtime) for m in found] == [(b"own", 5)]


def test_headers_before_a_volume_label_are_its_own():
    """A long name belongs to the header that follows it, even if that is none of a file."""
    assert [m.path for m in read(pax(b"x", [(b"path", b"label")]) + raw(kind=b"V") + raw(b"f"))] == [b"f"]


@pytest.mark.parametrize("text", [b"5", b"+5", b"0000000000000000005", b"0" * 5000 + b"5"])
def test_pax_sizes(text):
    """Signs and zeros before a size are harmless."""
    data = pax(b"x", [(b"size", text)]) + raw(size=octal(0)) + padded(b"hello") + raw(b"g") + bytes(1024)
    assert [(entry[0], entry[5]) for entry in contents(rewrite(data))] == [("f", b"hello"), ("g", b"")]


@pytest.mark.parametrize("text", [b"-5", b"5.0", b" 5", b"+", b"9" * 20, b"9" * 5000, b"1" + b"0" * 18, b"5_0"])
def test_pax_sizes_that_are_none(text):
    """A size is a number of bytes, and not of more than there can be."""
    with pytest.raises(IntegrityError):
        read(pax(b"x", [(b"size", text)]) + raw() + bytes(1024))


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (b".5", 0),
        (b"+5", 5),
        (b"-.5", 2**32 - 1),
        (b"9223372036854775807", 2**32 - 1),
        (b"0000000000000000000001.5", 1),
    ],
)
def test_pax_times_of_other_writers(text, seconds):
    """Times are read liberally."""
    (found,) = read(pax(b"x", [(b"mtime", text)]) + raw())
    assert found.mtime == seconds


@pytest.mark.parametrize("text", [b".", b"-", b"+-5", b"5e3", b"1" * 20, b"1.5.5"])
def test_pax_times_that_are_none(text):
    """What is no time is refused."""
    with pytest.raises(IntegrityError, match="malformed time"):
        read(pax(b"x", [(b"mtime", text)]) + raw())


ODD = {
    "dumpdir": raw(b"d/", b"D", octal(4)) + padded(b"Yz\0\0"),
    "directory by its name": raw(b"d/", b"0", octal(5)) + padded(b"hello"),
    "directory of V7": raw(b"d/", b"\0", octal(1024)) + raw(b"hidden") + raw(b"hidden2"),
    "unknown type": raw(b"d", b"Z", octal(1024)) + raw(b"hidden") + raw(b"hidden2"),
    "unknown type, name of a directory": raw(b"d/", b"Z", octal(1024)) + raw(b"hidden") + raw(b"hidden2"),
    "contiguous": raw(b"d", b"7", octal(5)) + padded(b"hello"),
    "hard link with a size": raw(b"d") + raw(b"e", b"1", octal(1024), link=b"d"),
}


@pytest.mark.parametrize("data", ODD.values(), ids=ODD)
def test_data_is_what_the_type_says(data, tmp_path):
    """Whether data follows is said by the header's type, not by what the name makes of it: as GNU tar sees it."""
    data += raw(b"z") + bytes(1024)
    done = subprocess.run(["tar", "-t"], input=data, capture_output=True, check=False)
    assert [m.path for m in read(data)] == [name.rstrip(b"/") for name in done.stdout.split()]


def test_incremental_archives_of_gnu_tar(tmp_path):
    """``tar -g`` puts a listing behind each directory."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "f").write_bytes(b"x")
    command = ["tar", "-c", "-g", str(tmp_path / "snar"), "-C", str(tmp_path), "a"]
    data = subprocess.run(command, capture_output=True, check=True).stdout
    assert [m.path for m in read(data)] == [b"a", b"a/b", b"a/b/f"]


SPARSE = [(b"GNU.sparse.major", b"1"), (b"GNU.sparse.minor", b"0"), (b"GNU.sparse.realsize", b"600")]


@pytest.mark.parametrize("kind", [b"1", b"2", b"3", b"5", b"6", b"D"])
@pytest.mark.parametrize("records", [SPARSE, [(b"GNU.sparse.size", b"5"), (b"GNU.sparse.map", b"0,5")]])
def test_only_files_are_sparse(kind, records):
    """A sparse directory or symlink is refused, as by Go."""
    data = pax(b"x", records) + raw(kind=kind, size=octal(1024), link=b"t") + bytes(4096)
    with pytest.raises(IntegrityError, match="is sparse, but no file"):
        read(data)


def test_padding_is_no_data():
    """Neither the data of a sparse file nor its map is taken from the padding."""
    with pytest.raises(IntegrityError, match="exceeds its data"):
        read(pax(b"x", [(b"GNU.sparse.size", b"5"), (b"GNU.sparse.map", b"0,5")]) + raw(size=octal(4)) + bytes(512))
    body = padded(b"1\n0\n5\n") + b"hell"
    with pytest.raises(IntegrityError, match="exceeds its data"):
        read(pax(b"x", SPARSE) + raw(size=octal(len(body))) + padded(body))
    with pytest.raises(IntegrityError, match="no room for its map"):
        read(pax(b"x", SPARSE) + raw(size=octal(6)) + padded(b"1\n0\n5\n") + bytes(1024))


def test_sparse_formats_of_the_future():
    """A format that nobody knows would give wrong contents."""
    with pytest.raises(IntegrityError, match="format of the future"):
        read(pax(b"x", [(b"GNU.sparse.major", b"2"), (b"GNU.sparse.minor", b"0")]) + raw())


def counted_lines(function):
    """How many lines of the package's Python code *function* runs."""
    count = 0

    def trace(frame, event, _):
        nonlocal count
        if "enroot_slurm" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        function()
    finally:
        sys.settrace(None)
    return count


def test_maps_are_read_in_one_go():
    """Twice the pieces are twice the work, whatever the blocks that they come in."""

    def work(pieces):
        text = b"%d\n" % pieces + b"".join(b"%d\n1\n" % (2 * i) for i in range(pieces))
        body = padded(text) + b"x" * pieces
        records = [*SPARSE[:2], (b"GNU.sparse.realsize", b"%d" % (2 * pieces))]
        data = pax(b"x", records) + raw(size=octal(len(body))) + padded(body) + bytes(1024)
        (found,) = Reader([data])
        assert len(found.pieces) == pieces
        return counted_lines(lambda: list(Reader([data])))

    assert work(8000) < 2.2 * work(4000)


def test_endless_numbers_in_a_map():
    """A line that has no end is no number; it is not read to the end of the layer."""
    body = b"0" * (40 << 20)
    reads = []

    def chunks():
        yield pax(b"x", [*SPARSE[:2], (b"GNU.sparse.realsize", b"5")]) + raw(size=octal(len(body)))
        for at in range(0, len(body), 512):
            reads.append(at)
            yield body[at : at + 512]

    with pytest.raises(IntegrityError, match="malformed map"):
        list(Reader(chunks()))
    assert len(reads) < 5


def test_tiny_records_are_limited():
    """Thousands of records of a few bytes take longer than one long one; a member has room for some 16,000."""
    with pytest.raises(IntegrityError, match="too many PAX records"):
        read(pax(b"x", [(b"k", b"")] * 20_000) + raw())
    with pytest.raises(IntegrityError):
        read(pax(b"x", [(b"k", b"")] * 5000) * 4 + raw())
    assert len(read((pax(b"x", [(b"k", b"")] * 10_000) + raw()) * 4)) == 4


@pytest.mark.parametrize(
    "text", [b"4 =\n", b"5 k=\0", b"05 k=", b"6 k\n==", b"99 k=v\n", b"-6 k=v\n", b"6  k=\n7", b"x", b"3 \n"]
)
def test_malformed_records_are_refused(text):
    """A record's length is that of the record, and it has a key."""
    info = tarfile.TarInfo("h")
    info.type, info.size = b"x", len(text)
    with pytest.raises(IntegrityError, match="malformed"):
        read(info.tobuf(tarfile.USTAR_FORMAT) + padded(text) + raw())
