"""The download of one blob: over broken connections, resumed where they broke."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING

from enroot_slurm.errors import IntegrityError, NetworkError, printable
from enroot_slurm.registry.retry import Passing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from enroot_slurm.oci.manifest import Descriptor
    from enroot_slurm.registry.response import Response
    from enroot_slurm.registry.retry import Retries

__all__ = ["Download"]

# Nexus leaves the unit out, some write "bytes=".
_CONTENT_RANGE = re.compile(r"(?:bytes[ =]+)?(\d{1,18})-\d{1,18}/(\d{1,18}|\*)", re.ASCII)
_PROGRESS = 1 << 20
"""Bytes that make a failed attempt one that was not in vain."""
_SPARE = 16 << 20
"""Bytes that may be dropped in any case; beyond it, twice the blob's size."""


class Download:
    """The state of a download between its attempts.

    Every attempt asks the registry again and not the place that it redirected to: such links expire.  A body that
    does not continue where the last one ended is never appended; what was passed on can't be taken back, so it is
    skipped.
    """

    def __init__(self, descriptor: Descriptor, timeout: float, retries: Retries) -> None:
        self._descriptor = descriptor
        self._retries = retries
        self._deadline = time.monotonic() + timeout if timeout else None
        self._done = 0
        self._dropped = 0
        self._ranges = True
        self._encoding = ""  # as the registry states it
        self._short = False  # the registry says that it has nothing after what came

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self._descriptor.size

    @property
    def done(self) -> int:
        """Bytes that were passed on."""
        return self._done

    def took(self, piece: bytes) -> bytes:
        """*piece*, which continues what was passed on, and has come otherwise than by `attempt`."""
        self.check_time()
        self._done += len(piece)
        return piece

    @property
    def complete(self) -> bool:
        """Whether all bytes were passed on."""
        return self._done == self._descriptor.size

    def attempt(
        self,
        ask: Callable[[Mapping[str, str]], Response],
        stop: Callable[[Response], bool] = lambda _: False,
    ) -> Iterator[bytes]:
        """The bytes that one request gives; *ask* sends it with the headers that it is given.

        *stop* is asked after each piece whether the rest is to be had otherwise.  When the request fails in a way that
        may pass, this waits until the next attempt may begin.
        """
        start = self._done
        self.check_time()
        ranged = start > 0 and self._ranges
        try:
            with ask({"Range": f"bytes={start}-"} if ranged else {}) as response:
                for piece in self._take(response, start if ranged else 0):
                    yield piece
                    if stop(response):
                        return
        except Passing as error:
            if self.complete:
                return
            if self._done - start >= _PROGRESS:
                self._retries.progress()
            self._retries.wait(error)

    def _take(self, response: Response, start: int) -> Iterator[bytes]:
        skip = self._done - self._first_byte(response, start)
        if skip and self._dropped + skip > 2 * self._descriptor.size + _SPARE:
            raise NetworkError(
                f"{response.host}: the connection breaks again and again, and the registry does not send the rest of "
                f"{self._descriptor.digest} alone",
                hint="Look whether something on the way limits how long a connection lasts, or try another mirror.",
            )
        for received in response.chunks():
            self.check_time()
            dropped = min(skip, len(received))
            skip -= dropped
            self._dropped += dropped
            chunk = received[dropped:] if dropped else received
            if self._done + len(chunk) > self._descriptor.size:
                raise self._wrong_size("more")
            if chunk:
                self._done += len(chunk)
                yield chunk
        if not self.complete:
            if self._short:
                raise self._wrong_size("fewer")
            raise Passing(
                f"{self._descriptor.digest}: ended after {self._done} of {self._descriptor.size} bytes{self._encoded}"
            )

    def _first_byte(self, response: Response, start: int) -> int:
        """Where in the blob the body begins: at *start* or at 0."""
        if response.status == 416:
            if not start:
                raise self._wrong_size("fewer")
            self._ranges, self._short = False, True
            raise Passing(f"{self._descriptor.digest}: the registry does not have the rest")
        stated = response.headers.get("Content-Range", "").strip()
        if response.status == 206 or stated:  # whatever the status: who states a range sends a part
            match = _CONTENT_RANGE.fullmatch(stated)
            if match and match[2] not in {"*", str(self._descriptor.size)}:
                raise self._wrong_size(match[2])
            if not match or int(match[1]) != start:
                self._ranges = False
                raise Passing(f"{self._descriptor.digest}: the registry sends another part than the one asked for")
            self._encoding = response.headers.get("Content-Encoding", "")
            return start
        self._encoding = response.headers.get("Content-Encoding", "")
        length = response.headers.get("Content-Length", "")
        if length.isdecimal() and int(length[:18]) > self._descriptor.size:
            raise self._wrong_size(length[:18])
        return 0

    def check_time(self) -> None:
        """Raises: NetworkError, when the download has taken as long as it may."""
        if self._deadline and time.monotonic() > self._deadline:
            raise NetworkError(
                f"{self._descriptor.digest}: not complete in time: {self._done} of {self._descriptor.size} bytes",
                hint="ENROOT_TRANSFER_TIMEOUT (transfer_timeout) sets how long a blob may take; 0 is for ever.",
            )

    def _wrong_size(self, actual: str) -> IntegrityError:
        return IntegrityError(
            f"{self._descriptor.digest}: the manifest says {self._descriptor.size} bytes, the registry has {actual}"
            + self._encoded
        )

    @property
    def _encoded(self) -> str:
        """A message's words about a body that a proxy seems to have compressed."""
        return "" if self._encoding in {"", "identity"} else f", encoded as {printable(self._encoding, 40)} on its way"
