#!/bin/sh
# minimum.sh [PYTEST ARGUMENT...]: ask a list of vulnerabilities for the oldest versions of other packages that setup.cfg
# allows, and test with these. Where the list can't be reached it says so, and tests all the same.
set -eu
cd "$(dirname "$0")/.."
python=${PYTHON:-$PWD/.venv/bin/python}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

"$python" - > "$work/minimum.txt" << 'EOF'
import re
from configparser import ConfigParser

setup = ConfigParser()
setup.read("setup.cfg")
extras = setup["options.extras_require"]
lines = "\n".join([setup["options"]["install_requires"], extras["socks"], extras["signatures"]]).splitlines()
for name, version, marker in re.findall(r"^([\w.-]+) *>= *([\d.]+) *(;.*)?$", "\n".join(lines), re.MULTILINE):
    print(f"{name}=={version}{marker}")
EOF

# CVE-2026-69247 is about decrypting PKCS#7, which nothing here does.
"$python" -m venv "$work/audit"
"$work/audit/bin/pip" install -q --disable-pip-version-check pip-audit
if "$work/audit/bin/pip-audit" --strict --no-deps --disable-pip --ignore-vuln CVE-2026-69247 --progress-spinner off -r "$work/minimum.txt" \
    > "$work/said" 2>&1; then
    echo "no vulnerability is known of: $(paste -sd ' ' "$work/minimum.txt")"
elif grep -Eq '^Found [0-9]+ known vulnerabilit' "$work/said"; then
    cat "$work/said"
    exit 1
else
    echo "NOT ASKED: the list of vulnerabilities can't be reached: $(tail -n 1 "$work/said")" >&2
fi

"$python" -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check -c "$work/minimum.txt" ".[test]"
"$work/venv/bin/python" -m pytest -n "${TEST_PROCESSES:-2}" --dist loadgroup "$@"
