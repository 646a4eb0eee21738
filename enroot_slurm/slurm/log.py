"""One entry per event in the system's log: slurmd shows the output of hooks only when they fail.

enroot-slurm: event=prolog job=12.0 node=n1 user=alice images=1 outcome=done seconds=0.04

systemd's journal gets the fields as well: SLURM_JOB_ID for the job, and ENROOT_SLURM_EVENT, ENROOT_SLURM_IMAGE and so
on; an event of `MESSAGES` has that MESSAGE_ID.  Where there is no journal, syslog gets the line.
"""

from __future__ import annotations

import syslog

from enroot_slurm.errors import printable
from enroot_slurm.system.journal import send

__all__ = ["DEBUG", "ERROR", "INFO", "MESSAGES", "WARNING", "log"]

DEBUG, INFO, WARNING, ERROR = syslog.LOG_DEBUG, syslog.LOG_INFO, syslog.LOG_WARNING, syslog.LOG_ERR
MESSAGES = {
    "import": "72286444729e45fe8d814a1f4ea0e0f2",
    "import-failed": "496b75c29d794b1bbfa4195ff8b8d7a6",
    "prolog": "60f77ffc61fa4bd0b41f1f351bffe9be",
    "epilog": "3e5ce2dd57c7420b826d7e834ee190d9",
    "gc": "9e4b511c656d4b09929b7a6ac4b9fe0a",
    "prefetch": "d7ec517af09249e19c3bd2ede7d43aed",
}
"""The MESSAGE_ID of each event that somebody may look for (``journalctl MESSAGE_ID=...``)."""
_MAX_VALUE = 1000
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.,:@/#+-[]")


def log(event: str, priority: int = INFO, **fields: object) -> None:
    """Log *event* with *fields*: ``key=value``, the value in quotes where it is more than a word; one line always."""
    texts = {key: f"{value:.2f}" if isinstance(value, float) else str(value) for key, value in fields.items()}
    line = " ".join([f"event={event}", *(f"{key}={_quoted(text)}" for key, text in texts.items())])
    entry = {
        "MESSAGE": line,
        "PRIORITY": str(priority),
        "SYSLOG_IDENTIFIER": "enroot-slurm",
        "SYSLOG_FACILITY": str(syslog.LOG_DAEMON >> 3),
        "ENROOT_SLURM_EVENT": event,
        **({"MESSAGE_ID": MESSAGES[event]} if event in MESSAGES else {}),
        **({"SLURM_JOB_ID": texts["job"].partition(".")[0]} if texts.get("job") else {}),
        **{f"ENROOT_SLURM_{key.upper()}": printable(text, _MAX_VALUE) for key, text in texts.items()},
    }
    if not send(entry):
        syslog.openlog("enroot-slurm", syslog.LOG_PID, syslog.LOG_DAEMON)
        syslog.syslog(priority, line)


def _quoted(text: str) -> str:
    if text and _PLAIN.issuperset(text) and len(text) <= _MAX_VALUE:
        return text
    safe = printable(text, _MAX_VALUE).replace('"', '\\"')
    return f'"{safe}"'
