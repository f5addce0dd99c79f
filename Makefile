# Every target builds .venv when it is missing or older than what it is made from.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
export PYTHONUNBUFFERED := 1

.PHONY: quickstart test test-fast faults ui lint format bench clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ — /'

quickstart: $(STAMP)  ## synthetic faces → training → evaluation, about ten minutes on two cores
	$(BIN)/python -m ray_jobs.pipeline --config configs/quickstart.yaml

# Two processes, each with whole files: tests that start clusters spend half of their time waiting.
test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-fast: $(STAMP)  ## without the tests that take more than a minute
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

faults: $(STAMP)  ## the long injections of faults and the cluster over ssh; writes docs/reliability.md's table
	FACELIB_FAULTS=1 $(BIN)/python -m pytest -v -m faults

ui: $(STAMP)  ## MLflow on http://127.0.0.1:5000
	@mkdir -p runs
	$(BIN)/mlflow ui --host 127.0.0.1 --port $${PORT:-5000} --backend-store-uri sqlite:///$(CURDIR)/runs/mlflow.db

lint: $(STAMP)  ## ruff, mypy, audit of the installed packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python .ci/audit.py

format: $(STAMP)  ## let ruff write
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## every benchmark at its short size
	$(BIN)/python -m benchmarks

clean:  ## remove the environment
	rm -rf $(VENV)

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,tensorflow]'
	touch $@
