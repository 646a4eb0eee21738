"""Users of this machine for a test: made with useradd, removed at the end.  Needs root."""

from __future__ import annotations

import os
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

from support.tools import require_root

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["User", "users"]


class User(NamedTuple):
    """A user with a home directory of his own (0700)."""

    name: str
    uid: int
    home: Path

    @property
    def identity(self) -> dict[str, Any]:
        """Arguments of `subprocess` to run something as this user."""
        return {"user": self.uid, "group": self.uid, "extra_groups": [], "cwd": "/"}


@contextmanager
def users(count: int, homes: Path) -> Iterator[list[User]]:
    """*count* users whose homes are below *homes*, which everyone can enter."""
    require_root("makes users")
    made: list[User] = []
    try:
        for number in range(count):
            name, home = f"es{os.getpid()}u{number}", homes / f"u{number}"
            options = ["--no-log-init", "--user-group", "--no-create-home", "--home-dir", home, "--shell", "/bin/sh"]
            subprocess.run(["useradd", *options, name], check=True, capture_output=True)
            ids = [int(subprocess.run(["id", o, name], check=True, capture_output=True).stdout) for o in ("-u", "-g")]
            made.append(User(name, ids[0], home))
            home.mkdir(mode=0o700)
            os.chown(home, *ids)
            assert ids[0] == ids[1]
        yield made
    finally:
        for user in made:
            subprocess.run(["userdel", user.name], check=True, capture_output=True)
