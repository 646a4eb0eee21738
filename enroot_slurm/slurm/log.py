"""One line per event to the system's log: slurmd shows the output of hooks only when they fail.

enroot-slurm: event=prolog job=12.0 node=n1 user=alice images=1 outcome=done seconds=0.04
"""

from __future__ import annotations

import syslog

from enroot_slurm.errors import printable

__all__ = ["DEBUG", "ERROR", "INFO", "WARNING", "log"]

DEBUG, INFO, WARNING, ERROR = syslog.LOG_DEBUG, syslog.LOG_INFO, syslog.LOG_WARNING, syslog.LOG_ERR
_MAX_VALUE = 1000
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:@/#+-[]")


def log(event: str, priority: int = INFO, **fields: object) -> None:
    """Log *event* with *fields*: ``key=value``, the value in quotes where it is more than a word; one line always."""
    words = [f"event={event}", *(f"{key}={_quoted(value)}" for key, value in fields.items())]
    syslog.openlog("enroot-slurm", syslog.LOG_PID, syslog.LOG_DAEMON)
    syslog.syslog(priority, " ".join(words))


def _quoted(value: object) -> str:
    text = f"{value:.2f}" if isinstance(value, float) else str(value)
    if text and _PLAIN.issuperset(text) and len(text) <= _MAX_VALUE:
        return text
    safe = printable(text, _MAX_VALUE).replace('"', '\\"')
    return f'"{safe}"'
