"""Imports from Debian's docker-registry: every kind of image, login and transport."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.corner_cases import noise
from support.images import Image, Index, Layer, busybox_layout, skopeo_copy
from support.registry import Registry, TokenAuth

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Imported

    Import = Callable[..., Imported]

PLATFORMS = [("amd64", ""), ("arm64", "v8"), ("arm", "v7")]


def layers() -> list[Layer]:
    """Two layers; the upper changes a file of the lower."""
    return [Layer().dir("a/").file("a/f", b"lower").file("a/g", b"g"), Layer().dir("a/").file("a/f", b"upper!")]


def assert_content(imported: Imported) -> None:
    assert (imported.tree[b"a/f"].size, imported.tree[b"a/g"].size) == (6, 1)
    assert b"etc/rc" in imported.tree


def write_credentials(environment: dict[str, str], text: str) -> None:
    path = Path(environment["ENROOT_CONFIG_PATH"], ".credentials")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o600)


@pytest.mark.parametrize("family", ["docker", "oci"])
@pytest.mark.parametrize("compression", ["gzip", "zstd", "none", ["gzip", "zstd"], ["none", "gzip"]], ids=str)
def test_formats(family, compression, registry: Registry, repository: str, import_to_tree: Import) -> None:
    """Both formats, every packing, one for all layers or mixed; each blob is fetched once, and the digest is told."""
    pushed = registry.push(repository, "t", Image(layers(), family, compression))
    imported = import_to_tree(registry.uri(repository, "t"))
    assert_content(imported)
    assert str(imported.result.digest) == pushed.digest
    assert (imported.result.layers_fetched, imported.result.layers_reused) == (2, 0)
    gets = [
        r.path.rpartition("/")[2]
        for r in registry.requests()
        if r.method == "GET" and f"/{repository}/blobs/" in r.path
    ]
    assert sorted(gets) == sorted([pushed.config, *pushed.layers])


@pytest.mark.parametrize("form", ["oci", "v2s2", "zstd"])
def test_images_that_skopeo_copied(form, registry: Registry, repository: str, import_to_tree: Import, tmp_path) -> None:
    """A busybox image of umoci, in the formats that skopeo makes of it."""
    (tmp_path / "tool").mkdir()
    layout = busybox_layout(tmp_path / "tool")
    options = ["--dest-compress-format", "zstd"] if form == "zstd" else ["--format", form]
    skopeo_copy(f"oci:{layout}:latest", f"docker://{registry.host}/{repository}:t", *options)
    tree = import_to_tree(registry.uri(repository, "t")).tree
    assert tree[b"usr/bin/busybox"].link == tree[b"usr/bin/env"].link == b"usr/bin/busybox"
    assert tree[b"usr/bin/busybox"].size == Path("/bin/busybox").stat().st_size
    assert b"usr/bin/true" not in tree
    assert tree[b"usr/bin/sh"].target == b"busybox"


@pytest.mark.parametrize("family", ["docker", "oci"])
@pytest.mark.parametrize(("architecture", "variant"), PLATFORMS)
def test_platforms(family, architecture, variant, registry: Registry, repository: str, import_to_tree: Import) -> None:
    """From an index of three platforms (and an attestation) the one asked for is imported; no blob of another."""
    images = [Image([Layer().file("platform", a.encode())], family, architecture=a, variant=v) for a, v in PLATFORMS]
    pushed = registry.push(repository, "t", Index(images, family, attestations=family == "oci"))
    wanted = pushed.images[PLATFORMS.index((architecture, variant))]
    name = f"{architecture}/{variant}" if variant else architecture
    imported = import_to_tree(registry.uri(repository, "t"), arch=name)
    assert imported.tree[b"platform"].size == len(architecture)
    assert str(imported.result.digest) == wanted.digest
    others = {d for i in pushed.images if i is not wanted for d in (i.config, *i.layers)}
    assert [registry.count("GET", f"/{repository}/blobs/{digest}") for digest in others] == [0] * len(others)


def test_platform_that_is_missing(registry: Registry, repository: str, import_to_tree: Import) -> None:
    """An index without the platform is PlatformNotFound, and the message names what there is."""
    from enroot_slurm.errors import PlatformNotFound

    registry.push(repository, "t", Index([Image(layers()), Image(layers()).on("arm64")]))
    with pytest.raises(PlatformNotFound) as caught:
        import_to_tree(registry.uri(repository, "t"), arch="s390x")
    text = f"{caught.value.message} {caught.value.hint}"
    assert "amd64" in text
    assert "arm64" in text


@pytest.mark.parametrize(("architecture", "system"), [("arm64", "linux"), ("unknown", "unknown"), ("amd64", "windows")])
def test_a_config_that_contradicts(
    architecture, system, registry: Registry, repository: str, import_to_tree: Import
) -> None:
    """An image that says it is for another platform is imported when this one is asked for by its name."""
    from enroot_slurm.errors import PlatformNotFound
    from enroot_slurm.oci.platform import Platform

    registry.push(repository, "t", Image(layers(), architecture=architecture, os=system))
    with pytest.raises(PlatformNotFound, match=f"for {system}/{architecture}, not for") as caught:
        import_to_tree(registry.uri(repository, "t"))
    name = Platform.host().architecture
    # What says that it is Windows' mostly is: nobody is told to try.
    assert (f"--arch {name}" in caught.value.hint) == (system != "windows")
    assert_content(import_to_tree(registry.uri(repository, "t"), arch=name))


def test_digest_in_the_reference(registry: Registry, repository: str, import_to_tree: Import) -> None:
    """With a digest, the tag may have moved on."""
    old = registry.push(repository, "t", Image(layers()))
    registry.push(repository, "t", Image([Layer().file("new")]))
    imported = import_to_tree(registry.uri(repository, "t", digest=old.digest))
    assert_content(imported)
    assert str(imported.result.digest) == old.digest


def test_unknown_images(registry: Registry, repository: str, import_to_tree: Import) -> None:
    """A tag and a repository that don't exist are NotFound."""
    from enroot_slurm.errors import NotFound

    registry.push(repository, "t", Image(layers()))
    for name, tag in ((repository, "typo"), (f"{repository}/typo", "t")):
        with pytest.raises(NotFound):
            import_to_tree(registry.uri(name, tag))


def test_wrong_diff_id(registry: Registry, repository: str, import_to_tree: Import, tmp_path) -> None:
    """A layer that is not what the config promises is an IntegrityError, and no image is left."""
    from enroot_slurm.errors import IntegrityError

    registry.push(repository, "t", Image(layers(), diff_ids=[f"sha256:{'0' * 64}"] * 2))
    with pytest.raises(IntegrityError):
        import_to_tree(registry.uri(repository, "t"), output=tmp_path / "out.sqsh")
    assert not list(tmp_path.glob("*.sqsh*"))


# Logins and certificates.


def test_password(
    registry: Registry,
    repository: str,
    make_registry: Callable[..., Registry],
    import_environment: dict[str, str],
    import_to_tree: Import,
) -> None:
    """With htpasswd, the right password opens, a wrong one and none do not."""
    from enroot_slurm.errors import AccessDenied

    registry.push(repository, "t", Image(layers()))
    closed = make_registry(storage=registry.storage, users={"ann": "se cret"})
    uri = closed.uri(repository, "t", user="ann")
    write_credentials(import_environment, 'machine 127.0.0.1 login ann password "se cret"\n')
    assert_content(import_to_tree(uri))
    write_credentials(import_environment, "machine 127.0.0.1 login ann password wrong\n")
    with pytest.raises(AccessDenied):
        import_to_tree(uri)
    write_credentials(import_environment, "")
    with pytest.raises(AccessDenied):
        import_to_tree(closed.uri(repository, "t"))


@pytest.mark.parametrize("user", ["ann", "", "bob"])
def test_token(
    user,
    registry: Registry,
    repository: str,
    make_registry: Callable[..., Registry],
    import_environment: dict[str, str],
    import_to_tree: Import,
    tmp_path,
) -> None:
    """With a token service: a login with the right to the repository gets in, nobody and somebody else do not."""
    from support.token_server import TokenServer

    from enroot_slurm.errors import AccessDenied

    registry.push(repository, "t", Image(layers()))
    with TokenServer(tmp_path / "tokens", users={"ann": "secret", "bob": "b"}, rights={"ann": ["test/*"]}) as service:
        description = TokenAuth(service.realm, service.service, service.issuer, service.bundle)
        closed = make_registry(storage=registry.storage, token=description)
        write_credentials(
            import_environment,
            "machine 127.0.0.1 login ann password secret\nmachine 127.0.0.1 login bob password b\n" if user else "",
        )
        uri = closed.uri(repository, "t", user=user)
        if user == "ann":
            assert_content(import_to_tree(uri))
            assert {r.user for r in service.requests} == {"ann"}
            assert any(f"repository:{repository}:pull" in s for r in service.requests for s in r.query["scope"])
        else:
            with pytest.raises(AccessDenied):
                import_to_tree(uri)
            assert closed.count("GET", "/blobs/", status=200) == 0


def test_token_without_login(
    registry: Registry, repository: str, make_registry: Callable[..., Registry], import_to_tree: Import, tmp_path
) -> None:
    """A public repository behind a token service needs no login, as on Docker Hub."""
    from support.token_server import TokenServer

    registry.push(repository, "t", Image(layers()))
    with TokenServer(tmp_path / "tokens", users={}, rights={"": ["test/*"]}) as service:
        description = TokenAuth(service.realm, service.service, service.issuer, service.bundle)
        public = make_registry(storage=registry.storage, token=description)
        assert_content(import_to_tree(public.uri(repository, "t")))


def test_private_certificate(
    registry: Registry, repository: str, make_registry: Callable[..., Registry], import_to_tree: Import
) -> None:
    """A registry whose certificate is of a CA of its own: trusted with ca_file, refused without."""
    from enroot_slurm.errors import NetworkError

    registry.push(repository, "t", Image(layers()))
    secure = make_registry(storage=registry.storage, tls=True)
    uri = secure.uri(repository, "t")
    https: dict[str, str | None] = {"ENROOT_ALLOW_HTTP": None}
    assert_content(import_to_tree(uri, site=f"ca_file: {secure.ca_file}\n", environment=https))
    with pytest.raises(NetworkError):
        import_to_tree(uri, environment=https)


def test_plain_http_is_refused(registry: Registry, repository: str, import_to_tree: Import) -> None:
    """Without ENROOT_ALLOW_HTTP, a registry without TLS is a NetworkError, and gets no request."""
    from enroot_slurm.errors import NetworkError

    registry.push(repository, "t", Image(layers()))
    with pytest.raises(NetworkError):
        import_to_tree(registry.uri(repository, "t"), environment={"ENROOT_ALLOW_HTTP": None})
    assert not [r for r in registry.requests() if f"/{repository}/" in r.path]


# Cache and output.


def test_same_digest_twice(registry: Registry, repository: str, import_to_tree: Import) -> None:
    """A layer that the image has twice is fetched once, and counted once."""
    layer = Layer().dir("a/").file("a/f", b"123456").file("a/g", b"g")
    pushed = registry.push(repository, "t", Image([layer, Layer().whiteout("a"), layer]))
    imported = import_to_tree(registry.uri(repository, "t"))
    assert_content(imported)
    assert registry.count("GET", f"/{repository}/blobs/{pushed.layers[0]}") == 1
    assert (imported.result.layers_fetched, imported.result.layers_reused) == (2, 0)


def test_second_import(registry: Registry, repository: str, import_to_tree: Import) -> None:
    """Layers that another image brought are not fetched again."""
    base = layers()
    first = registry.push(repository, "base", Image(base))
    import_to_tree(registry.uri(repository, "base"))
    registry.push(repository, "app", Image([*base, Layer().file("app")]))
    imported = import_to_tree(registry.uri(repository, "app"))
    assert b"app" in imported.tree
    assert (imported.result.layers_fetched, imported.result.layers_reused) == (1, 2)
    assert [registry.count("GET", f"/{repository}/blobs/{d}") for d in first.layers] == [1, 1]


def test_default_output(
    registry: Registry, repository: str, import_to_tree: Import, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an output, the file has enroot's name and is in the current directory; it is never overwritten."""
    from enroot_slurm.errors import OutputExists

    registry.push(repository, "v1.0", Image(layers()))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    uri = registry.uri(repository, "v1.0")
    imported = import_to_tree(uri, output=None)
    assert [p.name for p in work.iterdir()] == [f"{repository.replace('/', '+')}+v1.0.sqsh"]
    assert imported.result.path.resolve() == next(work.iterdir())
    with pytest.raises(OutputExists):
        import_to_tree(uri, output=None)
    before = next(work.iterdir()).stat().st_ino
    import_to_tree(uri, output=None, force=True)
    assert next(work.iterdir()).stat().st_ino != before


CHILD = """
import sys
from enroot_slurm import Config, import_image

def main():
    uri, output, home, cache = sys.argv[1:]
    environ = {"HOME": home, "ENROOT_CACHE_PATH": cache, "ENROOT_ALLOW_HTTP": "yes"}
    config = Config.load(environ=environ, site_file=None, user_file=None, enroot_conf=None)
    print("ready", flush=True)
    sys.stdin.readline()
    result = import_image(uri, output=output, config=config)
    print(result.digest, result.layers_fetched, result.layers_reused)

main()
"""


def test_two_processes(registry: Registry, repository: str, tmp_path) -> None:
    """Two processes that import one image into one cache at once share the work: each layer is fetched once."""
    content = [Layer().file(f"f{n}", noise(2_000_000, n)).file(f"z{n}", bytes(1_000_000)) for n in range(6)]
    pushed = registry.push(repository, "t", Image(content))
    uri = registry.uri(repository, "t")
    outputs = [tmp_path / f"out{n}.sqsh" for n in range(2)]
    children = [
        subprocess.Popen(
            [sys.executable, "-c", CHILD, uri, str(output), str(tmp_path), str(tmp_path / "cache")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
        )
        for output in outputs
    ]
    try:
        for child in children:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        for child in children:
            assert child.stdin is not None
            child.stdin.write("go\n")
            child.stdin.flush()
        answers = [child.communicate(timeout=120) for child in children]
    finally:
        for child in children:
            if child.poll() is None:
                child.kill()
                child.communicate()
    assert [c.returncode for c in children] == [0, 0], answers
    counts = [tuple(map(int, out.split()[1:])) for out, _ in answers]
    assert {out.split()[0] for out, _ in answers} == {pushed.digest}
    assert [registry.count("GET", f"/{repository}/blobs/{digest}") for digest in pushed.layers] == [1] * 6
    assert sum(fetched for fetched, _ in counts) == 6
    assert all(fetched + reused == 6 for fetched, reused in counts)
    assert outputs[0].stat().st_size == outputs[1].stat().st_size
