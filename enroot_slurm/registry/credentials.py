"""The logins that there are for a registry: of all files and helpers, in the order in which they count.

Nothing is read before a registry asks for a login.  What can't be read, or is wrong in itself, costs that file, with a
warning: an image that anyone may read needs none.
"""

from __future__ import annotations

import os
import stat
import threading
from typing import TYPE_CHECKING, Protocol

from enroot_slurm.errors import ConfigError, EnrootSlurmError, StorageError
from enroot_slurm.registry.auth_file import HELPERS_OFF, AuthFile
from enroot_slurm.registry.helpers import HelperFailed
from enroot_slurm.registry.netrc_file import NetrcFile
from enroot_slurm.registry.secret import Credential, Secret
from enroot_slurm.system.slow_files import read_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from enroot_slurm.registry.netrc_file import Candidate

__all__ = ["Credential", "CredentialSource", "Credentials", "LoginFile", "Secret", "read_logins"]

_MAX_NETRC = 64 << 10
_MAX_FILE = 1 << 20


class CredentialSource(Protocol):
    """A place where logins are written."""

    @property
    def warnings(self) -> tuple[str, ...]:
        """The doubts about it, for the user."""

    def candidates(self, host: str, repository: str, user: str, *, default: bool) -> Iterator[Candidate]:
        """The logins for *repository* of *host* (and of *user*), the best first; or, with *default*, those for all."""


class Credentials:
    """The logins for *repository*, of all *sources* in their order.  Without arguments: none.

    A source is a function that reads it when it is needed, and returns None if there is nothing.  *name* is the file
    where a line may be added, for messages.  *defaults*: whether a login for any host (netrc's ``default``) counts.
    """

    def __init__(
        self,
        sources: Sequence[Callable[[], CredentialSource | None]] = (),
        *,
        name: str = "",
        repository: str = "",
        warn: Callable[[str], None] = lambda _: None,
        defaults: bool = True,
    ) -> None:
        self.name = name
        self._defaults = (False, True) if defaults else (False,)
        self._unread = list(sources)
        self._read: list[CredentialSource] = []
        self._repository = repository
        self._warn = warn
        self._lock = threading.RLock()

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        run_commands: bool,
        strict: bool = False,
        repository: str = "",
        warn: Callable[[str], None] = lambda _: None,
    ) -> Credentials:
        """Those in the file *path* alone, in netrc's or Docker's form; see `read_logins`."""

        def read() -> CredentialSource | None:
            return read_logins(path, run_commands=run_commands, strict=strict)

        return cls([read], name=str(path), repository=repository, warn=warn)

    def find(self, host: str, user: str = "", *, exact: bool = False) -> Credential | None:
        """The credential for *host* (``HOST[:PORT]``), with the login *user* if that is not empty.

        With *exact*, *host* is where a registry wants logins sent to: netrc's ``default``, and tokens for registries
        alone, are not for it.  A helper that fails is passed over if there is another login, with a warning.

        Raises: AccessDenied when its password has to be evaluated and may not, or a helper failed and there is no other
        login; ConfigError when evaluating it fails.
        """
        failed: HelperFailed | None = None
        for candidate in self._candidates(host, user, exact=exact):
            try:
                credential = candidate.evaluate()
            except HelperFailed as error:
                failed = failed or error
                continue
            if credential is not None and not (exact and credential.kind == "registry"):
                if failed:
                    self._warn(f"{failed}; {credential.source} serves instead")
                return credential
        if failed and not exact:
            raise failed
        return None

    def has(self, host: str, user: str = "", *, exact: bool = False) -> bool:
        """Whether `find` would find something; only helpers are evaluated."""
        for candidate in self._candidates(host, user, exact=exact):
            try:
                if candidate.certain or candidate.evaluate() is not None:
                    return True
            except HelperFailed:
                continue
        return False

    def place(self, host: str, user: str = "") -> str:
        """Where what `find` would find is written, or empty; nothing is evaluated, so helpers are left out."""
        return next((c.place for c in self._candidates(host, user) if c.certain), "")

    def _candidates(self, host: str, user: str, *, exact: bool = False) -> Iterator[Candidate]:
        for default in (False,) if exact else self._defaults:
            for source in self._sources():
                yield from source.candidates(host, self._repository, user, default=default)

    def _sources(self) -> Iterator[CredentialSource]:
        at = 0
        while True:
            with self._lock:
                while at == len(self._read) and self._unread:
                    source = self._next()
                    self._read += [source] if source is not None else []
                if at == len(self._read):
                    return
                source = self._read[at]
            yield source
            at += 1

    def _next(self) -> CredentialSource | None:
        try:
            source = self._unread.pop(0)()
        except StorageError as error:
            self._unread.clear()  # the others are in the same home: each would take as long
            self._warn(f"{error}: logins are not looked for any further")
            return None
        except EnrootSlurmError as error:
            self._warn(f"{error}: there are no logins from there")
            return None
        for text in source.warnings if source is not None else ():
            self._warn(text)
        return source


def read_logins(
    path: Path,
    *,
    run_commands: bool,
    strict: bool = False,
    docker: bool = False,
    bare: bool = False,
    required: bool = False,
) -> LoginFile | None:
    """The logins in the file *path*, in netrc's or (always, with *docker*) Docker's form; None if it is not there.

    *run_commands*: whether passwords of the form ``$(COMMAND)`` and ``$NAME``, and helpers, may be evaluated.  Even so
    they are not when someone else could have written them.  *strict*: see `NetrcFile`; *bare*: see `AuthFile`.
    *required*: it has to be there.

    Raises: ConfigError, with FILE:LINE and never with content; StorageError, when the file system hangs.
    """
    try:
        content, uid, mode = read_file(path, _MAX_FILE)
    except OSError as error:
        if isinstance(error, FileNotFoundError | NotADirectoryError) and not required:
            return None
        raise ConfigError(f"{path}: the credentials can't be read: {error.strerror}") from None
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: not a regular file")
    is_netrc = not docker and content.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] != b"{"
    limit = _MAX_NETRC if is_netrc else _MAX_FILE
    if len(content) > limit:
        raise ConfigError(f"{path}: larger than {limit >> 10} KiB")
    if b"\0" in content:
        raise ConfigError(f"{path}:{content.count(10, 0, content.index(0)) + 1}: there is a NUL character")
    text = content.decode("utf-8", "surrogateescape")
    doubts, why = _judge(path, uid, mode)
    if is_netrc:
        commands = why if run_commands else "commands in credentials are off"
        return LoginFile(NetrcFile(text, str(path), no_commands=commands, strict=strict), doubts)
    helpers = why if run_commands else HELPERS_OFF
    return LoginFile(AuthFile(text, str(path), no_helpers=helpers, bare=bare), doubts)


class LoginFile:
    """The logins of a file, and the doubts about the file itself."""

    def __init__(self, content: NetrcFile | AuthFile, doubts: tuple[str, ...]) -> None:
        self.candidates = content.candidates
        self.doubts = doubts
        """The doubts about its owner and mode."""
        self.warnings = (*doubts, *content.warnings)
        self.helpers = content.helpers if isinstance(content, AuthFile) else ()


def _judge(path: Path, uid: int, mode: int) -> tuple[tuple[str, ...], str]:
    """Warnings about the file, and why its commands can't be trusted (or empty)."""
    if uid not in {0, os.geteuid()}:
        why = "the file belongs to another user"
        return (f"{path}: {why}",), why
    if mode & 0o022:
        return (f"{path}: other users may write it; run: chmod 600 {path}",), "other users may write the file"
    if mode & 0o044:
        return (f"{path}: other users may read it; run: chmod 600 {path}",), ""
    return (), ""
