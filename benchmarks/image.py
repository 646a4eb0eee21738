"""The images that are imported: built once, kept in the work directory, pushed into a registry.

    small  Debian, Python, configuration, an application: 4 layers
    full   with compilers, and PyTorch and other scientific packages below the configuration: 6 layers
    many   a million tiny files in 2 layers

A step of a build changes a directory, as an instruction of a Dockerfile would.  What it changed becomes a layer:
members sorted by name, removed files as whiteouts, gzip -6.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

__all__ = ["IMAGES", "BuiltImage", "build"]

_RECIPE = 2  # raise it when the steps change, and images are built again
_HOST_DIRECTORIES = {"dev", "proc", "sys"}  # only they themselves are in an image
_SUITE = "bookworm"
_COMPILERS = ("gcc", "g++", "gfortran", "make", "cmake", "git")
_SCIENCE = ("numpy", "scipy", "pandas", "matplotlib", "scikit-learn")
_MORE_SCIENCE = ("pyarrow", "polars", "jax", "jaxlib", "llvmlite", "numba", "opencv-python-headless")
_TORCH = "torch==2.13.0"  # its build for CPUs
_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LC_ALL": "C.UTF-8",
    "DEBIAN_FRONTEND": "noninteractive",
}
_DOCKER_TO_UNAME = {"x86_64": "amd64", "aarch64": "arm64"}


class BuiltImage(NamedTuple):
    """An image as an OCI layout in *directory*."""

    name: str
    directory: Path

    @property
    def layout(self) -> Path:
        return self.directory / "oci"

    @property
    def merged(self) -> Path | None:
        """The whole tree as one tar archive; None where there is none."""
        path = self.directory / "merged.tar"
        return path if path.exists() else None

    @property
    def facts(self) -> dict[str, int]:
        """Counts and sizes: ``layers``, ``compressed``, ``raw`` and ``members``."""
        return json.loads((self.directory / "facts.json").read_text())

    @property
    def diff_ids(self) -> list[str]:
        """The digests of the layers' tar archives."""
        manifest = json.loads((self.directory / "manifest.json").read_text())
        config = self.layout / "blobs" / manifest["config"]["digest"].replace(":", "/")
        return json.loads(config.read_text())["rootfs"]["diff_ids"]

    @property
    def layers(self) -> list[Path]:
        """The layers' blobs, the lowest first."""
        manifest = json.loads((self.directory / "manifest.json").read_text())
        return [self.layout / "blobs/sha256" / layer["digest"].partition(":")[2] for layer in manifest["layers"]]

    @property
    def tag(self) -> str:
        """What tells builds apart, as a tag."""
        return hashlib.sha256((self.directory / "manifest.json").read_bytes()).hexdigest()[:12]


def build(name: str, work: Path) -> BuiltImage:
    """The image *name*, built below *work* unless it is there."""
    image = BuiltImage(name, work / "images" / name)
    if (image.directory / "facts.json").exists() and image.facts["recipe"] == _RECIPE:
        return image
    shutil.rmtree(image.directory, ignore_errors=True)
    image.directory.mkdir(parents=True)
    print(f"building the image '{name}' in {image.directory}, once", file=sys.stderr)
    layout = _Layout(image)
    IMAGES[name](layout)
    layout.close()
    return image


# ---- layers


class _LayerFile:
    """A layer's tar archive, compressed and hashed while it is written."""

    def __init__(self, directory: Path) -> None:
        self.temporary = directory / "layer.tmp"
        self.raw = 0
        self._diff_id = hashlib.sha256()
        self._out = self.temporary.open("wb")
        program = shutil.which("pigz") or "gzip"
        self._gzip = subprocess.Popen([program, "-6", "-n"], stdin=subprocess.PIPE, stdout=self._out)

    @property
    def diff_id(self) -> str:
        return f"sha256:{self._diff_id.hexdigest()}"

    def write(self, data: bytes) -> int:
        self._diff_id.update(data)
        self.raw += len(data)
        assert self._gzip.stdin
        self._gzip.stdin.write(data)
        return len(data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._gzip.stdin
        self._gzip.stdin.close()
        status = self._gzip.wait()
        self._out.close()
        if status and error is None:
            raise OSError(f"gzip ended with status {status}")


class _Layout:
    """An OCI image layout that grows layer by layer."""

    def __init__(self, image: BuiltImage) -> None:
        self.image = image
        self.root = image.directory / "root"
        self._blobs = image.layout / "blobs/sha256"
        self._blobs.mkdir(parents=True)
        self._layers: list[dict[str, object]] = []
        self._diff_ids: list[str] = []
        self._steps: list[str] = []
        self._members = self._raw = 0
        self._before: dict[str, tuple[int, ...]] = {}

    def step(self, comment: str, change: Callable[[Path], None]) -> None:
        """Let *change* work on the root directory, and make a layer of the difference."""
        print(f"  {comment}", file=sys.stderr)
        self._steps.append(comment)
        self.root.mkdir(exist_ok=True)
        change(self.root)
        after = dict(_snapshot(self.root))
        changed = [path for path, state in after.items() if self._before.get(path) != state]
        removed = {path for path in self._before if path not in after}
        removed = {path for path in removed if path.rpartition("/")[0] not in removed}
        self._before = after
        with (
            _LayerFile(self.image.directory) as out,
            tarfile.open(fileobj=out, mode="w|", format=tarfile.PAX_FORMAT, bufsize=1 << 20) as tar,
        ):
            for path in changed:
                self._add(tar, path)
            for path in sorted(removed):
                parent, slash, name = path.rpartition("/")
                tar.addfile(tarfile.TarInfo(f"{parent}{slash}.wh.{name}"))
        self._finish(out, len(changed) + len(removed))

    def members(self, comment: str, members: Iterable[tuple[tarfile.TarInfo, bytes]]) -> None:
        """Make a layer of *members*."""
        print(f"  {comment}", file=sys.stderr)
        self._steps.append(comment)
        count = 0
        with _LayerFile(self.image.directory) as out:
            buffer = bytearray()
            for count, (info, content) in enumerate(members, 1):  # noqa: B007
                buffer += info.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % 512)
                if len(buffer) > 1 << 20:
                    out.write(bytes(buffer))
                    buffer.clear()
            out.write(bytes(buffer) + bytes(1024))
        self._finish(out, count)

    def close(self) -> None:
        """Write the config, the manifest, the index and the merged archive."""
        config = {
            "architecture": _DOCKER_TO_UNAME.get(platform.machine(), platform.machine()),
            "os": "linux",
            "created": "2026-01-01T00:00:00Z",
            "config": {"Env": ["PATH=" + _ENVIRONMENT["PATH"]], "Cmd": ["/bin/bash"], "WorkingDir": "/srv/app"},
            "rootfs": {"type": "layers", "diff_ids": self._diff_ids},
            "history": [{"created": "2026-01-01T00:00:00Z", "created_by": step} for step in self._steps],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": self._document("application/vnd.oci.image.config.v1+json", config),
            "layers": self._layers,
        }
        index = {"schemaVersion": 2, "manifests": [self._document(str(manifest["mediaType"]), manifest)]}
        (self.image.layout / "index.json").write_text(json.dumps(index))
        (self.image.layout / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        (self.image.directory / "manifest.json").write_text(json.dumps(manifest))
        if self.root.exists():
            excluded = [f"--exclude=./{name}/*" for name in sorted(_HOST_DIRECTORIES)]
            merged = self.image.directory / "merged.tar"
            _run(
                "tar", "--format=gnu", "--sort=name", "--numeric-owner", *excluded, "-cf", merged, "-C", self.root, "."
            )
            shutil.rmtree(self.root)
        facts = {
            "recipe": _RECIPE,
            "layers": len(self._layers),
            "compressed": sum(path.stat().st_size for path in self.image.layers),
            "raw": self._raw,
            "members": self._members,
        }
        (self.image.directory / "facts.json").write_text(json.dumps(facts))

    def _add(self, tar: tarfile.TarFile, path: str) -> None:
        full = self.root / path
        info = tar.gettarinfo(full, path)
        if info is None:  # a socket
            return
        info.mtime = int(info.mtime)
        info.uname = info.gname = ""
        if info.isreg():
            with full.open("rb") as file:
                tar.addfile(info, file)
        else:
            tar.addfile(info)

    def _finish(self, layer: _LayerFile, members: int) -> None:
        with layer.temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = layer.temporary.stat().st_size
        layer.temporary.rename(self._blobs / digest)
        media_type = "application/vnd.oci.image.layer.v1.tar+gzip"
        self._layers.append({"mediaType": media_type, "digest": f"sha256:{digest}", "size": size})
        self._diff_ids.append(layer.diff_id)
        self._members += members
        self._raw += layer.raw

    def _document(self, media_type: str, value: object) -> dict[str, object]:
        data = json.dumps(value).encode()
        digest = hashlib.sha256(data).hexdigest()
        (self._blobs / digest).write_bytes(data)
        return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _snapshot(root: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Every path below *root*, sorted, with what changes when it is changed."""
    for directory, names, files in os.walk(root):
        relative = os.path.relpath(directory, root)
        names.sort()
        for name in sorted(names + files):
            path = name if relative == "." else f"{relative}/{name}"
            status = (root / path).lstat()
            yield path, (status.st_ino, status.st_mode, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        if relative in _HOST_DIRECTORIES:
            names.clear()
        elif relative == ".":
            names[:] = [name for name in names if name not in _HOST_DIRECTORIES]


# ---- steps


def _run(*command: object, **options: object) -> None:
    subprocess.run([str(word) for word in command], check=True, stdout=subprocess.DEVNULL, **options)  # type: ignore[call-overload]


def _debian(root: Path) -> None:
    _run("mmdebstrap", "--quiet", "--variant=minbase", "--mode=root", "--components=main", _SUITE, root)


def _apt(*packages: str) -> Callable[[Path], None]:
    def install(root: Path) -> None:
        apt = ("chroot", root, "apt-get", "-qq", "-o", "Dpkg::Use-Pty=0")
        _run(*apt, "update", env=_ENVIRONMENT)
        _run(*apt, "install", "--no-install-recommends", *packages, env=_ENVIRONMENT, stderr=subprocess.DEVNULL)
        _run(*apt, "clean", env=_ENVIRONMENT)
        for path in (root / "var/lib/apt/lists").iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return install


def _science(root: Path) -> None:
    target = root / "usr/local/lib/python3.11/dist-packages"
    pip = (sys.executable, "-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target", target)
    try:
        _run(*pip, *_SCIENCE, _TORCH, stderr=subprocess.DEVNULL)
    except subprocess.CalledProcessError:
        print(f"  no {_TORCH} here: other packages stand in for it", file=sys.stderr)
        _run(*pip, *_SCIENCE, *_MORE_SCIENCE)


def _configuration(root: Path) -> None:
    (root / "etc/profile.d").mkdir(exist_ok=True)
    (root / "etc/profile.d/science.sh").write_text("export OMP_NUM_THREADS=1 MPLBACKEND=agg\n")
    (root / "etc/hostname").write_text("container\n")
    (root / "etc/motd").unlink(missing_ok=True)
    (root / "etc/matplotlibrc").write_text("backend: agg\n")
    shutil.rmtree(root / "usr/share/doc", ignore_errors=True)
    with (root / "etc/bash.bashrc").open("a") as file:
        file.write("alias ll='ls -l'\n")


def _application(root: Path) -> None:
    package = root / "srv/app/model"
    package.mkdir(parents=True)
    for number in range(40):
        (package / f"part_{number:02}.py").write_text(f'"""Part {number}."""\n\n' + f"VALUE = {number}\n" * 200)
    (root / "srv/app/main.py").write_text("import model\n")
    (root / "srv/app/run").symlink_to("main.py")
    (root / "srv/app/data.bin").write_bytes(hashlib.shake_256(b"data").digest(4 << 20))


def _tiny_files(layer: int) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """Half a million files; a twentieth of the lower layer's are hidden by the upper one's.

    Their sizes differ: where many files have one size, mksquashfs's search for duplicates takes most of the time.
    """
    first = layer * 475_000
    for number in range(first, first + 500_000):
        directory = f"data/{number // 50_000:02}/{number // 500:06}"
        if number % 500 == 0 or number == first:
            info = tarfile.TarInfo(directory + "/")
            info.type, info.mode, info.mtime = tarfile.DIRTYPE, 0o755, 1_700_000_000
            yield info, b""
        content = (b"%d\n" % (number * 7919) * 200)[: 1 + number % 997]
        info = tarfile.TarInfo(f"{directory}/a_sample_with_a_name_{number:09}.txt")
        info.size, info.mtime = len(content), 1_700_000_000
        yield info, content


def _build_small(layout: _Layout) -> None:
    layout.step(f"Debian {_SUITE}", _debian)
    layout.step("Python", _apt("python3", "ca-certificates"))
    layout.step("configuration", _configuration)
    layout.step("an application", _application)


def _build_full(layout: _Layout) -> None:
    layout.step(f"Debian {_SUITE}", _debian)
    layout.step("Python", _apt("python3", "ca-certificates"))
    layout.step("compilers", _apt(*_COMPILERS))
    layout.step("scientific packages", _science)
    layout.step("configuration", _configuration)
    layout.step("an application", _application)


def _build_many(layout: _Layout) -> None:
    for layer in range(2):
        layout.members(f"half a million files, layer {layer + 1}", _tiny_files(layer))


IMAGES: dict[str, Callable[[_Layout], None]] = {"small": _build_small, "full": _build_full, "many": _build_many}
"""Names and builders."""

if __name__ == "__main__":
    work, names = Path(sys.argv[1]).absolute(), sys.argv[2:] or list(IMAGES)
    for wanted in names:
        print(wanted, build(wanted, work).facts)
