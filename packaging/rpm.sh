#!/bin/sh
# rpm.sh TREE DIRECTORY: make the rpms of what collect.py has laid out in TREE; that of the plug-in where Slurm's headers
# are, for that release. SLURM=/usr: where they are.
set -eu
cd "$(dirname "$0")/.."
tree=$(readlink -f "$1")
mkdir -p "$2"
directory=$(readlink -f "$2")
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' enroot_slurm/version.py)
headers=${SLURM:-/usr}/include/slurm
plugin=0
release=0
next=0
if [ -e "$headers/spank.h" ]; then
    plugin=1
    number=$(sed -n 's/^#define SLURM_VERSION_NUMBER \(0x[0-9a-f]*\)$/\1/p' "$headers/slurm_version.h")
    release=$(printf '%d.%02d' $((number >> 16 & 255)) $((number >> 8 & 255)))
    next=$(printf '%d.%02d' $((number >> 16 & 255)) $(((number >> 8 & 255) + 1)))
fi
rm -f "$directory"/*.rpm
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}
export SOURCE_DATE_EPOCH
rpmbuild -bb --define "_topdir $work" --define "_rpmdir $directory" --define "_build_name_fmt %%{NAME}-%%{VERSION}-%%{RELEASE}.%%{ARCH}.rpm" \
    --define "tree $tree" --define "version_ $version" --define "with_plugin $plugin" \
    --define "plugin_ $([ "$plugin" = 1 ] && echo yes || echo no)" \
    --define "slurm_release $release" --define "slurm_next $next" \
    --define "use_source_date_epoch_as_buildtime 1" --define "clamp_mtime_to_source_date_epoch 1" \
    packaging/enroot-slurm.spec > "$directory/build.log" 2>&1 || {
    tail -n 30 "$directory/build.log" >&2
    exit 1
}
ls "$directory"/*.rpm
