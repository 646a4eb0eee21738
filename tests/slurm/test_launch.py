"""``enroot-slurm srun`` and ``sbatch``: which words they change, as functions; and on a real cluster."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import wait_for
from support.images import Image, Layer
from support.pyxis import pyxis_standin

from enroot_slurm.errors import InvalidReference, NotFound, UnsupportedImage, UsageError
from enroot_slurm.oci.digest import Digest
from enroot_slurm.slurm.batch_script import directives, replace_words
from enroot_slurm.slurm.command_line import Syntax, components
from enroot_slurm.slurm.launch import Launch, image_uri, sbatch_launch, srun_launch
from enroot_slurm.slurm.request import Request

if TYPE_CHECKING:
    from collections.abc import Iterator

# Lines of `srun --help` (22.05), and of plug-ins.
HELP = """\
Usage: srun [OPTIONS(0)... [executable(0) [args(0)...]]] [ : [OPTIONS(N)...]] executable(N) [args(N)...]

Parallel run options:
  -A, --account=name          charge job to specified account
      --container             Path to OCI container bundle
      --exclusive[=user]      for job allocation, this allocates nodes in
                              --mem >= --mem-per-cpu if --mem is specified.
  -I, --immediate[=secs]      exit if resources not available in "secs"
  -l, --label                 prepend task number to lines of stdout/err
  -J, --job-name=jobname      name of job
      --mem=MB                minimum amount of real memory
  -n, --ntasks=ntasks         number of tasks to run
  -N, --nodes=N               number of nodes on which to run (N = min[-max])
      --overlap               Allow other steps to overlap this step
  -Q, --quiet                 quiet mode (suppress informational messages)
  -v, --verbose               verbose mode (multiple -v's increase verbosity)
      --bcast=<dest_path>     Copy executable file to compute nodes
  -B  --extra-node-info=S[:C[:T]]  combine request of sockets per node,
"""
PYXIS = """\
      --container-image=[USER@][REGISTRY#]IMAGE[:TAG]|PATH
                              [pyxis] the image to use for the container
                              filesystem.
      --container-mounts=SRC:DST[:FLAGS][,SRC:DST...]
                              [pyxis] bind mount[s] inside the container.
"""
OURS = """\
      --enroot-image=REF      [enroot-slurm] the image to import before the job
                              starts
"""
URI = "docker://nvcr.io/nvidia/pytorch:25.06-py3"
DIGEST = Digest.parse(f"sha256:{'ab' * 32}")
FILE = "/cache/image.sqsh"
PINNED = f"{URI}@{DIGEST}"
VARIABLES = {"ENROOT_SLURM_IMAGE": FILE, "ENROOT_SLURM_IMAGE_DIGEST": str(DIGEST)}


class Imported(NamedTuple):
    path: Path
    digest: Digest


class Cache:
    """Where images come from; remembers for what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, uri: str, _arch: str) -> Imported:
        self.asked.append(uri)
        return Imported(Path(f"/cache/{uri.rpartition('/')[2]}.sqsh" if len(self.asked) > 1 else FILE), DIGEST)


@pytest.fixture
def cache() -> Cache:
    return Cache()


# Where a command begins.


@pytest.mark.parametrize(
    ("line", "command"),
    [
        ("hostname", "hostname"),
        ("-N 2 hostname -N 3", "hostname -N 3"),
        ("-N2 hostname", "hostname"),
        ("-vN 2 hostname", "hostname"),
        ("-lvN2 hostname", "hostname"),
        ("-vl hostname", "hostname"),
        ("-I30 hostname", "hostname"),
        ("-I hostname", "hostname"),
        ("--nodes 2 hostname", "hostname"),
        ("--nodes=2 hostname", "hostname"),
        ("--nodel n2 hostname", "hostname"),
        ("--exclusive hostname", "hostname"),
        ("--exclusive=user hostname", "hostname"),
        ("--container bundle hostname", "hostname"),
        ("--container-mounts /a:/b hostname", "hostname"),
        ("--treewidth 5 hostname", "hostname"),
        ("--bcast hostname", "hostname"),
        ("-B 1:2 hostname", "hostname"),
        ("--unknown hostname", "hostname"),
        ("-N 2 -- hostname --", "hostname --"),
        ("-- --overlap", "--overlap"),
        ("- x", "- x"),
        ("-N", ""),
        ("", ""),
    ],
)
def test_the_command_begins_where_srun_has_it(line, command) -> None:
    """Values are skipped, in each of getopt's spellings; the first other word ends the options."""
    words = line.split()
    part = components(words, Syntax.of_help(HELP + PYXIS))[0]
    assert words[part.command :] == command.split()


def test_a_word_of_the_help_text_is_no_option() -> None:
    """What is indented is the text of an option, even if it begins with dashes."""
    syntax = Syntax.of_help("      --exclusive[=user]      text\n                              --foo >= --bar\n")
    assert "foo" not in syntax.flags
    assert "exclusive" in syntax.flags


WORDS = st.lists(
    st.sampled_from(
        ["-N", "2", "-N2", "-l", "--nodes", "--nodes=2", "--overlap", "--", ":", "-", "x", "-I", "--mem", ""]
    ),
    max_size=8,
)


@given(WORDS)
def test_components_cover_the_line(words) -> None:
    """All words are in a component, in their order, and only colons are between them."""
    at = 0
    for part in components(words, Syntax.of_help(HELP)):
        for option in part.options:
            assert option.start == at
            at = option.end
        assert part.command in {at, at + 1}
        assert part.command == at or words[at] == "--"
        assert part.command <= part.end
        assert ":" not in words[part.command : part.end]
        assert words[part.end : part.end + 1] in ([":"], [])
        at = part.end + 1
    assert at == len(words) + 1


@given(WORDS)
def test_words_without_an_image_pass_as_they_are(words) -> None:
    """Nothing is imported and nothing changes."""
    cache = Cache()
    assert srun_launch(words, HELP + PYXIS, cache) == Launch(words, {}, None)
    assert sbatch_launch(words, HELP + PYXIS, "#!/bin/sh\n", "job.sh", [], cache) == Launch(words, {}, None)
    assert cache.asked == []


# srun.


@pytest.mark.parametrize("option", [[f"--container-image={URI}"], ["--container-image", URI], ["--container-im", URI]])
def test_pyxis_gets_the_path(option, cache) -> None:
    """In place, whatever the spelling; the other words stay."""
    launch = srun_launch(["-N2", *option, "-l", "--", "sh", "-c", "true"], HELP + PYXIS, cache)
    assert launch == Launch(["-N2", f"--container-image={FILE}", "-l", "--", "sh", "-c", "true"], {}, None)
    assert cache.asked == [URI]


def test_our_plugin_gets_the_digest(cache) -> None:
    """A node without the file can import the very same image."""
    launch = srun_launch([f"--container-image={URI}", "sh"], HELP + OURS, cache)
    assert launch == Launch([f"--enroot-image={PINNED}", "sh"], {}, None)
    launch = srun_launch([f"--enroot-image={URI.replace('io/', 'io#')}", "sh"], HELP + OURS + PYXIS, cache)
    assert launch == Launch([f"--enroot-image={PINNED}", "sh"], {}, None)
    named_like_pyxis = OURS.replace("--enroot-image", "--container-image")
    launch = srun_launch([f"--container-image={URI}", "sh"], HELP + named_like_pyxis, cache)
    assert launch == Launch([f"--container-image={PINNED}", "sh"], {}, None)


@pytest.mark.parametrize(("option", "text"), [("container-image", HELP), ("enroot-image", HELP + PYXIS)])
def test_without_a_plugin_there_are_variables(option, text, cache) -> None:
    """srun does not see an option that it does not know."""
    assert srun_launch(["-N2", f"--{option}", URI, "sh"], text, cache) == Launch(["-N2", "sh"], VARIABLES, None)


def test_files_are_passed(cache, monkeypatch, tmp_path) -> None:
    """What begins with a dot or a slash is a file for pyxis, and so here."""
    monkeypatch.chdir(tmp_path)
    words = ["--container-image=./x.sqsh", "sh"]
    assert srun_launch(words, HELP + PYXIS, cache) == Launch(words, {}, None)
    assert srun_launch(words, HELP, cache) == Launch(["sh"], {"ENROOT_SLURM_IMAGE": f"{tmp_path}/x.sqsh"}, None)
    assert srun_launch(words, HELP + OURS, cache) == Launch(["sh"], {"ENROOT_SLURM_IMAGE": f"{tmp_path}/x.sqsh"}, None)
    assert cache.asked == []


def test_names_are_pyxis_names() -> None:
    """Without a scheme it is docker://; a host needs its dot or colon, and a file its slash or dot."""
    assert image_uri("ubuntu:24.04") == "docker://ubuntu:24.04"
    assert image_uri("nvcr.io#nvidia/cuda") == "docker://nvcr.io#nvidia/cuda"
    assert image_uri("docker://x") == "docker://x"
    assert image_uri("/x.sqsh") == image_uri("./x.sqsh") == image_uri("../x.sqsh") == ""


def test_the_last_option_counts(cache) -> None:
    """As with getopt; the others are srun's to judge."""
    words = ["--container-image=a", f"--container-image={URI}", "sh"]
    assert srun_launch(words, HELP + PYXIS, cache).words == ["--container-image=a", f"--container-image={FILE}", "sh"]
    assert cache.asked == [URI]


def test_options_of_the_command_are_not_ours(cache) -> None:
    words = ["podman", f"--container-image={URI}", "--", "--container-image=x"]
    assert srun_launch(words, HELP + PYXIS, cache).words == words
    assert cache.asked == []


def test_each_component_has_its_image(cache) -> None:
    """One that two components share is imported once; one without stays so."""
    line = f"--container-image={URI} -n1 a : -n2 --container-image docker://b b : c : --container-image={URI} d"
    line = line.replace("container", "enroot")
    launch = srun_launch(line.split(), HELP + OURS, cache)
    b = f"docker://registry-1.docker.io/library/b:latest@{DIGEST}"
    expected = f"--enroot-image={PINNED} -n1 a : -n2 --enroot-image={b} b : c : --enroot-image={PINNED} d"
    assert launch.words == expected.split()
    assert cache.asked == [URI, "docker://b"]
    with pytest.raises(UsageError, match="components"):
        srun_launch(line.split(), HELP, cache)


def test_components_that_pyxis_would_refuse(cache) -> None:
    """pyxis takes one image for all: another one is refused before anything is imported, by srun and by sbatch."""
    line = f"--container-image={URI} a : --container-image=docker://b b"
    script = job(f"#SBATCH --container-image={URI}", "#SBATCH hetjob", "#SBATCH --container-image=b")
    with pytest.raises(UsageError, match="one --container-image for all components"):
        srun_launch(line.split(), HELP + PYXIS, cache)
    with pytest.raises(UsageError, match="one --container-image for all components"):
        sbatch_launch(["job.sh"], HELP + PYXIS, script, "job.sh", [], cache)
    assert cache.asked == []
    launch = srun_launch(line.replace("docker://b", URI).split(), HELP + PYXIS, cache)
    assert launch.words == [f"--container-image={FILE}", "a", ":", f"--container-image={FILE}", "b"]


@pytest.mark.parametrize(
    "image", ["docker://UPPER", "docker://", "docker://a b", "docker://$(id)", "docker://-x", "a\nb"]
)
def test_wrong_references_are_told_before_anything_happens(image, cache) -> None:
    with pytest.raises(InvalidReference):
        srun_launch([f"--container-image={URI}", "a", ":", f"--container-image={image}", "b"], HELP + PYXIS, cache)
    assert cache.asked == []


def test_errors_of_an_import_are_passed_on() -> None:
    def get(*_: str) -> Imported:
        raise NotFound("gone")

    with pytest.raises(NotFound):
        srun_launch([f"--container-image={URI}", "a"], HELP + PYXIS, get)


# sbatch.


def job(*lines: str) -> str:
    return "\n".join(["#!/bin/sh", "# A comment", "", *lines, "srun true", "#SBATCH --container-image=toolate", ""])


def test_a_line_of_the_script_for_pyxis(cache) -> None:
    """pyxis refuses a second value: so the word in the script changes, and not a byte more."""
    script = job("#SBATCH -N2 --container-image=docker://nvcr.io/nvidia/pytorch:25.06-py3 -l # remark", "#SBATCH -n4")
    launch = sbatch_launch(["job.sh", "--container-image=x"], HELP + PYXIS, script, "job.sh", [], cache)
    assert launch == Launch(["job.sh", "--container-image=x"], {}, script.replace(URI, FILE))
    assert cache.asked == [URI]


def test_the_command_line_overrides_the_script(cache) -> None:
    """The script's image is not even imported; both say the same then."""
    script = job("#SBATCH --container-image docker://old")
    launch = sbatch_launch([f"--container-image={URI}", "job.sh"], HELP + PYXIS, script, "job.sh", [], cache)
    assert launch.words == [f"--container-image={FILE}", "job.sh"]
    assert launch.script == script.replace("docker://old", FILE)
    assert cache.asked == [URI]


def test_our_plugins_line_is_overridden_on_the_command_line(cache) -> None:
    """The user's file is submitted as it is."""
    script = job(f"#SBATCH --enroot-image={URI}")
    launch = sbatch_launch(["-N2", "job.sh"], HELP + OURS, script, "job.sh", [], cache)
    assert launch == Launch([f"--enroot-image={PINNED}", "-N2", "job.sh"], {}, None)
    launch = sbatch_launch(["--enroot-image=docker://x", "job.sh"], HELP + OURS, script, "job.sh", [], cache)
    assert launch == Launch(
        [f"--enroot-image=docker://registry-1.docker.io/library/x:latest@{DIGEST}", "job.sh"], {}, None
    )


def test_other_lines_of_the_script(cache) -> None:
    """``#ENROOT`` lines: our plug-in takes the image, else there are variables; pyxis would move the whole script."""
    for text in (HELP, HELP + PYXIS):
        launch = sbatch_launch(["job.sh"], text, job(), "job.sh", [Request(URI), Request("docker://two")], Cache())
        assert launch == Launch(["job.sh"], VARIABLES, None)
    launch = sbatch_launch(["job.sh"], HELP + OURS, job(), "job.sh", [Request(URI)], cache)
    assert launch == Launch([f"--enroot-image={PINNED}", "job.sh"], {}, None)
    launch = sbatch_launch(["job.sh"], HELP + OURS, job(), "job.sh", [Request(URI, "arm64")], Cache())
    assert launch == Launch(["job.sh"], VARIABLES, None)  # a node would import its own architecture's


def test_an_option_that_sbatch_lacks(cache) -> None:
    """sbatch would refuse the script; a way that works is named."""
    for option, text in (("container-image", HELP), ("enroot-image", HELP + PYXIS)):
        with pytest.raises(UsageError, match=f"job.sh:4: sbatch has no option --{option}") as raised:
            sbatch_launch(["job.sh"], text, job(f"#SBATCH --{option}={URI}"), "job.sh", [], cache)
        assert "#ENROOT image=" in raised.value.hint
    assert cache.asked == []


@pytest.mark.parametrize(
    ("line", "lost", "hint"),
    [
        ("--container-image=nvcr.io#nvidia/cuda:12", "#nvidia/cuda:12", "Write nvcr.io/nvidia/cuda:12,"),
        ("--container-image docker://a.b:5000#x", "#x", "Write docker://a.b:5000/x,"),
        ("--container-image=nvcr.io#nvidia/cuda # remark", "#nvidia/cuda", "Write nvcr.io/nvidia/cuda,"),
        (r"--container-image=a\\#b", "#b", "Write a"),
    ],
)
def test_a_cut_reference_is_explained(line, lost, hint, cache) -> None:
    """The marker is under what sbatch does not read; the form that needs no quoting is shown."""
    with pytest.raises(InvalidReference, match=r"job.sh:4: '#' begins a comment") as raised:
        sbatch_launch(["job.sh"], HELP + PYXIS, job(f"#SBATCH {line}"), "job.sh", [], cache)
    shown, marker = raised.value.message.splitlines()[1:]
    at = marker.index("^")
    assert shown[at:].startswith(lost)
    assert marker.count("^") == len(lost)
    assert raised.value.hint.startswith(hint)
    assert cache.asked == []


@pytest.mark.parametrize(
    "value", [r"nvcr.io\#nvidia/cuda", '"nvcr.io#nvidia/cuda"', "'nvcr.io#nvidia/cuda'", "nvcr.io/nvidia/cuda"]
)
def test_quoted_references_are_whole(value, cache) -> None:
    sbatch_launch(["job.sh"], HELP + PYXIS, job(f"#SBATCH --container-image={value}"), "job.sh", [], cache)
    assert cache.asked in (["docker://nvcr.io#nvidia/cuda"], ["docker://nvcr.io/nvidia/cuda"])


def test_other_traps_of_lines(cache) -> None:
    for value, message, hint in (
        ("$IMAGE", "job.sh:4: ", "replaces no variables"),
        ('"nvcr.io/x', "job.sh:4: a quote is opened and never closed", ""),
        ("nvcr.io/Upper", "job.sh:4: ", "nvcr.io"),
    ):
        with pytest.raises(InvalidReference) as raised:
            sbatch_launch(["job.sh"], HELP + PYXIS, job(f"#SBATCH --container-image={value}"), "job.sh", [], cache)
        assert message in raised.value.message
        assert hint in raised.value.hint + raised.value.message
    assert cache.asked == []


def test_components_of_a_script(cache) -> None:
    """Each has its line, and a value may be on the next one, as sbatch has it."""
    script = job(
        "#SBATCH --container-image", f"#SBATCH {URI} -N1", "#SBATCH hetjob", f"#SBATCH --container-image={URI}"
    )
    launch = sbatch_launch(["job.sh"], HELP + PYXIS, script, "job.sh", [], cache)
    assert launch.script == script.replace(URI, FILE)
    assert cache.asked == [URI]


@given(st.text(alphabet="ab#\\\"' \t-=:é", max_size=12), st.text(alphabet="ab#\\\"' /-=é", min_size=1, max_size=12))
def test_replaced_words_read_as_their_texts(line, text) -> None:
    """Whatever is around them; the other words and lines stay."""
    script = f"#!/bin/sh\n#SBATCH {line} word\n#SBATCH tail\n"
    found = directives(script)
    words = found[0].words
    if not words:
        return
    for index, word in enumerate(words):
        if not word.closed or word.lost:
            continue
        after = directives(replace_words(script, {word: text}))
        assert [w.text for w in after[0].words] == [w.text for w in words[:index]] + [text] + [
            w.text for w in words[index + 1 :]
        ]
        assert after[1].words[0].text == "tail"


# On a real cluster.

pytestmark = pytest.mark.xdist_group("slurm-srun")
SHOW = 'echo "$SLURM_NODEID $STANDIN_IMAGE $ENROOT_SLURM_IMAGE $ENROOT_SLURM_IMAGE_DIGEST"'


@pytest.fixture(scope="module")
def pyxis() -> Iterator[Path]:
    with pyxis_standin() as library:
        yield library


@pytest.fixture(scope="module")
def cluster(start_cluster, pyxis):
    """With pyxis; what is in plugstack.conf can be changed, as `plain` does."""
    return start_cluster(files={"plugstack.conf": f"optional {pyxis}\n"})


@pytest.fixture(scope="module")
def path(installation) -> str:
    """A search path with the program."""
    return f"{installation.program()}:/usr/sbin:/usr/bin:/sbin:/bin"


@pytest.fixture
def plain(cluster):
    """The cluster without plug-ins."""
    file = cluster.directory / "plugstack.conf"
    before = file.read_text()
    file.write_text("")
    yield cluster
    file.write_text(before)


@pytest.fixture
def run(cluster, alice, path):
    """Run ``enroot-slurm WORDS`` as alice."""

    def run(*words, environment=(), **options):
        variables = {"PATH": path, "ENROOT_ALLOW_HTTP": "yes", **dict(environment)}
        return cluster.run("enroot-slurm", *words, user=alice, check=False, environment=variables, **options)

    return run


@pytest.fixture
def image(push) -> str:
    """The URI of an image with a shell."""
    return push(Image([Layer().dirs("bin").file("bin/sh", Path("/bin/busybox").read_bytes(), 0o755).dirs("tmp")]))


def path_in(text: str) -> str:
    """The only path of an image in *text*."""
    (path,) = set(re.findall(r"/\S+\.sqsh\b", text))
    return path


def test_srun_with_pyxis(run, image, registry) -> None:
    """One import on the login node, and all tasks are in the image; srun's status is ours."""
    registry.reset()
    result = run(
        "srun", "-N3", "-l", f"--container-image={image}", "--", "sh", "-c", f"{SHOW}; echo /*; exit $SLURM_PROCID"
    )
    assert result.returncode == 2, result
    path = path_in(result.stdout)
    assert [line for line in sorted(result.stdout.splitlines()) if "sqsh" in line] == [
        f"{i}: {i} {path}  " for i in range(3)
    ]
    assert "0: /bin" in result.stdout
    assert f"enroot-slurm: srun --container-image={path}" in result.stderr
    assert registry.count("GET", "manifests") == 1
    again = run("srun", "-Q", f"--container-image={image.removeprefix('docker://')}", "sh", "-c", SHOW)
    assert (again.returncode, again.stdout, again.stderr) == (0, f"0 {path}  \n", "")


def test_srun_without_plugins(plain, run, image) -> None:
    """The option does not reach srun, which would not know it."""
    result = run("srun", f"--container-image={image}", "-N2", "sh", "-c", SHOW)
    assert result.returncode == 0, result
    path = path_in(result.stdout)
    digest = f"sha256:{Path(path).stem.partition('-')[2]}"
    assert sorted(result.stdout.splitlines()) == [f"{i}  {path} {digest}" for i in range(2)]
    assert f"enroot-slurm: ENROOT_SLURM_IMAGE={path}" in result.stderr
    assert "warning" not in result.stderr
    assert "warning: --export=NONE" in run("srun", f"--container-image={image}", "--export=NONE", "/bin/true").stderr


def test_srun_of_components(plain, run, image) -> None:
    """What is behind a colon belongs to another component, whose image is the same here."""
    part = ("-n1", f"--container-image={image}", "sh", "-c", SHOW)
    result = run("srun", *part, ":", *part)
    assert result.returncode == 0, result
    assert result.stdout.count(f" {path_in(result.stdout)} ") == 2


def test_srun_gets_the_signals(cluster, alice, image, run, path) -> None:
    """It has taken the place of our process, and signals end it."""
    run("srun", f"--container-image={image}", "sh", "-c", ":")
    words = ["enroot-slurm", "srun", f"--container-image={image}", "sh", "-c", "echo up; exec sleep 60"]
    environment = {"PATH": path, "ENROOT_ALLOW_HTTP": "yes"}
    process = cluster.start(*words, user=alice, environment=environment)
    assert process.stdout.readline() == "up\n"
    assert "Name:\tsrun" in Path(f"/proc/{process.pid}/status").read_text()
    process.terminate()
    assert process.wait(20) != 0
    process.communicate()
    wait_for(lambda: not cluster.run("squeue", "-h").stdout)
    assert cluster.sinfo_reasons() == ""


def test_srun_ignores_nothing_for_us(cluster, run, image, path) -> None:
    """What Python ignores is not ignored in the program that takes our place: here one that only tells that."""
    directory = cluster.directory / "signals"
    directory.mkdir()
    program = directory / "srun"
    program.write_text("#!/bin/sh\n[ $1 != --help ] || exec /usr/bin/srun --help\nexec grep SigIgn /proc/self/status\n")
    program.chmod(0o755)
    result = run("srun", f"--container-image={image}", "true", environment={"PATH": f"{directory}:{path}"})
    assert int(result.stdout.split()[1], 16) & (1 << 12 | 1 << 24) == 0  # SIGPIPE, SIGXFSZ


def test_a_failed_import_starts_nothing(cluster, run, image) -> None:
    """Our message and status, and no job."""
    before = cluster.run("squeue", "-h", "--states=all").stdout.count("\n")
    for words in (["srun"], ["sbatch"]):
        result = run(*words, f"--container-image={image}gone", "true", input="#!/bin/sh\n")
        assert result.returncode == 3, result
        assert "has no tag" in result.stderr
    assert run("srun", "--container-image=docker://UPPER", "true").returncode == 2
    assert cluster.run("squeue", "-h", "--states=all").stdout.count("\n") == before


def test_what_srun_says_is_shown(run) -> None:
    """Wrong options are srun's to judge, and so is help."""
    result = run("srun", "--no-such-option", "true")
    assert result.returncode == 255
    assert "unrecognized option" in result.stderr
    assert "--container-image=URI" in run("srun", "--help").stdout
    assert run("srun", "-V").stdout.startswith("slurm")
    broken = run("srun", "-V", environment={"SLURM_CONF": "/etc/passwd"})
    assert broken.returncode != 0
    assert broken.stderr.startswith("srun: ")


def wait_for_job(cluster, result):
    assert result.returncode == 0, result
    return cluster.wait_job(int(result.stdout.split()[-1]))


def test_sbatch_with_pyxis(cluster, run, alice, image) -> None:
    """The job has the path and the user's script but for that word, and its name and arguments."""
    plain = image.replace("#", "/")
    text = f'#!/bin/sh\n#SBATCH --output=job-%j.out\n#SBATCH --container-image={plain}\n{SHOW}\necho "$@"\n'
    alice.write("train.sh", text)
    result = run("sbatch", "train.sh", "--epochs", "3")
    job = wait_for_job(cluster, result)
    path = path_in(job.output)
    assert job.output == f"0 {path}  \n--epochs 3\n"
    assert job.fields["JobName"] == "train.sh"
    script = cluster.run("scontrol", "write", "batch_script", job.id, "-").stdout
    assert script.rstrip("\n") == text.replace(plain, path).rstrip("\n")
    assert (alice.home / "train.sh").read_text() == text
    other = wait_for_job(cluster, run("sbatch", "-J", "x", "--container-image=/other.sqsh", input=text))
    assert other.fields["JobName"] == "x"
    assert other.output.startswith("0 /other.sqsh ")


def test_sbatch_without_plugins(plain, run, alice, image) -> None:
    """``#ENROOT`` lines: the user's own file is submitted, and the path is in the job's environment."""
    alice.write("run.sh", f"#!/bin/sh\n#ENROOT image={image}\n#SBATCH --output=job-%j.out\n{SHOW}\n")
    job = wait_for_job(plain, run("sbatch", "-N1", "run.sh"))
    assert job.output.startswith(f"0  {path_in(job.output)} sha256:")
    assert job.fields["Command"] == f"{alice.home}/run.sh"
    wrapped = run("sbatch", "--output=job-%j.out", f"--container-image={image}", f"--wrap={SHOW}")
    assert wait_for_job(plain, wrapped).output == job.output


def test_sbatch_explains_the_cut_reference(cluster, run, alice, image) -> None:
    """Nothing is imported nor submitted."""
    alice.write("cut.sh", f"#!/bin/sh\n#SBATCH --container-image={image.removeprefix('docker://')}\n")
    result = run("sbatch", "cut.sh")
    assert result.returncode == 2
    assert "cut.sh:2: '#' begins a comment here" in result.stderr
    assert f"Write {image.removeprefix('docker://').replace('#', '/')}" in result.stderr
    assert "Unable to open file nowhere.sh" in run("sbatch", "nowhere.sh").stderr


LINES = [
    "--comment=a#b", r"--comment=a\#b", '--comment="a#b"', "--comment='a#b'", r'--comment="a\"b"', r"--comment='a\#b'",
    r"--comment=a\\#b", "--comment a#b", '--comment=a"b c"d -n1', "--comment=a #b", '--comment="" -n1', "--comment=a\\",
    "--comment=é", "--comment=a:b", "--comm=a", "-n1 --comment x -N1", "-N 1 -n1 --comment=$HOME",
]  # fmt: skip


def test_lines_are_read_as_sbatch_reads_them(cluster, alice) -> None:
    """Our reading of #SBATCH lines, and of options, is the real sbatch's."""
    syntax = Syntax.of_help(cluster.run("sbatch", "--help").stdout)
    for line in LINES:
        script = f"#!/bin/sh\n# x\n\n#SBATCH {line}\n:\n#SBATCH --comment=late\n"
        job = cluster.submit(script, "--hold", user=alice)
        fields = cluster.run("scontrol", "show", "job", job).stdout
        cluster.cancel(job)
        expected = re.search(r"^   Comment=(.*?) ?$", fields, re.MULTILINE)
        part = components([word.text for word in directives(script)[0].words], syntax, commands=False)[0]
        assert part.last("comment").value == (expected[1] if expected else ""), line


def test_the_table_of_options_is_sruns(cluster) -> None:
    """An option that we take for one with a value asks for it; what is not in this release is unknown."""
    for program in ("srun", "sbatch"):
        syntax = Syntax.of_help(cluster.run(program, "--help").stdout)
        listed = set(re.findall(r"^ {2,8}(?:-\w,? +)?--([\w-]+)", cluster.run(program, "--help").stdout, re.MULTILINE))
        for name in sorted(syntax.values & listed):
            result = cluster.run(program, f"--{name}", check=False, input="")
            # Some releases list an option that they have no more.
            wanted = {f"option '--{name}' requires an argument", f"unrecognized option '--{name}'"}
            assert any(text in result.stderr for text in wanted), result


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("docker-archive:/data/app.tar", "docker-archive:/data/app.tar"),
        ("docker://docker-archive:/data/app.tar", "docker://docker-archive:/data/app.tar"),
        ("dockerd://app:1", "dockerd://app:1"),
    ],
)
def test_archives_are_imported_first(text, uri) -> None:
    """pyxis gets the file; our plug-in gets the archive, which a node's user reads."""
    get = Cache()
    launch = srun_launch([f"--container-image={text}", "true"], HELP + PYXIS, get)
    assert (launch.words, get.asked) == ([f"--container-image={FILE}", "true"], [uri])
    launch = srun_launch([f"--enroot-image={text}", "true"], HELP + OURS, get)
    assert launch.words == [f"--enroot-image={text.removeprefix('docker://')}", "true"]


def test_files_are_looked_at(tmp_path) -> None:
    """One that is here and no image is refused; one that is not here may be on the nodes."""
    (tmp_path / "x.sqsh").write_bytes(b"no image" * 100)
    with pytest.raises(UnsupportedImage, match="not a squashfs 4.0 image"):
        srun_launch([f"--container-image={tmp_path}/x.sqsh", "true"], HELP + PYXIS, Cache())
    words = [f"--container-image={tmp_path}/other.sqsh", "true"]
    assert srun_launch(words, HELP + PYXIS, Cache()).words == words
