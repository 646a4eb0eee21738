"""enroot's own layer on top of an image: /etc/rc, /etc/fstab, /etc/environment, /etc/rc.local and their directories.

What the files hold is enroot's (doc/image-format.md; src/docker.sh), byte for byte, but for what it gets wrong: a word
of the command that holds a line break stays one word, a label's line breaks become spaces, what is script in a working
directory is quoted, and white space in a volume is escaped as fstab(5) wants it.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from enroot_slurm.errors import IntegrityError, printable
from enroot_slurm.tar.names import clean

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["RcLayer"]

_RC_LOCAL = """\
# This file is sourced by /etc/rc when the container starts.
# It can be used to manipulate the entrypoint or the command of the container.
"""
_RC = """\
mkdir -p "{directory}" 2> /dev/null
cd "{directory}" && unset OLDPWD || exit 1

if [ -s /etc/rc.local ]; then
    . /etc/rc.local
fi

if [ $# -gt 0 ]; then
    exec {entrypoint} "$@"
else
    exec {entrypoint} {command}
fi
"""
_SPECIAL = re.compile(r'[$`"\\]')  # within double quotes (POSIX.1-2024, Shell Command Language, 2.2.3)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class RcLayer(NamedTuple):
    """Directories (mode 0755) and files (mode 0644) that shadow whatever the image has of their names."""

    directories: tuple[bytes, ...]
    """Relative paths, parents first."""
    files: tuple[tuple[bytes, bytes], ...]
    """Relative paths and contents."""

    @classmethod
    def of(
        cls,
        provenance: str,
        *,
        env: Iterable[str] = (),
        entrypoint: Iterable[str] = (),
        cmd: Iterable[str] = (),
        working_dir: str = "",
        volumes: Iterable[str] = (),
        labels: Iterable[tuple[str, str]] = (),
    ) -> RcLayer:
        """The layer for an image config's fields; *provenance* is the URI that /etc/rc names.

        Raises: IntegrityError, when the working directory is one of the four files.
        """
        comments = [f"# enroot-provenance: {provenance}"]
        comments += [f"# {_CONTROL.sub(' ', key)} {_CONTROL.sub(' ', value)}" for key, value in labels]
        words = tuple(entrypoint)
        arguments = tuple(cmd) or (() if words else ("/bin/sh",))
        script = _RC.format(
            directory=_SPECIAL.sub(r"\\\g<0>", working_dir or "/"),
            entrypoint=" ".join(map(_quote, words)),
            command=" ".join(map(_quote, arguments)),
        )
        mounts = (_fstab(v) for v in sorted(volumes))
        texts = {
            b"etc/rc": "\n".join(comments) + "\n\n" + script,
            b"etc/fstab": "".join(
                f"${{ENROOT_ROOTFS}}{v} {v} none x-create=dir,bind,rw,nosuid,nodev\n" for v in mounts
            ),
            b"etc/environment": "".join(f"{e}\n" for e in env),
            b"etc/rc.local": _RC_LOCAL,
        }
        directories = {b"etc": None}
        # A relative one is only entered by the script; enroot makes no directory for it.
        parts = clean(_bytes(working_dir) if working_dir.startswith("/") else b"").split(b"/")
        directories |= dict.fromkeys(b"/".join(parts[: i + 1]) for i in range(len(parts)) if parts[0])
        if any(path in texts for path in directories):
            raise IntegrityError(f"the image's working directory {printable(working_dir)} is a file of enroot's")
        return cls(tuple(directories), tuple((path, _bytes(text)) for path, text in texts.items()))


def _bytes(text: str) -> bytes:
    # JSON can hold lone surrogates, which have no UTF-8 form.
    return text.encode("utf-8", "replace")


def _quote(word: str) -> str:
    """*word* as bash's ``${word@Q}`` gives it, in single quotes; these keep line breaks in every shell."""
    return "'" + word.replace("'", "'\\''") + "'" if word != "'" else "\\'"


def _fstab(path: str) -> str:
    return path.replace("\\", "\\134").replace(" ", "\\040").replace("\t", "\\011")
