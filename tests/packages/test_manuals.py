"""``--help``, the manual pages, the completion and docs/commands.md say the same of each command."""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from support.command import enroot_slurm
from support.images import Image, Layer

import enroot_slurm as package

CHECKOUT = Path(package.__file__).parents[1]


def tool(name: str):
    spec = importlib.util.spec_from_file_location(f"packaging_{name}", CHECKOUT / f"packaging/{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


manuals = tool("manuals")
COMMANDS = {each.name: each for each in manuals.commands()}
SECTIONS = manuals.sections("commands.md")
OURS = {"-h", "--help"}
FREE = {"enroot-slurm srun", "enroot-slurm sbatch"}
"""All of their words are another program's."""


def options_of(command) -> set[str]:
    return {name for action in command.actions for name in action.option_strings} - OURS


def said_of(command) -> str:
    """What docs/commands.md says of *command*: its own section, or that of the group it is in."""
    section = SECTIONS.get(command.name) or SECTIONS[command.name.rpartition(" ")[0]]
    return section.usage + section.text


@pytest.mark.parametrize("name", COMMANDS)
def test_docs_have_each_option(name):
    """Each option of a command is in its section of docs/commands.md."""
    command = COMMANDS[name]
    assert options_of(command) - {"-v", "--verbose", "-q", "--quiet"} <= manuals.strings_of(said_of(command))


@pytest.mark.parametrize("name", sorted(COMMANDS.keys() & SECTIONS.keys() - FREE))
def test_docs_have_no_other_option(name):
    """Each option in the usage and in the terms of a section is one of the command, or of those below it."""
    command, section = COMMANDS[name], SECTIONS[name]
    known = options_of(command)
    for each in manuals.commands(command.parser) if command.is_group else []:
        known |= options_of(each)
    terms = [term for term in section.definitions if term.startswith("-")]
    assert manuals.strings_of(section.usage) | manuals.strings_of(" ".join(terms)) <= known


def test_each_command_has_a_section():
    """docs/commands.md knows all commands, and no other."""
    tops = {name for name in COMMANDS if name.count(" ") == 1}
    assert tops == {title for title in SECTIONS if title.startswith("enroot-slurm ")}


@pytest.mark.parametrize("name", COMMANDS)
def test_pages_have_each_option(name):
    """A manual page has a definition for each option that ``--help`` has, and what docs say of it if they do."""
    command = COMMANDS[name]
    text = manuals.page_of(command, SECTIONS.get(name))
    for option in options_of(command):
        assert re.search(rf"^\*\*.*{re.escape(option)}\*\*.*\n: \S", text, re.MULTILINE), option
    assert f"# NAME\n\n{name.replace(' ', '-')} - {command.summary}\n" in text
    for term, definition in SECTIONS[name].definitions.items() if name in SECTIONS else ():
        assert definition.split("\n")[0][:40] in manuals._plain(text) + text, term


def test_pages_are_made(tmp_path):
    """pandoc makes a page for each command, and those of the settings and of Slurm; nothing in them is too wide."""
    manuals.main(tmp_path)
    pages = {path.name for path in tmp_path.iterdir()}
    names = {f"{name.replace(' ', '-')}.1" for name in ["enroot-slurm", *COMMANDS]}
    assert pages == names | {"enroot-slurm-config.5", "enroot-slurm-slurm.7"}
    config = (tmp_path / "enroot-slurm-config.5").read_text()
    keys = re.findall(r"^\| `(\w+)` \|", (CHECKOUT / "docs/configuration.md").read_text(), re.MULTILINE)
    assert len(keys) > 30
    assert [key for key in keys if key not in config.replace("\\_", "_")] == []


class Shell:
    """A shell that has loaded our completion."""

    def __init__(self, directory: Path, environment: dict[str, str]) -> None:
        self.directory, self.environment = directory, environment
        (directory / "libexec").mkdir()
        (directory / "packages").symlink_to(CHECKOUT)
        self.names = directory / "libexec/names"
        text = (CHECKOUT / "packaging/names").read_text().replace("@PYTHON@", sys.executable)
        self.names.write_text(text.replace("@LIBEXECDIR@", str(directory / "libexec")))
        self.names.chmod(0o755)
        for shell in ("bash", "zsh", "fish"):
            text = tool("completion").text(shell).replace("@LIBEXECDIR@", str(directory / "libexec"))
            (directory / shell).write_text(text)

    def bash(self, *words: str) -> list[str]:
        """What bash offers for the last of *words*, before which the others stand."""
        quoted = " ".join(f"'{word}'" for word in words)
        script = f"""
            source {self.directory}/bash
            COMP_WORDS=(enroot-slurm {quoted}) COMP_CWORD={len(words)}
            _enroot_slurm_whole_words enroot-slurm '{words[-1]}' x
            printf '%s\\n' "${{COMPREPLY[@]}}"
        """
        return self.run("bash", "--norc", "-c", script)

    def fish(self, *words: str) -> list[str]:
        script = f"source {self.directory}/fish; complete --do-complete 'enroot-slurm {' '.join(words)}'"
        return [line.partition("\t")[0] for line in self.run("fish", "--no-config", "-c", script)]

    def run(self, *words: str) -> list[str]:
        told = subprocess.run(words, env=self.environment, capture_output=True, text=True, check=False)
        assert told.stderr == ""
        return told.stdout.split("\n")[:-1]


@pytest.fixture
def shell(tmp_path, import_environment):
    (tmp_path / "completion").mkdir()
    return Shell(tmp_path / "completion", {**os.environ, **import_environment})


def test_commands_are_completed(shell):
    """Commands, options and the commands of a group."""
    assert "import" in shell.bash("im")
    assert "verify" in shell.bash("cache", "v")
    assert "--dry-run" in shell.bash("cache", "gc", "--d")
    if shutil.which("fish"):
        assert "verify" in shell.fish("cache", "v")


def test_images_are_completed_from_the_cache(shell, push, import_environment):
    """By what is there, and without the registry; a ``#`` would begin a comment, so there is none."""
    uri = push(Image([Layer().file("hello", b"world")]))
    assert enroot_slurm("get", uri, environment=import_environment).returncode == 0
    wanted = uri.replace("#", "/")
    shell.environment["http_proxy"] = "http://127.0.0.1:1"
    assert shell.bash("cache", "show", "docker://") == [wanted]
    assert shell.bash("get", wanted[:14]) == [wanted]
    assert shell.bash("cache", "pin", "docker://no") in ([], [""])
    if shutil.which("fish"):
        assert wanted in shell.fish("cache", "show", "docker:")


def test_names_of_an_evil_cache(shell, import_environment, push):
    """What a cache says does not get into a shell, unless it is a plain word."""
    uri = push(Image([Layer().file("hello", b"world")]))
    assert enroot_slurm("get", uri, environment=import_environment).returncode == 0
    [sidecar] = Path(import_environment["ENROOT_CACHE_PATH"]).glob("images/*/*/*.json")
    text = sidecar.read_text()
    sidecar.chmod(0o600)
    for evil in (
        "docker://$(touch /tmp/x)",
        "docker://a\\nb",
        "docker://a;b",
        "docker://\\u0435vil",
        "docker://-x",
        "docker://`a`",
        'x\\", \\"uri\\": \\"docker://inner',
        "oci-archive:sha256:0",
    ):
        sidecar.write_text(re.sub(r'"uri": ".*?"', lambda _, evil=evil: f'"uri": "{evil}"', text))
        assert shell.run(str(shell.names)) == []


@pytest.mark.parametrize("name", ["zsh", "fish"])
def test_other_shells_can_read_it(shell, name):
    """Nothing is wrong in the text."""
    if shutil.which(name) is None:
        pytest.skip(f"missing: apt-get install -y {name}")
    shell.run(name, "-n", str(shell.directory / name))


def test_kinds_are_named():
    """Each value that is an image, a file or a directory by its name is completed as such."""
    kinds = tool("completion").KINDS
    values = {a.metavar for c in COMMANDS.values() for a in c.actions if isinstance(a.metavar, str)}
    assert kinds.keys() <= values
    assert argparse.SUPPRESS not in values
