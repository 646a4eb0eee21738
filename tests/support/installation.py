"""The program as an administrator installs it: where every user can run it, which this checkout may not be."""

from __future__ import annotations

import os
import shutil
import site
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import enroot_slurm

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Installation"]

CHECKOUT = Path(enroot_slurm.__file__).parents[1]


class Installation(NamedTuple):
    """What ``etc/install-slurm.sh`` has installed, and the interpreter that it uses."""

    directory: Path

    @classmethod
    def make(cls) -> Installation:
        """Install into a new directory that all can read; `remove` it."""
        made = cls(Path(tempfile.mkdtemp(prefix="es-install-", dir="/var/tmp")))
        made.directory.chmod(0o755)
        base = next(p for p in (Path(sys.executable).resolve(), Path("/usr/bin/python3")) if _is_open(p))
        subprocess.run([base, "-m", "venv", "--without-pip", made.directory / "python"], check=True)
        [packages] = (made.directory / "python/lib").glob("python3*/site-packages")
        # Copies: clusters hide directories such as /tmp, where the checkout may be, and users may not be let into it.
        shutil.copytree(CHECKOUT / "enroot_slurm", packages / "enroot_slurm")
        for library in map(Path, site.getsitepackages()):
            for name in _names(library):
                shutil.copytree(library / name, packages / name, dirs_exist_ok=True)
            for module in library.glob("_cffi_backend*.so"):
                shutil.copy2(module, packages)
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHON": str(made.python),
            "SYSCONFDIR": str(made.etc),
            "LIBEXECDIR": str(made.libexec),
            "LIBDIR": str(made.plugin.parent),
        }
        command = ["sh", str(CHECKOUT / "etc/install-slurm.sh")]
        done = subprocess.run(command, check=False, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return made

    @property
    def python(self) -> Path:
        return self.directory / "python/bin/python3"

    @property
    def etc(self) -> Path:
        return self.directory / "etc"

    @property
    def prolog(self) -> Path:
        return self.etc / "slurm/prolog.d/50-enroot-slurm"

    @property
    def epilog(self) -> Path:
        return self.etc / "slurm/epilog.d/50-enroot-slurm"

    @property
    def libexec(self) -> Path:
        return self.directory / "libexec"

    @property
    def plugin(self) -> Path:
        """The SPANK plug-in; its line for plugstack.conf is in ``etc/slurm/plugstack.conf.d``."""
        return self.directory / "lib/spank_enroot_slurm.so"

    @property
    def hooks(self) -> dict[str, str]:
        """The lines of slurm.conf for the prolog and the epilog."""
        return {"Prolog": str(self.prolog), "Epilog": str(self.epilog), "PrologFlags": "Alloc,DeferBatch"}

    def slurm_files(self, *names: str) -> dict[str, str]:
        """The texts of these files for Slurm's own directory of settings."""
        return {name: (self.etc / "slurm" / name).read_text() for name in names}

    def program(self) -> Path:
        """A directory with an executable ``enroot-slurm`` for ``PATH``."""
        directory = self.directory / "bin"
        directory.mkdir(exist_ok=True)
        file = directory / "enroot-slurm"
        file.write_text(f"#!{self.python} -I\nfrom enroot_slurm.cli import main\nraise SystemExit(main())\n")
        file.chmod(0o755)
        return directory

    def remove(self) -> None:
        shutil.rmtree(self.directory)


def _is_open(path: Path) -> bool:
    """Whether every user can read *path*."""
    return all(each.stat().st_mode & 0o005 == 0o005 for each in (path, *path.parents))


def _names(libraries: Path) -> Iterator[str]:
    wanted = [
        "requests",
        "urllib3",
        "certifi",
        "idna",
        "charset_normalizer",
        "yaml",
        "zlib_ng",
        "backports",
        "filelock",
        "tqdm",
        "cryptography",
        "cffi",
    ]
    for name in wanted:
        if (libraries / name).is_dir():
            yield name
