"""Large blobs by parts, over several connections; and whatever answers otherwise, which costs no more than before."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING

import pytest
from support.command import wait_for

from enroot_slurm.errors import IntegrityError, NetworkError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.oci.manifest import Descriptor
from enroot_slurm.registry.connections import Connections
from enroot_slurm.registry.streams import Streams
from enroot_slurm.registry.transport import Transport

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.fault_registry import FaultRegistry, Reply

    from enroot_slurm.registry.client import Repository

    Faulty = Callable[..., FaultRegistry]
    Open = Callable[..., Repository]

PART = 300_000
CONTENT = bytes(i * 7 % 251 for i in range(10 * PART + 5))
PARTS = 11
SMALL = {"range_from": 2 * PART, "range_size": PART, "range_fast": float("inf"), "range_waited": 0}


@pytest.fixture
def registry(faulty: Faulty) -> FaultRegistry:
    return faulty()


@pytest.fixture
def blob(registry: FaultRegistry) -> Descriptor:
    return registry.add_blob(CONTENT)


@pytest.fixture
def repository(registry: FaultRegistry, open_repository: Open) -> Repository:
    return open_repository(f"{registry.host}#team/app", **SMALL)


def fetch(repository: Repository, descriptor: Descriptor) -> bytes:
    return b"".join(repository.blob(descriptor))


def asked(registry: FaultRegistry, pattern: str = "/blobs/") -> list[str]:
    """The ranges that were asked for, in the order of the blob; empty: the whole."""
    ranges = [request.headers.get("Range", "") for request in registry.matching(pattern)]
    return sorted(ranges, key=lambda each: int(each[6:].split("-")[0]) if each else -1)


def all_parts() -> list[str]:
    return [f"bytes={at}-{min(at + PART, len(CONTENT)) - 1}" for at in range(0, len(CONTENT), PART)]


def test_parts(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """Each part is asked for once, and the blob comes in order."""
    assert fetch(repository, blob) == CONTENT
    assert asked(registry) == all_parts()
    assert registry.count("/blobs/", status=206) == PARTS
    assert registry.requests[0].headers["Range"] == f"bytes=0-{PART - 1}"


def test_small_blobs_are_asked_for_as_ever(repository: Repository, registry: FaultRegistry) -> None:
    """Below the limit, one request without a range."""
    content = CONTENT[: 2 * PART - 1]
    assert fetch(repository, registry.add_blob(content)) == content
    assert asked(registry) == [""]


@pytest.mark.parametrize("streams", [0, 1])
def test_it_can_be_turned_off(streams: int, registry: FaultRegistry, blob: Descriptor, open_repository: Open) -> None:
    """With no or one stream for each blob, nothing is asked for in parts."""
    repository = open_repository(f"{registry.host}#team/app", **SMALL, parallel_ranges=streams)
    assert fetch(repository, blob) == CONTENT
    assert asked(registry) == [""]


def test_a_fast_stream_is_enough(registry: FaultRegistry, blob: Descriptor, open_repository: Open) -> None:
    """Where the first part comes fast, all that follows is one request."""
    repository = open_repository(f"{registry.host}#team/app", **{**SMALL, "range_fast": 1e-3})
    assert fetch(repository, blob) == CONTENT
    assert asked(registry) == [f"bytes=0-{PART - 1}", f"bytes={PART}-"]


def test_a_busy_node_needs_no_more_streams(registry: FaultRegistry, open_repository: Open) -> None:
    """Where the bytes are there, and whoever takes them is slow, all that follows the first part is one request."""
    content = bytes(12 << 20)
    blob = registry.add_blob(content)
    repository = open_repository(f"{registry.host}#team/app", range_from=1, range_size=4 << 20, range_fast=20e6)
    size = 0
    for piece in repository.blob(blob):
        size += len(piece)
        if size <= 4 << 20:
            time.sleep(0.05)  # the first part takes 0.8 s, and not 0.2 s
    assert size == len(content)
    assert asked(registry) == [f"bytes=0-{(4 << 20) - 1}", f"bytes={4 << 20}-"]


def test_a_slow_network_gets_more_streams(registry: FaultRegistry, blob: Descriptor, open_repository: Open) -> None:
    """Where the bytes of the first part have to be waited for, all is asked for in parts."""
    options = {"range_from": 2 * PART, "range_size": PART, "range_fast": 10 * PART}
    repository = open_repository(f"{registry.host}#team/app", **options)
    arrives = threading.Event()
    registry.fault("/blobs/", 1, stall=arrives, after=PART // 2)
    threading.Timer(0.5, arrives.set).start()
    assert fetch(repository, blob) == CONTENT
    assert asked(registry) == all_parts()


@pytest.mark.parametrize("connections", [10, 1])
def test_a_network_that_becomes_slow(connections: int, registry: FaultRegistry, open_repository: Open) -> None:
    """Where the first bytes come fast and the others do not, what is left is asked for in parts, by several."""
    content = CONTENT * 4
    blob = registry.add_blob(content)
    options = {"range_from": 2 * PART, "range_size": PART, "range_fast": 100 * PART, "range_window": 0.1}
    options |= {"range_waited": 0.1, "max_connections": connections}
    repository = open_repository(f"{registry.host}#team/app", **options)
    arrives = threading.Event()
    registry.fault("/blobs/", 1)  # the first part comes at once
    registry.fault("/blobs/", 1, stall=arrives, after=PART)
    threading.Timer(0.5, arrives.set).start()
    assert fetch(repository, blob) == content
    first, alone, *parts = [request.headers["Range"] for request in registry.matching("/blobs/")]
    assert (first, alone) == (f"bytes=0-{PART - 1}", f"bytes={PART}-")
    assert len(parts) > 10 if connections > 1 else not parts
    assert not any(each.endswith("-") for each in parts)


def test_parts_that_never_come(registry: FaultRegistry, blob: Descriptor, open_repository: Open) -> None:
    """The time that a blob may take holds for parts, too, when no byte comes."""
    never = threading.Event()
    repository = open_repository(f"{registry.host}#team/app", **SMALL, transfer_timeout=0.5)
    registry.fault("/blobs/", 1)
    registry.fault("/blobs/", stall=never)
    try:
        with pytest.raises(NetworkError, match="not complete in time"):
            fetch(repository, blob)
    finally:
        never.set()


@pytest.mark.parametrize(("streams", "connections", "expected"), [(4, 10, 4), (4, 3, 3), (8, 10, 8), (4, 1, 1)])
def test_so_many_at_once(streams: int, connections: int, expected: int, faulty: Faulty, open_repository: Open) -> None:
    """As many parts at once as the setting says, within the connections that an import may have."""
    registry, release = faulty(), threading.Event()
    blob = registry.add_blob(CONTENT)
    options = {**SMALL, "parallel_ranges": streams, "max_connections": connections}
    repository = open_repository(f"{registry.host}#team/app", **options)
    registry.fault("/blobs/", 1)  # the first part
    registry.fault("/blobs/", stall=release)
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(fetch(repository, blob)))
    thread.start()
    wait_for(lambda: registry.count("/blobs/") == 1 + expected)
    assert registry.connections <= expected + 1
    release.set()
    thread.join(30)
    assert received == [CONTENT]
    assert asked(registry) == all_parts()


def test_other_blobs_go_first(faulty: Faulty, open_repository: Open) -> None:
    """A blob that has no connection gets the next that is free; a large one does with one then."""
    registry, first, second = faulty(), threading.Event(), threading.Event()
    blob, other = registry.add_blob(CONTENT), registry.add_blob(b"small")
    repository = open_repository(f"{registry.host}#team/app", **SMALL, max_connections=4)
    large = str(blob.digest)
    registry.fault(large, 1)  # the first part
    registry.fault(large, 4, stall=first)
    registry.fault(large, stall=second)
    received: dict[Digest, bytes] = {}

    def get(descriptor: Descriptor) -> None:
        received[descriptor.digest] = fetch(repository, descriptor)

    threads = [threading.Thread(target=get, args=(each,)) for each in (blob, other)]
    threads[0].start()
    wait_for(lambda: registry.count(large) == 5)
    threads[1].start()
    assert other.digest not in received
    first.set()
    wait_for(lambda: other.digest in received)
    second.set()
    for thread in threads:
        thread.join(30)
    assert received == {blob.digest: CONTENT, other.digest: b"small"}


def test_parts_that_are_ahead_are_few(registry: FaultRegistry, blob: Descriptor, open_repository: Open) -> None:
    """A part that does not come keeps the others from filling the memory: 64 MiB of parts may wait for it."""
    registry.fault("/blobs/", 1)
    release = threading.Event()
    registry.fault("/blobs/", 1, stall=release)
    repository = open_repository(f"{registry.host}#team/app", **SMALL)
    streams = repository._streams
    while streams._ahead > 3:
        assert streams.room(-1)
    received: list[bytes] = []
    thread = threading.Thread(target=lambda: received.append(fetch(repository, blob)))
    thread.start()
    wait_for(lambda: registry.count("/blobs/") == 2 + 3)
    release.set()
    thread.join(30)
    assert received == [CONTENT]
    assert streams._ahead == 3


# The first answer.


def test_the_whole_is_taken_as_it_comes(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """Who ignores the range, as a cold pull-through cache does, is asked once; and not for parts again."""
    registry.fault("/blobs/", ignore_range=True)
    assert fetch(repository, blob) == CONTENT
    assert asked(registry) == [f"bytes=0-{PART - 1}"]
    assert fetch(repository, blob) == CONTENT
    assert asked(registry)[0] == ""
    assert registry.count("/blobs/") == 2


def test_the_whole_may_break(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """What has come of the whole is not asked for again."""
    registry.fault("/blobs/", 1, ignore_range=True, cut=2 * PART)
    assert fetch(repository, blob) == CONTENT
    first, second = asked(registry)
    assert first == f"bytes=0-{PART - 1}"
    assert second == f"bytes={2 * PART}-"


def content_range(text: str) -> dict[str, object]:
    return {"headers": {"Content-Range": text}}


@pytest.mark.parametrize(
    "fault",
    [
        content_range(f"bytes 1-{PART}/{len(CONTENT)}"),
        content_range(f"bytes 0-{PART}/{len(CONTENT)}"),
        content_range(f"bytes 0-{PART - 2}/{len(CONTENT)}"),
        content_range(f"bytes 0-{PART - 1}/{len(CONTENT) + 1}"),
        content_range(f"0-{PART - 1}/{len(CONTENT)}"),
        content_range(f"bytes 0-{PART - 1}/*"),
        content_range(f"bytes=0-{PART - 1}/{len(CONTENT)}"),
        content_range("bytes"),
        content_range(f"bytes 0-{PART - 1}/{'9' * 5000}"),
        {"remove": ["Content-Range"]},
        {"headers": {"Content-Encoding": "gzip"}},
        {"status": 400},
        {"status": 403},
        {"status": 416},
        {"status": 501},
    ],
    ids=lambda fault: str(fault)[:60],
)
def test_other_answers_are_followed_by_one_plain_request(
    fault: dict[str, object], repository: Repository, registry: FaultRegistry, blob: Descriptor
) -> None:
    """Wrong numbers, no unit, no size, another encoding, an error: then one GET of the whole, now and for an hour."""
    registry.fault("/blobs/", 1, **fault)
    assert fetch(repository, blob) == CONTENT
    assert fetch(repository, blob) == CONTENT
    assert [request.headers.get("Range", "") for request in registry.matching("/blobs/")] == [
        f"bytes=0-{PART - 1}",
        "",
        "",
    ]


def test_an_error_that_stays_is_told(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """Who refuses the whole as well is not to be blamed on ranges."""
    registry.fault("/blobs/", status=400)
    with pytest.raises(NetworkError, match="answers 400"):
        fetch(repository, blob)
    assert registry.count("/blobs/") == 2


@pytest.mark.parametrize("status", [429, 500, 503])
def test_passing_errors_pass(status: int, repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """A first answer that may be another one soon decides nothing."""
    registry.fault("/blobs/", 2, status=status)
    assert fetch(repository, blob) == CONTENT
    assert asked(registry) == [all_parts()[0]] * 2 + all_parts()


def test_a_first_part_that_breaks_goes_on(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """Parts are asked for from where the first one broke."""
    registry.fault("/blobs/", 1, cut=1000)
    assert fetch(repository, blob) == CONTENT
    assert asked(registry)[:2] == [f"bytes=0-{PART - 1}", f"bytes=1000-{PART - 1}"]
    assert registry.count("/blobs/") == PARTS + 1


# Later answers.


def test_a_part_that_breaks_goes_on(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """A connection that is cut within a part: what is missing of that part is asked for, and nothing else."""
    registry.fault("/blobs/", 1)
    registry.fault("/blobs/", 1, cut=1000)
    assert fetch(repository, blob) == CONTENT
    rest = [each for each in asked(registry) if each not in all_parts()]
    assert len(rest) == 1
    start, stop = map(int, rest[0][6:].split("-"))
    assert (start % PART, (stop + 1) % PART) == (1000, 0)
    assert registry.count("/blobs/") == PARTS + 1


@pytest.mark.parametrize(
    "fault",
    [
        {"ignore_range": True},
        content_range(f"bytes 0-{PART - 1}/{len(CONTENT)}"),
        {"remove": ["Content-Range"]},
        {"status": 400},
        {"status": 403},
        {"status": 416},
        {"status": 501},
        {"headers": {"Content-Encoding": "gzip"}},
        {"extra": b"more"},
    ],
    ids=lambda fault: str(fault)[:60],
)
def test_a_wrong_part_ends_them(
    fault: dict[str, object], repository: Repository, registry: FaultRegistry, blob: Descriptor
) -> None:
    """Where a later answer is no part, what is left is read in one stream; nothing wrong is passed on."""
    registry.fault("/blobs/", 3)
    registry.fault("/blobs/", 1, **fault)
    assert fetch(repository, blob) == CONTENT
    # Parts that are under way may be answered after it.
    assert len([each for each in asked(registry) if not each or each.endswith("-")]) == 1


def test_a_429_halves_the_streams(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """Whoever is asked to slow down has half as many streams from there on; requests under way count as one."""
    registry.fault("/blobs/", 1)
    registry.fault("/blobs/", 1, status=429)
    streams = repository._streams
    assert streams.per_blob == 4
    assert fetch(repository, blob) == CONTENT
    assert streams.per_blob == 2
    assert registry.count("/blobs/") == PARTS + 1


def test_a_burst_of_429_halves_once() -> None:
    """Only a request that was made after the last halving halves again; one stream stays."""
    streams = Streams(Transport(parallel_ranges=8), Connections())
    before = 1.0
    streams.halve(before)
    streams.halve(before)
    assert streams.per_blob == 4
    for _ in range(4):
        streams.halve(float("inf"))
    assert streams.per_blob == 1


def test_a_part_that_never_comes(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """A part has as many attempts as a blob; then the error is raised."""
    registry.fault("/blobs/", 1)
    registry.fault("/blobs/", status=500)
    with pytest.raises(NetworkError, match="answers 500"):
        fetch(repository, blob)


def test_wrong_bytes_are_not_noticed_here(repository: Repository, registry: FaultRegistry, blob: Descriptor) -> None:
    """A flipped byte in a part comes through, and whoever hashes the whole finds it."""
    registry.fault("/blobs/", 1)
    registry.fault("/blobs/", 1, flip=7)
    content = fetch(repository, blob)
    assert len(content) == len(CONTENT)
    assert Digest.of(content) != blob.digest


def test_who_stops_reading_stops_all(registry: FaultRegistry, blob: Descriptor, open_repository: Open) -> None:
    """A reader that has gone leaves no connection taken, and no part is asked for any more."""
    repository = open_repository(f"{registry.host}#team/app", **SMALL, max_connections=4)
    reading = repository.blob(blob)
    while registry.count("/blobs/") < 3:
        next(reading)
    reading.close()
    streams = repository._streams
    wait_for(lambda: streams._free == 4)
    assert fetch(repository, blob) == CONTENT


# Redirects.


@pytest.fixture
def store(faulty: Faulty, registry: FaultRegistry) -> FaultRegistry:
    """A store to which the registry redirects."""
    store = faulty()
    store.add_blob(CONTENT)
    registry.auth = "bearer"
    registry.public = {"team/app"}
    registry.fault("/blobs/", redirect=f"{store.url}/store/{{digest}}?signed=1")
    return store


def test_the_link_is_used_for_all_parts(
    store: FaultRegistry, repository: Repository, registry: FaultRegistry, blob: Descriptor
) -> None:
    """The registry is asked once, the store for each part; and the store sees no credentials."""
    assert fetch(repository, blob) == CONTENT
    assert registry.count("/blobs/", status=307) == 1
    assert asked(store, "/store/") == all_parts()
    assert {request.authorization for request in store.requests} == {""}


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_link_that_expires_is_renewed_once(
    status: int, store: FaultRegistry, repository: Repository, registry: FaultRegistry, blob: Descriptor
) -> None:
    """The registry gives a new link, and the parts go on by it."""
    store.fault("/store/", 3)

    def expire(reply: Reply) -> None:
        reply.status, reply.body = status, b"expired"

    store.fault(r"signed=1", call=expire)
    registry.heal()
    registry.fault("/blobs/", 2, redirect=f"{store.url}/store/{{digest}}?signed=1")  # the first one is a 401
    registry.fault("/blobs/", redirect=f"{store.url}/store/{{digest}}?signed=2")
    assert fetch(repository, blob) == CONTENT
    assert registry.count("/blobs/", status=307) == 2
    assert store.count("/store/", status=206) == PARTS


def test_a_link_that_never_holds(
    store: FaultRegistry, repository: Repository, registry: FaultRegistry, blob: Descriptor
) -> None:
    """A store that refuses all links after the first is an error, after as many attempts as a part has."""
    store.fault("/store/", 1)
    store.fault("/store/", status=403)
    with pytest.raises(NetworkError, match="expired"):
        fetch(repository, blob)


def test_too_many_bytes(repository: Repository, registry: FaultRegistry) -> None:
    """A manifest that states fewer bytes than the registry has is found out as in one stream."""
    blob = registry.add_blob(CONTENT)
    with pytest.raises(IntegrityError, match="the manifest says"):
        fetch(repository, Descriptor(blob.media_type, blob.digest, 3 * PART))
