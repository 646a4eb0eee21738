#!/bin/sh
# deb.sh TREE DIRECTORY: make the Debian packages of what collect.py has laid out in TREE, for the Slurm that is installed.
# Their maintainer makes them: DEBFULLNAME and DEBEMAIL, else git's user, else the one who runs this.
set -eu
cd "$(dirname "$0")/.."
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' enroot_slurm/version.py)
work=$2/enroot-slurm-$version
rm -rf "$work" "$2"/*.deb "$2"/*.changes "$2"/*.buildinfo
mkdir -p "$2"
cp -R "$1" "$work"
cp -R packaging/debian "$work/debian"
name=${DEBFULLNAME:-$(git config user.name || id -un)}
maintainer="$name <${DEBEMAIL:-$(git config user.email || echo "$(id -un)@$(hostname -f)")}>"
awk -v "maintainer=$maintainer" '/^Maintainer:/ { $0 = "Maintainer: " maintainer } { print }' packaging/debian/control \
    > "$work/debian/control"
cat > "$work/debian/changelog" << END
enroot-slurm ($version-1) unstable; urgency=medium

  * See /usr/share/doc/enroot-slurm/CHANGELOG.md.

 -- $maintainer  $(date -Ru -d "@${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct 2> /dev/null || date +%s)}")
END
(cd "$work" && dpkg-buildpackage --build=binary --no-sign > ../build.log 2>&1) || {
    tail -n 30 "$2/build.log" >&2
    exit 1
}
rm -r "$work"
ls "$2"/*.deb
