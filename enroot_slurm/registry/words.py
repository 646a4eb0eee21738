"""The texts that registries, token services and proxies put into the bodies of their refusals."""

from __future__ import annotations

import json
import re
from typing import NamedTuple

from enroot_slurm.errors import printable

__all__ = ["Words", "words_of"]

_SHOWN = 200  # characters
_KEYS = ("message", "error_description", "details", "detail", "reason", "error", "msg", "title")
"""Where the reason stands: distribution-spec, RFC 6749, GitLab and Artifactory, RFC 9457."""
_TITLE = re.compile(r"<title[^>]{0,200}>(.{1,2000}?)</title", re.IGNORECASE | re.DOTALL)
_HEADING = re.compile(r"<h1[^>]{0,200}>(.{1,2000}?)</h1", re.IGNORECASE | re.DOTALL)


class Words(NamedTuple):
    """The *code* of an error of the registry's (``MANIFEST_UNKNOWN``), and the *text* for people; both may be empty."""

    code: str
    text: str
    page: bool = False
    """Whether they are of a web page, which a registry does not send."""


def words_of(body: bytes) -> Words:
    """The words in *body*, in whatever form: the specified JSON, another one, a web page, or a line of plain text."""
    start = body[:4096].lstrip(b"\xef\xbb\xbf \t\r\n")
    if start.startswith(b"<"):
        text = body[:65536].decode("utf-8", "replace")
        found = _TITLE.search(text) or _HEADING.search(text)
        import html  # noqa: PLC0415 - registries send no pages

        return Words("", _line(html.unescape(re.sub(r"<[^>]*>", " ", found[1]))) if found else "", page=True)
    if not start.startswith((b"{", b"[")):
        plain = start.split(b"\n", 1)[0].decode("utf-8", "replace").strip()
        return Words("", _line(plain) if plain.isprintable() and "\ufffd" not in plain else "")
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        return Words("", "")
    if isinstance(document, dict):
        errors = document.get("errors")
        if isinstance(errors, list) and errors:
            document = errors[0]
        elif isinstance(errors, str):
            return Words("", _line(errors))
    code, text = _fields(document)
    return Words(code, _line(": ".join(part for part in (code, text) if part)))


def _fields(document: object) -> tuple[str, str]:
    if not isinstance(document, dict):
        return "", ""
    code = document.get("code", "")
    for key in _KEYS:
        value = document.get(key)
        if isinstance(value, dict):  # {"error": {"message": ...}}, as clouds write it
            value = value.get("message")
        if isinstance(value, str) and value.strip():
            return (code if isinstance(code, str) else ""), value
    return (code if isinstance(code, str) else ""), ""


def _line(text: str) -> str:
    return printable(re.sub(r"[ \t\r\n]+", " ", text).strip(), _SHOWN)
