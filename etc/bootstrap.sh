#!/bin/sh
# bootstrap.sh PROFILE PACKAGE...: make .venv with this project and its extra PROFILE ("" for none), and install the
# Debian packages that are missing. Quiet unless something is wrong. Needs root, or sudo, only where packages are missing.
set -eu
cd "$(dirname "$0")/.."
profile=$1
shift

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

missing=
for package in "$@"; do
    dpkg-query -W -f '${db:Status-Status}' "$package" 2> /dev/null | grep -q '^installed$' || missing="$missing $package"
done

# The oldest Python that does: 3.11 is Debian 12's; Ubuntu 22.04 has it beside its own 3.10.
find_python() {
    for python in python3 python3.11 python3.12 python3.13 python3.14; do
        "$python" -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 11))' 2> /dev/null && return
    done
    return 1
}
find_python || missing="$missing python3 python3-venv"

if [ -n "$missing" ]; then
    command -v apt-get > /dev/null || {
        echo "Please install these packages, or what they are called here:$missing" >&2
        exit 1
    }
    echo "Installing:$missing"
    # The registry is started by us, on a port of our own: its package must not start a service.
    guard=/usr/sbin/policy-rc.d
    if [ -e "$guard" ]; then guard=; else printf '#!/bin/sh\nexit 101\n' | as_root tee "$guard" > /dev/null && as_root chmod 755 "$guard"; fi
    trap '[ -z "$guard" ] || as_root rm -f "$guard"' EXIT
    log=$(mktemp)
    # shellcheck disable=SC2086  # a list of words
    {
        as_root apt-get update -q &&
            as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends $missing
    } > "$log" 2>&1 || {
        tail -n 20 "$log" >&2
        exit 1
    }
    rm -f "$log"
fi

find_python || {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends python3.11-venv > /dev/null 2>&1 && find_python
} || {
    echo "Python 3.11 or later is needed." >&2
    exit 1
}
[ -x .venv/bin/python ] || "$python" -m venv .venv
.venv/bin/python -m pip install -q --disable-pip-version-check -e ".${profile:+[$profile]}"
