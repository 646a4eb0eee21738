#!/bin/sh
# dist.sh TREE DIRECTORY: make sdist, wheel, and an archive with everything for sites without a network. Made twice, with
# the same SOURCE_DATE_EPOCH (by default that of the last commit), they are the same bytes.
set -eu
cd "$(dirname "$0")/.."
umask 022
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}
export SOURCE_DATE_EPOCH
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' enroot_slurm/version.py)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
pack() { # DIRECTORY FILE: what is below the directory, whatever the order and the times of the files
    tar --create --directory="$(dirname "$1")" --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 \
        --numeric-owner --format=gnu --mode=go-w "$(basename "$1")" | gzip -9n > "$2"
}

mkdir -p "$2"
# A copy, for setuptools leaves files where it works, and takes what it has left before.
mkdir "$work/source"
tar --create --exclude-vcs --exclude=__pycache__ --exclude='*.so' CHANGELOG.md LICENSE MANIFEST.in Makefile README.md \
    docs enroot_slurm etc examples packaging pyproject.toml setup.cfg | tar --extract --directory="$work/source"
.venv/bin/python -m build --outdir "$work/dist" "$work/source" > "$work/log" 2>&1 || {
    tail -n 20 "$work/log" >&2
    exit 1
}
mkdir "$work/sdist"
tar --extract --file "$work/dist/enroot_slurm-$version.tar.gz" --directory "$work/sdist"
pack "$work/sdist/enroot_slurm-$version" "$2/enroot_slurm-$version.tar.gz"
cp "$work/dist/enroot_slurm-$version-py3-none-any.whl" "$2/"
.venv/bin/twine check --strict "$2/enroot_slurm-$version.tar.gz" "$2/enroot_slurm-$version-py3-none-any.whl"

cp -R "$1" "$work/enroot-slurm-$version"
find "$work/enroot-slurm-$version" -name __pycache__ -prune -exec rm -rf {} +
pack "$work/enroot-slurm-$version" "$2/enroot-slurm-$version-linux-$(uname -m).tar.gz"
ls "$2"/*"$version"*
