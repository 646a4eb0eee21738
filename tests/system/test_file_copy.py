"""Data from one file to another."""

from __future__ import annotations

import errno
import os
import resource
from typing import TYPE_CHECKING

import pytest

from enroot_slurm.system.file_copy import FileCopy

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE, PIPE = 4096, 65536
CONTENT = os.urandom(20 << 20)


@pytest.fixture
def files(tmp_path) -> Iterator[tuple[int, int]]:
    """Descriptors of a file with CONTENT, and of an empty one."""
    (tmp_path / "source").write_bytes(CONTENT)
    source = os.open(tmp_path / "source", os.O_RDONLY)
    target = os.open(tmp_path / "target", os.O_RDWR | os.O_CREAT)
    yield source, target
    os.close(source)
    os.close(target)


@pytest.mark.parametrize("by", ["kernel", "hand"])
@pytest.mark.parametrize(
    ("at", "to", "length"),
    [
        (0, 0, len(CONTENT)),
        (96, 96, len(CONTENT) - 96),
        (PAGE + 96, 7 * PAGE + 96, 17 << 20),
        (PAGE - 1, PAGE - 1, 2),
        (5, 3 * PAGE + 9, 300_000),
        (PIPE - 1, 1, PIPE),
        (0, 100, 1),
        (100, 100, 0),
    ],
)
def test_any_place(files, monkeypatch, by, at, to, length) -> None:
    """Exactly these bytes come there, whether or not the places are alike within a block."""
    source, target = files
    if by == "hand":
        monkeypatch.setattr(os, "copy_file_range", lambda *_: (_ for _ in ()).throw(OSError(errno.EXDEV, "")))
    os.pwrite(target, b"x" * (to + length + 10), 0)
    assert sum(FileCopy(source, target).copy(at, to, length)) == length
    content = os.pread(target, 30 << 20, 0)
    assert content[to : to + length] == CONTENT[at : at + length]
    assert content[:to] == b"x" * to
    assert content[to + length :] == b"x" * 10


def test_pieces(files) -> None:
    """After the first, pieces begin at a block of the source, and then where the kernel's pipe does in the target."""
    source, target = files
    pieces = list(FileCopy(source, target).copy(PAGE + 96, 96, 18 << 20))
    assert pieces[:2] == [PAGE - 96, PIPE - PAGE]
    assert pieces[2] % PIPE == 0
    assert sum(pieces) == 18 << 20


def test_a_source_that_is_too_short(files) -> None:
    source, target = files
    assert sum(FileCopy(source, target).copy(1 << 20, 0, len(CONTENT))) == len(CONTENT) - (1 << 20)


def test_no_room(files) -> None:
    """Where blocks are not shared, what does not fit is said before it is copied."""
    _, target = files
    source = os.memfd_create("source")  # shares blocks with no file
    os.write(source, CONTENT)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, before[1]))
    try:
        transfer = FileCopy(source, target).copy(0, 0, len(CONTENT))
        with pytest.raises(OSError, match="too large") as caught:
            for _ in transfer:
                pass
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        os.close(source)
    assert caught.value.errno == errno.EFBIG
