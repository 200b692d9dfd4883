# The whole set-up on a fresh machine is `make demo` or `make test`: each makes .venv by itself. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow check format bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test]'
	touch $@

demo: $(VENV)/.installed  ## segment a real EM stack into ./demo-out
	$(BIN)/densecell-batch demo -o demo-out

test: $(VENV)/.installed  ## all tests that take seconds; those of ImageJ where it is installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.installed  ## the tests that take minutes or gigabytes
	$(BIN)/python -m pytest -m slow

check: $(VENV)/.installed  ## lint, format, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed  ## format, and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed  ## print the tables of benchmarks/
	$(BIN)/python benchmarks/inference.py

clean:  ## remove what the targets made
	rm -rf $(VENV) demo-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
