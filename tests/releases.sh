#!/bin/sh
# releases.sh SUITE...: pass the tests on other releases of Debian (trixie, sid), with their Slurm, Python and tools.
# Each gets a tree below /var/tmp, removed at the end: some 2 GB. Needs root, git and mmdebstrap; for Ubuntu, MIRROR has
# the line of sources.list: MIRROR="deb [trusted=yes] http://archive.ubuntu.com/ubuntu noble main universe"
set -eu
cd "$(dirname "$0")/.."
root=
trap '[ -z "$root" ] || rm -rf --one-file-system "$root"' EXIT
trap 'exit 130' INT TERM HUP
for suite in "$@"; do
    root=$(mktemp -d "/var/tmp/enroot-slurm-$suite.XXXXXX")
    chmod 755 "$root"
    # The mirror may be a snapshot, whose lists are old.
    mmdebstrap --quiet --variant=minbase --include=apt,ca-certificates --aptopt='Acquire::Check-Valid-Until "false"' \
        "$suite" "$root" ${MIRROR:+"$MIRROR"}
    cp /etc/resolv.conf "$root/etc/"
    cp /etc/ssl/certs/ca-certificates.crt "$root/etc/ssl/certs/" # with what this site has added
    mkdir "$root/srv/enroot-slurm"
    git ls-files -z | tar --create --null --files-from=- | tar --extract --directory="$root/srv/enroot-slurm"
    # The tree becomes / of its own mounts, and not only of its processes: those could have no user namespaces.
    # shellcheck disable=SC2016  # the inner shell's
    unshare --mount --propagation private sh -euc '
        mount --bind "$1" "$1"
        cd "$1"
        mount -t proc proc proc
        mount --rbind /sys sys
        mount --rbind /dev dev
        mount -t tmpfs tmpfs run
        mkdir run/lock
        pivot_root . mnt
        cd /srv/enroot-slurm
        umount -l /mnt
        exec env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 \
            PIP_CERT=/etc/ssl/certs/ca-certificates.crt sh tests/run.sh
    ' sh "$root"
    rm -rf --one-file-system "$root"
    root=
done
