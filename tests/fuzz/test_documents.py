"""Documents, settings, logins and references of any form: they are read, or refused by an error of ours.

``ENROOT_SLURM_FUZZ_SECONDS=3600 python -m pytest tests/fuzz/test_documents.py`` goes on for that long.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from enroot_slurm.errors import ConfigError, EnrootSlurmError
from enroot_slurm.importing.access import parse_registry
from enroot_slurm.importing.login_lines import line_of, put_line, take_lines
from enroot_slurm.oci import manifest as m
from enroot_slurm.oci.image_config import ImageConfig
from enroot_slurm.oci.platform import Platform
from enroot_slurm.oci.reference import Reference
from enroot_slurm.oci.selection import select
from enroot_slurm.registry import netrc
from enroot_slurm.registry.auth_file import AuthFile
from enroot_slurm.registry.credentials import Credentials, read_logins
from enroot_slurm.registry.netrc_file import NetrcFile
from enroot_slurm.registry.secret import Secret
from enroot_slurm.rootfs.entrypoint import RcLayer
from enroot_slurm.settings import enroot_conf, yaml_file
from enroot_slurm.settings.expansion import Variables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

SECONDS = float(os.environ.get("ENROOT_SLURM_FUZZ_SECONDS", "0"))
pytestmark = pytest.mark.timeout(300 + 2 * SECONDS)
CHECKS = 8
EXAMPLES = 100
ROUND = 1000
SECRET = "hunter2"
D = "sha256:" + "0" * 64


def fuzz(strategy: st.SearchStrategy[Any], check: Callable[[Any], None]) -> None:
    """Let *check* have some hundred values, or as many as fit into its share of the seconds that were asked for."""
    inputs = 0
    start = time.monotonic()
    for number in itertools.count():

        @seed(number)
        @settings(
            max_examples=ROUND if SECONDS else EXAMPLES,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(strategy)
        def run(value: Any) -> None:
            nonlocal inputs
            inputs += 1
            check(value)

        run()
        if time.monotonic() - start >= SECONDS / CHECKS:
            break
    print(f"{check.__name__}: {inputs} inputs")


def check_text(text: str, *, secret: bool = False) -> None:
    """What people are told can be printed; and with *secret*, holds none."""
    assert all(c.isprintable() or c == "\n" for c in text)
    assert not secret or SECRET not in text


# Texts that are nearly right: a good one, with pieces taken out, doubled, and put in.


def near(goods: list[str], words: list[str]) -> st.SearchStrategy[str]:
    piece = st.one_of(st.sampled_from(words), st.text(max_size=3))
    edit = st.tuples(st.integers(0, 400), st.integers(0, 12), piece)

    def change(good: str, edits: list[tuple[int, int, str]]) -> str:
        for at, length, put in edits:
            place = at % (len(good) + 1)
            good = good[:place] + put + good[place + length :]
        return good

    return st.builds(change, st.sampled_from(goods), st.lists(edit, max_size=6))


def json_values(names: list[str], texts: list[str]) -> st.SearchStrategy[Any]:
    name = st.one_of(st.sampled_from(names), st.sampled_from(names).map(str.swapcase), st.text(max_size=3))
    text = st.one_of(st.sampled_from(texts), st.text(st.characters(), max_size=5))
    scalar = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), text)
    return st.recursive(scalar, lambda s: st.one_of(st.lists(s, max_size=4), st.dictionaries(name, s, max_size=6)))


def mixed(good: Any, values: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """The document *good*, with some of its parts exchanged for others."""
    if isinstance(good, dict):
        whole = st.fixed_dictionaries({k: mixed(v, values) for k, v in good.items()})
        more = st.dictionaries(st.sampled_from([k.upper() for k in good] or ["x"]), values, max_size=1)
        whole = st.one_of(whole, whole, st.builds(lambda a, b: {**a, **b}, whole, more))
    elif isinstance(good, list):
        whole = st.tuples(*(mixed(v, values) for v in good)).map(list)
    else:
        whole = st.just(good)
    return st.one_of(*[whole] * 8, values)


DESCRIPTOR = {"mediaType": m.OCI_MANIFEST, "digest": D, "size": 3}
IMAGE = {
    "schemaVersion": 2,
    "mediaType": m.OCI_MANIFEST,
    "config": {**DESCRIPTOR, "mediaType": "application/vnd.oci.image.config.v1+json"},
    "layers": [{**DESCRIPTOR, "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip"}],
    "annotations": {"a": "b"},
}
INDEX = {
    "schemaVersion": 2,
    "mediaType": m.OCI_INDEX,
    "manifests": [
        {**DESCRIPTOR, "platform": {"architecture": "amd64", "os": "linux", "variant": "v2"}},
        {**DESCRIPTOR, "artifactType": "", "annotations": {"vnd.docker.reference.type": None}},
        {**DESCRIPTOR, "mediaType": m.OCI_INDEX},
    ],
}
CONFIG = {
    "architecture": "amd64",
    "os": "linux",
    "created": "2024-01-01T00:00:00Z",
    "rootfs": {"type": "layers", "diff_ids": [D]},
    "config": {
        "Env": ["A=1"],
        "Cmd": ["sh"],
        "Entrypoint": ["/e"],
        "WorkingDir": "/w",
        "Volumes": {"/v": {}},
        "Labels": {"k": "v"},
    },
}
VALUES = json_values(
    ["layers", "config", "manifests", "mediaType", "digest", "size", "platform", "Env", "Labels", "diff_ids"],
    [m.OCI_MANIFEST, m.OCI_INDEX, D, "amd64", "unknown", "v8.5", "2024-01-01T00:00:00", "a\nb", "a\0b", "..", "\ud800"],
)
TYPES = st.sampled_from([m.OCI_MANIFEST, m.OCI_INDEX, m.DOCKER_MANIFEST, "application/json", "text/html", ""])


def content(document: Any) -> bytes:
    return json.dumps(document).encode()


def test_manifests() -> None:
    """Any document is a manifest or an index with something to choose from, or an error."""

    def manifests(value: tuple[list[Any], list[str], str]) -> None:
        documents, types, wanted = value
        parsed = []
        for document, kind in zip(documents, types, strict=False):
            try:
                parsed.append(m.parse_document(content(document), kind))
            except EnrootSlurmError as error:
                check_text(str(error))
        for document in parsed:
            others = itertools.cycle(parsed)
            try:
                found = select(
                    document,
                    Platform.parse(wanted),
                    lambda _, others=others: next(others),  # type: ignore[misc]
                    "x",
                    platform_of=lambda _: None,
                )
            except EnrootSlurmError as error:
                check_text(f"{error}{error.hint}")
            else:
                assert isinstance(found, m.Manifest)

    one = st.one_of(mixed(IMAGE, VALUES), mixed(INDEX, VALUES), VALUES)
    documents = st.lists(one, min_size=1, max_size=3)
    kinds = st.lists(TYPES, min_size=3, max_size=3)
    fuzz(st.tuples(documents, kinds, st.sampled_from(["amd64", "arm64/v8", "arm/v7"])), manifests)


def test_image_configs() -> None:
    """Any config that is read makes the four files of enroot."""

    def configs(document: Any) -> None:
        try:
            config = ImageConfig.parse(content(document))
        except EnrootSlurmError as error:
            check_text(str(error))
            return
        assert 0 <= config.created < 1 << 32
        RcLayer.of(
            "docker://x",
            env=config.env,
            entrypoint=config.entrypoint,
            cmd=config.cmd,
            working_dir=config.working_dir,
            volumes=config.volumes,
            labels=config.labels,
        )

    fuzz(st.one_of(mixed(CONFIG, VALUES), VALUES), configs)


def test_bytes_of_documents() -> None:
    """Neither do texts that are nearly JSON, nor any bytes, do more than fail."""

    def documents(value: bytes) -> None:
        for read in (
            lambda: m.parse_document(value, m.OCI_MANIFEST),
            lambda: ImageConfig.parse(value),
            lambda: AuthFile(value.decode("utf-8", "surrogateescape"), "f"),
        ):
            try:
                read()
            except EnrootSlurmError as error:
                check_text(str(error))

    goods = [json.dumps(each) for each in (IMAGE, INDEX, CONFIG)]
    words = [
        '"',
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "null",
        "1e999",
        "NaN",
        "\\ud800",
        "\\u0000",
        "-1",
        "9" * 5000,
        "\ufeff",
    ]
    texts = near(goods, words).map(lambda s: s.encode("utf-8", "surrogatepass"))
    fuzz(st.one_of(texts, texts.map(lambda b: b[::2]), st.binary(max_size=50)), documents)


def test_auth_files() -> None:
    """Docker's files: every login in them can be found, or is told to be wrong; none of their secrets is."""
    login = {"auth": "YW5uOmh1bnRlcjI=", "username": "ann", "password": SECRET, "identitytoken": SECRET}
    good = {"auths": {"h": login, "https://h/v1/": {}}, "credHelpers": {"h": "x"}, "credsStore": "y"}
    values = json_values(
        ["auths", "h", "h/a", "auth", "identitytoken", "registrytoken", "credHelpers", "credsStore"],
        ["YW5uOmh1bnRlcjI=", SECRET, "ann", "====", "YQ", "../x", "\ud800"],
    )

    def auth_files(value: tuple[Any, bool, bool]) -> None:
        document, bare, strict = value
        try:
            file = AuthFile(json.dumps(document), "f", bare=bare, strict=strict)
        except ConfigError as error:
            check_text(f"{error}{error.hint}", secret=True)
            return
        assert all(w.isprintable() for w in file.warnings)
        for host, repository in (("h", "a/b"), ("registry-1.docker.io", ""), ("", "h")):
            for candidate in file.candidates(host, repository, "", default=False):
                if candidate.certain:
                    credential = candidate.evaluate()
                    assert credential
                    credential.secret.reveal().encode("utf-8", "replace")
                    assert SECRET not in repr(credential) or SECRET in credential.login + credential.source

    fuzz(st.tuples(st.one_of(mixed(good, values), values), st.booleans(), st.booleans()), auth_files)


NETRC = near(
    [
        f"machine h login ann password {SECRET}\n# c\ndefault login x password y\n",
        f'machine h\n\tlogin "a b"\r\n\tpassword "{SECRET}\\"" account z\nmacdef m\na\n\nmachine i login j password $k',
        "\ufeffMACHINE docker.io LOGIN a PASSWORD b machine h:5 login $x password $Y",
    ],
    [
        "machine ",
        "login ",
        "password ",
        "default ",
        "macdef ",
        '"',
        "\\",
        "$(",
        ")",
        "#",
        "\n",
        "\n\n",
        " ",
        "\0",
        "\xa0",
    ],
)


def test_netrc(tmp_path: Path) -> None:
    """Any file has logins, or an error without its content; a login that is put into one is found, and goes again."""
    path = tmp_path / "f"

    def entries_of(path: Path) -> Counter[object]:
        text = path.read_bytes().decode("utf-8", "surrogateescape")
        return Counter((entry.machine, entry.login, entry.password) for entry in netrc.parse(text, "f"))

    def netrc_files(value: tuple[str, str, str]) -> None:
        text, login, password = value
        data = text.encode("utf-8", "surrogatepass")
        path.write_bytes(data)
        path.chmod(0o600)
        try:
            read_logins(path, run_commands=False)
            before = entries_of(path)
            put_line(path, "new.example:5", login, Secret(password))
        except EnrootSlurmError as error:
            check_text(f"{error}{error.hint}", secret=True)
            same = path.read_bytes() == data
        else:
            same = False
        if same:
            return
        found = Credentials.load(path, run_commands=False).find("new.example:5", login)
        assert found, path.read_bytes()
        assert found.secret.reveal() == password
        assert (entries_of(path) - before).total() == 1
        assert not before - entries_of(path)
        take_lines(path, "new.example:5")
        assert entries_of(path) == before

    plain = st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=["Cs"]), min_size=1, max_size=8)
    fuzz(st.tuples(NETRC, plain, plain), netrc_files)


def test_settings() -> None:
    """enroot.conf and YAML files of any form give values or problems; every value can be made into text."""
    yaml_words = [
        ": ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        "&a",
        "*a",
        "!!x ",
        "|",
        ">",
        "'",
        '"',
        "#",
        "\t",
        "---\n",
        "${HOME}",
        "$(",
    ]
    good = [
        "max_connections: 5\nsquash_options: -comp zstd -b 1M\ncache_high: 85%\n",
        "insecure_registries: [a, b:5]\ncerts_dirs:\n  - /a\n  - ~/b\ncredential_sources: [netrc]\nallow_http: yes\n",
        "cache_path: ${XDG_CACHE_HOME:-$HOME/.cache}/x\nmax_download: 5GiB\ncache_max_age: 3d\n",
    ]
    conf = [
        "ENROOT_CACHE_PATH ${HOME}/c\nENROOT_ALLOW_HTTP=yes\n# c\nENROOT_SQUASH_OPTIONS '-comp lzo -noD'\n",
        "ENROOT_RUNTIME_PATH /run/$(id -u)\nENROOT_MAX_CONNECTIONS  10\nENROOT_X ${A:-${B:-c}}\n",
    ]

    def files(text: str) -> None:
        data = text.encode("utf-8", "surrogatepass")
        variables = Variables({"HOME": "/h"})
        for entries, _ in (
            yaml_file.read_entries("f", data),
            enroot_conf.read_entries("f", data, variables),
        ):
            for entry in entries:
                wrong: list[Any] = []
                value = entry.value(variables, wrong)
                assert wrong or isinstance(entry.setting.text(value), str)

    words = [
        *yaml_words,
        "ENROOT_CACHE_PATH ",
        "max_imports: ",
        "$",
        "${",
        "}",
        "\\",
        "=",
        "\n",
        "%",
        "-1",
        "9" * 20,
        "\x85",
    ]
    fuzz(near([*good, *conf], words), files)


def test_references() -> None:
    """A text is a reference that is read back the same, or an error that shows no password."""
    goods = [
        "docker://nvcr.io#nvidia/pytorch:25.06-py3",
        f"docker://me@example.com@reg.io:5000/a/b:1@{D}",
        f"docker://reg.io/a@sha512:{'ab' * 64}",
        f"docker://ann:{SECRET}@reg.io/img",
        f"docker://ann@example.com:{SECRET}@reg.io:80/img:1@{D}",
        "docker://[::1]:5000/x",
        "dockerd://x",
        "docker://docker.io/library/x",
    ]
    words = [
        "@",
        ":",
        "/",
        "#",
        "docker://",
        "sha256:",
        "sha512:",
        "-",
        "_",
        ".",
        "docker.io",
        "library/",
        "A",
        "[",
        "]",
        "\\",
    ]

    def references(uri: str) -> None:
        try:
            found = Reference.parse(uri)
        except EnrootSlurmError as error:
            secret = uri.startswith(f"docker://ann:{SECRET}@") and uri.count(SECRET) == 1
            check_text(f"{error}{error.hint}", secret=secret)
        else:
            again = Reference.parse(str(found))
            assert again == found
            assert "/" not in Reference.default_filename(uri)
        try:
            parse_registry(uri)
        except EnrootSlurmError:
            pass

    fuzz(st.one_of(near(goods, words), st.text(max_size=80)), references)


@pytest.mark.parametrize("login", ["a", "a b", '"', "#x", "$x", "\\", "\u00a0"])
def test_lines_of_logins(login: str) -> None:
    """Each login and password is a line that is read back."""
    for password in ("p", "$(touch /x)", "$HOME", '"', "\\", "a b", "#", "\tx", "p\udce4"):
        file = NetrcFile(line_of("h", login, Secret(password)), "f")
        credential = Credentials([lambda file=file: file]).find("h")
        assert credential
        assert (credential.login, credential.secret.reveal()) == (login, password)
