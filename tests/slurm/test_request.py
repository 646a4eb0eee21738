"""What jobs ask for: ``#ENROOT`` lines, words, variables."""

from __future__ import annotations

import pytest

from enroot_slurm.errors import InvalidPlatform, InvalidReference, UsageError
from enroot_slurm.slurm import Job, Request, image_requests
from enroot_slurm.slurm.request import PLUGIN, PYXIS, asked_in, parse_words

SCRIPT = """\
#!/bin/bash
#SBATCH -N2
#ENROOT image=docker://nvcr.io#nvidia/pytorch:25.06-py3 name=torch

# a comment
#ENROOT image=ubuntu:24.04 arch=aarch64
#ENROOTED is another word
echo hello
#ENROOT image=docker://not/there
"""


def test_lines_of_a_script() -> None:
    """They are read like #SBATCH lines, up to the first command."""
    assert image_requests(SCRIPT) == [
        Request("docker://nvcr.io#nvidia/pytorch:25.06-py3", name="torch"),
        Request("docker://registry-1.docker.io#library/ubuntu:24.04", "aarch64"),
    ]
    assert image_requests("") == image_requests("#!/bin/sh\ntrue\n") == []


@pytest.mark.parametrize(
    ("line", "kind", "message"),
    [
        ("#ENROOT", UsageError, "line 2 of the script: an image is missing"),
        ("#ENROOT image=docker://a:b:c", InvalidReference, "line 2 of the script: invalid image reference"),
        ("#ENROOT image=a imaje=b", UsageError, "unknown word 'imaje'\n  image=a imaje=b\n          ^^^^^^^"),
        ("#ENROOT arch=arm64", UsageError, "arch= must follow its image\n  arch=arm64\n  ^^^^^^^^^^"),
        ("#ENROOT image=a arch=vax", InvalidPlatform, "line 2"),
        ("#ENROOT image=a name=x name=y", UsageError, "name= is there twice"),
        ("#ENROOT image=a name=1x", UsageError, "not a name"),
        ("#ENROOT image=", UsageError, "image= has no value"),
        ("#ENROOT image=-rf", InvalidReference, "not an image reference: -rf"),
        ("#ENROOT image=a name=x\n#ENROOT image=b name=x", UsageError, "line 3 of the script: name=x is there twice"),
    ],
)
def test_mistakes_are_shown_in_their_line(line, kind, message) -> None:
    """The number of the line, and a marker under the wrong part."""
    with pytest.raises(kind) as caught:
        image_requests(f"#!/bin/sh\n{line}\n")
    assert message in str(caught.value)


def test_so_many_images_for_a_job() -> None:
    """Whether in one text, or in many lines; of comments no more are looked at than show that there are too many."""
    words = [f"i{number}" for number in range(33)]
    assert len(parse_words(" ".join(words[:32]))) == 32
    with pytest.raises(UsageError, match="32 are the most"):
        parse_words(" ".join(words))
    script = "".join(f"#ENROOT image={word}\n" for word in words)
    assert len(image_requests(script.partition("#ENROOT image=i32")[0])) == 32
    with pytest.raises(UsageError, match="33 images or more are asked for; 32 are the most for a job"):
        image_requests(script)
    comment = " ".join(f"enroot:i{number}" for number in range(4000))
    assert len(asked_in({"SLURM_JOB_COMMENT": comment}, comments=True)) == 33


def test_words() -> None:
    """Several images may follow each other."""
    assert parse_words("a image=b arch=arm64 c name=n") == [
        Request("docker://registry-1.docker.io#library/a:latest"),
        Request("docker://registry-1.docker.io#library/b:latest", "arm64"),
        Request("docker://registry-1.docker.io#library/c:latest", "", "n"),
    ]
    assert parse_words(" \n\t") == []
    with pytest.raises(UsageError, match="33 images"):
        parse_words(" ".join(f"i{n}" for n in range(33)))
    with pytest.raises(InvalidReference, match="20000 characters"):
        parse_words("x" * 20_000)


def test_variables() -> None:
    """Our plug-in's goes first, then pyxis'; comments only where the site lets them; paths are no requests."""
    environ = {PLUGIN: "a", PYXIS: "b", "SLURM_JOB_COMMENT": "x enroot:c enroot:d", "SLURM_JOB_EXTRA": "enroot:e"}
    assert [asked.text for asked in asked_in(environ)] == ["a", "b"]
    assert [asked.text for asked in asked_in(environ, comments=True)] == ["a", "b", "e", "c", "d"]
    assert (
        asked_in({PYXIS: "/images/x.sqsh", PLUGIN: "./x.sqsh", "SLURM_JOB_COMMENT": "noenroot:x"}, comments=True) == []
    )


def test_jobs() -> None:
    """Each variable has its form; a step's environment does as well as a prolog's."""
    environ = {
        "SLURM_JOB_ID": "12",
        "SLURM_JOB_UID": "1000",
        "SLURM_JOB_GID": "100",
        "SLURM_JOB_USER": "alice",
        "SLURM_JOB_RESTART_COUNT": "2",
        "SLURMD_NODENAME": "n1",
    }
    job = Job.from_environ(environ)
    assert job == Job(12, 2, 1000, 100, "alice", "n1")
    assert job.key == "12.2"
    assert Job.from_environ({"SLURM_JOBID": "7", "SLURM_RESTART_COUNT": "1"}).key == "7.1"
    for name, text in [
        ("SLURM_JOB_ID", "1/../2"),
        ("SLURM_JOB_UID", "-1"),
        ("SLURM_JOB_USER", "a b"),
        ("SLURMD_NODENAME", ".."),
    ]:
        with pytest.raises(UsageError, match=name):
            Job.from_environ({**environ, name: text})
    with pytest.raises(UsageError, match="SLURM_JOB_ID is not set"):
        Job.from_environ({})
