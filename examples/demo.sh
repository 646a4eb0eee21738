#!/bin/sh
# demo.sh [--keep]: the main job on a machine of one: a registry on loopback, an image in it, and its import.
# With --keep the registry stays, to play with. Installs what is missing (Debian or Ubuntu).
set -eu
cd "$(dirname "$0")/.."
# With ENROOT_SLURM that program is tried, and all else has to be there.
program=${ENROOT_SLURM:-.venv/bin/enroot-slurm}
[ -n "${ENROOT_SLURM-}" ] || sh etc/bootstrap.sh "" docker-registry skopeo umoci busybox-static squashfs-tools curl

keep=no
[ "${1-}" = --keep ] && keep=yes
work=$(mktemp -d "${TMPDIR:-/tmp}/enroot-slurm-demo.XXXXXX")
registry=
finish() {
    status=$?
    if [ "$keep" = no ] || [ "$status" != 0 ]; then
        [ -z "$registry" ] || kill "$registry" 2> /dev/null || :
        rm -rf "$work"
    fi
}
trap finish EXIT
trap 'exit 130' INT TERM

step() {
    printf '\n== %s\n' "$*"
}

step "A registry on loopback"
port=$(.venv/bin/python -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
cat > "$work/registry.yml" << EOF
version: 0.1
log: {level: error, accesslog: {disabled: true}}
storage: {filesystem: {rootdirectory: $work/registry}}
http: {addr: "127.0.0.1:$port"}
EOF
docker-registry serve "$work/registry.yml" > "$work/registry.log" 2>&1 &
registry=$!
for _ in 1 2 3 4 5 6 7 8 9 10; do
    curl -fs "http://127.0.0.1:$port/v2/" > /dev/null && break
    sleep 0.3
done
echo "127.0.0.1:$port, process $registry"

step "An image in it: busybox, made by umoci and pushed by skopeo"
mkdir -p "$work/root/bin" "$work/root/tmp"
cp "$(command -v busybox)" "$work/root/bin/busybox"
for applet in sh ls cat echo uname; do ln -s busybox "$work/root/bin/$applet"; done
umoci init --layout "$work/oci"
umoci new --image "$work/oci:busybox"
umoci insert --rootless --image "$work/oci:busybox" "$work/root" / > /dev/null
umoci config --image "$work/oci:busybox" --config.cmd /bin/sh --config.env PATH=/bin --config.workingdir /tmp
image=127.0.0.1:$port/demo/busybox:1.0
skopeo copy -q --insecure-policy --dest-tls-verify=false "oci:$work/oci:busybox" "docker://$image"
echo "docker://$image"

step "enroot-slurm import"
export ENROOT_ALLOW_HTTP=yes ENROOT_CACHE_PATH="$work/cache"
"$program" import --output "$work/busybox.sqsh" "docker://$image"

step "What enroot and pyxis get"
unsquashfs -lls "$work/busybox.sqsh"
unsquashfs -s "$work/busybox.sqsh" | grep -E 'Compression|Block size|inodes'

if [ "$keep" = yes ]; then
    cat << EOF

The registry is still there. To play with it:

    export ENROOT_ALLOW_HTTP=yes ENROOT_CACHE_PATH=$work/cache
    $PWD/.venv/bin/enroot-slurm import -v --force -o $work/again.sqsh docker://$image
    $PWD/.venv/bin/enroot-slurm digest docker://$image
    $PWD/.venv/bin/enroot-slurm config

and to end it:

    kill $registry; rm -r $work
EOF
fi
