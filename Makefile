# SPDX-License-Identifier: Apache-2.0
# `make help` lists the targets. Each target sets up what it needs.

PYTHON ?= python3
VENV := .venv
VENV2 := .venv-2.11
VENV_SCALE := .venv-scale
VENV_CLIENTS := .venv-clients
BIN := $(VENV)/bin
BIN2 := $(VENV2)/bin
# Four processes, also on two cores: the tests wait more than they compute.
PYTEST_ARGS ?= -n 4

MATRIX_ARGS ?=

.PHONY: help demo test test-all test-2 test-busy test-matrix test-browser pictures ui scale-out lint docs wheel release bench bench-brief constraints clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.ready ## Show the main job in Airflow: delete 250 of 1,000 vectors and wait
	$(BIN)/python scripts/demo.py

test: $(VENV)/.ready ## Run the tests on Airflow 3.3, without the long ones
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not long"

test-all: $(VENV)/.ready $(VENV_CLIENTS)/.ready ## Run all tests on Airflow 3.3, including long tests and tests of the tools
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-2: $(VENV2)/.ready ## Run the tests on Airflow 2.11, without the long ones
	$(BIN2)/python -m pytest $(PYTEST_ARGS) -m "not long"

test-busy: $(VENV)/.ready ## Run the tests beside four busy processes, to find tests that depend on time
	$(BIN)/python scripts/busy.py $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not long"

test-matrix: $(VENV_CLIENTS)/.ready ## Run the tests on every supported Airflow and on another Python (slow)
	$(PYTHON) scripts/matrix.py --pytest="$(PYTEST_ARGS)" $(MATRIX_ARGS)

test-browser: $(VENV)/.ready ## Test Airflow's UI in Chromium; install Chromium if it is missing
	$(BIN)/python scripts/chromium.py
	$(BIN)/python -m pytest tests/browser --browser

pictures: $(VENV)/.ready ## Test Airflow's UI in Chromium and take the pictures in docs/images
	$(BIN)/python scripts/chromium.py
	$(BIN)/python -m pytest tests/browser --browser --pictures docs/images

ui: $(VENV)/.ready ## Start Airflow with its UI, the example DAGs and a local Vectorize
	$(BIN)/python scripts/ui.py

lint: $(VENV)/.ready ## Run the checks of .pre-commit-config.yaml: style, types, files
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

docs: $(VENV)/.ready ## Build the documentation site in build/docs
	$(BIN)/python -m sphinx -c docs -EWnq --keep-going . build/docs
	@echo "Open build/docs/index.html"

wheel: $(VENV)/.ready ## Build wheel and sdist, and test the wheel in a clean environment
	$(BIN)/python scripts/release.py --rehearse

release: $(VENV)/.ready ## Build a release from a clean checkout with an entry in CHANGELOG.md
	$(BIN)/python scripts/release.py

bench: $(VENV)/.ready ## Run all benchmarks: most of an hour, on an otherwise idle machine
	$(BIN)/python benchmarks/run_all.py --results build/bench

bench-brief: $(VENV)/.ready ## Run the benchmarks briefly, to check that they work
	$(BIN)/python benchmarks/run_all.py --brief --results build/bench-brief

scale-out: $(VENV_SCALE)/.ready ## Delete 50,000 ids on Celery workers and kill one (needs Redis, PostgreSQL)
	$(VENV_SCALE)/bin/python scripts/scale_out.py

constraints: ## Pin the newest compatible releases in constraints/
	$(PYTHON) scripts/pin.py

clean: ## Remove all environments and build files
	rm -rf .venv* dist build .demo .ui .scale .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Set up again only when the dependencies change.
$(VENV)/.ready: pyproject.toml scripts/environments.py constraints/airflow-3.3.txt
	$(PYTHON) scripts/set_up.py $(VENV) airflow-3.3
	@touch $@

$(VENV2)/.ready: pyproject.toml scripts/environments.py constraints/airflow-2.11.txt
	$(PYTHON) scripts/set_up.py $(VENV2) airflow-2.11
	@touch $@

$(VENV_CLIENTS)/.ready: scripts/other_clients.py constraints/other-clients.txt
	$(PYTHON) scripts/other_clients.py
	@touch $@

$(VENV_SCALE)/.ready: pyproject.toml scripts/environments.py constraints/scale-out-3.3.txt
	$(PYTHON) scripts/set_up.py $(VENV_SCALE) scale-out-3.3
	@touch $@
