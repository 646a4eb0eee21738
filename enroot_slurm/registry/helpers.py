"""Credential helpers: programs called ``docker-credential-NAME``, which keep logins or get them from a cloud.

Sources: docker/docker-credential-helpers, credentials/credentials.go and credentials/error.go (the protocol).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import threading
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import AccessDenied, printable
from enroot_slurm.registry import programs
from enroot_slurm.registry.secret import Secret

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HelperAnswer", "HelperFailed", "ask_helper", "is_helper_name", "needs_desktop"]

_NAME = re.compile(r"[A-Za-z0-9_.-]+", re.ASCII)
_NOT_FOUND = "credentials not found in native keychain"
_DESKTOP = frozenset({"desktop", "osxkeychain", "pass", "secretservice", "wincred"})


class HelperFailed(AccessDenied):
    """A helper said neither a login nor that it has none."""


class HelperAnswer(NamedTuple):
    """The answer of a helper."""

    login: str
    secret: Secret


def is_helper_name(name: object) -> bool:
    """Whether *name* can be the end of a helper's name: it never leads out of PATH."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def needs_desktop(name: str) -> bool:
    """Whether the helper needs a desktop, or an agent that asks people: on a compute node it fails or hangs."""
    return name in _DESKTOP


_answers: dict[tuple[str, str], HelperAnswer | HelperFailed | None] = {}
_lock = threading.Lock()


def ask_helper(name: str, keys: Iterable[str], place: str) -> HelperAnswer | None:
    """The helper *name*'s answer for the first of *keys* (hosts, or URLs) that it knows; None if it knows none.

    It is asked once for each key in this process.  *place* says where it is named.

    Raises: HelperFailed.
    """
    for key in keys:
        with _lock:
            if (name, key) not in _answers:
                try:
                    _answers[name, key] = _ask(name, key, place)
                except HelperFailed as failed:
                    _answers[name, key] = failed
            answer = _answers[name, key]
        if isinstance(answer, HelperFailed):
            raise HelperFailed(answer.message, hint=answer.hint)
        if answer is not None:
            return answer
    return None


def _ask(name: str, key: str, place: str) -> HelperAnswer | None:
    program = f"docker-credential-{name}"
    path = shutil.which(program)
    if path is None:
        raise HelperFailed(
            f"{place}: there is no program {program} in PATH",
            hint="Install it on this node, too, or add a line to .credentials.",
        )
    try:
        output = programs.run([os.path.abspath(path), "get"], given=key.encode(), quiet=True)  # noqa: PTH100
    except OSError as error:
        raise HelperFailed(f"{place}: {path} can't be run: {error.strerror}") from None
    hint = "It needs a desktop or an agent, which compute nodes lack. Add a line to .credentials instead."
    hint = hint if needs_desktop(name) else f"Try it: echo {printable(key, 100)} | {program} get"
    if output.problem:
        raise HelperFailed(f"{place}: {program} {output.problem}", hint=hint)
    if output.status:
        said = output.text.decode("utf-8", "replace").strip()
        if said == _NOT_FOUND:
            return None
        text = f": {printable(said, 200)}" if said else ""
        raise HelperFailed(f"{place}: {program} ended with status {output.status}{text}", hint=hint)
    return _read(output.text, f"{place}: {program}", hint)


def _read(text: bytes, what: str, hint: str) -> HelperAnswer | None:
    try:
        document = json.loads(text)
        login, secret = document.get("Username", ""), document.get("Secret", "")
    except (ValueError, RecursionError, AttributeError):
        raise HelperFailed(f"{what} did not print a JSON object", hint=hint) from None
    if not isinstance(login, str) or not isinstance(secret, str) or bool(login) > bool(secret):
        raise HelperFailed(f"{what} printed no Username and Secret", hint=hint)
    return HelperAnswer(login, Secret(secret)) if secret else None
