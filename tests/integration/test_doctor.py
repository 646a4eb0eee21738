"""``enroot-slurm doctor``: what it says of real caches, file systems, registries and settings, and to whom."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.command import Running, enroot_slurm, wait_for
from support.fault_registry import FaultRegistry
from support.installation import Installation
from support.registry import TokenAuth
from support.token_server import TokenServer
from support.tools import require_root, require_tools
from support.users import users

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from support.registry import Registry
    from support.users import User

SECRET = "canary-71d0aa"
WRONG = "canary-wrong-4c11"


class Said(NamedTuple):
    """What the doctor has found."""

    status: int
    findings: list[dict[str, str]]
    text: str

    def of(self, check: str, *statuses: str) -> list[str]:
        """Message and hint of the findings of *check*, which have *statuses*; all if none are given."""
        found = [f for f in self.findings if f["check"] == check and (not statuses or f["status"] in statuses)]
        return [f"{f['message']} {f['hint']}" for f in found]

    def one(self, check: str, status: str) -> str:
        """Message and hint of the only finding of *check*."""
        assert [f["status"] for f in self.findings if f["check"] == check] == [status], self.text
        return self.of(check)[0]

    @property
    def errors(self) -> list[str]:
        return [f["message"] for f in self.findings if f["status"] == "error"]


def doctor(*arguments: str, environment: dict[str, str], network: bool = False) -> Said:
    """Run ``doctor --json``; no secret is in what it says, and the status fits."""
    words = ["--json", *([] if network else ["--no-network"]), *arguments]
    return parsed(enroot_slurm("doctor", *words, environment=environment))


def parsed(result: subprocess.CompletedProcess[str]) -> Said:
    text = result.stdout + result.stderr
    assert "canary" not in text
    assert "Traceback" not in text
    assert result.returncode in {0, 9}, text
    fields = json.loads(result.stdout)
    said = Said(result.returncode, fields["findings"], text)
    assert fields["errors"] == len(said.errors)
    assert (result.returncode == 9) == bool(said.errors)
    assert all(f["message"] and (f["hint"] or f["status"] in {"ok", "skipped"}) for f in said.findings), text
    return said


@pytest.fixture
def cache(import_environment: dict[str, str]) -> Path:
    """The user's own cache, which is there."""
    path = Path(import_environment["ENROOT_CACHE_PATH"])
    path.mkdir(mode=0o700)
    return path


@contextmanager
def mounted(*words: object) -> Iterator[Path]:
    """A file system at a new directory, which is the last word of ``mount``."""
    require_root("mounts")
    with tempfile.TemporaryDirectory(prefix="es-doctor-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        subprocess.run(["mount", *map(str, words), directory], check=True)
        try:
            yield Path(directory)
        finally:
            subprocess.run(["umount", "-l", directory], check=True)


# The output.


def test_a_healthy_machine(cache, import_environment) -> None:
    """Status 0, no error; and nothing is left in the cache but what imports make too."""
    said = doctor(environment=import_environment)
    assert said.status == 0
    assert said.one("cache.trust", "ok")
    for check in ("locks", "publish", "visible", "dead_locks", "clock", "room"):
        assert said.one(f"cache.{check}", "ok")
    assert sorted(path.name for path in cache.rglob("*")) == ["locks", "tmp"]


def test_what_people_see(cache, import_environment) -> None:
    """Groups, a line for each finding, and a count; with --quiet only what is wrong."""
    result = enroot_slurm("doctor", "--no-network", environment=import_environment)
    lines = result.stdout.splitlines()
    assert [line for line in lines if line and not line.startswith(" ")][:3] == ["Settings", "Programs", "Cache"]
    assert any(line.startswith("  ok       images are written with ") for line in lines)
    assert lines[-1].startswith("no errors, ")
    assert result.stderr == ""
    cache.chmod(0o777)
    result = enroot_slurm("doctor", "--no-network", "-q", environment=import_environment)
    assert result.returncode == 9
    assert "  ok " not in result.stdout
    lines = result.stdout.splitlines()
    [at] = [i for i, line in enumerate(lines) if line.startswith("  error ")]
    assert f"{cache} is writable by everybody" in lines[at]
    assert lines[at + 1] == f"           > Run: chmod go-w {cache}"


def test_a_cache_that_is_not_there_yet(import_environment) -> None:
    """Nothing is made for a user who has none."""
    said = doctor(environment=import_environment)
    assert "the first import makes it" in said.one("cache.locks", "skipped")
    assert not Path(import_environment["ENROOT_CACHE_PATH"]).exists()


def test_an_interrupt(cache, import_environment, tmp_path) -> None:
    """A doctor that is ended in the midst leaves nothing in the cache."""
    with Running("doctor", "--no-network", environment=import_environment, log=tmp_path / "log") as running:
        wait_for(lambda: list(cache.glob("tmp/.doctor.*")) or running.process.poll() is not None)
        running.process.terminate()
        running.wait()
        wait_for(lambda: not list(cache.glob("tmp/*")))
    assert not list(cache.glob("locks/doctor-*"))


@pytest.mark.parametrize("words", [["--nodes", "1"], ["--nodes=-x"], ["--registry", "ann:canary@nvcr.io"]])
def test_wrong_usage(import_environment, words) -> None:
    """A mistake in the call is status 2, before anything is looked at."""
    result = enroot_slurm("doctor", *words, environment=import_environment)
    assert result.returncode == 2
    assert result.stdout == ""
    assert "canary" not in result.stderr


# Settings.


def test_wrong_settings(import_environment, tmp_path) -> None:
    """All problems of all files, with their places; what depends on them is not looked at."""
    site = tmp_path / "site.yaml"
    site.write_text("squash_option: x\ncache_path: relative\n")
    environment = {**import_environment, "ENROOT_SLURM_SITE_CONFIG": str(site), "ENROOT_MAX_CONNECTIONS": "many"}
    said = doctor(environment=environment)
    assert said.status == 9
    problems = said.of("settings.files", "error")
    for part in (f"{site}:1:1: unknown setting", f"{site}:2:13: cache_path", "ENROOT_MAX_CONNECTIONS"):
        assert any(part in problem for problem in problems), problems
    assert said.one("cache.cache", "skipped")
    assert "hooks read /etc/enroot-slurm/config.yaml" in said.of("settings.site", "warning")[0]


def test_watermarks_that_contradict(cache, import_environment) -> None:
    """Each is right alone; together they are not."""
    environment = {**import_environment, "ENROOT_SLURM_CACHE_HIGH": "50%", "ENROOT_SLURM_CACHE_LOW": "60%"}
    assert "cache_low has to be below" in doctor(environment=environment).one("settings.watermarks", "error")


def test_watermarks(cache, import_environment) -> None:
    """A file system that is fuller than cache_high has not been collected; a size above all never is."""
    environment = {**import_environment, "ENROOT_SLURM_CACHE_HIGH": "1%"}
    assert "cache gc" in doctor(environment=environment).one("cache.watermark", "warning")
    environment = {**import_environment, "ENROOT_SLURM_CACHE_HIGH": "900TiB"}
    assert "more than the file system has" in doctor(environment=environment).one("cache.watermark", "warning")


# File systems.


def test_locks_are_off(cache, import_environment) -> None:
    """``locks: no`` is told, where locks would work."""
    said = doctor(environment={**import_environment, "ENROOT_SLURM_LOCKS": "no"})
    assert "would work" in said.one("cache.locks", "warning")


def test_a_cache_in_memory(import_environment) -> None:
    """A tmpfs is named, and that there is too little room."""
    with mounted("-t", "tmpfs", "-o", "size=32m,mode=700", "none") as directory:
        said = doctor(environment={**import_environment, "ENROOT_CACHE_PATH": str(directory)})
    assert said.status == 0
    assert "in memory (tmpfs" in said.of("cache.filesystem", "warning")[0]
    assert "only 32 MiB of 32 MiB are free" in said.one("cache.room", "warning")


def test_a_cache_that_is_full(import_environment) -> None:
    """Not even a small file can be made."""
    with mounted("-t", "tmpfs", "-o", "size=64k,mode=700", "none") as directory:
        (directory / "fill").write_bytes(bytes(64 << 10))
        said = doctor(environment={**import_environment, "ENROOT_CACHE_PATH": str(directory)})
        (directory / "fill").unlink()
        assert not list(directory.glob("tmp/.doctor*"))
    assert said.status == 9


def test_a_cache_that_is_read_only(import_environment) -> None:
    """What can't be written is an error for its owner."""
    with mounted("-t", "tmpfs", "-o", "ro,size=64k,mode=700", "none") as directory:
        said = doctor(environment={**import_environment, "ENROOT_CACHE_PATH": str(directory)})
    assert "remount,rw" in said.of("cache.filesystem", "error")[0]
    assert "Read-only file system" in said.one("cache.write", "error")


@pytest.mark.parametrize("reflink", [0, 1])
def test_shared_blocks(import_environment, tmp_path, reflink) -> None:
    """XFS can share blocks or not, as it was made."""
    require_tools("mkfs.xfs")
    disk = tmp_path / "disk"
    with disk.open("wb") as file:
        file.truncate(320 << 20)
    subprocess.run(["mkfs.xfs", "-q", "-m", f"reflink={reflink}", disk], check=True)
    with mounted("-o", "loop", disk) as directory:
        said = doctor(environment={**import_environment, "ENROOT_CACHE_PATH": str(directory)})
    assert said.one("cache.blocks", "ok").startswith("files can share" if reflink else "files can't share")
    assert "xfs at" in said.of("cache.filesystem", "ok")[0]


# Registries.


@pytest.fixture
def token(make_registry: Callable[..., Registry], tmp_path: Path) -> Iterator[Registry]:
    """A registry with a token service that knows ann, and gives anyone something."""
    with TokenServer(tmp_path, users={"ann": SECRET}, rights={"ann": ["*"], "": ["public/*"]}) as service:
        yield make_registry(token=TokenAuth(service.realm, service.service, service.issuer, service.bundle))


def credentials(environment: dict[str, str], *lines: str, mode: int = 0o600) -> Path:
    file = Path(environment["ENROOT_CONFIG_PATH"], ".credentials")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(f"{line}\n" for line in lines))
    file.chmod(mode)
    return file


def test_registries(registry, make_registry, token, cache, import_environment) -> None:
    """Which let in whom by which line; which refuse; which are not there."""
    basic = make_registry(users={"ann": SECRET})
    file = credentials(
        import_environment,
        f"machine {basic.host} login ann password {SECRET}",
        f"machine {token.host} login ann password {WRONG}",
    )
    names = [registry.host, basic.host, token.host, f"{token.host}/private/app", "127.0.0.1:1"]
    words = [word for name in names for word in ("--registry", name)]
    said = doctor(*words, environment=import_environment, network=True)
    assert said.status == 9
    assert f"{registry.host} lets anyone in " in said.of("registry.access", "ok")
    assert f"{basic.host} lets 'ann' in, by {file}:1 " in said.of("registry.access", "ok")
    refused = said.of("registry.access", "error")
    assert len(refused) == 2
    assert all(f"rejects the credentials of {file}:2" in text for text in refused)
    assert "the connection was refused" in said.one("registry.reach", "error")


def test_registries_by_default(registry, cache, import_environment) -> None:
    """Without names, Docker Hub and insecure_registries are asked: one that is out of reach may be meant so."""
    environment = {
        **import_environment,
        "ENROOT_ALLOW_HTTP": "no",
        "ENROOT_SLURM_INSECURE_REGISTRIES": registry.host,
        "https_proxy": "http://127.0.0.1:1",  # whatever this machine can reach
    }
    said = doctor(environment=environment, network=True)
    assert said.status == 0
    assert "registry-1.docker.io" in said.one("registry.reach", "warning")
    assert registry.host in said.one("registry.access", "ok")
    assert "over http" in said.one("registry.tls", "warning")


def test_mirrors(registry, cache, import_environment, tmp_path) -> None:
    """The tables are listed, with what is odd in them; mirrors are asked, and one that is down is a warning."""
    conf = tmp_path / "registries.conf"
    mirrors = f'[{{location = "{registry.host}/hub", insecure = true}}, {{location = "127.0.0.1:1"}}]'
    conf.write_text(f'[[registry]]\nlocation = "docker.io"\nodd = 1\nmirror = {mirrors}\n')
    environment = {
        **import_environment,
        "ENROOT_ALLOW_HTTP": "no",
        "ENROOT_SLURM_REGISTRIES_CONF": str(conf),
        "https_proxy": "http://127.0.0.1:1",  # whatever this machine can reach
        "no_proxy": "127.0.0.1",
    }

    def has(check: str, status: str, text: str) -> bool:
        return any(text in each for each in said.of(check, status))

    said = doctor(environment=environment, network=True)
    assert has("registry.mirrors", "ok", f"docker.io is asked for at {registry.host}/hub, 127.0.0.1:1 first ({conf})")
    assert has("registry.mirrors", "warning", "the key 'odd' is not known")
    assert has("registry.access", "ok", f"{registry.host} lets anyone in")
    assert has("registry.reach", "warning", "127.0.0.1:1: the connection was refused")
    conf.write_text("[[registry]")
    said = doctor(environment=environment, network=True)
    assert has("registry.mirrors", "error", "not valid TOML")
    said = doctor(environment=environment)  # imports would fail, whether somebody is asked or not
    assert any(f["check"] == "registry.mirrors" and f["status"] == "error" for f in said.findings), said.text


@pytest.mark.parametrize(("seconds", "said"), [(-3600, "behind"), (3600, "ahead of")])
def test_a_clock_that_is_wrong(cache, import_environment, seconds, said) -> None:
    """A registry whose clock differs by an hour: this machine's may be the wrong one."""
    with FaultRegistry() as registry:
        date = formatdate(time.time() - seconds, usegmt=True)
        registry.fault("^/v2/$", status=200, body=b"{}", headers={"Date": date, "Content-Type": "application/json"})
        found = doctor("--registry", registry.host, environment=import_environment, network=True)
    assert f"s {said} that of {registry.host}" in found.one("registry.clock", "warning")


def test_credentials_that_are_wrong(cache, import_environment) -> None:
    """A file that others can read, and a slip, are warnings, what can't be understood is an error; with the line."""
    file = credentials(import_environment, f"machine x login ann password {SECRET}", mode=0o644)
    assert f"chmod 600 {file}" in doctor(environment=import_environment).one("settings.credentials", "warning")
    credentials(import_environment, "# a comment", f"machine x login ann pasword {SECRET}")
    assert f"{file}:2" in doctor(environment=import_environment).one("settings.credentials", "warning")
    credentials(import_environment, "# a comment", f'machine x login ann password "{SECRET}')
    assert f"{file}:2" in doctor(environment=import_environment).one("settings.credentials", "error")


# The site's cache, and users.


class Site(NamedTuple):
    """A shared cache and its user, another user, and the program where both can run it."""

    cache: Path
    cache_user: User
    user: User
    settings: Path
    python: Path

    def doctor(self, user: User | None, *prefix: str, **changes: Any) -> Said:
        """What is found as *user* (None: as root), with these settings; *prefix* is put before the command."""
        settings = {"shared_cache": self.cache, "cache_user": self.cache_user.name, "cache_max_age": "30d", **changes}
        self.settings.write_text("".join(f"{key}: {value}\n" for key, value in settings.items()))
        command = [*prefix, self.python, "-I", "-m", "enroot_slurm", "doctor", "--json", "--no-network"]
        environment = {"PATH": os.environ["PATH"], "ENROOT_SLURM_SITE_CONFIG": str(self.settings)}
        environment["HOME"] = str(user.home if user else self.settings.parent)
        identity = user.identity if user else {}
        return parsed(
            subprocess.run(
                command, check=False, env=environment, capture_output=True, text=True, timeout=60, **identity
            )
        )


@pytest.fixture(scope="module")
def installed() -> Iterator[Path]:
    made = Installation.make()
    yield made.python
    made.remove()


@pytest.fixture
def site(installed: Path) -> Iterator[Site]:
    require_root("becomes other users")
    with tempfile.TemporaryDirectory(prefix="es-doctor-", dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        with users(2, Path(directory)) as (cache_user, user):
            cache = Path(directory, "cache")
            cache.mkdir(mode=0o755)
            os.chown(cache, cache_user.uid, cache_user.uid)
            yield Site(cache, cache_user, user, Path(directory, "site.yaml"), installed)


def test_the_sites_cache_as_root(site) -> None:
    """Root tries it as the cache's owner: what is made there is that user's."""
    said = site.doctor(None)
    assert said.errors == []
    assert f"nobody but root and {site.cache_user.name} can change" in said.one("cache.trust", "ok")
    assert said.one("cache.locks", "ok")
    assert {path.stat().st_uid for path in site.cache.rglob("*")} == {site.cache_user.uid}
    assert not said.of("settings.credentials")


def test_root_squash(site) -> None:
    """Root that may not pass by permissions is told that this is all right: it becomes the owner for all it does."""
    assert not site.doctor(None).of("cache.root_squash")
    squashed = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"]
    said = site.doctor(None, *squashed)
    assert "root_squash" in said.one("cache.root_squash", "ok")
    assert said.one("cache.locks", "ok")


def test_the_sites_cache_as_its_owner(site) -> None:
    """The same, without root."""
    said = site.doctor(site.cache_user)
    assert said.errors == []
    assert said.one("cache.locks", "ok")


def test_the_sites_cache_as_another_user(site) -> None:
    """It is only read; the user's own cache is looked at besides."""
    said = site.doctor(site.user)
    assert said.errors == []
    assert len(said.of("cache.trust", "ok")) == 2
    assert "read-only for you" in said.of("cache.locks", "skipped")[0]
    assert list(site.cache.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "changes", "check", "status", "text"),
    [
        (0o777, {}, "cache.trust", "error", "chmod go-w"),
        (0o700, {}, "cache.readers", "error", "chmod 755"),
        (0o755, {"cache_user": "no-such-user"}, "cache.cache", "error", "there is no user no-such-user"),
        (0o755, {"cache_user": "daemon"}, "cache.owner", "error", "chown daemon"),
        (0o755, {"cache_user": "''"}, "cache.owner", "warning", "cache_user is empty"),
        (0o755, {"cache_max_age": "''"}, "cache.watermark", "warning", "grow without limit"),
    ],
)
def test_what_can_be_wrong_with_the_sites_cache(site, mode, changes, check, status, text) -> None:
    """Permissions, owner and limits; each with what to run or to set."""
    site.cache.chmod(mode)
    said = site.doctor(None, **changes)
    assert any(text in each for each in said.of(check, status)), said.text


def test_a_sites_cache_that_is_not_there(site) -> None:
    """The command that makes it is shown."""
    site.cache.rmdir()
    said = site.doctor(None)
    assert f"install -d -o {site.cache_user.name} -m 755 {site.cache}" in said.one("cache.owner", "error")
    assert not site.cache.exists()


def test_nothing_is_written_where_others_can_write(site) -> None:
    """Until that is mended, the rest of the cache is only looked at."""
    site.cache.chmod(0o777)
    assert "as long as others can change it" in site.doctor(None).one("cache.locks", "skipped")
    assert list(site.cache.iterdir()) == []


def test_a_way_that_is_closed(site) -> None:
    """A directory on the way that users can't enter: root finds it, and they are told."""
    (site.cache / "below").mkdir(mode=0o755)
    os.chown(site.cache / "below", site.cache_user.uid, site.cache_user.uid)
    site.cache.chmod(0o700)
    assert f"chmod 755 {site.cache}" in site.doctor(None, shared_cache=site.cache / "below").one(
        "cache.readers", "error"
    )
    said = site.doctor(site.user, shared_cache=site.cache / "below")
    assert "Permission denied" in said.of("cache.owner", "error")[0]


def test_a_cache_of_roots(site) -> None:
    """Root imports nothing, so that nobody would write to it."""
    os.chown(site.cache, 0, 0)
    said = site.doctor(None).of("cache.owner", "error")
    assert f"chown {site.cache_user.name} {site.cache}" in said[0]


def test_noatime(site) -> None:
    """Users' reads are not seen there."""
    with mounted("-t", "tmpfs", "-o", "noatime,size=32m,mode=755", "none") as directory:
        os.chown(directory, site.cache_user.uid, site.cache_user.uid)
        said = site.doctor(None, shared_cache=directory)
    assert "relatime" in said.one("cache.noatime", "warning")


def test_another_users_own_directory_on_the_way(site) -> None:
    """A parent of somebody else's is no place for a site's cache."""
    parent = site.cache.parent / "theirs"
    parent.mkdir(mode=0o755)
    (parent / "cache").mkdir(mode=0o755)
    os.chown(parent / "cache", site.cache_user.uid, site.cache_user.uid)
    os.chown(parent, site.user.uid, site.user.uid)
    said = site.doctor(None, shared_cache=parent / "cache")
    assert f"chown root {parent}" in said.one("cache.trust", "error")
