"""What is said of Slurm's settings: each mistake alone, in an otherwise good configuration."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from support.tools import require_root, require_tools

from enroot_slurm.doctor.slurm import judge
from enroot_slurm.doctor.slurmconf import parse_config
from enroot_slurm.settings.config import Config

if TYPE_CHECKING:
    from pathlib import Path

    from enroot_slurm.doctor.finding import Finding


class Cluster:
    """A good configuration in a directory; `judge` says what is found when something of it is changed."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.hook("prolog")
        self.hook("epilog")
        self.importer = directory / "pyxis-importer"
        self.importer.write_text("#!/bin/sh\n")
        self.importer.chmod(0o755)
        (directory / "run").mkdir(mode=0o755)
        self.lines = (
            f"optional {self.plugin(22, 5)}",
            f"required {directory}/spank_pyxis.so importer={self.importer}",
        )
        self.plugstack(*self.lines)

    def hook(self, name: str, mode: int = 0o755) -> Path:
        file = self.directory / f"{name}.d" / "50-enroot-slurm"
        file.parent.mkdir(exist_ok=True)
        file.write_text("#!/bin/sh\n/bin/sh -I -c 'from enroot_slurm.slurm.hooks import main'\n")
        file.chmod(mode)
        return file

    def plugin(self, major: int, minor: int) -> Path:
        """A plug-in for that version of Slurm."""
        library = self.directory / f"spank_enroot_slurm-{major}.{minor}.so"
        code = f"const unsigned int plugin_version = {(major << 16) + (minor << 8)};"
        words = ["cc", "-xc", "-shared", "-fPIC", "-o", library, "-"]
        subprocess.run(words, input=code, text=True, check=True)
        return library

    def plugstack(self, *lines: str) -> None:
        (self.directory / "plugstack.conf").write_text("".join(f"{line}\n" for line in lines))

    def judge(self, *, settings: dict[str, Any] | None = None, **changes: str) -> list[Finding]:
        conf = {
            "BatchStartTimeout": "10 sec",
            "Epilog": f"{self.directory}/epilog.d/*",
            "JobContainerType": "(null)",
            "MessageTimeout": "10 sec",
            "PrivateData": "none",
            "Prolog": f"{self.directory}/prolog.d/*",
            "PrologEpilogTimeout": "120 sec",
            "PrologFlags": "Alloc,DeferBatch",
            "SLURM_CONF": f"{self.directory}/slurm.conf",
            "SLURM_VERSION": "22.05.8",
            "TaskProlog": "(null)",
            **changes,
        }
        overrides = {"run_path": self.directory / "run", "cache_path": "/home/cache", **(settings or {})}
        config = Config.load(environ={}, site_file=None, user_file=None, enroot_conf=None, overrides=overrides)
        return list(judge(parse_config("".join(f"{k:24}= {v}\n" for k, v in conf.items())), config))

    def complaint(self, **options: Any) -> tuple[str, str, str, str]:
        """The one warning or error."""
        found = [each for each in self.judge(**options) if each.status in {"warning", "error"}]
        assert len(found) == 1, found
        assert found[0].hint
        return found[0]


@pytest.fixture
def cluster(tmp_path) -> Cluster:
    require_root("run_path has to be root's")
    require_tools("cc")
    return Cluster(tmp_path)


def test_nothing_is_wrong(cluster) -> None:
    """A configuration as docs/slurm.md has it."""
    found = cluster.judge()
    assert {each.status for each in found} == {"ok"}
    checks = {"config", "prolog", "epilog", "prolog_flags", "prolog_timeout", "run_path", "plugin", "importer"}
    assert {each.check for each in found} == {f"slurm.{check}" for check in checks}


@pytest.mark.parametrize(
    ("changes", "settings", "check", "status", "said"),
    [
        ({"PrologFlags": "(null)"}, {}, "prolog_flags", "warning", "no Alloc"),
        ({"PrologFlags": "Alloc"}, {}, "prolog_flags", "warning", "without DeferBatch"),
        ({"PrologFlags": "Contain"}, {}, "prolog_flags", "warning", "without DeferBatch"),
        ({"PrologFlags": "Alloc"}, {"prolog_deadline": 20}, "prolog_flags", "error", "(20 s)"),
        ({"PrologFlags": "Alloc", "BatchStartTimeout": "5 sec"}, {}, "prolog_flags", "error", "(15 s)"),
        ({"PrologFlags": "Alloc,DeferBatch,Serial"}, {}, "serial", "warning", "Serial"),
        ({"PrologFlags": "Alloc,DeferBatch,RunInJob"}, {}, "run_in_job", "warning", "of its job's memory"),
        ({"PrologEpilogTimeout": "65534"}, {}, "prolog_timeout", "warning", "not set"),
        ({"PrologEpilogTimeout": "15 sec"}, {}, "prolog_timeout", "error", "drain"),
        ({"PrologEpilogTimeout": "20 sec"}, {}, "prolog_timeout", "warning", "hardly"),
        ({"PrologTimeout": "10 sec"}, {}, "prolog_timeout", "error", "PrologTimeout (10 s)"),
        ({"TaskProlog": "/x"}, {}, "task_prolog", "warning", "TaskProlog=/x"),
        ({"Prolog": "(null)"}, {}, "prolog", "warning", "no Prolog"),
        ({"Epilog": "(null)"}, {}, "epilog", "warning", "no Epilog"),
        ({"Prolog": "/bin/true"}, {}, "prolog", "warning", "nothing of enroot-slurm"),
        ({"JobContainerType": "job_container/tmpfs"}, {"cache_path": "/tmp/x"}, "private_tmp", "error", "/tmp"),
        (
            {"JobContainerType": "job_container/tmpfs"},
            {"shared_cache": "/dev/shm/x"},
            "private_tmp",
            "error",
            "/dev/shm",
        ),
    ],
)
def test_a_mistake(cluster, changes, settings, check, status, said) -> None:
    """One line in slurm.conf is one finding, and says what to set."""
    if "JobContainerType" in changes and settings.keys() <= {"shared_cache", "cache_path"}:
        settings = {**settings, "run_path": "/var/none"}
    finding = cluster.complaint(settings=settings, **changes)
    assert (finding.check, finding.status) == (f"slurm.{check}", status)
    assert said in finding.message


def test_pyxis_before_our_plugin(cluster) -> None:
    """Our tasks would be inside of the container: an error, with both lines."""
    cluster.plugstack(*reversed(cluster.lines))
    finding = cluster.complaint()
    assert (finding.check, finding.status) == ("slurm.plugin_order", "error")
    assert "plugstack.conf:1" in finding.message
    assert "plugstack.conf:2" in finding.message


def test_our_line_is_not_included(cluster) -> None:
    """What make install-slurm has put there, plugstack.conf does not lead to: an error, with the line to write."""
    cluster.plugstack(cluster.lines[1])
    (cluster.directory / "plugstack.conf.d").mkdir()
    (cluster.directory / "plugstack.conf.d/enroot-slurm.conf").write_text(f"{cluster.lines[0]}\n")
    finding = cluster.complaint()
    assert (finding.check, finding.status) == ("slurm.include", "error")
    assert "include " in finding.hint
    cluster.plugstack("include plugstack.conf.d/*.conf", cluster.lines[1])
    assert {each.status for each in cluster.judge()} == {"ok"}


@pytest.mark.parametrize("name", ["Prolog", "Epilog"])
def test_a_hook_that_is_nowhere(cluster, name) -> None:
    """Slurm drains a node for that (22.05, tried): an error where a slurmd runs."""
    finding = cluster.complaint(**{name: "/none/*"})
    assert finding.check == f"slurm.{name.lower()}"
    assert "drained" in finding.message
    assert finding.status in {"warning", "error"}  # a slurmd of another test may run


def test_private_data(cluster, monkeypatch) -> None:
    """Where users don't see others' jobs, root has to collect."""
    settings = {"shared_cache": "/home/shared"}
    assert "slurm.private_data" in {each.check for each in cluster.judge(settings=settings, PrivateData="jobs")}
    assert "slurm.private_data" not in {each.check for each in cluster.judge(PrivateData="jobs")}
    monkeypatch.setattr("os.geteuid", lambda: 65534)  # nobody
    finding = cluster.complaint(settings=settings, PrivateData="accounts,jobs")
    assert (finding.check, finding.status) == ("slurm.private_data", "warning")


@pytest.mark.parametrize(
    ("line", "check", "status", "said"),
    [
        ("optional {plugin}", "plugin", "warning", "23.11 and 22.05"),
        ("required {plugin}", "plugin", "error", "every srun and sbatch fails"),
        ("required {right}", "plugin", "warning", "next upgrade"),
        ("optional /none/spank_enroot_slurm.so", "plugin", "warning", "No such file"),
        ("required /none/spank_enroot_slurm.so", "plugin", "error", "No such file"),
        ("optional {right} helper=/none/step", "plugin", "error", "/none/step"),
        ("optional /x/spank_pyxis.so importer={importer}", "pyxis", "warning", "on the host"),
        ("required /x/spank_pyxis.so", "importer", "warning", "imports by itself"),
        ("required /x/spank_pyxis.so importer=/none/x", "importer", "error", "/none/x"),
    ],
)
def test_a_plugin(cluster, line, check, status, said) -> None:
    """What is wrong with a line of plugstack.conf, with the line's number."""
    names = {"plugin": cluster.plugin(23, 11), "right": cluster.plugin(22, 5), "importer": cluster.importer}
    cluster.plugstack("# ours", line.format_map(names))
    finding = cluster.complaint()
    assert (finding.check, finding.status) == (f"slurm.{check}", status)
    assert said in finding.message


def test_a_plugin_with_a_prolog(cluster) -> None:
    """Slurm hides the options of all plug-ins from the Prolog when one has a prolog of its own."""
    library = cluster.directory / "spank_other.so"
    words = ["cc", "-xc", "-shared", "-fPIC", "-o", library, "-"]
    subprocess.run(words, input="int slurm_spank_job_prolog(void) { return 0; }", text=True, check=True)
    cluster.plugstack(f"required /x/spank_pyxis.so importer={cluster.importer}", f"optional {library}")
    assert cluster.complaint().check == "slurm.job_prolog"
    cluster.plugstack(f"optional {library}")  # nobody's options are lost
    assert {each.status for each in cluster.judge()} == {"ok"}


def test_a_hook_that_can_not_be_run(cluster) -> None:
    """It would drain its node; as would one whose interpreter is gone."""
    cluster.hook("prolog", 0o644)
    assert "chmod 755" in cluster.complaint().hint
    file = cluster.hook("prolog")
    file.write_text("/none/python -I -c 'from enroot_slurm.slurm.hooks import main'\n")
    assert "/none/python" in cluster.complaint().message


def test_a_site_prolog_that_calls_ours(cluster) -> None:
    """It counts as ours, whatever its name is."""
    file = cluster.hook("prolog")
    file.rename(file.with_name("99-site"))
    assert {each.status for each in cluster.judge()} == {"ok"}


def test_run_path_of_others(cluster) -> None:
    """What others can write to, the prolog refuses."""
    (cluster.directory / "run").chmod(0o777)
    assert cluster.complaint().check == "slurm.run_path"
    (cluster.directory / "run").rmdir()
    assert "slurm.run_path" in {each.check for each in cluster.judge() if each.status == "skipped"}
