"""A real Slurm cluster on this machine: Debian's slurmctld, several slurmd, and a munged of its own.

Every cluster has its name, ports, keys and directories; any number may run at once.  Each node's slurmd has its own
mount namespace, so that paths such as ``/run/enroot-slurm`` can be each node's own, and ``/etc/enroot-slurm`` the
cluster's, although all run on one machine.  (The machine itself gets such directories too, empty: a mount needs a
place.)  At the end nothing is left: every process that has the cluster's
directory in its environment, its command line or its open files is killed.
"""

from __future__ import annotations

import os
import pwd
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from support.command import wait_for
from support.tools import require_root, require_tools

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

__all__ = ["Cluster", "Job", "User", "processes_with"]

_START = 30.0  # seconds; normally it takes 1
_END_STATES = frozenset(
    {"BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT"}
)
_SLURMD_UP = "slurmd started on"  # the last line of a start
_SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_MOUNTED = """\
while [ "$1" != -- ]; do mount --bind "$1" "$2" || exit 99; shift 2; done
shift
exec "$@"
"""


class User(NamedTuple):
    """A real user of this machine, made for the tests."""

    name: str
    uid: int
    gid: int
    home: Path

    @classmethod
    def make(cls, word: str = "user") -> User:
        """Add a user with a home of mode 0700 and a name that holds *word*."""
        require_root("users are added")
        name = f"es-{word[:12]}-{os.getpid():x}{random.randrange(1 << 16):04x}"
        _changing_users(
            "useradd", "--create-home", "--user-group", "--shell", "/bin/sh", "--key", "HOME_MODE=0700", name
        )
        entry = pwd.getpwnam(name)
        return cls(name, entry.pw_uid, entry.pw_gid, Path(entry.pw_dir))

    def remove(self) -> None:
        """Delete the user and the home, and end what runs in this name."""
        for process in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if process.stat().st_uid == self.uid:
                    os.kill(int(process.name), signal.SIGKILL)
        _changing_users("userdel", "--force", "--remove", self.name)

    def write(self, path: str, text: str, mode: int = 0o600) -> Path:
        """Write a file below the home, as the user's; its path."""
        file = self.home / path
        for directory in reversed([d for d in file.parents if d.is_relative_to(self.home) and not d.exists()]):
            directory.mkdir(mode=0o700)
            os.chown(directory, self.uid, self.gid)
        file.write_text(text)
        file.chmod(mode)
        os.chown(file, self.uid, self.gid)
        return file


class Job(NamedTuple):
    """A job that has ended."""

    id: int
    state: str
    """Such as ``COMPLETED``."""
    exit_code: str
    """``STATUS:SIGNAL`` of the batch script."""
    fields: dict[str, str]
    """What ``scontrol show job`` says."""
    output: str
    """Standard output and error of the batch script."""


class Cluster:
    """A cluster for the time of a ``with`` block.

    nodes    how many: n1, n2, ...
    conf     lines of slurm.conf by key, such as {"Prolog": "/x/y", "PrologFlags": "Alloc"}; None takes a default away
    files    files beside slurm.conf by name, such as plugstack.conf, burst_buffer.lua; texts.  ``{directory}`` in them
             and in *conf* is the cluster's directory
    shared   directories that daemons, jobs and commands of this cluster see at another path: {"/etc/enroot-slurm": DIR}
    private  directories that every node has for itself, empty at first: see `node_path`
    cpus     of each node; they are pretended, so that many jobs fit

    It needs root, for jobs run as their users.  `directory` (0755) holds all files; `logs` tells what went wrong.
    """

    def __init__(
        self,
        *,
        nodes: int = 3,
        conf: Mapping[str, str | None] | None = None,
        files: Mapping[str, str] | None = None,
        shared: Mapping[str, Path] | None = None,
        private: Sequence[str] = (),
        cpus: int = 16,
    ) -> None:
        self.nodes = [f"n{i}" for i in range(1, nodes + 1)]
        self.directory = Path()
        self._conf = dict(conf or {})
        self._files = dict(files or {})
        self._shared = dict(shared or {})
        self._private = list(private)
        self._cpus = cpus
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._commands: list[subprocess.Popen[str]] = []

    # Commands and jobs.

    def run(
        self,
        *command: object,
        user: User | None = None,
        environment: Mapping[str, str] | None = None,
        node: str = "",
        check: bool = True,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as *user* (default: root), in its home and with a clean environment.

        It sees the directories of *node*; by default it is on a login node, which has no private ones.
        """
        variables = {**self._environment(user), **(environment or {})}
        # As a login would: the user's groups, and no privilege that could be regained.
        switch = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups"] if user else []
        options = {"capture_output": True, "text": True, "timeout": 120, "stdin": subprocess.DEVNULL, **options}
        options.setdefault("cwd", user.home if user else self.directory)
        if options.get("input") is not None:
            del options["stdin"]
        words = [*self._mounts(self._private_mounts(node)), *switch, *map(str, command)]
        result: subprocess.CompletedProcess[str] = subprocess.run(words, check=False, env=variables, **options)
        if check:
            assert result.returncode == 0, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
        return result

    def start(
        self,
        *command: object,
        user: User | None = None,
        environment: Mapping[str, str] | None = None,
        node: str = "",
        **options: Any,
    ) -> subprocess.Popen[str]:
        """Like `run`, but do not wait: a process in a session of its own with pipes for its output."""
        variables = {**self._environment(user), **(environment or {})}
        switch = ["setpriv", f"--reuid={user.uid}", f"--regid={user.gid}", "--init-groups"] if user else []
        options = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            "cwd": user.home if user else self.directory,
            "start_new_session": True,
            **options,
        }
        words = [*self._mounts(self._private_mounts(node)), *switch, *map(str, command)]
        self._commands.append(subprocess.Popen(words, env=variables, **options))
        return self._commands[-1]

    def submit(self, script: str, *options: object, user: User, **others: Any) -> int:
        """Submit a batch script, given as text (``#!/bin/sh`` is added where it lacks); the job's id.

        A script that is to be cancelled ends with ``exec``: Slurm may kill a shell before it sees that shell's child,
        which then stays.

        The output goes to ``job-ID.out`` in the user's home; see `output`.
        """
        text = script if script.startswith("#!") else f"#!/bin/sh\n{script}\n"
        words = ["sbatch", "--parsable", "--output=job-%j.out", *options]
        result = self.run(*words, user=user, input=text, **others)
        return int(result.stdout.strip().partition(";")[0])

    def job(self, job: int) -> dict[str, str]:
        """The fields of ``scontrol show job``; of an array, those of the last task shown."""
        text = self.run("scontrol", "--oneliner", "show", "job", job).stdout
        # A burst buffer's directives have lines even here.
        last = re.split(r"^(?=JobId=)", text, flags=re.MULTILINE)[-1]
        return dict(word.partition("=")[::2] for word in last.split() if "=" in word)

    def states(self, job: int) -> list[str]:
        """The states of a job, of all the tasks of an array, or of all the components of a heterogeneous job."""
        result = self.run("squeue", "--noheader", "--array", "--states=all", f"--jobs={job}", "--format=%T")
        return result.stdout.split()

    def wait_for_state(self, job: int, *states: str, seconds: float = 60) -> None:
        """Wait until each part of a job is in one of the *states*, such as RUNNING."""
        wait_for(lambda: (found := self.states(job)) and set(found) <= set(states), seconds)

    def wait_job(self, job: int, seconds: float = 60) -> Job:
        """Wait until a job (or array) has ended on all its nodes, epilogs included."""
        try:
            self.wait_for_state(job, *_END_STATES, seconds=seconds)
        except AssertionError as error:
            error.add_note(f"{self.run('scontrol', 'show', 'job', job).stdout}\n{self.logs()}")
            raise
        fields = self.job(job)
        user = fields["UserId"].partition("(")[0]
        output = self.output(job, pwd.getpwnam(user).pw_dir)
        return Job(job, fields["JobState"], fields["ExitCode"], fields, output)

    def run_job(self, script: str, *options: object, user: User, seconds: float = 60, **others: Any) -> Job:
        """Submit a batch script and wait for its end."""
        return self.wait_job(self.submit(script, *options, user=user, **others), seconds)

    def output(self, job: int, home: Path | str) -> str:
        """What a job that was sent by `submit` has written up to now."""
        file = Path(home) / f"job-{job}.out"
        return _text(file)

    def cancel(self, *jobs: int) -> None:
        self.run("scancel", *jobs)

    # Nodes.

    def sinfo_reasons(self) -> str:
        """``sinfo -R``: why nodes are drained or down; empty if none is."""
        return self.run("sinfo", "-R", "--noheader", "--format=%n %T %E").stdout.strip()

    def heal(self) -> None:
        """Cancel all jobs and bring drained nodes back, for the next test."""
        self.run("scancel", "--quiet", "--user=root", check=False)
        jobs = self.run("squeue", "--noheader", "--format=%A").stdout.split()
        if jobs:
            self.run("scancel", *set(jobs), check=False)
            wait_for(lambda: not self.run("squeue", "--noheader").stdout)
        if self.sinfo_reasons():
            self.run("scontrol", "update", f"nodename={','.join(self.nodes)}", "state=resume", check=False)

    def wait_for_node(self, node: str, seconds: float = 150) -> None:
        """Wait until *node* is idle: after a slurmd that was ended, Slurm may ask it again only a minute later."""
        wait_for(lambda: " State=IDLE " in self.run("scontrol", "-o", "show", "node", node).stdout, seconds)

    def stop_node(self, node: str, number: int = signal.SIGTERM, *, wait: bool = True) -> None:
        """End the slurmd of *node* by a signal; its jobs, and with SIGKILL its prologs, go on."""
        process = self._daemons[node]
        process.send_signal(number)
        if wait:
            process.wait(60)

    def start_node(self, node: str, *, wait: bool = True) -> None:
        """Start a slurmd that has been stopped."""
        log = self.directory / f"slurmd-{node}.log"
        starts = _text(log).count(_SLURMD_UP)
        words = ["slurmd", "-D", "-f", self.conf, "-N", node]
        self._start(f"slurmd-{node}", node, *self._mounts(self._private_mounts(node)), *words)
        if wait:
            wait_for(lambda: _text(log).count(_SLURMD_UP) > starts, _START)

    def stop_controller(self, number: int = signal.SIGTERM) -> None:
        process = self._daemons["controller"]
        process.send_signal(number)
        process.wait(60)

    def start_controller(self) -> None:
        self._start("slurmctld", "controller", *self._mounts(), "slurmctld", "-D", "-f", self.conf)
        wait_for(lambda: self.run("scontrol", "ping", check=False).returncode == 0, _START)

    def node_path(self, node: str, path: str) -> Path:
        """Where this machine has the *private* directory *path* of *node*."""
        return self.directory / "nodes" / node / path.strip("/").replace("/", "+")

    def processes(self) -> dict[int, str]:
        """The living processes of the cluster's jobs, prologs and commands: number and command line."""
        daemons = {process.pid for process in self._daemons.values()}
        found = processes_with(str(self.directory))
        return {pid: line for pid, line in found.items() if pid not in daemons and "slurmscriptd" not in line}

    # Files.

    @property
    def conf(self) -> Path:
        return self.directory / "slurm.conf"

    def logs(self, lines: int = 40) -> str:
        """The ends of all the logs."""
        return "\n".join(
            f"== {log.name}\n" + "\n".join(_text(log).splitlines()[-lines:])
            for log in sorted(self.directory.glob("*.log"))
        )

    # Life.

    def __enter__(self) -> Self:
        require_root("Slurm starts jobs as their users")
        require_tools("slurmctld", "slurmd", "sbatch", "munged", "unshare", "setpriv")
        # Not pytest's directory, which is closed to users; and short, for sockets' paths end at 108 bytes.
        self.directory = Path(tempfile.mkdtemp(prefix="es-slurm-", dir="/var/tmp"))
        self.directory.chmod(0o755)
        try:
            for path in [*self._shared, *self._private]:
                Path(path).mkdir(parents=True, exist_ok=True)
            for node in self.nodes:
                for path in self._private:
                    self.node_path(node, path).mkdir(parents=True, exist_ok=True)
            self._start_munged()
            self._write_conf()
            self.start_controller()
            for node in self.nodes:
                self.start_node(node, wait=False)
            wait_for(self._is_up, _START)
        except BaseException as error:
            error.add_note(self.logs())
            self.stop()
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            error.add_note(self.logs())
        self.stop()

    def stop(self) -> None:
        """End everything and remove the directory."""
        controller = self._daemons.get("controller")
        if controller and controller.poll() is None:
            controller.kill()  # nothing is to be saved
        deadline = time.monotonic() + 10
        while (left := processes_with(str(self.directory))) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)
        for process in [*self._daemons.values(), *self._commands]:
            process.kill()
            process.wait()
        for stream in (s for process in self._commands for s in (process.stdin, process.stdout, process.stderr) if s):
            stream.close()
        self._daemons.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _is_up(self) -> bool:
        for name, process in self._daemons.items():
            assert process.poll() is None, f"{name} ended:\n{self.logs()}"
        states = self.run("sinfo", "-h", "-N", "-o", "%N %T", check=False).stdout.splitlines()
        return set(states) == {f"{node} idle" for node in self.nodes}

    def _start(self, log: str, name: str, *words: object) -> None:
        with (self.directory / f"{log}.log").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                ["env", "--default-signal", *map(str, words)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=self.directory,
                env={**self._environment(None)},
                start_new_session=True,
            )

    def _start_munged(self) -> None:
        directory = self.directory / "munge"
        directory.mkdir(mode=0o755)
        key = directory / "key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        files = {"socket": "socket", "key-file": "key", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        options = [f"--{option}={directory / name}" for option, name in files.items()]
        self._start("munged", "munged", "munged", "--foreground", "--force", "--num-threads=4", *options)
        wait_for((directory / "socket").exists, _START)

    def _write_conf(self) -> None:
        ports = _free_ports(1 + len(self.nodes))
        spool = self.directory / "spool"
        spool.mkdir()
        conf: dict[str, str | None] = {
            "ClusterName": self.directory.name,
            "SlurmctldHost": f"{socket.gethostname()}(127.0.0.1)",
            "SlurmctldPort": str(ports[0]),
            "SlurmUser": "root",
            "SlurmdUser": "root",
            "AuthType": "auth/munge",
            "CredType": "cred/munge",
            "AuthInfo": f"socket={self.directory}/munge/socket",
            "ProctrackType": "proctrack/linuxproc",
            "TaskPlugin": "task/none",
            "JobAcctGatherType": "jobacct_gather/none",
            "AccountingStorageType": "accounting_storage/none",
            "SwitchType": "switch/none",
            "MpiDefault": "none",
            "SelectType": "select/cons_tres",
            "SelectTypeParameters": "CR_Core",
            "SlurmdParameters": "config_overrides",
            "ReturnToService": "2",
            "StateSaveLocation": str(spool / "state"),
            "SlurmdSpoolDir": str(spool / "%n"),
            "SlurmctldPidFile": str(spool / "slurmctld.pid"),
            "SlurmdPidFile": str(spool / "%n.pid"),
            # Tests wait for nothing that a cluster with thousands of jobs would batch up.
            # (A batch job starts within a second all the same; what srun and salloc ask for starts at once.)
            "SchedulerType": "sched/backfill",
            "SchedulerParameters": "batch_sched_delay=0,sched_interval=1,bf_interval=1",
            "PriorityType": "priority/basic",
            "KillWait": "2",
            "MinJobAge": "600",
            "MaxArraySize": "201",
            "SlurmctldDebug": "verbose",
            "SlurmdDebug": "verbose",
            **self._conf,
        }
        lines = [f"{key}={value}" for key, value in conf.items() if value is not None]
        for node, port in zip(self.nodes, ports[1:], strict=True):
            lines.append(
                f"NodeName={node} NodeHostname={socket.gethostname()} NodeAddr=127.0.0.1 Port={port} Sockets=1"
                f" CoresPerSocket={self._cpus} ThreadsPerCore=1 RealMemory=2000"
            )
        lines.append("PartitionName=debug Nodes=ALL Default=YES OverSubscribe=YES State=UP")
        for name, text in {"slurm.conf": "\n".join(lines) + "\n", **self._files}.items():
            (self.directory / name).write_text(text.replace("{directory}", str(self.directory)))

    def _environment(self, user: User | None) -> dict[str, str]:
        names = {"HOME": str(user.home), "USER": user.name, "LOGNAME": user.name} if user else {"HOME": "/root"}
        return {**names, "PATH": _SEARCH_PATH, "LANG": "C.UTF-8", "SLURM_CONF": str(self.conf)}

    def _private_mounts(self, node: str) -> list[tuple[Path, str]]:
        return [(self.node_path(node, path), path) for path in self._private] if node else []

    def _mounts(self, more: Sequence[tuple[Path, str]] = ()) -> list[str]:
        """The beginning of a command that is to see this cluster's directories."""
        pairs = [(source, path) for path, source in self._shared.items()] + list(more)
        if not pairs:
            return []
        words = [str(word) for pair in pairs for word in pair]
        return ["unshare", "--mount", "--propagation", "private", "sh", "-c", _MOUNTED, "sh", *words, "--"]


def processes_with(text: str) -> dict[int, str]:
    """The living processes with *text* in command line, environment, directory or open files; their command lines."""
    found = {}
    wanted = text.encode()
    for path in Path("/proc").glob("[0-9]*"):
        pid = int(path.name)
        if pid == os.getpid():
            continue
        with suppress(OSError):
            command = (path / "cmdline").read_bytes()
            if wanted in command or wanted in (path / "environ").read_bytes() or any(text in t for t in _links(path)):
                found[pid] = command.replace(b"\0", b" ").decode("utf-8", "replace").strip()
    return found


def _links(process: Path) -> Iterator[str]:
    yield str((process / "cwd").readlink())
    for descriptor in (process / "fd").iterdir():
        with suppress(FileNotFoundError):
            yield str(descriptor.readlink())


def _text(file: Path) -> str:
    return file.read_text("utf-8", "replace") if file.exists() else ""


def _changing_users(*command: str) -> None:
    # The password files have one lock, for which these programs do not wait.
    for _ in range(100):
        result = subprocess.run(command, check=False, capture_output=True, text=True)
        if result.returncode != 1 or "lock" not in result.stderr:
            break
        time.sleep(0.1)
    assert result.returncode in {0, 12}, result.stderr  # 12: userdel could not remove the home (mail spool)


def _free_ports(number: int) -> list[int]:
    """Ports that are free now, and not of those that the kernel gives to others."""
    found: list[int] = []
    while len(found) < number:
        port = random.randrange(15000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    return found
