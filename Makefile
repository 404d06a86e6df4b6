# SPDX-License-Identifier: Apache-2.0
# Each target does its own set-up. `make help` lists them.

PYTHON ?= python3
VENV := .venv
VENV2 := .venv-2.11
VENV_SCALE := .venv-scale
BIN := $(VENV)/bin
BIN2 := $(VENV2)/bin
# Two processes: the tests wait more than they compute.
PYTEST_ARGS ?= -n 2

MATRIX_ARGS ?=

.PHONY: help demo test test-all test-2 test-busy test-matrix test-browser pictures ui scale-out lint docs wheel release bench bench-brief constraints clean
.DEFAULT_GOAL := help

help: ## List the targets
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

demo: $(VENV)/.ready ## Run the main job for a person to watch: delete 250 of 1,000 vectors and wait
	$(BIN)/python scripts/demo.py

test: $(VENV)/.ready ## Run the tests on Airflow 3.3: every behaviour that a user meets
	$(BIN)/python -m pytest $(PYTEST_ARGS) -m "not long"

test-all: $(VENV)/.ready ## Run all tests on Airflow 3.3, the long ones and those of the tools included
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-2: $(VENV2)/.ready ## Run the tests of make test on Airflow 2.11
	$(BIN2)/python -m pytest $(PYTEST_ARGS) -m "not long"

test-busy: $(VENV)/.ready ## Run the tests of make test beside four busy processes: none depends on the time it takes
	$(BIN)/python scripts/busy.py $(BIN)/python -m pytest $(PYTEST_ARGS) -m "not long"

test-matrix: ## Run the tests on every supported Airflow, and on another Python: takes long
	$(PYTHON) scripts/matrix.py --pytest="$(PYTEST_ARGS)" $(MATRIX_ARGS)

test-browser: $(VENV)/.ready ## Use Airflow's UI in Chromium, which is installed if there is none
	$(BIN)/python scripts/chromium.py
	$(BIN)/python -m pytest tests/browser --browser

pictures: $(VENV)/.ready ## The same, and make the pictures of docs/images anew
	$(BIN)/python scripts/chromium.py
	$(BIN)/python -m pytest tests/browser --browser --pictures docs/images

ui: $(VENV)/.ready ## Start Airflow with its UI, the example DAGs and a local Vectorize
	$(BIN)/python scripts/ui.py

lint: $(VENV)/.ready ## Check style, types and files: what .pre-commit-config.yaml has
	$(BIN)/pre-commit run --all-files --show-diff-on-failure

docs: $(VENV)/.ready ## Build the documentation's site, into build/docs
	$(BIN)/python -m sphinx -c docs -EWnq --keep-going . build/docs
	@echo "Open build/docs/index.html"

wheel: $(VENV)/.ready ## Build wheel and sdist, and try the wheel in a clean environment
	$(BIN)/python scripts/release.py --rehearse

release: $(VENV)/.ready ## Build what is released: only from a clean checkout, with its entry in CHANGELOG.md
	$(BIN)/python scripts/release.py

bench: $(VENV)/.ready ## Run the benchmarks in full: most of an hour, on a machine that does nothing else
	$(BIN)/python benchmarks/run_all.py --results build/bench

bench-brief: $(VENV)/.ready ## Run the benchmarks briefly: that they work, not how fast anything is
	$(BIN)/python benchmarks/run_all.py --brief --results build/bench-brief

scale-out: $(VENV_SCALE)/.ready ## Delete 50,000 ids on Celery workers, one of which is killed (needs Redis, PostgreSQL)
	$(VENV_SCALE)/bin/python scripts/scale_out.py

constraints: ## Pin anew what is tested, from the newest releases that fit
	$(PYTHON) scripts/pin.py

clean: ## Remove everything that was made here
	rm -rf .venv* dist build .demo .ui .scale .pytest_cache .mypy_cache .ruff_cache .hypothesis

# Set up again when the dependencies change, and not otherwise.
$(VENV)/.ready: pyproject.toml scripts/environments.py constraints/airflow-3.3.txt
	$(PYTHON) scripts/set_up.py $(VENV) airflow-3.3
	@touch $@

$(VENV2)/.ready: pyproject.toml scripts/environments.py constraints/airflow-2.11.txt
	$(PYTHON) scripts/set_up.py $(VENV2) airflow-2.11
	@touch $@

$(VENV_SCALE)/.ready: pyproject.toml scripts/environments.py constraints/scale-out-3.3.txt
	$(PYTHON) scripts/set_up.py $(VENV_SCALE) scale-out-3.3
	@touch $@
