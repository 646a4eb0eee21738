"""recording.py FILE.svg COMMAND...: run a command on a terminal of its own, and draw its output as a moving picture.

It is for programs that draw one line anew, as progress bars do: carriage returns, line ends and the erasing of a line
are all that it knows of a terminal.  Below docs/, progress.svg was made with it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import shlex
import struct
import sys
import termios
import time
from pathlib import Path
from typing import NamedTuple
from xml.sax.saxutils import escape

COLUMNS = 104
INTERVAL = 0.5  # seconds between two frames
STAY = 4.0  # seconds for which the last frame is seen
WIDTH, HEIGHT = 8.0, 19  # of a character, in pixels


class Frame(NamedTuple):
    """The *lines* on the screen, *at* seconds after the start."""

    at: float
    lines: tuple[str, ...]


def record(command: list[str]) -> list[Frame]:
    """The frames of *command*, one at most for each interval, and the last one."""
    child, terminal = pty.fork()
    if child == 0:
        os.environ |= {"TERM": "xterm", "COLUMNS": str(COLUMNS), "LC_ALL": "C.UTF-8"}
        os.execvp(command[0], command)  # noqa: S606 - it becomes the command
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 24, COLUMNS, 0, 0))
    start, text, frames = time.monotonic(), "", [Frame(0.0, ())]
    while data := _read(terminal):
        text += data.decode(errors="replace")
        now = time.monotonic() - start
        if now - frames[-1].at >= INTERVAL:
            frames.append(Frame(now, screen(text)))
    os.waitpid(child, 0)
    return [*frames, Frame(time.monotonic() - start, screen(text))]


def screen(text: str) -> tuple[str, ...]:
    """The lines that *text* leaves on a terminal."""
    lines = []
    for written in text.replace("\r\n", "\n").split("\n"):
        shown = ""
        for part in written.split("\r"):
            plain = part.replace("\x1b[K", "")
            shown = plain if "\x1b[K" in part else plain + shown[len(plain) :]
        lines.append(re.sub(r"\x1b\[[0-9;]*m", "", shown).rstrip())
    return tuple(line for line in lines if line)


def picture(command: list[str], frames: list[Frame]) -> str:
    """The frames as an SVG whose only movement is that of one frame to the next."""
    total = frames[-1].at + STAY
    rows = 1 + max(len(frame.lines) for frame in frames)
    width, height = round(COLUMNS * WIDTH) + 32, rows * HEIGHT + 32
    style, groups = [], []
    prompt = f"$ {shlex.join(command)}"
    for number, frame in enumerate(frames):
        end = frames[number + 1].at if number + 1 < len(frames) else total
        begin, end = 100 * frame.at / total, 100 * end / total
        style.append(
            f"@keyframes f{number}{{0%{{opacity:0}}{begin:.3f}%{{opacity:1}}{end:.3f}%{{opacity:0}}100%{{opacity:0}}}}"
            f"#f{number}{{animation:f{number} {total:.1f}s step-end infinite}}"
        )
        lines = "".join(
            f'<text x="16" y="{28 + HEIGHT * (row + 1)}">{escape(line)}</text>' for row, line in enumerate(frame.lines)
        )
        groups.append(f'<g id="f{number}" opacity="{int(number == len(frames) - 1)}">{lines}</g>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{escape(prompt)}</title><style>text{{font:13.3px monospace;fill:#e6e6e6;white-space:pre}}"
        f"{''.join(style)}</style>"
        f'<rect width="{width}" height="{height}" rx="8" fill="#1e1e1e"/>'
        f'<text x="16" y="28" xml:space="preserve">{escape(prompt)}</text>{"".join(groups)}</svg>\n'
    )


def _read(terminal: int) -> bytes:
    try:
        return os.read(terminal, 65536)
    except OSError:  # how a terminal says that its program has ended
        return b""


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(sys.argv[2:], record(sys.argv[2:])))
