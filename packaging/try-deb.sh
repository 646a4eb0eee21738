#!/bin/sh
# try-deb.sh SUITE DIRECTORY: install, use, upgrade, remove and purge the packages in DIRECTORY in a clean tree of Debian or
# Ubuntu, without a network. Needs root, mmdebstrap, and what the demo needs; for Ubuntu, MIRROR has a line of sources.list.
set -eu
cd "$(dirname "$0")/.."
suite=$1
directory=$(readlink -f "$2")
root=$(mktemp -d "/var/tmp/enroot-slurm-$suite.XXXXXX")
trap 'rm -rf --one-file-system "$root" "$root.work"' EXIT
trap 'exit 130' INT TERM HUP
chmod 755 "$root"
mkdir -m 1777 "$root.work"
# What the packages depend on; the mirror may be a snapshot, whose lists are old.
mmdebstrap --quiet --variant=minbase --include=python3,liblzo2-2,ca-certificates,squashfs-tools,slurm-client \
    --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io --dpkgopt='path-exclude=/usr/share/locale/*' \
    "$suite" "$root" ${MIRROR:+"$MIRROR"}
unshare --mount --net --propagation private sh packaging/try-in-tree.sh "$root" "$directory"
