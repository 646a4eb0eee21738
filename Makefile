.PHONY: test demo format
test:
	sh tests/run.sh
demo:
	sh examples/demo.sh
format:
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .
