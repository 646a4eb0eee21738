"""The output file: complete or absent, and never replaced by accident."""

from __future__ import annotations

import os

import pytest

from enroot_slurm.errors import OutputExists, StorageError
from enroot_slurm.importing.output import Output
from enroot_slurm.system.publish import write_all


def test_a_file_appears_complete(tmp_path):
    """The name is given when everything is written; nothing else stays."""
    output = Output(tmp_path / "image.sqsh", force=False)
    with output.draft() as draft:
        write_all(draft.fd, b"content")
        assert os.listdir(tmp_path) == [draft.path.name]
        assert output.publish(draft) == 7
    assert os.listdir(tmp_path) == ["image.sqsh"]


def test_an_error_leaves_nothing(tmp_path):
    """An exception removes what was written."""
    with pytest.raises(ZeroDivisionError), Output(tmp_path / "image", force=False).draft() as draft:
        write_all(draft.fd, b"content")
        1 / 0
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "dangling symlink"])
def test_an_existing_file_is_kept(tmp_path, kind):
    """Without force, whatever has the name already is an error before any work."""
    path = tmp_path / "image"
    path.write_text("precious") if kind == "file" else path.symlink_to("nowhere")
    with pytest.raises(OutputExists, match="file already exists") as caught:
        Output(path, force=False)
    assert "--force" in caught.value.hint


@pytest.mark.parametrize("links", [True, False])
def test_a_file_that_appears_meanwhile_is_kept(tmp_path, monkeypatch, links):
    """Who comes second gets the error, and does not replace what is there; with and without hard links."""
    if not links:
        monkeypatch.setattr(os, "link", lambda *_, **__: (_ for _ in ()).throw(PermissionError(1, "not permitted")))
    output = Output(tmp_path / "image", force=False)
    with pytest.raises(OutputExists), output.draft() as draft:
        write_all(draft.fd, b"mine")
        (tmp_path / "image").write_text("theirs")
        output.publish(draft)
    assert (tmp_path / "image").read_text() == "theirs"
    assert os.listdir(tmp_path) == ["image"]


def test_force_replaces(tmp_path):
    """With force the old file is there until the new one is complete."""
    path = tmp_path / "image"
    path.write_text("old")
    output = Output(path, force=True)
    with output.draft() as draft:
        write_all(draft.fd, b"new")
        assert path.read_text() == "old"
        output.publish(draft)
    assert path.read_text() == "new"


def test_impossible_places_are_errors(tmp_path):
    """A directory, and a file in a directory that is not there, are refused with a hint."""
    for path in (tmp_path, tmp_path / "no" / "image"):
        with pytest.raises(StorageError) as caught:
            Output(path, force=True)
        assert caught.value.hint


def test_long_names_work(tmp_path):
    """A name of 255 bytes has room for its temporary one."""
    output = Output(tmp_path / ("x" * 255), force=False)
    with output.draft() as draft:
        write_all(draft.fd, b"x")
        output.publish(draft)
