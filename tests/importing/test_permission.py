"""Lists of images that may be used, or may not: at every door, and a user's can only narrow the site's."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from support.command import enroot_slurm, serve
from support.fault_registry import FaultRegistry
from support.images import Image, Layer

from enroot_slurm import Config, ImageRefused, find_image, get_image, import_image, resolve_digest
from enroot_slurm.errors import ConfigError
from enroot_slurm.importing.permission import permit
from enroot_slurm.oci.reference import Reference

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

IMAGE = Image([Layer().file("f", b"1")], "oci")


@pytest.fixture
def registry() -> Iterator[FaultRegistry]:
    with FaultRegistry() as running:
        yield running


@pytest.fixture
def load(import_environment, tmp_path, monkeypatch) -> Callable[..., Config]:
    """A function that loads the settings: those given are the site's, *user* the user's."""
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF", raising=False)

    def run(*, user: str = "", **site: Any) -> Config:
        site_file, user_file = tmp_path / "site.yaml", tmp_path / "user.yaml"
        site_file.write_text("".join(f"{key}: {value}\n" for key, value in site.items()))
        user_file.write_text(user)
        return Config.load(environ=import_environment, site_file=site_file, user_file=user_file, enroot_conf=None)

    return run


def refusal(config: Config, uri: str) -> str:
    """Why *uri* may not be used; empty: it may."""
    try:
        permit(Reference.parse(f"docker://{uri}"), config)
    except ImageRefused as error:
        return f"{error} {error.hint}"
    return ""


def test_lists(load, tmp_path) -> None:
    """What blocks wins; the message names list and file."""
    config = load(allowed_images="[docker.io/library, nvcr.io/nvidia]", blocked_images="[docker.io/library/bad]")
    assert not refusal(config, "ubuntu")
    assert not refusal(config, "nvcr.io/nvidia/cuda:1")
    assert refusal(config, "evil/x") == (
        f"docker.io/evil/x:latest may not be used: it is not among allowed_images ({tmp_path}/site.yaml:1) "
        "Allowed are docker.io/library, nvcr.io/nvidia."
    )
    assert f"blocked_images has docker.io/library/bad ({tmp_path}/site.yaml:2)" in refusal(config, "bad:1")


def test_a_user_can_only_narrow(load) -> None:
    """Each source's allowed list has to have the image, and each blocked list counts."""
    site = {"allowed_images": "[docker.io]", "blocked_images": "[docker.io/a]"}
    config = load(user="allowed_images: [docker.io/library, quay.io]\nblocked_images: [docker.io/library/b]\n", **site)
    assert not refusal(config, "ubuntu")
    assert "site.yaml" in refusal(config, "quay.io/x/y")
    assert "user.yaml" in refusal(config, "other/x")
    assert "site.yaml" in refusal(config, "a/x")
    assert "user.yaml" in refusal(config, "b")
    assert not refusal(load(user="allowed_images: []\nblocked_images: []"), "a/x")
    assert refusal(load(user="blocked_images: []", **site), "a/x")


def test_blocked_in_registries_conf(load, tmp_path) -> None:
    """The longest prefix decides; a file without such a line is not even parsed."""
    conf = tmp_path / "registries.conf"
    text = '[[registry]]\nlocation = "a.b"\nblocked = true\n[[registry]]\nlocation = "a.b/free"\n'
    conf.write_text(text)
    config = load(registries_conf=conf)
    assert refusal(config, "a.b/x") == (
        f"a.b/x:latest may not be used: {conf} blocks a.b Use another image, or ask the site's administrator."
    )
    assert not refusal(config, "a.b/free/x")
    assert not refusal(config, "c.d/x")
    conf.write_text("[[registry]\n")
    assert not refusal(config, "a.b/x")
    conf.write_text("[[registry]\nblocked = true")
    with pytest.raises(ConfigError, match="not valid TOML"):
        refusal(config, "a.b/x")


def test_a_users_file_does_not_unblock(load, tmp_path, monkeypatch) -> None:
    """The site's view counts, whatever the user's says; and the user's can block more."""
    site, user = tmp_path / "site.conf", tmp_path / "own.conf"
    site.write_text('[[registry]]\nlocation = "a.b"\nblocked = true\n')
    user.write_text('[[registry]]\nlocation = "c.d"\nblocked = true\n')
    config = load(registries_conf=site, user=f"registries_conf: {user}\n")
    assert str(site) in refusal(config, "a.b/x")
    assert str(user) in refusal(config, "c.d/x")
    assert str(site) in refusal(load(registries_conf=site, user="registries_conf: off\n"), "a.b/x")
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(user))
    assert str(user) in refusal(load(), "c.d/x")


def test_doors(load, registry, tmp_path, import_environment) -> None:
    """Nobody is asked, and what is in the cache is not handed out."""
    uri = serve(registry, IMAGE)
    get_image(uri, config=load())
    registry.requests.clear()
    config = load(blocked_images=f"[{registry.host}]")
    for door in (find_image, get_image, resolve_digest):
        with pytest.raises(ImageRefused, match="blocked_images"):
            door(uri, config=config)
    with pytest.raises(ImageRefused, match="blocked_images"):
        import_image(uri, output=tmp_path / "x.sqsh", config=config)
    assert registry.requests == []
    environment = {**import_environment, "ENROOT_SLURM_ALLOWED_IMAGES": "docker.io"}
    result = enroot_slurm("get", uri, environment=environment)
    assert (result.returncode, result.stdout) == (4, "")
    assert "it is not among allowed_images (environment ENROOT_SLURM_ALLOWED_IMAGES)" in result.stderr


def test_submit(import_environment, tmp_path) -> None:
    """What our plug-in runs when a job is submitted."""
    site = tmp_path / "site.yaml"
    site.write_text("blocked_images: [docker.io/evil]\n")
    environment = {**import_environment, "ENROOT_SLURM_SITE_CONFIG": str(site)}
    check = [sys.executable, "-m", "enroot_slurm.slurm.step", "--check"]
    for text, status in (("evil/x:1", 4), ("good/x:1", 0), ("image=good/x name=a image=evil/x", 4)):
        result = subprocess.run([*check, text], env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == status, result.stderr
        assert ("blocked_images has docker.io/evil" in result.stderr) is (status == 4)


def test_a_hit_loads_no_parser(load, registry, import_environment, tmp_path) -> None:
    """Where nothing blocks, the lists cost no TOML, and no HTTP client."""
    uri = serve(registry, IMAGE)
    conf = tmp_path / "registries.conf"
    conf.write_text('# blocked = true\n[[registry]]\nlocation = "a.b"\n')
    environment = {
        **import_environment,
        "ENROOT_SLURM_REGISTRIES_CONF": str(conf),
        "ENROOT_SLURM_ALLOWED_IMAGES": registry.host,
    }
    digest = enroot_slurm("digest", uri, environment=environment).stdout.strip()
    assert enroot_slurm("get", f"{uri}@{digest}", environment=environment).returncode == 0
    code = (
        "import sys; from enroot_slurm import find_image\n"
        f"assert find_image({uri!r} + '@' + {digest!r})\n"
        "print(*{'tomllib', 'requests', 'yaml', 'filelock', 'ssl'} & set(sys.modules))"
    )
    result = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert result.stdout == "\n"
