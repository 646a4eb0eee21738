#!/bin/sh
# install-slurm.sh: install the program, its settings and all that Slurm runs on this machine; run it again to upgrade.
#
#   PREFIX=/opt/enroot-slurm    where the program gets an environment of its own (on each node, or shared)
#   PYTHON=                     an interpreter that has the package already; then nothing is put into PREFIX
#   BASE=                       the interpreter for the environment in PREFIX: the first python3 on PATH, /usr/bin/python3
#                               or a newer python3.N that all users can run
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

# for_users COMMAND...: run it as a user without any rights, through a shell, as Slurm's programs are run.
for_users() {
    if [ "$(id -u)" = 0 ]; then
        (cd / && setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all sh -c '"$@"' sh "$@")
    else
        "$@"
    fi
}

# usable PYTHON: whether all users can run this interpreter, and it is new enough.
usable() {
    for_users "$1" -I -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2> /dev/null
}

if [ -z "${PYTHON-}" ]; then
    # What an earlier run left is made anew if users can't run it: its interpreter may be below /root.
    [ ! -e "$prefix/bin/python3" ] || usable "$prefix/bin/python3" || clear=--clear
    base='' refused=''
    for each in ${BASE:-"$(command -v python3 || :)" /usr/bin/python3 /usr/bin/python3.1[1-9]}; do
        [ -x "$each" ] || continue
        each=$(readlink -f "$each")
        if usable "$each"; then
            base=$each
            break
        fi
        refused="$refused $each"
    done
    if [ -z "$base" ]; then
        echo "No Python 3.11 or later was found that all users can run;${refused:+ not these:$refused.}" \
            "Install one, or name it: BASE=/usr/bin/python3.11." >&2
        exit 1
    fi
    [ -z "$refused" ] || echo "Users can't run$refused: $base is taken." >&2
    "$base" -m venv ${clear:+"$clear"} "$prefix"
    chmod 755 "$prefix"
    (umask 022 && "$python" -m pip install -q --disable-pip-version-check --upgrade .)
    mkdir -p "${DESTDIR-}/usr/local/bin"
    ln -sf "$prefix/bin/enroot-slurm" "${DESTDIR-}/usr/local/bin/enroot-slurm"
fi
check='import enroot_slurm.slurm.hooks, enroot_slurm.slurm.step, enroot_slurm.slurm.pyxis, enroot_slurm.importing.to_file'
"$python" -I -c "$check"
if ! for_users "$python" -I -c "$check" 2> /dev/null; then
    echo "Users can't run $python ($(readlink -f "$python")), so that no image would be imported:" \
        "use a Python and a PREFIX that all can read." >&2
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
ours='^-- Stage-in of images with enroot-slurm\|^-- A batch script.s line "#ENROOT image=REF" becomes the job.s comment'
for file in burst_buffer.lua burst_buffer.conf job_submit.lua; do
    if [ ! -e "$etc/slurm/$file" ] || head -n 1 "$etc/slurm/$file" | grep -q "$ours"; then
        # The one line of it that sites are told to change.
        field=$(sed -n 's/^local ENROOT_SLURM_FIELD = "\([a-z]*\)".*/\1/p' "$etc/slurm/$file" 2> /dev/null || :)
        fill "etc/slurm/$file" 644 "$etc/slurm/$file"
        [ -z "$field" ] || sed -i "s/^local ENROOT_SLURM_FIELD = .*/local ENROOT_SLURM_FIELD = \"$field\"/" "$etc/slurm/$file"
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
