#!/bin/sh
# run.sh [PYTEST ARGUMENT...]: install what the tests need (Debian or Ubuntu), then lint, check types and test.
set -eu
cd "$(dirname "$0")/.."
sh etc/bootstrap.sh dev docker-registry skopeo umoci buildah podman busybox-static squashfs-tools squashfs-tools-ng squashfuse \
    apache2-utils pigz zstd openssl util-linux mount attr e2fsprogs fuse3 psmisc strace xfsprogs shellcheck \
    slurmctld slurmd slurm-client munge libslurm-dev gcc libc6-dev make \
    dpkg-dev debhelper fakeroot lintian mmdebstrap prometheus zsh fish rpm rpm2cpio cpio ansible-core
bin=$PWD/.venv/bin
"$bin/ruff" format --check --quiet .
"$bin/ruff" check --quiet .
"$bin/mypy"
shellcheck etc/*.sh examples/*.sh tests/*.sh packaging/*.sh packaging/configure packaging/enroot-slurm .ci/run
exec "$bin/python" -m pytest -n "${TEST_PROCESSES:-2}" --dist loadgroup "$@"
