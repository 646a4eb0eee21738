#!/bin/sh
# check.sh: make the packages, and try them in clean trees: Debian 12 and 13, and Ubuntu 24.04, each with the plug-in for its
# own Slurm. For releases; needs root, Debian and a mirror. SUITES="bookworm trixie noble"; UBUNTU=http://archive.ubuntu.com/ubuntu
set -eu
cd "$(dirname "$0")/.."
sh etc/bootstrap.sh dev debhelper dpkg-dev fakeroot lintian mmdebstrap docker-registry skopeo umoci busybox-static \
    squashfs-tools curl
make build
DEBFULLNAME=${DEBFULLNAME:-$(git config user.name || echo "A check of packages")}
DEBEMAIL=${DEBEMAIL:-$(git config user.email || echo packages@check.test)}
export DEBFULLNAME DEBEMAIL # a builder has no git
for suite in ${SUITES:-bookworm trixie noble}; do
    echo "==== $suite"
    MIRROR=
    [ "$suite" != noble ] || MIRROR="deb [trusted=yes] ${UBUNTU:-http://archive.ubuntu.com/ubuntu} noble main universe"
    export MIRROR
    builder=$(mktemp -d "/var/tmp/enroot-slurm-build-$suite.XXXXXX")
    trap 'rm -rf --one-file-system "$builder"' EXIT
    mmdebstrap --quiet --variant=minbase --include=debhelper,build-essential,fakeroot,python3,libslurm-dev \
        --aptopt='Acquire::Check-Valid-Until "false"' --dpkgopt=force-unsafe-io "$suite" "$builder" ${MIRROR:+"$MIRROR"}
    mkdir -p "$builder/srv/source/build"
    cp -R packaging enroot_slurm "$builder/srv/source/"
    cp -R build/tree "$builder/srv/source/build/tree"
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct)} chroot "$builder" sh /srv/source/packaging/deb.sh \
        build/tree build/deb
    mkdir -p "build/deb-$suite"
    rm -f "build/deb-$suite"/*
    cp "$builder"/srv/source/build/deb/enroot* "build/deb-$suite/"
    rm -rf --one-file-system "$builder"
    lintian --allow-root --fail-on error "build/deb-$suite"/*.changes
    sh packaging/try-deb.sh "$suite" "build/deb-$suite"
done
sh packaging/dist.sh build/tree build/dist-1
sh packaging/dist.sh build/tree build/dist-2
for file in build/dist-1/*; do cmp "$file" "build/dist-2/${file##*/}"; done
