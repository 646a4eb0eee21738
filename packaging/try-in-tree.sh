#!/bin/sh
# try-in-tree.sh ROOT DIRECTORY: what try-deb.sh does in the tree ROOT, in namespaces of its own.
set -eu
root=$1
set -- "$2"/enroot-slurm_*.deb "$2"/enroot-slurm-spank_*.deb
python3 -c 'import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack("16sH14x", b"lo", 0x49))' # up
mkdir "$root/var/tmp/packages" "$root$root.work" 2> /dev/null || mkdir -p "$root/var/tmp/packages" "$root$root.work"
mount --bind "$root.work" "$root$root.work"
mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
cp "$@" "$root/var/tmp/packages"
config=$root/etc/enroot-slurm/config.yaml

inside() { env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive chroot "$root" "$@"; }
step() { printf '== %s\n' "$*"; }
fail() {
    printf 'try-in-tree.sh: %s\n' "$*" >&2
    exit 1
}

step "Install, with no network"
inside sh -c 'dpkg -i /var/tmp/packages/*.deb'
inside enroot-slurm version
inside /usr/lib/enroot-slurm/bin/python3 -I -c 'import enroot_slurm.trust.crypto, socks, zlib_ng, yaml.cyaml'
inside test -d /etc/slurm/prolog.d && fail "Slurm's directory was changed"
inside /usr/share/enroot-slurm/prolog.d/50-enroot-slurm || fail "the prolog would drain the node"

step "The demo's import, and what completion knows of the image"
printf '#!/bin/sh\nexec chroot "%s" /usr/bin/enroot-slurm "$@"\n' "$root" > "$root.work/program"
chmod 755 "$root.work/program"
ENROOT_SLURM=$root.work/program TMPDIR=$root.work sh examples/demo.sh --keep | tee "$root.work/said"
cache=$(echo "$root.work"/enroot-slurm-demo.*/cache)
image=$(sed -n '/^docker:/{p;q}' "$root.work/said")
inside env ENROOT_ALLOW_HTTP=yes ENROOT_CACHE_PATH="$cache" enroot-slurm get "$image"
kill "$(sed -n 's/^127.*, process //p' "$root.work/said")"
names=$(inside env ENROOT_CACHE_PATH="$cache" /usr/lib/enroot-slurm/libexec/names docker://127)
[ "$names" = "$image" ] || fail "completion knows '$names', and not $image"
[ -n "$(find "$cache" -type f -size +100k)" ] || fail "nothing is cached"

step "The plug-in, in the Slurm that it was built for"
inside sh -c 'mkdir -p /etc/slurm && echo "include /usr/share/enroot-slurm/plugstack.conf.d/*.conf" > /etc/slurm/plugstack.conf
printf "%s\n" ClusterName=c SlurmctldHost=localhost AuthType=auth/none CredType=cred/none > /etc/slurm/slurm.conf'
inside srun --help | grep -q -e --enroot-image || fail "srun has no --enroot-image"

step "Upgrade: the site's settings stay"
echo "max_imports: 3" >> "$config"
dpkg-deb --raw-extract "$1" "$root.work/next"
sed -i 's/^Version: .*/&+1/' "$root.work/next/DEBIAN/control"
echo "# new in this version" >> "$root.work/next/etc/enroot-slurm/config.yaml"
sed -i "/etc.enroot-slurm.config.yaml/d" "$root.work/next/DEBIAN/md5sums"
dpkg-deb --build --root-owner-group -Zgzip "$root.work/next" "$root/var/tmp/packages/next.deb" > /dev/null
inside dpkg -i --force-confold,depends /var/tmp/packages/next.deb
tail -n 1 "$config" | grep -qx 'max_imports: 3' || fail "an upgrade changes config.yaml"
[ -e "$config.dpkg-dist" ] || fail "the new config.yaml is not there"
inside enroot-slurm config | grep -q 'max_imports.* 3 ' || fail "the settings are not read"

step "Remove and purge: settings go with the second, caches with neither"
inside dpkg --remove enroot-slurm-spank enroot-slurm
[ ! -e "$root/usr/lib/enroot-slurm" ] || fail "left: $(find "$root/usr/lib/enroot-slurm" | head)"
[ -e "$config" ] || fail "config.yaml is gone"
inside dpkg --purge enroot-slurm-spank enroot-slurm
[ ! -e "$root/etc/enroot-slurm" ] || fail "left: $(find "$root/etc/enroot-slurm")"
[ -n "$(find "$cache" -type f -size +100k)" ] || fail "the cache is gone"
step "All is well"
