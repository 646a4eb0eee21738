"""A large blob by several requests at once, each for a part of it: where one connection is slower than the network.

The first answer decides whether parts can be had.  It is to the first part alone, so that a cache on the way, which has
to fetch the blob first, is asked once.  Whoever answers otherwise than by exactly that part is read in one stream
(`Download`), and so is all that is left when a later answer is not what it should be.  How fast the bytes come decides
whether there is more than one stream: at the first part, and again while there is one.  Nothing here makes bytes
trustworthy: the digest of the whole does.

Source: RFC 9110, 14 and 15.3.7; OCI distribution-spec 1.1, "Pulling blobs" (registries SHOULD support ranges).
"""

from __future__ import annotations

import collections
import re
import threading
import time
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.registry.retry import Passing, TooMany

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enroot_slurm.registry.download import Download
    from enroot_slurm.registry.origin import Origin
    from enroot_slurm.registry.response import Response
    from enroot_slurm.registry.retry import Retries
    from enroot_slurm.registry.streams import Streams

__all__ = ["Requests", "read_parts"]

_CONTENT_RANGE = re.compile(r"bytes +(\d{1,18})-(\d{1,18})/(\d{1,18})", re.ASCII)
_NOT_SO = frozenset({400, 403, 416, 501})
"""Statuses by which a registry, its store or what is in between says that it can't send parts."""
_EXPIRED = frozenset({400, 401, 403, 404, 410})
"""Statuses of a signed link whose time is over, as different stores say it."""
_PROGRESS = 1 << 20
_LOOK = 1.0  # seconds between two looks at whether the download still has time
_PARTING = 0.5  # seconds for threads that are told to stop: one that hangs in the network is left alone


class Requests(NamedTuple):
    """How a blob is asked for: each takes headers."""

    registry: Origin
    answer: Callable[[Mapping[str, str]], Response]
    """The registry's answer, whatever it is, after logins and redirects."""
    accepted: Callable[[Response], Response]
    """The answer itself if it has content.  Raises: what it means, if it has not."""
    follow: Callable[[str, Mapping[str, str]], Response]
    """The answer of a URL to which the registry has redirected, without a login."""
    retries: Callable[[], Retries]
    """The attempts at one part."""

    def content(self, headers: Mapping[str, str]) -> Response:
        """The answer with the content.  Raises: what an answer without it means."""
        return self.accepted(self.answer(headers))


class _Otherwise(Exception):
    """An answer is not the part that was asked for."""


class _Part:
    """The bytes from *start* to *stop* of a blob, as far as they have come."""

    def __init__(self, start: int, stop: int, *, has_room: bool) -> None:
        self.at = start
        self.stop = stop
        self.pieces: collections.deque[bytes] = collections.deque()
        self.has_room = has_room


def read_parts(transfer: Download, requests: Requests, streams: Streams) -> Iterator[bytes]:
    """Yield the first bytes of the blob of *transfer*, in order, and all of them where parts can be had.

    None of a small blob, or of one that was begun elsewhere: all that is left is to be had by `Download.attempt`.

    Raises: NetworkError, and what *requests* raise.
    """
    if transfer.done or not streams.suits(transfer.size, requests.registry):
        return
    wanted = {"Range": f"bytes=0-{streams.part - 1}"}
    attempts = requests.retries()
    while True:
        try:
            response = requests.answer(wanted)
            if response.status not in _NOT_SO:
                requests.accepted(response)
            break
        except Passing as error:
            attempts.wait(error)
    if response.status in _NOT_SO:
        response.error_body()
        for piece in transfer.attempt(requests.content):
            streams.none_sent(requests.registry)  # by one who sends the whole
            yield piece
        return
    if response.status != 206:
        streams.none_sent(requests.registry)
        yield from transfer.attempt(lambda _: response)
        return
    if not _is_part(response, 0, streams.part, transfer.size):
        with response:
            streams.none_sent(requests.registry)
        return
    parts = _Parallel(transfer, requests, streams, response.url if response.redirected else "")
    try:
        try:
            yield from parts.first(response)
        except Passing as error:
            attempts.wait(error)
        yield from parts.alone()
        yield from parts.rest()
    except _Otherwise:
        streams.none_sent(requests.registry)
    finally:
        parts.end()


class _Parallel:
    """The parts of the blob of *transfer*, by requests to *url*, or to the registry if that is empty."""

    def __init__(self, transfer: Download, requests: Requests, streams: Streams, url: str) -> None:
        self._transfer = transfer
        self._requests = requests
        self._streams = streams
        self._changed = streams.changed
        self._url = url
        self._asking = threading.Lock()
        self._next = streams.part
        self._parts: collections.deque[_Part] = collections.deque()  # begun, and not yet passed on to their ends
        self._workers = self._reading = 1  # this thread, until another one takes its place
        self._error: BaseException | None = None
        self._begun = False
        self._broken: _Part | None = None
        self._ended = threading.Event()

    def first(self, response: Response) -> Iterator[bytes]:
        """Yield the first part, which is *response*; others are asked for if the network is slow.

        Raises: Passing, _Otherwise.
        """
        began, part = time.monotonic(), self._streams.part
        with response:
            for piece in _bounded(response, part):
                if not self._begun and self._streams.is_slow(part, time.monotonic() - began, response.waited):
                    with self._changed:
                        self._begun = True
                        self._grow()
                yield self._transfer.took(piece)

    def alone(self) -> Iterator[bytes]:
        """Yield what follows a first part that came fast, by one request, for as long as that is fast, too.

        A registry may let each connection have its first bytes at once.  Raises: what `Download.attempt` raises.
        """
        if self._begun:
            return
        pace = _Pace(self._transfer, self._streams)
        yield from self._transfer.attempt(self._requests.content, pace.is_slow)
        if pace.was_slow:
            self._next = max(self._next, self._transfer.done)
            self._begun = not self._transfer.complete

    def rest(self) -> Iterator[bytes]:
        """Yield what follows, in order; or nothing, if one stream is enough.

        Raises: _Otherwise, when what is left has to be had otherwise.
        """
        if not self._begun:
            return
        with self._changed:
            if self._transfer.done < self._streams.part:  # it broke
                self._broken = _Part(self._transfer.done, self._streams.part, has_room=False)
                self._parts.appendleft(self._broken)
            self._workers -= 1
            self._reading = 0
            self._start(further=False)
        while not self._transfer.complete:
            piece = self._piece()
            yield self._transfer.took(piece)

    def end(self) -> None:
        """End all threads."""
        with self._changed:
            self._ended.set()
            for part in self._parts:
                self._leave(part)
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._workers == self._reading, _PARTING)

    def _piece(self) -> bytes:
        """The next bytes, when they are there."""
        with self._changed:
            while True:
                if self._parts:
                    first = self._parts[0]
                    if first.pieces:
                        return first.pieces.popleft()
                    if first.at == first.stop:
                        self._leave(self._parts.popleft())
                        continue
                if self._error is not None:
                    raise self._error
                self._transfer.check_time()
                self._changed.wait(_LOOK)

    def _leave(self, part: _Part) -> None:
        if part.has_room:
            part.has_room = False
            self._streams.room(1)
        self._changed.notify_all()

    def _start(self, *, further: bool) -> None:
        self._workers += 1
        try:
            threading.Thread(target=self._work, args=(further,), name="range", daemon=True).start()
        except RuntimeError:  # no more threads can be had
            self._workers -= 1
            if not further:
                raise _Otherwise from None
            self._streams.give_back()

    def _work(self, further: bool) -> None:  # noqa: FBT001 - threads take no names
        try:
            while (part := self._take(further=further)) is not None:
                self._fetch(part)
        except BaseException as error:  # noqa: BLE001 - raised by whoever reads
            with self._changed:
                self._error = self._error or error
        finally:
            with self._changed:
                self._workers -= 1
                self._changed.notify_all()
            if further:
                self._streams.give_back()

    def _take(self, *, further: bool) -> _Part | None:
        """The next part to be fetched; None, when this thread is not needed any more."""
        with self._changed:
            if self._broken and not further:
                part, self._broken = self._broken, None
                return part
            while True:
                if self._ended.is_set() or self._error is not None or self._next == self._transfer.size:
                    return None
                if further and not self._streams.goes_on(self._workers):
                    return None
                # The part that is waited for needs no room.
                room = bool(self._parts)
                if not room or self._streams.room(-1):
                    break
                self._changed.wait()
            start, self._next = self._next, min(self._next + self._streams.part, self._transfer.size)
            part = _Part(start, self._next, has_room=room)
            self._parts.append(part)
            self._grow()
            return part

    def _grow(self) -> None:
        """One more thread, if there is work and a connection for it."""
        if self._next < self._transfer.size and self._workers < self._streams.per_blob and self._streams.another():
            self._start(further=True)

    def _fetch(self, part: _Part) -> None:
        retries = self._requests.retries()
        while part.at < part.stop and not self._ended.is_set():
            start, began = part.at, time.monotonic()
            try:
                with self._response({"Range": f"bytes={start}-{part.stop - 1}"}) as response:
                    self._read(response, part)
            except Passing as error:
                if isinstance(error, TooMany) or part.at == start:  # it was refused
                    self._streams.halve(began)
                if self._ended.is_set():
                    return
                if part.at - start >= _PROGRESS:
                    retries.progress()
                retries.wait(error)

    def _read(self, response: Response, part: _Part) -> None:
        if response.status != 206 or not _is_part(response, part.at, part.stop, self._transfer.size):
            raise _Otherwise
        for piece in _bounded(response, part.stop - part.at):
            with self._changed:
                if self._ended.is_set():
                    return
                part.pieces.append(piece)
                part.at += len(piece)
                self._changed.notify_all()

    def _response(self, headers: Mapping[str, str]) -> Response:
        url = self._url
        if url:
            response = self._requests.follow(url, headers)
            if response.status not in _EXPIRED:
                return self._requests.accepted(response)
            response.error_body()
            with self._asking:
                if self._url != url:  # another thread has a new one
                    return self._requests.accepted(self._requests.follow(self._url, headers))
                response = self._asked(headers)
                self._url = response.url if response.redirected else ""
                return response
        return self._asked(headers)

    def _asked(self, headers: Mapping[str, str]) -> Response:
        """The registry's answer.  Raises: _Otherwise, if it may be that it does not send this part."""
        response = self._requests.answer(headers)
        if response.status in _NOT_SO and not response.redirected:
            response.error_body()
            raise _Otherwise
        return self._requests.accepted(response)


class _Pace:
    """How fast the blob of *transfer* comes by one request, of late."""

    def __init__(self, transfer: Download, streams: Streams) -> None:
        self._transfer = transfer
        self._streams = streams
        self._since, self._done, self._waited = time.monotonic(), transfer.done, 0.0
        self.was_slow = False

    def is_slow(self, response: Response) -> bool:
        """Whether the network was slow for the last of *response*, and more connections are to be had."""
        now, done, waited = time.monotonic(), self._transfer.done, response.waited
        if now - self._since >= self._streams.window:
            slow = self._streams.is_slow(done - self._done, now - self._since, waited - self._waited)
            self.was_slow = slow and self._streams.more_to_have
            self._since, self._done, self._waited = now, done, waited
        return self.was_slow


def _is_part(response: Response, start: int, stop: int, size: int) -> bool:
    """Whether *response* says that it is the part from *start* to *stop* of *size* bytes, as it is."""
    match = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
    plain = response.headers.get("Content-Encoding", "") in {"", "identity"}
    return plain and match is not None and [int(number) for number in match.groups()] == [start, stop - 1, size]


def _bounded(response: Response, size: int) -> Iterator[bytes]:
    """The pieces of *response*, which must have *size* bytes.

    Raises: Passing, when it has fewer; _Otherwise, when it has more.
    """
    for piece in response.chunks():
        size -= len(piece)
        if size < 0:
            raise _Otherwise
        yield piece
    if size:
        raise Passing(f"{response.host}: a part of a blob ended {size} bytes too early")
