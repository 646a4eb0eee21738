"""Our configuration files: one flat YAML mapping of settings; the only module that loads a YAML library, and late.

A setting that is a mapping of lists (``mirrors``) is read as the list of its pairs, ``KEY=ELEMENT``.

The document is read as nodes, not as Python values: nodes know their line and column, and leave a scalar's text as it
was written.  (``safe_load`` makes 750 of ``12:30``, 493 of ``0755``, False of ``no``, and lets the last of two equal
keys win.)  Anchors, aliases, tags and deeper mappings have no use here, and are refused.

Sources: YAML 1.1; PyYAML's reader.py (the characters that may occur), composer.py, events.py.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from enroot_slurm.errors import printable
from enroot_slurm.settings.schema import SETTINGS, Assignment, Problem, Value, similar_setting

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["read_entries"]

_NESTS = {("M",), ("S",), ("M", "S"), ("S", "S"), ("M", "M"), ("M", "M", "S")}
"""Mappings and sequences in each other that are worth to be looked at as nodes."""
_MAX_PROBLEMS = 50
_NULL = "tag:yaml.org,2002:null"
_FLAT = "expected a scalar or a list of scalars: settings are flat"
_FORBIDDEN = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def read_entries(name: str, content: bytes) -> tuple[list[Assignment], list[Problem]]:
    """The settings in the *content* of the file *name*, and the problems of its form.

    A key without a value says nothing.
    """
    try:
        text = content.decode("utf-8")
    except UnicodeDecodeError as error:
        return [], [Problem(_after(name, content[: error.start]), "not UTF-8 text")]
    if match := _FORBIDDEN.search(text):
        where = _after(name, text[: match.start()].encode())
        return [], [Problem(where, f"the character {printable(match[0])} must not occur in YAML")]
    if all(not line.strip() or line.lstrip().startswith("#") for line in text.splitlines()):
        return [], []  # the sample as installed: no reason to load a YAML library
    root, problems = _compose(name, text)
    if root is None or root.tag == _NULL:
        return [], problems
    if root.id != "mapping":
        return [], [Problem(_at(name, root), "expected a mapping: lines such as 'max_connections: 10'")]
    return _mapping(name, root)


def _compose(name: str, text: str) -> tuple[Any, list[Problem]]:
    import yaml  # noqa: PLC0415 - 25 ms, which a process without configuration file must not pay

    loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    try:
        problems = _refused_features(name, yaml.parse(text, loader))
        return None if problems else yaml.compose(text, loader), problems
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
        reason = getattr(error, "problem", None) or str(error)
        return None, [Problem(where, f"not valid YAML: {printable(reason)}", _syntax_hint(reason))]


def _refused_features(name: str, events: Iterable[Any]) -> list[Problem]:
    """Find a file that must not be composed, from its events: they need no recursion however deep a file nests."""
    problems: list[Problem] = []
    nest: tuple[str, ...] = ()
    for event in events:
        kind = type(event).__name__
        feature = ""
        if kind == "AliasEvent" or getattr(event, "anchor", None):
            feature = "anchors and aliases are"
        elif getattr(event, "tag", None) or getattr(event, "tags", None):
            feature = "tags are"
        if kind in {"MappingStartEvent", "SequenceStartEvent"}:
            nest += (kind[0],)
            if nest not in _NESTS:
                # Nested lists and mappings alike: the rest of the file can't be understood.
                problems.append(Problem(_at(name, event), _FLAT))
                return problems
        elif kind in {"MappingEndEvent", "SequenceEndEvent"}:
            nest = nest[:-1]
        if feature:
            problems.append(Problem(_at(name, event), f"{feature} not used in this file"))
            if len(problems) == _MAX_PROBLEMS:
                return problems
    return problems


def _mapping(name: str, root: Any) -> tuple[list[Assignment], list[Problem]]:
    entries: list[Assignment] = []
    problems: list[Problem] = []
    lines: dict[str, int] = {}
    for key, value in root.value:
        where = _at(name, key)
        if key.id != "scalar":
            problems.append(Problem(where, "expected the name of a setting, got a list"))
        elif key.value not in SETTINGS:
            message = f"unknown setting '{printable(key.value, 80)}'"
            problems.append(Problem(where, message + similar_setting(key.value)))
        elif key.value in lines:
            problems.append(Problem(where, f"{key.value}: already set in line {lines[key.value]}"))
        else:
            lines[key.value] = key.start_mark.line + 1
            entries += _entry(name, key, value, problems)
    return entries, problems


def _entry(name: str, key: Any, value: Any, problems: list[Problem]) -> list[Assignment]:
    if value.tag == _NULL:
        return []
    if value.id == "mapping":
        return _pairs(name, key, value, problems)
    is_list = value.id == "sequence"
    values = []
    for node in value.value if is_list else [value]:
        if is_list and node.tag == _NULL:
            problems.append(
                Problem(_at(name, node), f"{key.value}: expected {SETTINGS[key.value].expected}, got nothing")
            )
        values.append(Value(node.value, _at(name, node)))
    source = f"{name}:{key.start_mark.line + 1}"
    return [Assignment(SETTINGS[key.value], key.value, tuple(values), source, _at(name, value), is_list)]


def _pairs(name: str, key: Any, value: Any, problems: list[Problem]) -> list[Assignment]:
    """The setting *key* whose *value* is a mapping, as a list of ``KEY=ELEMENT``."""
    setting = SETTINGS[key.value]
    if not setting.is_mapping:
        problems.append(Problem(_at(name, value), _FLAT))
        return []
    values = []
    for inner, elements in value.value:
        for node in elements.value if elements.id == "sequence" else [elements]:
            if inner.id != "scalar" or node.id != "scalar" or node.tag == _NULL:
                problems.append(Problem(_at(name, inner), f"{key.value}: expected PREFIX: [MIRROR, ...]"))
            else:
                values.append(Value(f"{inner.value}={node.value}", _at(name, node)))
    source = f"{name}:{key.start_mark.line + 1}"
    return [Assignment(setting, key.value, tuple(values), source, _at(name, value), is_list=True)]


def _syntax_hint(reason: str) -> str:
    if "cannot start any token" in reason:
        return "Indent with spaces, and quote values that start with a special character."
    return "Quote values that hold ': ' or ' #'." if "mapping values" in reason else ""


def _after(name: str, before: bytes) -> str:
    """The place of what follows *before*."""
    *lines, line = before.decode("utf-8", "replace").split("\n")
    return f"{name}:{len(lines) + 1}:{len(line) + 1}"


def _at(name: str, node: Any) -> str:
    return f"{name}:{node.start_mark.line + 1}:{node.start_mark.column + 1}"
