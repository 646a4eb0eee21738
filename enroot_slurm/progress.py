"""Reports of a running import: a library call is silent unless it is given a `Progress`.

Nothing is imported here: a hook that finds its image in the cache has nothing to tell, and loads this all the same.
"""

from __future__ import annotations

__all__ = ["Pace", "Progress", "Relay", "count_text", "duration_text", "size_text", "work_text"]

_WINDOW = 10.0  # seconds over which a rate is measured
_SHORTEST = 0.5  # seconds that say something of a rate


class Progress:
    """Hears how far an import is, and does nothing with it: override what you want to hear.

    Any thread may call any method, so a method of yours must not wait for long.
    """

    def phase(self, name: str) -> None:
        """A new phase begins, such as "resolving"."""

    def waiting(self, text: str) -> None:
        """Another process does the work; *text* says which, and in which phase.  Called about once a second."""

    def expect(self, size: int) -> None:
        """*size* bytes will be downloaded in all."""

    def received(self, count: int) -> None:
        """*count* more bytes have been downloaded."""

    def converted(self, total: int) -> None:
        """*total* bytes of the root file system have been decoded up to now."""

    def advanced(self, done: int, total: int) -> None:
        """*done* of *total* bytes of the whole import are done: this process' or, while it waits, the other's.

        Counted are the bytes of blobs that have been decoded and, when layers are joined, an eighth of theirs once
        more, as they are copied.  A *total* of 0: it is not known.
        """

    def asked(self, host: str, answer: str, count: int) -> None:
        """The registry *host* was asked *count* times, and answered so: ``2xx``, ``404``, ``error`` and the like."""

    def warn(self, text: str) -> None:
        """A person should know *text*, but the import goes on."""

    def hint(self, text: str) -> None:
        """*text* says how such an import could be faster."""

    def detail(self, text: str) -> None:
        """*text* tells of a layer that is done; for people who want to know all."""


class Relay(Progress):
    """Passes all that it hears on to *told*: override what is to be heard on the way."""

    def __init__(self, told: Progress) -> None:
        self.told = told

    def phase(self, name: str) -> None:
        """Pass it on."""
        self.told.phase(name)

    def waiting(self, text: str) -> None:
        """Pass it on."""
        self.told.waiting(text)

    def expect(self, size: int) -> None:
        """Pass it on."""
        self.told.expect(size)

    def received(self, count: int) -> None:
        """Pass it on."""
        self.told.received(count)

    def converted(self, total: int) -> None:
        """Pass it on."""
        self.told.converted(total)

    def advanced(self, done: int, total: int) -> None:
        """Pass it on."""
        self.told.advanced(done, total)

    def asked(self, host: str, answer: str, count: int) -> None:
        """Pass it on."""
        self.told.asked(host, answer, count)

    def warn(self, text: str) -> None:
        """Pass it on."""
        self.told.warn(text)

    def hint(self, text: str) -> None:
        """Pass it on."""
        self.told.hint(text)

    def detail(self, text: str) -> None:
        """Pass it on."""
        self.told.detail(text)


class Pace:
    """How fast a number of bytes grows, over the last ten seconds."""

    def __init__(self) -> None:
        self._samples: list[tuple[float, int]] = []

    def rate(self, now: float, done: int) -> int:
        """Bytes per second, when there are *done* at *now* (time.monotonic); 0: not known.  Call it now and then."""
        samples = self._samples
        if samples and samples[-1][1] > done:  # another count has begun
            samples.clear()
        samples.append((now, done))
        while len(samples) > 2 and now - samples[0][0] > _WINDOW:
            del samples[0]
        since, before = samples[0]
        return int((done - before) / (now - since)) if now - since > _SHORTEST else 0


def work_text(done: int, total: int, rate: int) -> str:
    """How far work is, for people: percent, *rate* and time left, or nothing if *total* is not known.

    All in bytes; numbers that come from a file may be any.
    """
    if total <= 0 or done < 0:
        return ""
    text = f"{100 * min(done, total) // total} %"
    if rate > 0 and done < total:
        text += f", {size_text(rate)}/s, {duration_text((total - done) / rate)} left"
    return text


def count_text(count: int, noun: str) -> str:
    """*count* of what *noun* names: ``1 layer``, ``2 layers``."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


def size_text(size: int) -> str:
    """*size* bytes for people: ``1.5 GiB``."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration_text(seconds: float) -> str:
    """*seconds* for people: ``2 min 05 s``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60} min {whole % 60:02} s" if whole < 3600 else f"{whole // 3600} h {whole % 3600 // 60:02} min"
