"""A generator that runs ahead in a thread: decoding and hashing go on while the consumer works."""

from __future__ import annotations

import queue
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

__all__ = ["prefetch"]

_DEPTH = 3  # pieces ahead; at 1 MiB each this bounds the memory


def prefetch(chunks: Iterable[bytes]) -> Generator[bytes, None, None]:
    """A generator of *chunks*, which a thread takes, from now on, up to three pieces ahead; closing it ends that."""
    pieces: queue.SimpleQueue[bytes | BaseException | None] = queue.SimpleQueue()
    room = threading.Semaphore(_DEPTH)
    stopped = threading.Event()

    def run() -> None:
        try:
            for chunk in chunks:
                room.acquire()
                if stopped.is_set():
                    return
                pieces.put(chunk)
            pieces.put(None)
        except BaseException as error:  # noqa: BLE001  the consumer raises it
            pieces.put(error)

    def consume() -> Generator[bytes, None, None]:
        try:
            yield b""
            while (piece := pieces.get()) is not None:
                if isinstance(piece, BaseException):
                    raise piece
                room.release()
                yield piece
        finally:
            stopped.set()
            room.release()

    threading.Thread(target=run, name="prefetch", daemon=True).start()
    generator = consume()
    next(generator)  # from here on, closing it runs its last lines
    return generator
