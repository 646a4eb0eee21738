"""The one tree of errors.

Every error says what is wrong and where (its message), what to do about it (`hint`) and how the command line
ends because of it (`exit_code`).  Messages quote foreign text (names from an image, answers of a registry) only
through `printable`, and never hold a secret.

    EnrootSlurmError              1   anything else
      UsageError                  2   the call, the reference or the settings are wrong
        InvalidReference
        InvalidPlatform
        ConfigError
      NotFound                    3   no such image, tag or digest
        PlatformNotFound              the image is there, but not for this platform
      AccessDenied                4   the registry refuses
        ImageRefused                  the policy of the site, or of the user, does
      NetworkError                5   the registry can't be reached, or fails
        RateLimited                   it asks to wait longer than we may
      IntegrityError              6   bytes are not what their digest or their format promises
        UnsupportedImage              well-formed, but of a kind that is not handled
      StorageError                7   a file or directory of this machine: full, refused, already there
        OutputExists
      ConversionError             8   a library or a program that converts is missing or failed
      WorkerFailed                1   a process of ours ended, or was ended, without a result
      Interrupted               130   a signal (128 + its number)

Exceptions live in a module of their own to keep imports one way.
"""

from __future__ import annotations

import errno
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "AccessDenied",
    "ConfigError",
    "ConversionError",
    "EnrootSlurmError",
    "ImageRefused",
    "IntegrityError",
    "Interrupted",
    "InvalidPlatform",
    "InvalidReference",
    "NetworkError",
    "NotFound",
    "OutputExists",
    "PlatformNotFound",
    "RateLimited",
    "StorageError",
    "UnsupportedImage",
    "UsageError",
    "WorkerFailed",
    "error_fields",
    "error_of",
    "limit_hint",
    "machine_error",
    "printable",
    "public_errors",
    "shortage",
]

_SHORTAGES = {errno.ENOSPC: "no space left", errno.EDQUOT: "no quota left"}
_PROCESSES = (
    "Raise the limits of processes and threads (ulimit -u) and of memory (ulimit -v), "
    "or set max_processors and max_connections lower."
)
_FILES = "Raise the limit of open files: ulimit -n"
_LIMITS = {
    errno.EFBIG: "Raise the limit of a file's size (ulimit -f); a FAT file system takes 4 GiB at most.",
    errno.ENOMEM: "Raise the limit of memory (ulimit -v), or let the job ask for more (--mem).",
    errno.EAGAIN: _PROCESSES,
    errno.EMFILE: _FILES,
    errno.ENFILE: _FILES,
}


class EnrootSlurmError(Exception):
    """Base of all errors that the package raises on purpose; never raised itself."""

    exit_code = 1

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        """A sentence that says what the user can do about it, or empty."""

    def __str__(self) -> str:
        return self.message


class UsageError(EnrootSlurmError, ValueError):
    """The call itself is wrong: an argument, a reference, a setting."""

    exit_code = 2


class InvalidReference(UsageError):
    """The text does not name an image."""


class InvalidPlatform(UsageError):
    """The text does not name an architecture."""


class ConfigError(UsageError):
    """One or more settings are wrong; the message has a line for each."""


class NotFound(EnrootSlurmError):
    """The registry has no such image, tag or digest."""

    exit_code = 3


class PlatformNotFound(NotFound):
    """The image exists, but not for the platform asked for."""


class AccessDenied(EnrootSlurmError):
    """The registry, or its token service, refuses."""

    exit_code = 4


class ImageRefused(AccessDenied):
    """A policy does not let the image be used here: it is not signed, or comes from elsewhere."""


class NetworkError(EnrootSlurmError):
    """The registry can't be reached or does not answer properly; trying later may help."""

    exit_code = 5


class RateLimited(NetworkError):
    """The registry asks to wait for longer than the retries allow."""


class IntegrityError(EnrootSlurmError):
    """Bytes differ from their digest or size, or a document or archive is malformed."""

    exit_code = 6


class UnsupportedImage(IntegrityError):
    """The image is of a kind that is refused on purpose, such as Docker's schema 1."""


class StorageError(EnrootSlurmError):
    """A local file or directory can't be read or written."""

    exit_code = 7


class OutputExists(StorageError):
    """The output file is already there."""


class ConversionError(EnrootSlurmError):
    """A library or a program that converts (a compressor, a decompressor) is missing or failed."""

    exit_code = 8


class WorkerFailed(EnrootSlurmError):
    """A process that was started to do the work ended without a result: killed, out of memory, or a bug."""


class Interrupted(EnrootSlurmError):
    """A signal asked the process to end."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by signal {signum}")
        self.exit_code = 128 + signum


def printable(text: str | bytes, limit: int = 200) -> str:
    r"""*text* of foreign origin, safe for a terminal or a log line.

    Printable ASCII stays; anything else is written as ``\xNN`` or ``\uNNNN``; longer than *limit* characters is cut.
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "backslashreplace")
    cut = text[:limit]
    safe = "".join(c if " " <= c <= "~" else c.encode("unicode_escape", "surrogatepass").decode("ascii") for c in cut)
    return safe + ("..." if len(text) > limit else "")


def shortage(error: OSError) -> str:
    """The resource that is used up, such as "no quota left" (the user's, while others may have space); or empty."""
    return _SHORTAGES.get(error.errno or 0, "")


def limit_hint(error: OSError) -> str:
    """The hint for a limit of this process that *error* reports; or empty."""
    return _LIMITS.get(error.errno or 0, "")


_NOT_MAPPED = ("annot allocate memory", "failed to map segment")
"""Words of the dynamic linker (ld.so) for too little memory."""


def no_memory(error: BaseException) -> bool:
    """Whether *error* says that there is too little memory: it depends on the place how Python says it."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    if isinstance(error, SystemError):  # the interpreter could not even make a MemoryError
        return "without exception set" in str(error)
    if isinstance(error, ImportError):
        return any(words in str(error) for words in _NOT_MAPPED)
    return isinstance(error, MemoryError)


def machine_error(error: BaseException) -> StorageError | None:
    """The error for what Python or a library met on this machine: a limit, no space, no current directory; or None."""
    if not isinstance(error, OSError) and no_memory(error):
        error = OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))
    elif isinstance(error, RuntimeError) and "start new thread" in str(error):
        error = OSError(errno.EAGAIN, "no thread can be started")
    if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd
        return StorageError("the current directory is not there any more", hint="Change to another: cd")
    if not isinstance(error, OSError) or not (limit_hint(error) or shortage(error)):
        return None
    where = f": {printable(str(error.filename))}" if error.filename else ""
    return StorageError(f"{error.strerror}{where}", hint=limit_hint(error) or "Free space there.")


def error_fields(error: EnrootSlurmError) -> dict[str, str]:
    """*error* as texts, from which `error_of` makes it again: ``kind`` (its class), ``message`` and ``hint``."""
    return {"kind": _public(error).__name__, "message": error.message, "hint": error.hint}


def error_of(fields: Mapping[str, object]) -> EnrootSlurmError:
    """The error that `error_fields` was given; texts of another process' are made printable, line by line."""
    kind = _CLASSES.get(str(fields.get("kind")), EnrootSlurmError)
    message, hint = (
        "\n".join(printable(line, 2000) for line in str(fields.get(name, "")).split("\n")[:50])
        for name in ("message", "hint")
    )
    return (EnrootSlurmError if kind is Interrupted else kind)(message, hint=hint)


@contextmanager
def public_errors() -> Iterator[None]:
    """Let only classes of this module come out: an error of an internal subclass becomes its nearest public class."""
    try:
        yield
    except EnrootSlurmError as error:
        kind = _public(error)
        if kind is type(error):
            raise
        raise kind(error.message, hint=error.hint) from error


def _public(error: EnrootSlurmError) -> type[EnrootSlurmError]:
    return next(each for each in type(error).__mro__ if _CLASSES.get(each.__name__) is each)


_CLASSES: dict[str, type[EnrootSlurmError]] = {
    name: value for name, value in globals().items() if isinstance(value, type) and issubclass(value, EnrootSlurmError)
}
