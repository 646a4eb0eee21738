"""collect.py TREE: lay out in TREE all that packages hold; ``install.sh`` there puts it where it belongs.

    TREE/packages       the program and the packages that it needs, for all releases of Python at once
    TREE/bin            the program, to run it here
    TREE/etc, docs ...  as in the repository

Compiled modules have the release of Python in their names, so that those for several lie beside each other. Only
wheels are taken, for a C library as old as that of Red Hat 8.
"""

from __future__ import annotations

import configparser
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[1]
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
TAGS = ("manylinux_2_17", "manylinux2014", "manylinux_2_28")
EXTRAS = ("signatures", "socks")
"""Of those in setup.cfg: a site without a network can't add them."""
FOLDERS = ("docs", "etc", "examples")
FILES = ("CHANGELOG.md", "LICENSE", "README.md")
UNWANTED = ("RECORD", "INSTALLER", "REQUESTED", "direct_url.json")
"""Notes of a wheel on itself, which are no longer true when several are unpacked into one directory."""


def main(tree: Path) -> None:
    """Make *tree* anew."""
    shutil.rmtree(tree, ignore_errors=True)
    packages = tree / "packages"
    packages.mkdir(parents=True)
    with tempfile.TemporaryDirectory() as directory:
        wheels = Path(directory)
        for python in PYTHONS:
            download(python, wheels / python)
        for wheel in sorted(wheels.glob("*/*.whl")):
            unpack(wheel, packages)
    no_caches = shutil.ignore_patterns("__pycache__", "*.so", "*.pyc")
    shutil.copytree(CHECKOUT / "enroot_slurm", packages / "enroot_slurm", ignore=no_caches)
    for name in FOLDERS:
        shutil.copytree(CHECKOUT / name, tree / name, ignore=no_caches)
    for name in FILES:
        shutil.copy2(CHECKOUT / name, tree / name)
    (tree / "bin").mkdir()
    shutil.copy2(CHECKOUT / "packaging/enroot-slurm", tree / "bin/enroot-slurm")
    for name in ("install.sh", "configure", "program", "names"):
        shutil.copy2(CHECKOUT / "packaging" / name, tree / name)
    for path in (tree, *tree.rglob("*")):  # whatever the umask was
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or os.access(path, os.X_OK) else 0o644)


def download(python: str, directory: Path) -> None:
    """Fetch the wheels for the release *python* into *directory*."""
    words = [f"--platform={tag}_{platform.machine()}" for tag in TAGS]
    words += ["--only-binary=:all:", f"--python-version={python}", "--implementation=cp", "-qq", "-d", str(directory)]
    words += ["--no-deps", *requirements(python)]
    subprocess.run([sys.executable, "-m", "pip", "download", "--disable-pip-version-check", *words], check=True)


def requirements(python: str) -> list[str]:
    """What is needed with the release *python*, each in the release that ``constraints.txt`` names.

    Raises: SystemExit, when a package that setup.cfg wants is not there.
    """
    lines = (CHECKOUT / "packaging/constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower(): line for line in lines if line and not line.startswith("#")}
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    wanted = [settings["options"]["install_requires"], *(settings["options.extras_require"][each] for each in EXTRAS)]
    for line in "\n".join(wanted).splitlines():
        name = line.partition("#")[0].partition(" ")[0].lower()
        if name and name not in pinned:
            raise SystemExit(f"packaging/constraints.txt lacks {name}")
    if python >= "3.14":
        del pinned["backports.zstd"]
    return list(pinned.values())


def unpack(wheel: Path, directory: Path) -> None:
    """Unpack *wheel* into *directory*, beside what others have put there."""
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.rpartition("/")[2] not in UNWANTED and ".data/" not in name:
                archive.extract(name, directory)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
