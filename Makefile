# The whole set-up on a fresh machine is `make demo` or `make test`: each makes .venv by itself. Needs Python 3.11 or newer.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo test test-slow test-lowest check format bench clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --upgrade pip
	$(BIN)/pip install --quiet --editable '.[test,fiji]'
	touch $@

demo: $(VENV)/.installed  ## segment a real EM stack into ./demo-out
	$(BIN)/densecell-batch demo -o demo-out

test: $(VENV)/.installed  ## all tests that take seconds; those of ImageJ where it is installed
	$(BIN)/python -m pytest -m "not slow"

test-slow: $(VENV)/.installed  ## the tests that take minutes or gigabytes
	$(BIN)/python -m pytest -m slow

test-lowest:  ## the quick tests with the oldest dependencies that pyproject.toml allows, in an environment of their own
	$(PYTHON) -m venv .venv-lowest
	.venv-lowest/bin/pip install --quiet --constraint tests/lowest-versions.txt --editable '.[test]'
	.venv-lowest/bin/python -m pytest -q -m "not slow and not fiji"

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
	rm -rf $(VENV) .venv-lowest demo-out build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
