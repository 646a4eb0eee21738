"""Whose files of registries count for what: a user's never for hooks, nor for what goes into the site's cache."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from enroot_slurm import Config
from enroot_slurm.importing.tables import tables_of, warn_once
from enroot_slurm.oci.reference import Reference
from enroot_slurm.registry.endpoints import endpoints_of
from enroot_slurm.settings.registries_conf import problems_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.fixture
def load(import_environment, tmp_path, monkeypatch) -> Callable[..., Config]:
    """A function that loads the settings: those given are the site's."""
    monkeypatch.delenv("CONTAINERS_REGISTRIES_CONF", raising=False)

    def run(*, user: str = "", trusted: bool = False, environment: dict[str, str] | None = None, **site: Any) -> Config:
        site_file, user_file = tmp_path / "site.yaml", tmp_path / "user.yaml"
        site_file.write_text("".join(f"{key}: {value}\n" for key, value in site.items()))
        user_file.write_text(user)
        environ = {**import_environment, **(environment or {})}
        return Config.load(environ=environ, site_file=site_file, user_file=user_file, enroot_conf=None, trusted=trusted)

    return run


def asked(config: Config, uri: str = "busybox", *, public: bool = False) -> list[str]:
    tables, _ = tables_of(config, public=public)
    return [each.name for each in endpoints_of(Reference.parse(f"docker://{uri}"), tables)]


@pytest.fixture
def conf(tmp_path: Path) -> Callable[..., Path]:
    """A function that writes a registries.conf."""

    def write(name: str, *mirrors: str, more: str = "") -> Path:
        file = tmp_path / name
        entries = "".join(f'[[registry.mirror]]\nlocation = "{each}"\n' for each in mirrors)
        file.write_text(f'[[registry]]\nlocation = "docker.io"\n{more}\n{entries}')
        return file

    return write


HUB = "docker.io/library/busybox"


def test_the_setting(load) -> None:
    """A mapping in YAML; pairs in a variable, which counts more."""
    config = load(registries_conf="off", mirrors="{docker.io: [harbor.site/dockerhub, m.site], ghcr.io: g.site}")
    assert config.mirrors == ("docker.io=harbor.site/dockerhub", "docker.io=m.site", "ghcr.io=g.site")
    assert asked(config) == ["harbor.site/dockerhub/library/busybox", "m.site/library/busybox", HUB]
    assert asked(config, "ghcr.io/a/b") == ["g.site/a/b", "ghcr.io/a/b"]
    variable = {"ENROOT_SLURM_MIRRORS": "docker.io=x.site/y?ns"}
    config = load(registries_conf="off", mirrors="{docker.io: [m.site]}", environment=variable)
    assert config.mirrors == ("docker.io=x.site/y?ns=docker.io",)
    assert asked(config) == ["x.site/y/library/busybox", HUB]
    assert asked(load(registries_conf="off", mirrors="{}")) == [HUB]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{docker.io: [https://m.site]}", "it has a scheme"),
        ("{docker.io: [m.site?x=1]}", "expected PREFIX=MIRROR"),
        ("{docker.io: {a: b}}", "expected a scalar or a list of scalars"),
        ("{docker.io: [[a]]}", "expected a scalar or a list of scalars"),
        ("{docker.io: }", "mirrors: expected PREFIX: [MIRROR, ...]"),
        ("[m.site]", "expected PREFIX=MIRROR"),
        ('{"*.b": ["*.c"]}', "a '*' can't be here"),
    ],
)
def test_what_is_wrong(load, text, words) -> None:
    with pytest.raises(ValueError, match=r"site\.yaml:1:\d+: ") as caught:
        load(mirrors=text)
    assert words in str(caught.value)


def test_the_users_files_are_the_users(load, conf, monkeypatch) -> None:
    """They count for the user's own imports, and for nothing else."""
    site, own = conf("site.conf", "s.site"), conf("own.conf", "u.site")
    ours, theirs = ["s.site/library/busybox", HUB], ["u.site/library/busybox", HUB]
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(own))
    assert asked(load(registries_conf=site)) == ours  # the site says where to look
    assert asked(load()) == theirs
    config = load(registries_conf=site, user=f"registries_conf: {own}\n")
    assert asked(config) == theirs
    assert asked(config, public=True) == ours
    config = load(registries_conf="off", mirrors="{docker.io: [s.site]}", user="mirrors: {docker.io: [u.site]}\n")
    assert asked(config) == theirs
    assert asked(config, public=True) == ours
    variable = {"ENROOT_SLURM_MIRRORS": "docker.io=u.site"}
    config = load(registries_conf="off", environment=variable)
    assert asked(config) == theirs
    assert asked(config, public=True) == [HUB]


def test_hooks(load, conf, monkeypatch) -> None:
    """Neither the environment nor the user's file counts."""
    monkeypatch.setenv("CONTAINERS_REGISTRIES_CONF", str(conf("own.conf", "u.site")))
    config = load(trusted=True, user="mirrors: {docker.io: [u.site]}\n", mirrors="{docker.io: [s.site]}")
    assert "u.site/library/busybox" not in asked(config)
    assert asked(config)[0] == "s.site/library/busybox"


def test_the_setting_and_the_file(load, conf) -> None:
    """The setting's mirrors take the place of the file's; all else of the table stays."""
    file = conf("site.conf", "s.site", more="insecure = true")
    config = load(registries_conf=file, mirrors="{docker.io: [y.site]}")
    tables, _ = tables_of(config, public=False)
    assert asked(config) == ["y.site/library/busybox", HUB]
    assert tables[0].insecure
    assert asked(load(registries_conf=file, mirrors="{docker.io/library: [y.site]}")) == ["y.site/busybox", HUB]


def test_doubts_are_told_once(load, conf) -> None:
    told: list[str] = []
    for _ in range(2):
        for text in tables_of(load(registries_conf=conf("x.conf", more="odd = 1")), public=False)[1]:
            warn_once(text, told.append)
    assert len(told) == 1


def test_check(conf, tmp_path) -> None:
    """``config --check`` reads a file of that name as what it is."""
    directory = tmp_path / "registries.conf.d"
    directory.mkdir()
    file = conf("registries.conf.d/x.conf", more="odd = 1\nblocked = 1")
    assert [str(problem) for problem in problems_of(file) or []] == [
        f"{file}: [[registry]] 1 (docker.io): 'blocked': expected true or false, got 1"
    ]
    file = conf("registries.conf", more="odd = 1")
    assert [problem.message for problem in problems_of(file) or []] == [
        "[[registry]] 1 (docker.io): the key 'odd' is not known, and is ignored"
    ]
    assert problems_of(tmp_path / "enroot.conf") is None
