#!/bin/sh
# install-slurm.sh: install the program, its settings and all that Slurm runs on this machine; run it again to upgrade.
#
#   PREFIX=/opt/enroot-slurm    where the program gets an environment of its own (on each node, or shared)
#   PYTHON=                     an interpreter that has the package already; then nothing is put into PREFIX
#   SYSCONFDIR=/etc             settings: $SYSCONFDIR/enroot-slurm; Slurm's: $SYSCONFDIR/slurm
#   LIBEXECDIR=/usr/libexec/enroot-slurm        programs that Slurm runs
#   LIBDIR=/usr/lib/enroot-slurm                the SPANK plug-in
#   SLURM=/usr                  where Slurm's headers are (include/slurm/spank.h), which the plug-in is built for
#   PLUGIN=yes                  no: without the plug-in
#   DESTDIR=                    put before the directories of settings, hooks and programs, for packages and images of nodes
set -eu
cd "$(dirname "$0")/.."
prefix=${PREFIX:-/opt/enroot-slurm}
etc=${DESTDIR-}${SYSCONFDIR:-/etc}
libexec=${LIBEXECDIR:-/usr/libexec/enroot-slurm}
python=${PYTHON:-$prefix/bin/python3}
libdir=${LIBDIR:-/usr/lib/enroot-slurm}
slurm=${SLURM:-/usr}
plugin=${PLUGIN:-yes}

# fill FILE MODE TARGET: install FILE with its @WORDS@ replaced; beside its name first, for Slurm may use it just now.
fill() {
    sed -e "s|@PYTHON@|$python|" -e "s|@LIBEXECDIR@|$libexec|" -e "s|@RUN_PATH@|/run/enroot-slurm|" \
        -e "s|@PLUGIN@|$libdir/spank_enroot_slurm.so|" "$1" > "$3.new"
    chmod "$2" "$3.new"
    mv "$3.new" "$3"
}

if [ -z "${PYTHON-}" ]; then
    python3 -m venv "$prefix"
    "$python" -m pip install -q --disable-pip-version-check --upgrade .
    mkdir -p "${DESTDIR-}/usr/local/bin"
    ln -sf "$prefix/bin/enroot-slurm" "${DESTDIR-}/usr/local/bin/enroot-slurm"
fi
check='import enroot_slurm.slurm.hooks'
"$python" -I -c "$check"
if [ "$(id -u)" = 0 ] && ! setpriv --reuid=65534 --regid=65534 --clear-groups "$python" -I -c "$check" 2> /dev/null; then
    echo "Users can't run $python, so that no image would be imported: use a python3 and a PREFIX that all can read." >&2
    exit 1
fi

install -d "$etc/enroot-slurm" "$etc/slurm/prolog.d" "$etc/slurm/epilog.d" "$etc/slurm/plugstack.conf.d" \
    "$etc/tmpfiles.d" "${DESTDIR-}$libexec"
[ -e "$etc/enroot-slurm/config.yaml" ] || install -m 644 etc/config.yaml "$etc/enroot-slurm/config.yaml"
install -m 644 etc/tmpfiles.d/enroot-slurm.conf "$etc/tmpfiles.d/enroot-slurm.conf"
for hook in prolog.d/50-enroot-slurm epilog.d/50-enroot-slurm; do
    fill "etc/slurm/$hook" 755 "$etc/slurm/$hook"
done
for program in etc/slurm/libexec/*; do
    fill "$program" 755 "${DESTDIR-}$libexec/${program##*/}"
done
# What a site has of its own stays: docs/slurm.md says how to merge.
for file in burst_buffer.lua burst_buffer.conf job_submit.lua; do
    if [ ! -e "$etc/slurm/$file" ] || head -n 1 "$etc/slurm/$file" | grep -q '^-- Stage-in of images with enroot-slurm'; then
        fill "etc/slurm/$file" 644 "$etc/slurm/$file"
    fi
done
if [ "$plugin" = no ]; then
    :
elif command -v cc > /dev/null && command -v make > /dev/null && [ -e "$slurm/include/slurm/spank.h" ]; then
    make -s -C etc/slurm/spank install LIBDIR="${DESTDIR-}$libdir" SLURM="$slurm"
    fill etc/slurm/plugstack.conf.d/enroot-slurm.conf 644 "$etc/slurm/plugstack.conf.d/enroot-slurm.conf"
else
    echo "The SPANK plug-in is not built: that needs cc, make and $slurm/include/slurm/spank.h (libslurm-dev)." >&2
fi
[ -n "${DESTDIR-}" ] || [ "$(id -u)" != 0 ] || { install -d -m 755 /run/enroot-slurm && install -d -m 1733 /run/enroot-slurm/steps; }
echo "Installed for Slurm in $etc: next, see docs/slurm.md for the lines in slurm.conf." >&2
