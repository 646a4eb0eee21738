"""Each import's outcome, told where an administrator looks: an event to count, and an entry of the journal."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol, TypeVar

from enroot_slurm import errors
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.oci.reference import Reference
from enroot_slurm.progress import Progress, Relay
from enroot_slurm.slurm.log import INFO, WARNING, log

if TYPE_CHECKING:
    from collections.abc import Callable

    from enroot_slurm.oci.digest import Digest
    from enroot_slurm.system.events import Events

__all__ = ["DOORS", "RESULTS", "accounted", "result_of"]

DOORS = ("prolog", "stagein", "step", "prefetch", "cli")
"""The doors through which images are asked for."""
_RESULTS = (
    (errors.RateLimited, "rate_limited"),
    (errors.ImageRefused, "blocked"),
    (errors.NotFound, "not_found"),
    (errors.AccessDenied, "denied"),
    (errors.NetworkError, "registry_error"),
    (errors.UnsupportedImage, "unsupported"),
    (errors.IntegrityError, "damaged"),
    (errors.StorageError, "storage_error"),
    (errors.ConversionError, "conversion_error"),
    (errors.UsageError, "refused"),
    (errors.Interrupted, "cancelled"),
    (errors.EnrootSlurmError, "failed"),
)
RESULTS = ("ok", "reused", *(name for _, name in _RESULTS))
"""The outcomes of imports."""

_RESOLVING = ("resolving ", "verifying ", "reading ")


class _Made(Protocol):
    """A `CachedImage` or an `ImportResult`."""

    @property
    def digest(self) -> Digest: ...
    @property
    def size(self) -> int: ...


_T = TypeVar("_T", bound=_Made)


def accounted(
    work: Callable[[Progress], _T],
    uri: str,
    door: str,
    events: Events,
    *,
    progress: Progress | None = None,
    job: str = "",
) -> _T:
    """Return the result of *work*, an image that *uri* names, and note it in *events* and the system's log.

    *work* is to tell the progress that it is given, which passes on to *progress*.  Raises: what *work* raises.
    """
    meter = _Meter(progress or Progress())
    result, image, failure = "cancelled", None, ""
    try:
        image = work(meter)
        result = "reused" if getattr(image, "reused", False) else "ok"
    except EnrootSlurmError as error:
        result, failure = result_of(error), str(error)
        raise
    finally:
        seconds, wait = time.monotonic() - meter.begun, meter.waited
        host = _host(uri)
        events.add(
            "import",
            door=door,
            result=result,
            seconds=seconds,
            wait=wait,
            resolve=meter.resolved,
            download=meter.downloaded,
            convert=max(0.0, seconds - wait - meter.resolved),
            bytes=meter.bytes,
            host=host,
        )
        for asked, answers in meter.answers.items():
            events.add("requests", host=asked, **answers)
        told = {"job": job} if job else {}
        told |= {"image": uri, "outcome": result, "door": door}
        if image is not None:
            told |= {"digest": str(image.digest), "size": str(image.size)}
        told |= {"error": failure} if failure else {}
        log(
            "import" if image is not None else "import-failed",
            INFO if image is not None else WARNING,
            **told,
            seconds=seconds,
            bytes=meter.bytes,
            endpoint=getattr(image, "endpoint", "") or host,
        )
    return image


def result_of(error: EnrootSlurmError) -> str:
    """The one of `RESULTS` that *error* is."""
    return next(name for kind, name in _RESULTS if isinstance(error, kind))


def _host(uri: str) -> str:
    try:
        return Reference.parse(uri).registry
    except EnrootSlurmError:
        return ""


class _Meter(Relay):
    """Passes on what it is told, and counts."""

    def __init__(self, told: Progress) -> None:
        super().__init__(told)
        self.begun = time.monotonic()
        self.bytes = 0
        """That came from a registry."""
        self.answers: dict[str, dict[str, int]] = {}
        """By the host that was asked, as in `enroot_slurm.registry.tally`."""
        self._waiting = 0.0  # since when, if it does
        self._waited = 0.0
        self._resolving = 0.0  # likewise
        self._resolved = 0.0
        self._first = self._last = 0.0  # when bytes came

    @property
    def waited(self) -> float:
        """Seconds for which other processes were waited for."""
        return self._waited + (time.monotonic() - self._waiting if self._waiting else 0.0)

    @property
    def resolved(self) -> float:
        """Seconds for which the registry was asked for manifests and signatures."""
        return self._resolved + (time.monotonic() - self._resolving if self._resolving else 0.0)

    @property
    def downloaded(self) -> float:
        """Seconds from the first byte of a blob to the last one; layers are converted meanwhile."""
        return self._last - self._first

    def phase(self, name: str) -> None:
        """Pass it on; no wait goes on."""
        self._waited, self._waiting = self.waited, 0.0
        self._resolved, self._resolving = self.resolved, 0.0
        if name.startswith(_RESOLVING):
            self._resolving = time.monotonic()
        super().phase(name)

    def waiting(self, text: str) -> None:
        """Pass it on; a wait begins or goes on."""
        self._resolved, self._resolving = self.resolved, 0.0
        self._waiting = self._waiting or time.monotonic()
        super().waiting(text)

    def received(self, count: int) -> None:
        """Pass it on, and count it."""
        self.bytes += count
        self._last = time.monotonic()
        self._first = self._first or self._last
        super().received(count)

    def asked(self, host: str, answer: str, count: int) -> None:
        """Pass it on, and count it."""
        answers = self.answers.setdefault(host, {})
        answers[answer] = answers.get(answer, 0) + count
        super().asked(host, answer, count)
