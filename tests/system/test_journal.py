"""Entries of the journal, as its socket gets them; and what becomes of them where there is none."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from enroot_slurm.slurm import log as log_module
from enroot_slurm.slurm.log import MESSAGES, WARNING, log
from enroot_slurm.system import journal


@pytest.fixture
def receiver(tmp_path):
    """A socket where systemd's would be, and a function that reads an entry as systemd does."""
    path = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(str(path))
        bound.settimeout(5)
        yield str(path), lambda: parsed(bound.recv(1 << 20))


def parsed(data: bytes) -> dict[str, str]:
    fields = {}
    while data:
        line, _, rest = data.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            [size] = struct.unpack("<Q", rest[:8])
            value, data = rest[8 : 8 + size], rest[8 + size + 1 :]
            assert rest[8 + size : 8 + size + 1] == b"\n"
        else:
            data = rest
        fields[name.decode()] = value.decode()
    return fields


@given(st.dictionaries(st.from_regex(r"[A-Z][A-Z_]{0,20}", fullmatch=True), st.text(max_size=200), max_size=8))
def test_any_value_arrives(tmp_path_factory, fields):
    """Line breaks, signs of equality, NULs: nothing in a value becomes another field."""
    path = str(tmp_path_factory.mktemp("journal") / "socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as bound:
        bound.bind(path)
        assert journal.send(fields, path)
        expected = {name: value.encode("utf-8", "backslashreplace").decode() for name, value in fields.items()}
        assert parsed(bound.recv(1 << 20)) == expected


def test_fields_of_an_event(receiver, monkeypatch):
    """An event has its fields by name, the job's number as Slurm spells it, and its MESSAGE_ID."""
    path, read = receiver
    monkeypatch.setattr(log_module, "send", lambda fields: journal.send(fields, path))
    log("import-failed", WARNING, job="17.2", image="docker://x/y:1", error="no\nPRIORITY=0", seconds=1.5)
    entry = read()
    assert entry["MESSAGE_ID"] == MESSAGES["import-failed"]
    assert entry["SLURM_JOB_ID"] == "17"
    assert entry["SYSLOG_IDENTIFIER"] == "enroot-slurm"
    assert entry["PRIORITY"] == str(WARNING)
    assert entry["ENROOT_SLURM_IMAGE"] == "docker://x/y:1"
    assert entry["ENROOT_SLURM_SECONDS"] == "1.50"
    assert "\n" not in entry["MESSAGE"]


def test_syslog_where_there_is_no_journal(tmp_path, monkeypatch):
    """Without a socket, or with a full one, syslog gets the line."""
    lines = []
    monkeypatch.setattr(log_module.syslog, "syslog", lambda priority, line: lines.append((priority, line)))
    monkeypatch.setattr(log_module, "send", lambda fields: journal.send(fields, str(tmp_path / "none")))
    log("gc", removed=3)
    assert lines == [(6, "event=gc removed=3")]


def test_a_full_journal_is_not_waited_for(receiver):
    """The entry goes to syslog then, and the hook goes on."""
    path, _ = receiver
    while journal.send({"MESSAGE": "x" * 1000}, path):
        pass


def test_message_ids_are_unlike_each_other():
    """Each is an identifier of 128 bits of its own."""
    assert len(set(MESSAGES.values())) == len(MESSAGES)
    assert all(len(each) == 32 and int(each, 16) for each in MESSAGES.values())
