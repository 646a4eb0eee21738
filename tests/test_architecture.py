"""The rules of docs/architecture.md that a program can check: who imports whom, and what a start loads."""

from __future__ import annotations

import ast
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.command import serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.tools import require_tools

import enroot_slurm

if TYPE_CHECKING:
    from collections.abc import Iterator

PACKAGE = Path(enroot_slurm.__file__).parent
SOURCES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}

ROWS = (
    "errors version progress",
    "oci system",
    "tar",
    "rootfs squashfs cache registry archives trust",
    "settings",
    "importing",
    "slurm",
    "housekeeping",
    "doctor",
    "commands",
    "cli",
    "__main__",
)
"""The package from the ground up: a module may import its own folder, and all that is in earlier rows."""
FACE = {"__init__": {"errors", "version", "progress", "settings", "importing"}}
"""What users import; nothing of the package imports it."""
APART = ({"squashfs.writing", "squashfs.joining"},)
"""Folders in one folder that do not know each other."""
OWNERS = {
    "requests": {"registry.transport", "registry.response", "registry.causes", "registry.proxies"},
    "urllib3": {"registry.transport", "registry.response", "registry.causes", "registry.connection"},
    "yaml": {"settings.yaml_file", "housekeeping.image_list"},
    "filelock": {"cache.locks"},
    "cryptography": {"trust.crypto"},
    "tqdm": {"commands.display"},
}
"""The only modules that import these; all else is the standard library and the optional decoders."""
DECODERS = {"zlib_ng", "backports", "compression"}
LEAN = {"_sha2", "_sha256"}
"""Parts of the standard library that other versions of it lack."""


def imports(module: str) -> Iterator[str]:
    """What a module imports anywhere in it: for types, inside functions, all."""
    for node in ast.walk(ast.parse(SOURCES[module].read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{module}: a relative import"
            name = node.module or ""
            for alias in node.names:
                full = f"{name}.{alias.name}"
                yield full if full.removeprefix("enroot_slurm.") in SOURCES else name


def own(name: str) -> str | None:
    """The module of the package that *name* is, or None."""
    if name == "enroot_slurm":
        return "__init__"
    return name.removeprefix("enroot_slurm.") if name.startswith("enroot_slurm.") else None


def allowed(folder: str) -> set[str]:
    """What the modules of *folder* may import, besides the folder itself."""
    if folder in FACE:
        return FACE[folder]
    rows = [set(row.split()) for row in ROWS]
    number = next((n for n, row in enumerate(rows) if folder in row), None)
    assert number is not None, f"{folder}: a new folder: say here where it stands"
    return set().union(*rows[:number])


@pytest.mark.parametrize("module", SOURCES)
def test_imports_point_one_way(module) -> None:
    """No arrow points upwards, and none to a sibling."""
    name = module or "__init__"
    folder = name.partition(".")[0]
    for imported in filter(None, map(own, imports(module))):
        assert imported.partition(".")[0] in allowed(folder) | {folder}, f"{name} must not import {imported}"
        for apart in APART:
            ends = {each for end in (name, imported) for each in apart if f"{end}.".startswith(f"{each}.")}
            assert len(ends) < 2, f"{name} must not import {imported}"


def test_loose_modules_are_few() -> None:
    """What is about one thing has that thing's folder."""
    loose = {name for name in SOURCES if "." not in name and SOURCES[name].name != "__init__.py"}
    assert loose == {"__main__", "cli", "errors", "progress", "version"}


def test_nothing_is_imported_in_a_circle() -> None:
    """Even for types, no two modules need each other."""
    edges = {m or "__init__": {i for i in map(own, imports(m)) if i and i != "__init__"} for m in SOURCES}
    done: set[str] = set()
    while ready := {m for m in edges if m not in done and edges[m] <= done | {m}}:
        done |= ready
    assert sorted(edges.keys() - done) == []


@pytest.mark.parametrize("module", SOURCES)
def test_third_parties_have_one_door(module) -> None:
    """Every third-party package is imported by one module; tarfile, asyncio and pickle by none."""
    for name in imports(module):
        top = name.partition(".")[0]
        assert top not in {"tarfile", "asyncio", "pickle"}, f"{module} imports {top}"
        if top in OWNERS:
            assert module in OWNERS[top], f"{module} imports {top}"
        else:
            assert top in sys.stdlib_module_names | DECODERS | LEAN | {"enroot_slurm"}, f"{module} imports {top}"


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_unpacked_or_run_by_a_shell(module) -> None:
    """No call of something named extract or unpack_archive, of eval or exec, and none with shell=True."""
    for node in ast.walk(ast.parse(SOURCES[module].read_bytes())):
        if isinstance(node, ast.Call):
            called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            assert called not in {"extract", "extractall", "unpack_archive", "eval", "exec", "system"}, node.lineno
            assert not any(k.arg == "shell" and ast.unparse(k.value) != "False" for k in node.keywords), node.lineno


@pytest.mark.parametrize("module", SOURCES)
def test_modules_are_a_page_or_a_few(module) -> None:
    """No module has more than 400 lines, and each says in its first line what it is."""
    text = SOURCES[module].read_text()
    assert text.count("\n") <= 400
    assert ast.get_docstring(ast.parse(text))


HEAVY = ["requests", "urllib3", "yaml", "filelock", "tarfile", "dataclasses", "asyncio", "ssl", "email"]


def loaded(code: str, *arguments: str, environment: dict[str, str] | None = None) -> set[str]:
    """The modules that a process has loaded when *code* has run."""
    code += "\nimport sys; sys.stderr.write('\\n' + ' '.join(sys.modules))"
    command = [sys.executable, "-c", code, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert result.returncode == 0, result.stderr
    return set(result.stderr.rpartition("\n")[2].split())


MAIN = """
from enroot_slurm.cli import main
try:
    status = main()
except SystemExit as end:
    status = end.code
assert not status
"""


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        ("import enroot_slurm", []),
        (MAIN, ["version"]),
        (MAIN, ["--version"]),
        (MAIN, ["--help"]),
        (MAIN, ["import", "--help"]),
        (MAIN, ["config"]),
    ],
    ids=["import", "version", "--version", "--help", "import --help", "config"],
)
def test_a_start_loads_little(code, arguments, import_environment) -> None:
    """What asks no registry and reads no YAML loads neither the HTTP client nor other heavy modules."""
    modules = loaded(code, *arguments, environment=import_environment)
    # That of Python 3.14 loads dataclasses, to have colours.
    parser = loaded("import argparse; argparse.ArgumentParser().format_help()")
    assert modules & set(HEAVY) - parser == set()
    assert not [
        m for m in modules if m.startswith(("enroot_slurm.registry", "enroot_slurm.rootfs", "enroot_slurm.tar"))
    ]


def test_locks_are_for_misses(import_environment, tmp_path) -> None:
    """An import whose layers are all in the cache takes no lock, and loads no filelock."""
    require_tools("mksquashfs")
    with FaultRegistry() as registry:
        uri = serve(registry, Image([Layer().file("f", b"1"), Layer().file("g", b"2")]))
        first = loaded(MAIN, "import", "-o", str(tmp_path / "1"), uri, environment=import_environment)
        locks = Path(import_environment["ENROOT_CACHE_PATH"], "locks")
        assert list(locks.iterdir())
        shutil.rmtree(locks)
        second = loaded(MAIN, "import", "-q", "-o", str(tmp_path / "2"), uri, environment=import_environment)
        assert not locks.exists()
    heavy = {"filelock", "tarfile", "yaml", "asyncio", "tqdm"}
    assert heavy & first == {"filelock"}
    assert heavy & second == set()
