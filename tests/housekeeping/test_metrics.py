"""Metrics: what is counted of the events of a node, and what Prometheus makes of the text."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import enroot_slurm as run
from support.command import wait_for
from support.images import Image, Layer
from support.tools import require_root, require_tools

from enroot_slurm.cache.directory import CacheDirectory
from enroot_slurm.cache.hosts import HostNotes
from enroot_slurm.cache.locks import Locks
from enroot_slurm.commands.metrics import _MAX_STATE
from enroot_slurm.errors import IntegrityError, NotFound
from enroot_slurm.housekeeping.metrics import State, count, node_text
from enroot_slurm.registry.tally import ANSWERS, PASSED
from enroot_slurm.slurm.account import DOORS, RESULTS, accounted
from enroot_slurm.system.events import MOST, Events

NOTHING = State({}, [])


def check(text: str) -> None:
    """Let Prometheus' own tool look at *text*."""
    require_tools("promtool")
    told = subprocess.run(["promtool", "check", "metrics"], input=text, text=True, capture_output=True, check=False)
    assert (told.returncode, told.stderr) == (0, ""), told.stderr


def event(**fields) -> bytes:
    whole = {
        "kind": "import",
        "time": 1,
        "door": "cli",
        "result": "ok",
        "seconds": 2.5,
        "wait": 0,
        "resolve": 0.5,
        "download": 1.5,
        "convert": 2.0,
        "bytes": 10,
        "host": "a.b",
    }
    return json.dumps({**whole, **fields}).encode() + b"\n"


def test_imports_are_counted():
    """By door and result; times of what was imported only, bytes of what came from a registry."""
    content = event() + event(seconds=700, door="prolog") + event(result="reused", bytes=0) + event(result="not_found")
    text = node_text(count(NOTHING, content))
    for line in (
        'enroot_slurm_imports_total{door="cli",result="ok"} 1',
        'enroot_slurm_imports_total{door="cli",result="reused"} 1',
        'enroot_slurm_downloaded_bytes_total{host="a.b"} 30',
        'enroot_slurm_import_seconds_bucket{le="2",phase="total"} 0',
        'enroot_slurm_import_seconds_bucket{le="5",phase="total"} 1',
        'enroot_slurm_import_seconds_bucket{le="+Inf",phase="total"} 2',
        'enroot_slurm_import_seconds_count{phase="wait"} 2',
        'enroot_slurm_import_seconds_sum{phase="total"} 702.5',
        'enroot_slurm_import_seconds_sum{phase="resolve"} 1',
        'enroot_slurm_import_seconds_sum{phase="download"} 3',
        'enroot_slurm_import_seconds_sum{phase="convert"} 4',
    ):
        assert line in text.splitlines()
    check(text)


def test_requests_are_counted():
    """By host and answer; what is no answer that we count is left out."""
    fields = {"kind": "requests", "time": 1, "host": "a.b:5000", "2xx": 3, "401": 1, "passed": 2, "299": 7, "x": 1}
    line = json.dumps(fields).encode() + b"\n"
    text = node_text(count(NOTHING, line + event(host="c.d") + line))
    assert [each for each in text.splitlines() if "requests_total{" in each or "fallbacks_total{" in each] == [
        'enroot_slurm_registry_requests_total{code="2xx",host="a.b:5000"} 6',
        'enroot_slurm_registry_requests_total{code="401",host="a.b:5000"} 2',
        'enroot_slurm_mirror_fallbacks_total{host="a.b:5000"} 4',
    ]
    check(text)


def test_the_longest_sums_are_saved_and_read():
    """Hosts with the longest names, in all metrics: what is saved is no longer than what is read of it."""
    hosts = [f"{number:03}{'h' * 250}" for number in range(25)]
    lines = b"".join(
        event(host=host, door=door, result=result) for host in hosts for door in DOORS for result in RESULTS
    )
    answers = dict.fromkeys([*ANSWERS, PASSED], 1e14)
    lines += b"".join(
        json.dumps({"kind": "requests", "time": 1, "host": host, **answers}).encode() + b"\n" for host in hosts
    )
    state = count(NOTHING, lines)
    saved = json.dumps({**state._asdict(), "position": 1 << 30}).encode()
    assert len(saved) <= _MAX_STATE
    assert State.parse(saved) == state


def test_counting_in_parts_is_counting():
    """Sums go on where they were saved."""
    lines = [event(seconds=n, host=f"h{n}.example") for n in range(30)]
    parts = NOTHING
    for line in lines:
        parts = count(State.parse(json.dumps(parts._asdict()).encode()), line)
    assert parts == count(NOTHING, b"".join(lines))
    assert 'host="other"' in node_text(parts)


@given(
    st.binary(max_size=200)
    | st.dictionaries(
        st.sampled_from(
            ["kind", "time", "door", "result", "seconds", "wait", "bytes", "host", "failed", "2xx", PASSED]
        ),
        st.sampled_from(
            [
                "import",
                "gc",
                "prefetch",
                "requests",
                *DOORS,
                *RESULTS,
                'a"} 1\nx',
                "\n",
                "x" * 999,
                None,
                True,
                [],
                -1,
                1e300,
                7,
            ]
        ),
    ).map(lambda fields: json.dumps(fields).encode())
)
def test_forged_events(content):
    """Whatever users append, the text is sound, and small."""
    text = node_text(count(NOTHING, event() + content + b"\n" + event()))
    assert 'imports_total{door="cli",result="ok"} ' in text
    for line in text.splitlines():
        assert line.startswith(("# HELP enroot_slurm_", "# TYPE enroot_slurm_", "enroot_slurm_"))
    assert len(text) < 20_000


def test_deep_events_are_left_out():
    """JSON that Python can't go down into is no event."""
    assert count(NOTHING, b"[" * 100_000 + b"\n") == NOTHING


def test_a_file_that_nobody_reads_stops_growing(tmp_path):
    """Events are forgotten then."""
    (tmp_path / "events").write_bytes(b"")
    os.truncate(tmp_path / "events", MOST)
    events = Events.open(tmp_path)
    events.add("gc", bytes=1)
    events.close()
    assert (tmp_path / "events").stat().st_size == MOST


@pytest.mark.parametrize(("error", "result"), [(NotFound("x"), "not_found"), (IntegrityError("x"), "damaged")])
def test_failures_are_events(tmp_path, error, result):
    """A failure is counted by its kind, and raised."""
    (tmp_path / "events").touch()
    events = Events.open(tmp_path)

    def work(progress):
        progress.received(5)
        raise error

    with pytest.raises(type(error)):
        accounted(work, "docker://r.example/x:1", "step", events)
    found = json.loads((tmp_path / "events").read_bytes())
    assert (found["result"], found["door"], found["bytes"], found["host"]) == (result, "step", 5, "r.example")


def test_the_command(push, import_environment, tmp_path):
    """Imports of the command line are counted once, whenever that is asked; the text file appears complete."""
    require_root("the events are root's")
    run_path, file = tmp_path / "run", tmp_path / "enroot-slurm.prom"
    run_path.mkdir()
    (tmp_path / "site.yaml").write_text(f"run_path: {run_path}\n")
    environ = {**os.environ, **import_environment, "ENROOT_SLURM_SITE_CONFIG": str(tmp_path / "site.yaml")}
    uri = push(Image([Layer().file("hello", os.urandom(5000))]))
    for _ in range(2):
        assert run("get", uri, environment=environ).returncode == 0
    assert run("get", f"{uri.rpartition(':')[0]}:gone", environment=environ).returncode == 3
    for _ in range(2):
        assert run("metrics", "--textfile", str(file), environment=environ).returncode == 0
    text = file.read_text()
    assert 'imports_total{door="cli",result="ok"} 1\n' in text
    assert 'imports_total{door="cli",result="reused"} 1\n' in text
    assert 'imports_total{door="cli",result="not_found"} 1\n' in text
    host = uri.removeprefix("docker://").partition("#")[0]
    asked = dict(re.findall(rf'registry_requests_total{{code="(\w+)",host="{re.escape(host)}"}} (\d+)', text))
    assert asked.keys() == {"2xx", "404"}
    assert int(asked["2xx"]) >= 4  # HEAD and GET of the manifest, the config, a layer; HEAD for the second time
    assert file.stat().st_mode & 0o777 == 0o644
    assert sorted(path.name for path in run_path.iterdir()) == ["events", "metrics.json"]
    check(text)


def test_the_site(push, import_environment, tmp_path):
    """Gauges of the site's cache: what is in it, and what is left."""
    uri = push(Image([Layer().file("hello", b"world")]))
    cache = import_environment["ENROOT_CACHE_PATH"]
    environ = {**os.environ, **import_environment, "ENROOT_SLURM_SHARED_CACHE": cache, "ENROOT_SLURM_CACHE_HIGH": "90%"}
    assert run("get", uri, environment=environ).returncode == 0
    told = run("metrics", "--site", environment=environ)
    assert told.returncode == 0, told.stderr
    assert 'enroot_slurm_cache_objects{kind="image"} 1\n' in told.stdout
    assert 'enroot_slurm_cache_limit_bytes{mark="high"} ' in told.stdout
    assert "enroot_slurm_imports_running 0\n" in told.stdout
    locks = Locks(CacheDirectory(Path(cache)))
    assert "enroot_slurm_imports_waiting 0\n" in told.stdout
    with locks.lock("slot-n1-0").attempt(), locks.lock("image-x").attempt():
        wait_for(lambda: len(list(Path(cache).glob("locks/*.holder"))) == 2)
        told = run("metrics", "--site", environment=environ)
    assert "enroot_slurm_imports_waiting 0\n" in told.stdout
    assert "enroot_slurm_imports_running 1\n" in told.stdout
    assert "enroot_slurm_locks_held 2\n" in told.stdout
    notes = [HostNotes(CacheDirectory(Path(cache)), lambda who=who: who) for who in ("a", "b")]
    for note, remaining in zip(notes, (7, 90), strict=True):
        note.write("left", "r.site", {"remaining": remaining})
    notes[0].write("held", "r.site", {"until": 1e11})
    notes[1].write("held", "q.site", {"until": 1.0})
    notes[0].write("left", 'x"} 1', {"remaining": "\n"})
    told = run("metrics", "--site", environment=environ)
    assert 'enroot_slurm_registry_ratelimit_remaining{host="r.site"} 7\n' in told.stdout
    assert 'enroot_slurm_registry_held{host="r.site"} 1\n' in told.stdout
    assert "q.site" not in told.stdout
    check(told.stdout)
