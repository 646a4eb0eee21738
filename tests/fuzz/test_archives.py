"""Archives of any form: what they hold is found, or refused by an error of ours; and nothing temporary is left."""

from __future__ import annotations

import os
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from support.archives import docker_members, layout_members, made_tar
from support.images import Image, Layer

from enroot_slurm.archives.image import ArchivedImage
from enroot_slurm.archives.opening import Needs, open_members
from enroot_slurm.errors import EnrootSlurmError
from enroot_slurm.oci.local import LocalImage, is_local, parse_name
from enroot_slurm.oci.platform import Platform

if TYPE_CHECKING:
    from pathlib import Path

SECONDS = float(os.environ.get("ENROOT_SLURM_FUZZ_SECONDS", "0"))
ROUNDS = 300
pytestmark = pytest.mark.timeout(300 + 2 * SECONDS)
IMAGE = Image([Layer().file("one", b"1" * 3000), Layer().file("two", b"2")], family="oci")
NUMBERS = [b"-1", b"0", b"1e999", b"99999999999999999999", b"null", b'""', b"[]", b"{}", b"true"]
NAMES = [b"../../etc/passwd", b"/etc/passwd", b"", b"manifest.json", b".", b"a\\u0000b"]


def archives() -> list[tuple[str, bytes]]:
    return [
        ("docker-archive", made_tar(docker_members(IMAGE))),
        ("docker-archive", made_tar(docker_members(IMAGE, style="symlinks"))),
        (
            "docker-archive",
            made_tar(dict([*layout_members([(IMAGE, {})]), *docker_members(IMAGE, style="blobs")]).items()),
        ),
        ("oci-archive", made_tar(layout_members([(IMAGE, {"annotations": {"a": "b"}})]))),
    ]


def changed(content: bytes, chance: random.Random) -> bytes:
    """*content* with something wrong in it."""
    found = bytearray(content)
    kind = chance.randrange(5)
    if kind == 0:
        for _ in range(chance.randrange(1, 8)):
            found[chance.randrange(len(found))] = chance.randrange(256)
    elif kind == 1:
        del found[chance.randrange(len(found)) :]
    elif kind == 2:
        at = 512 * chance.randrange(len(found) // 512)
        found[at : at + 512] = found[(to := 512 * chance.randrange(len(found) // 512)) : to + 512]
    elif kind == 3:
        # A value in one of the documents, as long as before: the archive stays sound.
        at = chance.choice([i for i in range(len(found)) if found[i : i + 1] == b":"])
        word = chance.choice(NUMBERS + NAMES)
        found[at + 1 : at + 1 + len(word)] = word
    else:
        start = 512 * chance.randrange(len(found) // 512)
        found[start : start + 100] = chance.choice(NAMES).ljust(100, b"\0")
    return bytes(found)


def look(path: Path, transport: str, tmp: Path) -> None:
    numbers = iter(range(1 << 30))
    needs = Needs(lambda: tmp / f"{next(numbers)}", 1 << 24, "", lambda _: None, lambda _: None, lambda *_: None)
    local = LocalImage(transport, str(path))
    image = ArchivedImage(local, lambda: open_members(local, needs))
    try:
        manifest = image.resolve(Platform.parse("amd64"))
        for descriptor in (manifest.config, *manifest.layers):
            if descriptor.size < 1 << 24:
                for _ in image.blob(descriptor):
                    pass
            image.take(descriptor.digest)
        assert image.provenance
        assert "/" not in image.filename
    finally:
        image.close()


def test_archives_of_any_form(tmp_path) -> None:
    """As files and as streams."""
    tmp = tmp_path / "tmp"
    tmp.mkdir()
    sound, path, end, number = archives(), tmp_path / "a", time.monotonic() + SECONDS, 0
    for transport, content in sound:
        path.write_bytes(content)
        look(path, transport, tmp)
    while number < ROUNDS or time.monotonic() < end:
        number += 1
        chance = random.Random(number)
        transport, content = chance.choice(sound)
        content = changed(content, chance)
        fifo = chance.random() < 0.5
        path.write_bytes(_zipped(content) if fifo else content)
        try:
            look(path, transport, tmp)
        except EnrootSlurmError:
            pass
        except Exception as error:
            error.add_note(f"seed {number}")
            raise
        for left in tmp.iterdir():
            left.unlink()  # what was taken is the caller's


def _zipped(content: bytes) -> bytes:
    import gzip

    return gzip.compress(content, 1)


def test_uris_of_any_form() -> None:
    """What is a local image stays one, by its own text."""
    words = [
        "docker-archive",
        "oci",
        "oci-archive",
        "dockerd",
        "podman",
        "docker",
        ":",
        "//",
        "/",
        "@",
        "1",
        "a",
        "~",
        ".",
        " ",
        "\0",
        "é",
    ]
    for number in range(20 * ROUNDS):
        chance = random.Random(number)
        text = "".join(chance.choice(words) for _ in range(chance.randrange(1, 9)))
        try:
            name: Any = parse_name(text)
        except EnrootSlurmError:
            continue
        if isinstance(name, LocalImage):
            assert is_local(text)
            assert parse_name(str(name)) == name
            assert "/" not in name.filename
