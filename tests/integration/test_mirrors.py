"""Mirrors with real registries: pull-through caches, logins, and registries.conf as skopeo reads it."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from support.attached import attach, write_policy
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer
from support.registry import Registry
from support.signing import Repository, Signer
from support.tools import require_tools

from enroot_slurm.oci.digest import Digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGE = Image([Layer().file("f", b"1" * 100_000), Layer().file("g", b"2")], "oci", compression="gzip")
OTHER = Image([Layer().file("f", b"other")], "oci")


class Trio(NamedTuple):
    """An origin with team/app, a pull-through cache of it, an empty registry, and one that wants a login."""

    origin: Registry
    cache: Registry
    empty: Registry
    closed: Registry
    digest: str

    def served(self) -> set[str]:
        """Who has given a manifest."""
        names = ("origin", "cache", "empty", "closed")
        return {name for name in names if getattr(self, name).count("GET", "/manifests/", status=200)}

    def reset(self) -> None:
        for each in (self.origin, self.cache, self.empty, self.closed):
            each.reset()


@pytest.fixture(scope="module")
def trio(tmp_path_factory) -> Iterator[Trio]:
    root = tmp_path_factory.mktemp("mirrors")
    with (
        Registry(root / "origin") as origin,
        Registry(root / "cache", proxy=origin.url) as cache,
        Registry(root / "empty") as empty,
        Registry(root / "closed", users={"ann": "pw"}) as closed,
    ):
        digest = origin.push("team/app", "1", IMAGE).digest
        closed.push("team/app", "1", IMAGE)
        yield Trio(origin, cache, empty, closed, digest)


def mirrored(environment: dict[str, str], registry: Registry | FaultRegistry, *mirrors: str) -> dict[str, str]:
    """The environment with a site's YAML that names *mirrors* of *registry*."""
    site = Path(environment["HOME"]) / "site.yaml"
    site.write_text(json.dumps({"mirrors": {registry.host: list(mirrors)}}))
    return {**environment, "ENROOT_SLURM_SITE_CONFIG": str(site)}


def test_pull_through(trio: Trio, import_environment, tmp_path) -> None:
    """The cache fetches what it lacks; the image has its own name, and it is told who served it."""
    trio.reset()
    environment = mirrored(import_environment, trio.origin, trio.cache.host)
    uri = trio.origin.uri("team/app", "1")
    result = enroot_slurm("get", "--json", uri, environment=environment)
    assert result.returncode == 0, result.stderr
    fields = json.loads(result.stdout)
    assert fields["uri"] == uri
    assert fields["endpoint"] == f"{trio.cache.host}/team/app"
    assert fields["digest"] == trio.digest
    agents = {r.user_agent.partition("/")[0] for r in trio.origin.requests()}
    assert "enroot-slurm" not in agents
    assert trio.cache.count("HEAD", "/blobs/") == 0
    shown = enroot_slurm("cache", "show", uri, environment=environment).stdout
    assert f"endpoint  {trio.cache.host}/team/app\n" in shown
    again = enroot_slurm("get", "--json", uri, environment=environment)
    assert json.loads(again.stdout) == {**fields, "reused": True}
    log = enroot_slurm("import", "-o", tmp_path / "x.sqsh", uri, environment=environment)
    assert log.returncode == 0, log.stderr


def test_a_warm_cache_serves_alone(tmp_path, import_environment) -> None:
    """When the origin is gone, what the cache has still comes: the manifest by its digest, and the blobs."""
    with Registry(tmp_path / "origin") as origin, Registry(tmp_path / "cache", proxy=origin.url) as cache:
        digest = origin.push("team/app", "1", IMAGE).digest
        uri = origin.uri("team/app", "1", digest=digest)
        environment = mirrored(import_environment, origin, cache.host)
        command = ("import", "--no-layer-cache", "-f", "-o", tmp_path / "x.sqsh", uri)
        assert enroot_slurm(*command, environment=environment).returncode == 0
        origin.stop()
        environment["ENROOT_CACHE_PATH"] = str(tmp_path / "new")
        result = enroot_slurm(*command, environment={**environment, "ENROOT_TRANSFER_RETRIES": "0"})
        assert result.returncode == 0, result.stderr


def test_a_mirror_with_a_login(trio: Trio, import_environment) -> None:
    """Its login is found by its own name; without one, the next endpoint serves."""
    trio.reset()
    environment = mirrored(import_environment, trio.origin, trio.closed.host)
    command = ("get", "--json", trio.origin.uri("team/app", "1"))
    fields = json.loads(enroot_slurm(*command, environment=environment).stdout)
    assert (fields["endpoint"], fields["public"]) == ("", True)
    credentials = Path(environment["ENROOT_CONFIG_PATH"]) / ".credentials"
    credentials.parent.mkdir(parents=True, exist_ok=True)
    credentials.write_text(f"machine {trio.closed.host} login ann password pw\n")
    credentials.chmod(0o600)
    environment["ENROOT_CACHE_PATH"] += "2"
    fields = json.loads(enroot_slurm(*command, environment=environment).stdout)
    assert (fields["endpoint"], fields["public"]) == (f"{trio.closed.host}/team/app", False)
    shown = enroot_slurm("config", "--endpoints", command[2], environment=environment).stdout
    assert f"1. {trio.closed.host}/team/app: mirror, http, login of {credentials}:1\n" in shown
    assert f"2. {trio.origin.host}/team/app: primary, http, no login\n" in shown


def table(location: str, *mirrors: str, more: str = "") -> str:
    entries = "".join(f"[[registry.mirror]]\n{each}\ninsecure = true\n" for each in mirrors)
    return f'[[registry]]\nlocation = "{location}"\ninsecure = true\n{more}\n{entries}'


VECTORS: dict[str, tuple[str, str]] = {
    "mirror": (table("@origin", 'location = "@cache"'), "@origin/team/app:1"),
    "mirror without the image": (table("@origin", 'location = "@empty"'), "@origin/team/app:1"),
    "mirror that is down": (table("@origin", 'location = "127.0.0.1:1"'), "@origin/team/app:1"),
    "mirror with a login": (table("@origin", 'location = "@closed"'), "@origin/team/app:1"),
    "mirrors in order": (
        table("@origin", 'location = "@empty"', 'location = "@cache"', 'location = "@closed"'),
        "@origin/team/app:1",
    ),
    "digest-only, tag": (
        table("@origin", 'location = "@cache"\npull-from-mirror = "digest-only"'),
        "@origin/team/app:1",
    ),
    "digest-only, digest": (
        table("@origin", 'location = "@cache"\npull-from-mirror = "digest-only"'),
        "@origin/team/app@@digest",
    ),
    "tag-only, tag": (table("@origin", 'location = "@cache"\npull-from-mirror = "tag-only"'), "@origin/team/app:1"),
    "tag-only, digest": (
        table("@origin", 'location = "@cache"\npull-from-mirror = "tag-only"'),
        "@origin/team/app@@digest",
    ),
    "by digest only, tag": (
        table("@origin", 'location = "@cache"', more="mirror-by-digest-only = true"),
        "@origin/team/app:1",
    ),
    "by digest only, digest": (
        table("@origin", 'location = "@cache"', more="mirror-by-digest-only = true"),
        "@origin/team/app@@digest",
    ),
    "both kinds of digest-only": (
        table(
            "@origin",
            'location = "@cache"\npull-from-mirror = "digest-only"',
            more="mirror-by-digest-only = true",
        ),
        "@origin/team/app:1",
    ),
    "blocked": (table("@origin", more="blocked = true"), "@origin/team/app:1"),
    "blocked, but not this part": (
        table("@origin", more="blocked = true") + table("@origin/team"),
        "@origin/team/app:1",
    ),
    "prefix": (
        '[[registry]]\nprefix = "made.up/hub"\nlocation = "@origin/team"\ninsecure = true\n',
        "made.up/hub/app:1",
    ),
    "prefix of a domain": (
        '[[registry]]\nprefix = "*.made.up"\nlocation = "@origin"\ninsecure = true\n',
        "some.made.up/team/app:1",
    ),
    "Docker Hub by its short name": (
        '[[registry]]\nprefix = "docker.io/library"\nlocation = "@origin/team"\ninsecure = true\n',
        "app:1",
    ),
    "two tables for one prefix": (
        """[[registry]]
        prefix = "made.up"
        location = "@origin"
        insecure = true
        [[registry]]
        prefix = "made.up"
        location = "127.0.0.1:1"
        """,
        "made.up/team/app:1",
    ),
    "no such tag": (table("@origin", 'location = "@cache"'), "@origin/team/app:none"),
    "a scheme": (table("http://@origin"), "@origin/team/app:1"),
    "an array for a text": ('[[registry]]\nlocation = ["@origin"]\n', "@origin/team/app:1"),
    "unknown keys": (table("@origin", 'location = "@cache"', more="unknown = 1"), "@origin/team/app:1"),
}


BY_DIGEST = {"digest-only, tag", "by digest only, tag"}
"""Where we ask the primary what the tag means, and the mirror for what has that digest; skopeo does not ask it."""


@pytest.mark.parametrize("name", VECTORS)
def test_as_skopeo_reads_it(name: str, trio: Trio, import_environment, tmp_path) -> None:
    """The same file and image: the same outcome, and the same registry has given the manifest."""
    require_tools("skopeo")
    conf, image = (filled(text, trio) for text in VECTORS[name])
    file = tmp_path / "registries.conf"
    file.write_text(conf)
    environment = {k: v for k, v in import_environment.items() if k != "ENROOT_ALLOW_HTTP"}
    environment["CONTAINERS_REGISTRIES_CONF"] = str(file)
    environment["ENROOT_TRANSFER_RETRIES"] = "0"
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    trio.reset()
    # Old versions do not read the variable themselves.
    options = ["--registries-conf", file, "--policy", tmp_path / "policy.json", "copy", "-q"]
    command = ["skopeo", *options, f"docker://{image}", f"dir:{tmp_path}/copy"]
    skopeo = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    theirs = trio.served()
    trio.reset()
    ours = enroot_slurm("get", f"docker://{image}", environment=environment)
    assert (ours.returncode == 0) is (skopeo.returncode == 0), f"{skopeo.stderr}\n{ours.stderr}"
    if name in BY_DIGEST:
        assert (theirs, trio.served()) == ({"origin"}, {"cache"})
        assert trio.cache.count("GET", "/manifests/1") == trio.cache.count("HEAD", "/manifests/1") == 0
        return
    # A cache gives its origin's answers: who asked the origin is not told apart.
    assert ("cache" in trio.served()) is ("cache" in theirs), f"{skopeo.stderr}\n{ours.stderr}"
    if "cache" not in theirs:
        assert trio.served() == theirs, ours.stderr


def test_drop_ins_as_skopeo_reads_them(trio: Trio, import_environment, tmp_path) -> None:
    """Of the user's directory: sorted by name, and the last table of a prefix counts as a whole."""
    require_tools("skopeo")
    directory = Path(import_environment["HOME"]) / ".config/containers/registries.conf.d"
    directory.mkdir(parents=True)
    (directory / "10-a.conf").write_text(filled(table("@origin", 'location = "@closed"'), trio))
    (directory / "20-b.conf").write_text(filled(table("@origin", 'location = "@cache"'), trio))
    (directory / "30-c.txt").write_text("not read")
    environment = {k: v for k, v in import_environment.items() if k != "ENROOT_ALLOW_HTTP"}
    trio.reset()
    (tmp_path / "policy.json").write_text('{"default": [{"type": "insecureAcceptAnything"}]}')
    uri = f"docker://{trio.origin.host}/team/app:1"
    command = ["skopeo", "--policy", tmp_path / "policy.json", "copy", "-q", uri, f"dir:{tmp_path}/copy"]
    subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "cache" in trio.served()
    assert trio.closed.requests() == []
    trio.reset()
    assert enroot_slurm("get", uri, environment=environment).returncode == 0
    assert "cache" in trio.served()
    assert trio.closed.requests() == []


def filled(text: str, trio: Trio) -> str:
    for name in ("origin", "cache", "empty", "closed"):
        text = text.replace(f"@{name}", getattr(trio, name).host)
    return text.replace("@digest", trio.digest)


# What a real registry can't be made to do.


@pytest.fixture
def faulty() -> Iterator[Callable[..., FaultRegistry]]:
    running: list[FaultRegistry] = []

    def start(**options: Any) -> FaultRegistry:
        running.append(FaultRegistry(**options).__enter__())
        return running[-1]

    yield start
    for each in running:
        each.__exit__(None, None, None)


def test_a_mirror_with_wrong_bytes(faulty, import_environment, tmp_path) -> None:
    """A blob that is not what its digest says costs a warning: the image is made again without the mirror."""
    primary, mirror = faulty(), faulty()
    uri = serve(primary, IMAGE)
    serve(mirror, IMAGE)
    mirror.fault("/blobs/", flip=50)
    environment = mirrored(import_environment, primary, mirror.host)
    for words in (("get", uri), ("import", "--no-layer-cache", "-o", tmp_path / "x.sqsh", uri)):
        result = enroot_slurm(*words, environment=environment)
        assert result.returncode == 0, result.stderr
        environment["ENROOT_CACHE_PATH"] += "2"
    assert "it is made again without the mirrors" in result.stderr
    assert mirror.count("/blobs/") > 0


def test_a_mirror_that_is_down_is_asked_last(faulty, import_environment) -> None:
    """All processes of the node spare it for a minute; one that has nobody else asks it."""
    primary, mirror = faulty(), faulty()
    uri = serve(primary, IMAGE)
    mirror.fault("", status=503, body=b"")
    mirror.fault("", method="HEAD", status=503, body=b"")
    environment = mirrored(import_environment, primary, mirror.host)
    told = enroot_slurm("digest", "-v", uri, environment=environment)
    assert f"the mirror {mirror.host}/app is passed over: " in told.stderr
    for _ in range(2):
        assert enroot_slurm("digest", uri, environment=environment).returncode == 0
    assert len(mirror.requests) == 1
    mirror.heal()
    serve(mirror, IMAGE)
    primary.fault("", status=404, body=b"")
    primary.fault("", method="HEAD", status=404, body=b"")
    result = enroot_slurm("get", "--json", uri, environment=environment)
    assert json.loads(result.stdout)["endpoint"] == f"{mirror.host}/app", result.stderr
    shown = enroot_slurm("config", "--endpoints", uri, environment=environment).stdout
    assert "it is asked last" in shown


def test_the_errors_of_all_are_told(faulty, import_environment) -> None:
    primary, mirror = faulty(), faulty()
    primary.add_image("team/app", "1")
    uri = f"docker://{primary.host}#team/app:2"
    result = enroot_slurm("get", uri, environment=mirrored(import_environment, primary, f"{mirror.host}/hub"))
    assert result.returncode == 3
    assert "has no tag 2" in result.stderr
    assert f"\n  mirror {mirror.host}/hub/team/app: status 404: " in result.stderr


@pytest.mark.parametrize("where", ["primary", "mirror", "both", "old"])
def test_signatures(where: str, faulty, import_environment, tmp_path) -> None:
    """A mirror without signatures, or with old ones, makes no signed image fail; one with them is enough."""
    primary, mirror = faulty(), faulty()
    uri, digest, signer = serve(primary, IMAGE), Digest.of(IMAGE.manifest()), Signer()
    serve(mirror, IMAGE)
    policy = write_policy(tmp_path / "policy.json", f"{primary.host}/app", signer)
    environment = {**mirrored(import_environment, primary, mirror.host), "ENROOT_SLURM_SIGNATURE_POLICY": str(policy)}
    result = enroot_slurm("get", uri, environment=environment)
    assert result.returncode == 4
    assert "is not signed" in result.stderr
    environment["ENROOT_CACHE_PATH"] += "2"
    for name, registry in (("primary", primary), ("mirror", mirror)):
        if where in {name, "both", "old"}:
            signatures = Repository()
            by = Signer() if where == "old" and name == "mirror" else signer
            signatures.sign(digest, f"{primary.host}/app", by)
            attach(signatures, registry, "app")
    primary.requests.clear()
    result = enroot_slurm("get", uri, environment=environment)
    assert result.returncode == 0, result.stderr
    assert (primary.count(r"\.sig$") == 0) is (where in {"mirror", "both"})


def test_a_mirror_can_not_forge(faulty, import_environment, tmp_path) -> None:
    """What a mirror gives for a tag is judged as any image: another one, signed by nobody, is refused."""
    primary, mirror, signer = faulty(), faulty(), Signer()
    uri = serve(primary, IMAGE)
    serve(mirror, OTHER)
    signatures = Repository()
    signatures.sign(Digest.of(IMAGE.manifest()), f"{primary.host}/app", signer)
    attach(signatures, primary, "app")
    policy = write_policy(tmp_path / "policy.json", f"{primary.host}/app", signer)
    environment = {**mirrored(import_environment, primary, mirror.host), "ENROOT_SLURM_SIGNATURE_POLICY": str(policy)}
    result = enroot_slurm("get", uri, environment=environment)
    assert result.returncode == 4
    assert "is not signed" in result.stderr
