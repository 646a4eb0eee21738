"""Checks of Slurm: lines of its configuration that delay imports, fail jobs or drain nodes (see docs/slurm.md)."""

from __future__ import annotations

import contextlib
import os
import re
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from enroot_slurm.doctor.finding import error, ok, skipped, warning
from enroot_slurm.doctor.slurmconf import (
    Plugin,
    ask_scontrol,
    exports,
    parse_config,
    plugin_version,
    plugins_of,
    private_directories,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from enroot_slurm.doctor.finding import Finding
    from enroot_slurm.doctor.slurmconf import SlurmConf
    from enroot_slurm.settings.config import Config

__all__ = ["check_slurm", "judge"]

_OURS = "spank_enroot_slurm"
_DEFER_BATCH = (22, 5)
_MARGIN = 15  # seconds that a prolog may take besides its deadline
_DEFAULT_TIMEOUT = 10  # of BatchStartTimeout and MessageTimeout
_HOOK = re.compile(rb"enroot[_-]slurm")
_MAX_HOOK = 1 << 20


def check_slurm(config: Config) -> Iterator[Finding]:
    """Ask Slurm, and `judge`."""
    try:
        said = ask_scontrol()
    except OSError as cause:
        yield skipped("slurm.config", f"Slurm can't be asked: {cause}")
        return
    if said is None:
        yield skipped("slurm.config", "there is no scontrol in PATH: Slurm is not looked at")
        return
    yield from judge(parse_config(said), config)


def judge(conf: SlurmConf, config: Config) -> Iterator[Finding]:
    """All about the settings *conf* of Slurm, and the files that they name on this machine."""
    yield ok(
        "slurm.config", f"Slurm {conf.text('SLURM_VERSION') or 'of an unknown version'}, {conf.text('SLURM_CONF')}"
    )
    plugins = []
    for each in plugins_of(conf.plugstack, conf.text("PluginDir")):
        if isinstance(each, Plugin):
            plugins.append(each)
        else:
            yield skipped("slurm.plugins", f"{each}: its plug-ins are not looked at")
    pyxis = next((plugin for plugin in plugins if "pyxis" in plugin.file.name), None)
    yield from _hooks(conf)
    if conf.text("Prolog"):
        yield from _flags(conf, config)
        yield from _timeouts(conf, config)
        yield from _run_path(config)
    ours = [plugin for plugin in plugins if _OURS in plugin.file.name]
    for plugin in ours:
        yield from _our_plugin(plugin, conf)
    yield from _lines(conf, plugins, ours, pyxis)
    if pyxis:
        yield from _pyxis(pyxis, plugins, conf)
    yield from _private(conf, config)


def _hooks(conf: SlurmConf) -> Iterator[Finding]:
    for name in ("Prolog", "Epilog"):
        check, setting = f"slurm.{name.lower()}", conf.text(name)
        if not setting:
            what = (
                "imported no earlier than in a step" if name == "Prolog" else "kept from being collected for too long"
            )
            yield warning(
                check,
                f"slurm.conf has no {name}: images are {what}",
                f"Set {name}=/etc/slurm/{name.lower()}.d/*, and run make install-slurm on each node.",
            )
            continue
        files = [file for word in setting.split() for file in _files(word, conf.directory)]
        hooks = [file for file in files if _is_ours(file)]
        if not files:
            yield (error if _is_node() else warning)(
                check,
                f"there is no file on this machine where {name}={setting} points: a node where that is so is drained "
                "by its first job",
                "Run make install-slurm on each node where jobs run; other machines do not need it.",
            )
        elif not hooks:
            yield warning(
                check,
                f"on this machine, nothing of enroot-slurm is where {name}={setting} points",
                "Run make install-slurm on each node where jobs run; other machines do not need it.",
            )
        for file in hooks:
            yield _hook(check, file)


def _files(word: str, directory: Path) -> list[Path]:
    pattern = str(directory / word)
    return sorted(file for file in Path("/").glob(pattern.lstrip("/")) if file.is_file())


def _is_node() -> bool:
    """Whether a slurmd runs here."""
    for file in Path("/proc").glob("[0-9]*/comm"):
        with contextlib.suppress(OSError):
            if file.read_bytes() == b"slurmd\n":
                return True
    return False


def _is_ours(file: Path) -> bool:
    """Whether *file* is our hook, or one that calls it."""
    try:
        with file.open("rb") as stream:
            return _HOOK.search(stream.read(_MAX_HOOK)) is not None
    except OSError:
        return bool(_HOOK.search(os.fsencode(file.name)))


def _hook(check: str, file: Path) -> Finding:
    """Whether slurmd can start *file*, and the interpreter that it starts."""
    if not file.stat().st_mode & stat.S_IXUSR:
        return error(check, f"{file} can't be executed: a hook that fails drains its node", f"Run: chmod 755 {file}")
    try:
        text = file.read_text("utf-8", "replace")
    except OSError:
        return ok(check, f"{file} is there; you may not read it")
    programs = re.findall(r"^(/\S+) -I -c ", text, re.MULTILINE)
    missing = [program for program in programs if not os.access(program, os.X_OK)]
    if missing:
        return error(
            check,
            f"{file} starts {missing[0]}, which is not there or not for you to run",
            "Run make install-slurm again; workers run as users, so all must be able to run it.",
        )
    return ok(check, f"{file} is there")


def _flags(conf: SlurmConf, config: Config) -> Iterator[Finding]:
    flags, deadline = conf.words("PrologFlags"), config.prolog_deadline
    if not flags & {"alloc", "contain", "x11", "deferbatch", "runinjob"}:
        yield warning(
            "slurm.prolog_flags",
            "PrologFlags has no Alloc: images are imported when a node's first step comes, never for an idle salloc",
            "Set PrologFlags=Alloc,DeferBatch (before Slurm 22.05: Alloc).",
        )
    elif "deferbatch" not in flags:
        batch, message = (conf.seconds(name) or _DEFAULT_TIMEOUT for name in ("BatchStartTimeout", "MessageTimeout"))
        cure = "Set PrologFlags=Alloc,DeferBatch." if conf.version >= _DEFER_BATCH else "Set BatchStartTimeout=60."
        if batch + message <= deadline:
            yield error(
                "slurm.prolog_flags",
                f"PrologFlags has Alloc without DeferBatch, and prolog_deadline ({deadline:g} s) is not below "
                f"BatchStartTimeout + MessageTimeout ({batch + message} s): srun in a batch script fails while another "
                "node still imports",
                f"{cure} Or set prolog_deadline below {batch + message}.",
            )
        else:
            yield warning(
                "slurm.prolog_flags",
                "PrologFlags has Alloc without DeferBatch: a batch script starts when its first node is ready, and its "
                f"srun fails if another node's prolog takes {batch + message} s longer",
                cure,
            )
    else:
        yield ok("slurm.prolog_flags", f"PrologFlags={conf.text('PrologFlags')}")
    if "serial" in flags:
        yield warning(
            "slurm.serial",
            "PrologFlags has Serial: each import holds up all other jobs of its node",
            "Take Serial out of PrologFlags.",
        )
    if "runinjob" in flags:
        yield warning(
            "slurm.run_in_job",
            "PrologFlags has RunInJob: an import takes of its job's memory, and ends with the job",
            "Take RunInJob out of PrologFlags.",
        )


def _timeouts(conf: SlurmConf, config: Config) -> Iterator[Finding]:
    check, deadline = "slurm.prolog_timeout", config.prolog_deadline
    name = "PrologTimeout" if conf.seconds("PrologTimeout") else "PrologEpilogTimeout"
    limit = conf.seconds(name)
    if limit is None:
        yield warning(
            check,
            "PrologEpilogTimeout is not set: a prolog that hangs holds its node for ever",
            f"Set PrologEpilogTimeout={max(120, int(deadline) + 60)} (Slurm 25.05 and later: PrologTimeout).",
        )
    elif limit <= deadline:
        yield error(
            check,
            f"{name} ({limit} s) is not above prolog_deadline ({deadline:g} s): slow imports drain nodes",
            f"Set {name}={int(deadline) + 60}, or prolog_deadline below {limit}.",
        )
    elif limit < deadline + _MARGIN:
        yield warning(
            check,
            f"{name} ({limit} s) is hardly above prolog_deadline ({deadline:g} s): a node under load may be drained",
            f"Set {name}={int(deadline) + 60}.",
        )
    else:
        yield ok(check, f"{name} ({limit} s) is above prolog_deadline ({deadline:g} s)")


def _run_path(config: Config) -> Iterator[Finding]:
    path = config.run_path
    try:
        status = path.stat()
    except FileNotFoundError:
        yield skipped("slurm.run_path", f"{path} is not there yet: the first prolog of a node makes it")
        return
    except OSError as cause:
        yield error("slurm.run_path", f"{path} can't be read: {cause.strerror}")
        return
    if status.st_uid or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH) or not stat.S_ISDIR(status.st_mode):
        yield error(
            "slurm.run_path",
            f"others than root can write to {path}: the prolog refuses it",
            f"Run: chown root {path} && chmod 755 {path}",
        )
    else:
        yield ok("slurm.run_path", f"{path} is root's")


def _our_plugin(plugin: Plugin, conf: SlurmConf) -> Iterator[Finding]:
    check = "slurm.plugin"
    effect = "every srun and sbatch fails" if plugin.required else "users do not have --enroot-image, and see a warning"
    say = error if plugin.required else warning
    rebuild = "Run make install-slurm on each node, with the headers of that Slurm (libslurm-dev)."
    try:
        built = plugin_version(plugin.file)
    except OSError as cause:
        yield say(check, f"{plugin.file} [{plugin.where}]: {cause.strerror}: {effect}", rebuild)
        return
    if built and conf.version and built != conf.version:
        versions = " and ".join(f"{major}.{minor:02}" for major, minor in (built, conf.version))
        yield say(check, f"{plugin.file} and Slurm are of different versions ({versions}): {effect}", rebuild)
    elif plugin.required:
        yield warning(
            check,
            f"the plug-in is required [{plugin.where}]: after Slurm's next upgrade every srun and sbatch fails",
            "Let the line say optional.",
        )
    else:
        yield ok(check, f"{plugin.file} is there, and of Slurm's version")
    helper = plugin.argument("helper")
    if helper and not os.access(helper, os.X_OK):
        yield error(check, f"the plug-in's helper {helper} [{plugin.where}] can't be run", "Run make install-slurm.")


def _lines(conf: SlurmConf, plugins: list[Plugin], ours: list[Plugin], pyxis: Plugin | None) -> Iterator[Finding]:
    """Whether plugstack.conf leads to our plug-in, before pyxis."""
    installed = conf.plugstack.parent / "plugstack.conf.d/enroot-slurm.conf"
    if not ours and installed.exists():
        yield error(
            "slurm.include",
            f"{installed} is there, but {conf.plugstack} does not include it: there is no --enroot-image",
            f"Write into {conf.plugstack}, above the line of pyxis: include {installed}",
        )
    if pyxis and ours and plugins.index(pyxis) < plugins.index(ours[0]):
        yield error(
            "slurm.plugin_order",
            f"pyxis [{pyxis.where}] comes before enroot-slurm [{ours[0].where}], whose tasks are inside of the "
            "container then: what they have to wait for fails",
            "Let the line of enroot-slurm be above that of pyxis.",
        )


def _pyxis(pyxis: Plugin, plugins: list[Plugin], conf: SlurmConf) -> Iterator[Finding]:
    if not pyxis.required:
        yield warning(
            "slurm.pyxis",
            f"pyxis is optional [{pyxis.where}]: when it fails, the task runs without its container, on the host",
            "Let the line say required.",
        )
    importer = pyxis.argument("importer")
    if not importer:
        yield warning(
            "slurm.importer",
            f"pyxis [{pyxis.where}] imports by itself: each node for each step, and not by enroot-slurm",
            "Add importer=/usr/libexec/enroot-slurm/pyxis-importer to that line.",
        )
    elif not os.access(importer, os.X_OK):
        yield error(
            "slurm.importer",
            f"pyxis' importer {importer} [{pyxis.where}] can't be run",
            "Run make install-slurm on each node.",
        )
    else:
        yield ok("slurm.importer", f"pyxis gets its images from {importer}")
    for plugin in plugins:
        if exports(plugin.file, "slurm_spank_job_prolog"):
            yield warning(
                "slurm.job_prolog",
                f"{plugin.file} [{plugin.where}] has a slurm_spank_job_prolog: Slurm then hides --container-image from "
                "the Prolog, and images are imported in the step",
                "Leave that plug-in out, or let users name images by --enroot-image or #ENROOT lines.",
            )
    if conf.text("TaskProlog"):
        yield warning(
            "slurm.task_prolog",
            f"TaskProlog={conf.text('TaskProlog')} runs inside of pyxis' containers: where the image has no such file, "
            "the task fails",
            "Take TaskProlog out of slurm.conf, or let pyxis mount the file (container_mounts).",
        )


def _private(conf: SlurmConf, config: Config) -> Iterator[Finding]:
    """Checks directories that each job has for itself, and what Slurm shows to other users."""
    directories = private_directories(conf)
    found = False
    paths = {
        "cache_path": str(config.cache_path),
        "shared_cache": config.shared_cache,
        "run_path": str(config.run_path),
    }
    for key, path in paths.items():
        below = next((d for d in directories if path and Path(path).is_relative_to(d)), "")
        if below:
            found = True
            yield error(
                "slurm.private_tmp",
                f"{key} ({path}) is below {below}, of which each job has its own ({conf.text('JobContainerType')}): "
                "jobs do not see the images there",
                f"Set {key} to a directory elsewhere [{config.origins[key]}].",
            )
    if directories and not found:
        yield ok("slurm.private_tmp", f"no cache is below what each job has for itself ({', '.join(directories)})")
    hidden = conf.words("PrivateData") & {"jobs", "all"}
    if not hidden or not config.shared_cache:
        return
    if os.geteuid():
        yield warning(
            "slurm.private_data",
            "PrivateData hides others' jobs: of collections, only root's find out which jobs have ended",
            "Let root run 'enroot-slurm cache gc --shared', as enroot-slurm-gc.service does.",
        )
    else:
        yield ok("slurm.private_data", "PrivateData hides jobs from users, so only root's collections end their leases")
