#!/bin/sh
# build.sh TREE: collect in TREE all that packages hold, with the manual pages and the completion.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -c 'import enroot_slurm, pypandoc, shtab' 2> /dev/null || sh etc/bootstrap.sh package
rm -rf "$1.new"
.venv/bin/python packaging/collect.py "$1.new"
.venv/bin/python packaging/manuals.py "$1.new/man"
.venv/bin/python packaging/completion.py "$1.new/completion"
rm -rf "$1"
mv "$1.new" "$1"
touch "$1"
