"""The site's cache: written by one user for all, read by all, and private images nowhere but with those who may."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.corner_cases import noise
from support.images import Image, Layer, pack
from support.installation import Installation
from support.registry import Registry, TokenAuth
from support.token_server import TokenServer
from support.tools import require_root, require_tools
from support.users import users

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.images import Pushed
    from support.users import User

pytestmark = pytest.mark.xdist_group("shared cache")  # one set-up for all

PUBLIC, PRIVATE = ("one", "two"), "secret"
SIZE = 300_000

# As many processes as there are arguments, at once, each with one image; what became of it, a line for each.
DRIVER = """
import json, os, sys
from enroot_slurm.settings.config import Config
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.importing.to_cache import get_image
import enroot_slurm.importing.to_file
config = Config.load(enroot_conf=None, overrides=json.loads(sys.argv[1]))
def run(number, uri):
    try:
        image = get_image(uri, config=config, job=f"{number}.0")
        return {"uri": uri, "path": str(image.path), "digest": str(image.digest), "public": image.public}
    except EnrootSlurmError as error:
        return {"uri": uri, "error": type(error).__name__, "message": str(error)}
children = []
for number, uri in enumerate(sys.argv[2:]):
    pid = os.fork()
    if not pid:
        os.write(1, json.dumps([number, run(number, uri)]).encode() + b"\\n")
        os._exit(0)
    children.append(pid)
for pid in children:
    os.waitpid(pid, 0)
"""


class Site(NamedTuple):
    """A cluster's set-up: a cache, its user, users, and a registry where two of them may read one image more."""

    cache: Path
    cache_user: User
    users: list[User]
    registry: Registry
    pushed: dict[str, Pushed]
    directory: Path
    python: Path
    """One that all users may run, with the program."""

    def uri(self, name: str) -> str:
        return self.registry.uri(f"test/{name}" if name != PRIVATE else f"private/{name}", "t")

    def start(self, who: User, *names: str, **overrides: str) -> subprocess.Popen[str]:
        environment = {
            "HOME": str(who.home),
            "PATH": os.environ["PATH"],
            "ENROOT_SLURM_SITE_CONFIG": str(self.directory / "config.yaml"),
            "http_proxy": "",
        }
        uris = [self.uri(name) for name in names]
        command = [self.python, "-I", "-c", DRIVER, json.dumps(overrides), *uris]
        return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, **who.identity)

    def get(self, who: User, *names: str, **overrides: str) -> list[dict[str, Any]]:
        with self.start(who, *names, **overrides) as process:
            return answers(process)

    def by_hook(self, who: User, *names: str) -> list[dict[str, Any]]:
        """What a hook does: the cache's user imports; what the registry refuses him, the job's user imports himself."""
        found = self.get(self.cache_user, *names, cache_path=str(self.cache))
        refused = [name for name, one in zip(names, found, strict=True) if one.get("error") == "AccessDenied"]
        return [one for one in found if one.get("error") != "AccessDenied"] + self.get(who, *refused)


def answers(process: subprocess.Popen[str]) -> list[dict[str, Any]]:
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0
    return [answer for _, answer in sorted(json.loads(line) for line in output.splitlines())]


@contextlib.contextmanager
def installation() -> Iterator[Installation]:
    installed = Installation.make()
    try:
        yield installed
    finally:
        installed.remove()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    require_root("works as several users")
    require_tools("mksquashfs", "docker-registry")
    with tempfile.TemporaryDirectory(prefix="site.", dir="/var/tmp") as name:
        directory = Path(name)
        directory.chmod(0o755)
        (directory / "homes").mkdir(mode=0o755)
        work = tmp_path_factory.mktemp("site")
        rights = {"u0": ["private/*"], "u1": ["private/*"], "": ["test/*"]}
        with (
            installation() as installed,
            users(6, directory / "homes") as (cache_user, *others),
            TokenServer(work / "tokens", users={f"u{n}": f"p{n}" for n in range(5)}, rights=rights) as service,
            Registry(work / "open") as store,
            Registry(
                work / "closed",
                storage=store.storage,
                token=TokenAuth(service.realm, service.service, service.issuer, service.bundle),
            ) as registry,
        ):
            base = pack(Layer().file("base", noise(SIZE, 1)), "gzip")
            pushed = {
                "one": store.push("test/one", "t", Image([base, pack(Layer().file("one", noise(SIZE, 2)), "gzip")])),
                "two": store.push("test/two", "t", Image([base, pack(Layer().file("two", noise(SIZE, 3)), "gzip")])),
                PRIVATE: store.push(
                    f"private/{PRIVATE}", "t", Image([base, pack(Layer().file("secret", noise(SIZE, 4)), "gzip")])
                ),
            }
            for number, user in enumerate(others):
                (user.home / ".config/enroot").mkdir(parents=True)
                credentials = user.home / ".config/enroot/.credentials"
                credentials.write_text(f"machine 127.0.0.1 login u{number} password p{number}\n")
                credentials.chmod(0o600)
                subprocess.run(["chown", "-R", f"{user.uid}:{user.uid}", user.home], check=True)
            (directory / "parent").mkdir(mode=0o755)
            cache = directory / "parent/cache"
            cache.mkdir(mode=0o755)
            os.chown(cache, cache_user.uid, cache_user.uid)
            (directory / "config.yaml").write_text(
                f"shared_cache: {cache}\ncache_user: {cache_user.name}\n"
                f"insecure_registries: ['{registry.host}']\nsquash_options: -comp zstd -Xcompression-level 1\n"
            )
            yield Site(cache, cache_user, others, registry, pushed, directory, installed.python)


@pytest.fixture
def fresh(site: Site) -> Iterator[Site]:
    """The site with empty caches."""
    yield site
    for home in (site.directory / "homes").iterdir():
        subprocess.run(["rm", "-rf", home / ".cache"], check=True)
    subprocess.run(["rm", "-rf", *site.cache.iterdir()], check=True)
    site.cache.chmod(0o755)
    os.chown(site.cache, site.cache_user.uid, site.cache_user.uid)


def fetched(registry: Registry, digest: str) -> int:
    return registry.count("GET", f"/blobs/{digest}", status=200)


def test_five_users_and_three_images(fresh: Site) -> None:
    """Fifty processes of five users' jobs ask for three images at once, one of which two of the users may read.

    Each public blob is fetched once, each private one once per user who may have it; the others are refused.
    """
    site = fresh
    site.registry.reset()
    wanted = ["one"] * 4 + ["two"] * 3 + [PRIVATE] * 3
    with ThreadPoolExecutor(len(site.users)) as pool:
        found = list(pool.map(lambda user: site.by_hook(user, *wanted), site.users))
    assert [len(results) for results in found] == [len(wanted)] * len(site.users)
    paths = set()
    for number, (user, results) in enumerate(zip(site.users, found, strict=True)):
        public = [one for one in results if PRIVATE not in one["uri"]]
        assert {one.get("public") for one in public} == {True}
        paths |= {Path(one["path"]) for one in public}
        secret = [one for one in results if PRIVATE in one["uri"]]
        if number < 2:
            assert {(one["digest"], one["public"]) for one in secret} == {(site.pushed[PRIVATE].digest, False)}
            assert {Path(one["path"]).parents[3] for one in secret} == {user.home / ".cache/enroot"}
        else:
            assert {one["error"] for one in secret} == {"AccessDenied"}
    assert len(paths) == 2
    assert {path.parents[3] for path in paths} == {site.cache}
    # Without hooks, users find the same images.
    processes = [site.start(user, *PUBLIC) for user in site.users]
    for process in processes:
        with process:
            assert {Path(one["path"]) for one in answers(process)} == paths
    base = site.pushed["one"].layers[0]
    for name in PUBLIC:
        blobs = {*site.pushed[name].layers, site.pushed[name].config}
        assert {digest: fetched(site.registry, digest) for digest in blobs} == dict.fromkeys(blobs, 1)
    private = {site.pushed[PRIVATE].layers[1], site.pushed[PRIVATE].config}
    assert {digest: fetched(site.registry, digest) for digest in private} == dict.fromkeys(private, 2)
    assert fetched(site.registry, base) == 1  # also for the private images that have it
    assert_private(site)


def assert_private(site: Site) -> None:
    """Of the private image there is nothing in the site's cache, and nobody else can read what its users have."""
    secret = site.pushed[PRIVATE]
    words = [d.partition(":")[2] for d in (secret.digest, secret.config, secret.layers[1])] + [PRIVATE]
    for path in site.cache.rglob("*"):
        assert not [w for w in words if w in str(path)], path
        if path.is_file():
            assert b"private/" not in path.read_bytes()
    for path in [site.cache, *site.cache.rglob("*")]:
        status = path.lstat()
        assert status.st_uid == site.cache_user.uid
        closed = path.name in {"locks", "tmp", "failures"} or path.parent.name in {"locks", "tmp", "failures"}
        if path.is_dir():
            mode = 0o1733 if path.name == "visitors" else 0o700 if closed else 0o755
            assert stat.S_IMODE(status.st_mode) == mode, path
        elif not closed:
            assert stat.S_IMODE(status.st_mode) == 0o444, path
    for user in site.users[:2]:
        own = list((user.home / ".cache/enroot").rglob("*.sqsh"))
        assert own
        for path in own:
            assert path.stat().st_mode & 0o077 == 0
            reading = subprocess.run(["cat", path], check=False, capture_output=True, **site.users[4].identity)
            assert b"Permission denied" in reading.stderr
    for user in site.users[2:]:
        assert list((user.home / ".cache/enroot").rglob("*.sqsh")) == []


def test_what_a_hook_does(fresh: Site) -> None:
    """The cache's user imports what is public, the job's user what is not; again, it costs a question each."""
    site = fresh
    first = site.by_hook(site.users[0], "one", PRIVATE)
    assert [one["public"] for one in first] == [True, False]
    site.registry.reset()
    assert site.by_hook(site.users[0], "one", PRIVATE) == first
    assert site.registry.count("GET", "/blobs/") == 0
    assert site.registry.count("GET", "/manifests/", status=200) == 0
    assert [one["error"] for one in site.by_hook(site.users[3], PRIVATE)] == ["AccessDenied"]


def test_nobody_else_writes_the_shared_cache(fresh: Site) -> None:
    """A user's settings can't make another user's process write there."""
    site = fresh
    site.get(site.cache_user, "one", cache_path=str(site.cache))
    [refused] = site.get(site.users[0], "two", cache_path=str(site.cache))
    assert refused["error"] == "StorageError"
    assert f"belongs to user {site.cache_user.uid}" in refused["message"]


@pytest.mark.parametrize("flaw", ["group", "everybody", "owner", "parent", "images"])
def test_a_shared_cache_that_others_can_change_is_not_used(fresh: Site, flaw: str) -> None:
    """Its own user refuses to write it, and everyone else does without it."""
    site = fresh
    [good] = site.get(site.cache_user, "one", cache_path=str(site.cache))
    victim = {"parent": site.cache.parent, "images": site.cache / "images"}.get(flaw, site.cache)
    before = victim.stat()
    if flaw == "owner":
        os.chown(victim, site.users[4].uid, -1)
    else:
        victim.chmod(0o775 if flaw == "group" else 0o777)
    try:
        [own] = site.get(site.users[0], "one")
        assert Path(own["path"]).parents[3] == site.users[0].home / ".cache/enroot"
        if flaw != "owner":
            [refused] = site.get(site.cache_user, "one", cache_path=str(site.cache))
            assert refused["error"] == "StorageError"
            assert str(victim) in refused["message"]
    finally:
        os.chown(victim, before.st_uid, -1)
        victim.chmod(stat.S_IMODE(before.st_mode))
    [again] = site.get(site.users[0], "one")
    assert again["path"] == good["path"]


@pytest.mark.parametrize("how", ["symlink", "hard link", "fifo", "directory", "changed", "owner", "sidecar"])
def test_what_was_changed_in_the_shared_cache_is_not_used(fresh: Site, how: str) -> None:
    """Whoever managed to change an image there: nobody gets it; users make their own, and its owner mends it."""
    site = fresh
    [good] = site.get(site.cache_user, "one", cache_path=str(site.cache))
    path, mallory = Path(good["path"]), site.users[4]
    content = path.read_bytes()
    evil = site.directory / "homes/u5/evil"
    evil.write_bytes(content[:-1] + b"!")
    os.chown(evil, mallory.uid, mallory.uid)
    if how == "hard link":
        (path.parent / "second").hardlink_to(path)
    elif how == "changed":
        path.write_bytes(content[:-1] + b"!")
    elif how == "owner":
        os.chown(path, mallory.uid, mallory.uid)
    elif how == "sidecar":
        os.chown(path.with_suffix(".json"), mallory.uid, mallory.uid)
    else:
        path.unlink()
        {"symlink": lambda p: p.symlink_to(evil), "fifo": os.mkfifo, "directory": Path.mkdir}[how](path)
    [own] = site.get(site.users[0], "one")
    assert Path(own["path"]).parents[3] == site.users[0].home / ".cache/enroot"
    assert Path(own["path"]).read_bytes() == content
    [mended] = site.get(site.cache_user, "one", cache_path=str(site.cache))
    if how == "directory":
        assert mended["error"] == "StorageError"
        return
    assert mended["path"] == str(path)
    assert path.read_bytes() == content
    [again] = site.get(site.users[1], "one")
    assert again["path"] == str(path)
    evil.unlink()


def test_site_credentials_count_as_public(fresh: Site) -> None:
    """What the site's credentials give access to is for all users; what users' own do never is."""
    site = fresh
    file = site.cache_user.home / "netrc"
    file.write_text(f"machine {site.registry.host} login u1 password p1\n")  # with its port: the site's lines are exact
    file.chmod(0o600)
    os.chown(file, site.cache_user.uid, site.cache_user.uid)
    [made] = site.get(site.cache_user, PRIVATE, cache_path=str(site.cache), site_credentials=str(file))
    assert made["public"] is True
    assert Path(made["path"]).parents[3] == site.cache
    assert Path(made["path"]).stat().st_mode & 0o777 == 0o444
    [found] = site.get(site.users[3], PRIVATE)  # the registry would refuse him, but the job has resolved it
    assert found == made


def test_own_credentials_of_the_cache_user_are_not_used(fresh: Site) -> None:
    """Credentials in the home of the cache's user are not the site's: they play no part."""
    site = fresh
    config = site.cache_user.home / ".config/enroot"
    config.mkdir(parents=True, exist_ok=True)
    (config / ".credentials").write_text("machine 127.0.0.1 login u1 password p1\n")
    subprocess.run(["chown", "-R", f"{site.cache_user.uid}:{site.cache_user.uid}", site.cache_user.home], check=True)
    [refused] = site.get(site.cache_user, PRIVATE, cache_path=str(site.cache))
    assert refused["error"] == "AccessDenied"
