"""The product's image equals what `enroot import` makes, file by file."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.corner_cases import GOOD, HARD
from support.images import Image, Index, Layer, buildah_push, busybox_layout, skopeo_copy
from support.layer_vectors import INODE_USED_AGAIN, layers_of, load_rows, unmet
from support.reference_tree import EnrootFailsError, Reference, rc_layer, reference_tree
from support.tools import require_root
from support.tree import diff_trees

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from conftest import Imported
    from support.registry import Registry

ROWS = load_rows()
FAMILIES = ["docker", "oci"]


@pytest.fixture(autouse=True)
def as_root() -> None:
    """The reference needs owners and devices."""
    require_root("the reference unpacks layers with their owners and devices")


def tars(layers: Sequence[Layer | bytes]) -> list[bytes]:
    return [layer if isinstance(layer, bytes) else layer.tar() for layer in layers]


def reference_of(layers: Sequence[Layer | bytes], config: Mapping[str, object], uri: str) -> Reference:
    """What enroot makes of it."""
    return reference_tree(tars(layers), rc_layer(config, uri))


def assert_equal(imported: Imported, reference: Reference) -> None:
    """The trees are equal, but for the times that enroot sets to that of the import."""
    names = ("the product", "enroot")
    lines = diff_trees(imported.tree, reference.tree, names=names, ignore_mtime_of=reference.made_now)
    assert not lines, f"{len(lines)} differences:\n" + "\n".join(lines[:40])


@pytest.mark.parametrize("name", [n for n in GOOD if n not in {"times_before_1970", "opaque_root"}])
def test_corner_case(name: str, push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """The image of each corner case is enroot's."""
    case = GOOD[name]
    layers = case.make()
    uri = push(Image(tars(layers), config=case.config))
    assert_equal(import_to_tree(uri), reference_of(layers, case.config, uri))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("compression", ["none", "zstd"])
def test_packing_does_not_matter(
    family: str, compression: str, push: Callable[..., str], import_to_tree: Callable[..., Imported]
) -> None:
    """Layers may be plain tar or zstd, in Docker's or OCI's words: the image is the same."""
    layers = GOOD["hard_link_target_hidden"].make()
    uri = push(Image(layers, family, compression))
    assert_equal(import_to_tree(uri), reference_of(layers, {}, uri))


def test_times_before_1970(push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """Such a time becomes what it becomes with enroot: the same 32 bits, read as a year after 2100.

    Since squashfs-tools 4.7, enroot's become 1970.
    """
    layers = GOOD["times_before_1970"].make()
    uri = push(Image(layers))
    imported, reference = import_to_tree(uri), reference_of(layers, {}, uri)
    early = {p for p, e in imported.tree.items() if e.mtime > 1 << 31}
    assert early
    assert all(reference.tree[p].mtime in {0, imported.tree[p].mtime} for p in early)
    assert_equal(imported, reference._replace(made_now=reference.made_now | early))


def test_opaque_marker_in_the_root(push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """It hides all lower layers as the specification says, or nothing as in the overlayfs that enroot mounts."""
    layers = GOOD["opaque_root"].make()
    uri = push(Image(layers))
    imported = import_to_tree(uri)
    as_specified = reference_of(layers[1:], {}, uri)
    as_enroot = reference_of(layers, {}, uri)
    now = as_enroot.made_now | as_specified.made_now
    assert [] in [diff_trees(imported.tree, r.tree, ignore_mtime_of=now) for r in (as_specified, as_enroot)]


def test_volume_with_white_space(push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """It is escaped as fstab(5) wants it, where enroot writes a line that can't be read; all else is enroot's."""
    config = {"Volumes": {"/a b": {}, "/c": {}}}
    uri = push(Image([Layer().file("f")], config=config))
    rc = rc_layer(config, uri)
    escaped = rc.files[b"etc/fstab"].replace(b"/a b", rb"/a\040b")
    reference = reference_tree([Layer().file("f").tar()], rc._replace(files={**rc.files, b"etc/fstab": escaped}))
    assert_equal(import_to_tree(uri), reference)


@pytest.mark.parametrize("name", HARD)
def test_hard_case(name: str, push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """What enroot's tar fails on is imported correctly, or is an IntegrityError: never a wrong image, never a crash."""
    from enroot_slurm.errors import IntegrityError

    uri = push(Image(HARD[name].make()))
    try:
        imported = import_to_tree(uri)
    except IntegrityError:
        return
    paths = {p: e for p, e in imported.tree.items() if not p.startswith((b"etc", b"."))}
    right = RIGHT.get(name)
    assert right is not None, f"imported, though no image of it is right: {paths}"
    assert {p: (e.kind, e.size, e.link) for p, e in paths.items()} == right


RIGHT: dict[str, dict[bytes, tuple[str, int, bytes]]] = {
    "below_a_symlink_with_dots": {
        b"a": ("dir", 0, b""),
        b"a/up": ("symlink", 0, b""),
        b"b": ("dir", 0, b""),
        b"b/f": ("file", 1, b""),
    },
    "hard_link_before_its_target": {
        b"later": ("file", 4, b"later"),
        b"link": ("file", 4, b"later"),
        b"x": ("file", 0, b""),
    },
    "hard_link_before_its_target_first": {b"later": ("file", 4, b"later"), b"link": ("file", 4, b"later")},
    "hard_link_into_a_lower_layer": {b"f": ("file", 5, b"f"), b"link": ("file", 5, b"f")},
    "below_a_file_of_the_layer": {b"f": ("dir", 0, b""), b"f/below": ("file", 0, b"")},
    "file_over_a_full_directory": {b"d": ("file", 4, b"")},
    "name_with_dots": {b"a": ("dir", 0, b""), b"b": ("file", 0, b""), b"x": ("file", 0, b"")},
    "whiteout_beside_its_name": {b"d": ("dir", 0, b""), b"d/2": ("file", 0, b""), b"f": ("file", 1, b"")},
    "whiteouts_of_aufs_itself": {b"x": ("file", 0, b""), b"y": ("file", 0, b"")},
}
"""Kind, size and link group of what the image has beside enroot's files."""


@pytest.mark.parametrize("row", ROWS, ids=[r["id"] for r in ROWS])
def test_vector(row, push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """Layers of other programs' tests: enroot's image, or where enroot fails, the row's result or an IntegrityError."""
    from enroot_slurm.errors import IntegrityError

    layers, expect = layers_of(row), row["expect"]
    uri = push(Image(layers))
    try:
        reference = reference_of(layers, {}, uri)
    except EnrootFailsError:
        try:
            imported = import_to_tree(uri)
        except IntegrityError:
            if "error" in expect or "either" in expect:
                return
            raise
        assert "error" not in expect
        assert unmet(row, imported.tree) == []
        return
    assert "error" not in expect
    imported = import_to_tree(uri)
    if row["id"] in INODE_USED_AGAIN:
        assert imported.tree[b"loophole-victim"].kind == "file"
        return
    assert_equal(imported, reference)
    # Where enroot itself does not do what other programs' tests want, being equal to it is all.
    if row["enroot"]["agrees"]:
        assert unmet(row, imported.tree, made_now=reference.made_now) == []


@pytest.mark.parametrize("tool", ["umoci", "skopeo-docker", "skopeo-zstd", "buildah"])
def test_images_of_real_tools(
    tool: str, registry: Registry, repository: str, import_to_tree: Callable[..., Imported], tmp_path, stored_layers
) -> None:
    """Images that umoci and buildah made and skopeo converted are enroot's."""
    destination = f"{registry.host}/{repository}:t"
    work = tmp_path / "tool"
    work.mkdir()
    if tool == "buildah":
        buildah_push(work, destination, layers=3)
    else:
        layout = busybox_layout(
            work, config=("--config.cmd=/bin/sh", "--config.workingdir=/tmp/x", "--config.env=A=b c")
        )
        options = {"skopeo-docker": ["--format", "v2s2"], "skopeo-zstd": ["--dest-compress-format", "zstd"]}.get(
            tool, []
        )
        skopeo_copy(f"oci:{layout}:latest", f"docker://{destination}", *options)
    layers, config = stored_layers(registry, repository, "t")
    uri = registry.uri(repository, "t")
    assert_equal(import_to_tree(uri), reference_of(layers, config, uri))


def test_image_of_an_index(push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """From an index, each platform's own layers and config make the image."""
    images = [
        Image([Layer().file("arch", arch.encode())], "oci", config={"Env": [f"ARCH={arch}"]}, architecture=arch)
        for arch in ("amd64", "arm64", "ppc64le")
    ]
    uri = push(Index(images, attestations=True))
    for image in images:
        reference = reference_of(image.layers, image.config, uri)  # type: ignore[arg-type]
        assert_equal(import_to_tree(uri, arch=image.architecture), reference)


def test_import_from_the_cache_is_the_same(push: Callable[..., str], import_to_tree: Callable[..., Imported]) -> None:
    """The second import, with all layers cached, gives the same tree."""
    layers = GOOD["whiteouts"].make()
    uri = push(Image(layers))
    reference = reference_of(layers, {}, uri)
    first, second = import_to_tree(uri), import_to_tree(uri)
    assert_equal(first, reference)
    assert_equal(second, reference)
    assert (second.result.layers_fetched, second.result.layers_reused) == (0, 2)


@pytest.fixture(params=["joined", "streamed"])
def import_environment(request, import_environment):
    """The environment of an import, with images of single layers and without."""
    return {**import_environment, "ENROOT_SLURM_LAYER_CACHE": "yes" if request.param == "joined" else "no"}
