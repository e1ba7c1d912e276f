# `make demo` runs the main job, `make test` every check; both set up .venv first.
# Set-up is skipped until pyproject.toml or constraints.txt changes.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test venv lint types layers tests format clean

help:
	@echo "make demo    set up, then meta-train on glyphs and write runs/demo/report.html (about 5 minutes)"
	@echo "make test    set up, then lint, types, import layers, tests, README and docs"
	@echo "make venv    set up only: $(VENV) with the versions of constraints.txt"
	@echo "make format  let ruff rewrite imports and layout"
	@echo "make clean   remove $(VENV) and caches"
	@echo "PYTHON=python3.12 make ... picks the interpreter that $(VENV) is made with"

demo: venv
	$(BIN)/innerloop demo

test: venv lint types layers tests

venv: $(READY)

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "innerloop needs Python 3.11 or newer, but $(PYTHON) is %d.%d: make PYTHON=/path/to/python3.11 ..." % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@touch $@

lint: venv
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: venv
	$(BIN)/mypy

layers: venv
	$(BIN)/python -m pytest -q tests/test_layers.py tests/test_house.py

# One thread per worker: small tensors gain nothing from more, and the workers share the cores.
tests: venv
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n auto --maxprocesses=8

format: venv
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache src/innerloop.egg-info
