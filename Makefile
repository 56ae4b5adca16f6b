# Every target first builds .venv if it is missing or older than requirements.txt.
SHELL := /bin/sh
.DEFAULT_GOAL := help
PYTHON ?= python3
VENV := .venv
# Recipes name programs by this relative path, or run `python -m`, so that the name of the folder reaches neither the shell
# nor the first line of a script: it may have spaces, quotes and dollar signs, and be long.
BIN := $(VENV)/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
export PYTHONNOUSERSITE := 1

.PHONY: help env repro test test-slow test-services lint site bench requirements

help: ## show this list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

env: $(VENV)/.ready ## build .venv from requirements.txt

$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is $$($(PYTHON) --version); name one: make PYTHON=python3.12" >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	$(BIN)/python -m uv pip sync --quiet --compile-bytecode --python $(BIN)/python requirements.txt
	$(BIN)/python -m uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

repro: env ## fetch the sample data and run the whole pipeline; if that fails, say what the doctor finds
	@python -m dvc pull --quiet data.dvc || { echo "if no remote has the archive: get your own copy, then slsr data add FILE (docs/data.md)" >&2; exit 2; }
	python -m dvc repro || { code=$$?; python -m slsr doctor; exit $$code; }
	@python -m slsr results

test: env ## run unit, property and pipeline tests
	python -m pytest --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-slow: env ## run the tests that `make test` leaves out: they take minutes, or start servers on this machine
	python -m pytest -m "slow or remotes or browser" --timeout=1500 --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

test-services: env ## run only those of them that need SSH and S3 servers or a browser
	python -m pytest -m "remotes or browser" --timeout=1500 --numprocesses auto --maxprocesses 8 --dist loadfile --no-loadscope-reorder

lint: env ## check style and types
	python -m ruff check .
	python -m ruff format --check .
	python -m mypy

site: env ## build the documentation site in build/site; a warning is an error, nothing is downloaded
	NO_MKDOCS_2_WARNING=1 python -m mkdocs build --strict

bench: env ## measure speed and memory beside other tools (after make repro); prints tables
	@for script in $(filter-out benchmarks/gpu.py benchmarks/real_people.py,$(wildcard benchmarks/*.py)); do echo "== $$script"; python $$script || exit 1; done

requirements: ## compile requirements.txt again from pyproject.toml
	$(BIN)/python -m uv pip compile --quiet --universal --generate-hashes --python-version 3.11 --extra all --extra dev --upgrade \
	  --no-header --no-emit-index-url --no-emit-find-links pyproject.toml --output-file requirements.txt
