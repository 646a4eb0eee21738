"""enroot's own layer: the recorded files, and words that a shell reads back."""

from __future__ import annotations

import json
import subprocess

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from enroot_slurm.errors import IntegrityError
from enroot_slurm.oci.image_config import ImageConfig
from enroot_slurm.rootfs.entrypoint import RcLayer


def layer_of(config, provenance="docker://r#i:t"):
    c = ImageConfig.parse(json.dumps(config).encode())
    return RcLayer.of(
        provenance,
        env=c.env,
        entrypoint=c.entrypoint,
        cmd=c.cmd,
        working_dir=c.working_dir,
        volumes=c.volumes,
        labels=c.labels,
    )


def test_recorded_files(vectors):
    """For all recorded configs the files and directories are enroot's, byte for byte, but for its mistakes."""
    for row in json.loads((vectors / "rc_files.json").read_text())["rows"]:
        if row["name"] == "workdir cmd":
            row["rc"] = row["rc"].replace("$(touch x)", "\\$(touch x)")
        elif row["name"] == "volume relative":
            row["fstab"] = ""
        found = layer_of(row["config"], "docker://registry-1.docker.io#library/x:1")
        files = {path.decode(): content.decode() for path, content in found.files}
        assert files == {
            "etc/rc": row["rc"],
            "etc/fstab": row["fstab"],
            "etc/environment": row["environment"],
            "etc/rc.local": row["rc_local"],
        }, row["name"]
        assert sorted(d.decode() for d in found.directories) == sorted(row["dirs"]), row["name"]


def test_directories_are_all_components():
    """Each component of the working directory becomes a directory, parents first."""
    found = layer_of({"config": {"WorkingDir": "/etc/a/b"}})
    assert found.directories == (b"etc", b"etc/a", b"etc/a/b")


def test_a_working_directory_that_is_a_file_of_enroots_is_refused():
    """/etc/rc can't be a file and a directory."""
    with pytest.raises(IntegrityError, match="is a file of enroot's"):
        layer_of({"config": {"WorkingDir": "/etc/rc/x"}})


def test_labels_stay_comments():
    """A label's line break can't end its comment."""
    script = dict(layer_of({"config": {"Labels": {"k": "a\nrm -rf /\r\x1b"}}}).files)[b"etc/rc"]
    assert b"# k a rm -rf /  \n" in script


def test_volumes_with_blanks_are_escaped():
    """fstab's fields are separated by blanks, so a volume's are escaped."""
    fstab = dict(layer_of({"config": {"Volumes": {"/a b": {}}}}).files)[b"etc/fstab"]
    assert fstab == b"${ENROOT_ROOTFS}/a\\040b /a\\040b none x-create=dir,bind,rw,nosuid,nodev\n"


words = st.lists(
    st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20), min_size=1, max_size=4
)


@settings(max_examples=60, deadline=None)
@given(words)
def test_a_shell_reads_the_command_back(command):
    """The command that the script runs has exactly the words of the image, line breaks included."""
    script = dict(layer_of({"config": {"Cmd": ["printf", "%s\\0", *command]}}).files)[b"etc/rc"]
    printed = subprocess.run(["/bin/sh", "-c", script.decode()], capture_output=True, check=True, cwd="/").stdout
    assert printed.decode().split("\0")[:-1] == command


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30))
@example("'")
@example("''")
def test_quoting_is_bashs(word):
    """Printable words are quoted as bash's ${word@Q} quotes them."""
    script = dict(layer_of({"config": {"Entrypoint": [word]}}).files)[b"etc/rc"].decode()
    bash = subprocess.run(["bash", "-c", 'w=$1; printf %s "${w@Q}"', "-", word], capture_output=True, check=True)
    assert f'exec {bash.stdout.decode()} "$@"' in script


@settings(max_examples=60, deadline=None)
@given(st.text(st.characters(exclude_characters="\0\n\r/", exclude_categories=["Cs"]), min_size=1, max_size=20))
@example("$(touch x)")
@example("`touch x`")
@example("$HOME")
@example('a"; touch x; "')
@example("a\\")
@example("!x")
def test_a_working_directory_is_no_script(tmp_path_factory, name):
    """Whatever its name, /etc/rc makes and enters that directory, and runs nothing."""
    place = tmp_path_factory.mktemp("w")
    if name in {".", ".."}:
        return
    script = dict(layer_of({"config": {"WorkingDir": f"{place}/{name}", "Cmd": ["pwd", "-P"]}}).files)[b"etc/rc"]
    done = subprocess.run(["/bin/sh", "-c", script], capture_output=True, check=True, cwd="/")
    assert done.stdout == f"{place.resolve()}/{name}\n".encode()
    assert [entry.name for entry in place.iterdir()] == [name]
