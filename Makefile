.PHONY: test demo format install-slurm
test:
	sh tests/run.sh
demo:
	sh examples/demo.sh
install-slurm:
	sh etc/install-slurm.sh
format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
