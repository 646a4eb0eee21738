.PHONY: test demo format install install-slurm build dist deb rpm docs check-packages
tree = build/tree

test:
	sh tests/run.sh
demo:
	sh examples/demo.sh
install-slurm:
	sh etc/install-slurm.sh
format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# What packages hold: the only step that needs a network, or a mirror of PyPI.
build: $(tree)
$(tree): $(shell find CHANGELOG.md LICENSE README.md docs enroot_slurm etc examples packaging setup.cfg -type f -not -name "*.pyc")
	sh packaging/build.sh $(tree)

# PREFIX=/usr/local SYSCONFDIR=/etc DESTDIR= PYTHON= PLUGIN=auto SLURM=/usr: see packaging/install.sh
install: $(tree)
	sh $(tree)/install.sh
dist: $(tree)
	sh packaging/dist.sh $(tree) dist
deb: $(tree)
	sh packaging/deb.sh $(tree) build/deb
rpm: $(tree)
	sh packaging/rpm.sh $(tree) build/rpm
docs:
	sh packaging/docs.sh build/site
check-packages:
	sh packaging/check.sh
