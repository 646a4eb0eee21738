#!/bin/sh
# install.sh: install what lies beside it on this machine, or into a directory for a package; needs no network.
#
#   PREFIX=/usr/local       programs, manual pages, completion; what Slurm runs: $PREFIX/share/enroot-slurm
#   SYSCONFDIR=/etc         settings: $SYSCONFDIR/enroot-slurm; files that are there stay
#   DESTDIR=                put before all of them; then nothing is set up for this machine (PREFIX/lib/enroot-slurm/configure)
#   PYTHON=                 an interpreter; by default the first that is new enough
#   PLUGIN=auto             the SPANK plug-in: yes, no, or if there are a compiler and Slurm's headers
#   SLURM=/usr              where these are (include/slurm/spank.h)
set -eu
cd "$(dirname "$0")"
prefix=${PREFIX:-/usr/local}
destination=${DESTDIR-}
etc=$destination${SYSCONFDIR:-/etc}/enroot-slurm
lib=$prefix/lib/enroot-slurm
share=$destination$prefix/share
slurm=${SLURM:-/usr}
plugin=${PLUGIN:-auto}

# fill FILE MODE TARGET: install FILE with the words that name places; beside its name first, for it may be in use.
fill() {
    install -d "$(dirname "$3")"
    sed -e "s|@PYTHON@|$lib/bin/python3|" -e "s|@LIBEXECDIR@|$lib/libexec|" -e "s|@RUN_PATH@|/run/enroot-slurm|" \
        -e "s|@PLUGIN@|$lib/spank_enroot_slurm.so|" -e "s|/usr/local/bin/|$prefix/bin/|" "$1" > "$3.new"
    chmod "$2" "$3.new"
    mv "$3.new" "$3"
}
# copy FILE TARGET, copy DIRECTORY TARGET: with the modes that they have here.
copy() {
    install -d "$(dirname "$2")"
    rm -rf "$2.new"
    cp -R "$1" "$2.new"
    rm -rf "$2"
    mv "$2.new" "$2"
}

copy packages "$destination$lib/packages"
find "$destination$lib/packages" -name __pycache__ -prune -exec rm -rf {} + # the archive was used where it lies
copy configure "$destination$lib/configure"
fill program 755 "$destination$prefix/bin/enroot-slurm"
fill names 755 "$destination$lib/libexec/names"
for file in etc/slurm/libexec/*; do fill "$file" 755 "$destination$lib/libexec/${file##*/}"; done
for file in prolog.d/50-enroot-slurm epilog.d/50-enroot-slurm; do
    fill "etc/slurm/$file" 755 "$share/enroot-slurm/$file"
done
for file in burst_buffer.lua burst_buffer.conf job_submit.lua; do
    fill "etc/slurm/$file" 644 "$share/enroot-slurm/$file"
done
for file in etc/systemd/*; do fill "$file" 644 "$destination$prefix/lib/systemd/system/${file##*/}"; done
for kind in tmpfiles.d sysusers.d; do fill "etc/$kind/enroot-slurm.conf" 644 "$destination$prefix/lib/$kind/enroot-slurm.conf"; done
for file in config.yaml images.yaml; do
    [ -e "$etc/$file" ] || fill "etc/$file" 644 "$etc/$file"
done
for kind in prometheus nhc ansible spack reframe; do
    [ ! -d "etc/$kind" ] || copy "etc/$kind" "$share/enroot-slurm/$kind"
done
copy docs "$share/doc/enroot-slurm/docs"
copy examples "$share/doc/enroot-slurm/examples"
for file in README.md CHANGELOG.md; do fill "$file" 644 "$share/doc/enroot-slurm/$file"; done
for file in man/*; do fill "$file" 644 "$share/man/man${file##*.}/${file##*/}"; done
fill completion/bash 644 "$share/bash-completion/completions/enroot-slurm"
fill completion/zsh 644 "$share/zsh/site-functions/_enroot-slurm"
fill completion/fish 644 "$share/fish/vendor_completions.d/enroot-slurm.fish"

if [ "$plugin" = auto ]; then
    plugin=no
    ! command -v cc > /dev/null || ! command -v make > /dev/null || [ ! -e "$slurm/include/slurm/spank.h" ] || plugin=yes
    [ "$plugin" = yes ] || echo "The SPANK plug-in is not built: that needs cc, make and $slurm/include/slurm/spank.h." >&2
fi
if [ "$plugin" = yes ]; then
    make -s -C etc/slurm/spank install LIBDIR="$destination$lib" SLURM="$slurm"
    fill etc/slurm/plugstack.conf.d/enroot-slurm.conf 644 "$share/enroot-slurm/plugstack.conf.d/enroot-slurm.conf"
fi
if [ -z "$destination" ]; then
    PYTHON=${PYTHON-} "$lib/configure"
    [ "$(id -u)" != 0 ] || install -d -m 755 /run/enroot-slurm
    echo "Installed: enroot-slurm doctor says what is missing, $prefix/share/doc/enroot-slurm/docs/slurm.md what Slurm needs." >&2
fi
