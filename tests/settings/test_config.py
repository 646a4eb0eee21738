import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import settings_pages

from enroot_slurm.errors import ConfigError
from enroot_slurm.settings import expansion
from enroot_slurm.settings.config import Config
from enroot_slurm.settings.meanings import MEANINGS, plain
from enroot_slurm.settings.schema import SETTINGS
from enroot_slurm.squashfs.options import SquashOptions

ROOT = Path(__file__).parents[2]
HOME = {"HOME": "/home/user"}


def load(environ=None, **files):
    """A configuration that reads neither /etc nor the real home."""
    arguments = {"site_file": None, "user_file": None, "enroot_conf": None, **files}
    return Config.load(environ={**HOME, **(environ or {})}, **arguments)


@pytest.fixture
def write(tmp_path):
    """A function that makes a file and returns its path."""

    def write(text, name="config.yaml"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        return file

    return write


def problems(file, environ=None):
    return [str(p) for p in Config.check(file, environ={**HOME, **(environ or {})})]


# Defaults


def test_defaults():
    """Without any source, the settings have enroot's defaults, but for five retries."""
    config = load()
    assert config.config_path == Path("/home/user/.config/enroot")
    assert config.cache_path == Path("/home/user/.cache/enroot")
    assert config.temp_path == Path("/tmp")
    assert config.runtime_path == Path("/run/enroot")
    assert config.gzip_program == ""
    assert config.squash_options == SquashOptions.parse("-comp lzo -noD")
    assert config.max_processors == len(os.sched_getaffinity(0))
    assert (config.max_imports, config.max_connections) == (2, 10)
    assert (config.connect_timeout, config.transfer_timeout, config.lock_timeout) == (30.0, 0.0, 3600.0)
    assert config.transfer_retries == 5
    assert config.allow_http is False
    assert config.credential_commands is True
    assert config.squash_memory == 1 << 30
    assert (config.shared_cache, config.cache_user, config.site_credentials) == ("", "", "")
    assert (config.failure_ttl, config.locks, config.worker_timeout) == (60.0, True, 30.0)
    assert (config.min_free, config.max_download, config.max_unpacked) == (0, 100 << 30, 200 << 30)
    assert config.ca_file == ""
    assert config.insecure_registries == ()
    assert config.certs_dirs == (
        "/home/user/.config/containers/certs.d",
        "/etc/containers/certs.d",
        "/etc/docker/certs.d",
    )
    assert set(config.origins.values()) == {"default"}


def test_default_paths_follow_xdg_and_tmpdir():
    """The directories of the XDG specification and TMPDIR move the default paths."""
    config = load({"XDG_CONFIG_HOME": "/c", "XDG_CACHE_HOME": "/d", "XDG_RUNTIME_DIR": "/run/user/1", "TMPDIR": "/t"})
    assert [str(p) for p in config[:4]] == ["/c/enroot", "/d/enroot", "/t", "/run/user/1/enroot"]


def test_home_from_the_password_database(monkeypatch):
    """Without HOME the password database has the answer."""
    monkeypatch.setitem(expansion._FALLBACKS, "HOME", lambda _: "/pw/home")
    assert load({"HOME": ""}).cache_path == Path("/pw/home/.cache/enroot")


def test_no_home_at_all(monkeypatch):
    """Where nobody knows a home, the settings that need it fail, and only they."""
    import pwd

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(ConfigError, match="default: cache_path: HOME is not set") as caught:
        load({"HOME": ""})
    assert "Set HOME" in caught.value.hint
    paths = {"ENROOT_CONFIG_PATH": "/c", "ENROOT_CACHE_PATH": "/d", "ENROOT_SLURM_CERTS_DIRS": "/e"}
    assert load({"HOME": "", **paths}).cache_path == Path("/d")


# Precedence


def test_precedence(write):
    """Argument, environment, user's file, site's file, enroot.conf, default: the first that says something counts."""
    sources = {
        "overrides": {"max_connections": 1},
        "environ": {"ENROOT_MAX_CONNECTIONS": "2"},
        "user_file": write("# mine\nmax_connections: 3\n", "user.yaml"),
        "site_file": write("max_connections: 4\n", "site.yaml"),
        "enroot_conf": write("ENROOT_MAX_CONNECTIONS 5\n", "enroot.conf"),
    }
    seen = []
    while sources:
        config = load(**sources)
        seen.append((config.max_connections, config.origins["max_connections"]))
        del sources[next(iter(sources))]
    seen.append((load().max_connections, load().origins["max_connections"]))
    directory = str(write("", "x").parent)
    assert seen == [
        (1, "argument"),
        (2, "environment ENROOT_MAX_CONNECTIONS"),
        (3, f"{directory}/user.yaml:2"),
        (4, f"{directory}/site.yaml:1"),
        (5, f"{directory}/enroot.conf:1"),
        (10, "default"),
    ]


def test_files_named_by_the_environment(write):
    """ENROOT_SLURM_CONFIG and ENROOT_SLURM_SITE_CONFIG name the files that are read instead of the default ones."""
    user, site = write("max_processors: 3", "u.yaml"), write("max_processors: 4\ntransfer_retries: 9", "s.yaml")
    environ = {**HOME, "ENROOT_SLURM_CONFIG": str(user), "ENROOT_SLURM_SITE_CONFIG": str(site)}
    config = Config.load(environ=environ, enroot_conf=None)
    assert (config.max_processors, config.transfer_retries) == (3, 9)


def test_default_user_file(write, tmp_path):
    """The user's file is enroot-slurm/config.yaml in the user's configuration directory, and may be missing."""
    environ = {**HOME, "XDG_CONFIG_HOME": str(tmp_path)}
    assert Config.load(environ=environ, site_file=None, enroot_conf=None).max_processors > 0
    write("max_processors: 3", "enroot-slurm/config.yaml")
    assert Config.load(environ=environ, site_file=None, enroot_conf=None).max_processors == 3


@pytest.mark.parametrize("named", ["user_file", "site_file", "enroot_conf", "ENROOT_SLURM_CONFIG"])
def test_named_file_must_be_there(named, tmp_path):
    """A file that somebody named is missed."""
    missing = tmp_path / "none"
    arguments = {"site_file": None, "enroot_conf": None, "user_file": None, named: missing}
    if named.isupper():
        arguments = {"site_file": None, "enroot_conf": None, "environ": {**HOME, named: str(missing)}}
    with pytest.raises(ConfigError, match=f"{missing}: can't be read: No such file"):
        Config.load(**{"environ": HOME, **arguments})


def test_trusted_takes_the_site_file_only(write):
    """For hooks that root starts, the environment, the user's file and enroot.conf do not exist."""
    site = write("transfer_retries: 9\ntemp_path: ${TMPDIR:-/scratch}\n")
    site.chmod(0o644)
    environ = {**HOME, "ENROOT_MAX_CONNECTIONS": "2", "TMPDIR": "/evil", "ENROOT_SLURM_SITE_CONFIG": "/nonexistent"}
    config = Config.load(
        environ=environ,
        site_file=site,
        user_file=write("max_connections: 3", "user.yaml"),
        enroot_conf=write("ENROOT_MAX_CONNECTIONS 4", "enroot.conf"),
        trusted=True,
        overrides={"credential_commands": False, "config_path": "/a", "cache_path": "/b", "certs_dirs": []},
    )
    assert (config.max_connections, config.transfer_retries, str(config.temp_path)) == (10, 9, "/scratch")
    assert config.credential_commands is False


def test_trusted_refuses_a_file_that_others_can_write(write):
    """A site file that group or others can write is not believed in a hook."""
    site = write("transfer_retries: 9")
    site.chmod(0o664)
    with pytest.raises(ConfigError, match="others than root can write it") as caught:
        Config.load(site_file=site, trusted=True)
    assert "chmod go-w" in caught.value.hint
    assert load(site_file=site).transfer_retries == 9


# Overrides


def test_overrides_may_be_typed_or_text(tmp_path, monkeypatch):
    """A library's caller passes values, a command line text; None says nothing."""
    monkeypatch.chdir(tmp_path)
    options = SquashOptions.parse("-comp zstd -mem 1G")
    config = load(
        overrides={
            "cache_path": Path("cache"),
            "config_path": Path("~/c"),
            "temp_path": "/x",
            "squash_options": options,
            "allow_http": True,
            "connect_timeout": 0.5,
            "max_processors": "3",
            "insecure_registries": ["a:5000", "b"],
            "certs_dirs": "/a,/b",
            "transfer_retries": None,
            "squash_memory": 64 << 20,
        }
    )
    assert config.cache_path == tmp_path / "cache"
    assert config.config_path == Path("/home/user/c")
    assert config.squash_options == options
    assert (config.allow_http, config.connect_timeout, config.max_processors) == (True, 0.5, 3)
    assert config.insecure_registries == ("a:5000", "b")
    assert config.certs_dirs == ("/a", "/b")
    assert config.transfer_retries == 5
    assert config.squash_memory == 64 << 20
    assert config.origins["cache_path"] == "argument"
    assert config.origins["transfer_retries"] == "default"


def test_unknown_override():
    """An argument that is no setting is an error with a suggestion."""
    with pytest.raises(ConfigError, match="argument: unknown setting 'cache-path', did you mean 'cache_path'"):
        load(overrides={"cache-path": "/x"})


# The environment


@pytest.mark.parametrize("text", ["", "  "])
def test_empty_variable_is_unset(text, write):
    """An empty variable leaves the word to the next source."""
    config = load({"ENROOT_TRANSFER_RETRIES": text}, site_file=write("transfer_retries: 2"))
    assert config.transfer_retries == 2


@pytest.mark.parametrize("text", ["no", "N", "false", "FALSE"])
def test_no_unsets_a_variable(text, write):
    """Like in enroot, a variable that is 'no' turns a setting off, or back to its default."""
    site = write("gzip_program: pigz\nallow_http: yes\nmax_connections: 3")
    config = load(
        {"ENROOT_GZIP_PROGRAM": text, "ENROOT_ALLOW_HTTP": text, "ENROOT_MAX_CONNECTIONS": text}, site_file=site
    )
    assert (config.gzip_program, config.allow_http, config.max_connections) == ("", False, 10)


def test_environment_is_taken_literally():
    """The shell has replaced what was to be replaced; only a leading ~ is still understood."""
    assert load({"ENROOT_CACHE_PATH": "/a/${USER}"}).cache_path == Path("/a/${USER}")
    assert load({"ENROOT_CACHE_PATH": "~/a"}).cache_path == Path("/home/user/a")


def test_lists_are_separated_by_commas():
    """A list in a variable has commas, around which blanks do not count; registries are in the program's spelling."""
    config = load({"ENROOT_SLURM_INSECURE_REGISTRIES": "A.example:5000, [::1]:80 ,docker.io,"})
    assert config.insecure_registries == ("a.example:5000", "[::1]:80", "registry-1.docker.io")


@pytest.mark.parametrize(
    ("variable", "text", "message"),
    [
        ("ENROOT_ALLOW_HTTP", "maybe", "expected yes or no, got 'maybe'"),
        ("ENROOT_ALLOW_HTTP", "1", "expected yes or no, got '1'"),
        ("ENROOT_CACHE_PATH", "cache", "expected an absolute path, got 'cache'"),
        ("ENROOT_CACHE_PATH", "/a\nb", "expected an absolute path, got '/a\\\\nb'"),
        ("ENROOT_MAX_CONNECTIONS", "-1", "expected a whole number, got '-1'"),
        ("ENROOT_MAX_CONNECTIONS", "٣", "expected a whole number"),
        ("ENROOT_CONNECT_TIMEOUT", "nan", "expected seconds, such as 30 or 0.5, got 'nan'"),
        ("ENROOT_CONNECT_TIMEOUT", "1e3", "expected seconds"),
        ("ENROOT_GZIP_PROGRAM", "pigz -d", "expected a program: its name or absolute path, got 'pigz -d'"),
        ("ENROOT_GZIP_PROGRAM", "./pigz", "expected a program"),
        ("ENROOT_GZIP_PROGRAM", "-x", "expected a program"),
        ("ENROOT_SQUASH_OPTIONS", "-pf x", "mksquashfs option -pf is not allowed"),
        ("ENROOT_SLURM_SQUASH_MEMORY", "lots", "expected a size such as 512MiB or 1GiB, got 'lots'"),
        ("ENROOT_SLURM_SQUASH_MEMORY", "512MB", "expected a size such as 512MiB or 1GiB, got '512MB'"),
        ("ENROOT_SLURM_SQUASH_MEMORY", "1024", "expected a size of at least 16MiB, got '1024'"),
        ("ENROOT_SLURM_CA_FILE", "ca.pem", "expected an absolute path"),
        ("ENROOT_SLURM_INSECURE_REGISTRIES", "http://a", "expected a registry: HOST or HOST:PORT, got 'http://a'"),
        ("ENROOT_SLURM_INSECURE_REGISTRIES", "a:0", "expected a registry"),
        ("ENROOT_SLURM_INSECURE_REGISTRIES", "u@a", "expected a registry"),
    ],
)
def test_wrong_variable(variable, text, message):
    """A wrong variable is named, with what was expected and what was found."""
    with pytest.raises(ConfigError, match=f"^environment: {variable}: {message}"):
        load({variable: text})


@pytest.mark.parametrize(
    ("text", "size"),
    [("512MiB", 512 << 20), ("512M", 512 << 20), ("1 gib", 1 << 30), ("33554432", 32 << 20), ("20000KiB", 20000 << 10)],
)
def test_sizes(text, size):
    """Sizes are bytes or have a suffix, in powers of two."""
    assert load({"ENROOT_SLURM_SQUASH_MEMORY": text}).squash_memory == size


def test_zero_is_unlimited():
    """0 processors are all that the process may use, 0 connections as many as are allowed at most."""
    config = load({"ENROOT_MAX_PROCESSORS": "0", "ENROOT_MAX_CONNECTIONS": "0"})
    assert config.max_processors == len(os.sched_getaffinity(0))
    assert config.max_connections == 64
    assert load({"ENROOT_MAX_CONNECTIONS": "500"}).max_connections == 64


# YAML


def test_yaml_values(write):
    """Each kind of value, as a YAML file writes it."""
    file = write(
        """\
---
cache_path: ~/cache              # home
temp_path: /local/${USER}/$(id -u)
runtime_path: "${NOPE:-/run/x}"
gzip_program: no
squash_options: >-
  -comp zstd
  -b 1M
connect_timeout: 2.5
allow_http: Yes
ca_file: ''
insecure_registries:
  - localhost:5000
  - 10.0.0.1
certs_dirs: []
max_connections:
max_processors: ~
...
"""
    )
    config = load({"USER": "me"}, site_file=file)
    assert config.cache_path == Path("/home/user/cache")
    assert config.temp_path == Path(f"/local/me/{os.geteuid()}")
    assert config.runtime_path == Path("/run/x")
    assert config.gzip_program == ""
    assert config.squash_options == SquashOptions.parse("-comp zstd -b 1M")
    assert config.connect_timeout == 2.5
    assert config.allow_http is True
    assert config.ca_file == ""
    assert config.insecure_registries == ("localhost:5000", "10.0.0.1")
    assert config.certs_dirs == ()
    assert config.origins["max_connections"] == config.origins["max_processors"] == "default"
    assert config.origins["squash_options"] == f"{file}:6"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("max_conections: 3", "1:1: unknown setting 'max_conections', did you mean 'max_connections'?"),
        ("ENROOT_CACHE_PATH: /x", "1:1: unknown setting 'ENROOT_CACHE_PATH', did you mean 'cache_path'?"),
        ("zzz: 1", "1:1: unknown setting 'zzz'"),
        ("temp_path: /a\n\ntemp_path: /b", "3:1: temp_path: already set in line 1"),
        ("connect_timeout: 12:30", "1:18: connect_timeout: expected seconds, such as 30 or 0.5, got '12:30'"),
        ("max_processors: 0755", "1:17: max_processors: expected a whole number, got '0755'"),
        ("max_processors: no", "1:17: max_processors: expected a whole number, got 'no'"),
        ("max_processors: 1_000", "1:17: max_processors: expected a whole number, got '1_000'"),
        ("max_processors: ''", "1:17: max_processors: expected a whole number, got nothing"),
        ("max_processors: [1]", "1:17: max_processors: expected a whole number, got a list"),
        ("certs_dirs: [/a, b]", "1:18: certs_dirs: expected an absolute path, got 'b'"),
        ("certs_dirs: [/a, ~]", "1:18: certs_dirs: expected an absolute path, got nothing"),
        ("temp_path: ${NOPE}/x", "1:12: temp_path: the variable NOPE is not set"),
        ("temp_path: /$(rm -rf x)", "1:12: temp_path: commands are not run: $(rm -rf x)"),
        ("temp_path: /a$", "1:12: temp_path: '$' starts no variable name"),
        ("temp_path: ~bob/x", "1:12: temp_path: expected an absolute path, got '~bob/x'"),
        ('temp_path: "/a\\nb"', "1:12: temp_path: expected an absolute path, got '/a\\nb'"),
        ("squash_options: -p x", "1:17: squash_options: mksquashfs option -p is not allowed: it can run commands"),
        ("temp_path: &a /x", "1:12: anchors and aliases are not used in this file"),
        ("temp_path: *a", "1:12: anchors and aliases are not used in this file"),
        ("temp_path: !!str /x", "1:12: tags are not used in this file"),
        ("temp_path: !!python/object:os.system x", "1:12: tags are not used in this file"),
        ("temp_path: {a: b}", "1:12: expected a scalar or a list of scalars: settings are flat"),
        ("certs_dirs: [[/a]]", "1:14: expected a scalar or a list of scalars: settings are flat"),
        ("- a", "1:1: expected a mapping: lines such as 'max_connections: 10'"),
        ("hello", "1:1: expected a mapping: lines such as 'max_connections: 10'"),
        ("? [a]\n: b", "1:3: expected the name of a setting, got a list"),
        ("temp_path: [/a", "2:1: not valid YAML: did not find expected ',' or ']'"),
        ("temp_path: a: b", "1:13: not valid YAML: mapping values are not allowed in this context"),
        ("temp_path: /a\n\tx: 1", "2:1: not valid YAML"),
        ("a: 1\n---\nb: 2", "2:1: not valid YAML: but found another document"),
        (b"temp_path: /a\nx: \xff", "2:4: not UTF-8 text"),
        ("temp_path: /a\nx: \x1b[31m", "2:4: the character \\x1b must not occur in YAML"),
        ("[" * 900, "1:3: expected a scalar or a list of scalars: settings are flat"),
    ],
)
def test_wrong_yaml(write, text, expected):
    """Every mistake is shown with its line and column."""
    file = write(text)
    found = problems(file)
    assert len(found) == 1
    assert found[0].startswith(f"{file}:{expected}")


def test_yaml_without_the_c_library(write, monkeypatch):
    """Where PyYAML has no libyaml, its Python reader finds the same values and the same places."""
    import yaml

    file = write("certs_dirs: [/a]\ntypo: 1\nmax_processors: 0755\n")
    with_library = problems(file)
    monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    assert problems(file) == with_library
    assert problems(write("a: *x"))[0].endswith(":1:4: anchors and aliases are not used in this file")
    assert load(site_file=write("certs_dirs: [/a]")).certs_dirs == ("/a",)


def test_all_problems_at_once(write):
    """One error has the problems of all sources, by line."""
    user = write("max_processors: x\ntypo: 1\n", "user.yaml")
    site = write("allow_http: 2\n", "site.yaml")
    conf = write("ENROOT_TRANSFER_RETRIES z\n", "enroot.conf")
    with pytest.raises(ConfigError) as caught:
        load({"ENROOT_TEMP_PATH": "x"}, user_file=user, site_file=site, enroot_conf=conf)
    assert str(caught.value).splitlines() == [
        f"{user}:1:17: max_processors: expected a whole number, got 'x'",
        f"{user}:2:1: unknown setting 'typo'",
        "environment: ENROOT_TEMP_PATH: expected an absolute path, got 'x'",
        f"{site}:1:13: allow_http: expected yes or no, got '2'",
        f"{conf}:1:25: ENROOT_TRANSFER_RETRIES: expected a whole number, got 'z'",
    ]
    assert caught.value.exit_code == 2


def test_only_regular_files_of_reasonable_size(write, tmp_path):
    """A directory, a FIFO and a file of more than a mebibyte are refused, without hanging."""
    assert problems(tmp_path) == [f"{tmp_path}: not a regular file"]
    os.mkfifo(tmp_path / "fifo")
    assert problems(tmp_path / "fifo") == [f"{tmp_path / 'fifo'}: not a regular file"]
    assert problems(write("#" * (1 << 20))) == []
    assert problems(write("#" * ((1 << 20) + 1))) == [f"{tmp_path}/config.yaml: larger than 1048576 bytes"]
    assert problems(tmp_path / "none") == [f"{tmp_path}/none: can't be read: No such file or directory"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_unreadable_file(write):
    """A file without read permission is an error, even if it is a default one."""
    file = write("max_processors: 1")
    file.chmod(0)
    assert problems(file) == [f"{file}: can't be read: Permission denied"]


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused(text):
    """No content of a file makes anything but entries or problems."""
    from enroot_slurm.settings import yaml_file

    entries, found = yaml_file.read_entries("f", text.encode("utf-8", "surrogatepass"))
    assert not (entries and not all(e.setting.key in SETTINGS for e in entries))
    assert all(p.where.startswith("f") for p in found)


@given(st.dictionaries(st.sampled_from(sorted(SETTINGS)), st.text(alphabet="a/~$ {}:-&*!'\"0159[],#\n", max_size=12)))
def test_any_value_is_taken_or_refused(values):
    """No value of a setting, in a variable or an argument, raises anything but ConfigError."""
    environ = {SETTINGS[key].variable: value for key, value in values.items()}
    for arguments in ({"environ": environ}, {"overrides": values}):
        try:
            config = load(**arguments)
        except ConfigError:
            continue
        assert load(overrides={row.key: row.value for row in config.rows() if row.value}).rows()


# enroot.conf


def test_enroot_conf(write):
    """enroot's file: blanks or '=', quotes, comments, variables of the environment and of earlier lines, drop-ins."""
    conf = write(
        """\
#ENROOT_CACHE_PATH /not/this
ENROOT_LIBRARY_PATH        /usr/lib/enroot
ENROOT_DATA_PATH           /data/$(some command)
ENROOT_BASE_PATH = "/local/${TEAM}"   # for all
ENROOT_CACHE_PATH          ${ENROOT_BASE_PATH}/cache/user-$(id -u)
ENROOT_CACHE_PATH          /second
ENROOT_SQUASH_OPTIONS      -comp zstd -Xcompression-level 3
ENROOT_MAX_PROCESSORS=3
ENROOT_TEMP_PATH           ${TMPDIR:-/scratch}
ENROOT_ALLOW_HTTP          yes
ENROOT_CONNECT_TIMEOUT     no
something else entirely
""",
        "enroot.conf",
    )
    write("ENROOT_TRANSFER_RETRIES 7\nENROOT_MAX_PROCESSORS 9", "enroot.conf.d/10-a.conf")
    write("ENROOT_TRANSFER_RETRIES 8", "enroot.conf.d/20-b.conf")
    write("broken '", "enroot.conf.d/README")
    config = load({"TEAM": "vision"}, enroot_conf=conf)
    assert config.cache_path == Path(f"/local/vision/cache/user-{os.geteuid()}")
    assert config.squash_options == SquashOptions.parse("-comp zstd -Xcompression-level 3")
    assert config.max_processors == 3
    assert config.temp_path == Path("/scratch")
    assert config.allow_http is True
    assert config.connect_timeout == 30
    assert config.transfer_retries == 7
    assert config.origins["transfer_retries"] == f"{conf.parent}/enroot.conf.d/10-a.conf:1"


def test_environment_goes_before_enroot_conf_in_its_variables(write):
    """A name that the environment has is not the file's to define."""
    conf = write("ENROOT_DATA_PATH /file\nENROOT_CACHE_PATH ${ENROOT_DATA_PATH}/c", "enroot.conf")
    assert load({"ENROOT_DATA_PATH": "/environ"}, enroot_conf=conf).cache_path == Path("/environ/c")


def test_enroot_conf_may_be_wrong_where_it_does_not_count(write):
    """enroot.conf is another program's: what is overridden there is not judged, what counts is."""
    conf = write("ENROOT_SQUASH_OPTIONS -comp lzo -info\nENROOT_CACHE_PATH /$(date)\n", "enroot.conf")
    environ = {"ENROOT_SQUASH_OPTIONS": "-comp zstd", "ENROOT_CACHE_PATH": "/c"}
    assert load(environ, enroot_conf=conf).squash_options.compressor == "zstd"
    with pytest.raises(ConfigError) as caught:
        load(enroot_conf=conf)
    assert str(caught.value).splitlines() == [
        f"{conf}:1:23: ENROOT_SQUASH_OPTIONS: mksquashfs option -info is not allowed: it prints the name of each file",
        f"{conf}:2:19: ENROOT_CACHE_PATH: commands are not run: $(date)",
    ]
    assert problems(conf) == str(caught.value).splitlines()


def test_variables_can_not_grow_without_end(write):
    """A value that doubles itself line by line ends as an error."""
    lines = [
        f"ENROOT_{a} ${{ENROOT_{b}}}${{ENROOT_{b}}}"
        for a, b in zip("BCDEFGHIJKLMNOPQRST", "ABCDEFGHIJKLMNOPQRS", strict=True)
    ]
    conf = write("ENROOT_A aaaa\n" + "\n".join(lines) + "\nENROOT_CACHE_PATH /${ENROOT_T}", "enroot.conf")
    with pytest.raises(ConfigError, match="ENROOT_CACHE_PATH: "):
        load(enroot_conf=conf)


# The whole


def test_rows_may_be_set_again():
    """`rows` are in the schema's order, and their values are texts of the same configuration."""
    config = load(
        {
            "ENROOT_SQUASH_OPTIONS": "-comp zstd -mem 64M -b 1M",
            "ENROOT_ALLOW_HTTP": "y",
            "ENROOT_CONNECT_TIMEOUT": "0.25",
            "ENROOT_SLURM_INSECURE_REGISTRIES": "a:1,b",
            "ENROOT_SLURM_SQUASH_MEMORY": "1536M",
        }
    )
    rows = config.rows()
    assert [row.key for row in rows] == list(SETTINGS)
    assert [row.value for row in rows if row.key == "squash_memory"] == ["1536MiB"]
    again = load({row.variable: row.value for row in rows})
    assert again._replace(origins={}, said={}) == config._replace(origins={}, said={})


def test_variables_that_no_setting_has():
    """A slip in a variable's name is told, with what was meant; what jobs get, and enroot's own, are none."""
    config = load(
        {
            "ENROOT_SLURM_MAX_CONECTIONS": "3",
            "ENROOT_SLURM_SHARED_CACHES": "/x",
            "ENROOT_SLURM_QQQ\x1b": "",
            "ENROOT_SLURM_IMAGE": "x",
            "ENROOT_SLURM_IMAGE_TOOLS_DIGEST": "x",
            "ENROOT_NO_SUCH": "x",
            "ENROOT_SLURM_CERTS_DIRS": "/x",
        }
    )
    assert config.doubts == (
        "the variable ENROOT_SLURM_MAX_CONECTIONS is no setting, did you mean ENROOT_MAX_CONNECTIONS?",
        "the variable ENROOT_SLURM_SHARED_CACHES is no setting, did you mean ENROOT_SLURM_SHARED_CACHE?",
        "the variable ENROOT_SLURM_QQQ\\x1b is no setting",
    )
    assert Config.load(environ={"ENROOT_SLURM_X": "1"}, trusted=True, site_file=None).doubts == ()


def test_no_yaml_library_without_yaml_file(write):
    """A process without configuration files, or with the sample as installed, loads no YAML."""
    sample = write((ROOT / "etc/config.yaml").read_bytes())
    code = (
        "import sys; from pathlib import Path; from enroot_slurm.settings.config import Config;"
        f"Config.load(environ={HOME}, user_file=None, enroot_conf=None, site_file=Path({str(sample)!r}));"
        "print(sorted({'yaml', 'difflib', 'dataclasses', 'requests'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_sample_has_every_setting_with_its_default(write):
    """etc/config.yaml, with its comment signs taken away, is the default configuration."""
    lines = (ROOT / "etc/config.yaml").read_text().splitlines()
    active = [line[1:] for line in lines if line.startswith("#") and not line.startswith("# ")]
    sample = write("\n".join(active))
    config = load(site_file=sample)
    assert config._replace(doubts=(), origins={}, said={}) == load()._replace(origins={})
    assert len(config.doubts) == 1
    assert config.doubts[0].startswith("squash_memory has no use any more")
    unset = {key for key, source in config.origins.items() if source == "default"}
    assert unset == set()


def test_reference_has_every_setting():
    """docs/configuration.md has a row for each setting, with its key and its variable."""
    text = (ROOT / "docs/configuration.md").read_text()
    for key, setting in SETTINGS.items():
        assert f"| `{key}` | `{setting.variable}` |" in text


def test_where_enroot_looks(tmp_path):
    """A build from source has its settings elsewhere: what its script says counts, or the variable that it takes."""
    for number, line in enumerate(
        [
            'export ENROOT_SYSCONF_PATH="${ENROOT_SYSCONF_PATH:-DIR}"',
            'export ENROOT_SYSCONF_PATH="${ENROOT_SYSCONF_PATH-DIR}"',
            "readonly ENROOT_SYSCONF_PATH=DIR",
        ]
    ):
        etc, bin_ = tmp_path / f"etc{number}", tmp_path / f"bin{number}"
        etc.mkdir()
        bin_.mkdir()
        (bin_ / "enroot").write_text(f"#!/usr/bin/env bash\n{line.replace('DIR', str(etc))}\n")
        (bin_ / "enroot").chmod(0o755)
        (etc / "enroot.conf").write_text(f"ENROOT_MAX_CONNECTIONS {number + 1}\n")
        environ = {"HOME": "/h", "PATH": str(bin_)}
        assert Config.load(environ=environ, site_file=None, user_file=None).max_connections == number + 1
    environ["ENROOT_SYSCONF_PATH"] = str(tmp_path / "etc0")
    assert Config.load(environ=environ, site_file=None, user_file=None).max_connections == 1
    assert Config.load(environ={"HOME": "/h", "PATH": ""}, site_file=None, user_file=None).max_connections == 10


def test_meanings_have_one_home():
    """The sample, the reference and ``config --help`` say of each setting what `MEANINGS` does."""
    assert list(MEANINGS) == list(SETTINGS)
    fix = "run: python tests/support/settings_pages.py"
    assert settings_pages.sample(settings_pages.SAMPLE.read_text()) == settings_pages.SAMPLE.read_text(), fix
    assert settings_pages.table(settings_pages.TABLE.read_text()) == settings_pages.TABLE.read_text(), fix
    command = [sys.executable, "-m", "enroot_slurm", "config", "--help"]
    said = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "COLUMNS": "100"})
    words = said.stdout.split()
    for key, meaning in MEANINGS.items():
        assert key in words
        assert " ".join(plain(meaning).split()) in " ".join(words)
