#!/bin/sh
# docs.sh DIRECTORY: make the site of the documentation, from docs/, README.md's sibling files and the manual pages.
set -eu
cd "$(dirname "$0")/.."
.venv/bin/python -c 'import material, pypandoc' 2> /dev/null || sh etc/bootstrap.sh package,docs
source=build/site-source
rm -rf "$source"
mkdir -p "$source/manuals"
cp -R docs/. "$source/"
cp CHANGELOG.md "$source/changelog.md"
.venv/bin/python packaging/site.py "$source"
NO_MKDOCS_2_WARNING=1 .venv/bin/mkdocs build --strict --quiet --site-dir "$(readlink -f "$(dirname "$1")")/$(basename "$1")"
